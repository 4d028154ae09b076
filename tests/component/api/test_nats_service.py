"""Delivery requests over NATS: the bodies and answers of the HTTP API, for every producer that can send a request."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas import streams, subjects
from schemas.events import CONTENT_TYPE, decode_request
from schemas.headers import CLAIMED, HEADER_CHECKED, HEADER_CLAIM
from schemas.roles import Role
from tests.support.api import Api, running
from tests.support.receiver import Scripted
from tests.support.secured import Keys, ShippedServer
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

SUBJECT = subjects.deliveries(TENANT)
BODY: dict[str, Any] = {"event_type": "invoice.paid", "destination": "orders", "payload": {"n": 1}}
PAYLOAD = b'{"a" :  1.50, "\\u00e4":"\xc3\xa4"}'
EVENT = {"specversion": "1.0", "id": "e-1", "source": "/billing", "time": "2026-11-23T20:00:00Z"}
REQUEST = {**EVENT, "type": "oneprotect.delivery.requested.v1", "tenant": TENANT}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@contextlib.asynccontextmanager
async def producing(server: EmbeddedNats, **options: Any) -> AsyncGenerator[Any]:
    """Return an independent client."""
    client: Any = NatsClient()
    await client.connect(server.url, allow_reconnect=False, **options)
    try:
        yield client
    finally:
        await client.close()


@pytest_asyncio.fixture
async def producer(api: Api) -> AsyncGenerator[Any]:
    """Return a producer of an installation whose API runs, with the destination `orders`."""
    await api.site.destination("orders", "http://127.0.0.1:9999/", event_types=["*"])
    async with producing(api.site.server) as client:
        yield client


async def ask(client: Any, body: Any, subject: str = SUBJECT, **headers: str) -> Msg:
    """Send a request; `_` in the name of a header is `-`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply: Msg = await client.request(subject, data, timeout=10, headers=named or None)
    return reply


def status(reply: Msg) -> int:
    """Return the status of the equal HTTP response."""
    code = (reply.headers or {}).get("Nats-Service-Error-Code")
    assert (code is None) == ("deliveries" in json.loads(reply.data))
    return 202 if code is None else int(code)


def with_payload(envelope: dict[str, Any], place: str, payload: bytes = PAYLOAD) -> bytes:
    """Return the envelope as JSON with the bytes of a payload at `place`, a path like `data.payload`."""
    document = json.loads(json.dumps(envelope))
    at = document
    *outer, last = place.split(".")
    for name in outer:
        at = at.setdefault(name, {})
    at[last] = "PAYLOAD"
    return json.dumps(document).encode().replace(b'"PAYLOAD"', payload)


async def test_a_request_is_answered_like_a_post_and_delivered_byte_for_byte(api: Api, receiver: Scripted) -> None:
    """The answer has the id and the destinations, and comes after the request is stored."""
    await api.site.destination("orders", receiver.url)
    body = {"event_type": "invoice.paid", "destination": "orders"}
    async with producing(api.site.server) as client, api.site.consumer():
        reply = await ask(client, with_payload(body, "payload"), idempotency_key="order-1", content_type="text/json")
        assert status(reply) == 415
        reply = await ask(client, with_payload(body, "payload"), Idempotency_Key="order-1", traceparent=TRACE)
        await until(api.site.is_settled, 10)

    accepted = {"id": "order-1", "destination": "orders", "duplicate": False}
    assert json.loads(reply.data) == {"id": "order-1", "deliveries": [accepted]}
    assert (reply.headers or {})["content-type"] == "application/json"
    assert [(seen.id, seen.body) for seen in receiver.seen] == [("order-1", PAYLOAD)]


@pytest.mark.parametrize(
    ("body", "headers", "content_type"),
    [
        (with_payload(REQUEST, "data.payload") , {"content_type": CONTENT_TYPE}, None),
        (with_payload(REQUEST, "data.payload"), {}, None),
        (with_payload({**EVENT, "type": "invoice.paid", "destination": "orders"}, "data"), {}, None),
        (PAYLOAD, {"ce_type": "invoice.paid", "ce_destination": "orders"}, "application/json"),
        (with_payload({"destination": "orders"}, "payload"), {"ce_type": REQUEST["type"]}, None),
    ],
    ids=["request", "request without content type", "event", "event in binary mode", "request in binary mode"],
)  # fmt: skip
async def test_a_cloud_event_requests_a_delivery(
    api: Api, producer: Any, body: bytes, headers: dict[str, str], content_type: str | None
) -> None:
    """The event's id is the delivery id, and its payload is stored unchanged."""
    if "ce_type" in headers:
        headers = {"ce_specversion": "1.0", "ce_id": "e-1", "ce_source": "/billing", **headers}
    body = body.replace(b'"payload":', b'"event_type": "invoice.paid", "payload":')

    reply = await ask(producer, body, **headers)

    assert json.loads(reply.data)["deliveries"] == [{"id": "e-1", "destination": "orders", "duplicate": False}]
    (record,) = await api.site.records(streams.WORK)
    stored = decode_request(record.data)
    assert (stored.id, stored.data.event_type, stored.data.body()) == ("e-1", "invoice.paid", PAYLOAD)
    assert stored.data.body_content_type == content_type or content_type is None


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({**EVENT, "type": "a.b", "datacontenttype": "text/xml", "data": "<a>\u00e4</a>"}, {}),
        (
            {
                **EVENT,
                "type": "a.b",
                "datacontenttype": "text/xml",
                "data_base64": base64.b64encode("<a>\u00e4</a>".encode()).decode(),
            },
            {},
        ),
        ("<a>\u00e4</a>".encode(), {"ce_specversion": "1.0", "ce_id": "e-1", "ce_source": "/", "ce_type": "a.b"}),
    ],
    ids=["text", "base64", "binary mode"],
)
async def test_a_cloud_event_may_carry_any_content(api: Api, producer: Any, body: Any, headers: dict[str, str]) -> None:
    """The receiver gets the content and its type. Without a destination, all subscribers get it."""
    reply = await ask(producer, body, **headers, **({"content_type": "text/xml"} if headers else {}))

    assert status(reply) == 202, reply.data
    (record,) = await api.site.records(streams.WORK)
    data = decode_request(record.data).data
    assert (data.body().decode(), data.body_content_type) == ("<a>\u00e4</a>", "text/xml")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"specversion": "2.0"}, "specversion"),
        ({"id": "no id"}, "id"),
        ({"id": None}, "id"),
        ({"source": ""}, "source"),
        ({"type": "oneprotect.ping"}, "event_type"),
        ({"type": "com/example"}, "event_type"),
        ({"tenant": "globex"}, "tenant"),
        ({"destination": "unknown"}, "destination"),
        ({"data": None, "datacontenttype": "text/plain"}, None),
        ({"data_base64": "%%%", "datacontenttype": "text/plain"}, "payload_base64"),
        ({"type": REQUEST["type"]}, None),
        ({"type": REQUEST["type"], "data": {"event_type": "a", "payload": 1, "id": "other"}}, "data.id"),
    ],
)
async def test_a_broken_rule_of_cloud_events_is_a_problem(
    api: Api, producer: Any, change: dict[str, Any], field: str | None
) -> None:
    """The reply names the field and the rule, and nothing is stored."""
    reply = await ask(producer, {**EVENT, "type": "a.b", "data": {"n": 1}, **change})

    assert status(reply) == 422, reply.data
    assert json.loads(reply.data)["errors"][0]["field"] == field
    assert await api.site.records(streams.WORK) == []


async def test_a_cloud_event_without_data_is_a_problem(producer: Any) -> None:
    """There would be nothing to deliver."""
    for kind in ("a.b", REQUEST["type"]):
        reply = await ask(producer, {**EVENT, "type": kind})
        assert (status(reply), json.loads(reply.data)["errors"][0]["field"]) == (422, "data")


async def test_a_problem_is_in_the_headers_of_services_too(producer: Any) -> None:
    """A client of the services framework reads the status and the text without the body."""
    reply = await ask(producer, {**BODY, "destination": "unknown"})

    assert reply.headers == {
        "content-type": "application/problem+json",
        "Nats-Service-Error-Code": "422",
        "Nats-Service-Error": "Unprocessable Entity: "
        "`destination`: the tenant has no destination of this name; create it first",
    }
    assert json.loads(reply.data)["type"] == "urn:oneprotect:problem:invalid"


async def test_every_malformed_request_is_answered_with_a_problem(api: Api, producer: Any) -> None:
    """Nothing is stored, and the next request is accepted."""
    bodies = {
        b"": 400,
        b"\xff\xfe": 400,
        b"\x00": 400,
        b"nul\x00": 400,
        b"[" * 10_000: 422,
        b'{"event_type":"a.b","destination":"orders","payload":' + b"[" * 10_000: 400,
        b'{"event_type":"a.b","destination":"orders","payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}": 400,
        b'{"specversion":"1.0","type":"a","source":"/","id":"e","data":' + b'{"a":' * 10_000: 400,
        b"1" * 1_000_000: 413,
        json.dumps({**BODY, "payload": "a" * 300_000}).encode(): 413,
        b'{"specversion":"1.0"}': 422,
        b"{}": 422,
        b"null": 422,
    }
    replies = {body: await ask(producer, body) for body in bodies}

    assert {body[:60]: status(reply) for body, reply in replies.items()} == {b[:60]: code for b, code in bodies.items()}
    assert await api.site.records(streams.WORK) == []
    assert status(await ask(producer, BODY)) == 202


async def test_a_token_that_is_no_tenant_is_refused(api: Api) -> None:
    """Wildcards, control characters and bytes that are not UTF-8 reach no tenant."""
    await api.site.destination("orders", "http://127.0.0.1:9999/")
    tokens = [b"*", b"ac*", b">", b"\xff\xfe", b"a\x00b", b"a\x01", b"ACME", b"acme$", b"-", b"a" * 64, b"\xc3\xa4"]
    async with raw_client(api.site.server) as (read, write):
        body = json.dumps(BODY).encode()
        for number, token in enumerate(tokens):
            subject = subjects.deliveries("*").encode().replace(b"*", token)
            write.write(b"PUB %b _INBOX.raw.%d %d\r\n%b\r\n" % (subject, number, len(body), body))
        replies: list[bytes] = []
        while len(replies) < len(tokens):
            line = await asyncio.wait_for(read.readline(), 10)
            if line.startswith(b"HMSG"):
                replies.append(await read.readexactly(int(line.split()[-1]) + 2))

    assert all(b"Nats-Service-Error-Code: 422" in reply for reply in replies)
    assert await api.site.records(streams.WORK) == []


@contextlib.asynccontextmanager
async def raw_client(server: EmbeddedNats) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect without a client library, which would refuse malformed subjects, and subscribe to `_INBOX.raw.*`."""
    read, write = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    write.write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB _INBOX.raw.* 1\r\n')
    try:
        yield read, write
    finally:
        write.close()


async def test_a_message_without_an_inbox_is_not_accepted(api: Api, producer: Any) -> None:
    """Its sender could not learn of a refusal. It is counted, and no other subject than an inbox gets a reply."""
    heard: list[Msg] = []

    async def hear(message: Msg) -> None:
        heard.append(message)

    await producer.subscribe("oneprotect.control.>", cb=hear)
    body = json.dumps(BODY).encode()
    await producer.publish(SUBJECT, body)
    for reply in (subjects.REFRESH, "oneprotect.event.x", "$KV.oneprotect_destinations.acme.orders", "x"):
        await producer.publish(SUBJECT, body, reply=reply)
    assert status(await ask(producer, BODY)) == 202

    async def is_counted() -> bool:
        shown = (await api.with_token(None)("GET", "/metrics")).body
        return b'oneprotect_nats_requests_total{status="unanswerable"} 5' in shown

    await until(is_counted, 10)
    assert len(await api.site.records(streams.WORK)) == 1
    assert heard == []


async def test_a_producers_headers_do_not_reach_the_stream(api: Api, producer: Any) -> None:
    """The stored headers are those of an HTTP request: no header of JetStream or of the product is accepted."""
    forged = {
        "Nats-Expected-Last-Msg-Id": "x", "Nats-Expected-Stream": "OTHER", "Nats-Msg-Id": "globex.orders.1",
        "Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-TTL": "1s", "Nats-Rollup": "all",
        "Nats-Schedule": "@at", "Oneprotect-Attempt": "9", "Oneprotect-Replay": "r", "Idempotency-Key": "one",
    }  # fmt: skip

    assert status(await ask(producer, BODY, **forged, traceparent=TRACE)) == 202

    (record,) = await api.site.records(streams.WORK)
    own = {"Nats-Msg-Id": f"{TENANT}.orders.one", "content-type": CONTENT_TYPE, "traceparent": TRACE}
    own |= {HEADER_CHECKED: CLAIMED, HEADER_CLAIM: record.headers[HEADER_CLAIM]}
    of_server = {
        "Nats-Stream",
        "Nats-Subject",
        "Nats-Sequence",
        "Nats-Time-Stamp",
        "Nats-Num-Pending",
        "Nats-Last-Sequence",
    }
    assert {name: value for name, value in record.headers.items() if name not in of_server} == own


async def test_a_repeated_id_is_stored_once_over_both_doors(api: Api, producer: Any) -> None:
    """`Idempotency-Key`, the id of the body and the id of an event are one id."""
    over_http = await api.client(Role.PRODUCER)

    first = await ask(producer, BODY, Idempotency_Key="one")
    again = [
        await ask(producer, {**BODY, "id": "one"}),
        await ask(producer, {**EVENT, "id": "one", "type": "invoice.paid", "destination": "orders", "data": {"n": 1}}),
    ]
    posted = await over_http(
        "POST", f"/v1/tenants/{TENANT}/deliveries", data=json.dumps(BODY).encode(), headers={"Idempotency-Key": "one"}
    )
    differing = await ask(producer, {**BODY, "id": "two"}, Idempotency_Key="one")
    other = await ask(producer, {**BODY, "id": "one", "payload": {"n": 2}})

    assert json.loads(first.data)["deliveries"][0]["duplicate"] is False
    assert [json.loads(reply.data)["deliveries"][0]["duplicate"] for reply in again] == [True, True]
    assert posted.json["deliveries"][0]["duplicate"] is True
    assert status(differing) == 422
    assert status(other) == 409
    assert len(await api.site.records(streams.WORK)) == 1


async def test_a_full_destination_overflows(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A producer needs to know no rule about the overflow."""
    async with Site(tmp_path, nats_server, work_per_destination="1") as site, running(site):
        await site.destination("orders", "http://127.0.0.1:9999/")
        async with producing(nats_server) as client:
            replies = [await ask(client, BODY) for _ in range(3)]
        waiting = [len(await site.records(stream)) for stream in (streams.WORK, streams.OVERFLOW)]

    assert [status(reply) for reply in replies] == [202] * 3
    assert waiting == [1, 2]


async def test_a_stream_that_does_not_answer_is_a_503(api: Api, producer: Any) -> None:
    """The reply says when to repeat the request."""
    await api.site.jetstream.connection.api(f"STREAM.DELETE.{streams.WORK.name}")

    reply = await ask(producer, BODY)

    assert (status(reply), (reply.headers or {})["Retry-After"]) == (503, "2")


async def test_a_list_of_deliveries_larger_than_a_message_is_a_problem(tmp_path: Path) -> None:
    """The producer learns that its deliveries are stored."""

    class Small(EmbeddedNats):
        def _config(self, port: int) -> dict[str, Any]:
            return super()._config(port) | {"max_payload": 12_288}

    async with Small(tmp_path / "nats") as server, Site(tmp_path, server) as site, running(site):
        for number in range(100):
            await site.destination(f"{number}-{'d' * 50}", "http://127.0.0.1:9999/", event_types=["*"])
        async with producing(server) as client:
            reply = await ask(client, {"event_type": "a.b", "payload": 1})
        stored = len(await site.records(streams.WORK))

    assert (status(reply), json.loads(reply.data)["type"]) == (500, "urn:oneprotect:problem:reply-too-large")
    assert stored == 100


async def test_the_service_is_discovered(api: Api, producer: Any) -> None:
    """Ping, info and statistics are those of the services framework, as its own client reads them."""
    await ask(producer, BODY)
    await ask(producer, b"x")

    async def found(verb: str) -> list[dict[str, Any]]:
        everyone = json.loads((await producer.request(f"$SRV.{verb}", timeout=5)).data)
        named = json.loads((await producer.request(f"$SRV.{verb}.{everyone['name']}", timeout=5)).data)
        place = f"$SRV.{verb}.{everyone['name']}.{everyone['id']}"
        return [everyone, named, json.loads((await producer.request(place, timeout=5)).data)]

    pings, infos, stats = [await found(verb) for verb in ("PING", "INFO", "STATS")]
    assert [ping["type"] for ping in pings] == ["io.nats.micro.v1.ping_response"] * 3
    ping = ServicePing.from_dict(pings[0])
    assert (ping.name, ping.version) == (subjects.SERVICE, "0.1.0")
    info = ServiceInfo.from_dict(infos[0])
    assert (info.type, info.id) == ("io.nats.micro.v1.info_response", ping.id)
    (endpoint,) = info.endpoints
    assert (endpoint.name, endpoint.subject) == ("deliveries", "oneprotect.api.v1.*.deliveries")
    stats[0]["endpoints"][0]["data"] = None  # optional in the framework, and required by this client
    figures = ServiceStats.from_dict(stats[0]).endpoints[0]
    assert stats[0]["type"] == "io.nats.micro.v1.stats_response"
    assert (figures.num_requests, figures.num_errors, figures.last_error) == (2, 1, "400 bad-request")
    assert figures.processing_time > 0
    assert api.url


@contextlib.asynccontextmanager
async def api_processes(site: Site, count: int) -> AsyncGenerator[list[Process]]:
    """Run API processes, killed at the end."""
    processes = [
        await Process.start(site.environ_of("api") | {"ONEPROTECT_API_PORT": str(free_port())}, "api")
        for _ in range(count)
    ]
    try:
        for process in processes:
            await until(lambda process=process: process.says("api.started"), 30)  # type: ignore[misc]
        yield processes
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def test_processes_share_the_requests(site: Site, producer_client: Any) -> None:
    """Each request is answered once, and each of two processes answers some."""
    await site.destination("orders", "http://127.0.0.1:9999/")
    async with api_processes(site, 2):
        replies = await asyncio.gather(*(ask(producer_client, BODY) for _ in range(100)))
        inbox = producer_client.new_inbox()
        found: list[dict[str, Any]] = []
        subscription = await producer_client.subscribe(inbox)
        await producer_client.publish("$SRV.STATS", reply=inbox)
        for _ in range(2):
            found.append(json.loads((await subscription.next_msg(timeout=5)).data))

    assert [status(reply) for reply in replies] == [202] * 100
    handled = [stats["endpoints"][0]["num_requests"] for stats in found]
    assert sum(handled) == 100
    assert min(handled) > 10
    assert len(await site.records(streams.WORK)) == 100


@pytest_asyncio.fixture
async def producer_client(site: Site) -> AsyncGenerator[Any]:
    """Return a client of an installation whose API may not run."""
    async with producing(site.server) as client:
        yield client


async def test_a_killed_process_loses_nothing_that_it_answered(site: Site, producer_client: Any) -> None:
    """Each request ends in an answer or a timeout. Repeated with its id, it is stored once."""
    await site.destination("orders", "http://127.0.0.1:9999/")
    answered: set[str] = set()

    async def deliver(number: int) -> None:
        name = f"d-{number}"
        while name not in answered:
            with contextlib.suppress(NatsTimeout, NoRespondersError):
                reply = await producer_client.request(SUBJECT, json.dumps({**BODY, "id": name}).encode(), timeout=5)
                if status(reply) == 202:
                    answered.add(name)
                else:
                    await asyncio.sleep(0.5)  # the id is claimed by the killed process

    async with api_processes(site, 2) as (first, _):
        asking = [asyncio.create_task(deliver(number)) for number in range(600)]
        await until(lambda: len(answered) > 50, 20)
        first.kill()
        await asyncio.wait_for(asyncio.gather(*asking), 100)  # an id whose request died is claimed for 30 s

    stored = [decode_request(record.data).id for record in await site.records(streams.WORK)]
    assert sorted(stored) == sorted(f"d-{number}" for number in range(600))


async def test_sigterm_answers_every_received_request(site: Site, producer_client: Any) -> None:
    """What the process has received is stored and answered, and later requests find no responder."""
    await site.destination("orders", "http://127.0.0.1:9999/")
    async with api_processes(site, 1) as (process,):
        asking = [asyncio.create_task(ask(producer_client, BODY)) for _ in range(300)]
        await until(lambda: any(task.done() for task in asking), 10)
        process.terminate()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert await asyncio.wait_for(process.wait(), 30) == 0

    answered = [reply for reply in ended if isinstance(reply, Msg)]
    assert {type(reply) for reply in ended} <= {Msg, NoRespondersError}
    assert {status(reply) for reply in answered} == {202}
    assert len(await site.records(streams.WORK)) == len(answered)


async def test_the_service_continues_after_an_outage_of_nats(api: Api) -> None:
    """The API subscribes again by itself."""
    await api.site.destination("orders", "http://127.0.0.1:9999/")
    await api.site.server.kill()
    await api.site.server.restart()
    async with producing(api.site.server) as client:

        async def is_accepted() -> bool:
            with contextlib.suppress(NoRespondersError):
                return status(await ask(client, BODY)) == 202
            return False

        await until(is_accepted, 20)


async def test_a_tenants_account_reaches_the_service_of_its_name(tmp_path: Path) -> None:
    """With the shipped accounts and permissions, a tenant requests a delivery, and the server has nothing to refuse."""
    keys = Keys(tmp_path / "keys", [TENANT])
    async with ShippedServer(tmp_path / "nats", keys) as server:
        settings = {
            role: {
                name.removeprefix("ONEPROTECT_").lower(): value
                for name, value in keys.settings(role, server.url).items()
            }
            for role in ("operator", "api")
        }
        async with Site(tmp_path, server, **settings["operator"]) as site, running(site, ready=True, **settings["api"]):
            await site.destination("orders", "http://127.0.0.1:9999/")
            options = {
                "nkeys_seed": str(keys.seed(f"producer_{TENANT}")),
                "tls": ssl.create_default_context(cafile=str(keys.authority.ca_file)),
            }
            async with producing(server, **options) as client:
                replies = [await ask(client, body) for body in (BODY, {**BODY, "destination": "x"})]
            stored = len(await site.records(streams.WORK))
        refusals = [line for line in server.log_path.read_text().splitlines() if "Violation" in line]

    assert [status(reply) for reply in replies] == [202, 422]
    assert stored == 1
    assert refusals == []


async def test_a_flooding_tenant_is_paused_and_no_other(site: Site) -> None:
    """The server refuses its requests for seconds. Others are served, even a tenant that has used only its token."""
    async with (
        running(site, tenant_rate_per_s="10") as api,
        raw_client(site.server) as (_, write),
        producing(site.server) as client,
    ):
        theirs, new = subjects.deliveries("globex"), subjects.deliveries("initech")
        await api.token("producer", tenant="initech")
        body = {"event_type": "a.b", "payload": 1}
        assert status(await ask(client, body, theirs)) == 202
        write.writelines(b"PUB %b _INBOX.x.%d 2\r\n{}\r\n" % (SUBJECT.encode(), n) for n in range(20_000))
        await write.drain()

        async def is_paused() -> bool:
            try:
                await client.request(SUBJECT, b"{}", timeout=0.2)
            except NoRespondersError:
                return True
            except NatsTimeout:  # it was sent before the server ended the subscription
                pass
            return False

        await until(is_paused, 20)
        assert [status(await ask(client, body, subject)) for subject in (theirs, new)] == [202, 202]
        assert b'{status="429"}' in (await api.with_token(None)("GET", "/metrics")).body
        await until(lambda: _is_answered(client, body), 20)


async def _is_answered(client: Any, body: Any) -> bool:
    with contextlib.suppress(NoRespondersError, NatsTimeout):
        return status(await ask(client, body)) == 202
    return False


async def test_the_flood_of_a_tenant_delays_no_other_tenant(api: Api) -> None:
    """While one tenant has a thousand requests waiting, another tenant's request takes its turn."""
    configuration = api.site.jetstream.configuration
    await configuration.set_credential("globex", "key", {"secret_ref": "k8s://webhooks/signing-key/signing"}, by="test")
    for tenant in (TENANT, "globex"):
        spec = {"url": "https://127.0.0.1:9999/", "credential": "key"}
        await configuration.set_destination(tenant, "orders", spec, by="test")
    async with producing(api.site.server) as flooding, producing(api.site.server) as client:
        flood = [asyncio.create_task(ask(flooding, BODY)) for _ in range(1500)]
        await asyncio.wait(flood, return_when=asyncio.FIRST_COMPLETED)
        served = 0
        while not all(task.done() for task in flood):
            assert status(await ask(client, BODY, subjects.deliveries("globex"))) == 202
            served += 1

    assert served > 15, "one after 64 requests of the flood or less"
