"""Counts instead of times, which noise does not change: system calls per connection, instructions per request."""

import re
import shutil
import signal
import socket
import statistics
import subprocess
import time

from common import table
from servers import HERE, compile_c, request, running, tool

# Counted by name; all others together as "other".
CALLS = ["accept4", "sendmsg", "recvmsg", "close", "epoll_wait", "epoll_pwait", "epoll_ctl", "recvfrom", "sendto",
         "read", "readv", "write", "writev", "shutdown", "setsockopt", "getsockopt", "getsockname", "getpeername",
         "accept", "epoll_pwait2", "close_range"]


# ---- system calls ----


def measure_calls(bench, name, workers, wrk):
    """System calls of master and workers per connection under wrk with `Connection: close`: {role: {call: count}}

    `perf stat` counts in the kernel and hardly slows the server. If it is not allowed, strace counts those of the
    master alone; under strace the master falls behind, so that more connections share one epoll_wait.
    """
    with running(bench, name, workers) as server:
        return {role: {call: count / connections for call, count in calls.items()}
                for role, (connections, calls) in count_calls(server, wrk).items()}


def calls_table(results):
    rows = []
    for name, roles in results["calls"].items():
        for role, calls in roles.items():
            named = sorted(((count, call) for call, count in calls.items() if count >= 0.005), reverse=True)
            rows.append([f"{name}, {role}", f"{sum(calls.values()):.2f}", ", ".join(f"{call} {count:.2f}" for count, call in named)])
    return ["### System calls per new connection, waits included", "", *table(["process", "total", "by name"], rows), ""]


def count_calls(server, wrk):
    """{role: (connections, {call: count})}"""
    if perf_works():
        roles = {role: pids for role, pids in [("master", [server.master]), ("workers", server.workers)] if pids}
        command = perf_command
        read = read_perf
    else:
        roles = {"master": [server.master]}
        command = lambda pids: [tool("strace", "strace"), "-f", "-c", *(f"-p{pid}" for pid in pids)]  # noqa: E731
        read = read_strace
    counters = {role: subprocess.Popen(command(pids), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
                for role, pids in roles.items()}
    try:
        time.sleep(0.5)  # to attach
        connections = wrk(server.url, 2, "close")["requests"]
    finally:
        for counter in counters.values():
            counter.send_signal(signal.SIGINT)
        texts = {role: counter.communicate(timeout=10)[1] for role, counter in counters.items()}
    return {role: (connections, read(text)) for role, text in texts.items()}


def perf_works():
    perf = shutil.which("perf")
    return perf is not None and subprocess.run([perf, "stat", "-e", "raw_syscalls:sys_enter", "true"],
                                               capture_output=True).returncode == 0


def perf_command(pids):
    events = ["raw_syscalls:sys_enter"] + [f"syscalls:sys_enter_{call}" for call in CALLS]
    return ["perf", "stat", "-x,", "-e", ",".join(events), "-p", ",".join(map(str, pids))]


def read_perf(text):
    counted = {}
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 2:  # perf prints "<not counted>" for a process that did not run
            counted[fields[2].removeprefix("syscalls:sys_enter_")] = int(fields[0]) if fields[0].isdigit() else 0
    total = counted.pop("raw_syscalls:sys_enter")
    return {**counted, "other": total - sum(counted.values())}


def read_strace(text):
    rows = re.findall(r"^ *[\d.]+ +[\d.]+ +\d+ +(\d+) +(?:\d+ +)?(\w+)$", text, re.MULTILINE)
    return {call: int(count) for count, call in rows if call != "total"}


# ---- instructions ----


def instructions(bench, names, requests=30):
    """User-space instructions of master and worker per request, as Markdown.

    One client sends the requests one after another, so that each has its own turn of every loop. Instructions in the
    kernel are not counted.
    """
    lines = ["### User-space instructions per request", "",
             "| server | new connection, master | new connection, worker | keep-alive, worker |", "|---|--:|--:|--:|"]
    for name in names:
        with running(bench, name, workers=1) as server:
            new = count_steps(bench, server, requests, lambda: request_on_new_connection(server.address))
            # Not earlier: counting takes longer than a server waits for the first request of a connection.
            with socket.create_connection(server.address) as client:
                kept = count_steps(bench, server, requests, lambda: request(client))
        lines.append(f"| {name} | {new[0]:,.0f} | {new[1]:,.0f} | {kept[1]:,.0f} |")
    return "\n".join(lines)


def count_steps(bench, server, requests, send):
    """Instructions per request of the master and of its one worker.

    Medians: single-stepping takes so long that what is done once a second would count with every few requests.
    """
    for _ in range(20):
        send()  # the first ones allocate more
    pids = [server.master, *server.workers]
    steps = compile_c(HERE / "steps.c", bench.out / "steps", "-std=c99")
    counter = subprocess.Popen([steps, *map(str, pids)], stdout=subprocess.PIPE, text=True)
    try:
        if counter.stdout.readline() != "counting\n":
            raise RuntimeError("cannot trace the server's processes: run as root, or set kernel.yama.ptrace_scope to 0")
        counts = []
        for _ in range(requests + 1):
            send()
            time.sleep(0.05)  # the server's steps after its response
            counter.send_signal(signal.SIGUSR1)
            counts.append([int(count) for count in counter.stdout.readline().split()])
    finally:
        counter.terminate()
        counter.communicate(timeout=10)
    return [statistics.median(b - a for a, b in zip(of_one, of_one[1:])) for of_one in zip(*counts)]


def request_on_new_connection(address):
    with socket.create_connection(address) as client:
        request(client, close=True)
