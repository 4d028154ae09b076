"""A receiver that fails at random and records the order of the deliveries that it accepted."""

import random
from collections.abc import Sequence

from aiohttp import web

from tests.support.receiver import HANG, RESET, Scripted, Step

FAILURES: Sequence[Step] = (500, 503, RESET, HANG)


class Flaky(Scripted):
    """A receiver that fails `fails` percent of its requests in one of four ways; `seed` fixes the choice."""

    def __init__(self, *, fails: int = 30, seed: int = 1) -> None:
        super().__init__()
        self.fails = fails
        self.accepted: list[str] = []
        """The webhook-id of each delivery when it was accepted for the first time."""
        self._random = random.Random(seed)  # noqa: S311 - not for security

    async def _act(self, step: Step, request: web.Request) -> web.StreamResponse:
        if self._random.randrange(100) < self.fails:
            step = self._random.choice(FAILURES)
        elif (delivery := request.headers["webhook-id"]) not in self.accepted:
            self.accepted.append(delivery)
        return await super()._act(step, request)
