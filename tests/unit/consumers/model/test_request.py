"""What is read the quick way: nothing that the rules of a request would refuse, and as they would have it."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from consumers.model.request import DeliveryAttemptRequest
from messaging.pull_consumer import Message
from schemas import subjects
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
    """A message as it came off the stream of work."""

    def __init__(self, data: bytes, headers: dict[str, str]) -> None:
        self.subject = subjects.requested(TENANT, "orders")
        self.stream = subjects.WORK.name
        self.data = data
        self.headers = headers
        self.header_block = b"".join(b"%b: %b\r\n" % (a.encode(), b.encode()) for a, b in headers.items())


def _documents() -> Iterator[bytes]:
    """Requests: as they should be, with each field changed or left out, with others added, and what is no request."""
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


def _read(message: Message) -> DeliveryAttemptRequest | None:
    try:
        return DeliveryAttemptRequest.from_any_message(message, MAX_BYTES)
    except ValueError:
        return None


def _read_plain(message: Message) -> DeliveryAttemptRequest | None:
    return DeliveryAttemptRequest.from_plain_message(message, MAX_BYTES)


def test_it_is_no_laxer() -> None:
    """Whatever is read the quick way is read the same by the rules; and so is all that is JSON and keeps them."""
    messages: list[Any] = [Came(data, {"content-type": "application/cloudevents+json"}) for data in _documents()]

    read = [(message.data, _read_plain(message), _read(message)) for message in messages]

    assert all(quickly in (None, by_the_rules) for _, quickly, by_the_rules in read)
    assert all(quickly == by_the_rules or b'"content_type"' in data for data, quickly, by_the_rules in read)
    assert sum(quickly is not None for _, quickly, _ in read) > 30


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
def test_what_rides_in_headers_is_read_the_same(headers: dict[str, str]) -> None:
    """The state of a delivery and its trace, or that they can't be understood."""
    message: Any = Came(document("orders"), headers)

    assert (_read_plain(message) or _read(message)) == _read(message)
