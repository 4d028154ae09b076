"""The published schemas: fresh, complete, and cleanly written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import schemas
from oneprotect.api.app import OPERATIONS
from oneprotect.api.docs.openapi import document
from schemas import streams, subjects
from schemas.asyncapi import CHANNELS
from schemas.export import documents, write
from schemas.json_schema import EVENTS, event_type

CHECKED_IN = Path(schemas.__path__[0])


def nodes(document: object) -> Iterator[dict[str, Any]]:
    """Every object in a document."""
    if isinstance(document, dict):
        yield cast("dict[str, Any]", document)
        for value in cast("dict[str, Any]", document).values():
            yield from nodes(value)
    if isinstance(document, list):
        for item in cast("list[object]", document):
            yield from nodes(item)


def test_checked_in_files_are_fresh(tmp_path: Path) -> None:
    """The stored files equal exactly the schemas of the types."""
    written = write(tmp_path / "made" / "on the way")

    fresh = {path.name: path.read_text() for path in written}
    stored = {path.name: path.read_text() for path in CHECKED_IN.glob("*.json") if path.name != "openapi.json"}
    assert stored == fresh, "run: python -m schemas.export"


def test_the_openapi_document_is_fresh() -> None:
    """The stored document equals that of the API's operations."""
    stored = json.loads((CHECKED_IN / "openapi.json").read_bytes())
    assert stored == json.loads(json.dumps(document(OPERATIONS))), "run: oneprotect schemas --output schemas"


def test_writing_twice_writes_the_same(tmp_path: Path) -> None:
    """The documents do not depend on when they are made."""
    first = {path.name: path.read_bytes() for path in write(tmp_path)}
    second = {path.name: path.read_bytes() for path in write(tmp_path)}

    assert first == second


def test_every_event_has_its_file() -> None:
    """Each event type has a schema under its own name."""
    names = {f"oneprotect.{name}" for name in documents()}

    assert {event_type(event) for event in EVENTS} <= names
    assert {"oneprotect.delivery.requested.v1", "oneprotect.delivery.attempted.v1"} <= names
    assert {"oneprotect.configuration.destination", "oneprotect.configuration.credential"} <= names


@pytest.mark.parametrize("name", sorted(documents()))
def test_references_resolve(name: str) -> None:
    """Every `$ref` points to an existing part of its own document."""
    document = documents()[name]

    references = [node["$ref"] for node in nodes(document) if "$ref" in node]

    for reference in references:
        file, _, path = reference.partition("#/")
        target: Any = json.loads((CHECKED_IN / file).read_bytes()) if file else document
        for part in path.split("/"):
            target = target[part]
        assert isinstance(target, dict)


@pytest.mark.parametrize("name", sorted(documents()))
def test_descriptions_are_clean(name: str) -> None:
    """No description carries the indentation of its source."""
    texts = [node["description"] for node in nodes(documents()[name]) if isinstance(node.get("description"), str)]

    assert texts
    assert [text for text in texts if "\n " in text or text != text.strip()] == []


def test_events_have_distinct_types() -> None:
    """Every event's schema requires `type`, and allows one value of it."""
    for event in EVENTS:
        schema = documents()[event_type(event).removeprefix("oneprotect.")]

        assert "type" in schema["required"]
        assert schema["properties"]["type"]["enum"] == [event_type(event)]


def test_nothing_secret_can_be_reported() -> None:
    """An attempt result has no place for a ref, a URL, a header or a signature."""
    properties = documents()["delivery.attempted.v1"]["$defs"]["AttemptResult"]["properties"]

    assert {"delivery", "outcome", "code", "secret_version", "url_host"} <= set(properties)
    assert not {"url", "secret_ref", "ref", "headers", "signature", "body"} & set(properties)


def test_channels_are_the_subjects() -> None:
    """Each channel's address, filled in, is a subject that exactly one stream stores, or one of the API's service."""
    assert [channel.address for channel in CHANNELS if channel.is_service] == [subjects.deliveries("{tenant}")]
    for channel in (channel for channel in CHANNELS if not channel.is_service):
        subject = channel.address.format(tenant="acme", destination="orders", name="orders", bucket="0")
        stored_by = [stream.name for stream in streams.STREAMS if any(covers(s, subject) for s in stream.subjects)]

        assert len(stored_by) == 1, (channel.name, stored_by)


def test_every_event_has_a_channel() -> None:
    """No event is published without a channel in the AsyncAPI document."""
    assert {channel.event for channel in CHANNELS} == set(EVENTS)


def test_the_document_is_plain_json() -> None:
    """The files are UTF-8 JSON with a line feed at the end."""
    for path in CHECKED_IN.glob("*.json"):
        content = path.read_bytes()

        assert json.loads(content)
        assert content.endswith(b"}\n")


def covers(pattern: str, subject: str) -> bool:
    """Whether a NATS subject pattern matches a subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, tokens = wanted[:-1], tokens[: len(wanted) - 1] if len(tokens) >= len(wanted) else []
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))
