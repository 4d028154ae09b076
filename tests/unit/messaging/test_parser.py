"""Parsing of server input as in the client library, however the input is split."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from messaging.client.parser import MAX_LINE_BYTES, FastParser

TOKENS = st.text("abc.-_$", min_size=1, max_size=8).map(str.encode)
PAYLOADS = st.sampled_from([b"", b"{}", b"MSG a 1 2\r\nxx\r\n", b"\r\n", b"PING\r\n"]) | st.binary(max_size=40)
Heard = tuple[Any, ...]


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message as a server writes it."""
    subject, reply, payload = draw(TOKENS), draw(st.just(b"") | TOKENS), draw(PAYLOADS)
    start = b"%b %d %b" % (subject, draw(st.integers(1, 4)), reply + b" " if reply else b"")
    if draw(st.booleans()):
        return b"MSG %b%d\r\n%b\r\n" % (start, len(payload), payload)
    block = b"NATS/1.0\r\n%b\r\n" % b"".join(draw(st.lists(st.just(b"a: b\r\n"), max_size=2)))
    return b"HMSG %b%d %d\r\n%b%b\r\n" % (start, len(block), len(block) + len(payload), block, payload)


WORDS = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Stale Connection'\r\n", b'INFO {"a":1}\r\n'])


class Library:
    """As much of the client as a parser calls."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, block: bytes | None) -> None:
        self.heard.append(("message", sid, subject, reply, data, block or b""))

    async def _process_ping(self) -> None:
        self.heard.append(("ping",))

    async def _process_pong(self) -> None:
        self.heard.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.heard.append(("error", text))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.heard.append(("info", info))

    async def _error_cb(self, error: Exception) -> None:
        self.heard.append(("failed", type(error).__name__))


class Listening(Library):
    """The same, with listeners for the subscriptions 1 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.intake = FastParser(self, {b"%d" % sid: self._listener(sid) for sid in (1, 2)})

    def _listener(self, sid: int) -> Any:
        def listen(subject: bytes, reply: bytes, data: bytes, block: bytes) -> None:
            self.heard.append(("message", sid, subject, reply, data, block))

        return listen


def _cut(data: bytes, lengths: list[int]) -> list[bytes]:
    pieces: list[bytes] = []
    for length in lengths:
        pieces.append(data[:length])
        data = data[length:]
    return [*pieces, data]


@given(st.lists(messages() | WORDS, max_size=12), st.lists(st.integers(0, 60), max_size=12))
def test_the_parser_and_the_library_produce_equal_messages(sent: list[bytes], lengths: list[int]) -> None:
    """Messages with and without headers, and everything else, in the same order."""
    pieces = _cut(b"".join(sent), lengths)
    ours, theirs = Listening(), Library()
    parser = Parser(theirs)

    async def parse() -> None:
        for piece in pieces:
            await ours.intake.parse(piece)
            await parser.parse(piece)

    asyncio.run(parse())

    assert ours.heard == theirs.heard
    assert len([one for one in sent if one != b"+OK\r\n"]) == len(ours.heard)


@pytest.mark.parametrize(
    "line",
    [b"MSG a\r\n", b"MSG a 1 x\r\n", b"HMSG a 1 9 4\r\n1234\r\n", b"MSG a 1 -3\r\n", b"what\r\n", b"\r\n"],
)
async def test_malformed_protocol_ends_the_connection(line: bytes) -> None:
    """As the library has it: it reconnects then."""
    with pytest.raises(ProtocolError):
        await Listening().intake.parse(line)


async def test_an_endless_line_is_not_buffered() -> None:
    """The parser buffers a bounded number of bytes."""
    intake = Listening().intake

    await intake.parse(b"x" * MAX_LINE_BYTES)
    with pytest.raises(ProtocolError):
        await intake.parse(b"x")


async def test_a_failing_listener_does_not_affect_others() -> None:
    """The failure is reported as an error, and the next message is delivered."""
    client = Library()
    heard: list[bytes] = []

    def fail(*_: bytes) -> None:
        raise ValueError

    intake = FastParser(client, {b"1": fail, b"2": lambda _subject, _reply, data, _block: heard.append(data)})

    await intake.parse(b"MSG a 1 1\r\nx\r\nMSG a 2 1\r\ny\r\n")

    assert (client.heard, heard) == ([("failed", "ValueError")], [b"y"])


async def test_input_of_a_closed_connection_is_dropped() -> None:
    """The remaining input is dropped after an error caused a reconnect."""
    client = Listening()

    async def reconnect(_: str) -> None:
        client.intake.reset()

    client._process_err = reconnect  # type: ignore[method-assign,assignment]

    await client.intake.parse(b"-ERR 'Stale Connection'\r\nMSG a 1 1\r\nx\r\nMSG a 1 1")
    await client.intake.parse(b"MSG a 1 1\r\ny\r\n")

    assert [one[4] for one in client.heard] == [b"y"]
