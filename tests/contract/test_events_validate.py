"""Real events and configuration against the published schemas, judged by an independent validator."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from schemas.codes import Code, CredentialStatus, Outcome
from schemas.configuration import Credential, Destination
from schemas.events import (
    AttemptResult,
    CloudEvent,
    ConfigChanged,
    ConfigChangedData,
    CredentialStatusChanged,
    CredentialStatusData,
    DeliveryAttempted,
    DestinationDisabled,
    DestinationDisabledData,
    DestinationFailing,
    DestinationFailingData,
    DestinationRecovered,
    DestinationRecoveredData,
    QuarantineReleased,
    QuarantineReleasedData,
    ReplayData,
    ReplayFinished,
    ReplayStarted,
    decode_request,
    encode,
)
from schemas.export import documents
from schemas.ids import new_delivery_id
from schemas.json_schema import EVENTS, event_name

NOW = datetime(2026, 11, 23, 20, tzinfo=UTC)
ENVELOPE: dict[str, Any] = {
    "id": "evt_1",
    "source": "/oneprotect",
    "time": NOW,
    "tenant": "acme",
    "specversion": "1.0",
}
REQUEST: dict[str, Any] = {
    "specversion": "1.0",
    "id": new_delivery_id(),
    "source": "/billing",
    "type": "oneprotect.delivery.requested.v1",
    "time": "2026-11-23T20:00:00Z",
    "datacontenttype": "application/json",
    "tenant": "acme",
    "anextension": "as CloudEvents allow",
    "data": {"destination": "orders-hook", "event_type": "invoice.paid", "payload": {"any": ["json", None]}},
}
RESULT = AttemptResult(
    delivery=new_delivery_id(),
    destination="orders",
    event_type="invoice.paid",
    attempt=2,
    outcome=Outcome.RETRY_SCHEDULED,
    code=Code.HTTP_5XX,
    started_at=NOW,
    duration_ms=12.5,
    worker="w",
    http_status=503,
    signed_with=("current", "previous"),
)
PUBLISHED: list[CloudEvent] = [
    decode_request(msgspec.json.encode(REQUEST)),
    DeliveryAttempted(data=RESULT, **ENVELOPE),
    DestinationDisabled(data=DestinationDisabledData(destination="orders", reason="http.410"), **ENVELOPE),
    DestinationFailing(
        data=DestinationFailingData(
            destination="orders",
            failing_since=NOW,
            consecutive_failures=40,
            last_code=Code.HTTP_5XX,
            disabled_after=NOW,
        ),
        **ENVELOPE,
    ),
    DestinationRecovered(data=DestinationRecoveredData(destination="orders"), **ENVELOPE),
    CredentialStatusChanged(
        data=CredentialStatusData(
            credential="orders-key", status=CredentialStatus.MISSING, previous_status=CredentialStatus.CONFIGURED
        ),
        **ENVELOPE,
    ),
    ReplayStarted(data=ReplayData(replay="rpl-1", by="ops"), **ENVELOPE),
    ReplayFinished(data=ReplayData(replay="rpl-1", by="ops", replayed=3, state="finished"), **ENVELOPE),
    QuarantineReleased(
        data=QuarantineReleasedData(
            sequence=7, subject="oneprotect.delivery.requested.acme.orders", by="ops", understood=True, delivery="dlv_1"
        ),
        **ENVELOPE,
    ),
    ConfigChanged(data=ConfigChangedData(kind="destination", name="orders", action="set", by="ops"), **ENVELOPE),
]


def as_json(value: msgspec.Struct) -> Any:
    """A value as its reader sees it."""
    return msgspec.json.decode(encode(value))


def problems(name: str, document: Any) -> list[str]:
    """Return the validator's errors for a document."""
    validator: Any = Draft202012Validator(documents()[name], format_checker=FormatChecker())
    return [error.message for error in validator.iter_errors(document)]


def request_with(**data: object) -> dict[str, Any]:
    """Return the sample request with other data; None removes a field."""
    changed = {**REQUEST["data"], **data}
    return {**REQUEST, "data": {key: value for key, value in changed.items() if value is not None}}


@pytest.mark.parametrize("name", sorted(documents().keys() - {"asyncapi"}))
def test_schemas_are_valid(name: str) -> None:
    """Each schema is valid in its dialect."""
    Draft202012Validator.check_schema(documents()[name])


@pytest.mark.parametrize("event", PUBLISHED, ids=[event_name(type(event)) for event in PUBLISHED])
def test_published_events_are_valid(event: CloudEvent) -> None:
    """Each encoded event conforms to its schema."""
    assert problems(event_name(type(event)), as_json(event)) == []


def test_all_events_are_tried() -> None:
    """No event is left out above."""
    assert {type(event) for event in PUBLISHED} == set(EVENTS)


def test_configuration_is_valid() -> None:
    """Stored configuration conforms to its schema."""
    destination = Destination(url="https://example.com/in", credential="key", headers={"x-a": "b"}, disabled_at=NOW)
    credential = Credential(secret_ref="k8s://ns/name/key")

    assert problems("configuration.destination", as_json(destination)) == []
    assert problems("configuration.credential", as_json(credential)) == []
    assert problems("configuration.credential", {"purpose": "other"}) != []


@pytest.mark.parametrize(
    ("request_document", "acceptable"),
    [
        (REQUEST, True),
        (request_with(payload=0), True),
        (request_with(payload=None, payload_base64="AA==", content_type="application/pdf"), True),
        (request_with(payload=None), False),
        (request_with(payload_base64="AA=="), False),
        (request_with(payload_base64="AA==", content_type="application/pdf"), False),
        (request_with(payload=None, payload_base64="AA=="), False),
        (request_with(destination="Not a label"), False),
        (request_with(destination="orders\n"), False),
        (request_with(event_type="a..b"), False),
        (request_with(colour="red"), False),
        ({**REQUEST, "type": "oneprotect.delivery.attempted.v1"}, False),
        ({**REQUEST, "specversion": "0.3"}, False),
        ({**REQUEST, "id": "x" * 65}, False),
        ({**REQUEST, "tenant": None}, False),
    ],
)
def test_schema_and_decoder_agree(request_document: dict[str, Any], acceptable: bool) -> None:
    """The schema of a request and the decoder accept and refuse the same documents."""
    document = msgspec.json.encode(request_document)

    try:
        decode_request(document)
    except ValueError:
        decoded = False
    else:
        decoded = True

    assert decoded == acceptable
    assert (problems("delivery.requested.v1", request_document) == []) == acceptable
