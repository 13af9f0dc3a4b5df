"""Servers under wrk: rate, latency, and the CPU time of all their processes."""

import json
import os
import subprocess
import time

from common import CLIENTS, QUIET, WORKERS, reaped_cpu, show, table, times
from servers import HERE, machine_busy_seconds, memory, running, tool

TITLES = {"close": "New connections (`Connection: close`)", "kept": "Kept connections"}
ONE = "-t1"  # suffix of a load: wrk with one thread instead of two


def wrk(url, seconds, load):
    """The counts of one run of wrk."""
    header = ["-H", "Connection: close"] if load.startswith("close") else []
    threads = 1 if load.endswith(ONE) else 2
    command = [tool("wrk", "wrk"), f"-t{threads}", f"-c{CLIENTS}", f"-d{seconds}s", "-s", HERE / "report.lua", *header, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20)
    if done.returncode != 0:
        raise RuntimeError(f"wrk: {done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_load(server, seconds, load, options):
    """A measurement, repeated up to twice if other processes disturb it; the least disturbed counts.

    A machine that is never quiet is not worth more than `options.repeats` repetitions in a whole run.
    """
    measured = [measure_once(server, seconds, load)]
    while measured[-1]["others"] >= QUIET and len(measured) < 3 and options.repeats > 0:
        options.repeats -= 1
        measured.append(measure_once(server, seconds, load))
    return min(measured, key=lambda one: one["others"])


def measure_once(server, seconds, load):
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


def measure_round(bench, name, kinds, options):
    """A newly started server under each load; then its memory."""
    with running(bench, name, WORKERS) as server:
        result = {}
        for kind in kinds:
            wrk(server.url, 1, kind)  # warms it up
            for load in (kind, kind + ONE):
                result[load] = measure_load(server, options.seconds if load == kind else options.short, load, options)
        result["master_rss"] = memory(server.master)["rss"]
        result["master_private"] = memory(server.master)["private"]
        result["worker_private"] = max((memory(pid)["private"] for pid in server.workers), default=None)
    return result


# ---- the results ----


def figures(results, name, load, key):
    """A server's figures, one per round; none if it was not measured."""
    return [one[name][load][key] for one in results["rounds"] if load in one.get(name, {})]


def ratios(results, name, peer, load, key):
    """The ratios within each round, in which both servers had similar conditions."""
    pairs = zip(figures(results, name, load, key), figures(results, peer, load, key))
    return [own / other for own, other in pairs if other > 0]


def load_table(results, kind):
    relative = lambda name, peer: times(ratios(results, name, peer, kind, "cpu_us"))  # noqa: E731
    rows = []
    for name in results["servers"]:
        of = lambda key: figures(results, name, kind, key)  # noqa: E731
        rows.append([name, show(of("cpu_us"), "{:.2f}"), show(of("master_us"), "{:.2f}"),
                     *(relative(name, peer) for peer in ["bare", "bare-batches", "nginx", "nginx-deferred"]),
                     show(of("p99_ms")), f"{sum(of('errors') + figures(results, name, kind + ONE, 'errors'))}"])
    return [f"### {TITLES[kind]}", "",
            *table(["server", "CPU µs/request", "of which master", "to bare", "to bare-batches", "to nginx",
                    "to nginx-deferred", "p99 ms", "errors"], rows), ""]


def rate_table(results, kinds):
    """The rates with two threads of wrk and with one."""
    rows = []
    for name in results["servers"]:
        row = [name]
        for load in (kind + threads for kind in kinds for threads in ("", ONE)):
            row += [show(figures(results, name, load, "rate"), "{:,.0f}"), times(ratios(results, name, "nginx", load, "rate"))]
        rows.append(row)
    head = ["requests/s"]
    for kind in kinds:
        for threads in ("-t2", "-t1"):
            head += [f"{'new connections' if kind == 'close' else 'kept'}, {threads}", "to nginx"]
    return ["### Rates", "", *table(head, rows), ""]
