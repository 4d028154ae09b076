"""Options that several commands share, and how examples are written into their help."""

from typing import Annotated

import typer

Tenant = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The tenant, for example acme.")]
AnyTenant = Annotated[
    str | None, typer.Option("--tenant", metavar="TENANT", help="Only this tenant's. Without it, everybody's.")
]
OneDestination = Annotated[
    str | None, typer.Option("--destination", metavar="ID", help="Only those to this destination of the tenant.")
]
Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From then on: 2026-11-23T20:00:00Z, or ago: 90s, 15m, 2h, 3d, 1w."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before then; written like --since.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
Before = Annotated[
    int | None, typer.Option("--before", min=1, metavar="N", help="Go on with those before it: what `next` said.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs; errors too, on stderr.")]


def examples(*lines: str) -> str:
    """The end of a command's help."""
    title = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(["\b", title, *(f"  {line}" for line in lines)])
