"""Many clients by Python's websockets: websocket_reload.py COUNT URL. Each sends numbered messages and has them back in order, until
standard input ends. Says how many came back, line by line; at the end "ok", or what went wrong."""
import asyncio
import sys

import websockets

COUNT, URL = int(sys.argv[1]), sys.argv[2]
AHEAD = 3
answers = 0
stopping = asyncio.Event()


def content(client, n):
    """Text and binary, small and of 300 KB, whole and in fragments."""
    size = 300000 if n % 40 == client % 40 else n * 7 % 300
    text = f"{client} {n} " + "é" * (size // 2)
    return text.encode() if n % 3 == 0 else text


async def parts(ws, data, n):
    third = len(data) // 3 + 1
    yield data[:third]
    await (await ws.ping(f"{n}"))
    await asyncio.sleep(n % 5 * 0.01)
    yield data[third:2 * third]
    yield data[2 * third:]


async def receive(ws, client, room):
    global answers
    n = 0
    while True:
        message = await ws.recv()
        n += 1
        assert message == content(client, n), f"client {client}: message {n} is {message[:40]!r}"
        answers += 1
        room.release()


async def run(client):
    async with websockets.connect(URL, max_size=None, compression=None, ping_interval=None) as ws:
        room = asyncio.Semaphore(AHEAD)
        reader = asyncio.create_task(receive(ws, client, room))
        n = 0
        while not stopping.is_set() and not reader.done():
            await room.acquire()
            n += 1
            data = content(client, n)
            await ws.send(parts(ws, data, n) if n % 4 == 0 else data)
            await asyncio.sleep(0.1)
        for _ in range(AHEAD):
            if not reader.done():
                await room.acquire()
        reader.cancel()
        try:
            await reader
        except asyncio.CancelledError:
            pass


async def tell():
    while True:
        print(answers, flush=True)
        await asyncio.sleep(0.1)


async def main():
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stopping.set)))
    telling = asyncio.create_task(tell())
    await asyncio.gather(*(run(client) for client in range(COUNT)))
    telling.cancel()
    print("ok", flush=True)


try:
    asyncio.run(main())
except Exception as e:
    print("failed:", repr(e), flush=True)
    import os
    os._exit(1)
