"""The servers that run.py and lifecycle.py compare: how each is started, its processes, and their use of CPU and memory.

Every server answers `GET /` with 200 and "hello world\\n". Each runs in a session of its own; all its processes are
ended when its `with` block is left.
"""

import os
import pwd
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/prefork"
BODY = b"hello world\n"
START_LIMIT = 10.0  # seconds a server may take to answer its first request
STOP_LIMIT = 3.0

NGINX_CONF = """\
daemon off;
user {user};
worker_processes {workers};
worker_rlimit_nofile {files};
pid {dir}/nginx.pid;
error_log {dir}/nginx.log;
events {{ worker_connections 16384; }}
http {{
    {http}
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 75;
    default_type text/plain;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port} {listen};
        {server}
        location / {{ {location} }}
    }}
}}
"""

H2O_CONF = """\
listen: {{host: 127.0.0.1, port: {port}}}
num-threads: {workers}
max-connections: 16384
hosts: {{default: {{paths: {{"/": {{file.dir: {dir}, file.index: [hello]}}}}}}}}
"""


class Missing(Exception):
    """A server or tool is not on this machine; the text says what to install or build."""


def free_port():
    """A port below the range for clients: a client could take one in that range before the server binds it."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(lowest // 2, lowest), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port")


def tool(name, package):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise Missing(f"{name} is not installed (Debian: apt-get install {package})")
    return path


def compile_c(source, target, *flags):
    """Compiles with `cc`, unless the target is newer than the source."""
    if not source.exists():
        raise Missing(f"{source.relative_to(ROOT)}: no such file")
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([tool("cc", "gcc"), "-O2", "-Wall", "-Wextra", "-o", target, source, *flags], check=True)
    return target


class Bench:
    """The paths for the commands below."""

    def __init__(self, out, prefork):
        self.out = Path(out).resolve()
        self.prefork = Path(prefork).resolve()
        self.out.mkdir(parents=True, exist_ok=True)

    def command(self, name, workers, port):
        """The command line of a server. With port 0 the server takes a free one, if it can."""
        return COMMANDS[name](self, workers, port)


def prefork_command(bench, workers, port, flags=(), source=ROOT / "ffi-examples/hello.c", blocking=False):
    if not bench.prefork.exists():
        raise Missing("prefork is not built (cargo build --release)")
    target = bench.out / f"{source.stem}{'-blocking' if blocking else ''}.so"
    define = ["-DBLOCKING"] if blocking else []
    module = compile_c(source, target, "-shared", "-fPIC", f"-I{ROOT}/include", *define)
    return [bench.prefork, "--workers", workers, "--listen", f"127.0.0.1:{port}", *flags, module]


def bare_command(bench, workers, port, flags=()):
    binary = compile_c(HERE / "bare.c", bench.out / "bare", "-std=c99", "-Wpedantic")
    return [binary, "-w", workers, "-p", port, *flags]


def nginx_command(bench, workers, port, http="", listen="", server="", location='return 200 "hello world\\n";'):
    nginx = tool("nginx", "nginx-light")
    home = bench.out / "nginx"
    home.mkdir(exist_ok=True)
    conf = home / "nginx.conf"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    user = pwd.getpwuid(os.geteuid()).pw_name
    conf.write_text(NGINX_CONF.format(workers=workers, port=port, dir=home, files=files, user=user,
                                      http=http, listen=listen, server=server, location=location))
    return [nginx, "-p", home, "-c", conf, "-e", home / "nginx.log"]


def h2o_command(bench, workers, port):
    h2o = tool("h2o", "h2o")
    home = bench.out / "h2o"
    home.mkdir(exist_ok=True)
    (home / "hello").write_bytes(BODY)
    conf = home / "h2o.conf"
    conf.write_text(H2O_CONF.format(workers=workers, port=port, dir=home))
    if os.geteuid() == 0:
        conf.write_text(conf.read_text() + "user: root\n")  # it would become one that may not read the file
    return [h2o, "-c", conf]


def node_command(bench, workers, port):
    return [tool("node", "nodejs"), HERE / "cluster.js", workers, port]


COMMANDS = {
    "prefork": prefork_command,
    "bare": bare_command,
    "bare-batches": partial(bare_command, flags=("-d", "-m", "-r")),
    "nginx": nginx_command,
    "nginx-deferred": partial(nginx_command, listen="deferred"),
    "h2o": h2o_command,
    "node": node_command,
    "reuseport": partial(prefork_command, flags=("--accept", "reuseport")),
    "shared": partial(prefork_command, flags=("--accept", "shared")),
    "batch": partial(prefork_command, flags=("--scheduling", "batch")),
    "normal": partial(prefork_command, flags=("--scheduling", "normal")),
    "waiting": partial(prefork_command, source=HERE / "waiting.c"),
    "bare-tuned": partial(bare_command, flags=("-b", "-d")),
}
DEFAULT = ["prefork", "batch", "bare", "bare-batches", "nginx", "nginx-deferred", "h2o", "node", "reuseport"]


SILENT = {"nginx", "nginx-deferred", "h2o"}  # do not print their address, so they are given a port


class Running:
    """A started server: `master` is the pid that was started, `workers` are its children."""

    def __init__(self, process, address, started, announced, answered):
        self.process = process
        self.master = process.pid
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}/"
        self.ready_ms = None if announced is None else (announced - started) * 1e3
        self.answered_ms = (answered - started) * 1e3
        self.workers = children(self.master)

    def cpu(self):
        """Seconds of CPU time so far: of the master, of all its workers."""
        if children(self.master) != self.workers:
            raise RuntimeError("the server's workers changed during the measurement")
        return cpu_seconds(self.master), sum(cpu_seconds(pid) for pid in self.workers)


@contextmanager
def running(bench, name, workers=2, wrapper=(), command=None):
    """Starts a server, waits for its first response, and ends all of it on leaving.

    `command(workers, port)` returns a command line to use instead of the server's usual one.
    """
    log = open(bench.out / f"{name}.log", "ab")
    port = free_port() if name in SILENT else 0
    words = command(workers, port) if command else bench.command(name, workers, port)
    command = [str(word) for word in [*wrapper, *words]]
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(bench.out), NODE_ENV="production")
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=bench.out,
                               env=environment, start_new_session=True)
    try:
        address, announced = (("127.0.0.1", port), None) if port else wait_address(process, name)
        answered = wait_response(process, address, started)
        yield Running(process, address, started, announced, answered)
    finally:
        stop(process)
        log.close()


def wait_address(process, name):
    """The address that a server prints once its workers are ready, and the time of that."""
    timer = threading.Timer(START_LIMIT, process.kill)  # ends the reading below
    timer.start()
    try:
        for line in process.stdout:
            found = re.search(rb"listening\b.*?(\d+\.\d+\.\d+\.\d+):(\d+)", line)
            if found:
                return (found[1].decode(), int(found[2])), time.monotonic()
    finally:
        timer.cancel()
    raise RuntimeError(f"{name} did not start; see {name}.log")


def wait_response(process, address, started):
    """Sends requests until the server answers; returns the time of the answer."""
    while time.monotonic() - started < START_LIMIT and process.poll() is None:
        try:
            with socket.create_connection(address, timeout=START_LIMIT) as client:
                request(client, close=True)
                return time.monotonic()
        except ConnectionError:
            time.sleep(0.0002)
    raise RuntimeError("the server does not answer")


def request(client, close=False):
    """One request on an open connection; an exception if the answer is not the expected one."""
    connection = b"Connection: close\r\n" if close else b""
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + connection + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n\r\n" + BODY):
        piece = client.recv(4096)
        if not piece:
            raise ConnectionError("closed before the answer was complete")
        answer += piece
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"unexpected answer: {answer[:60]!r}")


def stop(process):
    """Sends SIGTERM to the master, and after STOP_LIMIT SIGKILL to the rest of its session."""
    process.terminate()
    deadline = time.monotonic() + STOP_LIMIT
    while session_lives(process) and time.monotonic() < deadline:
        time.sleep(0.005)
    if session_lives(process):
        print(f"{process.args[0]} had to be killed", file=sys.stderr)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def session_lives(process):
    process.poll()  # reaps the master: as a zombie it would still be in the session
    try:
        os.killpg(process.pid, 0)
        return True
    except ProcessLookupError:
        return False


# ---- processes as the kernel reports them ----


def children(pid):
    pids = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        pids += [int(child) for child in (task / "children").read_text().split()]
    return sorted(pids)


def cpu_seconds(pid):
    """User and system time of all threads, ended ones too, to the nanosecond.

    This is the process's CPU-time clock, clock_getcpuclockid(3): the sum that /proc/PID/schedstat shows per thread
    and that /proc/PID/stat shows rounded down to ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid):
    """Bytes: `rss`, `private` (clean and dirty) and `anonymous` of a process."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split(":")
        fields[key] = int(value.split()[0]) * 1024
    return {
        "rss": fields["Rss"],
        "private": fields["Private_Clean"] + fields["Private_Dirty"],
        "anonymous": fields["Anonymous"],
    }


def machine_busy_seconds():
    """Seconds that all CPUs together were not idle, stolen time included (in ticks, so to about 10 ms)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
