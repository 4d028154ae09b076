"""The AsyncAPI 3.0 document of the public subjects and their events."""

from typing import Any, Final, Literal, get_args

from msgspec import Struct

from schemas import json_schema, subjects
from schemas.events import CONTENT_TYPE, CloudEvent, DeliveryAttempted, DeliveryRequested, OperationalEvent
from schemas.json_schema import Json, event_name

VERSION: Final = "1.1.0"
"""Version of the described interface. An addition raises the second number; the first one stays."""

_RESPONSES: Final = "api.responses"
_TENANT, _DESTINATION = "{tenant}", "{destination}"
_PARAMETERS: Final[Json] = {
    "tenant": {"description": "The tenant: a DNS label."},
    "destination": {"description": "The destination's id: a DNS label."},
    "name": {"description": "Id of the subject of the event."},
    "bucket": {"description": "The first hex digit of the SHA-256 of the delivery id.", "enum": [*"0123456789abcdef"]},
}


class AsyncApiChannel(Struct, frozen=True, kw_only=True):
    """A subject, the event on it, and whether this program sends or receives it."""

    name: str
    action: Literal["send", "receive"]
    address: str
    summary: str
    event: type[CloudEvent]
    is_service: bool = False
    """Whether each message is a request, which gets a response of the HTTP API."""


def _bucketed(subject: str) -> str:
    return subject.rpartition(".")[0] + ".{bucket}"


def _operational(event: type[CloudEvent]) -> AsyncApiChannel:
    kind = event_name(event).removesuffix(".v1")
    return AsyncApiChannel(
        name=kind,
        action="send",
        address=subjects.operational(kind, _TENANT, "{name}"),
        summary="An operational event, stored for 30 days.",
        event=event,
    )


CHANNELS: Final = (
    AsyncApiChannel(
        name="api.deliveries",
        action="receive",
        address=subjects.deliveries(_TENANT),
        summary="Requests of producers, as NATS requests. The service also takes the body of `NewDelivery` in OpenAPI.",
        event=DeliveryRequested,
        is_service=True,
    ),
    AsyncApiChannel(
        name="delivery.requested",
        action="receive",
        address=subjects.requested(_TENANT, _DESTINATION),
        summary="Requests of the API and of trusted publishers; `Nats-Msg-Id` is `<tenant>.<destination>.<id>`.",
        event=DeliveryRequested,
    ),
    AsyncApiChannel(
        name="delivery.overflow",
        action="receive",
        address=subjects.overflow(_TENANT, _DESTINATION),
        summary="Requests that the server rejected on the first subject with error 10077, with the same headers.",
        event=DeliveryRequested,
    ),
    AsyncApiChannel(
        name="delivery.ordered",
        action="send",
        address=subjects.ordered(_TENANT, _DESTINATION),
        summary="The ordered queue of a destination with `ordering: fifo`. Only consumers publish here.",
        event=DeliveryRequested,
    ),
    AsyncApiChannel(
        name="delivery.attempted",
        action="send",
        address=_bucketed(subjects.attempted(_TENANT, _DESTINATION, "")),
        summary="One redacted result per attempt, stored for 30 days.",
        event=DeliveryAttempted,
    ),
    AsyncApiChannel(
        name="delivery.failed",
        action="send",
        address=_bucketed(subjects.failed(_TENANT, _DESTINATION, "")),
        summary="Failed and skipped deliveries as they were requested, stored for 30 days and replayable.",
        event=DeliveryRequested,
    ),
    *map(_operational, get_args(OperationalEvent)),
)


def document() -> Json:
    """Return the document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "OneProtect Delivery",
            "version": VERSION,
            "description": "Signed event delivery on NATS JetStream: CloudEvents 1.0 in structured JSON mode.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {channel.name: _channel(channel) for channel in CHANNELS} | {_RESPONSES: _responses()},
        "operations": {f"{channel.action}.{channel.name}": _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {event_name(event): _message(event) for event in json_schema.EVENTS},
            "schemas": json_schema.components(json_schema.EVENTS, ref_template="#/components/schemas/{name}"),
            "parameters": _PARAMETERS,
        },
    }


def _channel(channel: AsyncApiChannel) -> Json:
    name = event_name(channel.event)
    return {
        "address": channel.address,
        "summary": channel.summary,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "parameters": {
            parameter: {"$ref": f"#/components/parameters/{parameter}"}
            for parameter in _PARAMETERS
            if f"{{{parameter}}}" in channel.address
        },
    }


def _responses() -> Json:
    described = {
        "AcceptedDeliveries": "The deliveries are stored.",
        "ProblemDocument": "Has `Nats-Service-Error-Code`.",
    }
    return {
        "address": None,
        "summary": "The inbox of a requester.",
        "messages": {
            name: {"name": name, "summary": text, "payload": {"$ref": f"openapi.json#/components/schemas/{name}"}}
            for name, text in described.items()
        },
    }


def _operation(channel: AsyncApiChannel) -> Json:
    reference = f"#/channels/{channel.name}"
    replies = {"channel": {"$ref": f"#/channels/{_RESPONSES}"}}
    return {
        **({"reply": replies} if channel.is_service else {}),
        "action": channel.action,
        "channel": {"$ref": reference},
        "summary": channel.summary,
        "messages": [{"$ref": f"{reference}/messages/{event_name(channel.event)}"}],
    }


def _message(event: type[CloudEvent]) -> dict[str, Any]:
    return {
        "name": json_schema.event_type(event),
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
    }
