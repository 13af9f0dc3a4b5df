#!/usr/bin/env python3
"""Compares prefork with a bare C server of the same shape, nginx and Node's cluster, and draws the result.

    python3 benches/run.py                 all of it, in about four minutes
    python3 benches/run.py --quick         fewer and shorter rounds, in under a minute
    python3 benches/run.py --syscalls      system calls per connection, by role
    python3 benches/run.py --instructions  user-space instructions per request

README.md explains the figures. Needs only the standard library.
"""

import argparse
import json
import os
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time

import chart
import counts
from servers import (BUILT, DEFAULT, COMMANDS, HERE, ROOT, Bench, Missing, machine_busy_seconds, memory, request, running,
                     tool)

CLIENTS = 64
WORKERS = 2
LOADS = {"close": "New connections (`Connection: close`)", "keep": "Keep-alive"}
IDLE = 10_000
MB = 1_000_000
QUIET = 0.05  # share of the machine that other processes may use without spoiling a measurement


# ---- measuring ----


def wrk(url, seconds, load):
    """The counts of one run of wrk."""
    header = ["-H", "Connection: close"] if load == "close" else []
    command = [tool("wrk", "wrk"), "-t2", f"-c{CLIENTS}", f"-d{seconds}s", "-s", HERE / "report.lua", *header, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20)
    if done.returncode != 0:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_load(server, seconds, load):
    """A measurement after a second of warming up, repeated up to twice if other processes disturb it; the least disturbed counts."""
    wrk(server.url, 1, load)
    tries = []
    for _ in range(3):
        tries.append(measure_once(server, seconds, load))
        if tries[-1]["others"] < QUIET:
            break
    return min(tries, key=lambda one: one["others"])


def measure_once(server, seconds, load):
    """Rate, latency and CPU time of a server under one load."""
    own_before, busy_before, clients_before = server.cpu(), machine_busy_seconds(), reaped_cpu()
    began = time.monotonic()
    counted = wrk(server.url, seconds, load)
    lasted = time.monotonic() - began
    master, workers = (after - before for after, before in zip(server.cpu(), own_before))
    clients = reaped_cpu() - clients_before
    others = machine_busy_seconds() - busy_before - master - workers - clients
    requests = counted["requests"]
    return {
        "rate": requests / counted["duration_us"] * 1e6,
        "p99_ms": counted["p99_us"] / 1e3,
        "cpu_us": (master + workers) / requests * 1e6,
        "master_us": master / requests * 1e6,
        "workers_us": workers / requests * 1e6,
        "errors": sum(counted["errors"].values()),
        "others": max(0.0, others / (lasted * os.cpu_count())),
    }


def reaped_cpu():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_round(bench, name, seconds):
    """A newly started server under each load; then its memory."""
    with running(bench, name, WORKERS) as server:
        result = {load: measure_load(server, seconds, load) for load in LOADS}
        result["master_rss"] = memory(server.master)["rss"]
        result["master_private"] = memory(server.master)["private"]
        result["worker_private"] = max(memory(pid)["private"] for pid in server.workers)
    return result


def measure_start(bench, name, times):
    """Milliseconds from the start of a server with 8 workers until it says that all are ready, and until a response."""
    runs = []
    for _ in range(times):
        with running(bench, name, workers=8) as server:
            runs.append({"ready_ms": server.ready_ms, "answered_ms": server.answered_ms})
    return runs


def measure_idle(bench, name, connections):
    """Bytes of user memory per idle keep-alive connection, of many in one worker."""
    with running(bench, name, workers=1) as server:
        pids = [server.master, *server.workers]
        wrk(server.url, 1, "keep")  # the first hundred connections allocate more
        before = [memory(pid)["anonymous"] for pid in pids]
        clients = open_connections(server.address, connections)
        try:
            after = [memory(pid)["anonymous"] for pid in pids]
            for client in clients[::100]:
                request(client)  # fails if the server has closed it
        finally:
            for client in clients:
                client.close()
    return {"connections": connections, "master_bytes": (after[0] - before[0]) / connections,
            "worker_bytes": (after[1] - before[1]) / connections}


def open_connections(address, connections):
    """Connections that have each had one response. Each loopback address has ports for 5,000 of them."""
    clients = []
    for i in range(connections):
        client = socket.socket()
        client.settimeout(5)
        client.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        client.bind((f"127.0.0.{2 + i // 5000}", 0))
        client.connect(address)
        request(client)
        clients.append(client)
    return clients


# ---- the whole run ----


def run(bench, names, options):
    """All measurements, interleaved: each round measures every server and begins with another one."""
    rounds = []
    for i in range(options.rounds):
        turn = i % len(names)
        results = {}
        for name in names[turn:] + names[:turn]:
            progress(f"round {i + 1} of {options.rounds}: {name}")
            results[name] = measure_round(bench, name, options.seconds)
        rounds.append(results)
    start, idle = {}, {}
    for name in names:
        progress(f"start: {name}")
        start[name] = measure_start(bench, name, options.starts)
    for name in [name for name in names if name != "node"]:
        progress(f"idle connections: {name}")
        idle[name] = measure_idle(bench, name, options.idle)
    return {"machine": machine(), "servers": names, "rounds": rounds, "start": start, "idle": idle}


def progress(text):
    print(text, file=sys.stderr, flush=True)


def machine():
    model = "unknown"
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]}


# ---- the results ----


def figures(results, name, load, key):
    return [one[name][load][key] for one in results["rounds"]]


def ratios(results, name, peer, load, key):
    """The ratios within each round, in which both servers had similar conditions."""
    if name not in results["servers"] or peer not in results["servers"]:
        return []
    pairs = zip(figures(results, name, load, key), figures(results, peer, load, key))
    return [own / other for own, other in pairs if other > 0]


def spread(values, form="{:.1f}"):
    """Median (minimum–maximum)."""
    low, middle, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{middle} ({low}–{high})"


def times(values):
    return f"{statistics.median(values):.2f}×" if values else "–"


def goals(results):
    """(name, figure or None, format, limit): the goals of the project."""

    def own(values):
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    have = "prefork" in results["servers"]
    rounds = [one["prefork"] for one in results["rounds"]] if have else []
    start = results["start"].get("prefork", [])
    idle = results["idle"].get("prefork")
    return [
        ("CPU per new connection, relative to bare", own(ratios(results, "prefork", "bare", "close", "cpu_us")),
         "{:.2f}×", 1.05),
        ("master's CPU per new connection, relative to bare", own(ratios(results, "prefork", "bare", "close", "master_us")),
         "{:.2f}×", 1.05),
        ("master's CPU per new connection, relative to Node's primary",
         own(ratios(results, "prefork", "node", "close", "master_us")), "{:.2f}×", 0.33),
        ("CPU per keep-alive request, relative to nginx", own(ratios(results, "prefork", "nginx", "keep", "cpu_us")), "{:.2f}×", 0.90),
        ("master, resident memory", own([one["master_rss"] / MB for one in rounds]), "{:.2f} MB", 3.0),
        ("worker with hello.so, private memory", own([one["worker_private"] / MB for one in rounds]), "{:.2f} MB", 1.0),
        ("from the start until 8 workers are ready", own([one["ready_ms"] for one in start]), "{:.1f} ms", 30.0),
        ("from the start until the first response", own([one["answered_ms"] for one in start]), "{:.1f} ms", 50.0),
        ("user memory per idle keep-alive connection", own([idle and idle["master_bytes"] + idle["worker_bytes"]]),
         "{:.0f} bytes", 300.0),
    ]


def report(results):
    """The results as Markdown."""
    here = results["machine"]
    lines = [f"{here['cores']} × {here['cpu']}, Linux {here['kernel']}; {len(results['rounds'])} rounds, "
             f"{CLIENTS} clients, {WORKERS} workers. Medians (minimum–maximum); of ratios, the median over the rounds.", ""]
    for load, title in LOADS.items():
        lines += load_table(results, load, title)
    lines += memory_table(results)
    lines += goal_table(results)
    return "\n".join(lines + noise(results))


def load_table(results, load, title):
    lines = [f"### {title}", "",
             "| server | requests/s | p99 ms | CPU µs/request | of which master | CPU relative to bare | CPU relative to nginx | errors |",
             "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for name in results["servers"]:
        of = lambda key: figures(results, name, load, key)  # noqa: E731
        lines.append(" | ".join([
            f"| {name}", spread(of("rate"), "{:,.0f}"), spread(of("p99_ms")), spread(of("cpu_us"), "{:.2f}"),
            spread(of("master_us"), "{:.2f}"), times(ratios(results, name, "bare", load, "cpu_us")),
            times(ratios(results, name, "nginx", load, "cpu_us")), f"{sum(of('errors'))} |"]))
    return lines + [""]


def memory_table(results):
    lines = ["### Memory and start", "",
             "| server | master RSS MB | master private MB | worker private MB | bytes per idle connection | 8 workers ready ms "
             "| first response ms |", "|---|--:|--:|--:|--:|--:|--:|"]
    for name in results["servers"]:
        rounds = [one[name] for one in results["rounds"]]
        idle, start = results["idle"].get(name), results["start"][name]
        ready = [one["ready_ms"] for one in start if one["ready_ms"] is not None]
        lines.append(" | ".join([
            f"| {name}", spread([one["master_rss"] / MB for one in rounds], "{:.2f}"),
            spread([one["master_private"] / MB for one in rounds], "{:.2f}"),
            spread([one["worker_private"] / MB for one in rounds], "{:.2f}"),
            f"{idle['master_bytes'] + idle['worker_bytes']:.0f}" if idle else "–",
            spread(ready) if ready else "–", spread([one["answered_ms"] for one in start]) + " |"]))
    return lines + [""]


def goal_table(results):
    lines = ["### Goals", "", "| goal | figure | at most | |", "|---|--:|--:|---|"]
    for what, figure, form, limit in goals(results):
        seen = "–" if figure is None else form.format(figure)
        verdict = "not measured" if figure is None else "met" if figure <= limit else "**missed**"
        lines.append(f"| {what} | {seen} | {form.format(limit)} | {verdict} |")
    return lines + [""]


def noise(results):
    """The share of other processes, and a warning if it was large: under more load connections come in larger batches, which cost
    less CPU each."""
    shares = [one[name][load]["others"] for one in results["rounds"] for name in one for load in LOADS]
    share = statistics.median(shares)
    text = f"Other processes used {share:.0%} of the machine (median; at most {max(shares):.0%})."
    return [text + (" **Too noisy: run it again on a quiet machine.**" if share > QUIET else "")]


# ---- the command line ----


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="measurements of each server [5]")
    parser.add_argument("--seconds", type=int, help="length of each measurement [3]")
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {', '.join(COMMANDS)}")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 second, fewer starts")
    parser.add_argument("--syscalls", action="store_true", help="count system calls per connection instead")
    parser.add_argument("--instructions", action="store_true", help="count instructions per request instead")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed")
    parser.add_argument("--prefork", default=BUILT, help="the binary to measure")
    parser.add_argument("--out", default=ROOT / "target/bench", help="where results and logs go [target/bench]")
    options = parser.parse_args()
    rounds, seconds, options.starts = (2, 1, 3) if options.quick else (5, 3, 15)
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or seconds
    options.idle = IDLE
    return options


def present(bench, wanted):
    """The wanted servers that can run on this machine."""
    names = []
    for name in wanted:
        try:
            bench.command(name, WORKERS, 1)
            names.append(name)
        except KeyError:
            sys.exit(f"no server is called {name}; there are {', '.join(COMMANDS)}")
        except Missing as why:
            progress(f"without {name}: {why}")
    return names


def main():
    options = parse()
    # Unwinds, as after ^C, so that no server is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.idle + 1000:
        options.idle = hard - 1000
        progress(f"only {hard} open files are allowed: {options.idle} idle connections")

    bench = Bench(options.out, options.prefork)
    names = present(bench, options.only.split(",") if options.only else DEFAULT)
    if not names:
        sys.exit("nothing to measure")
    if options.syscalls:
        print(counts.syscalls(bench, names, WORKERS, wrk))
        return
    if options.instructions:
        print(counts.instructions(bench, [name for name in names if name != "node"]))
        return

    results = run(bench, names, options)
    text = report(results)
    (bench.out / "results.json").write_text(json.dumps(results, indent=1))
    (bench.out / "results.md").write_text(text + "\n")
    (bench.out / "chart.svg").write_text(chart.draw(results, figures))
    print(text)
    progress(f"written: results.json, results.md and chart.svg in {options.out}")
    if options.check and any(figure is None or figure > limit for _, figure, _, limit in goals(results)):
        sys.exit(1)


if __name__ == "__main__":
    main()
