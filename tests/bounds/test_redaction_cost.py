"""What the redaction of one answer costs, in calls: a receiver and its tenant choose everything that is searched.

Calls are counted because they do not depend on the machine. The rest of the work is a few operations in C on a text
of 1.5 KiB.
"""

import base64
import sys
from collections.abc import Callable

import msgspec
import pytest

from consumers.delivery.response_redaction import redact_response, values_of_destination
from provider.signing_keys import HmacKey
from telemetry.redaction import MASK

SIGNATURE = "K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H+pI4="
KEY = HmacKey(b"Zq8vT2mW5xY9bN4kR7pL1cJ6")
MAX_CALLS = 5_000
MAX_CALLS_OF_A_SHORT_ANSWER = 60
LONG_URL = "http://127.0.0.1:26501/echo/" + "x" * 900 + "?a=" + "y" * 900
ESCAPED = ("ab%41&#x41;" * 9)[:100]
NOISE = [base64.b64encode(HmacKey(KEY_SEED).sign(b"%d" % at)).decode() for KEY_SEED in [b"n" * 32] for at in range(64)]


class Answer(msgspec.Struct, frozen=True):
    """What a receiver answers, and the values that its destination makes known."""

    body: str
    headers: tuple[str, ...]
    url: str = LONG_URL

    def redact(self) -> str:
        """Return the answer as it is stored."""
        known = values_of_destination(self.url, self.headers)
        body = self.body.encode()[: 3 * 1024]
        return redact_response(body, known=[SIGNATURE], fragments=KEY.fragments, destination=known)


HOSTILE = {
    "an echo of escaped headers": Answer(
        "".join(f"x-h{at}: {ESCAPED}\n" for at in range(30)) + "AAAA%41&#x41;" * 80, (ESCAPED,) * 30
    ),
    "an echo of many headers": Answer("\n".join(NOISE), tuple(NOISE), "https://a.com/"),
    "an echo in base64": Answer(base64.b64encode("\n".join(NOISE).encode()).decode(), tuple(NOISE), "https://a.com/"),
    "base64 of known values at each place": Answer("YWFh" * 768, ("a" * 60, "X" * 60), "https://a.com/?a=" + "%16" * 9),
    "groups without a fragment": Answer("abcd-" * 600, ("abcdXabcdYabcdZ",)),
    "short values": Answer("a" * 3072, ("aaaa aaaaa aaaaaa aaaaaaa",)),
    "ampersands": Answer("&a" * 390 + "%252541", (ESCAPED,)),
    "too many ampersands": Answer("&a" * 1500 + "%252541", (ESCAPED,)),
    "escapes of JSON": Answer("\\u0041a" * 400, (ESCAPED,)),
    "too many escapes": Answer("\\n" * 1500, (ESCAPED,)),
    "numbers": Answer("1 -1 " * 600, (ESCAPED,)),
    "words": Answer("a\na " * 768, (ESCAPED,)),
}


def count_calls(function: Callable[[], object]) -> int:
    """Return how many functions of Python and C are called."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_no_answer_takes_many_steps(answer: Answer) -> None:
    """Whatever the receiver answers, and whatever headers and URL the tenant has set."""
    answer.redact()  # what the destination makes known is prepared once

    assert count_calls(answer.redact) < MAX_CALLS


def test_a_short_answer_takes_next_to_no_steps() -> None:
    """Also with headers and a URL that are expensive to search for."""
    answer = Answer("ok", (ESCAPED,) * 30)

    assert answer.redact() == "ok"
    assert count_calls(answer.redact) < MAX_CALLS_OF_A_SHORT_ANSWER


@pytest.mark.parametrize(
    "headers",
    [
        tuple(f"{at}" + "%41&#x41;" * 110 for at in range(4)),
        tuple(" ".join(f"{at}%41&lt%42{word}" for word in range(8)) for at in range(32)),
        tuple(" ".join(f"{at}{word}" for word in range(30, 60)) for at in range(30, 60)),
        tuple(f"{at:04}" * 250 for at in range(5)),
    ],
    ids=["escapes", "words with escapes", "words", "characters"],
)
def test_nothing_is_shown_when_too_much_is_known(headers: tuple[str, ...]) -> None:
    """Values that would take long to search for cost little to refuse."""
    assert Answer("an error", headers).redact() == MASK
    assert count_calls(Answer("an error", (*headers, "other")).redact) < 2 * MAX_CALLS


def test_nothing_is_shown_of_a_text_that_would_take_long() -> None:
    """A known value cannot hide behind more matches or escapes than are examined."""
    for name in ("groups without a fragment", "short values", "too many ampersands", "too many escapes"):
        assert HOSTILE[name].redact() == MASK
