"""`oneprotect secret`: tries out whether a ref leads to a secret that can sign. The secret itself is never shown."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.failure import Failure
from oneprotect.cli.options import AsJson, Tenant, examples
from schemas.codes import Code
from schemas.ids import Purpose

if TYPE_CHECKING:
    from provider.errors import SecretError
    from provider.value import SigningSecret

app = typer.Typer(
    help="Signing secrets, where they are kept. Their values are never shown.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

MENDING: Final = {
    Code.SECRET_REF_INVALID: (
        "a ref is k8s://NAMESPACE/SECRET/KEY, or k8s://SECRET/KEY with ONEPROTECT_SECRET_NAMESPACE set; "
        "it names a key in a Secret, and is not the secret itself"
    ),
    Code.SECRET_REF_FORBIDDEN: (
        "this namespace may not be read; if it should, add it to ONEPROTECT_SECRET_NAMESPACES_ALLOWED"
    ),
    Code.SECRET_MISMATCH: (
        "its owner has not consented: label the Secret oneprotect.io/tenant and oneprotect.io/purpose, with these two"
    ),
    Code.SECRET_NOT_FOUND: (
        "there is no such Secret, or no such key in it; create it (the local provider reads DIR/NAMESPACE/SECRET.json)"
    ),
    Code.SECRET_MALFORMED: (
        "no key in it can sign: store 24 to 64 bytes, raw or as whsec_ and base64, and no line end behind them"
    ),
    Code.SECRET_DENIED: (
        "this identity may not read it; grant `get` on the Secret by name, with a Role and a RoleBinding"
    ),
    Code.SECRET_UNAVAILABLE: "the provider can't be asked just now; see that it answers, then try again",
}


@app.callback()
def root() -> None:
    """Signing secrets, where they are kept. Their values are never shown."""


@app.command(epilog=examples("oneprotect secret check k8s://webhooks/acme-orders/signing --tenant acme"))
def check(
    ref: Annotated[str, typer.Argument(metavar="REF", help="k8s://NAMESPACE/SECRET/KEY. Never the secret itself.")],
    *,
    tenant: Tenant,
    purpose: Annotated[Purpose, typer.Option("--purpose", help="What it is for.")] = Purpose.WEBHOOK_SIGNING,
    as_json: AsJson = False,
) -> None:
    """Resolve a secret with the configured provider, as a consumer does, and print what is not secret about it."""
    from oneprotect.cli.output import write_fields, write_json

    found = _resolve(ref, tenant, purpose)
    if as_json:
        write_json(found)
    else:
        write_fields(found.items())


def _resolve(ref: str, tenant: str, purpose: Purpose) -> dict[str, object]:
    from oneprotect.cli.session import load_settings, run
    from oneprotect.settings import Settings
    from oneprotect.telemetry.hardening import harden_process
    from oneprotect.wiring import open_provider
    from provider.errors import SecretError
    from provider.ref import SecretRef
    from schemas import checked

    async def main(settings: Settings) -> dict[str, object]:
        parsed = SecretRef.parse(ref, central_namespace=settings.secret.namespace)
        provider = await open_provider(settings)
        try:
            secret = await provider.resolve(parsed, tenant=tenant, purpose=purpose)
        finally:
            await provider.aclose()
        return _metadata(secret) | {"provider": settings.secret.provider, "tenant": tenant, "purpose": purpose}

    checked.name(tenant, "tenant")
    settings = load_settings()
    settings.require_provider()
    harden_process()
    try:
        return run(main(settings))
    except SecretError as error:
        problem = _failure(error)
    raise problem


def _metadata(secret: "SigningSecret") -> dict[str, object]:
    from datetime import UTC, datetime

    is_rolling = secret.previous_is_valid(datetime.now(UTC))
    return {
        "version": secret.version,
        "signs_with": ("current", "previous") if is_rolling else ("current",),
        "rollover_expires_at": secret.previous_expires_at if is_rolling else None,
        "rollover_misconfigured": secret.rollover_misconfigured,
    }


def _failure(error: "SecretError") -> Failure:
    return Failure(f"{error.code.value}: {MENDING[error.code]}", fields={"code": error.code.value})
