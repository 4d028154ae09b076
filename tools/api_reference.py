"""The reference of the HTTP API, `docs/reference/http-api.md`, generated from `schemas/openapi.json`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "schemas" / "openapi.json"

_HEAD: Final = """\
# HTTP API

`oneprotect api` serves the API. A running API has the complete description at `/openapi.json`, and a readable page
at `/docs`. The file is [schemas/openapi.json](../../schemas/openapi.json).

This page is generated: `make generate`.

## Authentication

Send `Authorization: Bearer TOKEN` with every request, except to the probes.

- `oneprotect token create --tenant TENANT --role ROLE` creates a token. A token belongs to one tenant, or to all (`*`).
- A JWT of a configured OpenID Connect issuer works, too: see [Settings](settings.md#oidc).
- The API stores only the SHA-256 of a token. A revoked token stops working within a second.

| role | may |
|---|---|
| `producer` | request deliveries and look at them |
| `viewer` | look at everything |
| `admin` | look, and change destinations and credentials |
| `operator` | look, replay, enable, disable and test; sees the exact reason why a Secret cannot be read |

The API speaks plain HTTP. Put TLS in front, and name the proxies in `ONEPROTECT_API_TRUSTED_PROXIES`.

## Lists

A list is paged. Pass the answer's `next` as `cursor` to get the next page.

## Conditional writes

`GET` returns an `ETag`. `PUT`, `DELETE`, `enable` and `disable` accept `If-Match`.
`If-None-Match: *` creates without replacing.

## Errors

Every error is a problem document (RFC 9457, `application/problem+json`) with `type`, `title`, `status` and `detail`.
`errors` lists the invalid fields and their rules. The input is never repeated.

| status | meaning |
|---|---|
"""


def page() -> str:
    """Return the page, in Markdown."""
    document: Any = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    responses, schemas = document["components"]["responses"], document["components"]["schemas"]
    errors = [f"| {status} | {_cell(response['description'])} |" for status, response in responses.items()]
    about = {tag["name"]: tag["description"] for tag in document["tags"]}
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    lines = [_HEAD + "\n".join(errors), ""]
    for tag, description in about.items():
        lines += [f"## {tag.capitalize()}", "", description, "", "| operation | purpose |", "|---|---|"]
        chosen = [(name, operation) for name, operation in operations if operation["tags"] == [tag]]
        lines += [f"| `{name}` | {_cell(operation['summary'])} |" for name, operation in chosen]
        lines.append("")
        for name, operation in chosen:
            lines += _operation(name, operation, schemas) if operation["security"] else ()
    return "\n".join(lines).rstrip() + "\n"


def _operation(name: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {operation['summary']}", "", f"`{name}`", "", operation["description"], "")
    rows = [*_parameters(operation), *_body(operation, schemas)]
    if rows:
        yield from ("| field | in | type | description |", "|---|---|---|---|", *rows, "")
    answers = [
        (status, answer["description"]) for status, answer in operation["responses"].items() if int(status) < 300
    ]
    others = ", ".join(status for status in operation["responses"] if int(status) >= 300)
    yield from (f"- {status}: {description}" for status, description in answers)
    yield from (f"- Errors: {others}", "")


def _parameters(operation: dict[str, Any]) -> Iterator[str]:
    for one in operation["parameters"]:
        if one["name"] != "tenant":
            yield _row(one["name"], one["in"], one["schema"], one.get("description", ""), one["required"])


def _body(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    if "requestBody" not in operation:
        return
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    schema = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, one in schema["properties"].items():
        yield _row(name, "body", one, one.get("description", ""), name in schema.get("required", ()))


def _row(name: str, place: str, schema: dict[str, Any], description: str, required: bool) -> str:
    text = f"{description} Required." if required else description
    return f"| `{name}` | {place} | {_type(schema)} | {_cell(text)} |"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        kinds = [_type(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in schema:
        return "`" + str(schema["$ref"]).rpartition("/")[2] + "`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "any JSON")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
