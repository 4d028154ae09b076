"""`oneprotect tenant`: the use of quotas by a tenant, and its removal with everything that belongs to it."""

import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.context import current_user, load_settings, run_connected
from oneprotect.cli.support.options import AsJson, command_group, examples
from oneprotect.cli.support.output import confirm, print_notice, write_json, write_line, write_table
from schemas import validation

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.configuration.tenant_removal import TenantRemoval, TenantRemovalProgress

STILL_TO_DO: Final = (
    "remove the tenant's account or user from the NATS servers' configuration",
    "delete the tenant's Kubernetes Secrets, and their names in the chart's values",
    "remove the tenant from the token issuer, if its users sign in with OpenID Connect",
    "delete backups that contain the tenant when their time has come",
)

app = command_group("Show the use of quotas by a tenant, or remove a tenant.")

TenantName = Annotated[str, typer.Argument(metavar="TENANT", help="Tenant, for example acme.")]
Yes = Annotated[bool, typer.Option("--yes", help="Delete. Without it, the command shows what it would delete.")]


@app.command(epilog=examples("oneprotect tenant delete acme", "oneprotect tenant delete acme --yes --json"))
def delete(tenant: TenantName, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete everything of a tenant: its configuration, tokens, deliveries, results and events.

    Without --yes nothing is deleted; on a terminal the command asks. The API refuses the tenant's requests at once.
    The command ends when no consumer handles a delivery of the tenant any more, and nothing of it is left. If it is
    interrupted, the tenant stays closed: run it again. One audit event of the removal stays.
    """
    from oneprotect.configuration.tenant_removal import TenantRemoval

    validation.name(tenant, "TENANT")

    async def work(jetstream: "JetStream") -> None:
        connection, publisher = jetstream.connection, jetstream.publisher
        removal = TenantRemoval(connection, publisher, jetstream.replayer, jetstream.removals)
        found = await removal.count(tenant)
        if not as_json:
            write_table(
                ("stream or bucket", "messages"), sorted(found.items()), empty="There is nothing of this tenant."
            )
        can_ask = not as_json and sys.stdin.isatty()
        if yes or (can_ask and confirm("Delete all of this? It cannot be undone.")):
            await _remove(removal, tenant, as_json=as_json)
        elif as_json:
            write_json({"tenant": tenant, "removed": False, "found": found})
        else:
            print_notice("nothing was deleted; repeat the command with --yes")

    run_connected(work)


@app.command(epilog=examples("oneprotect tenant usage acme", "oneprotect tenant usage acme --json"))
def usage(tenant: TenantName, *, as_json: AsJson = False) -> None:
    """Show what a tenant has of each quota, and the bytes that it stores.

    The bytes are counted now, from the sizes of all failed and archived deliveries, before compression.
    """
    from messaging.stored_bytes import read_stored_bytes
    from schemas import streams

    validation.name(tenant, "TENANT")
    settings = load_settings()

    async def work(jetstream: "JetStream") -> list[tuple[str, int, int | None]]:
        rows: list[tuple[str, int, int | None]] = []
        for quota in jetstream.quotas:
            rows.append((quota.name, await quota.count(tenant), quota.limit))
        limits = ((streams.FAILED, "failed", settings.tenant.max_failed_bytes), (streams.DELIVERED, "archived", None))
        for stream, kind, limit in limits:
            stored = await read_stored_bytes(jetstream.connection, stream.name)
            rows.append((f"bytes of {kind} deliveries", stored.get(tenant, 0), limit))
        return rows

    found = run_connected(work, settings)
    if as_json:
        write_json([{"quota": quota, "used": used, "limit": limit} for quota, used, limit in found])
        return
    write_table(("quota", "used", "limit"), found, empty="")


async def _remove(removal: "TenantRemoval", tenant: str, *, as_json: bool) -> None:
    def show(progress: "TenantRemovalProgress") -> None:
        if not as_json:
            print_notice(f"deleted {sum(progress.deleted.values())}; deliveries in hand: {progress.in_hand}")

    deleted = await removal.run(tenant, by=current_user(), on_pass=show)
    if as_json:
        write_json({"tenant": tenant, "removed": True, "deleted": deleted, "to_do": STILL_TO_DO})
        return
    write_table(("stream or bucket", "deleted"), sorted(deleted.items()), empty="There was nothing to delete.")
    write_line("Nothing of the tenant is left in NATS, except the audit event. Still to do:")
    for step in STILL_TO_DO:
        write_line(f"- {step}")
