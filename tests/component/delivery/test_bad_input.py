"""Bad input: it is kept with a reason, never loops, and delays no good delivery."""

import base64
from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from messaging import direct_get
from oneprotect.api.operations.visibility import to_public_credential
from schemas import streams, subjects
from schemas.codes import Code, CredentialStatus, Outcome
from schemas.configuration import CredentialView
from schemas.headers import HEADER_CODE, HEADER_REASON
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Site, document
from tests.support.waiting import until


def _changed(**fields: object) -> bytes:
    event = msgspec.json.decode(document("orders", delivery="dlv_bad"))
    event.update(fields)
    return msgspec.json.encode(event)


def _data(**fields: object) -> bytes:
    event = msgspec.json.decode(document("orders", delivery="dlv_bad"))
    event["data"].update(fields)
    return msgspec.json.encode({**event, "data": {k: v for k, v in event["data"].items() if v is not None}})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: b"{", "not a JSON document"),
        (lambda: b"\xff\xfe", "not a JSON document"),
        (lambda: b"", "not a JSON document"),
        (lambda: b"[]", "Expected `object`"),
        (lambda: document("orders", payload=b"[" * 100_000), "not a JSON document"),
        (lambda: _changed(specversion="0.3"), "Invalid value - at `$.specversion`"),
        (lambda: _changed(type="oneprotect.delivery.requested.v2"), "Invalid value - at `$.type`"),
        (lambda: _changed(id="a.b"), "Expected `str` matching regex"),
        (lambda: _changed(tenant="globex"), "`tenant` is not the tenant of the subject"),
        (lambda: _changed(time="2026-01-01T00:00:00"), "Expected `datetime` with a timezone"),
        (lambda: _data(destination="invoices"), "`data.destination` is not the destination of the subject"),
        (lambda: _data(payload=None), "Expected exactly one of `payload` and `payload_base64`"),
        (lambda: _data(payload_base64="AA=="), "Expected exactly one of"),
        (lambda: _data(payload=None, payload_base64="AA=="), "Expected `content_type` beside `payload_base64`"),
        (lambda: _data(payload=None, payload_base64="!", content_type="text/plain"), "is not base64"),
        (lambda: _data(content_type="a/b\r\nx: y"), "Expected `str` matching regex"),
        (lambda: _data(event_type="invoice..paid"), "Expected `str` matching regex"),
        (lambda: _data(payload_typo=1), "unknown field `payload_typo`"),
        (lambda: document("orders", payload=b'"' + b"x" * 262_143 + b'"'), "the payload has 262145 bytes"),
    ],
)
async def test_an_invalid_message_is_quarantined_with_its_reason(
    site: Site, receiver: Scripted, make: Callable[[], bytes], reason: str
) -> None:
    """The message is kept byte for byte, the reason names the rule, and the next delivery arrives."""
    await site.destination("orders", receiver.url)
    bad = make()

    async with site.consumer():
        await site.publish("orders", bad, "dlv_bad")
        good = await site.deliver("orders")
        await until(lambda: receiver.seen, 10)
        await until(site.is_settled, 10)

    (kept,) = await site.records(streams.QUARANTINE)
    assert kept.data == bad
    assert kept.subject == "oneprotect.delivery.quarantined.requested.acme.orders"
    assert kept.headers[HEADER_CODE] == Code.EVENT_INVALID
    assert reason in kept.headers[HEADER_REASON]
    assert receiver.ids() == [good]


async def test_a_payload_of_just_the_limit_is_delivered(site: Site, receiver: Scripted) -> None:
    """256 KiB is allowed, as JSON and as base64."""
    await site.destination("orders", receiver.url)
    body = b'"' + b"x" * 262_142 + b'"'
    binary = bytes(262_144)
    event = msgspec.json.decode(document("orders", delivery="dlv_2"))
    del event["data"]["payload"]
    event["data"] |= {"payload_base64": base64.b64encode(binary).decode(), "content_type": "application/x-any"}

    async with site.consumer():
        await site.deliver("orders", payload=body, delivery="dlv_1")
        await site.publish("orders", msgspec.json.encode(event), "dlv_2")
        await until(lambda: len(receiver.seen) == 2, 10)

    assert [seen.body for seen in receiver.of("dlv_1")] == [body]
    assert [seen.body for seen in receiver.of("dlv_2")] == [binary]
    assert receiver.of("dlv_2")[0].headers["content-type"] == "application/x-any"


@pytest.mark.parametrize("header", ["Oneprotect-Attempt", "Oneprotect-First-Attempt-At", "Oneprotect-Replay"])
async def test_a_broken_state_header_is_quarantined(site: Site, receiver: Scripted, header: str) -> None:
    """A message with an invalid retry state is kept."""
    await site.destination("orders", receiver.url)

    async with site.consumer():
        await site.publish("orders", document("orders", delivery="dlv_1"), "dlv_1", **{header: "?!"})
        await until(site.is_settled, 10)

    (kept,) = await site.records(streams.QUARANTINE)
    assert header in kept.headers[HEADER_REASON]
    assert receiver.seen == []


async def test_an_unknown_destination_fails_at_once_and_is_kept(site: Site, receiver: Scripted) -> None:
    """The delivery fails with its own code and can be replayed once the destination exists."""
    async with site.consumer():
        delivery = await site.deliver("nowhere")
        await until(site.is_settled, 10)

    (result,) = await site.results(delivery)
    (kept,) = await site.records(streams.FAILED)
    assert (result.outcome, result.code) == (Outcome.FAILED, Code.DESTINATION_NOT_FOUND)
    assert kept.headers[HEADER_CODE] == "destination.not_found"
    assert receiver.seen == []


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        ({"data": {"signing": base64.b64encode(b"short").decode()}}, "secret.malformed"),
        ({"data": {"signing": ""}}, "secret.malformed"),
    ],
)
async def test_a_secret_that_may_not_sign_fails_the_delivery_at_once(
    site: Site, receiver: Scripted, manifest: dict[str, object], code: str
) -> None:
    """An unusable secret never signs: the delivery fails and is kept."""
    path = site.directory / "secrets" / "webhooks" / "signing-key.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | manifest))
    await site.destination("orders", receiver.url)

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(site.is_settled, 10)

    (result,) = await site.results(delivery)
    assert (result.outcome, result.code) == (Outcome.FAILED, code)
    assert len(await site.records(streams.FAILED)) == 1
    assert receiver.seen == []


async def test_another_tenants_secret_looks_like_a_missing_one(site: Site, receiver: Scripted) -> None:
    """A tenant cannot learn from outcomes, codes and retries which Secrets of other tenants exist."""
    path = site.directory / "secrets" / "webhooks" / "signing-key.json"
    theirs = msgspec.json.decode(path.read_bytes())
    unlabelled, full = msgspec.json.decode(path.read_bytes()), msgspec.json.decode(path.read_bytes())
    theirs["metadata"]["labels"]["oneprotect.io/tenant"] = full["metadata"]["labels"]["oneprotect.io/tenant"] = "globex"
    unlabelled["metadata"]["labels"] = {}
    full["data"] |= {f"key-{number}": "AAAA" for number in range(100)}
    refs = {"theirs": theirs, "unlabelled": unlabelled, "full": full, "absent": None}
    for name, content in refs.items():
        if content is not None:
            content["metadata"]["name"] = name
            path.with_name(f"{name}.json").write_bytes(msgspec.json.encode(content))
        ref = {"secret_ref": f"k8s://webhooks/{name}/signing"}
        await site.jetstream.configuration.set_credential(TENANT, name, ref, by="test")
        await site.destination(name, receiver.url, credential=name)

    site.settings = site.load(secret_retry_schedule_s="600")
    async with site.consumer():
        deliveries = {name: await site.deliver(name) for name in refs}
        seen = set[tuple[object, ...]]()
        for delivery in deliveries.values():
            result = (await until(partial(site.results, delivery), 10))[0]
            assert result.next_attempt_at is not None
            wait_s = round((result.next_attempt_at - result.started_at).total_seconds(), -1)
            seen.add((result.outcome, result.code.public, result.secret_version, wait_s))
        views = [view for name in refs if (view := await until(partial(_checked, site, name), 10))]

    assert seen == {(Outcome.RETRY_SCHEDULED, Code.SECRET_UNAVAILABLE, None, 600)}
    public = [msgspec.structs.replace(to_public_credential(view, public=True), id="", revision=0) for view in views]
    assert public == [public[0]] * len(refs)
    assert receiver.seen == []


async def _checked(site: Site, credential: str) -> CredentialView | None:
    view = await site.jetstream.configuration.get_credential(TENANT, credential)
    return None if view.status is CredentialStatus.UNCHECKED else view


async def test_a_blocked_address_is_never_called(site: Site, receiver: Scripted) -> None:
    """A URL that was written past the checks is stopped by the egress policy: the delivery fails and is kept."""
    url = receiver.url.replace("127.0.0.1", "[::ffff:7f00:1]")
    await site.destination("orders", receiver.url)
    entry = await site.jetstream.destinations.get(f"{TENANT}.orders")
    assert entry is not None
    assert entry.value is not None
    bad = msgspec.json.decode(entry.value) | {"url": "http://169.254.169.254:8080/latest"}
    await site.jetstream.destinations.put(f"{TENANT}.orders", msgspec.json.encode(bad))

    async with site.consumer():
        delivery = await site.deliver("orders")
        await until(site.is_settled, 10)

    (result,) = await site.results(delivery)
    assert (result.outcome, result.code) == (Outcome.FAILED, Code.NET_BLOCKED)
    assert url
    assert receiver.seen == []


async def test_a_message_too_large_for_the_stream_is_refused(site: Site) -> None:
    """The producer gets the error at once."""
    huge = document("orders", payload=b'"' + b"x" * streams.MAX_MESSAGE_BYTES + b'"')

    with pytest.raises(Exception, match="message size exceeds maximum allowed"):
        await site.publish("orders", huge, "dlv_1")

    assert (
        await direct_get.get_last(site.jetstream.connection, streams.WORK.name, subjects.requested(TENANT, "orders"))
        is None
    )
