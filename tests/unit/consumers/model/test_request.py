"""Decoding of requests: the fast decoder accepts exactly the documents that the schema accepts."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from consumers.model.request import DeliveryAttemptRequest
from schemas import streams, subjects
from tests.support.site import TENANT, document

MAX_BYTES = 1000
LONG = "a" * 128
VALUES: tuple[Any, ...] = (
    "", "a", "A-_9", "a.b", "a..b", "a b", "a\n", "ä", "\ud800", LONG[:64], LONG[:65], LONG, LONG + "b", LONG * 8,
    LONG * 8 + "b", "1.0", "0.3", TENANT, "orders", "application/json", "text/plain; a=b", "AA==", "!",
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123+02:00", "2026-01-01T00:00:00", None, True, 1, 1.5, {}, [], [1],
)  # fmt: skip
PAYLOADS = (b"1", b"null", b'"' + b"x" * (MAX_BYTES - 2) + b'"', b'"' + b"x" * MAX_BYTES + b'"')
ENVELOPE = ("id", "source", "time", "tenant", "specversion", "type", "data", "datacontenttype", "extension")
DATA = ("destination", "event_type", "payload", "payload_base64", "content_type", "unknown")


class Came:
    """A message from the work stream."""

    def __init__(self, data: bytes, headers: dict[str, str]) -> None:
        self.subject = subjects.requested(TENANT, "orders")
        self.stream = streams.WORK.name
        self.data = data
        self.headers = headers
        self.header_block = b"".join(b"%b: %b\r\n" % (a.encode(), b.encode()) for a, b in headers.items())


def _documents() -> Iterator[bytes]:
    """Generate valid requests, requests with changed, missing or added fields, and other documents."""
    yield from (b"", b"[" * 100_000, b"\xff", b"[]", b"{}")
    for payload in PAYLOADS:
        yield document("orders", payload=payload)
    for place, value in itertools.product((*ENVELOPE, *(("data", name) for name in DATA)), (*VALUES, ...)):
        event: dict[str, Any] = msgspec.json.decode(document("orders"))
        fields, name = (event, place) if isinstance(place, str) else (event["data"], place[1])
        fields[name] = value
        if value is ...:
            del fields[name]
        yield json.dumps(event).encode()


def _read(data: bytes, headers: dict[str, str]) -> DeliveryAttemptRequest | str:
    """Return the request in a message, or the reason of the refusal."""
    message: Any = Came(data, headers)
    try:
        request = DeliveryAttemptRequest.from_message(message, max_payload_bytes=MAX_BYTES)
    except ValueError as error:
        return str(error)
    return msgspec.structs.replace(request, message=cast("Any", None))


def _read_fully(data: bytes, headers: dict[str, str]) -> DeliveryAttemptRequest | str:
    """The same by the schema: a request with a state, even the initial one, is not read the quick way."""
    return _read(data, {"Oneprotect-Attempt": "1"} | headers)


def test_a_first_attempt_is_read_as_by_the_schema() -> None:
    """Every document is decoded, or refused for the same reason, by the quick decoder and by the schema."""
    headers = {"content-type": "application/cloudevents+json"}
    documents = list(_documents())

    read = [_read(document, headers) for document in documents]

    assert read == [_read_fully(document, headers) for document in documents]
    assert sum(not isinstance(request, str) for request in read) > 30


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        {"Traceparent": "of another name"},
        {"x-note": "Oneprotect-Attempt: 2"},
        {"Oneprotect-Attempt": "2", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
        {"Oneprotect-Attempt": "two"},
    ],
)
def test_headers_are_read_the_same_by_both_decoders(headers: dict[str, str]) -> None:
    """Retry state and trace are equal, or are refused for the same reason."""
    data = document("orders")

    assert _read(data, headers) == _read_fully(data, headers)
