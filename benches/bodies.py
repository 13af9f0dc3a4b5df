#!/usr/bin/env python3
"""Large bodies beside small requests: 50 clients at 20 MB/s each receive, then send, 1 GiB in all (`bodies.c`, `rate.c`).

    python3 benches/bodies.py [--rounds N] [--prefork FILE] [--down]

One worker. Small requests come at a steady pace of 200 a second, first without the bodies, then beside them; the ratio is that of each
round. The memory is the largest that the worker has had since its start (VmHWM). On a machine with few CPUs the clients of the bodies
compete with the worker and with the small requests' client: the ratio is then the machine's, too.
"""

import argparse
import json
import subprocess
import time
from functools import partial
from pathlib import Path

from common import median, show, table
from servers import HERE, ROOT, Bench, compile_c, running

CLIENTS, RATE, SIZE = 50, 20, 21  # MB/s and MiB of each
PACE, SECONDS = 200, 3


def command(bench, defines, workers, port):
    module = compile_c(HERE / "bodies.c", bench.out / "bodies.so", "-shared", "-fPIC", f"-I{ROOT}/include", *defines)
    return [bench.prefork, "--workers", workers, "--listen", f"127.0.0.1:{port}", module]


def small(bench, port):
    load = compile_c(HERE / "load.c", bench.out / "load", "-lm")
    words = [load, "-r", PACE, "-d", SECONDS, port]
    return subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE)


def result(process):
    return json.loads(process.communicate(timeout=60)[0])


def largest(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def one(bench, server, direction):
    """p99 of small requests without and with the bodies, the seconds of the bodies, and the worker's memory in MB."""
    port = server.address[1]
    without = result(small(bench, port))
    rate = compile_c(HERE / "rate.c", bench.out / "rate")
    requests = small(bench, port)
    seconds, began = [], time.monotonic()
    while time.monotonic() - began < SECONDS - 0.5:
        words = [rate, "-c", CLIENTS, "-r", RATE, "-n", SIZE, direction, port]
        moved = json.loads(subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, check=True).stdout)
        assert moved["failed"] == 0, moved
        seconds.append(moved["seconds"])
    beside = result(requests)
    for counted in (without, beside):
        assert not counted["failed"], counted
    return without["p99_us"] / 1000, beside["p99_us"] / 1000, median(seconds), largest(server.workers[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefork", default=ROOT / "target/release/prefork")
    parser.add_argument("--down", action="store_true", help="only responses")
    options = parser.parse_args()
    bench = Bench(ROOT / "target/bench", options.prefork)
    rows = []
    for direction in ["down"] if options.down else ["down", "up"]:
        figures = []
        for _ in range(options.rounds):
            with running(bench, "bodies", 1, command=partial(command, bench, [] if options.down else ["-DUPLOADS"])) as server:
                figures.append(one(bench, server, direction))
        ratios = [beside / without for without, beside, _, _ in figures]
        of = lambda i, form: show([figure[i] for figure in figures], form)  # noqa: E731
        rows.append([direction, of(2, "{:.2f}"), of(3, "{:.1f}"), of(0, "{:.2f}"), of(1, "{:.2f}"), show(ratios, "{:.2f}×")])
    print("\n".join(table(["direction", "seconds for 1 GiB", "worker's memory, MB (goal < 64)", "p99 of small requests alone, ms",
                           "beside the bodies, ms", "ratio (goal ≤ 1.2)"], rows)))


if __name__ == "__main__":
    main()
