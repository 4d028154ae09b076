"""Tells tenants what happens to their destinations, credentials and replays: as deliveries, to whoever of them asked.

An operational event becomes one request for each destination of its tenant that names the event among its
`event_types` (`schemas.subscriptions`: no wildcard from outside reaches them). From there it is a delivery like any
other: signed, retried, kept. Its id is made from the event, so that two consumers, or one that crashed half-way,
ask for the same one, which counts once.

No event about a destination is delivered to that destination: what its failure causes would be told to it, fail, and so
on without end.
"""

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from messaging.client.errors import JetStreamError
from messaging.kv import KvBucket, KvTable
from messaging.message import Message
from messaging.publication import Publication
from schemas import subjects
from schemas.codes import Code, CredentialStatus
from schemas.configuration import Destination
from schemas.events import CONTENT_TYPE, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_MSG_ID
from schemas.subscriptions import asks_for

SOURCE: Final = "/oneprotect/events"
PAUSE_S: Final = 1.0

_log = structlog.get_logger(__name__)

Data = dict[str, Any]
Shown = Callable[[Data], Data | None]


class OperationalEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An operational event of any kind."""

    id: str
    source: str
    type: str
    time: datetime
    tenant: str
    data: Data

    @property
    def event_type(self) -> str:
        """What destinations ask for it by: its type without the version."""
        return self.type.removesuffix(".v1")

    @property
    def delivery_id(self) -> str:
        """The id of the delivery that tells it."""
        named = f"{self.type}\n{self.tenant}\n{self.id}"
        return "evt_" + hashlib.sha256(named.encode()).hexdigest()[:32]


class TenantEventPublisher:
    """Turns an operational event into the requests that tell it. A handler for a `Worker`."""

    def __init__(self, destinations: KvBucket) -> None:
        self._destinations = KvTable(destinations, Destination)

    async def __call__(self, message: Message) -> tuple[Publication, ...]:
        """The requests, if anybody is to be told."""
        try:
            happened = msgspec.json.decode(message.data, type=OperationalEvent)
        except msgspec.DecodeError:  # told by another version of this program
            return ()
        show = _SHOWN.get(happened.event_type)
        shown = show(happened.data) if show is not None else None
        if shown is None:
            return ()
        about = happened.data.get("destination")
        return tuple(
            _request(happened, name, shown)
            for name, destination in await self._of(happened.tenant)
            if name != about and destination.enabled and asks_for(destination.event_types, happened.event_type)
        )

    async def _of(self, tenant: str) -> list[tuple[str, Destination]]:
        """Return the tenant's destinations; wait for JetStream as long as necessary."""
        while True:
            try:
                return [(row.id, row.value) for row in await self._destinations.list(f"{tenant}.*")]
            except JetStreamError as error:
                _log.warning("telling.waits", error=str(error), next_try_s=PAUSE_S)
            await asyncio.sleep(PAUSE_S)


def _request(happened: OperationalEvent, destination: str, shown: Data) -> Publication:
    event = {
        "specversion": "1.0",
        "id": happened.id,
        "source": happened.source,
        "type": happened.type,
        "time": happened.time,
        "datacontenttype": "application/json",
        "tenant": happened.tenant,
        "data": shown,
    }
    request = DeliveryRequested(
        specversion="1.0",
        id=happened.delivery_id,
        source=SOURCE,
        type="oneprotect.delivery.requested.v1",
        time=happened.time,
        tenant=happened.tenant,
        data=RequestedData(
            destination=destination,
            event_type=happened.event_type,
            payload=msgspec.Raw(msgspec.json.encode(event)),
            content_type=CONTENT_TYPE,
        ),
    )
    headers = {
        HEADER_MSG_ID: subjects.msg_id(happened.tenant, destination, happened.delivery_id),
        "content-type": CONTENT_TYPE,
    }
    return Publication(subjects.requested(happened.tenant, destination), encode(request), headers)


def _all(data: Data) -> Data:
    return data


def _failing(data: Data) -> Data | None:
    try:
        return data | {"last_code": Code(data["last_code"]).public}
    except (KeyError, ValueError):
        return None


def _credential(data: Data) -> Data | None:
    """What a tenant may know of it: nothing, when the difference is one that it must not see."""
    try:
        before = CredentialStatus(data["previous_status"]).public
        after = CredentialStatus(data["status"]).public
    except (KeyError, ValueError):
        return None
    return None if before is after else data | {"status": after, "previous_status": before}


def _without_who(data: Data) -> Data:
    """An operator's name is nothing that a tenant needs."""
    return {name: value for name, value in data.items() if name != "by"}


_SHOWN: Final[dict[str, Shown]] = {
    "oneprotect.destination.disabled": _all,
    "oneprotect.destination.failing": _failing,
    "oneprotect.destination.recovered": _all,
    "oneprotect.credential.status_changed": _credential,
    "oneprotect.replay.started": _without_who,
    "oneprotect.replay.finished": _without_who,
    "oneprotect.quarantine.released": _all,
    "oneprotect.config.changed": _all,
}
"""Each event that is told, and what of it. One that is not here is told to nobody."""
