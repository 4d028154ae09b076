"""How a Secret is read through an API that may fail: in turns, by one deadline, with two retries and a breaker."""

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol, final

from provider.errors import SecretDenied, SecretError, SecretNotFound, SecretUnavailable
from provider.kubernetes.circuit_breaker import CallOutcome, CircuitBreaker
from provider.kubernetes.response import ApiServerResponse, ResponseFault
from provider.kubernetes.retry import ReadRetryPolicy
from provider.secret_manifest import read_manifest
from provider.secret_ref import SecretRef
from provider.snapshot import SecretSnapshot

MAX_CONCURRENT_READS: Final = 8

_REFUSALS: Final[Mapping[int, type[SecretError]]] = {401: SecretDenied, 403: SecretDenied, 404: SecretNotFound}


class SecretSource(Protocol):
    """Where Secrets are to be had."""

    async def get(self, ref: SecretRef, *, fresh_credentials: bool) -> ApiServerResponse | ResponseFault:
        """One GET of the Secret that `ref` names. Never raises."""
        ...


@final
class SecretReader:
    """Everything that is read from one source. At most eight GETs are under way at a time; the rest wait."""

    __slots__ = ("_breaker", "_retrying", "_source", "_timeout_s", "_turns")

    def __init__(
        self, source: SecretSource, *, timeout_s: float, retrying: ReadRetryPolicy, breaker: CircuitBreaker
    ) -> None:
        """`timeout_s` bounds a whole read: waiting for its turn, every try, the pauses between them and the body."""
        self._source = source
        self._timeout_s = timeout_s
        self._retrying = retrying
        self._breaker = breaker
        self._turns = asyncio.Semaphore(MAX_CONCURRENT_READS)

    async def find(self, ref: SecretRef) -> SecretSnapshot | type[SecretError]:
        """Read the Secret that `ref` names, or give the error to raise."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await self._ask(ref, deadline)
        except TimeoutError:
            return SecretUnavailable

    async def _ask(self, ref: SecretRef, deadline: asyncio.Timeout) -> SecretSnapshot | type[SecretError]:
        """GET until something is certain, or no further try is worth while or fits in: at most four times in all."""
        retries, fresh_credentials = 0, False
        while True:
            outcome = await self._get(ref, deadline, fresh_credentials=fresh_credentials)
            if isinstance(outcome, ApiServerResponse) and outcome.status == 401 and not fresh_credentials:
                fresh_credentials = True
                continue
            found = _meaning(outcome, ref)
            pause_s = self._retrying.pause_s(outcome, retries) if found is SecretUnavailable else None
            if pause_s is None or self._breaker.refuses or pause_s >= _left_s(deadline):
                return found
            await self._retrying.sleep(pause_s)
            retries += 1

    async def _get(
        self, ref: SecretRef, deadline: asyncio.Timeout, *, fresh_credentials: bool
    ) -> ApiServerResponse | ResponseFault:
        """One GET, in its turn and if the breaker lets it through, which then hears how it went."""
        if self._breaker.refuses:  # so that nobody waits for a turn to hear it
            return ResponseFault.NOT_SENT
        async with self._turns:
            ticket = self._breaker.admit()
            if ticket is None:
                return ResponseFault.NOT_SENT
            try:
                outcome = await self._source.get(ref, fresh_credentials=fresh_credentials)
            except asyncio.CancelledError:
                self._breaker.settle(ticket, CallOutcome.FAILED if deadline.expired() else CallOutcome.NOTHING)
                raise
            self._breaker.settle(ticket, _verdict(outcome))
            return outcome


def _meaning(outcome: ApiServerResponse | ResponseFault, ref: SecretRef) -> SecretSnapshot | type[SecretError]:
    if isinstance(outcome, ResponseFault):
        return SecretUnavailable
    if outcome.status == 200:
        return read_manifest(outcome.body, ref)
    return _REFUSALS.get(outcome.status, SecretUnavailable)


def _verdict(outcome: ApiServerResponse | ResponseFault) -> CallOutcome:
    if isinstance(outcome, ApiServerResponse):
        return CallOutcome.FAILED if outcome.is_overload else CallOutcome.ALIVE
    return (
        CallOutcome.FAILED if outcome in (ResponseFault.UNREACHABLE, ResponseFault.UNTRUSTED) else CallOutcome.NOTHING
    )


def _left_s(deadline: asyncio.Timeout) -> float:
    return (deadline.when() or 0.0) - asyncio.get_running_loop().time()
