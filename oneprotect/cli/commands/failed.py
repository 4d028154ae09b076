"""`oneprotect failed`: deliveries that were given up on or skipped, and are kept to be replayed."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.commands.replay import Codes, Deliveries, EventTypes, Outcomes, filter_of, outcomes_of
from oneprotect.cli.support.options import AsJson, Before, Limit, OneDestination, Since, Tenant, Until, examples

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings

app = typer.Typer(
    help="Deliveries that were given up on or skipped. They are kept for thirty days, and can be replayed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(
    name="list",
    epilog=examples(
        "oneprotect failed list --tenant acme --destination orders --since 1d",
        "oneprotect failed list --tenant acme --code http.5xx --open --limit 20",
    ),
)
def list_(
    *,
    tenant: Tenant,
    destination: OneDestination = None,
    since: Since = None,
    until: Until = None,
    codes: Codes = None,
    event_types: EventTypes = None,
    deliveries: Deliveries = None,
    outcomes: Outcomes = None,
    is_open: Annotated[
        bool, typer.Option("--open", help="Only what a replay would take: not attempted or asked for again since.")
    ] = False,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List kept deliveries, the newest first."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.views.failed import list_kept
    from schemas import validation

    validation.name(tenant, "--tenant")
    chosen = filter_of(destination, since, until, codes, event_types, deliveries, outcomes_of(outcomes))

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        await list_kept(
            jetstream.connection, tenant, chosen, only_open=is_open, limit=limit, before=before, as_json=as_json
        )

    connected(work)


@app.command(
    epilog=examples(
        "oneprotect failed show dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB --tenant acme",
        "oneprotect failed show order-7 --tenant acme --destination orders --payload --json",
    )
)
def show(
    delivery: Annotated[str, typer.Argument(metavar="ID", help="The delivery's id.")],
    *,
    tenant: Tenant,
    destination: OneDestination = None,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the payload, too. It is the tenant's, and may be confidential.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was asked for, how each attempt went, and why it was given up on."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.views.failed import show_kept
    from schemas import validation

    validation.name(tenant, "--tenant")
    validation.delivery_id(delivery, "ID")
    chosen = filter_of(destination, None, None, None, None, [delivery])

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        await show_kept(jetstream.connection, tenant, chosen, with_payload=payload, as_json=as_json)

    connected(work)
