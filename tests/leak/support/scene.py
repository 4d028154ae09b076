"""Deliveries with every outcome, in an installation whose secrets are canaries."""

import contextlib
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Self

from aiohttp import web

from schemas.codes import Outcome
from tests.kubernetes.manifests import EXPIRES_AT, manifest, write
from tests.leak.support.malformed import MALFORMED, made_of
from tests.leak.support.threaded_doubles import run_in_thread
from tests.support.leaks import Canary, Search
from tests.support.receiver import HANG, RESET, Answer, Scripted, Step
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

MARKER: Final = "a-harmless-marker"

_PAYLOAD = f'{{"marker": "{MARKER}"}}'.encode()


class Scene:
    """A tenant during a rollover, with receivers that succeed, fail, respond late or never."""

    def __init__(self, site: Site, receivers: Iterable[Scripted], echo: str) -> None:
        self._site = site
        self.receiver, self.slow, self.gone = receivers
        self._echo = echo
        self.current, self.previous = Canary.secret("current secret"), Canary.secret("previous secret")
        self.spoiled = Canary.secret("spoiled secret")
        self.query, self.header = Canary.word("URL's query"), Canary.word("destination's header")
        self.ref = Canary.word("ref")

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, site: Site) -> AsyncGenerator[Self]:
        """The scene, set up, with its receivers elsewhere."""
        async with contextlib.AsyncExitStack() as stack:
            script: list[Step] = [500, Answer(503, {"retry-after": "1"}), Answer(302, {"location": "/"}), RESET, 200]
            scripts: tuple[list[Step], ...] = (script, [HANG], [410])
            receivers = [await stack.enter_async_context(run_in_thread(partial(Scripted, it))) for it in scripts]
            echo = await stack.enter_async_context(run_in_thread(_echo))
            scene = cls(site, receivers, echo)
            await scene._set_up()
            yield scene

    async def _set_up(self) -> None:
        secrets, configuration = self._site.directory / "secrets", self._site.jetstream.configuration
        expiry = {EXPIRES_AT: (datetime.now(UTC) + timedelta(days=1)).isoformat()}
        pair = {"signing": self.current.reveal_bytes(), "signing.previous": self.previous.reveal_bytes()}
        write(secrets, manifest(name=self.ref.reveal(), data=pair, annotations=expiry))
        write(secrets, manifest(name="spoiled", data={"signing": made_of(self.spoiled, MALFORMED["no base64"])}))
        for name, secret in (("key", self.ref.reveal()), ("spoiled", "spoiled"), ("missing", "missing")):
            place = {"secret_ref": f"k8s://{NAMESPACE}/{secret}/signing"}
            await configuration.set_credential(TENANT, name, place, by=MARKER)
        await self._destination("orders", self.receiver.url, capture_response=True)
        await self._destination("echo", self._echo, capture_response=True)
        await self._destination("slow", self.slow.url, timeout_s=20)
        await self._destination("late", self.slow.url, timeout_s=0.2, retry_schedule_s=())
        await self._destination("gone", self.gone.url)
        await self._destination("closed", "http://127.0.0.1:1024/", retry_schedule_s=())
        await self._destination("spoiled", self.receiver.url, credential="spoiled")
        await self._destination("missing", self.receiver.url, credential="missing")

    async def _destination(self, name: str, url: str, **fields: object) -> None:
        headers = {"x-api-key": self.header.reveal()}
        await self._site.destination(name, f"{url}?token={self.query.reveal()}", headers=headers, **fields)

    async def play(self) -> None:
        """Request deliveries, restart NATS, and leave one endless delivery in flight."""
        site = self._site
        delivery = await site.deliver("orders", delivery=MARKER)
        for name in ("echo", "late", "gone", "closed", "spoiled", "missing", "nowhere"):
            await site.deliver(name, payload=_PAYLOAD)
        await site.publish("orders", b"{" + MARKER.encode(), "dlv_poison")
        await until(lambda: self.receiver.seen, 10)
        await site.server.restart()
        await until_ended(site, delivery, Outcome.DELIVERED)
        await site.deliver("slow")
        await until(lambda: len(self.slow.seen) > 1, 10)

    @property
    def signatures(self) -> list[Canary]:
        """Every signature that was sent."""
        return signatures(self.receiver, self.slow, self.gone)

    @property
    def secrets(self) -> Search:
        """Values that no output may contain."""
        return Search(self.current, self.previous, self.spoiled, *self.signatures)

    @property
    def configuration(self) -> Search:
        """Values that only the configuration may contain."""
        return Search(self.query, self.header, self.ref)


def signatures(*receivers: Scripted) -> list[Canary]:
    """Every signature that receivers have seen."""
    headers = [seen.headers["webhook-signature"] for receiver in receivers for seen in receiver.seen]
    return [Canary("signature", part.removeprefix("v1,")) for part in {part for one in headers for part in one.split()}]


async def until_ended(site: Site, delivery: str, outcome: Outcome) -> None:
    """Wait for a delivery to have ended so."""

    async def ended() -> bool:
        return any(result.outcome is outcome for result in await site.results(delivery))

    await until(ended, 20)


@contextlib.asynccontextmanager
async def _echo() -> AsyncGenerator[str]:
    """Return the URL of a receiver that responds with the received signature."""

    async def handle(request: web.Request) -> web.Response:
        return web.Response(text=f"{MARKER} {request.headers['webhook-signature']}")

    application = web.Application()
    application.router.add_post("/in", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/in"
    await runner.cleanup()
