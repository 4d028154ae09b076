"""Shares of the name service: no tenant's names delay or displace those of another tenant."""

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from consumers.dns.resolver import StubResolver
from consumers.dns.system_files import SystemNames
from consumers.egress.policy import EgressPolicy
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.resolver import MAX_LOOKUPS, MAX_TENANT_NAMES
from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from tests.component.dns.name_server import NameServerDouble, Question, serving_names
from tests.support.bytewise import receiving
from tests.support.waiting import until
from tests.support.webhooks import send

LOOPBACK = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=((1024, 65535),))
DEAD, ALIVE = "dead.example.com", "alive.example.com"


def respond(question: Question) -> list[bytes]:
    """Answer for living names only."""
    return [question.addresses("127.0.0.1")] if question.name.endswith(ALIVE) else []


@asynccontextmanager
async def sending(directory: Path) -> AsyncGenerator[tuple[HttpWebhookSender, NameServerDouble]]:
    """A sender, and its name server, which is silent about the dead names."""
    async with serving_names(respond) as server:
        names = SystemNames(servers=[server.address], resolv_conf=directory / "none", hosts=directory / "none")
        sender = HttpWebhookSender(LOOPBACK, resolver=StubResolver(names))
        try:
            yield sender, server
        finally:
            await sender.aclose()


async def post(sender: HttpWebhookSender, tenant: str, url: str, timeout_s: float) -> WebhookResponse:
    """Send a delivery of a tenant."""
    return await send(sender, url, headers={"x": "y"}, body=b"{}", timeout_s=timeout_s, tenant=tenant)


async def test_dead_names_of_a_tenant_delay_no_other_tenant(tmp_path: Path) -> None:
    """While 200 lookups of a tenant wait, each of another's resolves a new name and is delivered at once."""
    durations: list[float] = []

    async with receiving() as receiver, sending(tmp_path) as (sender, server):
        url = f":{receiver.port}/"
        dead = [asyncio.create_task(post(sender, "acme", f"http://n{one}.{DEAD}{url}", 4)) for one in range(200)]
        await until(lambda: server.asked.total() >= MAX_LOOKUPS)
        replies: list[WebhookResponse] = []
        for number in range(100):
            started = time.monotonic()
            replies.append(await post(sender, "globex", f"http://n{number}.{ALIVE}{url}", 3))
            durations.append(time.monotonic() - started)
        in_the_air = sum(name.endswith(DEAD) for name in server.asked)
        failed = await asyncio.gather(*dead)

    assert {reply.code for reply in replies} == {Code.HTTP_2XX}
    assert {reply.code for reply in failed} == {Code.NET_TIMEOUT}
    assert in_the_air <= MAX_LOOKUPS
    assert statistics.median(durations) < 0.5, "alone on a machine it is below 10 ms"


async def test_abandoned_lookups_leave_their_slots(tmp_path: Path) -> None:
    """A tenant whose lookups timed out resolves its next name at once."""
    async with receiving() as receiver, sending(tmp_path) as (sender, _):
        url = f":{receiver.port}/"
        await asyncio.gather(
            *(post(sender, "acme", f"http://n{one}.{DEAD}{url}", 0.2) for one in range(MAX_LOOKUPS + 5))
        )
        reply = await post(sender, "acme", f"http://{ALIVE}{url}", 2)

    assert reply.code is Code.HTTP_2XX


async def test_deliveries_to_one_name_share_a_lookup(tmp_path: Path) -> None:
    """However many of a tenant's deliveries wait for a name, it is asked for once."""
    async with receiving() as receiver, sending(tmp_path) as (sender, server):
        url = f"http://{ALIVE}:{receiver.port}/"
        replies = await asyncio.gather(*(post(sender, "acme", url, 5) for _ in range(30)))

    assert {reply.code for reply in replies} == {Code.HTTP_2XX}
    assert server.asked[ALIVE] <= 2, "one query for each address family"


async def test_a_tenants_names_displace_no_other_tenants_names(tmp_path: Path) -> None:
    """A tenant with more names than its share loses its own oldest names only."""
    async with receiving() as receiver, sending(tmp_path) as (sender, server):
        url = f":{receiver.port}/"
        await post(sender, "globex", f"http://{ALIVE}{url}", 5)
        asked = server.asked[ALIVE]
        for start in range(0, MAX_TENANT_NAMES + 100, 20):
            names = [f"n{number}.{ALIVE}" for number in range(start, start + 20)]
            await asyncio.gather(*(post(sender, "acme", f"http://{name}{url}", 5) for name in names))
        await post(sender, "globex", f"http://{ALIVE}{url}", 5)
        again = server.asked[ALIVE]
        oldest = server.asked[f"n0.{ALIVE}"]
        await post(sender, "acme", f"http://n0.{ALIVE}{url}", 5)

    assert again == asked
    assert server.asked[f"n0.{ALIVE}"] == 2 * oldest


async def test_a_name_that_keeps_failing_is_asked_for_less_often(tmp_path: Path) -> None:
    """The second failure is cached for twice the time of the first; a living name is not affected."""
    async with receiving() as receiver, sending(tmp_path) as (sender, server):
        dead, alive = f"http://{DEAD}:{receiver.port}/", f"http://{ALIVE}:{receiver.port}/"
        started = time.monotonic()
        seen = 0
        while time.monotonic() - started < 4:
            await post(sender, "acme", dead, 0.05)
            seen += 1
            await asyncio.sleep(0.05)
        reply = await post(sender, "acme", alive, 2)

    assert seen > 2 * 3
    assert server.asked[DEAD] <= 2 * 3, "at 0, 1 and 3 seconds"
    assert reply.code is Code.HTTP_2XX
