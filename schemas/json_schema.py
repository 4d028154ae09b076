"""JSON Schema (draft 2020-12) of every event and configuration object, made from the types."""

import inspect
import types
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast, get_args

import msgspec
from msgspec import Struct

from schemas import configuration, events
from schemas.events import CloudEvent

Json = dict[str, Any]

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ONE_BODY: Final = [
    {"required": ["payload"], "not": {"required": ["payload_base64"]}},
    {"required": ["payload_base64", "content_type"], "not": {"required": ["payload"]}},
]


def event_type(event: type[CloudEvent]) -> str:
    """The CloudEvents `type`, for example `oneprotect.delivery.requested.v1`."""
    field = next(field for field in msgspec.structs.fields(event) if field.name == "type")
    return cast("str", get_args(field.type)[0])


def event_name(event: type[CloudEvent]) -> str:
    """The same without the root: `delivery.requested.v1`."""
    return event_type(event).removeprefix("oneprotect.")


def config_name(kind: type[Struct]) -> str:
    """`configuration.` and the type's name in lower case, for example `configuration.retry-policy`."""
    words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__)
    return "configuration." + words.removeprefix("-")


def _defined_in(module: types.ModuleType) -> Iterator[type[Struct]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Struct) and value.__module__ == module.__name__:
            yield value


EVENTS: Final = tuple(kind for kind in _defined_in(events) if issubclass(kind, CloudEvent) and kind is not CloudEvent)
CONFIGURATION: Final = tuple(_defined_in(configuration))


def document(kind: type[Struct], name: str) -> Json:
    """The schema of one type, with everything that it refers to inside."""
    found = components([kind], ref_template="#/$defs/{name}")
    root = found.pop(kind.__name__)
    return {"$schema": _DIALECT, "$id": f"urn:oneprotect:schema:{name}", **root} | ({"$defs": found} if found else {})


def components(kinds: Iterable[type[Struct]], *, ref_template: str) -> dict[str, Json]:
    """The schemas of `kinds` and of all that they refer to, by type name and sorted by it."""
    _, found = msgspec.json.schema_components(kinds, ref_template=ref_template)
    for schema in found.values():
        _clean(schema)
    if events.RequestedData.__name__ in found:
        # What its `__post_init__` checks, which no type says.
        found[events.RequestedData.__name__]["oneOf"] = _ONE_BODY
    for event in EVENTS:
        if event.__name__ in found:
            _require_type(found[event.__name__])
    return {name: found[name] for name in sorted(found)}


def _require_type(schema: Json) -> None:
    """Say that `type` is always there: it has a default for us who write it, and readers tell events apart by it."""
    required = cast("list[str]", schema["required"])
    if "type" not in required:
        required.append("type")


def _clean(node: object) -> None:
    """Take the source's indentation out of descriptions, which are docstrings."""
    if isinstance(node, list):
        for item in cast("list[object]", node):
            _clean(item)
    if isinstance(node, dict):
        schema = cast("Json", node)
        if isinstance(schema.get("description"), str):
            schema["description"] = inspect.cleandoc(schema["description"])
        for item in schema.values():
            _clean(item)
