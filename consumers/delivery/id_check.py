"""The check of ids that trusted publishers name: the API has not seen them, and the work stream forgets them.

A message is sent under a claim on its id. A message that finds the claim of another one is a duplicate if that one was
attempted, or waits for its next attempt, or was stored by the API. With another body it is quarantined then. Otherwise
the owner is about to send or to store it, or has died: the message comes again, and takes the claim over when no owner
can be alive.

During an upgrade, the message may be the API's own: earlier versions store and move messages without a mark.
"""

import contextlib
import time
from typing import Final

import structlog

from consumers.attempts.log import LOOKS_OF_TENANT
from consumers.attempts.timeline import has_attempt, is_stored
from consumers.delivery.named_ids import (
    COMPLETE_AFTER_S,
    Claim,
    NamedId,
    NamedIds,
    digest_of,
    digest_of_request,
    is_unmarked,
)
from consumers.model.request import DeliveryAttemptRequest
from consumers.worker.disposition import Disposition, quarantine_publication
from messaging.client.connection import NatsConnection
from messaging.client.errors import ServerUnavailable, WriteConflict
from messaging.management import NANOSECONDS
from messaging.quota import QuotaExceeded
from messaging.tenant_turns import FairTurns
from schemas import subjects
from schemas.codes import Code
from schemas.events import decode_request
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID, late_claim

WARNING_INTERVAL_S: Final = 60.0

_log = structlog.get_logger(__name__)


class ClaimedElsewhere(ServerUnavailable):
    """Another message has this id, and may be about to be sent."""

    def __init__(self) -> None:
        super().__init__("another message with this id may be in progress; this one waits for its result")


class NamedIdCheck:
    """Claims the ids of messages that the API has not checked."""

    def __init__(
        self,
        connection: NatsConnection,
        ids: NamedIds,
        *,
        term_s: float,
        api_term_s: float = COMPLETE_AFTER_S,
    ) -> None:
        """Create a check.

        Args:
            term_s: The age of a claim without a result whose owner has lost its message.
            api_term_s: The age of a claim of the API whose request has ended.
        """
        self._connection = connection
        self._ids = ids
        self._term_s = term_s
        self._api_term_s = api_term_s
        self._turns = FairTurns(per_tenant=LOOKS_OF_TENANT)
        self._warned_at = float("-inf")
        self.duplicates = 0
        """Messages that were not sent because their id was used before."""

    async def refuse(self, delivery: DeliveryAttemptRequest) -> Disposition | None:
        """Return None if `delivery` may be attempted, and otherwise what to do with it: nothing with a repeat.

        Raises `ClaimedElsewhere` if that is not known yet, and `JetStreamError`.
        """
        if HEADER_CHECKED in delivery.message.headers:
            return await self._refuse_late(delivery)
        digest = digest_of(delivery.event_type, delivery.content_type, delivery.body)
        owner = delivery.message.identity
        try:
            claim = await self._ids.claim(delivery.tenant, delivery.destination, delivery.id, digest, by=owner)
        except QuotaExceeded as error:
            self._warn(delivery.tenant, error)
            return None
        if claim.is_new:
            return None
        if claim.row.by != owner and (refusal := await self._refuse_duplicate(delivery, claim)) is not None:
            return refusal
        with contextlib.suppress(WriteConflict):
            await self._ids.replace(claim, NamedId(digest=digest, by=owner, since=claim.since, void=claim.revision))
            return None
        raise ClaimedElsewhere

    async def _refuse_late(self, delivery: DeliveryAttemptRequest) -> Disposition | None:
        """Return what to do with what the API stored so late that its claim may have been taken over."""
        claim = await self._ids.find(delivery.tenant, delivery.destination, delivery.id)
        if claim is None:
            return None
        if _late_claim(delivery) <= claim.row.void:
            _log.warning(
                "claim.superseded", tenant=delivery.tenant, destination=delivery.destination, delivery=delivery.id
            )
            return self._refusal(delivery, claim)
        if not claim.row.is_stored and not claim.row.by:
            await self._mark_stored(claim)
        return None

    async def _mark_stored(self, claim: Claim) -> None:
        """Keep others from taking a claim over. Raises `ClaimedElsewhere` if one may have done so."""
        try:
            await self._ids.mark_stored(claim)
        except WriteConflict:
            raise ClaimedElsewhere from None

    async def _refuse_duplicate(self, delivery: DeliveryAttemptRequest, claim: Claim) -> Disposition | None:
        """Return what to do with a duplicate, or None if the claim can be taken over. Raises `ClaimedElsewhere`."""
        may_be_it = _may_be_it(delivery, claim)
        age_s = await self._ids.age_s(claim)  # before the search, which finds what was stored until then
        if await self._is_resolved(delivery, claim, is_noted=claim.row.is_stored and not may_be_it):
            if not claim.row.by and not claim.row.is_stored:
                await self._mark_stored(claim)  # otherwise what was found may be superseded
            return self._refusal(delivery, claim)
        if not may_be_it and age_s < (self._term_s if claim.row.by else self._api_term_s):
            raise ClaimedElsewhere
        return None

    def _refusal(self, delivery: DeliveryAttemptRequest, claim: Claim) -> Disposition:
        """Return what to do with a duplicate: nothing, unless it has another body."""
        self.duplicates += 1
        if claim.row.digest == digest_of(delivery.event_type, delivery.content_type, delivery.body):
            return ()
        return (quarantine_publication(delivery.message, Code.EVENT_INVALID, "its id was used with another body"),)

    async def _is_resolved(self, delivery: DeliveryAttemptRequest, claim: Claim, *, is_noted: bool) -> bool:
        """Return whether the owner of the claim has attempted its delivery, or is the API and has stored it."""
        if is_noted:
            return True
        if claim.since is None:
            return False
        search = has_attempt if claim.row.by else is_stored
        place = delivery.tenant, delivery.id, delivery.destination
        async with self._turns.turn(delivery.tenant):
            return await search(self._connection, *place, since=claim.since, is_it=claim.covers)

    def _warn(self, tenant: str, error: QuotaExceeded) -> None:
        now = time.monotonic()
        if now - self._warned_at >= WARNING_INTERVAL_S:
            self._warned_at = now
            _log.warning("named_ids.not_remembered", tenant=tenant, error=str(error))


def _may_be_it(delivery: DeliveryAttemptRequest, claim: Claim) -> bool:
    """Return whether this may be what the API has stored under its claim.

    Then it is attempted at once, unless it was already, or the API's own message with its mark is there.
    """
    request = decode_request(delivery.message.data)
    is_candidate = not claim.row.by and is_unmarked(request, delivery.message.headers)
    return is_candidate and digest_of_request(request) == claim.row.digest


def needs_check(delivery: DeliveryAttemptRequest) -> bool:
    """Return whether this is the first attempt of a delivery whose id a trusted publisher names, or the API too late.

    A `Nats-Msg-Id` that names a claim is the API's: consumers of earlier versions drop the mark of a message that they
    move, and keep its id.
    """
    state, headers = delivery.retry_state, delivery.message.headers
    is_first = state.attempt == 1 and state.replay is None and not state.secret_waits and not state.deferrals
    sent = headers.get(HEADER_MSG_ID)
    of_api = subjects.claimed_msg_id(subjects.msg_id(delivery.tenant, delivery.destination, delivery.id))
    is_named = sent is not None and not sent.startswith(of_api)
    needs = _late_claim(delivery) > 0 if HEADER_CHECKED in headers else is_named
    return is_first and needs and not delivery.is_ping


def _late_claim(delivery: DeliveryAttemptRequest) -> int:
    message = delivery.message
    return late_claim(message.headers, message.stored_ns / NANOSECONDS)
