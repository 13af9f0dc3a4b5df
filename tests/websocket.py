"""A client by Python's websockets: websocket.py [drain] URL. Says "ok", or what went wrong."""
import asyncio
import sys

import websockets

URL = sys.argv[-1]


async def conversation():
    async with websockets.connect(URL, max_size=None, compression="deflate") as ws:
        assert ws.extensions == [], ws.extensions
        for size in [0, 1, 125, 126, 65535, 65536, 999999]:
            for data in ["x" * size, b"\7" * size, "é" * (size // 2)]:
                await ws.send(data)
                assert await ws.recv() == data
        # In fragments, with a ping between.
        async def parts():
            yield "on"
            await (await ws.ping(b"middle"))
            yield "e €"
        await ws.send(parts())
        assert await ws.recv() == "one €"
        # The server's pings are answered by the library.
        await asyncio.sleep(0.8)
        for i in range(1000):
            await ws.send(str(i))
        for i in range(1000):
            assert await ws.recv() == str(i)
        await ws.close(4001, "bye")
        assert ws.close_code == 4001, ws.close_code


async def too_big():
    async with websockets.connect(URL, max_size=None) as ws:
        await ws.send(b"x" * 1000001)
        try:
            await ws.recv()
            assert False, "it is still there"
        except websockets.ConnectionClosed as e:
            assert e.rcvd.code == 1009, e


async def open_one():
    ws = await websockets.connect(URL)
    await ws.send("hello")
    assert await ws.recv() == "hello"
    return ws


async def leaves(ws):
    try:
        await ws.recv()
        assert False, "more than was sent"
    except websockets.ConnectionClosed as e:
        assert e.rcvd.code == 1001 and e.rcvd_then_sent, e


async def main():
    if "drain" in sys.argv:
        clients = [await open_one() for _ in range(10)]
        print("ready", flush=True)
        await asyncio.gather(*(leaves(ws) for ws in clients))
    else:
        await conversation()
        await too_big()
    print("ok")


asyncio.run(main())
