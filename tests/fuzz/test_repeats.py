"""Successive responses on the same connections: cached parsing never affects a result."""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Self
from unittest.mock import patch

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct

from consumers.http_client import connection as http1
from consumers.http_client.connection import ConnectionKey, HttpConnection
from consumers.http_client.pool import ConnectionPool
from consumers.http_client.response import WebhookResponse
from tests.fuzz.corpus import CASES, CHUNKED, CONTINUE, OK
from tests.fuzz.test_answers import CUTS, FUZZ, answers, mutants, segments

PLACE: ConnectionKey = ("acme", "http", "receiver", 80, "127.0.0.1")
EMPTY = OK + b"content-length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 x\r\ncontent-length: 4\r\n\r\nbusy"
LATER = b"HTTP/1.1 429 x\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
LAST = CHUNKED + b"0\r\nconnection: close\r\n\r\n"
TWO = OK + b"content-length: 2\r\n\r\nok"
LONG = OK + b"content-length: 2000\r\n\r\n" + b"x" * 2000


class Said(Struct, frozen=True):
    """An answer, where it is cut, and whether its body is asked for."""

    answer: bytes
    cuts: set[int] = set()
    capture: bool = False


@st.composite
def conversations(draw: st.DrawFn) -> list[Said]:
    """A few answers in any order, most of them more than once."""
    kept = [EMPTY, EMPTY + b"\r\n", BUSY, CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n\r\n", LATER, CONTINUE + EMPTY]
    some = st.sampled_from(kept) | answers().map(lambda answer: answer[1]) | mutants()
    different = st.sampled_from(draw(st.lists(some, min_size=1, max_size=3)))
    cuts = st.just(set[int]()) | CUTS
    rarely = st.integers(0, 4).map(lambda number: not number)
    return draw(st.lists(st.builds(Said, different, cuts, rarely), min_size=2, max_size=8))


class Receiver:
    """The other ends of connections, in one loop with them. Use as a context manager."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def say(self, conversation: Sequence[Said]) -> tuple[list[WebhookResponse], int]:
        """The replies, and how many connections it took."""
        return self._runner.run(self._say(conversation))

    async def _say(self, conversation: Sequence[Said]) -> tuple[list[WebhookResponse], int]:
        pool, ends = ConnectionPool(), dict[HttpConnection, socket.socket]()
        replies: list[WebhookResponse] = []
        with ExitStack() as sockets:
            for said in conversation:
                connection = pool.acquire([PLACE])
                if connection is None:
                    ours, theirs = socket.socketpair()
                    sockets.enter_context(theirs)
                    ours.setblocking(False)
                    connection = HttpConnection(PLACE, ours, pool)
                    ends[connection] = theirs
                    replies.append(await self._exchange(connection, theirs, said, ours))
                    pool.add(connection)
                else:
                    replies.append(await self._exchange(connection, ends[connection], said))
            pool.close()
            await _turns()
        return replies, len(ends)

    async def _exchange(
        self, connection: HttpConnection, end: socket.socket, said: Said, sock: socket.socket | None = None
    ) -> WebhookResponse:
        ended = self._loop.create_future()
        connection.send_request(b"?", self._loop.time() + 60, ended.set_result, capture=said.capture)
        if sock is not None:
            await self._loop.create_connection(lambda: connection, sock=sock)
        assert end.recv(2) == b"?"
        for segment in segments(said.answer, said.cuts):
            try:
                end.sendall(segment)
            except OSError:  # the connection has had enough
                break
            await _turns()
        if not ended.done():
            end.shutdown(socket.SHUT_WR)
        reply: WebhookResponse = await asyncio.wait_for(ended, 10)
        await _turns()
        return reply


async def _turns() -> None:
    """Let the loop read what has been sent: it is there at once."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """What speaks."""
    with Receiver() as opened:
        yield opened


@FUZZ
@given(conversations())
@example([Said(case.answer) for case in CASES for _ in range(2)])
@example([Said(EMPTY), Said(EMPTY + EMPTY), Said(EMPTY), Said(EMPTY, {9}), Said(EMPTY)])
@example([Said(TWO, {len(TWO) - 2}), Said(b"ok")])
@example([Said(LAST), Said(LAST), Said(EMPTY)])
@example([Said(LATER), Said(LATER), Said(BUSY), Said(BUSY), Said(BUSY, capture=True), Said(BUSY)])
def test_cached_parsing_never_affects_a_result(receiver: Receiver, conversation: list[Said]) -> None:
    """Replies and connection reuse equal those of a sender that parses every response."""
    with patch.object(http1, "MAX_REMEMBERED_BYTES", 0):
        parsed = receiver.say(conversation)

    assert receiver.say(conversation) == parsed


def test_a_repeated_response_is_not_parsed_again(receiver: Receiver) -> None:
    """The same bytes return the same reply object; long or split responses are parsed."""
    (one, two, other, three), connections = receiver.say([Said(EMPTY), Said(EMPTY), Said(BUSY), Said(EMPTY)])
    (long, again), _ = receiver.say([Said(LONG), Said(LONG)])
    (piecewise, whole), _ = receiver.say([Said(EMPTY), Said(EMPTY, {20})])

    assert connections == 1
    assert two is one
    assert three == one
    assert three is not one
    assert other.http_status == 503
    assert again == long
    assert again is not long
    assert whole == piecewise
    assert whole is not piecewise
