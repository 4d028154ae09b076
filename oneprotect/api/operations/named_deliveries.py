"""Deliveries whose id the producer named: each is stored once for a destination, whatever restarts or is lost.

1. The id is claimed. A request that finds a claim is a repeat: another body is refused.
2. The delivery is stored under the id that earlier versions use, too: neither version stores what the other has.
3. If the server knows that id, the delivery is looked for. What is not found is stored under a `Nats-Msg-Id` that names
   the claim, which no other message has.

The claim alone decides who has an id. The server's duplicate check proves nothing: it knows the ids of messages that
were quarantined, that had another body, or that a removed tenant had.

A process that dies between the two leaves a claim without a delivery. An answer that is lost after the second step
leaves a producer who asks again. So a repeat searches the streams, from the time of the claim on. When it finds
nothing, the first request may still be in progress. Only a claim older than any request is taken over, by its
revision, so that one process alone completes it. What the first request stores after that is superseded: each message
says until when no process can have taken its claim over. Consumers look at the claim of one that was stored later.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

import msgspec

from consumers.attempts.timeline import is_stored
from consumers.delivery.named_ids import CLAIM_S, COMPLETE_AFTER_S, Claim, NamedIds, digest_of_request, is_unmarked
from consumers.retries.server_clock import ServerClock
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError, RejectedByServer, WriteConflict
from messaging.delivery_requests import DeliveryRequest
from messaging.publication import PublishAck
from oneprotect.api.web.problems import RETRY_AFTER_S, Problem, unavailable
from oneprotect.api.web.rate_limits import TenantLimiter
from schemas import streams, subjects
from schemas.events import DeliveryRequested
from schemas.headers import CLAIMED, HEADER_CHECKED, HEADER_CLAIM, HEADER_MSG_ID, HEADER_SINCE

MAX_DELAY_S: Final = 5.0
"""Time between a claim and the publication, beyond which this process does not publish: it was paused."""
SEARCH_PAUSES_S: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Pauses before the searches for a delivery whose first request may be in progress."""
MAX_STORED: Final = 16_384
MEASURE_INTERVAL_S: Final = 600.0
"""Interval at which the server is asked for its time."""
_WINDOW: Final = timedelta(seconds=streams.WORK.duplicate_window_s)
_DUPLICATE: Final = PublishAck("", 0, duplicate=True)

PublishRequests = Callable[[Sequence[DeliveryRequest]], Awaitable[list[PublishAck]]]


class NamedDeliveries:
    """Stores requests whose id the producer named."""

    def __init__(
        self,
        connection: NatsConnection,
        ids: NamedIds,
        limiter: TenantLimiter,
        *,
        complete_after_s: float = COMPLETE_AFTER_S,
    ) -> None:
        self._complete_after_s = complete_after_s
        self._connection = connection
        self._ids = ids
        self._limiter = limiter
        self._clock = ServerClock(connection)
        self._measure_at = float("-inf")
        self._stored: OrderedDict[str, int] = OrderedDict()
        """Keys and revisions of claims whose delivery this process has stored, the latest last."""

    async def store(
        self, requests: Sequence[DeliveryRequest], delivery: str, digest: str, publish: PublishRequests
    ) -> list[PublishAck]:
        """Store the requests of one id that are not stored yet.

        Args:
            requests: One for each destination.
            delivery: The id.
            digest: The digest of the body, the same for all destinations.
            publish: Stores all of some requests, or none.

        Returns:
            An acknowledgement for each request, `duplicate` where it was stored before.

        Raises:
            Problem: 409 when the id was used with another body; 503 when the first request may be in progress.
            QuotaExceeded, JetStreamError: It is safe to ask again.
        """
        began, until = time.monotonic(), await self._claim_end()
        claims = await asyncio.gather(
            *(self._ids.claim(one.tenant, one.destination, delivery, digest) for one in requests)
        )
        held: Sequence[Claim | None] = claims
        if not all(claim.is_new for claim in claims):
            try:
                held = await self._resolve(requests, claims, delivery, digest)
            except BaseException:
                await self._give_up(claim for claim in claims if claim.is_new)
                raise
        if time.monotonic() - began > MAX_DELAY_S:
            raise unavailable()
        acks = await self._publish(requests, held, delivery, until, publish)
        if time.monotonic() - began > COMPLETE_AFTER_S:  # another process may have taken the claims over
            raise _in_progress()
        return acks

    async def _claim_end(self) -> int:
        """Return the server's time until which no process takes over a claim made now, or 0 if it is not known."""
        now = time.monotonic()
        if now >= self._measure_at:
            self._measure_at = now + 1  # other requests do not wait
            await self._clock.measure()
            self._measure_at = now + MEASURE_INTERVAL_S
        return int(self._clock.now().timestamp() + CLAIM_S) if self._clock.is_measured else 0

    async def _resolve(
        self, requests: Sequence[DeliveryRequest], claims: Sequence[Claim], delivery: str, digest: str
    ) -> list[Claim | None]:
        """Return the claims that this process holds, and None for each delivery that is stored."""
        if any(claim.row.digest != digest for claim in claims):
            raise _used_before()
        return [
            claim if claim.is_new else await self._take_over(one, claim, delivery)
            for one, claim in zip(requests, claims, strict=True)
        ]

    async def _take_over(self, request: DeliveryRequest, claim: Claim, delivery: str) -> Claim | None:
        """Return the claim as this process's own, or None when its delivery is stored."""
        for pause_s in SEARCH_PAUSES_S:
            await asyncio.sleep(pause_s)
            if claim.row.is_stored or self._stored.get(claim.key) == claim.revision:
                return None
            age_s = await self._ids.age_s(claim)  # before the search, which finds what was stored until then
            if await self._is_stored(request, claim, delivery):
                try:
                    await self._mark_stored(claim)
                except WriteConflict:  # if it was taken over, what was found may be superseded
                    found = await self._ids.find(request.tenant, request.destination, delivery)
                    if found is None or found.row.digest != claim.row.digest:
                        break
                    claim = found
                    continue
                return None
            if age_s >= self._complete_after_s:
                row = msgspec.structs.replace(claim.row, by="", since=claim.since, void=claim.revision)
                with contextlib.suppress(WriteConflict):  # another process completes it
                    return await self._ids.replace(claim, row)
                break
        raise _in_progress()

    async def _is_stored(self, request: DeliveryRequest, claim: Claim, delivery: str) -> bool:
        """Return whether the delivery is stored, by an API of an earlier version, too. Raises `Problem` for 409."""
        if claim.since is None:
            return False

        def is_it(found: DeliveryRequested, headers: Mapping[str, str]) -> bool:
            if not is_unmarked(found, headers):
                return claim.covers(found, headers)
            if digest_of_request(found) != claim.row.digest:
                raise _used_before()
            return True

        place = request.tenant, delivery, request.destination
        async with self._limiter.read_turn(request.tenant):
            return await is_stored(self._connection, *place, since=claim.since, is_it=is_it)

    async def _is_known(self, request: DeliveryRequest, claim: Claim, delivery: str) -> bool:
        """Return whether the delivery is stored of which the server knows the id, and note it if so."""
        start = self._clock.now() - _WINDOW
        row = msgspec.structs.replace(claim.row, since=min(claim.since or start, start))
        known = msgspec.structs.replace(claim, row=row)
        if not await self._is_stored(request, known, delivery):
            return False
        try:
            await self._mark_stored(known)
        except WriteConflict:  # if it was taken over, what was found may be superseded
            raise _in_progress() from None
        return True

    async def _publish(
        self,
        requests: Sequence[DeliveryRequest],
        held: Sequence[Claim | None],
        delivery: str,
        until: int,
        publish: PublishRequests,
    ) -> list[PublishAck]:
        """Store the requests whose claims are `held`: first under the usual id, then under one that names the claim."""
        acks = [_DUPLICATE] * len(requests)
        missing = [(number, claim) for number, claim in enumerate(held) if claim]
        try:
            for of_claim in (False, True):
                if not missing:
                    return acks
                stored = await publish([_under(claim, until, requests[n], of_claim=of_claim) for n, claim in missing])
                for (number, claim), ack in zip(missing, stored, strict=True):
                    if not ack.duplicate:
                        acks[number] = ack
                        await self._on_stored(claim)
                missing = [one for one, ack in zip(missing, stored, strict=True) if ack.duplicate]
                missing = [(n, claim) for n, claim in missing if not await self._is_known(requests[n], claim, delivery)]
        except (RejectedByServer, Problem) as error:
            if isinstance(error, Problem) or len(requests) == 1:  # of several, some may be stored
                await self._give_up(claim for _, claim in missing if claim.since is None)
            raise
        if missing:
            raise _in_progress()
        return acks

    async def _on_stored(self, claim: Claim) -> None:
        self._note_stored(claim)
        if claim.since is not None:
            with contextlib.suppress(JetStreamError):
                await self._mark_stored(claim)

    async def _mark_stored(self, claim: Claim) -> None:
        """Spare the next repeats the search. Raises `WriteConflict` when another writer was first."""
        if not claim.row.by:
            await self._ids.mark_stored(claim)

    async def _give_up(self, claims: Iterable[Claim]) -> None:
        """Delete claims under which nothing was stored. What remains of them delays a repeat, and loses nothing."""
        for claim in claims:
            with contextlib.suppress(JetStreamError):
                await self._ids.give_up(claim)

    def _note_stored(self, claim: Claim) -> None:
        self._stored[claim.key] = claim.revision
        if len(self._stored) > MAX_STORED:
            self._stored.popitem(last=False)


def _under(claim: Claim, until: int, request: DeliveryRequest, *, of_claim: bool) -> DeliveryRequest:
    """Return the request as it is published: after a first try, consumers look for results before they send."""
    own = {
        HEADER_MSG_ID: subjects.claimed_msg_id(claim.key, claim.revision) if of_claim else claim.key,
        HEADER_CHECKED: CLAIMED,
        HEADER_CLAIM: f"{claim.revision} {until}",
    }
    if claim.since is not None:
        own[HEADER_SINCE] = claim.since.isoformat()
    return msgspec.structs.replace(request, headers={**request.headers, **own})


def _used_before() -> Problem:
    return Problem(
        409,
        "id-used",
        "This id was used with another body, event type or content type. Use a new id for a new delivery.",
    )


def _in_progress() -> Problem:
    detail = "The first request with this id may still be in progress. Nothing was added. Retry the request."
    return Problem(503, "in-progress", detail, headers={"retry-after": str(RETRY_AFTER_S)})
