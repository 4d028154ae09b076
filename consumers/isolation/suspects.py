"""Suspects: messages that were being handled when a process died or stalled, counted for all consumers together.

A death says little about one message, as many were being handled. So it only makes a message suspect: after
`MAX_DEATHS` of them the message is handled in a process for suspects, and after a death of that process it is handled
alone. What dies alone is to blame, and so its whole destination is handled alone for a while. No outage and no killed
process does more than that.
"""

import asyncio
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog

from consumers.isolation.journal import find_journals, left_by_the_dead
from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable
from messaging.kv_cache import KvCache
from messaging.message import Message
from messaging.periodic import run_every
from schemas.ids import is_name

MAX_DEATHS: Final = 2
"""Deaths of processes that handled a message, after which it is handled in isolation."""
MAX_ISOLATED_DEATHS: Final = 3
"""Deaths in isolation, after which a message is quarantined."""
MAX_DESTINATIONS: Final = 3
"""Isolated destinations of a tenant, after which all of its destinations are isolated."""
ISOLATED_FOR_S: Final = 600
"""Time for which a destination is isolated after one of its messages ended the isolated process."""
ROUND_S: Final = 5.0
BATCH: Final = 64

_log = structlog.get_logger(__name__)


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """The deaths during a message's handling: in a consumer, and in isolation."""

    deaths: int = 0
    isolated_deaths: int = 0
    is_alone: bool = False
    """It is handled alone: a process died that had it in hand with others."""


_IDENTITY: Final = re.compile(r"[A-Z_]{1,32}\.[0-9]{1,20}")
_ISOLATED: Final = msgspec.json.encode(Suspect(deaths=MAX_DEATHS, is_alone=True))


class SuspectRegistry:
    """The suspects that all consumers know."""

    def __init__(self, bucket: KvBucket, directory: Path) -> None:
        """`directory` has the journals of the processes on this machine."""
        self._table = KvTable(bucket, Suspect)
        self._directory = directory
        self._counted: dict[Path, set[str]] = {}
        """Messages of a dead process's journal whose death is counted, while others are not."""
        self._cache = KvCache(self._table)
        self._cache.on_update = self._on_update
        self.isolated: set[str] = set()
        """Identities of messages, and `lane.<tenant>[.<destination>]`, that are handled in isolation."""
        self.alone: set[str] = set()
        """Those of them that are handled alone."""
        self.accused: set[str] = set()
        """All that is known of, with one death at least."""
        self._cache.on_forget = self._on_forget

    async def start(self) -> None:
        """Follow the bucket, and count what the process before this one left. Without JetStream, `run` does so."""
        await self._cache.start()
        try:
            await self._round()
        except JetStreamError as error:
            _log.warning("suspects.unavailable", error=str(error))

    async def run(self, stop: asyncio.Event) -> None:
        """Look for journals of dead processes until `stop` is set."""
        await run_every(ROUND_S, self._round, stop, failure_event="suspects.unavailable")

    async def expire(self) -> None:
        """Read all suspects again soon: announcements may have been lost."""
        self._cache.expire()

    async def _round(self) -> None:
        await self._cache.refresh(">")
        paths = find_journals(self._directory)
        self._counted = {path: counted for path, counted in self._counted.items() if path in paths}
        for path in paths:
            try:
                with left_by_the_dead(path) as identities:
                    if identities:
                        await self._count_deaths(identities, self._counted.setdefault(path, set()))
            except JetStreamError as error:
                _log.warning("suspects.unavailable", error=str(error))

    async def _count_deaths(self, identities: list[str], counted: set[str]) -> None:
        """Count one death of each message. Raises `JetStreamError`; the next call counts the rest."""
        left = [identity for identity in identities if identity not in counted and _IDENTITY.fullmatch(identity)]
        _log.warning("suspects.found", messages=len(left))
        for first in range(0, len(left), BATCH):
            batch = left[first : first + BATCH]
            counting = (self._update(one, _count_death) for one in batch)
            outcomes = await asyncio.gather(*counting, return_exceptions=True)
            counted.update(one for one, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, Suspect))
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _update(self, identity: str, change: Callable[[Suspect], Suspect]) -> Suspect:
        row = await self._table.update(identity, lambda before: change(before or Suspect()))
        self._on_update(identity, None, row.value)
        return row.value

    def is_suspect(self, message: Message) -> bool:
        """Return whether the message is to be handled in isolation."""
        return _has(self.isolated, message)

    def is_alone(self, message: Message) -> bool:
        """Return whether the message is to be handled alone."""
        return _has(self.alone, message)

    async def set_alone(self, message: Message) -> None:
        """Let a suspect be handled alone from now on. Raises `JetStreamError`."""
        await self._update(message.identity, lambda before: msgspec.structs.replace(before, is_alone=True))

    async def count_isolated_death(self, message: Message) -> int:
        """Count a death in isolation, isolate the destination, and return the message's deaths there.

        This process isolates it at once, as what arrives meanwhile may be as poisonous. Raises `JetStreamError`; then
        the death may not be counted.
        """
        keys = self._lane_keys(message.lane)
        added = [key for key in keys if key not in self.isolated]
        for key in added:
            _log.warning("suspects.isolated", lane=key.removeprefix("lane."), seconds=ISOLATED_FOR_S)
        self.isolated.update(keys)
        self.alone.update(keys)
        try:
            suspect = await self._update(message.identity, _count_isolated_death)
            for key in keys:
                await self._table.bucket.put(key, _ISOLATED, ttl_s=ISOLATED_FOR_S)
        except JetStreamError:  # nothing would end it
            self.isolated.difference_update(added)
            self.alone.difference_update(added)
            raise
        return suspect.isolated_deaths

    def _lane_keys(self, lane: str) -> Sequence[str]:
        """Return the keys of what one more death isolates: the destination, and the tenant when it has several."""
        tenant, _, destination = lane.partition(".")
        if not (is_name(tenant) and is_name(destination)):  # an operational event has no destination
            return ()
        known = {name for name in self.isolated if name.startswith(f"lane.{tenant}.")} | {f"lane.{lane}"}
        return (f"lane.{lane}", f"lane.{tenant}")[: 1 + (len(known) >= MAX_DESTINATIONS)]

    async def clear(self, message: Message) -> None:
        """Forget a message that was handled."""
        if message.identity in self.isolated:
            self._on_forget(message.identity)
            await self._table.bucket.delete(message.identity)

    def _on_update(self, key: str, _old: Suspect | None, new: Suspect | None) -> None:
        if new is None:
            self._on_forget(key)
            return
        self.accused.add(key)
        for known, is_in in ((self.isolated, new.deaths >= MAX_DEATHS), (self.alone, new.is_alone)):
            change = known.add if is_in else known.discard
            change(key)

    def _on_forget(self, key: str) -> None:
        self.accused.discard(key)
        self.isolated.discard(key)
        self.alone.discard(key)


def _count_death(before: Suspect) -> Suspect:
    return msgspec.structs.replace(before, deaths=before.deaths + 1)


def _count_isolated_death(before: Suspect) -> Suspect:
    return msgspec.structs.replace(before, isolated_deaths=before.isolated_deaths + 1, is_alone=True)


def _has(keys: set[str], message: Message) -> bool:
    lane = message.lane
    return message.identity in keys or f"lane.{lane}" in keys or f"lane.{tenant_of(lane)}" in keys


@functools.lru_cache(maxsize=1024)
def tenant_of(lane: str) -> str:
    """Return the tenant of a lane."""
    return lane.partition(".")[0]
