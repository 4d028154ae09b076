"""`python -m bench.api`: rate and latency of `POST …/deliveries`, compared with a bare loop in the same run."""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import median
from typing import Final, Self

import msgspec
import psutil
import uvloop
from msgspec import Struct

from bench.harness import bare_api
from bench.harness.child import Child, child
from bench.harness.errors import BenchError
from messaging.admin import topology
from messaging.client.errors import JetStreamError
from oneprotect.bootstrap.resources import JetStream, open_jetstream, stream_limits
from oneprotect.dev.nats_server import SYNC_INTERVAL, EmbeddedNats, EmbeddedNatsError, free_port
from oneprotect.settings.settings import Settings
from schemas import streams
from schemas.roles import Role, TokenSpec

CONNECTIONS: Final = 64
PACE_PER_S: Final = 200
WARM_UP_S: Final = 0.5
START_TIMEOUT_S: Final = 20.0
BARE: Final = streams.StreamConfig(
    name="BARE_API",
    subjects=("bare.api",),
    description="The bare loop's.",
    retention="workqueue",
    duplicate_window_s=600,
)


class Measured(Struct, frozen=True):
    """The result of a contender: medians over the rounds, and latency at a steady pace."""

    per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    accepted: int
    server_cpu_us: float = 0.0
    """CPU time of nats-server for a request."""


class Contender:
    """A server under measurement. `is_named`: the requests name the delivery id."""

    def __init__(
        self, name: str, process: Child, port: int, head: str, nats: psutil.Process, *, is_named: bool = True
    ) -> None:
        self.name = name
        self.is_named = is_named
        self.rounds: list[tuple[float, float, float]] = []
        self.accepted = 0
        self.latencies_ms: list[float] = []
        self._process = process
        self._port = port
        self._head = head
        self._nats = nats

    async def wait_until_up(self) -> None:
        """Wait until the server accepts a request. Raises `BenchError`."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, BenchError, asyncio.IncompleteReadError):
                async with _Connection(self._port, self._head) as connection:
                    await connection.post(self._key("up"))
                    self.accepted += 1
                    return
            await asyncio.sleep(0.1)
        raise BenchError(f"the {self.name} does not answer{self._process.log_tail()}")

    async def round(self, number: int, seconds: float) -> float:
        """Send requests over all connections for `seconds`, and return the requests per second."""
        stop = time.perf_counter() + seconds
        cpu_s, nats_s, began = self._process.cpu_s(), self._nats_s(), time.perf_counter()
        counts = await asyncio.gather(*(self._press(f"{number}-{one}", stop) for one in range(CONNECTIONS)))
        took_s, count = time.perf_counter() - began, sum(counts)
        self.accepted += count
        used = (self._process.cpu_s() - cpu_s, self._nats_s() - nats_s)
        self.rounds.append((count / took_s, used[0] / count * 1e6, used[1] / count * 1e6))
        return count / took_s

    def _nats_s(self) -> float:
        times = self._nats.cpu_times()
        return times.user + times.system

    def _key(self, key: str) -> str | None:
        return f"{self.name.replace(' ', '-')}-{key}" if self.is_named else None

    async def _press(self, name: str, stop: float) -> int:
        count = 0
        async with _Connection(self._port, self._head) as connection:
            while time.perf_counter() < stop:
                await connection.post(self._key(f"{name}-{count}"))
                count += 1
        return count

    async def pace(self, seconds: float) -> None:
        """Send requests one after the other at a steady pace, and time each from its due time."""
        lines = [asyncio.create_task(self._line(one, seconds)) for one in range(8)]
        for line in lines:
            self.latencies_ms += await line
        self.accepted += len(self.latencies_ms)

    async def _line(self, number: int, seconds: float) -> list[float]:
        interval_s, took_ms = 8 / PACE_PER_S, list[float]()
        async with _Connection(self._port, self._head) as connection:
            began = time.perf_counter() + number * interval_s / 8
            for count in range(int(seconds / interval_s)):
                due = began + count * interval_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                await connection.post(self._key(f"paced-{number}-{count}"))
                took_ms.append((time.perf_counter() - due) * 1000)
        return took_ms

    def measured(self) -> Measured:
        """Return the result."""
        latencies = sorted(self.latencies_ms)
        return Measured(
            per_s=median(per_s for per_s, _, _ in self.rounds),
            cpu_us=median(cpu_us for _, cpu_us, _ in self.rounds),
            server_cpu_us=median(server_us for _, _, server_us in self.rounds),
            p50_ms=latencies[len(latencies) // 2],
            p99_ms=latencies[int(len(latencies) * 0.99)],
            accepted=self.accepted,
        )


class _Connection:
    """A kept connection with a minimal HTTP client."""

    _BODY: Final = msgspec.json.encode(
        {"event_type": "invoice.paid", "destination": "orders", "payload": {"invoice": 42, "text": "x" * 300}}
    )

    def __init__(self, port: int, head: str) -> None:
        self._port = port
        self._head = head

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._writer.close()

    async def post(self, key: str | None) -> None:
        """Request a delivery. Raises `BenchError` unless the response is a 202."""
        named = f"idempotency-key: {key}\r\n" if key else ""
        head = f"{self._head}{named}content-length: {len(self._BODY)}\r\n\r\n"
        self._writer.write(head.encode() + self._BODY)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        fields = answer.lower()
        at = fields.index(b"content-length: ") + 16
        body = await self._reader.readexactly(int(fields[at : fields.index(b"\r\n", at)]))
        if not answer.startswith(b"HTTP/1.1 202"):
            raise BenchError(f"refused: {answer[:40]!r} {body[:200]!r}")


@contextlib.asynccontextmanager
async def _site(directory: Path, sync_interval: str) -> AsyncGenerator[tuple[JetStream, list[Contender]]]:
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedNats(directory / "nats", sync_interval=sync_interval))
        ports = [free_port(), free_port()]
        environ = {
            "ONEPROTECT_NATS_URL": server.url,
            "ONEPROTECT_API_PORT": str(ports[0]),
            "ONEPROTECT_WORK_PER_DESTINATION": "1000000",
            "ONEPROTECT_WORK_PER_TENANT": "1000000",
            "ONEPROTECT_TENANT_RATE_PER_S": "1000000",
            "ONEPROTECT_TENANT_TOKEN_RATE_PER_S": "1000000",
            "ONEPROTECT_TENANT_MAX_CONCURRENT": "65536",
            "ONEPROTECT_LOG_LEVEL": "warning",
        }
        settings = Settings.load(environ)
        jetstream = await stack.enter_async_context(open_jetstream(settings, name="bench"))
        token = await _set_up(jetstream, settings)
        api = await stack.enter_async_context(
            child("product", "oneprotect", "api", log=directory / "api.log", environ=environ)
        )
        bare = await stack.enter_async_context(child("bare loop", "bench.harness.bare_api", log=directory / "bare.log"))
        bare.tell(msgspec.json.encode(bare_api.Setup(server.url, ports[1], BARE.subjects[0])))
        head = "POST /v1/tenants/acme/deliveries HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        authorized = f"{head}authorization: Bearer {token}\r\n"
        nats = psutil.Process(server.pid)
        contenders = [
            Contender("product", api, ports[0], authorized, nats, is_named=False),
            Contender("named ids", api, ports[0], authorized, nats),
            Contender("bare loop", bare, ports[1], head, nats),
        ]
        for contender in contenders:
            await contender.wait_until_up()
        yield jetstream, contenders


async def _set_up(jetstream: JetStream, settings: Settings) -> str:
    """Create streams and a destination, and return the token of a producer."""
    per_destination = settings.nats.work_per_destination
    await topology.apply(
        jetstream.connection,
        replicas=1,
        work_per_destination=per_destination,
        ack_wait_s=settings.delivery.ack_wait_s,
        limits=stream_limits(settings),
    )
    config = topology.stream_config(
        BARE, replicas=1, work_per_destination=per_destination, limits=stream_limits(settings)
    )
    await jetstream.connection.api(f"STREAM.CREATE.{BARE.name}", config)
    await jetstream.configuration.set_credential("acme", "key", {"secret_ref": "k8s://a/b/c"}, by="bench")
    destination = {"url": "https://example.com/in", "credential": "key"}
    await jetstream.configuration.set_destination("acme", "orders", destination, by="bench")
    _, token = await jetstream.tokens.create(TokenSpec(tenant="acme", roles=(Role.PRODUCER,)), by="bench")
    return token.reveal()


async def _run(rounds: int, seconds: float, sync_interval: str) -> dict[str, Measured]:
    with tempfile.TemporaryDirectory(prefix="oneprotect-bench-") as directory:
        async with _site(Path(directory), sync_interval) as (jetstream, contenders):
            for contender in contenders:
                await contender.round(-1, WARM_UP_S)
                contender.rounds.clear()
            for number in range(rounds):
                for contender in contenders:
                    await contender.round(number, seconds)
            for contender in contenders:
                await contender.pace(seconds)
            *products, bare = contenders
            for stream, accepted in (
                (streams.WORK.name, sum(one.accepted for one in products)),
                (BARE.name, bare.accepted),
            ):
                state = (await jetstream.connection.api(f"STREAM.INFO.{stream}"))["state"]
                if state["messages"] != accepted:
                    raise BenchError(f"{stream}: {accepted} accepted, {state['messages']} stored")
            return {contender.name: contender.measured() for contender in contenders}


def _table(found: dict[str, Measured]) -> str:
    lines = [f"POST …/deliveries, {CONNECTIONS} connections, one API process; latency at {PACE_PER_S}/s", ""]
    lines.append(f"{'':12}{'POST/s':>10}{'CPU us':>10}{'server us':>10}{'p50 ms':>10}{'p99 ms':>10}")
    for name, one in found.items():
        lines.append(
            f"{name:12}{one.per_s:10.0f}{one.cpu_us:10.0f}{one.server_cpu_us:10.0f}{one.p50_ms:10.2f}{one.p99_ms:10.1f}"
        )
    product, named, bare = found["product"], found["named ids"], found["bare loop"]
    lines += [
        "",
        "all that was accepted is stored, once",
        f"POST, product / bare loop: {product.per_s / bare.per_s:.2f}",
        f"a named id, of the rate: {named.per_s / product.per_s:.2f}, of the CPU: {named.cpu_us / product.cpu_us:.2f}",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the bench and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round (%(default)s)")
    parser.add_argument(
        "--sync-interval", default=SYNC_INTERVAL, help="of nats-server: `always` or a time (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    arguments = parser.parse_args()
    try:
        found = uvloop.run(_run(arguments.rounds, arguments.seconds, arguments.sync_interval))
    except (BenchError, EmbeddedNatsError, JetStreamError, psutil.Error, OSError) as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    print(_table(found))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.encode(found) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
