"""What is the same for every delivery to a destination: looked up once, and kept as long as it is believed."""

import functools
from typing import Final

from consumers.destinations.directory import ConfigurationDirectory
from consumers.http_client.client import PreparedRequest, WebhookSender
from consumers.model.request import DeliveryAttemptRequest
from messaging.kv_cache import CachedValue
from provider.errors import SecretError
from provider.secret_ref import SecretRef
from schemas.configuration import Credential, Destination
from schemas.ids import Purpose, is_name

MAX_ROUTES: Final = 8192


class DeliveryRoute:
    """A destination that takes deliveries, in any order, and what they are signed with."""

    __slots__ = (
        "_way",
        "_way_content_type",
        "credential_key",
        "destination",
        "known_credential",
        "known_destination",
        "lane",
        "name",
        "purpose",
        "secret_ref",
        "tenant",
    )

    def __init__(
        self,
        lane: str,
        destination: Destination,
        secret_ref: SecretRef,
        purpose: Purpose,
        known_destination: CachedValue[Destination],
        known_credential: CachedValue[Credential],
    ) -> None:
        self.lane = lane
        self.tenant, _, self.name = lane.partition(".")
        self.destination = destination
        self.credential_key = f"{self.tenant}.{destination.credential}"
        self.secret_ref = secret_ref
        self.purpose = purpose
        self.known_destination = known_destination
        self.known_credential = known_credential
        self._way: PreparedRequest | None = None
        self._way_content_type = ""

    def prepared_request(
        self, delivery: DeliveryAttemptRequest, sender: WebhookSender, user_agent: str
    ) -> PreparedRequest | None:
        """How the request of `delivery` begins; None if it may go nowhere, or carries a header of its own."""
        if self.destination.forward_trace and delivery.progress.trace:
            return None
        if self._way is None or delivery.content_type != self._way_content_type:
            headers = {**self.destination.headers, **common_headers(delivery, user_agent)}
            self._way = sender.prepare(self.destination.url, headers)
            self._way_content_type = delivery.content_type
        return self._way


class RouteCache:
    """Remembers a route for each destination, `<tenant>.<id>`, none of which says what the directory would not."""

    __slots__ = ("_directory", "_routes", "_secret_namespace")

    def __init__(self, directory: ConfigurationDirectory, secret_namespace: str | None) -> None:
        self._directory = directory
        self._secret_namespace = secret_namespace
        self._routes: dict[str, DeliveryRoute] = {}

    def find(self, lane: str, now: float) -> DeliveryRoute | None:
        """The route to the destination `lane`; None if it has none, or there is more to it than is at hand.

        `now`: by `time.monotonic`.
        """
        route = self._routes.get(lane)
        if route is not None and now < route.known_destination.until and now < route.known_credential.until:
            return route
        self._routes.pop(lane, None)
        route = self._look_up(lane)
        if route is not None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[lane] = route
        return route

    def _look_up(self, lane: str) -> DeliveryRoute | None:
        known = self._directory.known_destination(lane)
        if known is None or known.value is None or not known.value.enabled or known.value.ordering == "fifo":
            return None
        tenant, _, name = lane.partition(".")
        signing = self._directory.known_credential(f"{tenant}.{known.value.credential}")
        if signing is None or signing.value is None or not (is_name(tenant) and is_name(name)):
            return None
        try:
            secret_ref = parsed_ref(signing.value.secret_ref, self._secret_namespace)
        except SecretError:
            return None
        return DeliveryRoute(lane, known.value, secret_ref, signing.value.purpose, known, signing)


def common_headers(delivery: DeliveryAttemptRequest, user_agent: str) -> dict[str, str]:
    """The headers that are the same for all deliveries of a kind."""
    return {"content-type": delivery.content_type, "user-agent": user_agent}


@functools.lru_cache(maxsize=4096)
def parsed_ref(ref: str, namespace: str | None) -> SecretRef:
    """The ref that `ref` says. Raises `SecretError`."""
    return SecretRef.parse(ref, central_namespace=namespace)
