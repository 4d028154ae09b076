"""JSON Schema (draft 2020-12) of every event and configuration object, generated from the types."""

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
    """Return the CloudEvents `type`, for example `oneprotect.delivery.requested.v1`."""
    field = next(field for field in msgspec.structs.fields(event) if field.name == "type")
    return cast("str", get_args(field.type)[0])


def event_name(event: type[CloudEvent]) -> str:
    """Return the `type` without the root: `delivery.requested.v1`."""
    return event_type(event).removeprefix("oneprotect.")


def config_name(kind: type[Struct]) -> str:
    """Return the name of a configuration schema, for example `configuration.retry-policy`."""
    words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in kind.__name__)
    return "configuration." + words.removeprefix("-")


def _defined_in(module: types.ModuleType) -> Iterator[type[Struct]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Struct) and value.__module__ == module.__name__:
            yield value


EVENTS: Final = tuple(kind for kind in _defined_in(events) if issubclass(kind, CloudEvent) and kind is not CloudEvent)
CONFIGURATION: Final = tuple(_defined_in(configuration))


def document(kind: type[Struct], name: str) -> Json:
    """Return the schema of one type, including the types that it refers to."""
    found = components([kind], ref_template="#/$defs/{name}")
    root = found.pop(kind.__name__)
    return {"$schema": _DIALECT, "$id": f"urn:oneprotect:schema:{name}", **root} | ({"$defs": found} if found else {})


def components(kinds: Iterable[type[Struct]], *, ref_template: str) -> dict[str, Json]:
    """Return the schemas of `kinds` and of the types that they refer to, sorted by type name."""
    _, found = msgspec.json.schema_components(kinds, ref_template=ref_template)
    for schema in found.values():
        _clean(schema)
    if events.RequestedData.__name__ in found:
        # The rule of `__post_init__`, which the types cannot express.
        found[events.RequestedData.__name__]["oneOf"] = _ONE_BODY
    for event in EVENTS:
        if event.__name__ in found:
            _require_type(found[event.__name__])
    return {name: found[name] for name in sorted(found)}


def _require_type(schema: Json) -> None:
    """Mark `type` as required: the default is for this program only, and readers distinguish events by it."""
    required = cast("list[str]", schema["required"])
    if "type" not in required:
        required.append("type")


def _clean(node: object) -> None:
    """Remove indentation from descriptions, which come from docstrings."""
    if isinstance(node, list):
        for item in cast("list[object]", node):
            _clean(item)
    if isinstance(node, dict):
        schema = cast("Json", node)
        if isinstance(schema.get("description"), str):
            schema["description"] = inspect.cleandoc(schema["description"])
        for item in schema.values():
            _clean(item)
