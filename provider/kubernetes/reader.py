"""Reads of Secrets from an API server that may fail: a limit, a deadline, retries and a circuit breaker."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, final

from msgspec import Struct

from provider.errors import SecretDenied, SecretError, SecretNotFound, SecretUnavailable
from provider.kubernetes.circuit_breaker import CallOutcome, CircuitBreaker
from provider.kubernetes.session import ApiServerResponse, ResponseFault
from provider.secret_manifest import read_manifest
from provider.secret_ref import SecretRef
from provider.snapshot import SecretSnapshot

MAX_CONCURRENT_READS: Final = 8
MAX_RETRIES: Final = 2
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

_Outcome = ApiServerResponse | ResponseFault

_REFUSALS: Final[Mapping[int, type[SecretError]]] = {401: SecretDenied, 403: SecretDenied, 404: SecretNotFound}


class SecretSource(Protocol):
    """Store of Secrets; `SecretsApi` is one."""

    async def get_secret(self, ref: SecretRef, *, fresh_credentials: bool) -> _Outcome:
        """Send one GET of the Secret. Never raises."""
        ...


class ReadRetryPolicy(Struct, frozen=True, kw_only=True):
    """Pauses between the attempts of a read."""

    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    jitter: Callable[[float, float], float] = random.uniform
    """Draws from a range."""

    def compute_pause_s(self, outcome: _Outcome, retries: int) -> float | None:
        """Return the seconds to wait before the next attempt, or None for no further attempt.

        The pause is `Retry-After`, at most two seconds, or a draw from up to 0.1 and then 0.2 s. A valid answer is
        final. So is whatever only an operator can fix: an untrusted certificate, or a status no API server sends.
        """
        if retries >= MAX_RETRIES or outcome is ResponseFault.NOT_SENT or outcome is ResponseFault.UNTRUSTED:
            return None
        if outcome is ResponseFault.OUTDATED:
            return 0.0
        if isinstance(outcome, ApiServerResponse):
            if not outcome.is_overload and outcome.status != 200:
                return None
            if outcome.retry_after_s is not None:
                return min(outcome.retry_after_s, LONGEST_PAUSE_S)
        return self.jitter(0.0, FIRST_PAUSE_S * 2**retries)


@final
class SecretReader:
    """Reader of one source, with at most eight GETs in flight."""

    __slots__ = ("_breaker", "_retry_policy", "_slots", "_source", "_timeout_s")

    def __init__(
        self, source: SecretSource, *, timeout_s: float, retry_policy: ReadRetryPolicy, breaker: CircuitBreaker
    ) -> None:
        """`timeout_s` bounds a whole read: waiting for a slot, every attempt, pauses and the body."""
        self._source = source
        self._timeout_s = timeout_s
        self._retry_policy = retry_policy
        self._breaker = breaker
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_READS)

    async def find_secret(self, ref: SecretRef) -> SecretSnapshot | type[SecretError]:
        """Read the Secret that `ref` names. Returns the snapshot, or the error to raise."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await self._read(ref, deadline)
        except TimeoutError:
            return SecretUnavailable

    async def _read(self, ref: SecretRef, deadline: asyncio.Timeout) -> SecretSnapshot | type[SecretError]:
        """Send GETs until the answer is certain or no retry is left: at most four, one of them after a 401."""
        retries, fresh_credentials = 0, False
        while True:
            outcome = await self._get(ref, deadline, fresh_credentials=fresh_credentials)
            if isinstance(outcome, ApiServerResponse) and outcome.status == 401 and not fresh_credentials:
                fresh_credentials = True
                continue
            found = _interpret(outcome, ref)
            pause_s = self._retry_policy.compute_pause_s(outcome, retries) if found is SecretUnavailable else None
            if pause_s is None or self._breaker.is_refusing or pause_s >= _remaining_s(deadline):
                return found
            await self._retry_policy.sleep(pause_s)
            retries += 1

    async def _get(self, ref: SecretRef, deadline: asyncio.Timeout, *, fresh_credentials: bool) -> _Outcome:
        """Send one GET in a free slot, if the circuit breaker admits the call, and record the outcome."""
        if self._breaker.is_refusing:  # checked before the wait for a slot
            return ResponseFault.NOT_SENT
        async with self._slots:
            ticket = self._breaker.admit_call()
            if ticket is None:
                return ResponseFault.NOT_SENT
            try:
                outcome = await self._source.get_secret(ref, fresh_credentials=fresh_credentials)
            except asyncio.CancelledError:
                self._breaker.record_outcome(ticket, CallOutcome.FAILED if deadline.expired() else CallOutcome.NOTHING)
                raise
            self._breaker.record_outcome(ticket, _rate(outcome))
            return outcome


def _interpret(outcome: _Outcome, ref: SecretRef) -> SecretSnapshot | type[SecretError]:
    if isinstance(outcome, ResponseFault):
        return SecretUnavailable
    if outcome.status == 200:
        return read_manifest(outcome.body, ref)
    return _REFUSALS.get(outcome.status, SecretUnavailable)


def _rate(outcome: _Outcome) -> CallOutcome:
    if isinstance(outcome, ApiServerResponse):
        return CallOutcome.FAILED if outcome.is_overload else CallOutcome.ALIVE
    failed = outcome in (ResponseFault.UNREACHABLE, ResponseFault.UNTRUSTED)
    return CallOutcome.FAILED if failed else CallOutcome.NOTHING


def _remaining_s(deadline: asyncio.Timeout) -> float:
    return (deadline.when() or 0.0) - asyncio.get_running_loop().time()
