"""Subjects (contract, section 3). A tenant, destination or delivery may be `*`, which makes the result a pattern."""

import hashlib
from typing import Final, Literal

from schemas import streams
from schemas.ids import is_name

CONTROL: Final = "oneprotect.control.>"
REFRESH: Final = "oneprotect.control.secrets.refresh"
"""Request to every consumer: `schemas.control_messages.RefreshSecrets`. Each one evicts these secrets, and replies."""
CHECK: Final = "oneprotect.control.credentials.check"
"""Request to one consumer: `schemas.control_messages.Check`. It checks the credential, and replies with its state."""
FORGET: Final = "oneprotect.control.tenants.forget"
"""Request to every consumer: `schemas.control_messages.ForgetTenant`."""
SERVERS: Final = "oneprotect.servers.varz"
"""Request to every nats-server for its general state, imported from the servers' system account as in deploy/nats."""
HELD: Final = "oneprotect.control.messages.held"
"""Request to every consumer: `schemas.control_messages.HeldMessages`."""
SECRET_IS_THERE: Final = b"secret"
"""Payload of `line(..., "now")` for a head that waits for its secret, and for no other head."""

SERVICE: Final = "oneprotect-api"
"""Name and queue group of the API's service over NATS."""

_HEX: Final = "0123456789abcdef"
_DELIVERY: Final = "oneprotect.delivery."
_QUARANTINED: Final = "oneprotect.delivery.quarantined."


def deliveries(tenant: str) -> str:
    """Return the subject of the API's service for producers, which takes delivery requests of a tenant."""
    return f"oneprotect.api.v1.{tenant}.deliveries"


def requested(tenant: str, destination: str) -> str:
    """Return the subject of delivery requests."""
    return f"oneprotect.delivery.requested.{tenant}.{destination}"


def overflow(tenant: str, destination: str) -> str:
    """Return the subject of the requests that the server refused on `requested` with error 10077."""
    return f"oneprotect.delivery.overflow.{tenant}.{destination}"


def ordered(tenant: str, destination: str) -> str:
    """Return the subject of a destination's ordered queue. Only consumers and the API publish to it."""
    return f"oneprotect.delivery.ordered.{tenant}.{destination}"


def scheduled(tenant: str, destination: str, delivery: str) -> str:
    """Return the subject of a delivery's next attempt. A newer schedule replaces an older one."""
    return f"oneprotect.delivery.scheduled.{tenant}.{destination}.{delivery}"


def destination_scheduled(subject: str) -> str:
    """Return the destination in a subject of `scheduled`."""
    return subject.split(".")[4]


def due(tenant: str, destination: str) -> str:
    """Return the subject on which schedules fire."""
    return f"oneprotect.delivery.due.{tenant}.{destination}"


def attempted(tenant: str, destination: str, delivery: str) -> str:
    """Return the subject of the results of a delivery's attempts, in one of 16 buckets."""
    return f"oneprotect.delivery.attempted.{tenant}.{destination}.{'*' if delivery == '*' else bucket_of(delivery)}"


def failed(tenant: str, destination: str, delivery: str) -> str:
    """Return the subject of a failed delivery, in one of 16 buckets."""
    return f"oneprotect.delivery.failed.{tenant}.{destination}.{'*' if delivery == '*' else bucket_of(delivery)}"


def delivered(tenant: str, destination: str) -> str:
    """Return the subject of the archive, whose messages hold several deliveries each."""
    return f"oneprotect.delivery.delivered.{tenant}.{destination}"


def bucket_of(delivery: str) -> str:
    """Return the first hex digit of the SHA-256 of a delivery id: the subject bucket of its results."""
    return _HEX[hashlib.sha256(delivery.encode()).digest()[0] >> 4]


def held_for(tenant: str) -> dict[str, tuple[str, ...]]:
    """Return, by stream, the patterns of all subjects that belong to a tenant."""
    return {
        streams.WORK.name: (requested(tenant, "*"),),
        streams.OVERFLOW.name: (overflow(tenant, "*"),),
        streams.ORDERED.name: (ordered(tenant, "*"),),
        streams.RETRIES.name: (scheduled(tenant, "*", "*"), due(tenant, "*")),
        streams.ATTEMPTS.name: (attempted(tenant, "*", "*"),),
        streams.FAILED.name: (failed(tenant, "*", "*"),),
        streams.DELIVERED.name: (delivered(tenant, "*"),),
        streams.QUARANTINE.name: (f"{_QUARANTINED}*.{tenant}.>", f"{_QUARANTINED}oneprotect.event.*.*.{tenant}.>"),
        streams.EVENTS.name: (operational("*.*", tenant, ">"),),
    }


def of_tenant(tenant: str) -> str:
    """Return the pattern of all delivery subjects of a tenant."""
    return f"oneprotect.delivery.*.{tenant}.>"


def quarantined(origin: str) -> str:
    """Return the subject of quarantined messages that came from the subject `origin`."""
    return _QUARANTINED + origin.removeprefix(_DELIVERY)


def quarantined_origin(subject: str) -> str:
    """Return the subject of quarantine for a received message. A token that is no name is replaced by `-`.

    Such a token may have any bytes and 4,000 of them, so that a message on that subject could not be published.
    """
    kind, _, lane = subject.removeprefix(_DELIVERY).partition(".")
    if not subject.startswith(_DELIVERY):
        return quarantined(subject)
    return _QUARANTINED + ".".join([kind, *(token if is_name(token) else "-" for token in lane.split(".", 1))])


def origin_quarantined(subject: str) -> str:
    """Return the subject that a message on a subject of `quarantined` came from."""
    return _DELIVERY + subject.removeprefix(_QUARANTINED)


def operational(kind: str, tenant: str, name: str) -> str:
    """Return the subject of operational events of a kind, for example `destination.disabled`."""
    return f"oneprotect.event.{kind}.{tenant}.{name}"


def tenant_of_event(subject: str) -> str:
    """Return the tenant in a subject of `operational`; any other subject is returned as it is."""
    tokens = subject.split(".", 5)
    return tokens[4] if len(tokens) > 5 else subject


def announced(bucket: str) -> str:
    """Return the core NATS subject prefix on which the server announces a bucket's values."""
    return f"oneprotect.kv.{bucket}"


def line(tenant: str, destination: str, signal: Literal["more", "now", "wake", "*"]) -> str:
    """Return the subject on which the holder of an ordered queue is notified.

    `more`: there are messages to transfer into the queue. `now`: the head need not wait for its retry. `wake`: one of
    the consumers receives it, too, and starts the queue if no consumer has it.
    """
    return f"oneprotect.control.line.{tenant}.{destination}.{signal}"


def kind_of(subject: str) -> str:
    """Return the token after `oneprotect.delivery`, for example `requested`."""
    return subject.removeprefix(_DELIVERY).partition(".")[0]


def tenant_and_destination(subject: str) -> tuple[str, str]:
    """Return the two tokens after `oneprotect.delivery.<kind>`. Raises `ValueError` unless there are exactly two."""
    _, _, _, tenant, destination = subject.split(".")
    return tenant, destination


def lane_of(subject: str) -> str:
    """Return the `<tenant>.<destination>` of a delivery subject; any other subject is returned as it is."""
    tokens = subject.split(".", 3)
    return tokens[3] if subject.startswith(_DELIVERY) and len(tokens) == 4 else subject


def msg_id(tenant: str, destination: str, delivery: str) -> str:
    """Return the `Nats-Msg-Id` of a request: the duplicate check spans a stream, so a bare id would collide."""
    return f"{tenant}.{destination}.{delivery}"


def claimed_msg_id(key: str, revision: int | str = "") -> str:
    """Return the `Nats-Msg-Id` under which the API stores what it has claimed; without a revision, its start."""
    return f"{key}.c{revision}"
