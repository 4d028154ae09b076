"""A receiver with a script for each request: answer, hang, or reset the connection."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import msgspec
from aiohttp import web

HANG = "hang"
RESET = "reset"


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response."""

    status: int
    headers: dict[str, str] = {}


Step = int | str | Answer


class Seen(msgspec.Struct, frozen=True):
    """A received request; `at` is the time of the event loop in seconds."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        """Return the `webhook-id`."""
        return self.headers["webhook-id"]


class Scripted:
    """A receiver that runs `script` for each webhook-id and repeats its last step; a context manager."""

    def __init__(self, script: Iterable[Step] = (200,)) -> None:
        self.script: Sequence[Step] = list(script)
        self.seen: list[Seen] = []
        self.hold: asyncio.Event | None = None
        """An event that every response waits for, or None."""
        self.on_request: Callable[[Seen], None] = lambda _: None
        self._counts: dict[str, int] = {}
        self._release = asyncio.Event()

    def ids(self) -> list[str]:
        """Return the webhook-ids in the order of arrival."""
        return [seen.id for seen in self.seen]

    def of(self, delivery: str) -> list[Seen]:
        """Return the requests of one delivery."""
        return [seen for seen in self.seen if seen.id == delivery]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(
            request.path_qs,
            {name.lower(): value for name, value in request.headers.items()},
            await request.read(),
            asyncio.get_running_loop().time(),
        )
        self.seen.append(seen)
        self.on_request(seen)
        count = self._counts.get(seen.id, 0)
        self._counts[seen.id] = count + 1
        if self.hold:
            await self.hold.wait()
        return await self._act(self.script[min(count, len(self.script) - 1)], request)

    async def _act(self, step: Step, request: web.Request) -> web.StreamResponse:
        if isinstance(step, int):
            return web.Response(status=step)
        if isinstance(step, Answer):
            return web.Response(status=step.status, headers=step.headers)
        if step == RESET:
            assert request.transport is not None
            request.transport.abort()
        else:
            await self._release.wait()
        return web.Response(status=200)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}/in"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._release.set()
        if self.hold:
            self.hold.set()
        with contextlib.suppress(Exception):
            await self._runner.cleanup()
