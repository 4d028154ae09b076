"""Delivery requests over NATS: the JSON of the HTTP API, or a CloudEvents document (1.0, structured or binary mode).

A CloudEvents document is either the request of `oneprotect.delivery.requested.v1`, or an event to deliver: its `type`
is the event type, its data the payload, and its extension `destination` names the destination.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from oneprotect.api.operations.delivery_intake import NewDelivery
from oneprotect.api.web import request_body
from schemas.events import Source
from schemas.validation import ValidationError, convert

REQUEST: Final = "oneprotect.delivery.requested.v1"
PREFIX: Final = "ce-"
"""Prefix of the headers of the binary mode."""

_ATTRIBUTES: Final = ("specversion", "id", "source", "type", "tenant", "destination")


class _Event(Struct, frozen=True, kw_only=True):
    """The attributes that are read. CloudEvents allows others, which are ignored."""

    specversion: Literal["1.0"]
    id: str
    source: Source
    type: str
    tenant: str | UnsetType = UNSET
    destination: str | UnsetType = UNSET
    datacontenttype: str | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    data_base64: str | UnsetType = UNSET


class _Probe(Struct, frozen=True):
    specversion: Raw | UnsetType = UNSET


def read_delivery(tenant: str, body: bytes, headers: Mapping[str, str]) -> NewDelivery:
    """Return the requested delivery.

    Args:
        tenant: The tenant of the subject.
        headers: By names in lower case.

    Raises:
        Problem, ValidationError: The request is malformed.
    """
    if f"{PREFIX}specversion" in headers:
        event = _read_binary(body, headers)
    else:
        request_body.require_json(headers)
        if isinstance(request_body.decode(body, _Probe).specversion, UnsetType):
            return request_body.decode(body, NewDelivery)
        event = request_body.decode(body, _Event)
    if event.tenant not in (UNSET, tenant):
        raise ValidationError("tenant", "differs from the tenant of the subject; omit it, or correct it")
    return _requested(event) if event.type == REQUEST else _delivered(event)


def _read_binary(body: bytes, headers: Mapping[str, str]) -> _Event:
    found: dict[str, Any] = {name: headers[PREFIX + name] for name in _ATTRIBUTES if PREFIX + name in headers}
    content_type = headers.get("content-type", "application/json")
    if request_body.is_json(content_type):
        found["data"] = request_body.decode(body, Raw)
    else:
        found["data_base64"] = base64.b64encode(body).decode()
    return convert(found | {"datacontenttype": content_type}, _Event)


def _requested(event: _Event) -> NewDelivery:
    if isinstance(event.data, UnsetType):
        raise ValidationError("data", "required")
    new = request_body.decode(bytes(event.data), NewDelivery)
    if new.id not in (UNSET, event.id):
        raise ValidationError("data.id", "differs from `id`; omit it")
    return _new(msgspec.structs.asdict(new) | {"id": event.id})


def _delivered(event: _Event) -> NewDelivery:
    found: dict[str, Any] = {"event_type": event.type, "id": event.id, "destination": event.destination}
    content_type = event.datacontenttype
    if not isinstance(event.data_base64, UnsetType):
        found["payload_base64"] = event.data_base64
    elif isinstance(event.data, UnsetType):
        raise ValidationError("data", "required")
    elif isinstance(content_type, UnsetType) or request_body.is_json(content_type):
        found["payload"] = event.data
    else:  # text, which the JSON format of CloudEvents has as a string
        text = request_body.decode(bytes(event.data), str)
        found["payload_base64"] = base64.b64encode(text.encode()).decode()
    found["content_type"] = content_type
    return _new(found)


def _new(fields: Mapping[str, Any]) -> NewDelivery:
    return convert({name: value for name, value in fields.items() if value is not UNSET}, NewDelivery)
