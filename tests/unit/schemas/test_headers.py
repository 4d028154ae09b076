"""The allow-list of headers that travel from one stream to another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.headers import HEADER_TRACE, MAX_VALUE_LENGTH, context_headers, portable_headers, trace_context

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PORTABLE = {
    "content-type",
    "traceparent",
    "Oneprotect-Attempt",
    "Oneprotect-First-Attempt-At",
    "Oneprotect-Replay",
    "Oneprotect-Replay-From",
    "Oneprotect-Secret-Waits",
    "Oneprotect-Deferrals",
    "Oneprotect-Since",
    "Oneprotect-Original",
}


@given(names=st.dictionaries(st.sampled_from(sorted(PORTABLE)) | st.text(max_size=20), st.text(max_size=300)))
def test_nothing_outside_the_list_passes(names: dict[str, str]) -> None:
    """Whatever a message carries, only listed names with short, printable values are left."""
    passed = portable_headers(names)

    assert passed.keys() <= PORTABLE
    assert all(
        0 < len(value) <= MAX_VALUE_LENGTH and value.isascii() and value.isprintable() for value in passed.values()
    )


def test_the_list_is_exact() -> None:
    """Each header of the list passes, and the context is the part of it that is no retry state."""
    headers = dict.fromkeys(PORTABLE, "1") | {"traceparent": TRACE}

    assert portable_headers(headers) == headers
    assert context_headers(headers).keys() == {"content-type", "traceparent"}


@pytest.mark.parametrize(
    "name", ["Nats-Msg-Id", "Nats-TTL", "Nats-Rollup", "X-Foo", "Oneprotect-Code", "Oneprotect-Origin-Subject"]
)
def test_other_headers_are_dropped(name: str) -> None:
    """Headers of the server, of the producer and of single streams are not copied."""
    assert portable_headers({name: "1"}) == {}


def test_names_are_compared_without_case() -> None:
    """A header in another case passes under its usual name, unless that is there, too."""
    assert portable_headers({"TraceParent": TRACE}) == {HEADER_TRACE: TRACE}
    assert portable_headers({"TRACEPARENT": "other", "traceparent": TRACE}) == {HEADER_TRACE: TRACE}
    assert portable_headers({"traceparent": TRACE, "TRACEPARENT": "other"}) == {HEADER_TRACE: TRACE}


@pytest.mark.parametrize(
    "value",
    [
        "1", TRACE.upper(), TRACE + "-more", f"ff{TRACE[2:]}", f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", TRACE[:-1], TRACE + "0", f"{TRACE},{TRACE}",
    ],
)  # fmt: skip
def test_a_malformed_trace_does_not_travel(value: str) -> None:
    """Neither to another stream nor to a receiver: nothing but a trace context passes under its name."""
    assert trace_context({HEADER_TRACE: value}) is None
    assert context_headers({HEADER_TRACE: value}) == {}


def test_a_later_version_of_a_trace_travels_as_version_00() -> None:
    """What a later version appends is unknown, and is left out."""
    assert trace_context({HEADER_TRACE: f"cc{TRACE[2:]}-more"}) == TRACE


@pytest.mark.parametrize(
    "value", ["", " ", "a\r\nX-Foo: 1", "a\n", "a\rb", "\x00", "ü", "a" * (MAX_VALUE_LENGTH + 1), "a "]
)
def test_a_value_that_is_not_plain_is_dropped(value: str) -> None:
    """A plain value has no line end, control character, foreign script, trailing space or excess length."""
    assert portable_headers({"traceparent": value}) == {}
    assert trace_context({"traceparent": value}) is None
