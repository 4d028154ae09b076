"""The sender and aiohttp against Node's HTTP server, in all of the ways that one behaves: they end alike."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from consumers.egress.policy import EgressPolicy
from consumers.http_client.client import HttpWebhookSender
from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from tests.kubernetes.certificates import Authority
from tests.support import node
from tests.support.node import NodeReceiver, node_receiver
from tests.support.webhooks import send, status_by_aiohttp

POLICY = EgressPolicy(allow_cidrs=["127.0.0.0/8"], allow_http=True, ports=((1024, 65535),))
TIMEOUT_S: Final = 10.0
QUIET_S: Final = 0.5
"""For what never answers."""
LARGE: Final = bytes(1_000_000)

ENDS_WITHOUT_ANSWER: Final = {
    "/silent": Code.NET_TIMEOUT,
    "/hangs-up": Code.NET_RESET,
    "/ends": Code.NET_RESET,
    "/resets": Code.NET_RESET,
    "/http-2": Code.NET_RESET,
    "/half-a-head": Code.NET_RESET,
    "/two-lengths": Code.NET_RESET,
    "/smuggles": Code.NET_RESET,
    "/switches": Code.NET_RESET,
    "/long-header": Code.NET_RESPONSE_TOO_LARGE,
    "/many-headers": Code.NET_RESPONSE_TOO_LARGE,
}
ELSEWHERE: Final = {"/switches": 101}
"""What aiohttp says where it sees it differently: it takes an answer that switches protocols for the last one."""
WITH_LARGE_BODIES: Final = {"/waits-for-the-body", "/answers-early", "/answers-early-and-stops"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who its certificate is from."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def opened(authority: Authority) -> AsyncGenerator[tuple[NodeReceiver, HttpWebhookSender]]:
    """Node, and a sender."""
    async with node_receiver(*authority.issue("127.0.0.1")) as receiver:
        sender = HttpWebhookSender(POLICY, ca_file=authority.ca_file)
        try:
            yield receiver, sender
        finally:
            await sender.aclose()


async def seen_by(receiver: NodeReceiver) -> dict[str, int]:
    """How often it was asked for each path."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{receiver.plain}/seen") as response,
    ):
        seen: dict[str, int] = json.loads(await response.text())
        return seen


async def post(sender: HttpWebhookSender, base: str, path: str) -> WebhookResponse:
    """Send a delivery to where it behaves in this way."""
    body = LARGE if path in WITH_LARGE_BODIES else b"{}"
    timeout_s = QUIET_S if path == "/silent" else TIMEOUT_S
    return await send(sender, base + path, headers={"x": "y"}, body=body, timeout_s=timeout_s)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "secured"])
async def test_node_is_read_as_another_client_reads_it(authority: Authority, *, encrypted: bool) -> None:
    """Each way comes to the status that aiohttp sees, asked once for each delivery, and harms no other delivery."""
    tls = ssl.create_default_context(cafile=str(authority.ca_file)) if encrypted else None
    async with opened(authority) as (receiver, sender):
        base = f"https://127.0.0.1:{receiver.secured}" if encrypted else f"http://127.0.0.1:{receiver.plain}"
        ours, others = dict[str, list[WebhookResponse]](), dict[str, int | None]()
        for path in receiver.paths:
            ours[path] = [await post(sender, base, path) for _ in range(2)]
            assert (await post(sender, base, "/plain")).http_status == 200, path
            body = LARGE if path in WITH_LARGE_BODIES else b"{}"
            timeout_s = QUIET_S if path == "/silent" else TIMEOUT_S
            others[path] = await status_by_aiohttp(base + path, timeout_s=timeout_s, body=body, tls=tls)
        seen = await seen_by(receiver)

    assert {path: replies[0].http_status for path, replies in ours.items()} == {
        path: None if path in ELSEWHERE else status for path, status in others.items()
    }
    assert {path: status for path, status in others.items() if path in ELSEWHERE} == ELSEWHERE
    assert {
        path: replies[0].code for path, replies in ours.items() if replies[0].http_status is None
    } == ENDS_WITHOUT_ANSWER
    assert all(
        (first.code, first.http_status) == (again.code, again.http_status) for first, again in ours.values()
    )  # how much of a body is read before a connection is given up is not said
    assert {path: count for path, count in seen.items() if path != "/plain"} == {
        path: 3 for path in receiver.paths if path != "/plain"
    }


async def test_other_parts_of_node_responses_are_read(authority: Authority) -> None:
    """`Retry-After` counts in a head and not in a trailer, and informational responses do not count."""
    async with opened(authority) as (receiver, sender):
        base = f"http://127.0.0.1:{receiver.plain}"
        replies = [
            await post(sender, base, path) for path in ("/busy", "/down", "/trailers", "/early-hints", "/chunked")
        ]

    assert replies == [
        WebhookResponse(Code.HTTP_429, 429, 7.0, 4),
        WebhookResponse(Code.HTTP_5XX, 503, 86_400.0),
        WebhookResponse(Code.HTTP_2XX, 200, None, 4),
        WebhookResponse(Code.HTTP_2XX, 200),
        WebhookResponse(Code.HTTP_2XX, 200, None, 11),
    ]


async def test_a_receiver_that_closes_idle_connections_loses_nothing(authority: Authority) -> None:
    """Deliveries arrive once although Node closes idle connections."""
    async with opened(authority) as (receiver, sender):
        replies: list[WebhookResponse] = []
        for pause_s in (0.0, 0.0, 1.3, 0.0, 1.3):
            await asyncio.sleep(pause_s)
            replies.append(await post(sender, f"http://127.0.0.1:{receiver.brief}", "/plain"))
        seen = await seen_by(receiver)

    assert replies == [WebhookResponse(Code.HTTP_2XX, 200, None, 5)] * 5
    assert seen == {"/plain": 5}


async def test_a_missing_node_fails_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests fail and name the remedy instead of being skipped."""
    monkeypatch.setenv("PLAYWRIGHT_NODEJS_PATH", str(tmp_path / "none"))

    with pytest.raises(FileNotFoundError, match="make setup"):
        node.node()
