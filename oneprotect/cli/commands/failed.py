"""`oneprotect failed`: deliveries that failed or were skipped, and are retained for a replay."""

from typing import Annotated

import typer

from oneprotect.cli.commands.replay import Codes, Deliveries, EventTypes, Outcomes, build_filter, filter_outcomes
from oneprotect.cli.support.context import run_connected
from oneprotect.cli.support.options import (
    AsJson,
    Before,
    Limit,
    OneDestination,
    Since,
    Tenant,
    Until,
    command_group,
    examples,
)
from schemas import validation

app = command_group(
    "List and show deliveries that failed or were skipped. They are retained for 30 days, for a replay."
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
        bool, typer.Option("--open", help="Only deliveries without a later attempt or request: those a replay sends.")
    ] = False,
    limit: Limit = 50,
    before: Before = None,
    as_json: AsJson = False,
) -> None:
    """List retained deliveries, newest first."""
    from oneprotect.cli.views.failed import list_retained

    validation.name(tenant, "--tenant")
    chosen = build_filter(destination, since, until, codes, event_types, deliveries, filter_outcomes(outcomes))
    run_connected(
        lambda jetstream: list_retained(
            jetstream.connection, tenant, chosen, only_open=is_open, limit=limit, before=before, as_json=as_json
        )
    )


@app.command(
    epilog=examples(
        "oneprotect failed show dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB --tenant acme",
        "oneprotect failed show order-7 --tenant acme --destination orders --payload --json",
    )
)
def show(
    delivery: Annotated[str, typer.Argument(metavar="ID", help="Delivery id.")],
    *,
    tenant: Tenant,
    destination: OneDestination = None,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the payload. It is the tenant's data, and may be confidential.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a retained delivery.

    The output has its request, its attempts, and the reason of its failure.
    """
    from oneprotect.cli.views.failed import show_retained

    validation.name(tenant, "--tenant")
    validation.delivery_id(delivery, "ID")
    chosen = build_filter(destination, None, None, None, None, [delivery])
    run_connected(
        lambda jetstream: show_retained(jetstream.connection, tenant, chosen, with_payload=payload, as_json=as_json)
    )
