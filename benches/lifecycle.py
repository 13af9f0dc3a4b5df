#!/usr/bin/env python3
"""Measures the effect of reloads, deaths, stuck workers and messages on clients, compared with nginx and Node.

    python3 benches/lifecycle.py                    all of it, in about five minutes
    python3 benches/lifecycle.py --quick            one shorter round, in about a minute
    python3 benches/lifecycle.py --only kill,stuck  some measures

README.md explains the figures. Needs only the standard library.
"""

import argparse
import ctypes
import fcntl
import itertools
import json
import math
import os
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import messages
from common import CLIENTS, QUIET, goal_table, machine, missed, progress, reaped_cpu, rotated, show, table
from reloads import PATIENCE, RELOAD, wait_until
from servers import (BODY, BUILT, HERE, ROOT, Bench, Missing, children, compile_c, machine_busy_seconds, nginx_command,
                     prefork_command, running, tool)

RELOADS = 5
PEERS = ["prefork", "nginx", "node"]
KILLS = 20
KILL_CLIENTS = 32
KILL_WORKERS = 4
CRASHES = 50  # in all rounds together
IDLE_RELOADS = 20
STUCK_RATE = 2000
STUCK_MS = 5000
RECLAIM_MS = 100  # after which connections queued for a stuck worker go to another one
TAIL = {"rate": 1500, "rare": 5, "long": 50, "short": 1, "workers": 8}  # 8 workers are busy for 65 % of the time


# ---- clients ----


class Load:
    """A running load.c."""

    def __init__(self, bench, server, *flags):
        binary = compile_c(HERE / "load.c", bench.out / "load", "-lm")
        command = [binary, *flags, server.address[1]]
        self.process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)

    def result(self):
        text, _ = self.process.communicate(timeout=120)
        if self.process.returncode != 0:
            raise RuntimeError("load failed")
        return json.loads(text)

    def end(self):
        self.process.terminate()
        return self.result()


class Wrk:
    """A running wrk, ended at the end of the measure."""

    def __init__(self, url, kept):
        header = [] if kept else ["-H", "Connection: close"]
        command = [tool("wrk", "wrk"), "-t2", f"-c{CLIENTS}", "-d120s", "-s", HERE / "report.lua", *header, url]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def end(self):
        self.process.send_signal(signal.SIGINT)
        text, _ = self.process.communicate(timeout=30)
        return json.loads(text.splitlines()[-1])


def get(address, path):
    """The body of one answer, on a connection of its own."""
    with socket.create_connection(address, timeout=PATIENCE) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end or not body:
        raise ConnectionError("closed before the answer was complete")
    return body


def passive_opens():
    """The number of connections to servers in this network namespace so far."""
    names, values = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")]
    return int(values[names.index("PassiveOpens")])


# ---- reloads ----


def measure_reloads(bench, options, turn, kept):
    """Errors and new connections of wrk during some reloads."""
    results = {}
    for name in rotated(available(bench, PEERS), turn):
        with running(bench, name) as server:
            opened = passive_opens()
            wrk = Wrk(server.url, kept)
            took = []
            for _ in range(RELOADS):
                time.sleep(options.seconds / (RELOADS + 1))
                took.append(RELOAD[name](server))
            time.sleep(options.seconds / (RELOADS + 1))
            counted = wrk.end()
            # Without the first connection of wrk, which only tests that the server listens.
            opened = passive_opens() - opened - 1
            if name == "node":
                os.killpg(server.master, signal.SIGKILL)  # workers that have disconnected do not follow the primary
        results[name] = {"errors": sum(counted["errors"].values()), "kinds": counted["errors"],
                         "requests": counted["requests"], "replaced": opened - CLIENTS if kept else None,
                         "reload_ms": statistics.median(took)}
    return results


def measure_idle_reload(bench, options, turn):
    """Milliseconds of reloads of 8 workers without clients."""
    results = {}
    for name in rotated(available(bench, ["prefork", "nginx"]), turn):
        with running(bench, name, workers=8) as server:
            results[name] = []
            for _ in range(IDLE_RELOADS if name == "prefork" else 3):
                time.sleep(0.02 if name == "prefork" else 0.2)  # nginx ignores a HUP during a reload
                results[name].append(RELOAD[name](server))
    return results


# ---- deaths ----


def work_command(bench, workers, port, flags=(), blocking=False):
    return prefork_command(bench, workers, port, flags, source=HERE / "work.c", blocking=blocking)


def slow_nginx_command(bench, workers, port):
    """An nginx that delays requests to the rate of workers that take 3 ms for each."""
    (bench.out / "nginx").mkdir(exist_ok=True)
    (bench.out / "nginx/hello").write_bytes(BODY)
    rate = round(workers / 0.003)
    return nginx_command(bench, workers, port, http=f"limit_req_zone $server_addr zone=all:1m rate={rate}r/s;",
                         location=f"limit_req zone=all burst=1000; root {bench.out}/nginx; try_files /hello =404;")


def measure_kills(bench, options, turn):
    """Requests that fail if workers are killed under load, each time the oldest one."""
    commands = {"prefork": partial(work_command, bench, blocking=True), "nginx": partial(slow_nginx_command, bench)}
    results = {}
    for name in rotated(available(bench, list(commands)), turn):
        with running(bench, name, KILL_WORKERS, command=commands[name]) as server:
            load = Load(bench, server, "-c", KILL_CLIENTS, "-d", 100, "-p", "/3" if name == "prefork" else "/")
            for i in range(options.kills):
                # At varying moments, and only with all workers there: after many deaths successors are delayed.
                time.sleep(0.1 + 0.0137 * i % 0.03)
                wait_until(lambda: len(children(server.master)) == KILL_WORKERS, f"{name}: all workers")
                time.sleep(0.02)
                os.kill(children(server.master)[0], signal.SIGKILL)
            time.sleep(0.3)
            results[name] = {**load.end(), "kills": options.kills}
    return results


def measure_crash(bench, options, turn):
    """Milliseconds from the kill of the only worker to a response of its successor, each in a newly started server."""
    commands = {"prefork": partial(work_command, bench),
                "nginx": partial(nginx_command, bench, server="location = /pid { return 200 $pid; }")}
    results = {}
    for name in rotated(available(bench, list(commands)), turn):
        results[name] = [successor_ms(bench, name, commands[name]) for _ in range(options.crashes)]
    return results


def successor_ms(bench, name, command):
    with running(bench, name, workers=1, command=command) as server:
        old = server.workers[0]
        if int(get(server.address, "/pid")) != old:
            raise RuntimeError(f"{name}: another worker than expected")
        began = time.monotonic()
        os.kill(old, signal.SIGKILL)
        while time.monotonic() - began < PATIENCE:
            try:
                if int(get(server.address, "/pid")) != old:
                    return (time.monotonic() - began) * 1e3
            except ConnectionError:
                pass  # it was sent to the worker that is being killed
    raise TimeoutError(f"{name}: a successor")


# ---- stuck workers, long requests ----


def first_of_all():
    """The wrapper that gives a server real-time priority, if that is allowed: these measures are about waiting, not about CPU
    time. load.c takes a higher priority itself."""
    try:
        command = [tool("chrt", "util-linux"), "-r", "1"]
    except Missing:
        return []
    return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []


STUCK = {(style, policy): f"{style}, {policy}" for style in ["on_request", "on_connection"]
         for policy in ["least-connections", "round-robin"]}


def measure_stuck(bench, options, turn):
    """Latency of new connections at a steady rate, without and with one of four workers stuck in a handler."""
    results = {}
    for style, policy in rotated(list(STUCK), turn):
        command = partial(stuck_command, bench, style == "on_connection", policy)
        with running(bench, "prefork", workers=4, wrapper=first_of_all(), command=command) as server:
            load = partial(Load, bench, server, "-r", STUCK_RATE, "-d", options.seconds)
            none = load().result()
            loaded = load()
            time.sleep(options.seconds / 10)
            with socket.create_connection(server.address) as client:
                client.sendall(f"GET /{STUCK_MS} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                one = loaded.result()
                client.setblocking(False)
                try:
                    client.recv(1)
                    raise RuntimeError("the worker was not stuck until the end")
                except BlockingIOError:
                    pass
            end_at_once(server)
        results[STUCK[style, policy]] = {"none": none, "one": one}
    return results


def stuck_command(bench, blocking, policy, workers, port):
    return work_command(bench, workers, port, ["--dispatch", policy], blocking=blocking)


def end_at_once(server):
    """Sends SIGTERM, so that the one when the server is ended is the second and ends it at once."""
    os.kill(server.master, signal.SIGTERM)
    time.sleep(0.05)


TAILS = {"master, round-robin": ["--accept", "master", "--dispatch", "round-robin"],
         "master, least-connections": ["--accept", "master", "--dispatch", "least-connections"],
         "shared": ["--accept", "shared"],
         "reuseport": ["--accept", "reuseport"]}


def measure_tail(bench, options, turn):
    """Latency of new connections at random moments, a few of which take long, in blocking style."""
    results = {}
    mix = f"{TAIL['rare']}:{TAIL['long']}:{TAIL['short']}"
    for name in rotated(list(TAILS), turn):
        command = partial(tail_command, bench, TAILS[name])
        with running(bench, "prefork", TAIL["workers"], wrapper=first_of_all(), command=command) as server:
            load = Load(bench, server, "-r", TAIL["rate"], "-x", "-d", options.tail, "-m", mix)
            results[name] = load.result()
    return results


def tail_command(bench, flags, workers, port):
    return work_command(bench, workers, port, flags, blocking=True)


# ---- messages ----


def measure_messages(bench, options, turn):
    """The figures of messages.rs and messages.js: {"prefork": {name: figure}, "connections": {name: figures}, "node": ...}"""
    measures = [("prefork", messages.run_prefork), ("node", messages.run_node)]
    results = {}
    for name, measure in rotated(measures, turn):
        try:
            results |= measure()
        except (Missing, subprocess.SubprocessError) as why:
            progress(f"messages, without {name}: {why}")
    return results


# ---- the whole run ----


def available(bench, names):
    found = []
    for name in names:
        try:
            bench.command(name, 1, 1)
            found.append(name)
        except Missing:
            pass
    return found


MEASURES = {
    "reload": partial(measure_reloads, kept=True),
    "reload-close": partial(measure_reloads, kept=False),
    "kill": measure_kills,
    "crash": measure_crash,
    "reload-idle": measure_idle_reload,
    "stuck": measure_stuck,
    "tail": measure_tail,
    "messages": measure_messages,
}


def run(bench, names, options, alone):
    """All measures in each round; within a measure the servers follow one another."""
    rounds = []
    for i in range(options.rounds):
        results, others = {}, {}
        for name in names:
            progress(f"round {i + 1} of {options.rounds}: {name}")
            busy, own, began = machine_busy_seconds(), own_cpu(), time.monotonic()
            results[name] = MEASURES[name](bench, options, i)
            lasted = time.monotonic() - began
            used = machine_busy_seconds() - busy - (own_cpu() - own)
            others[name] = max(0.0, used / (lasted * os.cpu_count()))
        rounds.append({**results, "others": others})
    return {"machine": machine(), "measures": names, "own_network": alone, "rounds": rounds}


def own_cpu():
    """CPU seconds of this process and of all it has waited for, which includes servers and their workers."""
    return time.process_time() + reaped_cpu()


def enter_own_network():
    """Enters a network namespace, in which the kernel counts only connections of this program."""
    def unshare(flags):
        if libc.unshare(flags) != 0:
            raise OSError(ctypes.get_errno(), "unshare")

    libc = ctypes.CDLL(None, use_errno=True)
    user, group, newnet, newuser = os.geteuid(), os.getegid(), 0x40000000, 0x10000000
    try:
        if user == 0:
            unshare(newnet)
        else:
            unshare(newnet | newuser)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        with socket.socket() as any_socket:
            up = struct.pack("16sH14x", b"lo", 1)  # IFF_UP
            fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS
        return True
    except OSError as why:
        progress(f"no network namespace of its own ({why}): connections of other processes are counted too")
        return False


# ---- the results ----


def each(results, measure, *keys):
    """A figure of each round that has it."""
    values = []
    for one in results["rounds"]:
        for key in (measure, *keys):
            one = one.get(key) if isinstance(one, dict) else None
        if one is not None:
            values.append(one)
    return values


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def ratio(results, measure, own, other):
    """The ratios within each round."""
    pairs = zip(each(results, measure, *own), each(results, measure, *other))
    return [a / b for a, b in pairs if b > 0]


def figure(how, values):
    return how(values) if values else None


def goals(results):
    """(name, figure or None, format, relation, limit): the goals of the project."""
    median, of = statistics.median, partial(each, results)
    kill = [one["failed"] / one["kills"] for one in of("kill", "prefork")]
    rows = [
        ("5 reloads, keep-alive: wrk's errors, worst round", figure(max, of("reload", "prefork", "errors")), "{:.0f}", "≤", 0),
        ("5 reloads, keep-alive: connections replaced, worst round", figure(max, of("reload", "prefork", "replaced")), "{:.0f}",
         "≤", 0),
        ("5 reloads, `Connection: close`: wrk's errors, worst round", figure(max, of("reload-close", "prefork", "errors")),
         "{:.0f}", "≤", 0),
        ("kill -9 under 32 clients: failed requests per kill, worst round", figure(max, kill), "{:.2f}", "≤", 1),
        ("from a crash to a response of the successor", figure(median, flat(of("crash", "prefork"))), "{:.1f} ms", "<", 10),
        ("reload of 8 idle workers", figure(median, flat(of("reload-idle", "prefork"))), "{:.1f} ms", "<", 200),
    ]
    for style, policy in STUCK:
        name = STUCK[style, policy]
        if policy == "least-connections":
            slower = ratio(results, "stuck", (name, "one", "p99_us"), (name, "none", "p99_us"))
            rows.append((f"one of 4 workers stuck, {name}: p99 relative to none stuck", figure(median, slower), "{:.2f}×", "≤", 1.2))
        else:
            pairs = zip(of("stuck", name, "one", "max_us"), of("stuck", name, "none", "max_us"))
            longer = [max(0, one - none) / 1e3 for one, none in pairs]
            rows.append((f"one of 4 workers stuck, {name}: longest wait, minus that with none stuck", figure(median, longer),
                         "{:.0f} ms", "≤", RECLAIM_MS))
    best = best_tail(results)
    rows += [
        ("mixed 1 ms / 50 ms load: p99 relative to --accept shared", figure(median, ratio(results, "tail", (best, "p99_us"), ("shared", "p99_us"))),
         "{:.2f}×", "≤", 1.05),
        ("mixed 1 ms / 50 ms load: p99 of the short requests relative to --accept shared",
         figure(median, ratio(results, "tail", (best, "common_p99_us"), ("shared", "common_p99_us"))), "{:.2f}×", "≤", 1.05),
        ("mixed 1 ms / 50 ms load: p99 relative to --accept reuseport",
         figure(median, ratio(results, "tail", (best, "p99_us"), ("reuseport", "p99_us"))), "{:.2f}×", "≤", 0.8),
        ("messages: round trips a second, 64 at a time", figure(median, of("messages", "prefork", MANY)), "{:,.0f}", "≥", 100_000),
        ("p99 of connections during 1 GiB of messages in 4 s, relative to without messages", figure(median, message_slowdown(results, "p99_us")),
         "{:.2f}×", "≤", 1.2),
        ("the same with the master on a CPU of its own", figure(median, message_slowdown(results, "p99_us", "beside")), "{:.2f}×", "≤", 1.2),
    ]
    return rows


MANY = "master asks worker, 64 at a time"
PACED = "connections, 2000 a second"
FLOODED = ", with 250 MiB/s of messages"


def message_slowdown(results, key, measure="connections"):
    return ratio(results, "messages", (measure, PACED + FLOODED, key), (measure, PACED, key))


def best_tail(results):
    """The master's default policy for blocking handlers."""
    return "master, round-robin"


def report(results):
    """The results as Markdown."""
    here = results["machine"]
    lines = [f"{here['cores']} × {here['cpu']}, Linux {here['kernel']}; {len(results['rounds'])} rounds. "
             "Medians (minimum–maximum) of the rounds; of ratios, the median over the rounds.", ""]
    tables = {"reload": reload_table, "reload-close": reload_table, "kill": kill_table, "crash": times_table,
              "reload-idle": times_table, "stuck": stuck_table, "tail": tail_table, "messages": messages_table}
    for name in results["measures"]:
        lines += [f"### {TITLES[name]}", "", *tables[name](results, name), ""]
    return "\n".join(lines + goal_table(goals(results)) + noise(results))


TITLES = {
    "reload": f"{RELOADS} reloads under {CLIENTS} keep-alive clients",
    "reload-close": f"{RELOADS} reloads under {CLIENTS} clients, `Connection: close`",
    "kill": f"kill -9 of one of {KILL_WORKERS} workers under {KILL_CLIENTS} clients, requests of 3 ms",
    "crash": "From the kill of the only worker to a response of its successor",
    "reload-idle": "Reload of 8 idle workers",
    "stuck": f"One of 4 workers stuck, {STUCK_RATE} new connections a second",
    "tail": f"{TAIL['rare']} % of the requests take {TAIL['long']} ms, the others {TAIL['short']} ms; {TAIL['workers']} workers, "
            f"on_connection, {TAIL['rate']} connections a second",
    "messages": "Messages",
}


def names_in(results, measure):
    return list(dict.fromkeys(flat(each(results, measure))))


def reload_table(results, measure):
    rows = []
    for name in sorted(names_in(results, measure), key=PEERS.index):
        of = partial(each, results, measure, name)
        rows.append([name, show(of("errors"), "{:,.0f}"), show(of("replaced"), "{:,.0f}"), show(of("requests"), "{:,.0f}"),
                     show(of("reload_ms"))])
    return table(["server", "errors", "connections replaced", "requests answered", "one reload ms"], rows)


def kill_table(results, measure):
    rows = []
    for name in sorted(names_in(results, measure), key=PEERS.index):
        of = partial(each, results, measure, name)
        kinds = {}
        for one in of("kinds"):
            for kind, count in one.items():
                kinds[kind] = kinds.get(kind, 0) + count
        per_kill = [one["failed"] / one["kills"] for one in of()]
        rows.append([name, show(per_kill, "{:.2f}"), f"{sum(of('kills'))}",
                     ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "none",
                     show(of("answered"), "{:,.0f}"), show([us / 1e3 for us in of("p99_us")])])
    return table(["server", "failed per kill", "kills", "failures", "answered", "p99 ms"], rows)


def times_table(results, measure):
    rows = []
    for name in sorted(names_in(results, measure), key=PEERS.index):
        values = flat(each(results, measure, name))
        rows.append([name, f"{statistics.median(values):.2f}", f"{at(values, 0.9):.2f}", f"{max(values):.2f}", f"{len(values)}"])
    return table(["server", "median ms", "p90 ms", "longest ms", "measurements"], rows)


def at(values, share):
    return sorted(values)[min(len(values) - 1, math.floor(len(values) * share))]


def stuck_table(results, measure):
    rows = []
    for name in STUCK.values():
        ms = lambda which, key: [us / 1e3 for us in each(results, measure, name, which, key)]  # noqa: E731
        slower = ratio(results, measure, (name, "one", "p99_us"), (name, "none", "p99_us"))
        failed = each(results, measure, name, "one", "failed")
        rows.append([name, show(ms("none", "p99_us"), "{:.2f}"), show(ms("one", "p99_us"), "{:.2f}"), show(slower, "{:.2f}×"),
                     show(ms("none", "max_us")), show(ms("one", "max_us")), f"{sum(failed)}"])
    return table(["", "p99 ms, none stuck", "p99 ms, one stuck", "ratio", "longest ms, none", "longest ms, one", "failed"], rows)


def tail_table(results, measure):
    rows = []
    for name in TAILS:
        ms = lambda key: [us / 1e3 for us in each(results, measure, name, key)]  # noqa: E731
        relative = lambda peer, key: show(ratio(results, measure, (name, key), (peer, key)), "{:.2f}×")  # noqa: E731
        rows.append([name, show(ms("p50_us"), "{:.2f}"), show(ms("common_p99_us")), show(ms("p99_us")), show(ms("max_us")),
                     relative("shared", "p99_us"), relative("reuseport", "p99_us"), relative("shared", "common_p99_us")])
    return table(["--accept", "median ms", "p99 ms of the short", "p99 ms", "longest ms", "p99 relative to shared", "p99 relative to reuseport",
                  "of the short relative to shared"], rows)


def messages_table(results, measure):
    rows = []
    for what in names_in_dict(results, "prefork"):
        rows.append([what, show(each(results, measure, "prefork", what), "{:,.0f}"),
                     show(each(results, measure, "node", what), "{:,.0f}")])
    lines = table(["a second (round trips of 64 bytes, or MiB)", "prefork", "node"], rows) + [""]
    rows = []
    names = [(key, what) for key in ("connections", "beside") for what in names_in_dict(results, key)]
    for key, what in names:
        of = partial(each, results, measure, key, what)
        rows.append([what + ", master on its own CPU" * (key == "beside"), show(of("rate"), "{:,.0f}"), show(of("p50_us"), "{:,.0f}"), show(of("p99_us"), "{:,.0f}")])
    return lines + table(["prefork", "a second", "median µs", "p99 µs"], rows)


def names_in_dict(results, key):
    return list(dict.fromkeys(flat(each(results, "messages", key))))


def noise(results):
    shares = flat(one["others"].values() for one in results["rounds"])
    share = statistics.median(shares)
    text = f"Other processes used {share:.0%} of the machine (median of the measures; at most {max(shares):.0%})."
    if share > QUIET:
        text += " **Too noisy for latencies: run it again on a quiet machine.**"
    if not results["own_network"]:
        text += " Connections of other processes were counted too."
    return [text]


# ---- the command line ----


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, help="[3]")
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {', '.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="one round, shorter")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a goal is missed or not measured")
    parser.add_argument("--prefork", default=BUILT, help="the binary to measure")
    parser.add_argument("--out", default=ROOT / "target/bench", help="where results and logs go [target/bench]")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds, options.tail = (1.5, 2) if options.quick else (3, 4)
    options.kills = KILLS // 2 if options.quick else KILLS
    options.crashes = 10 if options.quick else math.ceil(CRASHES / options.rounds)
    options.measures = options.only.split(",") if options.only else list(MEASURES)
    for name in options.measures:
        if name not in MEASURES:
            sys.exit(f"no measure is called {name}; there are {', '.join(MEASURES)}")
    return options


def main():
    options = parse()
    # Unwinds, as after ^C, so that no server is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    alone = enter_own_network()
    bench = Bench(options.out, options.prefork)
    if not available(bench, ["prefork"]):
        sys.exit("prefork is not built (cargo build --release)")
    with tempfile.TemporaryDirectory(prefix="prefork-") as sockets:
        os.environ["PREFORK_RUNTIME_DIR"] = sockets  # the paths of sockets must be short
        results = run(bench, options.measures, options, alone)
    text = report(results)
    (bench.out / "lifecycle.json").write_text(json.dumps(results, indent=1))
    (bench.out / "lifecycle.md").write_text(text + "\n")
    print(text)
    progress(f"written: lifecycle.json and lifecycle.md in {options.out}")
    if options.check and missed(goals(results)):
        sys.exit(1)


if __name__ == "__main__":
    main()
