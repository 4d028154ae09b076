"""The sender against answers that nobody would think of: it never hangs, never fails by itself, and is never wrong.

`make test` runs a few hundred of them, `make fuzz` ten thousand.
"""

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consumers.http_client.response import WebhookResponse
from schemas.codes import Code
from tests.fuzz.corpus import CASES, Case
from tests.fuzz.exchanges import TIMEOUT_S, Exchanges
from tests.support.bytewise import answering, receiving
from tests.support.webhooks import status_by_aiohttp

NO_ANSWER = {Code.NET_RESET, Code.NET_TIMEOUT, Code.NET_RESPONSE_TOO_LARGE}
LATE_S = 2.0
"""A machine that is busy with other things may be so late, and no later."""
FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ENDINGS = st.sampled_from(["close"] * 6 + ["half-close", "half-close", "reset", "reset", "reset", "stay"])
CUTS = st.sets(st.integers(1, 400), max_size=12)
INFORMATIONAL = st.lists(
    st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"]), max_size=2
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"connection: close\r\n",
            b"Connection: keep-alive\r\n",
            b"content-type: text/plain\r\n",
            b"content-encoding: gzip\r\n",
            b"location: http://10.0.0.1/\r\n",
            b"retry-after: 5\r\n",
            b"set-cookie: a=b\r\n",
            b"x-empty:\r\n",
            b"\xc3\xa4".join([b"x-latin: ", b"\r\n"]),
        ]
    ),
    max_size=4,
)
FRAMING = st.sampled_from([b"", b"content-length: 0\r\n", b"content-length: 7\r\n", b"transfer-encoding: chunked\r\n"])
BODIES = st.binary(max_size=60) | st.sampled_from(
    [
        b"",
        b"7 bytes",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0\r\nx: y\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 500 no\r\n\r\n",
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, bytes]:
    """Generate responses with a valid head and an arbitrary remainder."""
    status = draw(st.sampled_from([200, 201, 204, 301, 304, 400, 404, 410, 429, 500, 503]) | st.integers(200, 999))
    version = draw(st.sampled_from([b"1.1", b"1.1", b"1.0"]))
    lines = [b"HTTP/%b %d %b\r\n" % (version, status, draw(st.sampled_from([b"OK", b"", b"a b \xff"])))]
    lines += [*draw(HEADERS), draw(FRAMING)]
    return status, b"".join([*draw(INFORMATIONAL), *lines, b"\r\n", draw(BODIES)])


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """Generate responses with a changed, removed or repeated part."""
    answer = bytearray(draw(answers())[1] if draw(st.booleans()) else draw(st.sampled_from(CASES)).answer[:4000])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(answer) - 1)))
        width = draw(st.integers(0, 6))
        answer[at : at + width] = draw(st.binary(max_size=6) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"\x00", b" "]))
    return bytes(answer)


def segments(answer: bytes, cuts: set[int]) -> list[bytes]:
    """Split a response into segments."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(answer)), len(answer)]
    return [answer[start:end] for start, end in pairwise(edges)]


@pytest.fixture(scope="module")
def exchanges() -> Iterator[Exchanges]:
    """A receiver and a sender."""
    with Exchanges() as opened:
        yield opened


def check(exchanges: Exchanges, answer: bytes, cuts: set[int], ending: str) -> WebhookResponse:
    """Require one request, a valid result in time, and no effect on the next delivery."""
    reply, following, took_s = exchanges.of(segments(answer, cuts), ending)

    assert exchanges.requests == 1, "a request is never sent twice"
    assert took_s < TIMEOUT_S + LATE_S
    if reply.http_status is None:
        assert reply.code in NO_ANSWER
        assert reply == WebhookResponse(reply.code)
    else:
        assert reply.code is Code.of_http_status(reply.http_status)
        assert b" %d" % reply.http_status in answer
    assert following == WebhookResponse(Code.HTTP_2XX, 299, None, 4, b"next"), "and gets its own answer"
    return reply


@FUZZ
@given(answers(), CUTS, ENDINGS)
def test_a_valid_head_determines_the_status(
    exchanges: Exchanges, answer: tuple[int, bytes], cuts: set[int], ending: str
) -> None:
    """The status is that of the head, whatever the body and its segments."""
    status, data = answer

    reply = check(exchanges, data, cuts, ending)

    assert reply.http_status == status or (ending == "reset" and reply.code is Code.NET_RESET)


@FUZZ
@given(mutants() | st.binary(max_size=200), CUTS, ENDINGS)
@example(b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", set(), "close")
@example(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\r\n", set(), "stay")
def test_any_bytes_end_in_time(exchanges: Exchanges, answer: bytes, cuts: set[int], ending: str) -> None:
    """Any bytes are a response or a failure of the receiver, in time and never of the sender."""
    check(exchanges, answer, cuts, ending)


@FUZZ
@given(mutants(), CUTS)
def test_segments_do_not_matter(exchanges: Exchanges, answer: bytes, cuts: set[int]) -> None:
    """The same bytes come to the same, however they are cut."""
    assert check(exchanges, answer, cuts, "close") == check(exchanges, answer, set(), "close")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_corpus_has_its_known_results(exchanges: Exchanges, case: Case, size: int) -> None:
    """Each response of the corpus has its known status or failure, whole and in segments."""
    cuts = set(range(size, min(len(case.answer), 400), size))

    reply = check(exchanges, case.answer, cuts, "close")

    assert (reply.http_status or reply.code) == case.means


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_another_client_agrees(case: Case) -> None:
    """aiohttp reads the corpus the same way, except for the noted cases."""
    async with receiving(answering(case.answer, close=True)) as receiver:
        status = await status_by_aiohttp(f"http://127.0.0.1:{receiver.port}/", timeout_s=2)

    agrees = status == (case.means if isinstance(case.means, int) else None)
    assert agrees is not bool(case.elsewhere), f"aiohttp says {status}"
