"""The receivers: one server for all destinations, which notes each request, its answer and the process that sent it."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, Self, cast

import msgspec

from tests.chaos.judge.history import Key, Post

_PERIOD_S: Final = 60.0


class Behaviour(msgspec.Struct, frozen=True):
    """How a destination answers: with 503 in some cases, and after a random time."""

    failing: float = 0.0
    slowest_s: float = 0.0
    down_s: float = 0.0
    """Seconds of each `_PERIOD_S` in which it answers 503 only, so that the circuit breaker opens."""

    def status(self, chance: random.Random, now: float) -> int:
        """Return the next status to answer."""
        return 503 if now % _PERIOD_S < self.down_s or chance.random() < self.failing else 200


class Receiver:
    """Receives `POST /<destination>`; `sender_of` returns the process that has a local port."""

    def __init__(
        self, behaviours: dict[str, Behaviour], sender_of: Callable[[int], str], chance: random.Random
    ) -> None:
        self.behaviours = behaviours
        self.sender_of = sender_of
        self.chance = chance
        self.posts: list[Post] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=1024
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time, as the product's client sends them."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._buffer = b""
        self._sender = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base
        self._sender = self._receiver.sender_of(transport.get_extra_info("peername")[1])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if len(rest) < int(headers.get("content-length", 0)):
            return
        self._buffer = b""
        destination = line.split(" ")[1].strip("/")
        post = Post(Key(destination, headers["webhook-id"]), time.monotonic(), 0.0, 0, self._sender)
        behaviour, chance = self._receiver.behaviours[destination], self._receiver.chance
        status = behaviour.status(chance, post.started)
        asyncio.get_running_loop().call_later(chance.random() * behaviour.slowest_s, self._answer, post, status)

    def _answer(self, post: Post, status: int) -> None:
        post.ended = time.monotonic()
        if not self._transport.is_closing():
            post.status = status
            self._transport.write(f"HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n".encode())
        self._receiver.posts.append(post)
