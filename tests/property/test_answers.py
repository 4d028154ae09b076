"""Reading what receivers answer, whatever they answer and however it is cut into segments."""

import asyncio
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from consumers.exchange import HeadFirst
from consumers.sender import MAX_RETRY_AFTER_S, retry_after_s

INFORMATIONAL = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"])
HEADS = st.sampled_from(
    [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 204 No Content\r\nx: 1\r\n\r\n", b"HTTP/1.0 503 x\r\n\r\n"]
)
BODIES = st.binary(max_size=40) | st.sampled_from([b"\r\n\r\n", b"a\r\n\r\nb", b"HTTP/1.1 500 no\r\n\r\n"])


class Kept(asyncio.Protocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)


@given(st.lists(INFORMATIONAL, max_size=2), HEADS, BODIES, st.sets(st.integers(1, 150), max_size=12))
def test_a_head_is_passed_on_apart_from_what_follows(
    informational: list[bytes], head: bytes, body: bytes, cuts: set[int]
) -> None:
    """However an answer is cut, every byte is passed on in order, and the end of its head is the end of a part."""
    heads = b"".join([*informational, head])
    answer = heads + body
    edges = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    handler = Kept()
    protocol = HeadFirst(handler)

    for start, end in pairwise(edges):
        protocol.data_received(answer[start:end])

    lengths = [0]
    for part in handler.parts:
        lengths.append(lengths[-1] + len(part))
    assert b"".join(handler.parts) == answer
    assert len(heads) in lengths
    assert b"" not in handler.parts


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_is_no_answer_is_passed_on_as_it_is(first: bytes, second: bytes) -> None:
    """Bytes that are no HTTP are for the client to judge, at once."""
    handler = Kept()
    protocol = HeadFirst(handler)

    for data in (first, second):
        protocol.data_received(data)

        assert b"".join(handler.parts).endswith(data)
    assert b"".join(handler.parts) == first + second


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Za-z]{0,9},? ?[0-9]{0,4}[ -][A-Za-z]{3}[ -][0-9]{0,5} [0-9:]{0,9} .{0,6}")
)
def test_any_retry_after_is_a_bounded_number_or_nothing(value: str) -> None:
    """No header value raises, and none asks for less than nothing or more than a day."""
    seconds = retry_after_s(value, datetime(2026, 1, 1, tzinfo=UTC))

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S
