"""Signing in with a token, and out."""

from typing import Final

from oneprotect.api.auth.principal import Principal
from oneprotect.api.operations.operation import READERS
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.request import (
    COOKIE,
    SECURE_COOKIE,
    PageRequest,
    PageResponse,
    redirect,
    require_same_origin,
)

HOME: Final = "/console/integrations"
_LONGEST: Final = 256


async def show(visit: PageRequest) -> PageResponse:
    """The form."""
    return visit.page("sign_in.html", next=_next(visit.request.query_params.get("next")), problem=None)


async def sign_in(visit: PageRequest) -> PageResponse:
    """Open a session for whoever shows a good token that may look."""
    require_same_origin(visit.request)
    fields = await visit.read_form()
    going_to = _next(fields.get("next"))
    try:
        principal = await _identify(visit, fields.get("token", "").strip()[:_LONGEST])
    except Problem as error:
        if error.status >= 500:
            raise
        return visit.page(
            "sign_in.html", status=error.status, headers=error.headers, next=going_to, problem=error.detail
        )
    session = await visit.parts.sessions.open(principal)
    return redirect(going_to, headers={"set-cookie": _cookie(visit, session.cookie)})


async def sign_out(visit: PageRequest) -> PageResponse:
    """End the session."""
    await visit.form()
    if visit.session is not None:
        await visit.parts.sessions.close(visit.session)
    return redirect("/console/sign-in", headers={"set-cookie": f"{_cookie(visit, '')}; Max-Age=0"})


async def _identify(visit: PageRequest, token: str) -> Principal:
    """Whose token it is, if it may look. Raises `Problem`."""
    principal = await visit.parts.api.authenticator.identify(token, visit.address)
    if not principal.id.startswith("token:"):
        raise Problem(403, "forbidden", "Sign in with a token of ours: `oneprotect token create` makes one.")
    if not principal.has_any(READERS):
        raise Problem(403, "forbidden", "This token can only publish. Looking takes a viewer, an admin or an operator.")
    return principal


def _cookie(visit: PageRequest, value: str) -> str:
    name = f"{SECURE_COOKIE}={value}; Secure" if visit.is_secure else f"{COOKIE}={value}"
    return f"{name}; Path=/; HttpOnly; SameSite=Strict"


def _next(asked: str | None) -> str:
    """Where to go afterwards: a page of the console, whatever the address says."""
    text = asked or ""
    safe = (
        text.startswith("/console/") and text.isascii() and text.isprintable() and "\\" not in text and ".." not in text
    )
    return text if safe and len(text) < 1024 else HOME
