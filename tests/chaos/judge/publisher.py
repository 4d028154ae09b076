"""Publishers: each repeats a request over the HTTP API until the API accepts it."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from tests.chaos.judge.history import Key, Request

PATIENCE_S: Final = 5.0
REPEATED: Final = 0.05
"""Part of the accepted requests that their publisher repeats once more, up to `LATEST_S` seconds later."""
LATEST_S: Final = 60.0
_REFUSED: Final = frozenset({400, 401, 403, 404, 409, 413, 415, 422})
_DECIDED: Final = _REFUSED | {202}


class Publisher:
    """A publisher with a steady rate, for one destination or, with several `destinations`, for one event type."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        urls: Sequence[str],
        chance: random.Random,
        *,
        name: str,
        destinations: Sequence[str],
        rate_per_s: float,
        at_once: int = 1,
    ) -> None:
        self._http, self._urls, self._chance = http, urls, chance
        self._name, self._destinations = name, destinations
        self._pause_s, self._at_once = at_once / rate_per_s, at_once
        self._again: set[asyncio.Task[None]] = set()
        self._until = 0.0
        self.requests: list[Request] = []

    async def run(self, until: float) -> None:
        """Publish until a time, some requests at once and then the next; each one is repeated until it is accepted."""
        self._until = until
        due = time.monotonic()
        number = 0
        while due < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await asyncio.gather(*(self._publish(number + one) for one in range(self._at_once)))
            number += self._at_once
            due = max(due + self._pause_s, time.monotonic() - 1.0)
        await asyncio.gather(*self._again)

    async def _publish(self, number: int) -> None:
        delivery = f"{self._name}-{number:06}"
        requests = [Request(Key(name, delivery), number, time.monotonic(), repeated=[]) for name in self._destinations]
        self.requests += requests
        status = 0
        while status not in _DECIDED:
            status = await self._ask(delivery, number)
        for request in requests:
            if status == 202:
                request.accepted = time.monotonic()
            else:
                request.refused = status
        if status == 202 and self._chance.random() < REPEATED:
            self._again.add(asyncio.create_task(self._repeat(requests, number)))

    async def _repeat(self, requests: Sequence[Request], number: int) -> None:
        latest = min(LATEST_S, max(1.0, self._until - time.monotonic()))
        await asyncio.sleep(self._chance.uniform(0, latest))
        for request in requests:
            request.repeated.append(time.monotonic())
        status = await self._ask(requests[0].key.delivery, number)
        if status in _REFUSED:
            for request in requests:
                request.refused = status

    async def _ask(self, delivery: str, number: int) -> int:
        """Return the status that decides the request, or 0 after a pause when it must be repeated."""
        body: dict[str, Any] = {"event_type": self._name, "id": delivery, "payload": {"number": number}}
        if len(self._destinations) == 1:
            body["destination"] = self._destinations[0]
        try:
            async with self._http.post(f"{self._chance.choice(self._urls)}/deliveries", json=body) as answer:
                await answer.read()
                if answer.status in _DECIDED:
                    return answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        await asyncio.sleep(self._chance.uniform(0.05, 0.5))
        return 0
