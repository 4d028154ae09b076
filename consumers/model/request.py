"""A delivery attempt request as it came off a stream: checked, and with the retry state that its headers carry."""

import functools
import re
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Raw

from messaging.message import Message
from schemas import streams, subjects
from schemas.events import JSON, PING, AttemptResult, DeliveryRequested, Source, Time, decode_request
from schemas.headers import (
    HEADER_ATTEMPT,
    HEADER_DEFERRALS,
    HEADER_FIRST_ATTEMPT_AT,
    HEADER_REPLAY,
    HEADER_REPLAY_FROM,
    HEADER_SECRET_WAITS,
    HEADER_SINCE,
    HEADER_TRACE,
    context_headers,
    trace_context,
)
from schemas.ids import DELIVERY_ID_PATTERN, is_event_type, is_name

_STATE: Final = b"Oneprotect-"
_TRACE: Final = HEADER_TRACE.encode()
_match_delivery_id: Final = re.compile(DELIVERY_ID_PATTERN).match


class RetryState(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The state of one delivery between attempts. It travels in headers and is stored nowhere else."""

    attempt: int = 1
    first_attempt_at: datetime | None = None
    replay: str | None = None
    replay_from: int = 1
    secret_waits: int = 0
    deferrals: int = 0
    trace: str | None = None

    @classmethod
    def from_headers(cls, headers: dict[str, str]) -> "RetryState":
        """Read the state from a request's headers. Raises `ValueError` naming the header."""
        replay = headers.get(HEADER_REPLAY)
        if replay is not None and not is_name(replay):
            raise ValueError(f"{HEADER_REPLAY} is not a replay's id")
        first_attempt_at = headers.get(HEADER_FIRST_ATTEMPT_AT)
        state = cls(
            attempt=_read_count(headers, HEADER_ATTEMPT, 1),
            first_attempt_at=(
                parse_aware_datetime(first_attempt_at, HEADER_FIRST_ATTEMPT_AT) if first_attempt_at else None
            ),
            replay=replay,
            replay_from=_read_count(headers, HEADER_REPLAY_FROM, 1),
            secret_waits=_read_count(headers, HEADER_SECRET_WAITS, 0),
            deferrals=_read_count(headers, HEADER_DEFERRALS, 0),
            trace=trace_context(headers),
        )
        if state.attempts_in_schedule < 1:
            raise ValueError(f"{HEADER_REPLAY_FROM} is more than {HEADER_ATTEMPT}")
        return state

    @property
    def attempts_in_schedule(self) -> int:
        """Attempts so far in the current schedule, this one included: a replay starts a new schedule."""
        return self.attempt - self.replay_from + 1

    @property
    def progress(self) -> tuple[int, int]:
        """The attempt, and how often it was put into a schedule. Of two messages of a delivery, the higher is newer."""
        return self.attempt, self.secret_waits + self.deferrals

    def after_attempt(self) -> "RetryState":
        """Return the state in which the next attempt starts."""
        return msgspec.structs.replace(self, attempt=self.attempt + 1, secret_waits=0, deferrals=0)

    def after_secret_wait(self) -> "RetryState":
        """Return the state in which this attempt starts after a wait for its secret."""
        return msgspec.structs.replace(self, secret_waits=self.secret_waits + 1)

    def after_result(self, result: AttemptResult) -> "RetryState":
        """Return the state in which the attempt starts that `result` schedules."""
        first_at = self.first_attempt_at or result.started_at
        state = msgspec.structs.replace(self, attempt=result.attempt, first_attempt_at=first_at)
        return state.after_secret_wait() if result.code.startswith("secret.") else state.after_attempt()

    def after_deferral(self) -> "RetryState":
        """Return the state in which this attempt starts after its destination's circuit breaker was open."""
        return msgspec.structs.replace(self, deferrals=self.deferrals + 1)

    def forward_headers(self, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers for publishing a message again: its content type and trace, and this state."""
        return context_headers(headers) | self._headers()

    def _headers(self) -> dict[str, str]:
        optional = {
            HEADER_FIRST_ATTEMPT_AT: self.first_attempt_at and self.first_attempt_at.isoformat(),
            HEADER_REPLAY: self.replay,
            HEADER_REPLAY_FROM: self.replay and self.replay_from,
            HEADER_SECRET_WAITS: self.secret_waits,
            HEADER_DEFERRALS: self.deferrals,
            HEADER_TRACE: self.trace,
        }
        return {HEADER_ATTEMPT: str(self.attempt)} | {name: str(v) for name, v in optional.items() if v}

    def msg_id(self, request_id: str) -> str:
        """Return the `Nats-Msg-Id` of this attempt's publications, equal each time the attempt is settled."""
        attempt = f"r{self.replay}.{self.attempt}" if self.replay else f"a{self.attempt}"
        waits = f".w{self.secret_waits}" if self.secret_waits else ""
        return f"{request_id}.{attempt}{waits}" + (f".d{self.deferrals}" if self.deferrals else "")


INITIAL_RETRY_STATE: Final = RetryState()
"""The state of a delivery without state headers: its first attempt."""


class DeliveryAttemptRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A payload for a destination, and its retry state."""

    id: str
    tenant: str
    destination: str
    event_type: str
    requested_at: datetime
    """By the producer's clock."""
    content_type: str
    body: bytes
    retry_state: RetryState
    message: Message
    is_ping: bool = False
    """Only tests the destination: no retry, archive or failed delivery follows."""
    is_ordered: bool = False
    """Is the head of an ordered queue."""

    @classmethod
    def from_message(cls, message: Message, *, max_payload_bytes: int) -> "DeliveryAttemptRequest":
        """Decode and check `message`. Raises `ValueError` naming the field and the rule, and quoting no input."""
        tenant, destination = subjects.tenant_and_destination(message.subject)
        block = message.header_block
        request: _PlainRequest | DeliveryRequested | None = None if _STATE in block else _decode_plain(message.data)
        if isinstance(request, _PlainRequest):
            body, content_type = bytes(request.data.payload), JSON
            state = RetryState(trace=trace_context(message.headers)) if _TRACE in block else INITIAL_RETRY_STATE
        else:
            request = _decode(message.data)
            body, content_type = request.data.body(), request.data.body_content_type
            state = RetryState.from_headers(message.headers)
        if request.tenant != tenant:
            raise ValueError("`tenant` is not the tenant of the subject")
        if request.data.destination != destination:
            raise ValueError("`data.destination` is not the destination of the subject")
        if len(body) > max_payload_bytes:
            raise ValueError(f"the payload has {len(body)} bytes, more than the {max_payload_bytes} that are allowed")
        return cls(
            id=request.id,
            tenant=tenant,
            destination=destination,
            event_type=request.data.event_type,
            requested_at=request.time,
            content_type=content_type,
            body=body,
            retry_state=state,
            message=message,
            is_ping=request.data.event_type == PING,
            is_ordered=message.stream == streams.ORDERED.name,
        )

    @property
    def since(self) -> datetime | None:
        """The time from which results may be recorded, if that is before the message was stored."""
        since = self.message.headers.get(HEADER_SINCE)
        return parse_aware_datetime(since, HEADER_SINCE) if since else None

    @property
    def recorded_since(self) -> datetime:
        """The time from which results may be recorded."""
        return self.since or self.message.stored_at

    @property
    def request_id(self) -> str:
        """The `Nats-Msg-Id` that a producer sets."""
        return subjects.msg_id(self.tenant, self.destination, self.id)


class _PlainData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    destination: str
    event_type: str
    payload: Raw


class _PlainRequest(msgspec.Struct, frozen=True, gc=False):
    """`DeliveryRequested` with a JSON payload, and without the patterns that are costly in a decoder."""

    id: str
    source: Source
    time: Time
    tenant: str
    specversion: Literal["1.0"]
    type: Literal["oneprotect.delivery.requested.v1"]
    data: _PlainData
    datacontenttype: Literal["application/json"] = "application/json"


_decode_plain_request: Final = msgspec.json.Decoder(_PlainRequest).decode
_is_known_name: Final = functools.lru_cache(maxsize=8192)(is_name)


def _decode_plain(document: bytes) -> _PlainRequest | None:
    """Decode a request with a JSON payload, by the same rules as `_decode` at a fraction of their cost.

    Returns:
        None for any other request, and for one that breaks a rule: `_decode` names the rule.
    """
    try:
        request = _decode_plain_request(document)
    except (ValueError, RecursionError):  # the errors of msgspec and of decoding UTF-8 are value errors
        return None
    is_valid = (
        _match_delivery_id(request.id) is not None
        and is_event_type(request.data.event_type)
        and _is_known_name(request.tenant)
        and _is_known_name(request.data.destination)
    )
    return request if is_valid else None


def _decode(document: bytes) -> DeliveryRequested:
    try:
        return decode_request(document)
    except msgspec.ValidationError as error:
        reason = _without_values(str(error))
    except ValueError:
        reason = "not a JSON document"
    raise ValueError(reason)


def _without_values(text: str) -> str:
    # "Invalid enum value 'x' - at `$.type`" is msgspec's only message that quotes the input.
    return "Invalid value" + text[text.rindex("' - at") + 1 :] if text.startswith("Invalid enum value '") else text


def _read_count(headers: dict[str, str], name: str, least: int) -> int:
    text = headers.get(name, str(least))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) >= least):
        raise ValueError(f"{name} is not a whole number of at least {least}")
    return int(text)


def parse_aware_datetime(text: str, name: str) -> datetime:
    """Parse the time in the header `name`. Raises `ValueError`."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise ValueError(f"{name} is not a time with an offset")
    return time
