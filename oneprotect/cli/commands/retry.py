"""`oneprotect retry`: a delivery whose next attempt waits for its time is tried at once."""

from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson, OneDestination, Tenant

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings


def retry(
    *,
    tenant: Tenant,
    delivery: Annotated[str, typer.Option("--id", metavar="ID", help="The delivery.")],
    destination: OneDestination = None,
    as_json: AsJson = False,
) -> None:
    """Try a delivery at once whose next attempt is scheduled for later.

    Its schedule is replaced, so the attempt is made once, and the waits after it are as they would have been. What was
    given up on is not scheduled any more: for that there is `oneprotect replay --id`.
    """
    from consumers.retries.reschedule import RetryNow
    from oneprotect.cli.support.context import connected
    from oneprotect.cli.support.output import write_json, write_line
    from schemas import validation

    validation.name(tenant, "--tenant")
    validation.delivery_id(delivery, "--id")
    if destination is not None:
        validation.name(destination, "--destination")

    async def work(jetstream: "JetStream", _: "Settings") -> tuple[str, ...]:
        hurry = RetryNow(jetstream.connection, jetstream.publisher)
        return await hurry.retry(tenant, delivery, destination=destination or "*")

    destinations = connected(work)
    if not destinations:
        raise CliError(
            "no attempt of this delivery is scheduled: see `oneprotect attempts --id`; what was given up on, "
            "`oneprotect replay --id` requests again"
        )
    if as_json:
        write_json({"tenant": tenant, "id": delivery, "destinations": destinations})
    else:
        write_line(f"Due now: to {', '.join(destinations)}.")
