"""Input from outside, turned into our types. What is wrong with it is told as a field and a rule.

An error repeats nothing that was given, be it a value or the name of an unknown field: people paste secrets anywhere.
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
"""How `schemas.configuration` says what types don't."""


class ValidationError(ValueError):
    """Input breaks a rule. `field` is where, for example `event_types[0]`, or None when it is about the whole."""

    def __init__(self, field: str | None, rule: str) -> None:
        super().__init__(f"{field}: {rule}" if field else rule)
        self.field: Final = field
        self.rule: Final = rule

    @classmethod
    def of(cls, error: msgspec.ValidationError) -> "ValidationError":
        """What `error` says. Raise it outside the `except` block, so that nothing else stays attached."""
        text = str(error)
        if found := _MISSING.fullmatch(text):
            return cls(found["field"], "required")
        if found := _OWN_RULE.fullmatch(text):
            return cls(found["field"], found["rule"])
        rule, _, path = text.partition(" - at `")
        field = (path.rpartition("`$")[2] if "`$" in path else path.removeprefix("$")).strip(".`")
        return cls(field or None, _without_input(rule))


def convert(fields: Mapping[str, object], kind: type[T]) -> T:
    """The fields as a `kind`. Raises `ValidationError`."""
    known = kind.__struct_fields__
    if not fields.keys() <= set(known):
        raise ValidationError(
            None, f"a field that can't be set here; there are {', '.join(f'`{name}`' for name in known)}"
        )
    try:
        return msgspec.convert(dict(fields), kind)
    except msgspec.ValidationError as error:
        problem = ValidationError.of(error)
    raise problem


def round_trip(value: T) -> T:
    """`value` as it is after a journey as JSON, every rule checked: building a struct checks few. Raises `ValidationError`."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value), type=type(value))
    except msgspec.ValidationError as error:
        problem = ValidationError.of(error)
    raise problem


def name(text: str, field: str) -> str:
    """`text` if it may name a tenant, a destination or a credential. Raises `ValidationError`."""
    if not is_name(text):
        raise ValidationError(field, f"expected {NAME_IN_WORDS}")
    return text


def delivery_id(text: str, field: str) -> str:
    """`text` if it may be a delivery id. Raises `ValidationError`."""
    if not is_delivery_id(text):
        raise ValidationError(field, f"expected {_IN_WORDS[DELIVERY_ID_PATTERN]}")
    return text


def _without_input(rule: str) -> str:
    if rule.startswith("Invalid enum value"):
        return "not one of the words that may stand here"
    if rule.startswith("Object contains unknown field"):
        return "a field that can't be set here"
    for pattern, words in _IN_WORDS.items():
        rule = rule.replace(f"`str` matching regex {pattern!r}", words)
    return rule[:1].lower() + rule[1:]
