#!/usr/bin/env python3
"""One message to 10,000 WebSocket connections over 4 workers: prefork's topics, a bare C server, Node's ws under cluster.

    python3 benches/broadcast.py [--rounds 3] [--connections 10000] [--messages 30]

It needs `cargo build --release`, and the Debian packages nodejs and node-ws."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import goal_table, median, missed, progress, rotated, show, table, times
from servers import HERE, ROOT, compile_c, tool

TICK = os.sysconf("SC_CLK_TCK")
WORKERS = 4


def commands(out, port):
    include = f"-I{ROOT}/include"
    module = compile_c(HERE / "broadcast_topic.c", out / "broadcast_topic.so", "-shared", "-fPIC", include)
    bare = compile_c(HERE / "broadcast_bare.c", out / "broadcast_bare")
    prefork = ROOT / "target/release/prefork"
    return {
        "prefork": [prefork, "--workers", WORKERS, "--listen", f"127.0.0.1:{port}", module],
        "bare": [bare, WORKERS, port],
        "node": [tool("node", "nodejs"), HERE / "broadcast.js", WORKERS, port],
    }


def group_cpu(group):
    """CPU seconds of all processes of a group, and their number."""
    ticks = count = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
            count += 1
    return ticks / TICK, count


def measure(command, client, connections, messages):
    env = {**os.environ, "NODE_PATH": "/usr/share/nodejs"}
    server = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True, process_group=0, env=env)
    try:
        line = ""
        while "listening on" not in line:
            line = server.stdout.readline()
            if not line:
                raise RuntimeError("no server")
        port = re.search(r":(\d+)\s*$", line).group(1)
        words = [client, "-n", str(connections), "-r", str(messages), port]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
            if load.stdout.readline() != "open\n":
                raise RuntimeError("the server does not hold so many connections")
            time.sleep(1)
            before, _ = group_cpu(server.pid)
            load.stdin.write("\n")
            load.stdin.flush()
            arrived, due, p50, p99, most = map(int, load.stdout.readline().split())
            after, _ = group_cpu(server.pid)
        us = (after - before) * 1e6 / max(arrived, 1)
        return {"arrived": arrived, "due": due, "p50_ms": p50 / 1e3, "p99_ms": p99 / 1e3, "most_ms": most / 1e3, "cpu_us": us}
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
        server.stdout.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=30)
    args = parser.parse_args()
    names, results = ["prefork", "bare", "node"], []
    with tempfile.TemporaryDirectory() as out:
        client = compile_c(HERE / "broadcast.c", Path(out) / "broadcast")
        servers = commands(Path(out), 0)
        for turn in range(args.rounds):
            results.append({})
            for name in rotated(names, turn):
                results[-1][name] = measure(servers[name], client, args.connections, args.messages)
                progress(f"round {turn + 1}: {name}: {results[-1][name]}")
    of = lambda name, what: [one[name][what] for one in results]  # noqa: E731
    ratio = lambda name: [one["prefork"]["cpu_us"] / one[name]["cpu_us"] for one in results]  # noqa: E731
    rows = [[name, show(of(name, "arrived"), "{:,.0f}"), show(of(name, "p50_ms")), show(of(name, "p99_ms")),
             show(of(name, "most_ms")), show(of(name, "cpu_us"), "{:.2f}"), times(ratio(name))] for name in names]
    head = ["100 bytes to each connection", "arrived", "median ms", "p99 ms", "last ms", "CPU µs per delivery", "prefork to it"]
    lost = sum(one["prefork"]["due"] - one["prefork"]["arrived"] for one in results)
    goals = [("messages lost", lost, "{:.0f}", "≤", 0), ("p99 of a delivery, ms", median(of("prefork", "p99_ms")), "{:.1f}", "<", 100),
             ("CPU per delivery, to a bare C server", median(ratio("bare")), "{:.2f}×", "≤", 1.3),
             ("CPU per delivery, to Node's ws", median(ratio("node")), "{:.2f}×", "≤", 0.3)]
    print("\n".join([f"### One message to {args.connections:,} WebSocket connections, {WORKERS} workers", "", *table(head, rows), "",
                     *goal_table(goals)]))
    return 1 if missed(goals) else 0


if __name__ == "__main__":
    sys.exit(main())
