"""Serves HTTP on an inherited socket, as programs for systemd do. The path of a request is a command of the tests."""
import http.server
import os
import signal
import socket
import sys
import threading
import time

mode = sys.argv[1] if len(sys.argv) > 1 else ""
assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ["LISTEN_PID"]
count = int(os.environ["LISTEN_FDS"])
names = os.environ["LISTEN_FDNAMES"].split(":")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        command, _, argument = self.path.strip("/").partition("/")
        if command == "sleep":
            time.sleep(float(argument) / 1000)
        text = {"pid": str(os.getpid()), "slot": os.environ["PREFORK_SLOT"], "names": " ".join(names),
                "env": os.environ.get(argument, "-"), "listener": names[self.server.index],
                "descriptors": " ".join(sorted(os.listdir("/proc/self/fd"))),
                "group": str(os.getpgid(0))}.get(command, "done")
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def notify(text):
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)


class Server(http.server.ThreadingHTTPServer):
    # Requests in progress are finished at the end.
    daemon_threads = False

    def handle_error(self, *_):
        pass


if mode == "child":
    # A descendant that would outlive it.
    child = os.fork()
    if child == 0:
        time.sleep(1000)
    open("child", "w").write(str(child))
servers = []
for index in range(count):
    fd = 3 + index
    server = Server(("", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=fd)
    server.index = index
    servers.append(server)
if mode != "abrupt":
    signal.signal(signal.SIGTERM, lambda *_: [threading.Thread(target=s.shutdown).start() for s in servers])
threads = [threading.Thread(target=s.serve_forever, args=(0.02,)) for s in servers]
for thread in threads:
    thread.start()
if mode == "notify":
    time.sleep(0.3)
    notify("STATUS=up\nREADY=1\n")
# A signal that another thread gets wakes no join.
while any(thread.is_alive() for thread in threads):
    time.sleep(0.01)
for server in servers:
    server.server_close()
