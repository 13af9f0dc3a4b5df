"""What a server takes while it does nothing: memory, start, idle connections, and a reload that moves all of them."""

import statistics
import time
from functools import partial

from common import progress, show, spread, table
from held import holding, room
from loads import wrk
from reloads import reload_prefork
from servers import children, memory, prefork_command, running

IDLE = 10_000  # in one worker, of each server
MANY = 50_000  # over MANY_WORKERS workers of prefork
MANY_WORKERS = 4
MB = 1_000_000


def measure_start(bench, name, times):
    """Milliseconds from the start of a server with 8 workers until it says that all are ready, and until a response."""
    runs = []
    for _ in range(times):
        with running(bench, name, workers=8) as server:
            runs.append({"ready_ms": server.ready_ms, "answered_ms": server.answered_ms})
    return runs


def anonymous(server):
    return [memory(pid)["anonymous"] for pid in (server.master, *server.workers)]


def measure_idle(bench, name):
    """Bytes of user memory per idle connection, of many in one worker."""
    connections = room(IDLE, 1)
    with running(bench, name, workers=1) as server:
        wrk(server.url, 1, "kept")  # the first hundred connections allocate more
        before = anonymous(server)
        with holding(bench, server.address, connections) as held:
            after = anonymous(server)
            _, lost = held.ask_all()
    if lost:
        raise RuntimeError(f"{name} closed {lost} idle connections")
    return {"connections": connections, "bytes": (sum(after) - sum(before)) / connections}


def many_command(bench, workers, port):
    """prefork with room for more than max-conns usually allows a worker."""
    return prefork_command(bench, workers, port, ["--max-conns", 1_000_000])


def measure_many(bench):
    """Bytes per connection of many idle ones over some workers, and what a reload of all workers makes of them."""
    connections = room(MANY, MANY_WORKERS)
    if connections < MANY:
        progress(f"the limit of open files allows {connections} idle connections, not {MANY}")
    with running(bench, "prefork", MANY_WORKERS, command=partial(many_command, bench)) as server:
        wrk(server.url, 1, "kept")
        before = anonymous(server)
        with holding(bench, server.address, connections) as held:
            after = anonymous(server)
            old, began = set(server.workers), time.monotonic()
            committed = reload_prefork(server)
            while old & set(children(server.master)):
                if time.monotonic() - began > 30:
                    raise TimeoutError("the old workers have not ended")
                time.sleep(0.002)
            moved = (time.monotonic() - began) * 1e3
            answered, lost = held.ask_all()
    return {"connections": connections, "bytes": (sum(after) - sum(before)) / connections, "committed_ms": committed,
            "moved_ms": moved, "answered": answered, "lost": lost}


# ---- the results ----


def memory_table(results):
    rows = []
    for name in results["servers"]:
        of = lambda key: [one[name][key] / MB for one in results["rounds"] if one.get(name, {}).get(key)]  # noqa: E731
        start, idle = results["start"].get(name, []), results["idle"].get(name)
        ready = [one["ready_ms"] for one in start if one["ready_ms"] is not None]
        rows.append([name, show(of("master_rss"), "{:.2f}"), show(of("master_private"), "{:.2f}"),
                     show(of("worker_private"), "{:.2f}"), f"{idle['bytes']:.0f}" if idle else "–",
                     show(ready), show([one["answered_ms"] for one in start])])
    return ["### Memory and start", "",
            *table(["server", "master RSS MB", "master private MB", "worker private MB",
                    "user memory per idle connection, bytes", "8 workers ready ms", "first response ms"], rows), ""]


def many_table(results):
    of = lambda key: [one[key] for one in results["many"]]  # noqa: E731
    rows = [["user memory of each, bytes", spread(of("bytes"), "{:.0f}")],
            ["reload: until the new workers serve, ms", spread(of("committed_ms"), "{:.0f}")],
            ["reload: until the old workers have handed over all connections and ended, ms", spread(of("moved_ms"), "{:.0f}")],
            ["connections that answered after the reload", spread(of("answered"), "{:,.0f}")],
            ["connections lost", f"{sum(of('lost'))}"]]
    return [f"### {statistics.median(of('connections')):,.0f} idle connections over {MANY_WORKERS} workers", "",
            *table(["prefork", ""], rows), ""]
