"""`oneprotect secret`: tests of secret refs, and refreshes of cached secrets. Secrets are never shown."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.context import load_settings, run_async, run_connected
from oneprotect.cli.support.errors import BadUsage, CliError
from oneprotect.cli.support.options import AsJson, Tenant, command_group, examples
from oneprotect.cli.support.output import write_fields, write_json, write_table
from oneprotect.doctor.remedies import REMEDY_BY_CODE
from schemas import subjects, validation
from schemas.control_messages import RefreshReply, RefreshSecrets
from schemas.ids import Purpose

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.configuration.service import ConfigurationService
    from oneprotect.settings.settings import Settings
    from provider.signing_secret import SigningSecret

NO_REPLY: Final = "no consumer replied; start one with `oneprotect consumer`, or check its connection to NATS"

app = command_group("Check a secret ref, or refresh the secrets that consumers cache. Secrets are never shown.")


@app.command(epilog=examples("oneprotect secret check k8s://webhooks/acme-orders/signing --tenant acme"))
def check(
    ref: Annotated[str, typer.Argument(metavar="REF", help="k8s://NAMESPACE/SECRET/KEY. Never the secret itself.")],
    *,
    tenant: Tenant,
    purpose: Annotated[
        Purpose, typer.Option("--purpose", metavar="PURPOSE", help="Use of the secret.")
    ] = Purpose.WEBHOOK_SIGNING,
    as_json: AsJson = False,
) -> None:
    """Read a secret like a consumer, and show its metadata.

    The command uses the configured provider and its settings. It never shows the secret.
    """
    from oneprotect.bootstrap.process_hardening import harden_process
    from provider.errors import SecretError

    validation.name(tenant, "tenant")
    settings = load_settings()
    settings.require_provider()
    harden_process()
    try:
        found = run_async(_resolve(settings, ref, tenant, purpose))
    except SecretError as error:
        code = error.code
    else:
        if as_json:
            write_json(found)
        else:
            write_fields(found.items())
        return
    raise CliError(f"{code.value}: {REMEDY_BY_CODE[code]}", fields={"code": code.value})


async def _resolve(settings: "Settings", ref: str, tenant: str, purpose: Purpose) -> dict[str, object]:
    from oneprotect.bootstrap.resources import open_provider
    from provider.secret_ref import SecretRef

    parsed = SecretRef.parse(ref, central_namespace=settings.secret.namespace)
    provider = await open_provider(settings)
    try:
        secret = await provider.resolve(parsed, tenant=tenant, purpose=purpose)
    finally:
        await provider.aclose()
    return _metadata(secret) | {"provider": settings.secret.provider, "tenant": tenant, "purpose": purpose}


def _metadata(secret: "SigningSecret") -> dict[str, object]:
    is_rolling = secret.is_previous_valid(datetime.now(UTC))
    return {
        "version": secret.version,
        "signs_with": ("current", "previous") if is_rolling else ("current",),
        "rollover_expires_at": secret.previous_expires_at if is_rolling else None,
        "rollover_misconfigured": secret.rollover_misconfigured,
    }


@app.command(
    epilog=examples(
        "oneprotect secret refresh --tenant acme --credential orders-key", "oneprotect secret refresh --all --json"
    )
)
def refresh(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant, for example acme.")
    ] = None,
    credential: Annotated[
        str | None, typer.Option("--credential", metavar="ID", help="Only this credential of the tenant.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All tenants.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove secrets from the caches of all consumers.

    The next delivery reads them again. Use it after a rotation, or to revoke a key at once. Otherwise consumers read a
    secret again after ONEPROTECT_SECRET_CACHE_TTL_S, and may sign with a cached one while Kubernetes is unavailable.
    Check the result with `oneprotect credential check`.
    """
    request = _refresh_request(tenant, credential, everything=everything)

    async def work(jetstream: "JetStream") -> list[RefreshReply]:
        from consumers.credentials.control_client import ask_all

        await _require_credential(jetstream.configuration, request)
        replies = await ask_all(jetstream.connection, subjects.REFRESH, request, RefreshReply)
        return sorted(replies, key=lambda reply: reply.worker)

    replies = run_connected(work)
    if not replies:
        raise CliError(NO_REPLY)
    if as_json:
        write_json({"workers": replies})
        return
    rows = [(reply.worker, "all" if reply.forgotten is None else reply.forgotten) for reply in replies]
    write_table(("worker", "secrets removed"), rows, empty=NO_REPLY)


def _refresh_request(tenant: str | None, credential: str | None, *, everything: bool) -> RefreshSecrets:
    if everything and (tenant or credential):
        raise BadUsage("--all: conflicts with --tenant and --credential; omit --all, or both of them")
    if credential and not tenant:
        raise BadUsage("--credential: requires --tenant")
    if not tenant and not everything:
        raise BadUsage("--tenant: required, unless --all is set")
    return RefreshSecrets(
        tenant=tenant and validation.name(tenant, "--tenant"),
        credential=credential and validation.name(credential, "--credential"),
    )


async def _require_credential(configuration: "ConfigurationService", request: RefreshSecrets) -> None:
    """Raise `NotFoundError` or `CliError` for a misspelt name, which must not pass for a revoked key."""
    if request.tenant and request.credential:
        await configuration.get_credential(request.tenant, request.credential)
    elif request.tenant and not await configuration.list_credentials(request.tenant):
        raise CliError("the tenant has no credentials; see `oneprotect credential set --help`")
