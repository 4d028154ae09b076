"""Configuration: stored values, refused values, and the events about changes."""

import asyncio
from typing import Any

import msgspec
import pytest

from messaging.kv import KvBucket, KvEntry, KvTable
from oneprotect.bootstrap.resources import egress_policy
from oneprotect.configuration.errors import InUseError, MissingCredential, NotFoundError, WriteConflictError
from oneprotect.configuration.service import ConfigurationService
from schemas import streams
from schemas.codes import CredentialStatus
from schemas.configuration import Credential, CredentialState, Destination, DestinationSpec, Rollover
from schemas.events import ConfigChanged
from schemas.validation import ValidationError
from tests.support.site import NAMESPACE, TENANT, Site

REF = f"k8s://{NAMESPACE}/signing-key/signing"
URL = "https://hooks.example.com/in"
PASTED = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

REFUSED: list[tuple[dict[str, object], str]] = [
    ({"url": None}, "url: expected `str`, got `null`"),
    ({"url": "http://acme.com:99999/"}, "url: blocked destination"),
    ({"url": "https://user:pass@acme.com/"}, "url: blocked destination: a URL carries no user name or password"),
    ({"url": "https://10.1.2.3/"}, "an operator can allow it with ONEPROTECT_EGRESS_ALLOW_CIDRS"),
    ({"url": "https://api.svc.cluster.local/"}, "use a host name of the public internet"),
    ({"url": "ftp://acme.com/"}, "use https; an operator can allow http with ONEPROTECT_EGRESS_ALLOW_HTTP"),
    ({"url": "https://acme.com:22/"}, "an operator can add it to ONEPROTECT_EGRESS_PORTS"),
    ({"credential": "Key"}, "credential: expected 1 to 63 of a-z, 0-9 and `-`"),
    ({"event_types": ("invoice paid",)}, "event_types[0]: expected an event type like `invoice.paid`"),
    ({"event_types": ("invoice.*.x",)}, "event_types[0]: expected an event type"),
    ({"event_types": ("*.paid",)}, "event_types[0]: expected an event type"),
    ({"event_types": ("invoice.paid\n",)}, "event_types[0]: expected an event type"),
    ({"headers": {"x team": "1"}}, "headers: expected a header name of 1 to 64 letters, digits and `-`"),
    ({"headers": {"x-team": "1\r\nhost: x"}}, "headers[...]: expected at most 1024 printable ASCII characters"),
    ({"headers": {"X-Team": "1", "x-team": "2"}}, "headers: contain a header twice"),
    ({"headers": {f"x-{n}": "v" * 1000 for n in range(5)}}, "headers: exceed 4096 bytes in total"),
    ({"timeout_s": 31}, "timeout_s: expected `float` <= 30.0"),
    ({"timeout_s": float("nan")}, "timeout_s: expected `float` > 0.0"),
    ({"rate_per_s": float("inf")}, "rate_per_s: expected `float` <= 1000000.0"),
    ({"max_in_flight": 0}, "max_in_flight: expected `int` >= 1"),
    ({"retry_schedule_s": (5, -1)}, "retry_schedule_s[1]: expected `float` > 0.0"),
    ({"retry_schedule_s": (1,) * 33}, "retry_schedule_s: expected `array` of length <= 32"),
    ({"enabled": False}, "unknown field; the fields are `url`, `credential`"),
    ({PASTED: "x"}, "unknown field"),
]
"""What can't be set, and what the error says of it."""


@pytest.fixture
def configuration(site: Site) -> ConfigurationService:
    """The site's configuration; its tenant has the credential `key`."""
    return site.jetstream.configuration


async def _changes(site: Site) -> list[ConfigChanged]:
    records = await site.records(streams.EVENTS)
    audited = [record for record in records if record.subject.startswith("oneprotect.event.config.changed.")]
    return [msgspec.json.decode(record.data, type=ConfigChanged) for record in audited]


async def test_a_destination_is_read_as_it_was_written(site: Site, configuration: ConfigurationService) -> None:
    """Every stored field is returned, without possible credentials, and can be written back unchanged."""
    fields: dict[str, Any] = {
        "url": "https://receiver.acme.com/hook?x=1",
        "credential": "key",
        "event_types": ("invoice.paid", "order.*", "*"),
        "headers": {"x-team": "billing"},
        "timeout_s": 5.0,
        "max_in_flight": 3,
        "rate_per_s": 2.5,
        "retry_schedule_s": (1.0, 2.0),
        "capture_response": True,
        "forward_trace": True,
        "description": "Rechnungen",
    }

    written = await configuration.set_destination(TENANT, "orders", fields, by="test")

    read = await configuration.get_destination(TENANT, "orders")
    assert read == written
    shown = fields | {"url": "https://receiver.acme.com/hook?x=***", "headers": {"x-team": "***"}}
    assert {name: getattr(read, name) for name in fields} == shown
    again = await configuration.set_destination(TENANT, "orders", shown, by="test")
    assert again.revision != read.revision
    stored = await KvTable(site.jetstream.destinations, Destination).get(f"{TENANT}.orders")
    assert stored is not None
    assert {name: getattr(stored.value, name) for name in fields} == fields
    assert (read.tenant, read.id, read.enabled) == (TENANT, "orders", True)
    assert await configuration.list_destinations(TENANT) == [again]
    assert await configuration.list_destinations("globex") == []


async def test_a_destination_that_breaks_a_rule_is_refused(configuration: ConfigurationService) -> None:
    """The error names the field and the rule and nothing is written; the valid variant is accepted."""
    right: dict[str, object] = {"url": "https://acme.com/", "credential": "key"}
    told: list[str] = []

    for fields, _ in REFUSED:
        with pytest.raises(ValidationError) as refused:
            await configuration.set_destination(TENANT, "orders", right | fields, by="test")
        assert refused.value.__context__ is None
        told.append(str(refused.value))

    assert [text for text, (_, rule) in zip(told, REFUSED, strict=True) if rule not in text] == []
    assert await configuration.list_destinations(TENANT) == []
    assert (await configuration.set_destination(TENANT, "orders", right, by="test")).id == "orders"


@pytest.mark.parametrize(
    "name",
    [
        "Webhook-Id", "host", "content-length", "Content-Type", "transfer-encoding", "connection", "te", "trailer",
        "upgrade", "proxy-authorization", "user-agent", "expect", "cookie", "accept-encoding", "traceparent",
        "X-Forwarded-For", "metadata", "Metadata-Flavor", "x-aws-ec2-metadata-token-ttl-seconds", "Forwarded",
        "X-Real-IP", "X-Original-URL", "X-Rewrite-URL", "X-Google-Metadata-Request", "X-HTTP-Method-Override", "Via",
        "Keep-Alive", "tracestate", "X-Forwarded", "True-Client-IP", "X-Identity-Header",
    ],
)  # fmt: skip
async def test_no_destination_sets_denied_headers(name: str) -> None:
    """A denied header is refused when a destination is set, in any case; similar names are allowed."""
    denied = msgspec.json.encode({"url": URL, "credential": "key", "headers": {name: "1"}})
    allowed = msgspec.json.encode({"url": URL, "credential": "key", "headers": {f"my-{name}": "1"}})

    with pytest.raises(msgspec.ValidationError, match="`headers` cannot set `"):
        msgspec.json.decode(denied, type=DestinationSpec)

    assert msgspec.json.decode(allowed, type=DestinationSpec).headers == {f"my-{name}": "1"}


def test_a_stored_destination_loses_headers_that_are_denied_now() -> None:
    """A new rule stops no delivery: the rest of the destination stays as it was."""
    stored = msgspec.json.encode({"url": URL, "credential": "key", "headers": {"Forwarded": "for=1", "x-team": "a"}})

    destination = msgspec.json.decode(stored, type=Destination)

    assert destination.headers == {"x-team": "a"}
    assert (destination.url, destination.enabled) == (URL, True)


@pytest.mark.parametrize("pasted", [PASTED, "https://user:hunter2@10.0.0.1/", "a b\n", "x" * 5000])
async def test_errors_never_repeat_the_input(configuration: ConfigurationService, pasted: str) -> None:
    """No error contains the value of any field."""
    right: dict[str, object] = {"url": "https://acme.com/", "credential": "key"}
    places: list[dict[str, object]] = [
        {"credential": pasted},
        {"timeout_s": pasted},
        {"max_in_flight": pasted},
        {"retry_schedule_s": pasted},
        {"headers": pasted},
        {"event_types": (pasted,)},
        {"headers": {pasted: "1"}},
        {"headers": {"x-a": pasted + "\n"}},
        {"url": pasted},
        {pasted: 1},
    ]
    problems: list[str] = []

    for place in places:
        with pytest.raises(ValidationError) as refused:
            await configuration.set_destination(TENANT, "orders", right | place, by="test")
        problems.append(str(refused.value))
    with pytest.raises(ValidationError) as refused:
        await configuration.set_destination(pasted, "orders", right, by="test")
    problems.append(str(refused.value))
    for fields in ({"secret_ref": pasted}, {"secret_ref": REF, "purpose": pasted}, {"secret_ref": [pasted]}):
        with pytest.raises(ValidationError) as refused:
            await configuration.set_credential(TENANT, "new", fields, by="test")
        problems.append(str(refused.value))

    assert len(problems) == 14
    assert not [problem for problem in problems if pasted in problem or "hunter2" in problem]


async def test_a_destination_requires_an_existing_credential(configuration: ConfigurationService) -> None:
    """The refusal explains how to create the credential, and another tenant's credential does not count."""
    await configuration.set_credential("globex", "theirs", {"secret_ref": REF}, by="test")

    with pytest.raises(MissingCredential, match="create it first, with `oneprotect credential set`"):
        await configuration.set_destination(
            TENANT, "orders", {"url": "https://acme.com/", "credential": "theirs"}, by="test"
        )

    assert await configuration.list_destinations(TENANT) == []


async def test_a_repeated_set_keeps_a_destination_disabled(site: Site, configuration: ConfigurationService) -> None:
    """Only enable and disable change the state, and the reason is kept until then."""
    await site.destination("orders", "https://acme.com/one")

    disabled = await configuration.disable_destination(TENANT, "orders", by="jo", reason="moves house")
    await site.destination("orders", "https://acme.com/two")
    still = await configuration.get_destination(TENANT, "orders")
    enabled = await configuration.enable_destination(TENANT, "orders", by="jo")

    assert (disabled.enabled, disabled.disabled_reason) == (False, "moves house")
    assert (still.url, still.enabled, still.disabled_reason) == ("https://acme.com/two", False, "moves house")
    assert still.disabled_at == disabled.disabled_at
    assert (enabled.enabled, enabled.disabled_reason, enabled.disabled_at) == (True, None, None)


async def test_a_missing_object_is_unknown(configuration: ConfigurationService) -> None:
    """Reading, switching and deleting a missing object fails and creates nothing."""
    for attempt in (
        configuration.get_destination(TENANT, "none"),
        configuration.enable_destination(TENANT, "none", by="test"),
        configuration.disable_destination(TENANT, "none", by="test"),
        configuration.delete_destination(TENANT, "none", by="test"),
        configuration.get_credential(TENANT, "none"),
        configuration.delete_credential(TENANT, "none", by="test"),
    ):
        with pytest.raises(NotFoundError, match="of this name"):
            await attempt

    assert await configuration.list_destinations(TENANT) == []
    assert [view.id for view in await configuration.list_credentials(TENANT)] == ["key"]


async def test_a_deleted_destination_can_be_set_again(site: Site, configuration: ConfigurationService) -> None:
    """A deleted destination no longer exists, and its id is free."""
    await site.destination("orders", "https://acme.com/one")

    await configuration.delete_destination(TENANT, "orders", by="test")
    with pytest.raises(NotFoundError):
        await configuration.get_destination(TENANT, "orders")
    await site.destination("orders", "https://acme.com/two")

    assert (await configuration.get_destination(TENANT, "orders")).url == "https://acme.com/two"


async def test_concurrent_changes_are_all_kept(site: Site, configuration: ConfigurationService) -> None:
    """Concurrent set and disable lose nothing: the second starts from the result of the first."""
    await site.destination("orders", "https://acme.com/one")

    await asyncio.gather(
        site.destination("orders", "https://acme.com/two"),
        configuration.disable_destination(TENANT, "orders", by="test"),
    )

    found = await configuration.get_destination(TENANT, "orders")
    assert (found.url, found.enabled) == ("https://acme.com/two", False)


class Contended(KvBucket):
    """A bucket that another writer changes after every read."""

    async def find(self, key: str) -> KvEntry:
        entry = await super().find(key)
        await super().put(key, b"{}")
        return entry


async def test_endless_contention_ends_as_a_conflict(site: Site) -> None:
    """When others keep writing in between, the change is given up, and nothing of theirs is overwritten."""
    jetstream = site.jetstream
    contended = Contended(jetstream.connection, jetstream.publisher, streams.DESTINATIONS)
    configuration = ConfigurationService(
        contended, jetstream.credentials, jetstream.publisher, egress_policy(site.settings), index=jetstream.index
    )

    with pytest.raises(WriteConflictError, match="read it again and retry"):
        await configuration.set_destination(
            TENANT, "orders", {"url": "https://acme.com/", "credential": "key"}, by="test"
        )

    entry = await jetstream.destinations.get(f"{TENANT}.orders")
    assert entry is not None
    assert entry.value == b"{}"


async def test_a_credential_is_read_without_its_ref(site: Site, configuration: ConfigurationService) -> None:
    """The ref is stored in its canonical form, and no view or event contains it."""
    view = await configuration.set_credential(TENANT, "short", {"secret_ref": "k8s://other-secret/key"}, by="test")

    views = [view, await configuration.get_credential(TENANT, "short"), *await configuration.list_credentials(TENANT)]
    entry = await site.jetstream.credentials.get(f"{TENANT}.short")
    assert entry is not None
    assert msgspec.json.decode(entry.value or b"", type=Credential).secret_ref == f"k8s://{NAMESPACE}/other-secret/key"
    told = msgspec.json.encode(views) + b"".join(record.data for record in await site.records(streams.EVENTS))
    assert b"k8s" not in told
    assert b"other-secret" not in told
    assert set(msgspec.to_builtins(view)) == {
        "id", "tenant", "purpose", "provider", "status", "checked_at", "version", "rollover", "resuming_since",
        "revision",
    }  # fmt: skip


async def test_a_short_ref_needs_a_central_namespace(site: Site) -> None:
    """A ref of two parts is refused without a central namespace, and three parts are accepted."""
    jetstream = site.jetstream
    configuration = ConfigurationService(
        jetstream.destinations,
        jetstream.credentials,
        jetstream.publisher,
        egress_policy(site.settings),
        index=jetstream.index,
    )

    with pytest.raises(
        ValidationError, match="secret_ref: expected `k8s://NAMESPACE/SECRET/KEY`, the name of a key"
    ) as refused:
        await configuration.set_credential(TENANT, "short", {"secret_ref": "k8s://other-secret/key"}, by="test")
    view = await configuration.set_credential(TENANT, "long", {"secret_ref": "k8s://ns/other-secret/key"}, by="test")

    assert refused.value.__context__ is None
    assert view.id == "long"


async def test_a_status_is_shown_until_the_ref_changes(site: Site) -> None:
    """The view shows the status that consumers found; a new ref starts unchecked."""
    jetstream = site.jetstream
    statuses = KvBucket(jetstream.connection, jetstream.publisher, streams.CREDENTIAL_STATUS)
    configuration = ConfigurationService(
        jetstream.destinations,
        jetstream.credentials,
        jetstream.publisher,
        egress_policy(site.settings),
        index=jetstream.index,
        statuses=statuses,
    )
    state = CredentialState(
        status=CredentialStatus.CONFIGURED, provider="local", version="u/1", rollover=Rollover(active=True)
    )
    await statuses.put(f"{TENANT}.key", msgspec.json.encode(state))

    checked = await configuration.get_credential(TENANT, "key")
    (listed,) = await configuration.list_credentials(TENANT)
    await configuration.set_credential(TENANT, "key", {"secret_ref": "k8s://ns/other/key"}, by="test")
    anew = await configuration.get_credential(TENANT, "key")

    assert (checked.status, checked.provider, checked.version) == (CredentialStatus.CONFIGURED, "local", "u/1")
    assert checked.rollover.active
    assert listed == checked
    assert anew.status is CredentialStatus.UNCHECKED


async def test_a_credential_in_use_is_not_deleted(site: Site, configuration: ConfigurationService) -> None:
    """Deleting it names the destinations that it signs for, and works once they are gone."""
    await site.destination("orders", "https://acme.com/one")
    await site.destination("invoices", "https://acme.com/two")

    with pytest.raises(InUseError, match="invoices, orders"):
        await configuration.delete_credential(TENANT, "key", by="test")
    for name in ("orders", "invoices"):
        await configuration.delete_destination(TENANT, name, by="test")
    await configuration.delete_credential(TENANT, "key", by="test")

    assert await configuration.list_credentials(TENANT) == []


async def test_every_change_publishes_an_event(site: Site, configuration: ConfigurationService) -> None:
    """Each change publishes one event on the object's subject, with the actor and without values."""
    await configuration.set_destination(
        TENANT, "orders", {"url": "https://acme.com/hidden", "credential": "key"}, by="jo"
    )
    await configuration.disable_destination(TENANT, "orders", by="sam")
    await configuration.enable_destination(TENANT, "orders", by="jo")
    await configuration.delete_destination(TENANT, "orders", by="jo")
    await configuration.delete_credential(TENANT, "key", by="sam")

    changes = await _changes(site)
    records = await site.records(streams.EVENTS)
    assert [(change.data.kind, change.data.name, change.data.action, change.data.by) for change in changes] == [
        ("credential", "key", "set", "test"),
        ("destination", "orders", "set", "jo"),
        ("destination", "orders", "disable", "sam"),
        ("destination", "orders", "enable", "jo"),
        ("destination", "orders", "delete", "jo"),
        ("credential", "key", "delete", "sam"),
    ]
    assert {change.tenant for change in changes} == {TENANT}
    assert len({change.id for change in changes}) == len(changes)
    assert records[1].subject == f"oneprotect.event.config.changed.{TENANT}.destination.orders"
    assert not [record for record in records if b"hidden" in record.data]


async def test_an_unreadable_entry_counts_as_absent(site: Site, configuration: ConfigurationService) -> None:
    """Lists omit an entry of another version, and a new value can replace it."""
    await site.destination("orders", "https://acme.com/one")
    await site.jetstream.destinations.put(f"{TENANT}.newer", b'{"url":"https://acme.com/","credential":"key","x":1}')

    listed = await configuration.list_destinations(TENANT)
    with pytest.raises(NotFoundError):
        await configuration.get_destination(TENANT, "newer")
    with pytest.raises(InUseError, match="newer, orders"):
        await configuration.delete_credential(TENANT, "key", by="test")
    await site.destination("newer", "https://acme.com/two")

    assert [view.id for view in listed] == ["orders"]
    assert (await configuration.get_destination(TENANT, "newer")).url == "https://acme.com/two"
