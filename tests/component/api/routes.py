"""Every route of the application, and the access that each requires."""

from typing import Any, Final

import msgspec
from starlette.routing import Route

from oneprotect.api.app import OPERATIONS, create_app
from oneprotect.api.operations.operation import ApiOperation
from oneprotect.api.web.request_body import BodyLimits
from schemas.roles import Role

OURS: Final = "acme"
THEIRS: Final = "globex"

READ: Final = {Role.VIEWER, Role.ADMIN, Role.OPERATOR}
KEEP: Final = {Role.ADMIN, Role.OPERATOR}
T: Final = "/v1/tenants/{tenant}"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """The roles that may use a route (None: no token needed), and a valid request."""

    roles: set[Role] | None
    body: Any = None
    id: str = "orders"


ROUTES: Final[dict[tuple[str, str], Access]] = {
    ("POST", f"{T}/deliveries"): Access(
        roles={Role.PRODUCER}, body={"event_type": "a.b", "destination": "orders", "payload": 1}
    ),
    ("GET", f"{T}/deliveries/{{id}}"): Access(roles=READ | {Role.PRODUCER}, id="dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB"),
    ("GET", f"{T}/attempts"): Access(roles=READ),
    ("GET", f"{T}/destinations"): Access(roles=READ),
    ("PUT", f"{T}/destinations/{{id}}"): Access(
        roles={Role.ADMIN}, body={"url": "https://example.com/in", "credential": "key"}
    ),
    ("GET", f"{T}/destinations/{{id}}"): Access(roles=READ),
    ("DELETE", f"{T}/destinations/{{id}}"): Access(roles={Role.ADMIN}, id="nothing"),
    ("POST", f"{T}/destinations/{{id}}/enable"): Access(roles=KEEP),
    ("POST", f"{T}/destinations/{{id}}/disable"): Access(roles=KEEP, body={"reason": "for a test"}),
    ("POST", f"{T}/destinations/{{id}}/test"): Access(roles=KEEP, id="nothing"),
    ("GET", f"{T}/credentials"): Access(roles=READ),
    ("PUT", f"{T}/credentials/{{id}}"): Access(
        roles={Role.ADMIN}, body={"secret_ref": "k8s://webhooks/signing-key/signing"}, id="another"
    ),
    ("GET", f"{T}/credentials/{{id}}"): Access(roles=READ, id="key"),
    ("DELETE", f"{T}/credentials/{{id}}"): Access(roles={Role.ADMIN}, id="nothing"),
    ("POST", f"{T}/credentials/{{id}}/check"): Access(roles=KEEP, id="nothing"),
    ("POST", f"{T}/replays"): Access(roles=KEEP, body={"dry_run": True}),
    ("GET", f"{T}/replays"): Access(roles=READ),
    ("GET", f"{T}/replays/{{id}}"): Access(roles=READ, id="rpl-01jde3v7q0m8z5t2r4x6y8w0ab"),
    ("DELETE", f"{T}/replays/{{id}}"): Access(roles=KEEP, id="rpl-01jde3v7q0m8z5t2r4x6y8w0ab"),
    ("GET", "/healthz"): Access(roles=None),
    ("GET", "/readyz"): Access(roles=None),
    ("GET", "/metrics"): Access(roles=None),
    ("GET", "/openapi.json"): Access(roles=None),
    ("GET", "/docs"): Access(roles=None),
    ("GET", "/docs/style.css"): Access(roles=None),
}


def routes_of_app() -> set[tuple[str, str]]:
    """Method and path of each route that the application has."""
    parts: Any = type("NoParts", (), {"limits": BodyLimits(body_bytes=1)})()
    endpoints: list[tuple[str, Any]] = [
        (one.path, one.endpoint) for one in create_app(parts).routes if isinstance(one, Route)
    ]
    return {(method, path) for path, endpoint in endpoints for method in endpoint.handlers}


def operation_of(method: str, path: str) -> ApiOperation:
    """The operation at a route."""
    return next(one for one in OPERATIONS if (one.method, one.path) == (method, path))


def place(path: str, access: Access, tenant: str) -> str:
    """A route's path, filled in."""
    return path.replace("{tenant}", tenant).replace("{id}", access.id)
