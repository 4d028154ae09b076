"""`oneprotect destination`: where a tenant's deliveries go."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.errors import BadUsage
from oneprotect.cli.support.options import AsJson, Tenant, examples

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.cli.support.context import Work
    from oneprotect.settings.settings import Settings
    from schemas.configuration import DestinationView

app = typer.Typer(
    help="Where a tenant's deliveries go: a URL, the credential that signs them, and a policy.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The destination's id, for example orders.")]


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
    url: Annotated[str, typer.Option("--url", metavar="URL", help="What to call; https, unless settings allow http.")],
    credential: Annotated[str, typer.Option("--credential", metavar="ID", help="The credential that signs.")],
    event_types: Annotated[
        list[str] | None,
        typer.Option("--event-type", metavar="TYPE", help="Subscribed to: invoice.paid, invoice.* or *. Repeatable."),
    ] = None,
    headers: Annotated[
        list[str] | None,
        typer.Option(
            "--header", metavar="'NAME: VALUE'", help="Sent along. Kept as configuration: no place for secrets."
        ),
    ] = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout-s", help="Seconds for one attempt, at most 30.")] = None,
    max_in_flight: Annotated[
        int | None, typer.Option("--max-in-flight", help="Attempts that one consumer makes to it at a time.")
    ] = None,
    rate_per_s: Annotated[float | None, typer.Option("--rate-per-s", help="Attempts a second, at most.")] = None,
    retry_schedule_s: Annotated[
        str | None,
        typer.Option("--retry-schedule-s", metavar="S,S,...", help="Seconds before each further attempt; '' for none."),
    ] = None,
    ordering: Annotated[
        str,
        typer.Option(
            "--ordering",
            metavar="any|fifo",
            help="fifo: one at a time, in the order of publishing; what fails holds up all that comes after it.",
        ),
    ] = "any",
    capture_response: Annotated[
        bool, typer.Option("--capture-response", help="Keep the first 1 KiB of answers in results, scrubbed.")
    ] = False,
    forward_trace: Annotated[
        bool, typer.Option("--forward-trace", help="Send the producer's traceparent along.")
    ] = False,
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="For people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a destination, or replace all of it. An existing one stays enabled or disabled."""
    fields: dict[str, object] = {
        "url": url,
        "credential": credential,
        "event_types": tuple(event_types or ()),
        "headers": _headers(headers or []),
        "timeout_s": timeout_s,
        "max_in_flight": max_in_flight,
        "rate_per_s": rate_per_s,
        "retry_schedule_s": _waits(retry_schedule_s),
        "ordering": ordering,
        "capture_response": capture_response,
        "forward_trace": forward_trace,
        "description": description,
    }

    async def work(jetstream: "JetStream", _: "Settings") -> "DestinationView":
        return await jetstream.configuration.set_destination(tenant, destination, fields, by=_who())

    _changed(work, "is set", as_json=as_json)


@app.command(epilog=examples("oneprotect destination get orders --tenant acme --json"))
def get(destination: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Show a destination."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_fields, write_json

    async def work(jetstream: "JetStream", _: "Settings") -> "DestinationView":
        return await jetstream.configuration.get_destination(tenant, destination)

    view = connected(work)
    if as_json:
        write_json(view)
    else:
        shown = {field: getattr(view, field) for field in view.__struct_fields__}
        shown["headers"] = tuple(f"{name}: {value}" for name, value in view.headers.items())
        write_fields(shown.items())


@app.command(name="list", epilog=examples("oneprotect destination list --tenant acme"))
def list_(*, tenant: Tenant, as_json: AsJson = False) -> None:
    """List a tenant's destinations."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_table

    async def work(jetstream: "JetStream", _: "Settings") -> "list[DestinationView]":
        return await jetstream.configuration.list_destinations(tenant)

    views = connected(work)
    if as_json:
        write_json(views)
        return
    write_table(
        ("id", "url", "credential", "event types", "ordering", "enabled", "description"),
        [
            (view.id, view.url, view.credential, view.event_types, view.ordering, _state(view), view.description)
            for view in views
        ],
        empty="The tenant has no destinations; see `oneprotect destination set --help`.",
    )


@app.command(epilog=examples("oneprotect destination enable orders --tenant acme"))
def enable(destination: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Let deliveries go to a destination again. What was kept meanwhile waits for `oneprotect replay`."""

    async def work(jetstream: "JetStream", _: "Settings") -> "DestinationView":
        return await jetstream.configuration.enable_destination(tenant, destination, by=_who())

    _changed(work, "is enabled", as_json=as_json)


@app.command(epilog=examples("oneprotect destination disable orders --tenant acme --reason 'moves house on Monday'"))
def disable(
    destination: Id,
    *,
    tenant: Tenant,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="For people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let nothing go to a destination: deliveries are kept, and can be replayed."""

    async def work(jetstream: "JetStream", _: "Settings") -> "DestinationView":
        return await jetstream.configuration.disable_destination(tenant, destination, by=_who(), reason=reason)

    _changed(work, "is disabled", as_json=as_json)


@app.command(epilog=examples("oneprotect destination delete orders --tenant acme"))
def delete(destination: Id, *, tenant: Tenant, as_json: AsJson = False) -> None:
    """Delete a destination. What is still on its way there fails, with destination.not_found, and is kept."""
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_line

    async def work(jetstream: "JetStream", _: "Settings") -> None:
        await jetstream.configuration.delete_destination(tenant, destination, by=_who())

    connected(work)
    if as_json:
        write_json({"id": destination, "tenant": tenant, "deleted": True})
    else:
        write_line(f"Destination {tenant}/{destination} is deleted.")


def _changed(work: "Work[DestinationView]", what: str, *, as_json: bool) -> None:
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_line

    view = connected(work)
    if as_json:
        write_json(view)
    else:
        write_line(f"Destination {view.tenant}/{view.id} {what}.")


def _state(view: "DestinationView") -> str:
    return "yes" if view.enabled else f"no: {view.disabled_reason or 'no reason given'}"


def _headers(lines: list[str]) -> dict[str, str]:
    from oneprotect.cli.support.parsing import read_headers

    pairs = read_headers(lines, "--header")
    if len(dict(pairs)) < len(pairs):
        raise BadUsage("--header: a header is given twice")
    return dict(pairs)


def _waits(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        pass
    raise BadUsage("--retry-schedule-s: expected seconds joined by commas, like 5,60,600")


def _who() -> str:
    from oneprotect.cli.support.context import current_user

    return current_user()
