"""The cost of a request in a worker whose loop waits for 10,000 timers and 1,000 descriptors of its handler."""

from common import show, table
from loads import TITLES, measure_once, wrk
from servers import running

NAMES = ["prefork", "waiting"]
KINDS = ["close", "kept"]
PAIRS = 5  # in a round


def measure_waiting(bench, options, turn):
    """CPU microseconds per request without and with them, one worker each: {kind: [(without, with), ...]}

    Both servers run all the time, and take turns of a second: the two of a pair have similar conditions.
    """
    with running(bench, NAMES[0], workers=1) as without, running(bench, NAMES[1], workers=1) as waiting:
        figures = {}
        for kind in KINDS:
            for server in (without, waiting):
                wrk(server.url, 1, kind)  # warms it up
            figures[kind] = []
            for i in range(PAIRS):
                order = [without, waiting] if (turn + i) % 2 == 0 else [waiting, without]
                cost = {server: measure_once(server, 1, kind) for server in order}
                figures[kind].append([cost[server]["cpu_us"] for server in (without, waiting)])
        return figures


def waiting_ratios(results, kind):
    return [waiting / without for one in results["waiting"] for without, waiting in one[kind]]


def waiting_table(results):
    rows = []
    for kind in KINDS:
        pairs = [pair for one in results["waiting"] for pair in one[kind]]
        rows.append([TITLES[kind], show([pair[0] for pair in pairs], "{:.2f}"), show([pair[1] for pair in pairs], "{:.2f}"),
                     show(waiting_ratios(results, kind), "{:.3f}×")])
    return ["### A worker with 10,000 timers and 1,000 watched descriptors", "",
            *table(["CPU µs/request", "without", "with", "ratio of the pairs"], rows), ""]
