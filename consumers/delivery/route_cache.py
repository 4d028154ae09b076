"""Routes to destinations: what all deliveries to one destination share, cached for as long as it is valid."""

import functools
import time
from typing import Final

from consumers.destinations.directory import ConfigurationDirectory
from consumers.http_client.client import PreparedRequest, WebhookSender
from consumers.model.request import DeliveryAttemptRequest
from messaging.kv_cache import CachedValue
from provider.errors import SecretError, SecretNotFound
from provider.secret_ref import SecretRef
from schemas.configuration import Credential, Destination
from schemas.headers import HEADER_TRACE
from schemas.ids import Purpose

MAX_ROUTES: Final = 8192


class DeliveryRoute:
    """A destination, the credential that signs for it, and the beginning of its requests."""

    __slots__ = (
        "_prepared_for",
        "_request",
        "_sender",
        "_user_agent",
        "credential_key",
        "destination",
        "is_direct",
        "is_ordered",
        "known_credential",
        "known_destination",
        "lane",
        "purpose",
        "secret_error",
        "secret_ref",
        "tenant",
    )

    def __init__(
        self,
        lane: str,
        destination: Destination,
        known: tuple[CachedValue[Destination], CachedValue[Credential]],
        secret_ref: SecretRef | type[SecretError],
        *,
        sender: WebhookSender,
        user_agent: str,
    ) -> None:
        self.lane = lane
        self.tenant = lane.partition(".")[0]
        self.destination = destination
        self.known_destination, self.known_credential = known
        self.is_ordered = destination.ordering == "fifo"
        self.is_direct = destination.enabled and not self.is_ordered
        """Whether deliveries may be sent at once, whatever stream they came from."""
        self.credential_key = f"{self.tenant}.{destination.credential}"
        credential = self.known_credential.value
        self.purpose = Purpose.WEBHOOK_SIGNING if credential is None else credential.purpose
        self.secret_ref: SecretRef | None = None
        self.secret_error: type[SecretError] = SecretNotFound
        """Why there is no ref."""
        if isinstance(secret_ref, SecretRef):
            self.secret_ref = secret_ref
        else:
            self.secret_error = secret_ref
        self._sender = sender
        self._user_agent = user_agent
        self._request: PreparedRequest | None = None
        self._prepared_for: tuple[str, str | None] = ("", None)

    def prepared_request(self, delivery: DeliveryAttemptRequest) -> PreparedRequest:
        """Return the beginning of the request of `delivery`: the last one again, unless its headers differ."""
        trace = delivery.progress.trace if self.destination.forward_trace else None
        wanted = (delivery.content_type, trace)
        request = self._request
        if request is None or wanted != self._prepared_for:
            headers = {
                **self.destination.headers,
                "content-type": delivery.content_type,
                "user-agent": self._user_agent,
            }
            if trace:
                headers[HEADER_TRACE] = trace
            request = self._request = self._sender.prepare(self.destination.url, headers)
            self._prepared_for = wanted
        return request


class RouteCache:
    """The routes to destinations, by `<tenant>.<id>`. A route never differs from what the directory knows."""

    __slots__ = ("_directory", "_routes", "_secret_namespace", "_sender", "_user_agent")

    def __init__(
        self, directory: ConfigurationDirectory, sender: WebhookSender, *, secret_namespace: str | None, user_agent: str
    ) -> None:
        self._directory = directory
        self._sender = sender
        self._secret_namespace = secret_namespace
        self._user_agent = user_agent
        self._routes: dict[str, DeliveryRoute] = {}

    def find(self, lane: str, now: float) -> DeliveryRoute | None:
        """Return the route to `lane` if destination and credential are in memory. `now`: by `time.monotonic`."""
        route = self._routes.get(lane)
        if route is not None and now < route.known_destination.until and now < route.known_credential.until:
            return route
        self._routes.pop(lane, None)
        route = self._build(lane)
        if route is not None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[lane] = route
        return route

    async def load(self, lane: str) -> DeliveryRoute | None:
        """Return the route to `lane`, and wait for what is not in memory. None if there is no such destination."""
        tenant, _, name = lane.partition(".")
        while True:
            destination = await self._directory.destination(tenant, name)
            if destination is None:
                return None
            await self._directory.credential(tenant, destination.credential)
            route = self.find(lane, time.monotonic())
            if route is not None:  # else the destination changed while its credential was read
                return route

    def _build(self, lane: str) -> DeliveryRoute | None:
        destination = self._directory.known_destination(lane)
        if destination is None or destination.value is None:
            return None
        credential = self._directory.known_credential(f"{lane.partition('.')[0]}.{destination.value.credential}")
        if credential is None:
            return None
        return DeliveryRoute(
            lane,
            destination.value,
            (destination, credential),
            self._read_ref(credential.value),
            sender=self._sender,
            user_agent=self._user_agent,
        )

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
