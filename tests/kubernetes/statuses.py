"""Statuses and answers of an API server: compact JSON with a line feed."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web


def answered(document: Mapping[str, Any], status: int = 200, **headers: str) -> web.Response:
    """Return a document as a response."""
    return web.Response(
        body=json.dumps(document, separators=(",", ":")).encode() + b"\n",
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-cache, private", **headers},
    )


def failure(
    code: int, reason: str, message: str, details: Mapping[str, Any] | None = None, **headers: str
) -> web.Response:
    """A refusal."""
    return answered(status(code, reason, message, details), code, **headers)


def status(code: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The `CheckStatus` object of a refusal."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        **({} if details is None else {"details": dict(details)}),
        "code": code,
    }


def unauthorized() -> dict[str, Any]:
    """Return the response to an unknown token."""
    return status(401, "Unauthorized", "Unauthorized")


def not_found(resource: str, name: str) -> dict[str, Any]:
    """To who may see it, if it were there."""
    return status(404, "NotFound", f'{resource} "{name}" not found', {"name": name, "kind": resource})


def forbidden(
    user: str, verb: str, resource: str, *, group: str = "", namespace: str = "", name: str = "", subresource: str = ""
) -> dict[str, Any]:
    """To who may not, whether it is there or not."""
    kind = f"{resource}.{group}" if group else resource
    what = f"{resource}/{subresource}" if subresource else resource
    scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f"{kind} {json.dumps(name)} is" if name else f"{kind} is"
    ) + f' forbidden: User "{user}" cannot {verb} resource "{what}" in API group "{group}" {scope}'
    details = {**({"name": name} if name else {}), **({"group": group} if group else {}), "kind": resource}
    return status(403, "Forbidden", message, details)
