"""The allow-list of headers: what may travel with a delivery from one stream to another.

Each place that publishes a received message again names its own `Nats-*` headers. Everything else comes from here, so
neither a producer's own headers nor the server's reach a second stream.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final

HEADER_ATTEMPT: Final = "Oneprotect-Attempt"
HEADER_FIRST_ATTEMPT_AT: Final = "Oneprotect-First-Attempt-At"
HEADER_REPLAY: Final = "Oneprotect-Replay"
HEADER_REPLAY_FROM: Final = "Oneprotect-Replay-From"
"""Attempt number at the start of a replay, where its retry schedule begins."""
HEADER_SECRET_WAITS: Final = "Oneprotect-Secret-Waits"
"""Waits of this attempt for its secret, which do not count as attempts."""
HEADER_DEFERRALS: Final = "Oneprotect-Deferrals"
"""Deferrals of this attempt because of an open circuit breaker, which do not count as attempts."""
HEADER_DUE: Final = "Oneprotect-Due"
"""The time for which a schedule was made, in Unix seconds. The server removes its own header when it fires it."""
HEADER_SINCE: Final = "Oneprotect-Since"
"""Results may have been recorded since this time, although the message is newer; check for them before sending."""
HEADER_ORIGINAL: Final = "Oneprotect-Original"
"""The stream and sequence of the message that this is a copy of. The copy waits while that message is there."""
HEADER_CHECKED: Final = "Id-Checked"
"""The API has made the delivery's id (`1`), or has claimed the one that the producer named (`CLAIMED`), so consumers do
not. `Oneprotect-` is the prefix of retry state, which costs more to decode."""
CLAIMED: Final = "named"
HEADER_CLAIM: Final = "Id-Claim"
"""The revision of the API's claim on the id, and the server's time until which no process can have taken it over, in
Unix seconds. A message that was stored later may be superseded: its sender or its connection was stalled."""
HEADER_CODE: Final = "Oneprotect-Code"
HEADER_OUTCOME: Final = "Oneprotect-Outcome"
HEADER_REASON: Final = "Oneprotect-Reason"
HEADER_ORIGIN: Final = "Oneprotect-Origin-Subject"
HEADER_CONTENT_TYPE: Final = "content-type"
HEADER_TRACE: Final = "traceparent"
HEADER_MSG_ID: Final = "Nats-Msg-Id"
HEADER_SCHEDULE: Final = "Nats-Schedule"
HEADER_SCHEDULE_TARGET: Final = "Nats-Schedule-Target"
HEADER_SCHEDULER: Final = "Nats-Scheduler"
"""The subject of the schedule that a due message comes from."""
HEADER_SCHEDULE_NEXT: Final = "Nats-Schedule-Next"
"""`purge`: the schedule is removed when the due message is stored."""
MAX_VALUE_LENGTH: Final = 256

_CONTEXT: Final = {name.lower(): name for name in (HEADER_CONTENT_TYPE, HEADER_TRACE, HEADER_CHECKED)}
_PORTABLE: Final = _CONTEXT | {
    name.lower(): name
    for name in (
        HEADER_ATTEMPT,
        HEADER_FIRST_ATTEMPT_AT,
        HEADER_REPLAY,
        HEADER_REPLAY_FROM,
        HEADER_SECRET_WAITS,
        HEADER_DEFERRALS,
        HEADER_SINCE,
        HEADER_ORIGINAL,
    )
}
_is_fit: Final = re.compile(rf"[!-~](?:[ -~]{{0,{MAX_VALUE_LENGTH - 2}}}[!-~])?").fullmatch
_TRACE_FORM: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?")
_DIGITS: Final = 19
_NO_ID: Final = ("0" * 32, "0" * 16)


def is_portable(value: str) -> bool:
    """Return whether a header may have this value: 1 to 256 printable ASCII characters, no space at either end."""
    return _is_fit(value) is not None


def as_value(text: str) -> str:
    """Return `text` as a value that a header may have: shortened, and with `?` for what cannot be printed."""
    return "".join(one if " " <= one <= "~" else "?" for one in text[:MAX_VALUE_LENGTH]).strip() or "-"


def portable_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a stored message that a copy of the message in another stream may have.

    These are the content type, the trace, the mark of a checked id and the retry state. Names are compared without case
    and returned as spelled in this package. A value that is not 1 to 256 printable ASCII characters is left out.
    """
    return _select(headers, _PORTABLE)


def context_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the portable headers without the retry state: content type, trace, and the mark of a checked id."""
    return _select(headers, _CONTEXT)


def schedule_time(headers: Mapping[str, str]) -> datetime | None:
    """Return the time at which the server makes a message due, or None if the headers have none."""
    try:
        time = datetime.fromisoformat(headers.get(HEADER_SCHEDULE, "").removeprefix("@at "))
    except ValueError:
        return None
    return time if time.tzinfo else None


def claimed_revision(headers: Mapping[str, str]) -> int:
    """Return the revision of the claim of a message, or 0 if it names none."""
    return _read_claim(headers)[0]


def late_claim(headers: Mapping[str, str], stored_at: float) -> int:
    """Return the revision of the claim of a message that was stored after its time; 0 for one in time, or unclaimed."""
    revision, until = _read_claim(headers)
    return revision if stored_at > until else 0


def _read_claim(headers: Mapping[str, str]) -> tuple[int, int]:
    revision, _, until = headers.get(HEADER_CLAIM, "").partition(" ")
    is_valid = all(one.isascii() and one.isdecimal() and len(one) < _DIGITS for one in (revision, until))
    return (int(revision), int(until)) if is_valid else (0, 0)


def late_claim_header(headers: Mapping[str, str], stored_at: datetime) -> dict[str, str]:
    """Return the claim that a copy of a message must have: the copy itself is stored late."""
    return {HEADER_CLAIM: headers[HEADER_CLAIM]} if late_claim(headers, stored_at.timestamp()) else {}


def trace_context(headers: Mapping[str, str]) -> str | None:
    """Return the value of `traceparent`, spelled so, as version 00; None when it is absent or malformed."""
    parts = read_trace(headers.get(HEADER_TRACE, ""))
    return f"00-{'-'.join(parts)}" if parts else None


def read_trace(value: str) -> tuple[str, str, str] | None:
    """Return the trace id, the span id and the flags in a `traceparent`, or None when it is malformed.

    A later version is read like version 00 (W3C Trace Context, section 4.3). Ids of zeros are invalid.
    """
    found = _TRACE_FORM.fullmatch(value) if len(value) <= MAX_VALUE_LENGTH else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    return None if trace in _NO_ID or span in _NO_ID or (more and version == "00") else (trace, span, flags)


def _select(headers: Mapping[str, str], allowed: Mapping[str, str]) -> dict[str, str]:
    selected: dict[str, str] = {}
    for name, value in headers.items():
        known = allowed.get(name.lower())
        if known is None or (name != known and known in selected):
            continue
        fit = trace_context({known: value}) if known == HEADER_TRACE else value
        if fit is not None and _is_fit(fit):
            selected[known] = fit
    return selected
