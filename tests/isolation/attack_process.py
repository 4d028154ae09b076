"""The process of an attack: the test starts it, and it attacks until the test ends its input.

The first line of its input is the attack in JSON. It prints a line when the attack has begun, and a result at the end.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

A = TypeVar("A", bound=msgspec.Struct)


def read_attack(kind: type[A]) -> A:
    """Return the attack that the test asked for."""
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=kind, dec_hook=lambda _, text: Path(text))


async def attack_until_end(
    connections: int, run: Callable[[], Awaitable[None]], begun: asyncio.Event, result: Callable[[], object]
) -> None:
    """Call `run` for each connection, report the begin and the result, and end this process."""
    running = [asyncio.ensure_future(run()) for _ in range(connections)]
    await asyncio.wait([asyncio.ensure_future(begun.wait()), *running], return_when=asyncio.FIRST_COMPLETED)
    sys.stdout.write("\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    sys.stdout.write(msgspec.json.encode(result()).decode())
    sys.stdout.flush()
    del running
    os._exit(0)  # at once, although hundreds of connections are open


@contextlib.asynccontextmanager
async def attacking(module: str, attack: msgspec.Struct) -> AsyncGenerator[dict[str, Any]]:
    """Attack while the context is open. Its dictionary has the result at the end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, stdin=pipe, stdout=pipe)
    assert process.stdin
    assert process.stdout
    process.stdin.write(msgspec.json.encode(attack, enc_hook=str) + b"\n")
    result: dict[str, Any] = {}
    try:
        await process.stdout.readline()
        yield result
    finally:
        out, _ = await process.communicate(b"")
        result.update(msgspec.json.decode(out))
