"""Options that several commands share, and the examples in a command's help."""

from typing import Annotated

import typer

Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Tenant, for example acme.")]
AnyTenant = Annotated[
    str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant. Default: all tenants.")
]
OneDestination = Annotated[
    str | None,
    typer.Option("--destination", metavar="ID", help="Only this destination of the tenant. Default: all destinations."),
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only from this time on: 2026-11-23T20:00:00Z, or an age: 90s, 15m, 2h, 3d, 1w."
    ),
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="TIME", help="Only before this time, in the formats of --since.")
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000, help="Maximum number of rows.")]
Before = Annotated[
    int | None,
    typer.Option("--before", min=1, metavar="N", help="Continue a list: the number that the previous page ended with."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation. Without a terminal, nothing asks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout, and errors as JSON to stderr.")]


def command_group(summary: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(help=summary, no_args_is_help=True, rich_markup_mode=None)


def examples(*lines: str) -> str:
    """Return the epilog of a command's help."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
