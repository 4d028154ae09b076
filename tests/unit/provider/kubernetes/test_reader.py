"""Reads of a scripted source: counted failures, and the end of a read."""

from collections import deque

import pytest

from provider.errors import SecretDenied, SecretUnavailable
from provider.kubernetes.circuit_breaker import BreakerState, CircuitBreaker
from provider.kubernetes.reader import ReadRetryPolicy, SecretReader
from provider.kubernetes.session import ApiServerResponse, ResponseFault
from provider.secret_ref import SecretRef
from provider.snapshot import SecretSnapshot
from tests.kubernetes.manifests import encoded, manifest
from tests.kubernetes.resolving import REF, Clock, Pauses

GOOD = ApiServerResponse(200, encoded(manifest()))


class Source:
    """A source with scripted results, and the good result after them."""

    def __init__(self, *outcomes: ApiServerResponse | ResponseFault) -> None:
        self.outcomes = deque(outcomes)
        self.asked: list[bool] = []
        """Whether each GET was with fresh credentials."""

    async def get_secret(self, ref: SecretRef, *, fresh_credentials: bool) -> ApiServerResponse | ResponseFault:
        assert ref == REF
        self.asked.append(fresh_credentials)
        return self.outcomes.popleft() if self.outcomes else GOOD


def reads(source: Source) -> tuple[SecretReader, CircuitBreaker, Pauses]:
    pauses, breaker = Pauses(), CircuitBreaker(clock=Clock())
    return (
        SecretReader(source, timeout_s=5, retry_policy=ReadRetryPolicy(sleep=pauses, jitter=max), breaker=breaker),
        breaker,
        pauses,
    )


async def test_an_unsent_request_is_no_failure_of_the_server() -> None:
    """An unreadable token file opens no breaker and is not retried within the read."""
    source = Source(*[ResponseFault.NOT_SENT] * 10)
    reading, breaker, pauses = reads(source)

    found = [await reading.find_secret(REF) for _ in range(10)]

    assert found == [SecretUnavailable] * 10
    assert (breaker.state, pauses.lengths_s, len(source.asked)) == (BreakerState.CLOSED, [], 10)
    assert isinstance(await reading.find_secret(REF), SecretSnapshot)


async def test_with_other_cas_it_is_tried_at_once() -> None:
    """Without a pause, as one of the two retries, and not counted as a failure."""
    source = Source(*[ResponseFault.OUTDATED] * 6)
    reading, breaker, pauses = reads(source)

    found = [await reading.find_secret(REF) for _ in range(2)]

    assert found == [SecretUnavailable] * 2
    assert (breaker.state, pauses.lengths_s) == (BreakerState.CLOSED, [0.0] * 4)


@pytest.mark.parametrize(
    "outcomes",
    [
        [
            ApiServerResponse(401, b""),
            ApiServerResponse(500, b""),
            ApiServerResponse(500, b""),
            ApiServerResponse(500, b""),
        ],
        [
            ApiServerResponse(500, b""),
            ApiServerResponse(401, b""),
            ApiServerResponse(500, b""),
            ApiServerResponse(500, b""),
        ],
        [
            ApiServerResponse(500, b""),
            ApiServerResponse(500, b""),
            ApiServerResponse(401, b""),
            ApiServerResponse(500, b""),
        ],
    ],
    ids=range(3),
)
async def test_four_gets_are_the_most(outcomes: list[ApiServerResponse]) -> None:
    """A new token, whenever it is needed, and two retries."""
    source = Source(*outcomes)
    reading, _, pauses = reads(source)

    found = await reading.find_secret(REF)

    assert found is SecretUnavailable
    assert (len(source.asked), pauses.lengths_s) == (4, [0.1, 0.2])


async def test_a_second_401_is_final() -> None:
    """With a token that was just read, it is no old one."""
    source = Source(
        ApiServerResponse(500, b""),
        ApiServerResponse(401, b""),
        ApiServerResponse(500, b""),
        ApiServerResponse(401, b""),
    )
    reading, _, _ = reads(source)

    found = await reading.find_secret(REF)

    assert found is SecretDenied
    assert source.asked == [False, False, True, True]
