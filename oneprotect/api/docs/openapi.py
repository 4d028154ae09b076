"""The OpenAPI 3.1 document, made from the operations and the types that they take and give."""

import http
from collections.abc import Iterable, Iterator
from typing import Final, cast

import msgspec
from msgspec import Struct

from oneprotect.api.operations.operation import JSON, ApiOperation, ResponseDoc
from oneprotect.api.web import problems
from oneprotect.api.web.problems import ProblemDocument
from schemas import json_schema
from schemas.json_schema import Json
from schemas.roles import Role

VERSION: Final = "1.0.0"
"""Of the interface. An addition raises the second number; the first stays, as the contract only grows."""

_SCHEMA: Final = "#/components/schemas/{name}"
_ONE_BODY: Final = [
    {"required": ["payload"], "not": {"required": ["payload_base64"]}},
    {"required": ["payload_base64", "content_type"], "not": {"required": ["payload"]}},
]
_NAME: Final = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_DELIVERY_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_PROBLEMS: Final = {
    400: "The request can't be understood: the body is not JSON in UTF-8, or the request is not HTTP as we take it.",
    401: "There is no token, or it is none that is taken here.",
    403: "The token is of another tenant, or lacks the role.",
    404: "The tenant has nothing of this name.",
    408: "The body came too slowly.",
    409: "It can't be done as things are.",
    412: "It is not as `If-Match` or `If-None-Match` says.",
    413: "The body is too large.",
    415: "The body is not JSON by its content type, or it is compressed.",
    422: "Something breaks a rule: `errors` says which field, and which rule.",
    429: "This address has failed to authenticate too often.",
    500: "This should not have happened.",
    503: "NATS does not answer, or no consumer does: try again after `Retry-After`.",
}
_TAGS: Final = {
    "deliveries": "One payload to one destination, and the attempts that were made.",
    "destinations": "Where deliveries go: a URL, the credential that signs them, and a policy.",
    "credentials": "Which Secrets sign. Refs go in and never come out; the secret itself is never here.",
    "replays": "What failed or was skipped is kept, and can be requested once more.",
    "operating": "For monitoring: nobody is asked who they are, and no tenant's data is told.",
}
_ABOUT: Final = """\
Signed event delivery on NATS JetStream. Every request needs a bearer token, made with `oneprotect token create`; a \
token belongs to one tenant and has roles. Every error is a problem document (RFC 9457), and repeats nothing of what \
was sent. Lists come in pages: `next` is the `cursor` of the next one."""


def document(operations: Iterable[ApiOperation]) -> Json:
    """The document."""
    operations = tuple(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OneProtect Delivery",
            "version": VERSION,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "responses": {str(status): _problem(status) for status in _PROBLEMS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def problem_statuses(operation: ApiOperation) -> list[int]:
    """The statuses of all problems that an operation may answer with."""
    statuses = set(operation.problems)
    if operation.roles:
        statuses |= {400, 401, 403, 422, 429, 500, 503}
    if operation.body:
        statuses |= {408, 413, 415}
    return sorted(statuses - operation.says.keys())


def _operation(operation: ApiOperation) -> Json:
    responses = {str(status): _says(says) for status, says in operation.says.items()}
    responses |= {str(status): {"$ref": f"#/components/responses/{status}"} for status in problem_statuses(operation)}
    described: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": "\n\n".join(filter(None, (operation.description, _roles(operation.roles)))),
        "tags": [operation.tag],
        "parameters": list(_parameters(operation)),
        "responses": responses,
        "security": [{"token": []}] if operation.roles else [],
    }
    if operation.body:
        content: Json = {"schema": _reference(operation.body)}
        if operation.body_example is not None:
            content["example"] = operation.body_example
        described["requestBody"] = {"required": operation.body_required, "content": {JSON: content}}
    return described


def _roles(roles: frozenset[Role]) -> str:
    return f"For tokens with the role {' or '.join(f'`{role}`' for role in sorted(roles))}." if roles else ""


def _says(says: ResponseDoc) -> Json:
    said: Json = {"description": says.what}
    if says.headers:
        said["headers"] = {
            name: {"description": about, "schema": {"type": "string"}} for name, about in says.headers.items()
        }
    if says.body is not None:
        content: Json = {"schema": _reference(says.body)}
        if says.example is not None:
            content["example"] = says.example
        said["content"] = {says.media_type: content}
    elif says.media_type != JSON:
        said["content"] = {says.media_type: {"schema": {"type": "string"}}}
    return said


def _problem(status: int) -> Json:
    example: Json = {
        "type": f"urn:oneprotect:problem:{_KINDS.get(status, 'problem')}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": _PROBLEMS[status],
    }
    if status == 422:
        example["errors"] = [{"field": "url", "rule": "blocked destination: its scheme is not allowed"}]
    described: Json = {
        "description": _PROBLEMS[status],
        "content": {problems.MEDIA_TYPE: {"schema": _reference(ProblemDocument), "example": example}},
    }
    if status in (429, 503):
        described["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}}
    if status == 401:
        described["headers"] = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}}
    return described


_KINDS: Final = {
    400: "bad-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    408: "too-slow",
    409: "conflict",
    412: "precondition-failed",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid",
    429: "too-many-failures",
    500: "internal",
    503: "unavailable",
}


def _parameters(operation: ApiOperation) -> Iterator[Json]:
    if "{tenant}" in operation.path:
        yield {"name": "tenant", "in": "path", "required": True, "schema": _NAME, "example": "acme"}
    if "{id}" in operation.path:
        of_delivery = operation.tag == "deliveries"
        schema = _DELIVERY_ID if of_delivery else _NAME
        yield {"name": "id", "in": "path", "required": True, "schema": schema}
    for name, about in operation.headers.items():
        yield {"name": name, "in": "header", "required": False, "description": about, "schema": {"type": "string"}}
    if operation.query:
        _, found = msgspec.json.schema_components([operation.query], ref_template=_SCHEMA)
        for name, schema in found[operation.query.__name__]["properties"].items():
            yield _parameter(name, schema)


def _parameter(name: str, schema: Json) -> Json:
    schema = dict(schema)
    choices = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
    if schema.get("default", 0) in (None, []):
        del schema["default"]
    if choices:
        schema = {**choices[0], **schema}
    parameter: Json = {"name": name, "in": "query", "required": False, "schema": schema}
    if description := schema.pop("description", None):
        parameter["description"] = description
    return parameter


def _reference(kind: type[Struct]) -> Json:
    return {"$ref": _SCHEMA.format(name=kind.__name__)}


def _schemas(operations: Iterable[ApiOperation]) -> dict[str, Json]:
    kinds: list[type[Struct]] = [ProblemDocument]
    for operation in operations:
        kinds += [kind for kind in (operation.body, operation.query) if kind]
        kinds += [cast("type[Struct]", says.body) for says in operation.says.values() if says.body is not None]
    found = json_schema.components(list(dict.fromkeys(kinds)), ref_template=_SCHEMA)
    for operation in operations:
        if operation.query:
            found.pop(operation.query.__name__, None)
    if "NewDelivery" in found:
        found["NewDelivery"]["oneOf"] = _ONE_BODY  # what `RequestedData` checks, which no type says
    return found
