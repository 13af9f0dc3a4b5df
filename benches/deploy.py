#!/usr/bin/env python3
"""Deploys under connections that last: 10,000 of them, one message a second each, through reloads of prefork; of nginx and of HAProxy in
front of a Node server with WebSockets; and of that Node server under PM2.

    python3 benches/deploy.py [--connections 10000] [--reloads 10] [--only prefork,websocket,nginx,haproxy,pm2]

It needs `cargo build --release`, and what is measured: nginx, haproxy, nodejs and node-ws from Debian, pm2 from npm (`npx pm2`, or --pm2
PATH). Those that are not there are left out.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import progress, table
from servers import BUILT, HERE, ROOT, children, compile_c, free_port

WORKERS = 4
SETTLE = 3.0  # seconds before the first reload and between two
PATIENCE = 35.0  # seconds for the old workers of a reload to go
ENV = {**os.environ, "NODE_PATH": "/usr/share/nodejs"}

NGINX = """\
daemon off; worker_processes {workers}; worker_rlimit_nofile 65000; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 30000; }}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://127.0.0.1:{node}; proxy_http_version 1.1; proxy_read_timeout 1h;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
        }}
    }}
}}
"""

HAPROXY = """\
global
    maxconn {most}
    nbthread 2
    hard-stop-after 30s
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server n 127.0.0.1:{node}
"""


class Server:
    """A running server: how it is reloaded, and the processes that a reload is to replace."""

    def __init__(self, command, port, out, reload=None, old=None, helpers=()):
        self.port, self.helpers = port, list(helpers)
        self.process = subprocess.Popen([str(w) for w in command], stdout=subprocess.DEVNULL, stderr=out, env=ENV, process_group=0)
        self._reload, self._old = reload, old

    def old(self):
        return self._old(self) if self._old else set(children(self.process.pid))

    def reload(self):
        if self._reload:
            self._reload(self)
        else:
            os.kill(self.process.pid, signal.SIGHUP)

    def end(self):
        for process in [self.process, *self.helpers]:
            process.terminate()
        for process in [self.process, *self.helpers]:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def node(out, port):
    command = [shutil.which("node") or shutil.which("nodejs"), HERE / "deploy.js", str(port)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out, env=ENV, process_group=0)


def reload_prefork(server):
    name = f"deploy-{server.port}"
    subprocess.run([BUILT, "-n", name, "reload"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)


def prefork(module, port, out):
    words = [BUILT, "--workers", WORKERS, "--listen", f"127.0.0.1:{port}", "-n", f"deploy-{port}", module]
    return Server(words, port, out, reload_prefork)


def start(kind, connections, out, dir):
    """Starts a server; `None` if it is not on this machine."""
    port, behind = free_port(), free_port()
    include = f"-I{ROOT}/include"
    if kind == "prefork":
        return prefork(compile_c(ROOT / "tests/handover.c", dir / "lines.so", "-shared", "-fPIC", include), port, out)
    if kind == "websocket":
        return prefork(compile_c(ROOT / "ffi-examples/websocket.c", dir / "ws.so", "-shared", "-fPIC", include), port, out)
    if not (shutil.which("node") or shutil.which("nodejs")) or not Path("/usr/share/nodejs/ws").exists():
        return None
    if kind == "nginx" and shutil.which("nginx"):
        conf = dir / "nginx.conf"
        conf.write_text(NGINX.format(workers=WORKERS, dir=dir, port=port, node=behind))
        return Server(["nginx", "-c", conf, "-p", dir], port, out, helpers=[node(out, behind)])
    if kind == "haproxy" and shutil.which("haproxy"):
        conf = dir / "haproxy.cfg"
        conf.write_text(HAPROXY.format(port=port, node=behind, most=connections + 500))
        reload = lambda server: os.kill(server.process.pid, signal.SIGUSR2)
        return Server(["haproxy", "-W", "-db", "-f", conf], port, out, reload, helpers=[node(out, behind)])
    pm2 = shutil.which("pm2")
    if kind == "pm2" and pm2:
        home = {**ENV, "PM2_HOME": str(dir / "pm2"), "PORT": str(port)}
        run = lambda *words: subprocess.run([pm2, *words], check=True, stdout=subprocess.DEVNULL, stderr=out, env=home)
        run("start", HERE / "deploy.js", "-i", str(WORKERS), "--name", "deploy", "--", str(port))

        def old(_):
            return {int(pid) for pid in subprocess.run([pm2, "pid", "deploy"], capture_output=True, text=True, env=home).stdout.split()}

        server = Server(["sleep", "100000"], port, out, lambda _: run("reload", "deploy"), old)
        end = server.end
        server.end = lambda: (run("kill"), end())
        return server
    return None


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def measure(kind, client, connections, reloads, out, dir):
    server = start(kind, connections, out, dir)
    if server is None:
        return None
    words = [client, "-n", str(connections), *(["-l", "1024"] if kind == "prefork" else []), str(server.port)]
    load = subprocess.Popen([str(w) for w in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seen():
        load.stdin.write("\n")
        load.stdin.flush()
        return json.loads(load.stdout.readline())

    try:
        time.sleep(SETTLE)
        quiet = seen()
        time.sleep(SETTLE)
        quiet = seen()["gap_ms"]
        gaps, gone, verdicts = [], [], []
        for _ in range(reloads):
            before = server.old()
            began = time.monotonic()
            server.reload()
            verdicts.append((time.monotonic() - began) * 1e3)
            while any(map(alive, before)) and time.monotonic() - began < PATIENCE:
                time.sleep(0.005)
            gone.append(time.monotonic() - began)
            time.sleep(SETTLE)
            gaps.append(seen()["gap_ms"])
            progress(f"{kind}: gone after {gone[-1]:.2f} s, longest gap {gaps[-1]:.0f} ms")
        load.stdin.close()
        last = json.loads(load.stdout.read().splitlines()[-1])
    finally:
        load.terminate()
        load.wait()
        server.end()
    return {**last, "quiet": quiet, "gap": max(gaps), "gone": max(gone), "verdict": max(verdicts)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10000)
    parser.add_argument("--reloads", type=int, default=10)
    parser.add_argument("--only", default="prefork,websocket,nginx,haproxy,pm2")
    args = parser.parse_args()
    try:
        # Two for each connection of a proxy.
        resource.setrlimit(resource.RLIMIT_NOFILE, (65000, 65000))
    except (ValueError, OSError) as e:
        progress(f"no 65,000 descriptors for each process ({e}): proxies need two for each connection")
    rows = []
    with tempfile.TemporaryDirectory() as dir:
        client = compile_c(HERE / "deploy.c", Path(dir) / "deploy")
        with open(Path(dir) / "log", "w") as out:
            for kind in args.only.split(","):
                own = Path(dir) / kind
                own.mkdir()
                m = measure(kind, client, args.connections, args.reloads, out, own)
                if m is None:
                    progress(f"{kind}: not on this machine")
                    continue
                counts = [str(m[what]) for what in ("closed", "lost", "doubled", "reordered")]
                rows.append([kind, *counts, f"{m['gap']:.0f}", f"{m['quiet']:.0f}", f"{m['gone']:.2f}"])
    print("\n".join(table(["server", "closed", "lost", "doubled", "reordered", "gap ms", "gap ms without", "old gone s"], rows)))


if __name__ == "__main__":
    sys.exit(main())
