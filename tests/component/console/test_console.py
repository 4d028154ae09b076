"""The console over HTTP: sign-in, forms, and content that no page shows. Browser tests cover the appearance."""

import asyncio
import contextlib
import html
import io
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import pytest

from messaging import direct_get
from oneprotect.api.auth.token_format import parse_token_id
from oneprotect.console.app import LIVE, PAGES
from oneprotect.console.web.event_stream import MAX_BUFFERED, MAX_SESSION_STREAMS, MAX_TOKEN_STREAMS, EventBuffer
from schemas import streams
from schemas.codes import Code, Outcome
from schemas.events import ConfigChanged, decode_result
from schemas.roles import ALL_TENANTS, Role
from tests.component.attempts.test_search import recorded
from tests.support.api import Api, Client, Reply, running
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

BASE: Final = f"/console/t/{TENANT}"
HOSTILE: Final = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
FORM: Final = "application/x-www-form-urlencoded"


class Visitor:
    """A minimal browser."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self._origin = {"origin": url}
        self.cookie = ""

    async def get(self, path: str, **headers: str) -> Reply:
        """Open a page."""
        return await self._client("GET", path, headers={"cookie": self.cookie, **headers})

    async def post(self, path: str, fields: Mapping[str, str] = {}, **headers: str) -> Reply:
        """Send a form from a page of the console."""
        sent = {"cookie": self.cookie, "content-type": FORM, **self._origin, **headers}
        return await self._client("POST", path, data=urlencode(fields), headers=sent)

    async def sign_in(self, token: str, **headers: str) -> Reply:
        """Sign in, and keep the cookie."""
        answer = await self.post("/console/sign-in", {"token": token}, **headers)
        self.cookie = answer.headers.get("set-cookie", "").partition(";")[0]
        return answer

    async def form_token(self) -> str:
        """Return the CSRF token of the session's forms."""
        found = re.search(rb'name="form_token" value="([0-9a-f]{64})"', (await self.get("/console/integrations")).body)
        assert found
        return found[1].decode()

    async def submit(self, path: str, **fields: str) -> Reply:
        """Send a form as its page would."""
        return await self.post(path, {"form_token": await self.form_token(), **fields})


async def _visitor(api: Api, *roles: Role, tenant: str = TENANT) -> Visitor:
    visitor = Visitor(await api.client(), api.url)
    if roles:
        assert (await visitor.sign_in(await api.token(*roles, tenant=tenant))).status == 303
    return visitor


def _paths(method: str, tenant: str = TENANT) -> list[str]:
    paths = [page.path for page in PAGES if page.method == method and page.needs_session] + (
        [LIVE] if method == "GET" else []
    )
    return [path.replace("{tenant}", tenant).replace("{id}", "orders").replace("{delivery}", "dlv_1") for path in paths]


async def test_signing_in_gives_a_cookie_that_is_no_token(api: Api) -> None:
    """Out of scripts' reach, for this site alone, and of no use at the API; behind https for https only."""
    token = await api.token(Role.VIEWER)
    visitor = await _visitor(api)

    plain = (await visitor.sign_in(token)).headers["set-cookie"]
    page = await visitor.get("/console/integrations")
    secure = (await visitor.sign_in(token, **{"x-forwarded-proto": "https"})).headers["set-cookie"]

    (row, *_) = [
        one
        async for one in direct_get.scan(api.site.jetstream.connection, "KV_oneprotect_tokens", ">")
        if ".session-" in one.subject
    ]
    assert row.headers["Nats-TTL"] == "43200s"
    assert page.status == 200
    assert re.fullmatch(r"oneprotect_console=\S+; Path=/; HttpOnly; SameSite=Strict", plain)
    assert re.fullmatch(r"__Host-oneprotect_console=\S+; Secure; Path=/; HttpOnly; SameSite=Strict", secure)
    assert token[28:] not in plain + page.body.decode()
    value = plain.partition("=")[2].partition(";")[0]
    assert (await api.with_token(value)("GET", f"/v1/tenants/{TENANT}/destinations")).status == 401


@pytest.mark.parametrize("token", ["", "hunter2-hunter2", "oneprotect_" + "a" * 65, "x" * 100_000])
async def test_a_bad_token_is_refused_and_not_repeated(api: Api, token: str) -> None:
    """The page reports the refusal."""
    visitor = await _visitor(api)

    answer = await visitor.sign_in(token)

    assert answer.status == 401
    assert b'role="alert"' in answer.body
    assert "set-cookie" not in answer.headers
    assert not token or token.encode() not in answer.body


async def test_a_producer_cannot_sign_in(api: Api) -> None:
    """A producer's token opens no page."""
    visitor = await _visitor(api)

    answer = await visitor.sign_in(await api.token(Role.PRODUCER))

    assert answer.status == 403
    assert b"can only publish" in answer.body


async def test_guessing_tokens_is_slowed_down(api: Api) -> None:
    """An address with too many failures must wait."""
    visitor = await _visitor(api)

    statuses = [(await visitor.sign_in("oneprotect_guess")).status for _ in range(30)]

    assert statuses[0] == 401
    assert statuses[-1] == 429


async def test_every_page_requires_a_session(api: Api) -> None:
    """Each page redirects to the form, and the form back to the page."""
    visitor = await _visitor(api)

    for path in _paths("GET"):
        answer = await visitor.get(path)
        assert answer.status in (303, 401), path
        if answer.status == 303:
            assert answer.headers["location"] == f"/console/sign-in?next={path}"
    for path in _paths("POST"):
        assert (await visitor.post(path)).status in (303, 403), path


async def test_pages_without_a_session_leave_room_to_sign_in(api: Api) -> None:
    """A visitor without a session uses up what its address may request, and another one there signs in."""
    visitor, colleague = await _visitor(api), await _visitor(api)

    token, signed_in, statuses = await api.token(Role.VIEWER), list[int](), Counter[int]()

    async def open_pages() -> None:
        while len(signed_in) < 8:
            statuses[(await visitor.get("/console/integrations")).status] += 1

    async def sign_in() -> None:
        await until(lambda: statuses[429] > 20)
        while len(signed_in) < 8:
            signed_in.append((await colleague.sign_in(token)).status)

    await asyncio.gather(open_pages(), open_pages(), sign_in())

    assert signed_in == [303] * 8


async def test_signing_in_never_redirects_to_another_site(api: Api) -> None:
    """Sign-in redirects to a page of the console."""
    visitor = await _visitor(api)
    token = await api.token(Role.VIEWER)

    for to in ("https://evil.example/", "//evil.example", "/console/../v1", "/console/\\x", "/console/\nx", "x:1"):
        answer = await visitor.post("/console/sign-in", {"token": token, "next": to})
        assert answer.headers["location"] == "/console/integrations", to
    answer = await visitor.post("/console/sign-in", {"token": token, "next": f"{BASE}/failed?code=http.5xx"})
    assert answer.headers["location"] == f"{BASE}/failed?code=http.5xx"


async def test_a_session_ends_with_its_token_and_by_signing_out(api: Api, site: Site) -> None:
    """A revoked token ends its session at once; after sign-out the cookie opens nothing."""
    token = await api.token(Role.VIEWER)
    revoked, out = await _visitor(api), await _visitor(api)
    await revoked.sign_in(token)
    await out.sign_in(await api.token(Role.VIEWER))
    assert (await revoked.get(f"{BASE}/failed")).status == 200

    await site.jetstream.tokens.delete(token.removeprefix("oneprotect_")[:16], by="test")
    assert (await out.submit("/console/sign-out")).status == 303

    async def is_out() -> bool:
        return (await revoked.get(f"{BASE}/failed")).status == 303

    await until(is_out, 5)
    assert (await out.get(f"{BASE}/failed")).status == 303


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "a.b.c", "..", ".", "*.*.*", "a.>.c", "a" * 16 + "." + "b" * 16 + "." + "c" * 64, "é.é.é", "a.b.c.d.e"],
)
async def test_a_made_up_cookie_opens_nothing(api: Api, cookie: str) -> None:
    """Nor one with the id of a real token."""
    visitor = await _visitor(api, Role.VIEWER)
    token_id = visitor.cookie.partition("=")[2].partition(".")[0]

    for made_up in (cookie, f"{token_id}.{cookie}"):
        visitor.cookie = f"oneprotect_console={made_up}"
        assert (await visitor.get(f"{BASE}/failed")).status == 303


async def test_no_page_of_another_tenant_opens(api: Api) -> None:
    """A token of another tenant is forbidden in every role; a token for all tenants is allowed."""
    for role in (Role.VIEWER, Role.ADMIN, Role.OPERATOR):
        visitor = await _visitor(api, role, tenant="globex")
        for path in _paths("GET"):
            if f"/t/{TENANT}/" in path:
                assert (await visitor.get(path)).status == 403, path
        for path in _paths("POST"):
            if f"/t/{TENANT}/" in path:
                assert (await visitor.submit(path)).status == 403, path
    everywhere = await _visitor(api, Role.OPERATOR, tenant=ALL_TENANTS)
    assert (await everywhere.get(f"{BASE}/integrations")).status == 200
    assert (await everywhere.get("/console/tenant?tenant=acme")).headers["location"] == f"{BASE}/integrations"


async def test_forged_forms_are_rejected(api: Api, site: Site, receiver: Scripted) -> None:
    """The form token is missing or wrong, or the origin is another site or missing."""
    await site.destination("orders", receiver.url)
    visitor = await _visitor(api, Role.OPERATOR)
    mark = await visitor.form_token()
    other = await (await _visitor(api, Role.OPERATOR)).form_token()
    path = f"{BASE}/destinations/orders/disable"

    refused = [
        await visitor.post(path),
        await visitor.post(path, {"form_token": other}),
        await visitor.post(path, {"form_token": mark}, origin="https://evil.example"),
        await visitor.post(path, {"form_token": mark}, origin="null"),
        await visitor.post(path, {"form_token": mark}, **{"sec-fetch-site": "cross-site"}),
        await visitor.post(path, {"form_token": mark}, **{"sec-fetch-site": "same-site"}),
        await visitor.post("/console/sign-in", {"token": await api.token(Role.VIEWER)}, origin="https://evil.example"),
    ]

    assert [answer.status for answer in refused] == [403] * 7
    assert (await site.jetstream.configuration.get_destination(TENANT, "orders")).enabled
    assert (await visitor.post(path, {"form_token": mark}, **{"sec-fetch-site": "same-origin"})).status == 303
    assert not (await site.jetstream.configuration.get_destination(TENANT, "orders")).enabled


async def test_a_viewer_changes_nothing(api: Api, site: Site, receiver: Scripted) -> None:
    """The pages have no buttons, and their requests are refused."""
    await site.destination("orders", receiver.url)
    visitor = await _visitor(api, Role.VIEWER)

    page = await visitor.get(f"{BASE}/destinations/orders")
    statuses = {path: (await visitor.submit(path)).status for path in _paths("POST") if "/t/" in path}

    assert b"Disable" not in page.body
    assert set(statuses.values()) == {403}, statuses
    assert (await site.jetstream.configuration.get_destination(TENANT, "orders")).enabled


async def test_every_change_in_the_console_is_audited(api: Api, site: Site, receiver: Scripted) -> None:
    """The audit event names the token and the address."""
    await site.destination("orders", receiver.url)
    visitor = await _visitor(api, Role.OPERATOR)

    assert (await visitor.submit(f"{BASE}/destinations/orders/disable")).status == 303
    page = await visitor.get(f"{BASE}/destinations/orders")
    assert (await visitor.submit(f"{BASE}/destinations/orders/enable")).status == 303

    records = [one for one in await site.records(streams.EVENTS) if ".config.changed." in one.subject]
    told = [msgspec.json.decode(one.data, type=ConfigChanged).data for one in records[-2:]]
    token_id = visitor.cookie.partition("=")[2].partition(".")[0]
    assert [(one.action, one.by, one.address) for one in told] == [
        ("disable", f"token:{token_id}", "127.0.0.1"),
        ("enable", f"token:{token_id}", "127.0.0.1"),
    ]
    assert b"Disabled" in page.body


BAD = (
    "/attempts?cursor=!!!",
    "/attempts?cursor=bm90IG91cnM",
    "/attempts?cursor=LTE",
    f"/attempts?destination={HOSTILE}",
    "/attempts?code=nonsense",
    "/attempts?outcome=delivered&outcome=failed",
    "/attempts?since=yesterday",
    "/attempts?nothing=known",
    "/attempts?delivery=" + "x" * 100,
    "/attempts?since=2026-11-23T20:00&until=2026-11-23T19:00",
    "/replays/new?outcome=lost",
    "/failed?cursor=" + "A" * 600,
    "/failed?event_type=..",
    "/failed?until=2026-13-45T99:99",
    "/replays/new?rate=fast",
    "/replays/new?rate=nan&dry_run=1",
    "/replays/new?rate=-1",
    "/replays/unknown",
    "/replays/UPPER",
    "/replays/unknown/progress",
    "/destinations/unknown",
    f"/destinations/{HOSTILE.replace('/', '%2F')}",
    "/deliveries/unknown",
    "/deliveries/%00",
    f"/deliveries/dlv_1?destination={HOSTILE}",
    "/live?code=nonsense",
    "/nowhere",
    "/integrations?cursor=e30",
)


async def test_bad_input_is_answered_with_a_clear_page(api: Api) -> None:
    """A 4xx names the violated rule, repeats no input and has all headers."""
    visitor = await _visitor(api, Role.OPERATOR)

    for path in BAD:
        answer = await visitor.get(BASE + quote(path, safe="/?&=%"))
        assert answer.status in (400, 404, 422), path
        assert answer.headers["content-type"] == "text/html; charset=utf-8", path
        _assert_safe(answer)
        assert b"<h1>" in answer.body
        assert b"alert(" not in answer.body, path
        assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"token=" + b"x" * 3_000_000, {}),
        (b"\xff\xfe", {}),
        (b"&".join(b"a%d=1" % number for number in range(1000)), {}),
        (b'{"token": 1}', {"content-type": "application/json"}),
    ],
    ids=["huge", "no UTF-8", "many fields", "JSON"],
)
async def test_a_bad_form_is_answered_with_a_clear_page(api: Api, data: bytes, headers: dict[str, str]) -> None:
    """The form is too large, of another type, or malformed."""
    client = await api.client()

    answer = await client(
        "POST", "/console/sign-in", data=io.BytesIO(data), headers={"content-type": FORM, "origin": api.url} | headers
    )

    assert answer.status in (400, 413, 415)
    _assert_safe(answer)


def _assert_safe(answer: Reply) -> None:
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"


async def test_every_value_is_escaped_on_every_page(api: Api, site: Site) -> None:
    """A description, a reason, a captured response: on every page, as text."""
    await site.destination("orders", "http://127.0.0.1:1024/", description=HOSTILE)
    await site.jetstream.configuration.disable_destination(TENANT, "orders", by="test", reason=HOSTILE)
    result = recorded(1, tenant=TENANT, destination="orders", code=Code.HTTP_5XX, response_body=HOSTILE)
    await site.jetstream.publisher.publish(result)
    visitor = await _visitor(api, Role.OPERATOR)

    pages = [
        await visitor.get(BASE + path)
        for path in ("/integrations", "/destinations/orders", "/attempts", "/deliveries/dlv_1", "/failed")
    ]

    bodies = [page.body.decode() for page in pages]
    assert all(page.status == 200 for page in pages)
    assert not any("<script>alert" in body or "<img src=x" in body for body in bodies)
    assert all("&lt;script&gt;alert" in bodies[shown] for shown in (1, 3)), "they are shown"
    assert not any(re.search(r"\son\w+=|style=|<script(?! src=)", re.sub(r"&lt;.*?&gt;", "", body)) for body in bodies)


async def test_no_url_and_no_ref_is_shown(api: Api, site: Site, receiver: Scripted) -> None:
    """The pages show the host of a URL, the name of a header and the status of a Secret."""
    await site.destination("orders", f"{receiver.url}/veiled?token=veiled", headers={"x-api-key": "veiled"})
    visitor = await _visitor(api, Role.OPERATOR)

    pages = [await visitor.get(f"{BASE}{path}") for path in ("/integrations", "/destinations/orders")]

    for page in pages:
        assert b"127.0.0.1" in page.body
        assert b"veiled" not in page.body
        assert f"k8s://{NAMESPACE}".encode() not in page.body
        assert b"signing-key" not in page.body
    assert b"x-api-key" in pages[1].body


async def test_only_operators_see_the_exact_state_of_a_secret(api: Api, site: Site) -> None:
    """The cause could reveal Secrets of other tenants."""
    result = recorded(1, tenant=TENANT, destination="orders", code=Code.SECRET_DENIED)
    await site.jetstream.publisher.publish(result)
    operator, viewer = await _visitor(api, Role.OPERATOR), await _visitor(api, Role.VIEWER)

    for path in ("/attempts", "/deliveries/dlv_1", "/attempts?code=secret.unavailable"):
        assert b"secret.denied" not in (await viewer.get(BASE + path)).body
    assert b"dlv_1" in (await viewer.get(f"{BASE}/attempts?code=secret.unavailable")).body
    assert b"secret.denied" in (await operator.get(f"{BASE}/attempts")).body


async def test_files_are_kept_by_browsers_for_good(api: Api) -> None:
    """Their names change with their content; any other name is nothing."""
    visitor = await _visitor(api)
    page = (await visitor.get("/console/sign-in")).body.decode()
    names = re.findall(r"/console/static/[\w.]+", page)

    files = [await visitor.get(name) for name in set(names)]

    assert len(files) == 3
    assert {answer.status for answer in files} == {200}
    assert all("immutable" in answer.headers["cache-control"] for answer in files)
    for name in ("console.css", "..%2f..%2frouting.py", "console.000000000000.css"):
        assert (await visitor.get(f"/console/static/{name}")).status == 404


async def test_empty_pages_show_the_next_command(api: Api) -> None:
    """The page shows a command with the tenant."""
    viewer = await _visitor(api, Role.VIEWER)
    everywhere = await _visitor(api, Role.OPERATOR, tenant=ALL_TENANTS)

    for path, says in (
        ("/integrations", f"oneprotect destination set orders --tenant {TENANT}"),
        ("/attempts", f"oneprotect deliver --tenant {TENANT}"),
        ("/replays", f"oneprotect replay --tenant {TENANT}"),
        ("/failed", "No failed deliveries"),
    ):
        assert says in (await viewer.get(BASE + path)).body.decode(), path
    assert (
        "oneprotect credential set key --tenant initech"
        in (await everywhere.get("/console/t/initech/integrations")).body.decode()
    )
    assert "No tenants yet" in (await everywhere.get("/console/integrations")).body.decode()


async def test_a_search_continues_by_a_link(api: Api, site: Site) -> None:
    """A page that reached its limit shows how far it searched, and links further back."""
    for number in range(5000):
        await site.jetstream.publisher.publish(
            recorded(number, tenant=TENANT, destination="orders", code=Code.HTTP_410 if number == 3 else Code.HTTP_2XX)
        )
    visitor = await _visitor(api, Role.VIEWER)

    page = (await visitor.get(f"{BASE}/attempts?code=http.410")).body.decode()
    link = re.search(r'href="([^"]+cursor=[^"]+)"', page)

    assert "Search further back" in page
    assert link
    further = await visitor.get(html.unescape(link[1]))
    assert b"dlv_3<" in further.body, further.body


async def test_live_attempts_come_as_events(site: Site) -> None:
    """Those that fit, as rows; the stream ends when the process does, which does not wait for it."""
    async with aiohttp.ClientSession() as session:
        async with running(site) as api:
            visitor = await _visitor(api, Role.VIEWER)
            live = await session.get(f"{api.url}{BASE}/live?destination=orders", headers={"cookie": visitor.cookie})
            assert live.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert b"hello" in await live.content.readuntil(b"\n\n")
            for number, destination in ((1, "other"), (2, "orders")):
                result = recorded(number, tenant=TENANT, destination=destination, code=Code.HTTP_2XX)
                await site.jetstream.publisher.publish(result)
            event = await asyncio.wait_for(live.content.readuntil(b"\n\n"), 30)
            assert event.startswith(b"event: attempts\n")
            assert b"dlv_2" in event
            assert b"dlv_1" not in event
            began = time.monotonic()
        assert time.monotonic() - began < 10
        assert await live.content.read() == b"event: bye\ndata: \n\n"


async def test_a_session_has_a_maximum_number_of_live_streams(api: Api) -> None:
    """A further stream is a 429 until another one is closed."""
    visitor = await _visitor(api, Role.VIEWER)
    headers = {"cookie": visitor.cookie}
    async with aiohttp.ClientSession() as session:
        held = [await session.get(f"{api.url}{BASE}/live", headers=headers) for _ in range(MAX_SESSION_STREAMS)]
        for one in held:
            await one.content.readuntil(b"\n\n")
        assert (await visitor.get(f"{BASE}/live")).status == 429

        held[0].close()

        async def has_room() -> bool:
            async with session.get(f"{api.url}{BASE}/live", headers=headers) as answer:
                return answer.status == 200

        await until(has_room, 15)
        for one in held:
            one.close()


async def _follow(
    api: Api, visitor: Visitor, session: aiohttp.ClientSession, opened: contextlib.AsyncExitStack
) -> aiohttp.ClientResponse:
    """Open a live stream, and wait until it has begun unless it was refused."""
    answer = await session.get(f"{api.url}{BASE}/live", headers={"cookie": visitor.cookie})
    opened.callback(answer.close)
    if answer.status == 200:
        await answer.content.readuntil(b"\n\n")
    return answer


async def test_live_streams_are_limited_by_token_and_by_tenant(site: Site) -> None:
    """Sessions of one token share its limit, tokens share the limit of their tenant, and other tenants have theirs."""
    async with (
        running(site, tenant_max_streams="25") as api,
        aiohttp.ClientSession() as session,
        contextlib.AsyncExitStack() as opened,
    ):
        token = await api.token(Role.VIEWER)
        viewers = [Visitor(await api.client(), api.url) for _ in range(6)]
        for viewer in viewers:
            await viewer.sign_in(token)
        by_token = [(await _follow(api, viewer, session, opened)).status for viewer in viewers for _ in range(5)]
        second = await _visitor(api, Role.VIEWER)
        by_tenant = [(await _follow(api, second, session, opened)).status for _ in range(MAX_SESSION_STREAMS)]
        operator = await _visitor(api, Role.OPERATOR, tenant=ALL_TENANTS)
        other = (await _follow(api, operator, session, opened)).status

    assert by_token == [200] * MAX_TOKEN_STREAMS + [429] * 10
    assert by_tenant == [200] * 5 + [429]
    assert other == 200


async def test_a_live_stream_ends_with_its_session_and_with_its_token(api: Api) -> None:
    """Signing out, also in another process, and revoking the token end the stream within seconds."""
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as opened:
        token = await api.token(Role.VIEWER)
        leaving, revoked = Visitor(await api.client(), api.url), Visitor(await api.client(), api.url)
        for visitor in (leaving, revoked):
            await visitor.sign_in(token)
        left, cut = [await _follow(api, visitor, session, opened) for visitor in (leaving, revoked)]

        assert (await leaving.submit("/console/sign-out")).status == 303
        async with asyncio.timeout(30):
            assert b"event: bye" in await left.content.read()
        assert not cut.content.at_eof()

        await api.site.jetstream.tokens.delete(parse_token_id(token) or "", by="test")
        async with asyncio.timeout(30):
            assert b"event: bye" in await cut.content.read()


def test_a_slow_client_misses_the_oldest_attempts_and_sees_how_many() -> None:
    """The buffer of one client is bounded."""
    arrivals = EventBuffer(lambda event: event.data.outcome is Outcome.DELIVERED)
    for number in range(MAX_BUFFERED + 5):
        one = recorded(number, tenant=TENANT, destination="orders", code=Code.HTTP_2XX)
        arrivals.add(decode_result(one.payload))
    other = recorded(9, tenant=TENANT, destination="orders", code=Code.HTTP_5XX)
    arrivals.add(decode_result(other.payload))
    taken, missed = arrivals.drain()

    assert (len(taken), missed) == (MAX_BUFFERED, 5)
    assert taken[0].data.delivery == "dlv_5"
    assert arrivals.drain() == ([], 0)


async def test_a_page_reports_that_nats_is_down(api: Api, site: Site) -> None:
    """The page says when to retry; the session is still valid afterwards."""
    visitor = await _visitor(api, Role.VIEWER)
    await site.server.stop()

    away = await visitor.get(f"{BASE}/integrations")
    await site.server.start()

    assert away.status == 503
    assert away.headers["retry-after"] == "2"
    assert b"NATS does not respond" in away.body
    _assert_safe(away)

    async def is_back() -> bool:
        return (await visitor.get(f"{BASE}/integrations")).status == 200

    await until(is_back, 20)


async def test_a_replay_is_planned_begun_and_cancelled(api: Api, site: Site, receiver: Scripted) -> None:
    """The dry run also counts delivered deliveries; progress is shown, and an ended replay cannot be cancelled."""
    async with Scripted([500]) as broken:
        await site.destination("broken", broken.url, retry_schedule_s=())
        await site.destination("orders", receiver.url)
        async with site.consumer():
            for name in ("broken", "broken", "orders"):
                await site.deliver(name)
            await until(site.is_settled, 10)
    visitor = await _visitor(api, Role.OPERATOR)

    plan = await visitor.get(f"{BASE}/replays/new?destination=broken&dry_run=1")
    delivered = await visitor.get(f"{BASE}/replays/new?outcome=delivered&dry_run=1")
    begun = await visitor.submit(f"{BASE}/replays", destination="broken", code="http.5xx", rate="0.01")
    place = begun.headers["location"]
    running = await visitor.get(f"{place}/progress")
    cancelled = await visitor.submit(f"{place}/cancel")
    over = await visitor.get(f"{place}/progress")
    again = await visitor.submit(f"{place}/cancel")

    assert b"Deliveries to replay: 2" in plan.body
    assert b"Deliveries to replay: 1" in delivered.body
    assert begun.status == cancelled.status == 303
    assert b'data-over="no"' in running.body
    assert b"Cancel replay" in running.body
    assert b'data-over="yes"' in over.body
    assert b"Cancelled" in over.body
    assert again.status == 409
    assert place.rpartition("/")[2].encode() in (await visitor.get(f"{BASE}/replays")).body
