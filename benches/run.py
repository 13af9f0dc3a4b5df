#!/usr/bin/env python3
"""Compares prefork with a bare C server of the same shape, nginx, h2o and Node's cluster, and draws the result.

    python3 benches/run.py                         all of it, within ten minutes
    python3 benches/run.py --quick                 fewer and shorter rounds, in about three minutes
    python3 benches/run.py --only close,messages   some parts
    python3 benches/run.py --instructions          user-space instructions per request, instead

README.md explains the figures. Needs only the standard library.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import sys
import tempfile

import chart
import counts
import footprint
import messages
import model
import scale
import waiting
from common import CLIENTS, QUIET, WORKERS, goal_table, machine, missed, progress, rotated
from goals import goals
from loads import ONE, figures, load_table, measure_round, rate_table, wrk
from servers import BUILT, COMMANDS, DEFAULT, ROOT, Bench, Missing

PARTS = {
    "close": "new connections under wrk",
    "kept": "kept connections under wrk",
    "memory": "memory and start of each server",
    "idle": "idle connections, and a reload that moves 50,000",
    "scale": "the cost of a connection with more workers and open connections",
    "messages": "one message at a time, and a bare pipe",
    "waiting": "a worker with 10,000 timers and 1,000 watched descriptors",
    "calls": "system calls per connection",
}


# ---- the whole run ----


def run(bench, names, options):
    """All measurements of the wanted parts, interleaved: each round measures every server and begins with another one."""
    parts = options.parts
    results = {"machine": machine(), "servers": names, "parts": parts, "rounds": [], "start": {}, "idle": {}, "many": [],
               "scale": [], "messages": [], "waiting": [], "calls": {}}
    kinds = [kind for kind in ("close", "kept") if kind in parts]
    for i in range(options.rounds if kinds else 0):
        results["rounds"].append({})
        for name in rotated(names, i):
            progress(f"round {i + 1} of {options.rounds}: {name}")
            results["rounds"][-1][name] = measure_round(bench, name, kinds, options)
    for name in names if "memory" in parts else []:
        progress(f"start: {name}")
        results["start"][name] = footprint.measure_start(bench, name, options.starts)
    # Node's garbage collector and the threads of h2o leave no figure for a connection.
    for name in [name for name in names if name not in ("node", "h2o")] if "idle" in parts else []:
        progress(f"idle connections: {name}")
        results["idle"][name] = footprint.measure_idle(bench, name)
    own = {"idle": ("many", lambda i: footprint.measure_many(bench)),
           "scale": ("scale", lambda i: scale.measure_scale(bench, names, options, i)),
           "messages": ("messages", lambda i: messages.run_pipe()),
           "waiting": ("waiting", lambda i: waiting.measure_waiting(bench, options, i))}
    for part, (key, measure) in own.items():
        for i in range(options.few if part in parts and "prefork" in names else 0):
            progress(f"{part}, round {i + 1} of {options.few}")
            results[key].append(measure(i))
    for name in names if "calls" in parts else []:
        progress(f"system calls: {name}")
        results["calls"][name] = counts.measure_calls(bench, name, WORKERS, wrk)
    return results


# ---- the results ----


def report(results):
    """The results as Markdown."""
    here, parts = results["machine"], results["parts"]
    lines = [f"{here['cores']} × {here['cpu']}, Linux {here['kernel']}; {len(results['rounds'])} rounds, {CLIENTS} clients, "
             f"{WORKERS} workers. Medians (minimum–maximum); of ratios, the median over the rounds.", ""]
    kinds = [kind for kind in ("close", "kept") if kind in parts]
    for kind in kinds:
        lines += load_table(results, kind)
    if kinds:
        lines += rate_table(results, kinds)
    if "memory" in parts or "idle" in parts:
        lines += footprint.memory_table(results)
    for key, write in [("many", footprint.many_table), ("scale", scale.scale_table), ("messages", messages.pipe_table),
                       ("waiting", waiting.waiting_table),
                       ("calls", counts.calls_table)]:
        lines += write(results) if results[key] else []
    cost = model.costs(results)
    lines += model.model_table(cost) if cost else []
    return "\n".join(lines + goal_table(goals(results)) + noise(results, kinds))


def noise(results, kinds):
    """The share of other processes, and a warning if it was large: under more load connections come in larger batches, which cost
    less CPU each."""
    shares = [share for name in results["servers"] for kind in kinds for threads in ("", ONE)
              for share in figures(results, name, kind + threads, "others")]
    shares += [one["others"] for round_ in results["scale"] for series in round_.values() for sizes in series.values()
               for one in sizes.values()]
    if not shares:
        return []
    share = statistics.median(shares)
    text = f"Other processes used {share:.0%} of the machine (median; at most {max(shares):.0%})."
    return [text + (" **Too noisy: run it again on a quiet machine.**" if share > QUIET else "")]


def write(bench, results):
    (bench.out / "results.json").write_text(json.dumps(results, indent=1))
    (bench.out / "results.md").write_text(report(results) + "\n")
    written = ["results.json", "results.md"]
    if results["rounds"]:
        (bench.out / "chart.svg").write_text(chart.draw(results, figures))
        written.append("chart.svg")
    if results["scale"]:
        (bench.out / "scale.svg").write_text(chart.draw_scale(results, scale.costs, scale.points))
        written.append("scale.svg")
    progress(f"written: {', '.join(written)} in {bench.out}")


# ---- the command line ----


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PARTS", default=",".join(PARTS),
                        help="comma-separated, of " + "; ".join(f"{name}: {what}" for name, what in PARTS.items()))
    parser.add_argument("--servers", metavar="NAMES", default=",".join(DEFAULT), help=f"comma-separated, of {', '.join(COMMANDS)}")
    parser.add_argument("--rounds", type=int, help="measurements of each server under wrk [5]")
    parser.add_argument("--seconds", type=int, help="length of each; half of it with one thread of wrk, and of those of scale [2]")
    parser.add_argument("--quick", action="store_true", help="one round of one second, fewer starts")
    parser.add_argument("--instructions", action="store_true", help="count instructions per request instead")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed or not measured")
    parser.add_argument("--prefork", default=BUILT, help="the binary to measure")
    parser.add_argument("--out", default=ROOT / "target/bench", help="where results and logs go [target/bench]")
    options = parser.parse_args()
    rounds, seconds, options.starts, options.repeats, options.few = (1, 1, 3, 0, 1) if options.quick else (5, 2, 7, 20, 3)
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or seconds
    options.short = max(1, options.seconds // 2)
    options.parts = options.only.split(",")
    for part in options.parts:
        if part not in PARTS:
            sys.exit(f"no part is called {part}; there are {', '.join(PARTS)}")
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

    bench = Bench(options.out, options.prefork)
    names = present(bench, options.servers.split(","))
    if not names:
        sys.exit("nothing to measure")
    if options.instructions:
        print(counts.instructions(bench, [name for name in names if name not in ("node", "h2o")]))
        return
    with tempfile.TemporaryDirectory(prefix="prefork-") as sockets:
        os.environ["PREFORK_RUNTIME_DIR"] = sockets  # the paths of sockets must be short
        results = run(bench, names, options)
    write(bench, results)
    print(report(results))
    if options.check and missed(goals(results)):
        sys.exit(1)


if __name__ == "__main__":
    main()
