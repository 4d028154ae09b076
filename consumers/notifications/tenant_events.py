"""Notifications to tenants about their destinations, credentials and replays, as deliveries.

An operational event becomes one request for each destination of its tenant that names the event among its
`event_types` (`schemas.subscriptions`: no wildcard for other events covers these). From there it is a delivery like any
other: signed, retried, retained. Its id is derived from the event, so two consumers, or one that crashed half-way,
request one delivery.

No event about a destination is delivered to that destination: a failure would cause the next event, without end.
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
RETRY_S: Final = 1.0

_log = structlog.get_logger(__name__)

Data = dict[str, Any]
PublicView = Callable[[Data], Data | None]


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
        """The event type that destinations subscribe to: the type without its version."""
        return self.type.removesuffix(".v1")

    @property
    def delivery_id(self) -> str:
        """The id of the delivery that carries the event."""
        named = f"{self.type}\n{self.tenant}\n{self.id}"
        return "evt_" + hashlib.sha256(named.encode()).hexdigest()[:32]


class TenantEventPublisher:
    """Turns an operational event into delivery requests. A handler for a `Worker`."""

    def __init__(self, destinations: KvBucket) -> None:
        self._destinations = KvTable(destinations, Destination)

    async def __call__(self, message: Message) -> tuple[Publication, ...]:
        """Return one request for each subscribed destination."""
        try:
            event = msgspec.json.decode(message.data, type=OperationalEvent)
        except msgspec.DecodeError:  # published by another version of this program
            return ()
        view = _PUBLIC_VIEWS.get(event.event_type)
        data = view(event.data) if view is not None else None
        if data is None:
            return ()
        about = event.data.get("destination")
        return tuple(
            _request(event, name, data)
            for name, destination in await self._destinations_of(event.tenant)
            if name != about and destination.enabled and asks_for(destination.event_types, event.event_type)
        )

    async def _destinations_of(self, tenant: str) -> list[tuple[str, Destination]]:
        """Return the tenant's destinations; wait for JetStream as long as necessary."""
        while True:
            try:
                return [(row.id, row.value) for row in await self._destinations.list(f"{tenant}.*")]
            except JetStreamError as error:
                _log.warning("notifications.read_failed", error=str(error), next_try_s=RETRY_S)
            await asyncio.sleep(RETRY_S)


def _request(event: OperationalEvent, destination: str, data: Data) -> Publication:
    payload = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
        "datacontenttype": "application/json",
        "tenant": event.tenant,
        "data": data,
    }
    request = DeliveryRequested(
        specversion="1.0",
        id=event.delivery_id,
        source=SOURCE,
        type="oneprotect.delivery.requested.v1",
        time=event.time,
        tenant=event.tenant,
        data=RequestedData(
            destination=destination,
            event_type=event.event_type,
            payload=msgspec.Raw(msgspec.json.encode(payload)),
            content_type=CONTENT_TYPE,
        ),
    )
    headers = {
        HEADER_MSG_ID: subjects.msg_id(event.tenant, destination, event.delivery_id),
        "content-type": CONTENT_TYPE,
    }
    return Publication(subjects.requested(event.tenant, destination), encode(request), headers)


def _everything(data: Data) -> Data:
    return data


def _failing(data: Data) -> Data | None:
    try:
        return data | {"last_code": Code(data["last_code"]).public}
    except (KeyError, ValueError):
        return None


def _credential(data: Data) -> Data | None:
    """Return the statuses as a tenant may see them; None when the change is not visible to the tenant."""
    try:
        before = CredentialStatus(data["previous_status"]).public
        after = CredentialStatus(data["status"]).public
    except (KeyError, ValueError):
        return None
    return None if before is after else data | {"status": after, "previous_status": before}


def _without_actor(data: Data) -> Data:
    # Tenants do not see the names of operators.
    return {name: value for name, value in data.items() if name != "by"}


_PUBLIC_VIEWS: Final[dict[str, PublicView]] = {
    "oneprotect.destination.disabled": _everything,
    "oneprotect.destination.failing": _failing,
    "oneprotect.destination.recovered": _everything,
    "oneprotect.credential.status_changed": _credential,
    "oneprotect.replay.started": _without_actor,
    "oneprotect.replay.finished": _without_actor,
    "oneprotect.quarantine.released": _everything,
    "oneprotect.config.changed": _everything,
}
"""Events that tenants may receive, and the part of the data that they see."""
