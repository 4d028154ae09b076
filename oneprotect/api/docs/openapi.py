"""The OpenAPI 3.1 document, made from the operations and their types."""

import http
from collections.abc import Iterable, Iterator, Mapping
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
"""The version of the interface. An addition raises the minor version; the major version never changes."""

_SCHEMA: Final = "#/components/schemas/{name}"
_ONE_BODY: Final = [
    {"required": ["payload"], "not": {"required": ["payload_base64"]}},
    {"required": ["payload_base64", "content_type"], "not": {"required": ["payload"]}},
]
_NAME: Final = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}
_DELIVERY_ID: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
_PROBLEMS: Final[Mapping[int, tuple[str, str]]] = {
    400: ("bad-request", "The request is malformed: the body is not JSON in UTF-8, or the request is not HTTP/1.1."),
    401: ("unauthorized", "The token is missing or not valid."),
    403: ("forbidden", "The token belongs to another tenant, or lacks the role."),
    404: ("not-found", "The tenant has no resource of this name."),
    408: ("too-slow", "The body did not arrive in time."),
    409: ("conflict", "The state of the resource does not allow the request."),
    412: ("precondition-failed", "The resource has changed since you read it. Fetch it again and retry."),
    413: ("too-large", "The body is too large."),
    415: ("unsupported-media-type", "The body is compressed, or its content type is not JSON."),
    422: ("invalid", "A value breaks a rule. `errors` names the field and the rule."),
    429: (
        "too-many-requests",
        "The tenant or the token sends too many requests, or the address fails too often (`too-many-failures`).",
    ),
    500: ("internal", "Internal error."),
    503: ("unavailable", "NATS does not respond, or no consumer does. Retry after `Retry-After`."),
    507: ("quota-exceeded", "The tenant stores too much. Retry after `Retry-After`, when less is stored."),
}
_TAGS: Final = {
    "deliveries": "Payloads to destinations, and the attempts to deliver them.",
    "destinations": "Receivers: a URL, the credential that signs deliveries, and a policy.",
    "credentials": "References to Kubernetes Secrets that sign deliveries. The API never reads or returns a secret.",
    "replays": "New requests for deliveries that failed or were skipped.",
    "operating": "Endpoints for monitoring. They need no token and reveal no tenant data.",
}
_DESCRIPTION: Final = """\
Signed event delivery on NATS JetStream. Every request needs a bearer token, made by `oneprotect token create`. \
A token belongs to one tenant and has roles. Errors are problem documents (RFC 9457) and never repeat the input. Lists \
are paged: pass the value of `next` as `cursor` to get the next page."""


def document(operations: Iterable[ApiOperation]) -> Json:
    """Return the OpenAPI document of the operations."""
    operations = tuple(operations)
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OneProtect Delivery",
            "version": VERSION,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "responses": {str(status): _problem(status) for status in _PROBLEMS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def problem_statuses(operation: ApiOperation) -> list[int]:
    """Return the statuses of all problems that the operation may respond with."""
    statuses = set(operation.problems)
    if operation.roles:
        statuses |= {400, 401, 403, 422, 429, 500, 503}
    if operation.body:
        statuses |= {408, 413, 415}
    return sorted(statuses - operation.responses.keys())


def _operation(operation: ApiOperation) -> Json:
    responses = {str(status): _response(response) for status, response in operation.responses.items()}
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
    return f"Requires a token with the role {' or '.join(f'`{role}`' for role in sorted(roles))}." if roles else ""


def _response(response: ResponseDoc) -> Json:
    described: Json = {"description": response.description}
    if response.headers:
        described["headers"] = {name: _header(description) for name, description in response.headers.items()}
    if response.body is not None:
        content: Json = {"schema": _reference(response.body)}
        if response.example is not None:
            content["example"] = response.example
        described["content"] = {response.media_type: content}
    elif response.media_type != JSON:
        described["content"] = {response.media_type: {"schema": {"type": "string"}}}
    return described


def _header(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


def _problem(status: int) -> Json:
    kind, detail = _PROBLEMS[status]
    example: Json = {
        "type": f"urn:oneprotect:problem:{kind}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if status == 422:
        example["errors"] = [{"field": "url", "rule": "blocked destination: its scheme is not allowed"}]
    described: Json = {
        "description": detail,
        "content": {problems.MEDIA_TYPE: {"schema": _reference(ProblemDocument), "example": example}},
    }
    if status in (429, 503, 507):
        described["headers"] = {"Retry-After": _header("The number of seconds to wait.")}
    if status == 401:
        described["headers"] = {"WWW-Authenticate": _header("The scheme `Bearer`.")}
    return described


def _parameters(operation: ApiOperation) -> Iterator[Json]:
    if "{tenant}" in operation.path:
        yield {"name": "tenant", "in": "path", "required": True, "schema": _NAME, "example": "acme"}
    if "{id}" in operation.path:
        schema = _DELIVERY_ID if operation.tag == "deliveries" else _NAME
        yield {"name": "id", "in": "path", "required": True, "schema": schema}
    for name, description in operation.headers.items():
        yield {"name": name, "in": "header", "required": False, **_header(description)}
    if operation.query:
        _, found = msgspec.json.schema_components([operation.query], ref_template=_SCHEMA)
        for name, schema in found[operation.query.__name__]["properties"].items():
            yield _parameter(name, schema)


def _parameter(name: str, schema: Json) -> Json:
    schema = dict(schema)
    choices = [choice for choice in schema.pop("anyOf", []) if choice != {"type": "null"}]
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
        kinds += [cast("type[Struct]", doc.body) for doc in operation.responses.values() if doc.body is not None]
    found = json_schema.components(list(dict.fromkeys(kinds)), ref_template=_SCHEMA)
    for operation in operations:
        if operation.query:
            found.pop(operation.query.__name__, None)
    if "NewDelivery" in found:
        found["NewDelivery"]["oneOf"] = _ONE_BODY  # a rule of `RequestedData` that its type does not express
    return found
