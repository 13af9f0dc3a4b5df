"""Runs messages.rs and messages.js, and reads what they print."""

import os
import re
import subprocess

from common import median, show, table, times
from servers import HERE, ROOT, tool

PIPE = "bare pipe, 1 at a time"
ONE = "master asks worker, 1 at a time"


def run_prefork():
    """All measures: {"prefork": {name: figure}, "connections": {name: figures}, "beside": the same}"""
    text = cargo_bench()
    return {"prefork": rates(text), "connections": latencies(text), "beside": latencies(cargo_bench("beside"))}


def latencies(text):
    """Each figure is the median of the lines with that name."""
    lines = re.findall(r"^(connections.*?) +(\d+) a second, median (\d+) us, p99 (\d+) us", text, re.MULTILINE)
    found = {}
    for what, *figures in lines:
        found.setdefault(what, []).append([int(figure) for figure in figures])
    return {what: dict(zip(("rate", "p50_us", "p99_us"), map(median, zip(*rows)))) for what, rows in found.items()}


def run_node():
    return {"node": rates(output([tool("node", "nodejs"), HERE / "messages.js"]))}


def run_pipe():
    """Round trips a second, one at a time, over a bare pipe and between master and worker: where the scheduler puts the two
    processes, and if both are on one CPU."""
    cpu = min(os.sched_getaffinity(0))
    return {"free": rates(cargo_bench("one")), "one CPU": rates(cargo_bench("one", cpus={cpu}))}


def cargo_bench(*words, cpus=None):
    cargo = os.environ.get("CARGO") or tool("cargo", "cargo")
    return output([cargo, "bench", "--bench", "messages", "--locked", "-q", "--", *words], cpus)


def rates(text):
    return {what: int(rate) for what, rate in re.findall(r"^(.+?) {2,}(\d+) (?:round trips|MiB)/s", text, re.MULTILINE)}


def output(command, cpus=None):
    place = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=300, preexec_fn=place).stdout


def pipe_ratios(results, place="free"):
    return [one[place][ONE] / one[place][PIPE] for one in results["messages"]]


def pipe_table(results):
    rows = []
    for place in ("free", "one CPU"):
        of = lambda what: [one[place][what] for one in results["messages"]]  # noqa: E731
        rows.append([{"free": "placed by the scheduler", "one CPU": "both processes on one CPU"}[place],
                     show(of(PIPE), "{:,.0f}"), show(of(ONE), "{:,.0f}"), times(pipe_ratios(results, place))])
    head = ["round trips/s of 64 bytes", "two processes, a pipe each way", "prefork: master asks worker", "prefork to the pipe"]
    return ["### One message at a time", "", *table(head, rows), ""]
