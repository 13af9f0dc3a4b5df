"""Reloads of servers, and how long each takes."""

import json
import os
import signal
import socket
import time
from pathlib import Path

from servers import children

PATIENCE = 5.0  # seconds to wait for an event that should take a fraction of one


def wait_until(done, what):
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.0005)


def reload_prefork(server):
    """Reloads as `prefork reload` does; returns the milliseconds until the outcome."""
    path = next(Path(os.environ["PREFORK_RUNTIME_DIR"]).glob(f"*.{server.master}.sock"))
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(4 * PATIENCE)
        control.connect(str(path))
        replies = control.makefile("rb")
        replies.readline()  # the greeting
        began = time.monotonic()
        control.sendall(b'{"verb":"reload"}\n')
        replies.readline()  # accepted
        verdict = json.loads(replies.readline())
        lasted = time.monotonic() - began
    if verdict.get("outcome") != "committed":
        raise RuntimeError(f"reload: {verdict}")
    return lasted * 1e3


def reload_nginx(server):
    """Reloads; returns the milliseconds until all workers are new: nginx reports nothing."""
    old = set(children(server.master))
    began = time.monotonic()
    os.kill(server.master, signal.SIGHUP)
    wait_until(lambda: (now := set(children(server.master))) and not now & old and len(now) == len(old), "nginx reload")
    return (time.monotonic() - began) * 1e3


def reload_node(server):
    """Reloads; returns the milliseconds until the new workers exist. Old ones stay as long as they have connections."""
    old = set(children(server.master))
    began = time.monotonic()
    os.kill(server.master, signal.SIGHUP)
    wait_until(lambda: len(set(children(server.master)) - old) == 2, "node reload")
    time.sleep(0.3)  # until they listen and the old ones have disconnected
    return (time.monotonic() - began) * 1e3


RELOAD = {"prefork": reload_prefork, "nginx": reload_nginx, "node": reload_node}
