"""Validation of input. An error names a field and a rule.

An error never repeats the input, not even the name of an unknown field: people paste secrets anywhere.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from schemas.configuration import EVENT_PATTERN, HEADER_NAME_PATTERN, HEADER_VALUE_PATTERN
from schemas.ids import DELIVERY_ID_PATTERN, EVENT_TYPE_PATTERN, NAME_PATTERN, is_delivery_id, is_name

T = TypeVar("T", bound=msgspec.Struct)

NAME_IN_WORDS: Final = "1 to 63 of a-z, 0-9 and `-`, with no `-` at either end"

_IN_WORDS: Final = {
    NAME_PATTERN: NAME_IN_WORDS,
    DELIVERY_ID_PATTERN: "1 to 64 of A-Z, a-z, 0-9, `_` and `-`",
    EVENT_TYPE_PATTERN: "words of A-Z, a-z, 0-9 and `_` joined by dots, like `invoice.paid`",
    EVENT_PATTERN: "an event type like `invoice.paid`, a group like `invoice.*`, or `*`",
    HEADER_NAME_PATTERN: "a header name of 1 to 64 letters, digits and `-`",
    HEADER_VALUE_PATTERN: "at most 1024 printable ASCII characters",
}
_MISSING = re.compile(r"Object missing required field `(?P<field>\w+)`(?: - at .*)?")
_OWN_RULE = re.compile(r"`(?P<field>\w+)` (?P<rule>.*)")
"""Format of the rules in `schemas.configuration` that types cannot express."""


class ValidationError(ValueError):
    """Input that breaks a rule. `field`: for example `event_types[0]`, or None for the whole input."""

    def __init__(self, field: str | None, rule: str) -> None:
        super().__init__(f"{field}: {rule}" if field else rule)
        self.field: Final = field
        self.rule: Final = rule

    @classmethod
    def of(cls, error: msgspec.ValidationError) -> "ValidationError":
        """Convert an error of msgspec. Raise the result outside the `except` block, so that it has no context."""
        text = str(error)
        if found := _MISSING.fullmatch(text):
            return cls(found["field"], "required")
        if found := _OWN_RULE.fullmatch(text):
            return cls(found["field"], found["rule"])
        rule, _, path = text.partition(" - at `")
        field = (path.rpartition("`$")[2] if "`$" in path else path.removeprefix("$")).strip(".`")
        return cls(field or None, _without_input(rule))


def convert(fields: Mapping[str, object], kind: type[T]) -> T:
    """Convert fields to a `kind`. Raises `ValidationError`."""
    known = kind.__struct_fields__
    if not fields.keys() <= set(known):
        raise ValidationError(None, f"unknown field; the fields are {', '.join(f'`{name}`' for name in known)}")
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.ValidationError as error:
        problem = ValidationError.of(error)
    raise problem


def round_trip(value: T) -> T:
    """Encode and decode a value, so that every rule is checked. Raises `ValidationError`."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=type(value))
    except msgspec.ValidationError as error:
        problem = ValidationError.of(error)
    raise problem


def name(text: str, field: str) -> str:
    """Return `text` if it is a valid name of a tenant, destination or credential. Raises `ValidationError`."""
    if not is_name(text):
        raise ValidationError(field, f"expected {NAME_IN_WORDS}")
    return text


def delivery_id(text: str, field: str) -> str:
    """Return `text` if it is a valid delivery id. Raises `ValidationError`."""
    if not is_delivery_id(text):
        raise ValidationError(field, f"expected {_IN_WORDS[DELIVERY_ID_PATTERN]}")
    return text


def _without_input(rule: str) -> str:
    if rule.startswith("Invalid enum value"):
        return "not one of the allowed values"
    if rule.startswith("Object contains unknown field"):
        return "unknown field"
    for pattern, words in _IN_WORDS.items():
        rule = rule.replace(f"`str` matching regex {pattern!r}", words)
    return rule[:1].lower() + rule[1:]
