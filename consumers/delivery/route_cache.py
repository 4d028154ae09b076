"""Routes to destinations: what all deliveries to one destination share, cached for as long as it is valid."""

import functools
import time
from typing import Final

from consumers.destinations.directory import ConfigurationDirectory
from consumers.http_client.client import HttpWebhookSender, PreparedRequest
from consumers.model.request import DeliveryAttemptRequest
from messaging.kv_cache import CachedValue
from provider.errors import SecretError, SecretNotFound
from provider.secret_ref import SecretRef
from schemas.configuration import Credential, Destination
from schemas.headers import HEADER_TRACE
from schemas.ids import Purpose

MAX_ROUTES: Final = 8192
MAX_BYTES: Final = 16 * 1024**2
"""Bytes of the stored destinations of all routes, which stay in memory with them."""
MAX_LOADS: Final = 8


class DeliveryRoute:
    """A destination, the credential that signs for it, and the beginning of its requests."""

    def __init__(
        self,
        lane: str,
        destination: Destination,
        known_destination: CachedValue[Destination],
        known_credential: CachedValue[Credential],
        secret_ref: SecretRef | type[SecretError],
    ) -> None:
        self.lane = lane
        self.destination = destination
        self.known_destination, self.known_credential = known_destination, known_credential
        self.is_direct = destination.enabled and destination.ordering != "fifo"
        """Whether deliveries may be sent at once, whatever stream they came from."""
        self.credential_key = f"{lane.partition('.')[0]}.{destination.credential}"
        credential = known_credential.value
        self.purpose = Purpose.WEBHOOK_SIGNING if credential is None else credential.purpose
        self.secret_ref = secret_ref if isinstance(secret_ref, SecretRef) else None
        self.secret_error = SecretNotFound if isinstance(secret_ref, SecretRef) else secret_ref
        """Why there is no ref."""
        self._request: PreparedRequest | None = None
        self._prepared_for: tuple[str, str | None] = ("", None)

    def prepare(self, delivery: DeliveryAttemptRequest, sender: HttpWebhookSender, user_agent: str) -> PreparedRequest:
        """Return the beginning of the request of `delivery`: the last one again, unless its headers differ."""
        trace = delivery.retry_state.trace if self.destination.forward_trace else None
        wanted = (delivery.content_type, trace)
        if self._request is None or wanted != self._prepared_for:
            headers = self.destination.headers | {"content-type": delivery.content_type, "user-agent": user_agent}
            if trace:
                headers[HEADER_TRACE] = trace
            self._request = sender.prepare(delivery.tenant, self.destination.url, headers)
            self._prepared_for = wanted
        return self._request


class RouteCache:
    """The routes to destinations, by `<tenant>.<id>`. A route never differs from what the directory knows."""

    __slots__ = ("_directory", "_routes", "_secret_namespace", "_size")

    def __init__(self, directory: ConfigurationDirectory, secret_namespace: str | None) -> None:
        self._directory = directory
        self._secret_namespace = secret_namespace
        self._routes: dict[str, DeliveryRoute] = {}
        self._size = 0

    def find(self, lane: str, now: float) -> DeliveryRoute | None:
        """Return the route to `lane` if destination and credential are in memory. `now`: by `time.monotonic`."""
        route = self._routes.get(lane)
        if route is not None and now < route.known_destination.until and now < route.known_credential.until:
            return route
        if route is not None:
            self._size -= self._routes.pop(lane).known_destination.size
        route = self._build(lane)
        if route is not None:
            if len(self._routes) >= MAX_ROUTES or self._size > MAX_BYTES:
                self._routes.clear()
                self._size = 0
            self._routes[lane] = route
            self._size += route.known_destination.size
        return route

    async def load(self, lane: str) -> DeliveryRoute | None:
        """Return the route to `lane`, and wait for what is not in memory. None if there is no such destination."""
        tenant, _, name = lane.partition(".")
        for _ in range(MAX_LOADS):
            destination = await self._directory.destination(tenant, name)
            if destination is None:
                return None
            await self._directory.credential(tenant, destination.credential)
            route = self.find(lane, time.monotonic())
            if route is not None:  # else the destination changed while its credential was read
                return route
        raise RuntimeError("destination and credential changed with every read")

    def _build(self, lane: str) -> DeliveryRoute | None:
        destination = self._directory.known_destination(lane)
        if destination is None or destination.value is None:
            return None
        credential = self._directory.known_credential(f"{lane.partition('.')[0]}.{destination.value.credential}")
        if credential is None:
            return None
        return DeliveryRoute(lane, destination.value, destination, credential, self._read_ref(credential.value))

    def _read_ref(self, credential: Credential | None) -> SecretRef | type[SecretError]:
        if credential is None:
            return SecretNotFound
        try:
            return _parse_ref(credential.secret_ref, self._secret_namespace)
        except SecretError as error:
            return type(error)


@functools.lru_cache(maxsize=4096)
def _parse_ref(ref: str, namespace: str | None) -> SecretRef:
    return SecretRef.parse(ref, central_namespace=namespace)
