"""A worker that speaks Node's protocol and does something else than Node, as its argument says."""
import json
import os
import socket
import sys
import time

mode = sys.argv[1]
channel = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))
count = 0


def say(message):
    channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def act(name, **fields):
    global count
    say({"cmd": "NODE_CLUSTER", "act": name, **fields, "seq": count})
    count += 1


act("online")
fields = {"index": 0, "data": None, "address": "127.0.0.1", "port": int(os.environ.get("PORT", "0")), "addressType": 4}
if mode != "no-query":
    act("queryServer", **fields, flags=0, backlog=False)
act("listening", **fields)
keep = []
# Another one of the same server plays along: only that in slot 0 does not.
if os.environ["PREFORK_SLOT"] == "0" and not os.path.exists("go-on"):
    if mode == "garbage":
        channel.sendall(b"\x00\x01 this is no JSON\n")
    elif mode == "long":
        try:
            for _ in range(1600):
                channel.sendall(b"x" * 65536)
        except OSError:
            pass
    elif mode == "handle":
        a, b = socket.socketpair()
        socket.send_fds(channel, [b'{"cmd":"NODE_HANDLE","type":"net.Socket","msg":"x"}\n'], [a.fileno()])
    elif mode == "unknown":
        act("dance")
    elif mode == "nonsense":
        for line in [b'{"cmd":"NODE_CLUSTER","ack":7,"accepted":true}', b'{"cmd":"NODE_HANDLE_ACK"}',
                     b'{"cmd":"NODE_HANDLE_NACK"}', b'{"cmd":"NODE_CLUSTER","ack":0,"accepted":false}',
                     b'{"cmd":"NODE_CLUSTER","act":"close","key":64}', b'{"cmd":"NODE_CLUSTER","act":"close","key":1}',
                     b'{"cmd":"NODE_CLUSTER","act":"online","seq":99}', b'"ready"', b'7']:
            channel.sendall(line + b"\n")
    elif mode == "flood":
        # It asks without end and never reads.
        while True:
            act("listening", **fields)
while True:
    data, fds, _, _ = socket.recv_fds(channel, 65536, 4)
    if not data:
        break
    for line in data.splitlines():
        message = json.loads(line)
        if message["cmd"] == "NODE_HANDLE" and fds:
            if mode == "silent" and not os.path.exists("go-on"):
                # It has read the connection, and answers nothing.
                keep += fds
                open("taken", "a").write(".")
                continue
            say({"cmd": "NODE_HANDLE_ACK"})
            accepted = mode != "refuse" or os.environ["PREFORK_SLOT"] != "0"
            say({"cmd": "NODE_CLUSTER", "ack": message["msg"]["seq"], "accepted": accepted})
            for fd in fds:
                connection = socket.socket(fileno=fd)
                if accepted:
                    connection.settimeout(10)
                    connection.recv(4096)
                    body = os.environ["PREFORK_SLOT"].encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n" + body)
                connection.close()
        elif message.get("act") == "disconnect":
            sys.exit(0)
        elif message["cmd"] == "NODE_HANDLE":
            say({"cmd": "NODE_HANDLE_NACK"})
