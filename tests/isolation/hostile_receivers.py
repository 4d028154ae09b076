"""`python -m tests.isolation.hostile_receivers`: receivers that misbehave, chosen by the path of the request.

Prints its port, and ends when its input ends.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import uvloop

Writer = asyncio.StreamWriter
_FOREVER_S = 3600.0
_CHUNK = b"x" * 1_000_000


async def _quick(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


async def _fail(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")


async def _slow(writer: Writer) -> None:
    await asyncio.sleep(5)
    await _quick(writer)


async def _silent(_: Writer) -> None:
    await asyncio.sleep(_FOREVER_S)


async def _drip(writer: Writer) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while not writer.is_closing():
        writer.write(b"a")
        await writer.drain()
        await asyncio.sleep(0.5)


async def _reset(writer: Writer) -> None:
    writer.transport.abort()


async def _big(writer: Writer) -> None:
    """Send a body of 1 GiB."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n")
    for _ in range(1074):
        writer.write(_CHUNK)
        await writer.drain()


async def _heads(writer: Writer) -> None:
    """Send header lines without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while not writer.is_closing():
        writer.write(b"a: b\r\n" * 1000)
        await writer.drain()


async def _chunks(writer: Writer) -> None:
    """Send chunks of one byte without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"1\r\nz\r\n" * 4000)
        await writer.drain()


async def _runs(writer: Writer) -> None:
    """Send a body of runs, on which a regular expression may backtrack."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3000\r\n\r\n" + b"a" * 1500 + b"\n" * 1500)


BEHAVIOURS: dict[bytes, Callable[[Writer], Awaitable[None]]] = {
    b"quick": _quick,
    b"fail": _fail,
    b"slow": _slow,
    b"silent": _silent,
    b"drip": _drip,
    b"reset": _reset,
    b"big": _big,
    b"heads": _heads,
    b"chunks": _chunks,
    b"runs": _runs,
}


async def _serve(reader: asyncio.StreamReader, writer: Writer) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            await reader.readexactly(length)
            behaviour = head.split(b" ", 2)[1].strip(b"/").split(b"/")[0]
            await BEHAVIOURS[behaviour](writer)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _main() -> None:
    os.nice(19)  # a receiver runs on another machine: it must not take the CPU of the installation
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    os._exit(0)  # at once, although thousands of requests are open


if __name__ == "__main__":
    uvloop.run(_main())
