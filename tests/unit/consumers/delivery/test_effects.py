"""The published result, of which every byte is part of the contract."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.delivery import effects
from consumers.delivery.attempt import DeliveryAttempt
from consumers.model.request import DeliveryAttemptRequest
from messaging.client.headers import block_of
from messaging.message import Message
from schemas import subjects
from schemas.codes import Code, Outcome
from schemas.events import AttemptResult
from schemas.subjects import bucket_of
from tests.support.site import TENANT, document

AT = datetime(2026, 11, 23, 20, 0, 1, 500, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EVENT = (
    b'{"id":"dlv_1.1","source":"/oneprotect/consumer","time":"2026-11-23T20:00:01.000500Z","tenant":"acme",'
    b'"specversion":"1.0","datacontenttype":"application/json","data":{"delivery":"dlv_1","destination":"orders",'
    b'"event_type":"invoice.paid","attempt":1,"outcome":"delivered","code":"http.2xx",'
    b'"started_at":"2026-11-23T20:00:01.000500Z","duration_ms":1.25,"worker":"w","http_status":204,'
    b'"retry_after_s":null,"next_attempt_at":null,"request_bytes":8,"response_bytes":0,"signed_with":["current"],'
    b'"secret_version":"uid/1","replay":null,"url_host":"receiver.acme.com","response_body":null},'
    b'"type":"oneprotect.delivery.attempted.v1"}'
)


def read(headers: dict[str, str]) -> DeliveryAttemptRequest:
    """A request off the stream of work, with these headers."""
    nobody: Any = None
    subject, reply = subjects.requested(TENANT, "orders"), b"$JS.ACK.ONEPROTECT_WORK.delivery.1.7.7.0.0"
    message = Message(subject, subjects.lane_of(subject), reply, document("orders"), block_of(headers), nobody)
    return DeliveryAttemptRequest.from_message(message, max_payload_bytes=1000)


RESULT = AttemptResult(
    delivery="dlv_1",
    destination="orders",
    event_type="invoice.paid",
    attempt=1,
    outcome=Outcome.DELIVERED,
    code=Code.HTTP_2XX,
    started_at=AT,
    duration_ms=1.25,
    worker="w",
    http_status=204,
    request_bytes=8,
    signed_with=("current",),
    secret_version="uid/1",
    url_host="receiver.acme.com",
)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, {"Nats-Msg-Id": "acme.orders.dlv_1.a1"}),
        ({"traceparent": TRACE}, {"Nats-Msg-Id": "acme.orders.dlv_1.a1", "traceparent": TRACE}),
        (
            {"Oneprotect-Attempt": "3", "Oneprotect-Replay": "rpl-1", "Oneprotect-Deferrals": "2"},
            {"Nats-Msg-Id": "acme.orders.dlv_1.rrpl-1.3.d2"},
        ),
    ],
)
def test_the_publication_of_a_result(given: dict[str, str], told: dict[str, str]) -> None:
    """It has the event as payload, the delivery's subject, and headers with the attempt's id and the trace."""
    (published,) = effects.after_attempt(read(given), RESULT, at=AT, archived=False)

    block = block_of(published.headers) if published.headers else published.block
    assert published.payload == EVENT
    assert published.subject == f"oneprotect.delivery.attempted.acme.orders.{hashlib.sha256(b'dlv_1').hexdigest()[0]}"
    assert sorted(block.split(b"\r\n")) == sorted(
        block_of(told | {"content-type": "application/cloudevents+json"}).split(b"\r\n")
    )


def test_a_bucket_is_the_first_digit_of_a_hash() -> None:
    """The digit is hexadecimal, for any delivery id."""
    ids = [f"dlv_{number}" for number in range(200)]

    assert [bucket_of(one) for one in ids] == [hashlib.sha256(one.encode()).hexdigest()[0] for one in ids]


def test_a_duration_has_microseconds() -> None:
    """The duration is in milliseconds, rounded to three places."""
    attempt = DeliveryAttempt(read({}))
    attempt.end()

    assert attempt.duration_ms == pytest.approx(attempt.duration_s * 1000, abs=0.000_501)
    assert attempt.duration_ms == round(attempt.duration_ms, 3)
    assert attempt.started_at <= attempt.ended_at
    assert attempt.started_at.timestamp() == pytest.approx(attempt.started_s, abs=1e-6)
