"""Notifications to tenants about their destinations, credentials and replays, as deliveries.

An operational event becomes one request for each destination of its tenant that names the event among its
`event_types` (`schemas.subscriptions`: no wildcard for other events covers these). From there it is a delivery like any
other: signed, retried, retained. Its id is derived from the event, so two consumers, or one that crashed half-way,
request one delivery.

No event about a destination is delivered to that destination: a failure would cause the next event, without end.

No quota of the API counts these deliveries, so each tenant has a rate of them in each process. What exceeds it is not
delivered: the event itself stays in its stream.
"""

import asyncio
import collections
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from consumers.destinations.destination_index import DestinationIndex
from messaging.client.errors import JetStreamError
from messaging.message import Message
from messaging.publication import Publication
from messaging.token_buckets import TokenBuckets
from schemas import subjects
from schemas.codes import Code, CredentialStatus
from schemas.events import CONTENT_TYPE, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_MSG_ID

SOURCE: Final = "/oneprotect/events"
RETRY_S: Final = 1.0
MAX_SUBSCRIBERS: Final = 10
"""Destinations, by id, that get an event: one change must not cause a delivery to each of thousands."""
DELIVERIES_PER_S: Final = 50.0
"""Deliveries of events to one tenant a second, by this process."""
BURST: Final = 1000.0
LOGGED_PER_S: Final = 1 / 60

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

    def __init__(self, destinations: DestinationIndex) -> None:
        self._destinations = destinations
        self._rates = TokenBuckets(burst=BURST, per_s=DELIVERIES_PER_S)
        self._logged = TokenBuckets(burst=1, per_s=LOGGED_PER_S)
        self.omitted: collections.Counter[str] = collections.Counter()
        """Deliveries beyond a limit that were not requested, by limit: `subscribers` or `rate`."""

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
        names = [name for name in await self._subscribed(event) if name != about]
        return tuple(_request(event, name, data) for name in self._within_limits(event.tenant, names))

    def _within_limits(self, tenant: str, names: list[str]) -> list[str]:
        if len(names) > MAX_SUBSCRIBERS:
            self._omit(tenant, "subscribers", len(names) - MAX_SUBSCRIBERS)
            names = names[:MAX_SUBSCRIBERS]
        if names and self._rates.wait_s(tenant):
            self._omit(tenant, "rate", len(names))
            return []
        if names:
            self._rates.take(tenant, len(names))
        return names

    def _omit(self, tenant: str, limit: str, deliveries: int) -> None:
        """Count the deliveries, and log the tenant once a minute."""
        self.omitted[limit] += deliveries
        if not self._logged.wait_s(f"{limit}.{tenant}"):
            self._logged.take(f"{limit}.{tenant}")
            _log.warning("notifications.omitted", tenant=tenant, limit=limit, omitted=deliveries)

    async def _subscribed(self, event: OperationalEvent) -> list[str]:
        """Return the subscribed destinations; wait for JetStream as long as necessary."""
        while True:
            try:
                return await self._destinations.subscribed(event.tenant, event.event_type)
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
