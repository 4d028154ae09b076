"""The delivery ids that producers name: each is claimed once for a destination, and remembered for a time.

A claim is a row that only the first writer can create. The leader of the bucket decides, and the row is stored, so no
restart of a server forgets a claim. A claim is no proof that its delivery is stored: the process may have died
before the next step. The digest in the row distinguishes a repeat from another request under the same id.

The bucket forgets a row some time after its last write. `ClaimRenewal` writes those of waiting deliveries again.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from messaging import direct_get, management
from messaging.client.connection import NatsConnection
from messaging.client.errors import SEQUENCE_IN_FLIGHT, RejectedByServer, ServerUnavailable, WriteConflict
from messaging.kv import KvBucket, KvEntry, KvTable
from messaging.quota import KeyQuota
from schemas import streams
from schemas.events import OWN_SOURCES, DeliveryRequested
from schemas.headers import HEADER_CHECKED, claimed_revision

COMPLETE_AFTER_S: Final = 30.0
"""Age of a claim of the API whose request has ended in every process."""
CLAIM_S: Final = 15.0
"""Age up to which the API's claim is certainly not taken over, although the clocks of servers and replicas differ."""
PAUSES_S: Final = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses before a row is read again: its replica may lag behind the leader, or its write is in progress."""
_DIGEST_BYTES: Final = 16
_PREFIX: Final = f"$KV.{streams.NAMED_IDS.name}."
_STREAM: Final = f"KV_{streams.NAMED_IDS.name}"


class NamedId(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The row of an id at one destination.

    `by`: the stream and the sequence of the message that a consumer claimed the id for; empty for the API.
    `since`: the time of the first claim, when a later one has replaced it. `is_stored`: the delivery was found stored.
    `void`: the revision that was taken over last. What the API stores late under it, or an older one, is superseded.
    """

    digest: str
    by: str = ""
    since: datetime | None = None
    is_stored: bool = False
    void: int = 0


class Claim(Struct, frozen=True, kw_only=True):
    """The claim on an id. `is_new`: the caller has made it; otherwise `since` is the time of the first claim."""

    key: str
    row: NamedId
    revision: int
    is_new: bool
    claimed_at: datetime | None = None
    """When the row was written, by the server's clock; None for a new one."""

    @property
    def since(self) -> datetime | None:
        """The time of the first claim, from which the delivery may be stored."""
        return self.row.since or self.claimed_at

    def covers(self, request: DeliveryRequested, headers: Mapping[str, str]) -> bool:
        """Return whether the claim was made for this stored request of its id.

        A message without the API's mark makes a claim of its own, so it is none that the API stored under this one. One
        whose claim was taken over is not sent.
        """
        is_owners = bool(self.row.by) or HEADER_CHECKED in headers
        if 0 < claimed_revision(headers) <= self.row.void:
            return False
        return is_owners and digest_of_request(request) == self.row.digest


class NamedIds:
    """The bucket of named ids. Every method raises `JetStreamError`."""

    def __init__(self, connection: NatsConnection, bucket: KvBucket, quota: KeyQuota) -> None:
        self.quota: Final = quota
        self._connection = connection
        self._table = KvTable(bucket, NamedId)

    async def claim(self, tenant: str, destination: str, delivery: str, digest: str, *, by: str = "") -> Claim:
        """Claim an id, or return the claim that exists. Raises `QuotaExceeded` too."""
        key = f"{tenant}.{destination}.{delivery}"
        await self.quota.require_room(tenant, key)
        row, revision = NamedId(digest=digest, by=by), 0
        for pause_s in PAUSES_S:
            if pause_s:
                await asyncio.sleep(pause_s)
            newest = 0
            try:
                stored = await self._table.put(key, row, revision=revision)
                return Claim(key=key, row=row, revision=stored, is_new=True)
            except WriteConflict as error:
                newest = error.newest
            except RejectedByServer as error:
                if error.err_code != SEQUENCE_IN_FLIGHT:
                    raise
            record = await direct_get.get_last(self._connection, _STREAM, _PREFIX + key)
            if record is None or record.sequence < newest:
                continue
            if found := self._claim_in(key, record):
                return found
            # A claim that was given up leaves a marker without a value.
            revision = record.sequence
        raise ServerUnavailable("a named id cannot be read; its replica lags behind")

    async def find(self, tenant: str, destination: str, delivery: str) -> Claim | None:
        """Return the claim on an id, perhaps not the newest, or None."""
        key = f"{tenant}.{destination}.{delivery}"
        record = await direct_get.get_last(self._connection, _STREAM, _PREFIX + key)
        return self._claim_in(key, record) if record else None

    def _claim_in(self, key: str, record: direct_get.StoredMessage) -> Claim | None:
        row = self._table.decode(KvEntry(key, record.data, record.sequence))
        if row is None:
            return None
        return Claim(key=key, row=row, revision=record.sequence, is_new=False, claimed_at=record.stored_at)

    async def replace(self, claim: Claim, row: NamedId) -> Claim:
        """Replace the row of a claim. Raises `WriteConflict` when another writer was first."""
        revision = await self._table.put(claim.key, row, revision=claim.revision)
        return Claim(key=claim.key, row=row, revision=revision, is_new=True)

    async def mark_stored(self, claim: Claim) -> None:
        """Note that the delivery of a claim is stored: no process takes it over. Raises `WriteConflict`, too."""
        await self.replace(claim, msgspec.structs.replace(claim.row, since=claim.since, is_stored=True))

    async def renew(self, key: str, digest: str, since: datetime, *, is_stored: bool) -> bool:
        """Write the row of a waiting delivery again. Returns False if the row is of another one, or just written.

        Args:
            since: The time from which the delivery is stored.
            is_stored: The API has claimed the id, and stored the delivery. Then a row that was forgotten is made again.
        """
        entry = await self._table.bucket.find(key)
        row = self._table.decode(entry) or (NamedId(digest=digest) if is_stored else None)
        if row is None or row.digest != digest:
            return False
        row = msgspec.structs.replace(row, since=row.since or since, is_stored=row.is_stored or is_stored)
        with contextlib.suppress(WriteConflict):
            await self._table.put(key, row, revision=entry.revision)
            return True
        return False

    async def give_up(self, claim: Claim) -> None:
        """Delete a claim whose delivery is not stored. Raises `WriteConflict` when another writer was first."""
        await self._table.bucket.delete(claim.key, revision=claim.revision)

    async def age_s(self, claim: Claim) -> float:
        """Return the time since the row was written, by the server's clock."""
        if claim.claimed_at is None:
            return 0.0
        info = await management.stream_info(self._connection, _STREAM)
        return (info.ts - claim.claimed_at).total_seconds()


def is_unmarked(request: DeliveryRequested, headers: Mapping[str, str]) -> bool:
    """Return whether the product made a request that lacks the API's mark.

    An API of an earlier version stored it, or a consumer of an earlier version moved it.
    """
    return request.source.startswith(OWN_SOURCES) and HEADER_CHECKED not in headers


def digest_of_request(request: DeliveryRequested) -> str:
    """Return the digest of a stored request."""
    data = request.data
    return digest_of(data.event_type, data.body_content_type, data.body())


def digest_of(event_type: str, content_type: str, body: bytes) -> str:
    """Return the digest by which a repeat of a request is recognized."""
    digest = hashlib.blake2b(f"{event_type}\n{content_type}\n".encode(), digest_size=_DIGEST_BYTES)
    digest.update(body)
    return digest.hexdigest()
