"""`python -m tests.isolation.hostile_client`: requests that burden the API, in a process of their own.

The first line of its input is an `Attack` in JSON. The process repeats it until its input ends. It prints a line when
the attack has begun, and then the count of each status; 0 is a request without a response.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """A request that each of several connections repeats; `{n}` in path, headers and body is a number that grows.

    With `drip` each connection sends the head of the request instead, and then one byte of its body from time to time.
    """

    url: str
    path: str
    method: str = "POST"
    headers: dict[str, str] = {}
    body: str = ""
    connections: int = 8
    pause_s: float = 0.0
    drip: bool = False


class Attacker:
    """The connections of one attack."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack
        self._numbers = itertools.count()
        self.statuses: Counter[int] = Counter()
        self.begun = asyncio.Event()

    async def repeat(self) -> None:
        """Send requests on one connection, one after the other."""
        attack = self._attack
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                number = str(next(self._numbers))
                path, body = attack.path.replace("{n}", number), attack.body.replace("{n}", number)
                headers = {name: value.replace("{n}", number) for name, value in attack.headers.items()}
                url = attack.url + path
                try:
                    async with session.request(attack.method, url, data=body.encode(), headers=headers) as response:
                        await response.read()
                        self.statuses[response.status] += 1
                except aiohttp.ClientError:
                    self.statuses[0] += 1
                self.begun.set()
                await asyncio.sleep(attack.pause_s)

    async def drip(self) -> None:
        """Hold a connection open with single bytes, and open another one when the server closes it."""
        attack, address = self._attack, urlsplit(self._attack.url)
        lines = "".join(f"{name}: {value}\r\n" for name, value in attack.headers.items())
        head = f"{attack.method} {attack.path} HTTP/1.1\r\nhost: x\r\n{lines}content-length: 1000000\r\n\r\n"
        while True:
            self.statuses[0] += 1
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(address.hostname, address.port)
                writer.write(head.encode())
                self.begun.set()
                while not writer.is_closing():
                    await asyncio.sleep(0.5)
                    writer.write(b"x")
                    await writer.drain()
            await asyncio.sleep(0.5)


async def _main() -> None:
    attack = msgspec.json.decode(sys.stdin.buffer.readline(), type=Attack)
    attacker = Attacker(attack)
    run = attacker.drip if attack.drip else attacker.repeat
    running = [asyncio.create_task(run()) for _ in range(attack.connections)]
    await attacker.begun.wait()
    sys.stdout.write("\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    sys.stdout.write(json.dumps(attacker.statuses))
    sys.stdout.flush()
    del running
    os._exit(0)


@contextlib.asynccontextmanager
async def attacking(attack: Attack) -> AsyncGenerator[Counter[int]]:
    """Run an attack in a process of its own. Its statuses are known at the end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=pipe, stdout=pipe)
    assert process.stdin
    assert process.stdout
    process.stdin.write(msgspec.json.encode(attack) + b"\n")
    statuses: Counter[int] = Counter()
    try:
        await process.stdout.readline()
        yield statuses
    finally:
        out, _ = await process.communicate(b"")
        statuses.update({int(status): count for status, count in json.loads(out).items()})


if __name__ == "__main__":
    uvloop.run(_main())
