"""Sign in with a token, and sign out."""

from typing import Final

from oneprotect.api.auth.principal import Principal
from oneprotect.api.operations.operation import READERS
from oneprotect.api.web.problems import Problem
from oneprotect.console.web.forms import read_form, require_same_origin
from oneprotect.console.web.request import COOKIE, SECURE_COOKIE, PageRequest, PageResponse, redirect

HOME: Final = "/console/integrations"
_MAX_TOKEN: Final = 256


async def show(request: PageRequest) -> PageResponse:
    """Show the form."""
    return request.render("sign_in.html", next=_safe_path(request.http.query_params.get("next")), problem=None)


async def sign_in(request: PageRequest) -> PageResponse:
    """Open a session for a valid token with a role that may read."""
    require_same_origin(request.http)
    fields = await read_form(request)
    target = _safe_path(fields.get("next"))
    try:
        principal = await _identify(request, fields.get("token", "").strip()[:_MAX_TOKEN])
    except Problem as error:
        if error.status >= 500:
            raise
        return request.render(
            "sign_in.html", status=error.status, headers=error.headers, next=target, problem=error.detail
        )
    session = await request.console.sessions.open(principal)
    return redirect(target, headers={"set-cookie": _cookie(request, session.cookie)})


async def sign_out(request: PageRequest) -> PageResponse:
    """Close the session."""
    await request.form()
    if request.session is not None:
        await request.console.sessions.close(request.session)
    return redirect("/console/sign-in", headers={"set-cookie": f"{_cookie(request, '')}; Max-Age=0"})


async def _identify(request: PageRequest, token: str) -> Principal:
    principal = await request.parts.authenticator.identify(token, request.address)
    if not principal.id.startswith("token:"):
        raise Problem(403, "forbidden", "JWTs cannot sign in. Use a token from `oneprotect token create`.")
    if not principal.has_any(READERS):
        raise Problem(403, "forbidden", "This token can only publish. Use one with the role viewer, operator or admin.")
    return principal


def _cookie(request: PageRequest, value: str) -> str:
    name = f"{SECURE_COOKIE}={value}; Secure" if request.is_secure else f"{COOKIE}={value}"
    return f"{name}; Path=/; HttpOnly; SameSite=Strict"


def _safe_path(path: str | None) -> str:
    """Return the path if it is a page of the console, or else the start page."""
    text = path or ""
    is_safe = (
        text.startswith("/console/") and text.isascii() and text.isprintable() and "\\" not in text and ".." not in text
    )
    return text if is_safe and len(text) < 1024 else HOME
