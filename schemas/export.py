"""Export of the schemas: one file per event and configuration object, and one for the subjects.

`python -m schemas.export` refreshes the files beside this one; a test fails when they are stale.
"""

import json
from pathlib import Path

from schemas import asyncapi, json_schema
from schemas.json_schema import Json


def write(directory: Path) -> list[Path]:
    """Write every document below `directory`, which is created, and return the paths. Raises `OSError`."""
    directory.mkdir(parents=True, exist_ok=True)
    return [write_one(directory, name, document) for name, document in documents().items()]


def write_one(directory: Path, name: str, document: Json) -> Path:
    """Write one document into an existing directory, and return the path. Raises `OSError`."""
    path = directory / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def documents() -> dict[str, Json]:
    """Return every document by its file name without `.json`."""
    events = {json_schema.event_name(event): event for event in json_schema.EVENTS}
    configuration = {json_schema.config_name(kind): kind for kind in json_schema.CONFIGURATION}
    schemas = {name: json_schema.document(kind, name) for name, kind in {**events, **configuration}.items()}
    return {**schemas, "asyncapi": asyncapi.document()}


if __name__ == "__main__":
    write(Path(__file__).parent)
