"""A running installation with the shipped configuration: nats-server, API and consumer as processes, and two tenants.

`TENANT` attacks. `VICTIM` behaves, and `Victim` measures what it gets.
"""

import asyncio
import contextlib
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from messaging.delivery_requests import publish_request
from oneprotect.dev.nats_server import free_port
from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import streams, subjects
from schemas.events import CONTENT_TYPE
from schemas.headers import HEADER_MSG_ID
from schemas.ids import new_delivery_id
from schemas.roles import Role
from tests.support.api import Api, Client
from tests.support.ops import Ops
from tests.support.secured import Keys, ShippedServer
from tests.support.site import NAMESPACE, TENANT, Process, Site, document
from tests.support.waiting import until

VICTIM: Final = "globex"
READ_PAUSE_S: Final = 0.1
RETRY_S: Final = 1.0
"""Wait, with a jitter of a fifth, of the destination `retried`, whose receiver refuses each delivery once."""
_AT_ONCE: Final = 64


class Report(msgspec.Struct, frozen=True):
    """What the victim got: latencies from request to receipt in milliseconds, and everything that was not right."""

    sent: int
    lost: int
    wrong: Counter[str]
    p50_ms: float
    p99_ms: float
    longest_ms: float
    longest_read_ms: float
    """The longest of the lists that it read meanwhile."""

    def __str__(self) -> str:
        delays = f"p50 {self.p50_ms:.1f}, p99 {self.p99_ms:.1f}, longest {self.longest_ms:.1f} ms"
        faults = "".join(f", {count} {what}" for what, count in {"lost": self.lost, **self.wrong}.items() if count)
        return f"{self.sent} sent, {delays}, longest list {self.longest_read_ms:.1f} ms{faults}"

    def require(self, p99_ms: float) -> None:
        """Fail unless everything was delivered once, correctly and in time."""
        assert (self.lost, self.wrong) == (0, Counter()), self
        assert self.p99_ms <= p99_ms, self
        assert self.longest_read_ms <= 5 * p99_ms, self


class Victim:
    """A tenant with a receiver that verifies signatures, and a client that requests deliveries at a steady rate."""

    def __init__(self, secret: str) -> None:
        self._webhook = Webhook(secret)
        self._sent: dict[str, float] = {}
        self._received: dict[str, float] = {}
        self._refused: dict[str, bool] = {}
        """Whether a delivery that is to fail once has still to fail."""
        self._wrong: Counter[str] = Counter()
        self._arrival = asyncio.Event()
        self._client: Client | None = None
        self._reader: Client | None = None
        self._longest_read_s = 0.0

    async def _receive(self, request: web.Request) -> web.Response:
        if request.path.startswith("/once/") and self._refused.setdefault(request.headers["webhook-id"], True):
            self._refused[request.headers["webhook-id"]] = False
            return web.Response(status=503)
        now, body = asyncio.get_running_loop().time(), await request.read()
        delivery = request.headers.get("webhook-id", "")
        try:
            self._webhook.verify(body, dict(request.headers))
        except WebhookVerificationError:
            self._wrong["signature"] += 1
        self._arrival.set()
        if body != _payload(delivery):
            self._wrong["body"] += 1
        if self._received.setdefault(delivery, now) != now:
            self._wrong["received twice"] += 1
        return web.Response()

    def has_received(self, delivery: str) -> bool:
        """Return whether a delivery has arrived since the last run began."""
        return delivery in self._received

    @contextlib.asynccontextmanager
    async def receiver(self) -> AsyncGenerator[str]:
        """Run the receiver, and return its URL."""
        application = web.Application()
        application.router.add_post("/{path:.*}", self._receive)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/in"
        finally:
            await runner.cleanup()

    async def run(
        self,
        api: Api,
        *,
        seconds: float,
        destination: str = "orders",
        rate_per_s: float = 20,
        wait_s: float = 15,
    ) -> Report:
        """Request deliveries for some seconds, wait for the last of them, and report."""
        self._sent, self._received, self._wrong = {}, {}, Counter()
        self._client = self._client or await api.client(Role.PRODUCER, tenant=VICTIM)
        client = self._client
        self._reader = self._reader or await api.client(Role.VIEWER, tenant=VICTIM)
        self._longest_read_s = 0.0
        reading = asyncio.create_task(self._read(self._reader))
        loop = asyncio.get_running_loop()
        began, requests = loop.time(), set[asyncio.Task[None]]()

        async def request(delivery: str) -> None:
            self._sent[delivery] = loop.time()
            body = {"destination": destination, "event_type": "a.b", "payload": {"id": delivery}, "id": delivery}
            reply = await client("POST", f"/v1/tenants/{VICTIM}/deliveries", body)
            if reply.status != 202:
                self._wrong[f"status {reply.status}"] += 1

        for number in range(int(seconds * rate_per_s)):
            await asyncio.sleep(max(0, began + number / rate_per_s - loop.time()))
            requests.add(asyncio.create_task(request(new_delivery_id())))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await asyncio.gather(*requests)
                while self._received.keys() != self._sent.keys():
                    self._arrival.clear()
                    await self._arrival.wait()
        for task in (*requests, reading):
            task.cancel()
        return self._report()

    async def _read(self, client: Client) -> None:
        """Read lists, one after the other."""
        while True:
            for path in ("attempts?limit=20", "destinations?limit=10", "replays"):
                began = time.monotonic()
                reply = await client("GET", f"/v1/tenants/{VICTIM}/{path}")
                self._longest_read_s = max(self._longest_read_s, time.monotonic() - began)
                if reply.status != 200:
                    self._wrong[f"list: status {reply.status}"] += 1
                await asyncio.sleep(READ_PAUSE_S)

    def _report(self) -> Report:
        took = sorted((self._received[one] - at) * 1000 for one, at in self._sent.items() if one in self._received)
        lost = len(self._sent) - len(took)
        foreign = len(self._received.keys() - self._sent.keys())
        wrong = self._wrong + Counter({"foreign delivery": foreign} if foreign else {})
        took = took or [float("inf")]
        return Report(
            sent=len(self._sent),
            lost=lost,
            wrong=wrong,
            p50_ms=took[len(took) // 2],
            p99_ms=took[math.ceil(len(took) * 0.99) - 1],
            longest_ms=took[-1],
            longest_read_ms=self._longest_read_s * 1000,
        )


def _payload(delivery: str) -> bytes:
    return msgspec.json.encode({"id": delivery})


class Installation:
    """The parts of a running installation."""

    def __init__(self, site: Site, keys: Keys, api: Api, victim: Victim, hostile_url: str, ops: Ops) -> None:
        self.site = site
        self.keys = keys
        self.api = api
        self.victim = victim
        self.hostile_url = hostile_url
        """URL of the hostile receivers; the path chooses the behaviour."""
        self.ops = ops
        """Operations port of the consumer."""

    async def add_tenant(self, tenant: str) -> str:
        """Create a tenant with a credential `key`, and return its signing secret."""
        return await _add_tenant(self.site, tenant)

    async def add_destinations(self, tenant: str, urls: dict[str, str], **fields: object) -> None:
        """Create destinations of a tenant by their names."""
        create = self.site.jetstream.configuration.set_destination
        usual = {"credential": "key"} | fields
        await self._all(create(tenant, name, usual | {"url": url}, by="test") for name, url in urls.items())

    @contextlib.asynccontextmanager
    async def flood(
        self, tenants: Sequence[str], behaviour: str, *, destinations: int = 1, each: int = 1, **fields: object
    ) -> AsyncGenerator[None]:
        """Give tenants destinations with a hostile receiver and deliveries for them; delete them at the end."""
        names = [f"flood-{number}" for number in range(destinations)]
        urls = dict.fromkeys(names, f"{self.hostile_url}/{behaviour}")
        for tenant in tenants:
            await self.add_tenant(tenant)
            await self.add_destinations(tenant, urls, **fields)
        await self.fill([(tenant, name) for tenant in tenants for name in names], each)
        try:
            yield
        finally:
            delete = self.site.jetstream.configuration.delete_destination
            await self._all(delete(tenant, name, by="test") for tenant in tenants for name in names)

    async def fill(self, targets: Iterable[tuple[str, str]], each: int) -> None:
        """Request deliveries for each tenant and destination, as the API does, without its limits."""

        async def request(tenant: str, destination: str) -> None:
            delivery = new_delivery_id()
            headers = {HEADER_MSG_ID: subjects.msg_id(tenant, destination, delivery), "content-type": CONTENT_TYPE}
            data = document(destination, delivery=delivery, tenant=tenant)
            await publish_request(self.site.jetstream.publisher, tenant, destination, data, headers)

        listed = list(targets)
        await self._all(request(*target) for _ in range(each) for target in listed)

    async def _all(self, operations: Iterable[Awaitable[object]]) -> None:
        """Perform operations, some of them at once."""
        waiting = iter(operations)

        async def work() -> None:
            for operation in waiting:
                await operation

        await asyncio.gather(*(work() for _ in range(_AT_ONCE)))

    async def until_scheduled(self, count: int) -> None:
        """Wait until so many retries are scheduled."""

        async def is_scheduled() -> bool:
            info = await self.site.jetstream.connection.api(f"STREAM.INFO.{streams.RETRIES.name}")
            return int(info["state"]["messages"]) >= count

        await until(is_scheduled, 10 + count / 500)


async def _add_tenant(site: Site, tenant: str) -> str:
    secrets = site.directory / "secrets"
    [secret] = write_sample_secrets(secrets, namespace=NAMESPACE, tenant=tenant, names=[tenant]).values()
    reference = {"secret_ref": f"k8s://{NAMESPACE}/{tenant}/signing"}
    await site.jetstream.configuration.set_credential(tenant, "key", reference, by="test")
    return secret


@contextlib.asynccontextmanager
async def hostile_receivers() -> AsyncGenerator[str]:
    """Run the hostile receivers in a process of their own, and return their URL."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "tests.isolation.hostile_receivers")
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.stdin.close()
        await process.wait()


@contextlib.asynccontextmanager
async def running_installation(directory: Path, **settings: str) -> AsyncGenerator[Installation]:
    """Run an installation with a hostile and a well-behaved tenant."""
    keys = Keys(directory / "keys", [TENANT, VICTIM])
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(ShippedServer(directory / "nats", keys))
        access = {name: keys.settings(name, server.url) for name in ("operator", "api", "consumer")}
        operator = {name.removeprefix("ONEPROTECT_").lower(): value for name, value in access["operator"].items()}
        usual = {"ack_wait_s": "30", "log_level": "info", "secret_retry_schedule_s": "5"}
        usual |= {"retry_schedule_s": "30,60,300,900,3600"}  # as shipped: quicker retries would be the load
        site = await stack.enter_async_context(Site(directory, server, **(usual | operator | settings)))
        api_port, ops_port = free_port(), free_port()
        api_environ = {"ONEPROTECT_API_PORT": str(api_port)}
        consumer_environ = {"ONEPROTECT_OPS_PORT": str(ops_port)}
        for name, environ in (("api", api_environ), ("consumer", consumer_environ)):
            await stack.enter_async_context(_process(site, name, access[name] | environ))
        session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
        api, ops = Api(site, f"http://127.0.0.1:{api_port}", session), Ops(ops_port)
        hostile_url = await stack.enter_async_context(hostile_receivers())
        victim = Victim(await _add_tenant(site, VICTIM))
        installation = Installation(site, keys, api, victim, hostile_url, ops)
        url = await stack.enter_async_context(victim.receiver())
        await installation.add_destinations(VICTIM, {"orders": url})
        await installation.add_destinations(VICTIM, {"queue": url}, ordering="fifo")
        once = url.replace("/in", "/once/in")
        await installation.add_destinations(VICTIM, {"retried": once}, retry_schedule_s=[RETRY_S])
        await until(Ops(api_port).is_ready, 20)
        await until(ops.is_ready, 20)
        (await victim.run(api, seconds=0.5)).require(60_000)  # its token and its connection are known from here on
        yield installation


@contextlib.asynccontextmanager
async def _process(site: Site, name: str, environ: dict[str, str]) -> AsyncGenerator[Process]:
    """Run a process of the installation, which must still run at the end."""
    process = await Process.start(site.environ | environ, name)
    try:
        yield process
        assert process.process.returncode is None, f"{name} ended: {process.output[-2000:].decode(errors='replace')}"
    finally:
        process.kill()
        await process.wait()
        (site.directory / f"{name}.log").write_bytes(process.output)
