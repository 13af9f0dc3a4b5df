#!/usr/bin/env python3
"""From the measured cost of a connection: how many one master can accept, and on how many cores it is the limit.

    python3 benches/model.py                                  from target/bench/results.json
    python3 benches/model.py --master 7 --workers 9 --reuseport 14 --kept 4

The model: a connection costs the master M µs of CPU, and its worker W µs for itself and the first request, K µs for each further
request, and H µs in the handler for each. The master is one process, so it accepts at most 1e6 / M connections a second, however
many cores there are. At that rate the workers occupy (W + ...) / M cores; with the master's own that is the number of cores from
which on the master is the limit. With `--accept reuseport` a connection costs R µs in its worker and nothing in the master, so
each core adds 1e6 / (R + ...) a second.

It leaves out what the measurement on one machine does not show: the cost of the network card's interrupts (on loopback the
client's part of the protocol work is counted instead), contention of many cores for locks and memory, and an
uneven spread of the connections by the kernel, which leaves cores idle with `reuseport`.
"""

import argparse
import json
import statistics

from common import table
from servers import ROOT

CASES = [(1, 0), (1, 20), (1, 100), (1, 1000), (10, 0), (10, 20), (100, 20)]  # requests of a connection, µs in the handler for each
CORES = [16, 64]


def costs(results):
    """The costs from the results of a run, or None if it did not measure them all."""
    def middle(name, load, key):
        return statistics.median(one[name][load][key] for one in results["rounds"])

    try:
        return {"master": middle("prefork", "close", "master_us"), "workers": middle("prefork", "close", "workers_us"),
                "reuseport": middle("reuseport", "close", "cpu_us"), "kept": middle("prefork", "kept", "cpu_us")}
    except (KeyError, statistics.StatisticsError):
        return None


def model_table(cost):
    limit = 1e6 / cost["master"]
    rows = []
    for requests, handler in CASES:
        further = (requests - 1) * cost["kept"] + requests * handler
        worker, own = cost["workers"] + further, cost["reuseport"] + further
        cores = 1 + worker / cost["master"]
        row = [f"{requests} × {handler} µs", f"{cores:.1f}"]
        for count in CORES:
            row += [f"{min(limit, count * 1e6 / (cost['master'] + worker)):,.0f}", f"{count * 1e6 / own:,.0f}"]
        rows.append(row)
    head = ["requests of a connection × time in the handler", "cores from which the master is the limit"]
    for count in CORES:
        head += [f"connections/s, {count} cores", "the same, `--accept reuseport`"]
    return ["### Model: one master on many cores", "",
            f"A connection costs the master {cost['master']:.1f} µs and its worker {cost['workers']:.1f} µs, a further request "
            f"{cost['kept']:.1f} µs; with `--accept reuseport`, a connection {cost['reuseport']:.1f} µs in all. "
            f"So one master accepts at most **{limit:,.0f} connections a second**.", "", *table(head, rows), ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", default=ROOT / "target/bench/results.json", help="of run.py [target/bench/results.json]")
    for name, what in [("master", "a new connection, the master's part"), ("workers", "the worker's part"),
                       ("reuseport", "a new connection with --accept reuseport"), ("kept", "a request on a kept connection")]:
        parser.add_argument(f"--{name}", type=float, metavar="µs", help=what)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("master", "workers", "reuseport", "kept")}
    if None in given.values():
        measured = costs(json.load(open(options.results)))
        if measured is None:
            parser.error("these results lack prefork or reuseport under both loads; give all four costs")
        given = {name: measured[name] if value is None else value for name, value in given.items()}
    print("\n".join(model_table(given)))


if __name__ == "__main__":
    main()
