"""`oneprotect destination`: the URLs that receive a tenant's deliveries."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.context import current_user, run_connected
from oneprotect.cli.support.errors import BadUsage
from oneprotect.cli.support.options import AsJson, Tenant, command_group, examples
from oneprotect.cli.support.output import write_json, write_result, write_table, write_view
from oneprotect.cli.support.parsing import parse_headers

if TYPE_CHECKING:
    from schemas.configuration import DestinationView

app = command_group(
    "Manage the URLs that receive a tenant's deliveries, the credential that signs them, and their limits."
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Destination id, for example orders.")]
Url = Annotated[
    str, typer.Option("--url", metavar="URL", help="URL to call. http:// requires ONEPROTECT_EGRESS_ALLOW_HTTP.")
]
CredentialId = Annotated[str, typer.Option("--credential", metavar="ID", help="Credential that signs deliveries.")]
EventTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--event-type", metavar="TYPE", help="Subscribe to invoice.paid, invoice.*, or *. Repeatable. Default: none."
    ),
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header", metavar="'NAME: VALUE'", help="Header of each request. Readers see no values. Repeatable."
    ),
]
TimeoutS = Annotated[
    float | None,
    typer.Option(
        "--timeout-s",
        metavar="SECONDS",
        help="Time limit of an attempt, at most 30. Default: ONEPROTECT_REQUEST_TIMEOUT_S.",
    ),
]
MaxInFlight = Annotated[
    int | None,
    typer.Option(
        "--max-in-flight",
        metavar="N",
        help="Concurrent attempts per consumer. Default: ONEPROTECT_DESTINATION_MAX_IN_FLIGHT.",
    ),
]
RatePerS = Annotated[
    float | None,
    typer.Option("--rate-per-s", metavar="N", help="Attempts per second, over all consumers. Default: no limit."),
]
RetrySchedule = Annotated[
    str | None,
    typer.Option(
        "--retry-schedule-s",
        metavar="S,S,...",
        help="Seconds before each further attempt, '' for no retries. Default: ONEPROTECT_RETRY_SCHEDULE_S.",
    ),
]
Ordering = Annotated[
    str,
    typer.Option(
        "--ordering",
        metavar="any|fifo",
        help="fifo: one delivery at a time, in the order of publishing. A failing delivery blocks the later ones.",
    ),
]
CaptureResponse = Annotated[
    bool, typer.Option("--capture-response", help="Store the first 1 KiB of responses in results, redacted.")
]
ForwardTrace = Annotated[bool, typer.Option("--forward-trace", help="Send the producer's traceparent header.")]
Description = Annotated[str, typer.Option("--description", metavar="TEXT", help="Description for people.")]


@app.command(
    name="set",
    epilog=examples(
        "oneprotect destination set orders --tenant acme --url https://acme.com/hook --credential orders-key",
        "oneprotect destination set orders --tenant acme --url https://acme.com/hook --credential orders-key \\",
        "      --event-type 'invoice.*' --header 'x-team: billing' --retry-schedule-s 5,60,600",
    ),
)
def set_(
    destination: Id,
    *,
    tenant: Tenant,
    url: Url,
    credential: CredentialId,
    event_types: EventTypes = None,
    headers: Headers = None,
    timeout_s: TimeoutS = None,
    max_in_flight: MaxInFlight = None,
    rate_per_s: RatePerS = None,
    retry_schedule_s: RetrySchedule = None,
    ordering: Ordering = "any",
    capture_response: CaptureResponse = False,
    forward_trace: ForwardTrace = False,
    description: Description = "",
    as_json: AsJson = False,
) -> None:
    """Create a destination, or replace all fields of an existing one. It stays enabled or disabled."""
    fields: dict[str, object] = {
        "url": url,
        "credential": credential,
        "event_types": tuple(event_types or ()),
        "headers": _parse_headers(headers or []),
        "timeout_s": timeout_s,
        "max_in_flight": max_in_flight,
        "rate_per_s": rate_per_s,
        "retry_schedule_s": _parse_schedule(retry_schedule_s),
        "ordering": ordering,
        "capture_response": capture_response,
        "forward_trace": forward_trace,
        "description": description,
    }
    view = run_connected(
        lambda jetstream: jetstream.configuration.set_destination(tenant, destination, fields, by=current_user())
    )
    _write_change(view, "set", as_json=as_json)


@app.command(epilog=examples("oneprotect destination get orders --tenant acme --json"))
def get(destination: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a destination."""
    view = run_connected(lambda jetstream: jetstream.configuration.get_destination(tenant, destination))
    write_view(view, as_json=as_json, headers=tuple(f"{name}: {value}" for name, value in view.headers.items()))


@app.command(name="list", epilog=examples("oneprotect destination list --tenant acme"))
def list_(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's destinations."""
    views = run_connected(lambda jetstream: jetstream.configuration.list_destinations(tenant))
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "url", "credential", "event types", "ordering", "enabled", "description"),
        [
            (view.id, view.url, view.credential, view.event_types, view.ordering, _state(view), view.description)
            for view in views
        ],
        empty="The tenant has no destinations; create one with `oneprotect destination set`.",
    )


@app.command(epilog=examples("oneprotect destination enable orders --tenant acme"))
def enable(destination: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Enable a destination. Send deliveries that were skipped in the meantime with `oneprotect replay`."""
    view = run_connected(
        lambda jetstream: jetstream.configuration.enable_destination(tenant, destination, by=current_user())
    )
    _write_change(view, "enabled", as_json=as_json)


@app.command(epilog=examples("oneprotect destination disable orders --tenant acme --reason 'maintenance on Monday'"))
def disable(
    destination: Id,
    *,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Reason, for people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Disable a destination. Its deliveries are skipped and retained for a replay."""
    view = run_connected(
        lambda jetstream: jetstream.configuration.disable_destination(
            tenant, destination, by=current_user(), reason=reason
        )
    )
    _write_change(view, "disabled", as_json=as_json)


@app.command(epilog=examples("oneprotect destination delete orders --tenant acme"))
def delete(destination: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Delete a destination. Its pending deliveries fail with destination.not_found, and are retained for a replay."""
    run_connected(lambda jetstream: jetstream.configuration.delete_destination(tenant, destination, by=current_user()))
    result = {"id": destination, "tenant": tenant, "deleted": True}
    write_result(result, f"Destination {tenant}/{destination} is deleted.", as_json=as_json)


def _write_change(view: "DestinationView", state: str, *, as_json: bool) -> None:
    write_result(view, f"Destination {view.tenant}/{view.id} is {state}.", as_json=as_json)


def _state(view: "DestinationView") -> str:
    return "yes" if view.enabled else f"no: {view.disabled_reason or 'no reason given'}"


def _parse_headers(lines: list[str]) -> dict[str, str]:
    pairs = parse_headers(lines, "--header")
    if len(dict(pairs)) < len(pairs):
        raise BadUsage("--header: duplicate name; give each header once")
    return dict(pairs)


def _parse_schedule(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        pass
    raise BadUsage("--retry-schedule-s: expected comma-separated seconds without spaces, for example 5,60,600")
