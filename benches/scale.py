"""The cost of a new connection with more workers, and with more open connections.

Beside prefork a bare C server is measured, which shows how flat the machine itself is: two cores that switch
between 64 processes find less of each one's memory in their caches.
"""

import statistics
from contextlib import ExitStack

from common import progress, rotated, table
from footprint import many_command
from held import holding, room
from loads import measure_load, wrk
from servers import running

SERVERS = ["prefork", "bare-batches"]
WORKERS = [2, 8, 32, 64]
OPEN = [64, 1_000, 10_000, 50_000]  # idle ones; those of wrk are new ones all the time
OPEN_WORKERS = 4


def measure_scale(bench, names, options, turn):
    """One round: {"workers": {server: {workers: figures}}, "open": {server: {connections: figures}}}"""
    names = rotated([name for name in names if name in SERVERS], turn)
    by_workers, by_open = {}, {}
    for name in names:
        progress(f"scale, round {turn + 1}: {name}, {', '.join(map(str, WORKERS))} workers")
        by_workers[name] = {str(count): with_workers(bench, name, count, options) for count in WORKERS}
    for name in names:
        progress(f"scale, round {turn + 1}: {name}, up to {OPEN[-1]} open connections")
        by_open[name] = with_open(bench, name, options)
    return {"workers": by_workers, "open": by_open}


def with_workers(bench, name, count, options):
    with running(bench, name, count) as server:
        return measured(server, options)


def with_open(bench, name, options):
    """One server, which gets more and more idle connections."""
    command = (lambda workers, port: many_command(bench, workers, port)) if name == "prefork" else None
    figures, opened = {}, 0
    with running(bench, name, OPEN_WORKERS, command=command) as server, ExitStack() as stack:
        holds = []
        for count in sorted({room(wanted, OPEN_WORKERS) for wanted in OPEN}):
            holds.append(stack.enter_context(holding(bench, server.address, count - opened, opened)))
            opened = count
            figures[str(count)] = measured(server, options)
        if any(lost for _, lost in (held.ask_all() for held in holds)):
            raise RuntimeError(f"{name} closed idle connections")
    return figures


def measured(server, options):
    wrk(server.url, 1, "close")  # warms it up
    return measure_load(server, options.short, "close", options)


# ---- the results ----


def names_of(results, series):
    return [name for name in SERVERS if any(name in one[series] for one in results["scale"])]


def points(results, series, name):
    """The sizes that were measured, in order."""
    return sorted({int(size) for one in results["scale"] for size in one[series].get(name, {})})


def costs(results, series, name, size, key="cpu_us"):
    return [one[series][name][str(size)][key] for one in results["scale"]]


def growth(results, series, name="prefork"):
    """How much more than with the smallest size a connection costs with the worst size; medians of the ratios within a round."""
    sizes = points(results, series, name)
    relative = [statistics.median(of / first for of, first in zip(costs(results, series, name, size),
                                                                  costs(results, series, name, sizes[0]))) for size in sizes]
    return max(relative)


def scale_table(results):
    lines = []
    for series, title in [("workers", "Cost of a new connection with more workers, µs"),
                          ("open", f"Cost of a new connection with idle ones open, {OPEN_WORKERS} workers, µs")]:
        names = names_of(results, series)
        if not names:
            continue
        sizes = points(results, series, names[0])
        rows = []
        for name in names:
            for what, key in [("", "cpu_us"), (", master", "master_us")]:
                medians = [statistics.median(costs(results, series, name, size, key)) for size in sizes]
                worst = f"{growth(results, series, name):.2f}×" if key == "cpu_us" else ""
                rows.append([name + what, *(f"{value:.2f}" for value in medians), worst])
        errors = sum(sum(costs(results, series, name, size, "errors")) for name in names for size in sizes)
        lines += [f"### {title}", "", *table(["", *(f"{size:,}" for size in sizes), "worst to first"], rows), "",
                  f"Errors: {errors}.", ""]
    return lines
