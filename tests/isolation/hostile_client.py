"""`python -m tests.isolation.hostile_client`: requests that burden the API, in a process of their own.

The result is the count of each status; 0 is a request without a response, or a connection.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop

from tests.isolation.attack_process import attack_until_end, read_attack


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
    attacker = Attacker(attack := read_attack(Attack))
    run = attacker.drip if attack.drip else attacker.repeat
    await attack_until_end(attack.connections, run, attacker.begun, lambda: attacker.statuses)


if __name__ == "__main__":
    uvloop.run(_main())
