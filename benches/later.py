#!/usr/bin/env python3
"""Answers that a pool of threads gives later, beside answers at once, for a handler of the same work (`later.c`).

    python3 benches/later.py [--rounds N] [--seconds N] [--prefork FILE]

One worker each; the pool has one thread, so that both do the work on one CPU at a time. They take turns, and each round begins with the
other one. The rate is that of `wrk -t2 -c64` on kept connections; the ratio is that of each round.
"""

import argparse
from functools import partial

from common import show, table
from loads import wrk
from servers import HERE, ROOT, Bench, compile_c, running

MICROS = [20, 100, 1000]
GOAL = 0.8


def command(bench, name, defines, workers, port):
    module = compile_c(HERE / "later.c", bench.out / f"{name}.so", "-shared", "-fPIC", "-pthread", f"-I{ROOT}/include", *defines)
    return [bench.prefork, "--workers", workers, "--listen", f"127.0.0.1:{port}", module]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--prefork", default=ROOT / "target/release/prefork")
    options = parser.parse_args()
    bench = Bench(ROOT / "target/bench", options.prefork)
    rows = []
    of = lambda name, *defines: partial(command, bench, name, defines)  # noqa: E731
    with running(bench, "at-once", 1, command=of("at-once")) as at_once, running(bench, "pool", 1, command=of("pool", "-DPOOL=1")) as pool:
        for micros in MICROS:
            pairs = []
            for turn in range(options.rounds):
                rates = {}
                for server in [at_once, pool] if turn % 2 == 0 else [pool, at_once]:
                    counted = wrk(f"{server.url}{micros}", options.seconds, "kept")
                    assert not sum(counted["errors"].values()), counted
                    rates[server] = counted["requests"] / counted["duration_us"] * 1e6
                pairs.append([rates[at_once], rates[pool]])
            ratios = [later / now for now, later in pairs]
            rows.append([f"{micros} µs", show([now for now, _ in pairs], "{:,.0f}"), show([later for _, later in pairs], "{:,.0f}"),
                         show(ratios, "{:.2f}×")])
    print("\n".join(table(["work", "at once, requests/s", "by a pool, requests/s", f"ratio (goal ≥ {GOAL})"], rows)))


if __name__ == "__main__":
    main()
