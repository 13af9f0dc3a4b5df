"""The goals of the project that run.py measures. Those of lifecycle.py are there."""

from common import median
from footprint import MANY, MANY_WORKERS, MB
from loads import ONE, figures, ratios
from messages import pipe_ratios
from waiting import waiting_ratios
from scale import OPEN, WORKERS, growth, names_of


def goals(results):
    """Rows for common.goal_table. All CPU figures are user and system time of all processes of the server."""
    def cpu(what, peer, load, limit, key="cpu_us"):
        return what, median(ratios(results, "prefork", peer, load, key)), "{:.2f}×", "≤", limit

    def rate(threads, option):
        figure = median(ratios(results, "prefork", "nginx", "close" + threads, "rate"))
        return f"new connections a second, wrk {option}, to nginx", figure, "{:.2f}×", "≥", 1.10

    def scale(what, series):
        figure = growth(results, series) if "prefork" in names_of(results, series) else None
        return f"CPU per new connection with {what}, to the first", figure, "{:.2f}×", "≤", 1.15

    def many(what, key, form, relation, limit):
        return f"{MANY:,} idle connections over {MANY_WORKERS} workers: {what}", median([one[key] for one in results["many"]]), form, relation, limit

    rounds = [one["prefork"] for one in results["rounds"] if "prefork" in one]
    start = results["start"].get("prefork", [])
    calls = results["calls"].get("prefork", {}).get("master")
    new = "CPU per new connection, default settings"
    return [
        cpu(f"{new}, to nginx", "nginx", "close", 0.60),
        cpu(f"{new}, to nginx `deferred`", "nginx-deferred", "close", 0.90),
        cpu(f"{new}, to bare C with batches", "bare-batches", "close", 1.10),
        cpu("master's CPU per new connection, to Node's primary", "node", "close", 0.20, "master_us"),
        ("system calls of the master per new connection", calls and sum(calls.values()), "{:.2f}", "≤", 2.2),
        rate(ONE, "-t1"),
        rate("", "-t2"),
        cpu("CPU per request on kept connections, to bare C", "bare", "kept", 1.03),
        cpu("CPU per request on kept connections, to nginx", "nginx", "kept", 0.92),
        scale(" / ".join(map(str, WORKERS)) + " workers", "workers"),
        scale(" / ".join(f"{count:,}" for count in OPEN) + " open connections", "open"),
        many("user memory of each", "bytes", "{:.0f} bytes", "<", 100),
        many("time of a reload that moves all", "moved_ms", "{:.0f} ms", "<", 1000),
        many("lost by the reload", "lost", "{:.0f}", "≤", 0),
        ("messages, one at a time, to a bare pipe between two processes", median(pipe_ratios(results)), "{:.2f}×", "≥", 0.8),
        *[(f"CPU per {what} in a worker with 10,000 timers and 1,000 watched descriptors, to none",
           median(waiting_ratios(results, kind)), "{:.3f}×", "≤", 1.03) for kind, what in [("close", "new connection"), ("kept", "request")]],
        ("master, resident memory", median([one["master_rss"] / MB for one in rounds]), "{:.2f} MB", "≤", 3.0),
        ("worker with hello.so, private memory", median([one["worker_private"] / MB for one in rounds]), "{:.2f} MB", "≤", 1.0),
        ("from the start until 8 workers are ready", median([one["ready_ms"] for one in start]), "{:.1f} ms", "≤", 30.0),
        ("from the start until the first response", median([one["answered_ms"] for one in start]), "{:.1f} ms", "≤", 50.0),
        ("errors that wrk counted", errors(results), "{:.0f}", "≤", 0),
    ]


def errors(results):
    counts = [count for kind in ("close", "kept") for threads in ("", ONE)
              for count in figures(results, "prefork", kind + threads, "errors")]
    return sum(counts) if counts else None
