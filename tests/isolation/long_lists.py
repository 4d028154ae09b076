"""An installation with long lists, and the operations that must work on it."""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from messaging.publication import Publication
from oneprotect.api.auth.token_format import IssuedToken
from schemas import streams
from schemas.configuration import Credential, Destination, Replay, ReplayFilter, ReplayState
from schemas.events import now
from schemas.ids import new_replay_id
from schemas.roles import Role, Token
from schemas.streams import BucketConfig
from tests.support.api import Api, Client
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

OTHER = "acme-eu"
AT_ONCE = 500
SUBSCRIBED = 3


class ListSizes(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one tenant, and destinations of all tenants."""

    destinations: int
    all_destinations: int
    credentials: int
    tokens: int
    replays: int


class Stopwatch:
    """Times of steps, with the memory of a process."""

    def __init__(self, pid: int | None = None) -> None:
        self.lines: list[str] = []
        self._status = Path(f"/proc/{pid or 'self'}/statm")
        self._at = time.perf_counter()

    def lap(self, step: str) -> None:
        """Note the time since the last step."""
        at = time.perf_counter()
        self.lines.append(f"{step}: {at - self._at:.2f} s, {self._resident_mb():.0f} MB")
        self._at = time.perf_counter()

    def _resident_mb(self) -> float:
        return int(self._status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


async def fill(site: Site, sizes: ListSizes) -> None:
    """Store the rows without the checks of the API, which would take minutes."""
    await _store(site, streams.DESTINATIONS, _destinations(sizes))
    credential = msgspec.json.encode(Credential(secret_ref=f"k8s://{NAMESPACE}/signing-key/signing"))
    await _store(site, streams.CREDENTIALS, ((f"{TENANT}.c{n:06}", credential) for n in range(sizes.credentials)))
    await _store(site, streams.TOKENS, _tokens(sizes.tokens))
    replay = Replay(
        filter=ReplayFilter(),
        by="test",
        started_at=now(),
        until_sequence=1,
        state=ReplayState.FINISHED,
        unattended=True,
    )
    row = msgspec.json.encode(replay)
    await _store(site, streams.REPLAYS, ((f"{TENANT}.{new_replay_id()}", row) for _ in range(sizes.replays)))


def _destinations(sizes: ListSizes) -> Iterator[tuple[str, bytes]]:
    def row(*event_types: str) -> bytes:
        return msgspec.json.encode(Destination(url="https://example.com/in", credential="key", event_types=event_types))

    for number in range(sizes.destinations):
        yield f"{TENANT}.d{number:06}", row("rare.*" if number < SUBSCRIBED else "invoice.paid", f"own.e{number}")
    for number in range(sizes.all_destinations - sizes.destinations):
        yield f"t{number % 1000}.d{number:06}", row("invoice.*")


def _tokens(count: int) -> Iterator[tuple[str, bytes]]:
    for _ in range(count):
        issued = IssuedToken()
        token = Token(tenant=TENANT, roles=(Role.VIEWER,), digest=issued.digest, created_at=now(), created_by="test")
        yield f"{TENANT}.{issued.id}", msgspec.json.encode(token)


async def _store(site: Site, bucket: BucketConfig, rows: Iterable[tuple[str, bytes]]) -> None:
    publications = [Publication(f"$KV.{bucket.name}.{key}", value, {}) for key, value in rows]
    for start in range(0, len(publications), AT_ONCE):
        await asyncio.gather(*map(site.jetstream.publisher.publish, publications[start : start + AT_ONCE]))


async def read_all_pages(client: Client, path: str) -> list[str]:
    """Return the ids of a list of the API, page by page."""
    found: list[str] = []
    cursor = ""
    while True:
        reply = await client("GET", f"{path}?limit=500{cursor}")
        assert reply.status == 200, reply.body
        found += [item["id"] for item in reply.json["items"]]
        if reply.json["next"] is None:
            return found
        cursor = f"&cursor={reply.json['next']}"


async def use_lists(api: Api, sizes: ListSizes, watch: Stopwatch) -> None:
    """List everything, publish to one destination and to all that subscribe, and open the console."""
    base = f"/v1/tenants/{TENANT}"
    client = await api.client("admin", "operator", "producer", "viewer")
    destinations = await read_all_pages(client, f"{base}/destinations")
    assert destinations == [f"d{number:06}" for number in range(sizes.destinations)]
    watch.lap(f"list {sizes.destinations} destinations")
    assert len(await read_all_pages(client, f"{base}/credentials")) == sizes.credentials + 1
    watch.lap(f"list {sizes.credentials} credentials")
    replays = await read_all_pages(client, f"{base}/replays")
    assert (len(replays), replays) == (sizes.replays, sorted(replays, reverse=True))
    watch.lap(f"list {sizes.replays} replays")
    assert len(await api.site.jetstream.tokens.list(TENANT)) >= sizes.tokens
    watch.lap(f"list {sizes.tokens} tokens")

    request = {"event_type": "rare.case", "payload": 1}
    for step in ("first fan-out", "next fan-out"):
        reply = await client("POST", f"{base}/deliveries", request)
        assert [one["destination"] for one in reply.json["deliveries"]] == destinations[:SUBSCRIBED]
        watch.lap(step)
    assert (await client("POST", f"{base}/deliveries", request | {"destination": destinations[-1]})).status == 202
    watch.lap("publish to one destination")
    refused = await client("POST", f"{base}/deliveries", {"event_type": "invoice.paid", "payload": 1})
    assert (refused.status, "destinations subscribe" in refused.json["detail"]) == (422, True), refused.body
    assert await api.site.waiting() == 2 * SUBSCRIBED + 1, "nothing of the refused fan-out is stored"
    watch.lap("refuse a fan-out to more than 1,000")

    page = await client("GET", f"/console/t/{TENANT}/integrations", headers={"cookie": await _session_cookie(api)})
    assert page.status == 200
    assert b"More destinations" in page.body
    assert b"More credentials" in page.body
    watch.lap("console page")


async def _session_cookie(api: Api) -> str:
    token = await api.token("admin", "operator")
    form = await api.with_token(None)("GET", "/console/sign-in")
    assert form.status == 200
    reply = await api.with_token(None)(
        "POST",
        "/console/sign-in",
        data=f"token={token}".encode(),
        headers={"content-type": "application/x-www-form-urlencoded", "origin": api.url},
    )
    return reply.headers["set-cookie"].partition(";")[0]


async def is_checked_within(site: Site, deadline_s: float) -> float:
    """Create a credential of another tenant, and return the seconds until a consumer has checked it."""
    configuration = site.jetstream.configuration
    name = f"new-{time.monotonic_ns()}"
    began = time.perf_counter()
    await configuration.set_credential(OTHER, name, {"secret_ref": f"k8s://{NAMESPACE}/signing-key/signing"}, by="test")

    async def is_checked() -> bool:
        return (await configuration.get_credential(OTHER, name)).checked_at is not None

    await until(is_checked, deadline_s)
    return time.perf_counter() - began
