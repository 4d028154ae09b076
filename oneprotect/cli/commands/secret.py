"""`oneprotect secret`: tries out whether a ref leads to a secret that can sign, and lets consumers read them anew.

The secrets themselves are never shown.
"""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.errors import BadUsage, CliError
from oneprotect.cli.support.options import AsJson, Tenant, examples
from schemas.codes import Code
from schemas.control_messages import RefreshReply, RefreshSecrets
from schemas.ids import Purpose

if TYPE_CHECKING:
    from messaging.client.connection import IncomingMessage, NatsConnection
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.configuration.service import ConfigurationService
    from oneprotect.settings.settings import Settings
    from provider.errors import SecretError
    from provider.signing_secret import SigningSecret

FIRST_ANSWER_S: Final = 2.0
"""How long the first consumer may take to answer. Where none listens, the server says so at once."""
QUIET_S: Final = 1.0
"""How many there are, nobody knows: after such a silence all have answered."""

NOBODY: Final = "no consumer answered, so none is running or none can be reached; start one with `oneprotect consumer`"

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
    from oneprotect.cli.support.output import write_fields, write_json

    found = _resolve(ref, tenant, purpose)
    if as_json:
        write_json(found)
    else:
        write_fields(found.items())


@app.command(
    epilog=examples(
        "oneprotect secret refresh --tenant acme --credential orders-key", "oneprotect secret refresh --all --json"
    )
)
def refresh(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's, for example acme.")
    ] = None,
    credential: Annotated[
        str | None, typer.Option("--credential", metavar="ID", help="Only that of this credential of the tenant.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everybody's.")] = False,
    as_json: AsJson = False,
) -> None:
    """Let every consumer forget secrets now, so that the next delivery reads them anew.

    For after a rotation, or to revoke a key at once. Left alone, consumers read a secret again after
    ONEPROTECT_SECRET_CACHE_TTL_S, and may sign with an old one while Kubernetes can't be asked; what they were told to
    forget they don't sign with any more. `credential check` then says how the Secret is.
    """
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_table

    asked = _refresh(tenant, credential, everything=everything)

    async def work(jetstream: "JetStream", _: "Settings") -> list[RefreshReply]:
        await _require_credential(jetstream.configuration, asked)
        return await _answers(jetstream.connection, asked)

    answers = connected(work)
    if not answers:
        raise CliError(NOBODY)
    if as_json:
        write_json({"workers": answers})
        return
    rows = [(answer.worker, "all" if answer.forgotten is None else answer.forgotten) for answer in answers]
    write_table(("worker", "secrets forgotten"), rows, empty=NOBODY)


def _refresh(tenant: str | None, credential: str | None, *, everything: bool) -> RefreshSecrets:
    from schemas import validation

    if everything and (tenant or credential):
        raise BadUsage("--all: it is everybody's; leave out --tenant and --credential, or leave out --all")
    if credential and not tenant:
        raise BadUsage("--credential: it needs its --tenant")
    if not tenant and not everything:
        raise BadUsage("--tenant: say whose secrets, or --all for everybody's")
    return RefreshSecrets(
        tenant=tenant and validation.name(tenant, "--tenant"),
        credential=credential and validation.name(credential, "--credential"),
    )


async def _require_credential(configuration: "ConfigurationService", asked: RefreshSecrets) -> None:
    """A slip of the finger must not pass for a revoked key. Raises `NotFoundError` or `CliError`."""
    if asked.tenant and asked.credential:
        await configuration.get_credential(asked.tenant, asked.credential)
    elif asked.tenant and not await configuration.list_credentials(asked.tenant):
        raise CliError("the tenant has no credentials; see `oneprotect credential set --help`")


async def _answers(connection: "NatsConnection", asked: RefreshSecrets) -> list[RefreshReply]:
    """Ask all consumers, and return what they say, sorted by worker. Raises `NotAllowed`."""
    import asyncio
    import contextlib

    import msgspec

    from schemas import subjects

    coming: asyncio.Queue[RefreshReply | None] = asyncio.Queue()

    async def receive(incoming: "IncomingMessage") -> None:
        if "Status" in (incoming.headers or {}):  # nobody listens
            coming.put_nowait(None)
            return
        with contextlib.suppress(msgspec.DecodeError):  # from another version of this program
            coming.put_nowait(msgspec.json.decode(incoming.data, type=RefreshReply))

    inbox = connection.new_inbox()
    await connection.subscribe(inbox, receive)
    answers: list[RefreshReply] = []
    async with connection.denials.unless(subjects.REFRESH):
        await connection.publish(subjects.REFRESH, msgspec.json.encode(asked), reply=inbox)
        with contextlib.suppress(TimeoutError):
            while answer := await asyncio.wait_for(coming.get(), QUIET_S if answers else FIRST_ANSWER_S):
                answers.append(answer)
    return sorted(answers, key=lambda answer: answer.worker)


def _resolve(ref: str, tenant: str, purpose: Purpose) -> dict[str, object]:
    from oneprotect.bootstrap.process_hardening import harden_process
    from oneprotect.bootstrap.resources import open_provider
    from oneprotect.cli.support.context import load_settings, run
    from oneprotect.settings.settings import Settings
    from provider.errors import SecretError
    from provider.secret_ref import SecretRef
    from schemas import validation

    async def main(settings: Settings) -> dict[str, object]:
        parsed = SecretRef.parse(ref, central_namespace=settings.secret.namespace)
        provider = await open_provider(settings)
        try:
            secret = await provider.resolve(parsed, tenant=tenant, purpose=purpose)
        finally:
            await provider.aclose()
        return _metadata(secret) | {"provider": settings.secret.provider, "tenant": tenant, "purpose": purpose}

    validation.name(tenant, "tenant")
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

    is_rolling = secret.is_previous_valid(datetime.now(UTC))
    return {
        "version": secret.version,
        "signs_with": ("current", "previous") if is_rolling else ("current",),
        "rollover_expires_at": secret.previous_expires_at if is_rolling else None,
        "rollover_misconfigured": secret.rollover_misconfigured,
    }


def _failure(error: "SecretError") -> CliError:
    return CliError(f"{error.code.value}: {MENDING[error.code]}", fields={"code": error.code.value})
