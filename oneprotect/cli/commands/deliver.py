"""`oneprotect deliver`: publishes one delivery request, as a producer does."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.errors import BadUsage, CliError
from oneprotect.cli.support.options import AsJson, Tenant

if TYPE_CHECKING:
    from oneprotect.bootstrap.resources import JetStream
    from oneprotect.settings.settings import Settings
    from schemas.configuration import Destination
    from schemas.events import DeliveryRequested

SOURCE: Final = "/oneprotect/cli"
JSON_TYPE: Final = "application/json"

_BLANKS: Final = b" \t\r\n"
"""White space as JSON has it."""


def deliver(
    *,
    tenant: Tenant,
    destination: Annotated[str, typer.Option("--destination", metavar="ID", help="Where to: a destination's id.")],
    event_type: Annotated[str, typer.Option("--event-type", metavar="TYPE", help="For example invoice.paid.")],
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="The body: a file, or - for stdin.")],
    delivery: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="The delivery's id, so that sending it again is harmless. Made up without."
        ),
    ] = None,
    content_type: Annotated[
        str, typer.Option("--content-type", metavar="TYPE", help="What the body is. Any but JSON is sent as it is.")
    ] = JSON_TYPE,
    as_base64: Annotated[
        bool, typer.Option("--base64", help="Send JSON exactly as it is, too: with the white space around it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even when the tenant has no such destination.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for a delivery: publish a request to NATS, and print its id.

    It returns when the request is stored; `oneprotect attempts --id` shows what became of it. JSON is delivered byte
    for byte, without white space around it. The same --id to the same destination is stored once in ten minutes.
    """
    from messaging.delivery_requests import publish_request
    from oneprotect.cli.support.context import connected, load_settings
    from schemas import subjects
    from schemas.events import CONTENT_TYPE, encode

    settings = load_settings()
    body = _body(data, settings.delivery.max_payload_bytes)
    asked = _request(tenant, destination, event_type, delivery, body, content_type, as_base64=as_base64)

    async def work(jetstream: "JetStream", _: "Settings") -> dict[str, object]:
        known = await _destination(jetstream, tenant, destination)
        if known is None and not force:
            raise CliError(
                f"tenant {tenant} has no destination {destination}: the delivery would fail with "
                "destination.not_found; set it with `oneprotect destination set`, or publish all the same with --force"
            )
        headers = {
            subjects.HEADER_MSG_ID: subjects.msg_id(tenant, destination, asked.id),
            "content-type": CONTENT_TYPE,
        }
        stored = await publish_request(jetstream.publisher, tenant, destination, encode(asked), headers)
        return {
            "id": asked.id,
            "tenant": tenant,
            "destination": destination,
            "stream": stored.stream,
            "sequence": stored.seq,
            "duplicate": stored.duplicate,
            "overflow": stored.stream == subjects.OVERFLOW.name,
            "destination_enabled": known is not None and known.enabled,
        }

    _show(connected(work, settings), as_json=as_json)


def _show(result: dict[str, object], *, as_json: bool) -> None:
    from oneprotect.cli.support.output import print_notice, write_json, write_line

    if as_json:
        write_json(result)
        return
    write_line(str(result["id"]))
    if result["duplicate"]:
        print_notice("a duplicate: it had been stored before, and nothing was added")
    if result["overflow"]:
        print_notice(
            "this destination has its fill of due work; the request waits in the overflow, and comes by itself"
        )
    if not result["destination_enabled"]:
        print_notice("this destination is disabled or unknown; the delivery will be kept, for a replay")


def _body(source: str, limit: int) -> bytes:
    from oneprotect.cli.support.parsing import read_file

    try:
        return read_file(source, "--data", limit=limit)
    except BadUsage as error:
        problem = str(error)
    raise BadUsage(problem + (" (ONEPROTECT_MAX_PAYLOAD_BYTES)" if "more than" in problem else ""))


def _request(
    tenant: str,
    destination: str,
    event_type: str,
    delivery: str | None,
    body: bytes,
    content_type: str,
    *,
    as_base64: bool,
) -> "DeliveryRequested":
    """The request, checked by what consumers will check it with. Raises `BadUsage` or `ValidationError`."""
    import base64
    from datetime import UTC, datetime

    import msgspec
    from msgspec import UNSET

    from schemas import validation
    from schemas.events import DeliveryRequested, RequestedData
    from schemas.ids import new_delivery_id

    is_json = _is_json(content_type)
    if is_json:
        body = body if as_base64 else body.strip(_BLANKS)
        _require_json(body)
    embed = is_json and not as_base64
    return validation.round_trip(
        DeliveryRequested(
            specversion="1.0",
            id=new_delivery_id() if delivery is None else delivery,
            source=SOURCE,
            type="oneprotect.delivery.requested.v1",
            time=datetime.now(UTC),
            tenant=tenant,
            data=RequestedData(
                destination=destination,
                event_type=event_type,
                payload=msgspec.Raw(body) if embed else UNSET,
                payload_base64=UNSET if embed else base64.b64encode(body).decode(),
                content_type=content_type,
            ),
        )
    )


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON_TYPE or kind.endswith("+json")


def _require_json(body: bytes) -> None:
    """Raise `BadUsage`, with the place and nothing of the body, unless it is one JSON value in UTF-8."""
    import msgspec

    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 (byte {error.start})"
    except RecursionError:
        problem = "it is nested too deep"
    except msgspec.DecodeError as error:
        place = str(error).rpartition("(")[2].rstrip(")") if "(byte" in str(error) else "at its end"
        problem = f"it is not JSON ({place})"
    else:
        return
    raise BadUsage(f"--data: {problem}; another kind of body needs its --content-type")


async def _destination(jetstream: "JetStream", tenant: str, name: str) -> "Destination | None":
    from oneprotect.configuration.errors import NotFoundError

    try:
        return await jetstream.configuration.get_destination(tenant, name)
    except NotFoundError:
        return None
