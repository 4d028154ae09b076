"""`oneprotect deliver`: publishes a delivery request, like a producer."""

import base64
import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from msgspec import UNSET

from oneprotect.cli.support.context import load_settings, run_connected
from oneprotect.cli.support.errors import BadUsage, CliError
from oneprotect.cli.support.options import AsJson, Tenant
from oneprotect.cli.support.output import print_notice, write_json, write_line
from oneprotect.cli.support.parsing import read_file
from schemas import streams, subjects, validation
from schemas.events import CONTENT_TYPE, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_CHECKED, HEADER_MSG_ID
from schemas.ids import new_delivery_id

if TYPE_CHECKING:
    from messaging.publication import PublishAck
    from oneprotect.bootstrap.resources import JetStream
    from schemas.configuration import Destination

SOURCE: Final = "/oneprotect/cli"
JSON_TYPE: Final = "application/json"

_JSON_SPACE: Final = b" \t\r\n"


def deliver(
    *,
    tenant: Tenant,
    destination: Annotated[
        str, typer.Option("--destination", metavar="ID", help="Destination id, for example orders.")
    ],
    event_type: Annotated[
        str, typer.Option("--event-type", metavar="TYPE", help="Event type, for example invoice.paid.")
    ],
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="File with the body, or - for stdin.")],
    delivery: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="Delivery id, so that a repeated request is stored once. Default: new."
        ),
    ] = None,
    content_type: Annotated[
        str, typer.Option("--content-type", metavar="TYPE", help="Media type of the body. JSON is validated.")
    ] = JSON_TYPE,
    as_base64: Annotated[
        bool, typer.Option("--base64", help="Keep the white space around a JSON body, by sending it as base64.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Publish even if the tenant has no such destination.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a delivery request to NATS, and print the delivery id.

    The command returns when the request is stored; `oneprotect attempts --id ID` shows the delivery's attempts. A JSON
    body is delivered byte for byte, without the white space around it. A repeated --id is not delivered again to the
    same destination within ONEPROTECT_IDEMPOTENCY_WINDOW_S; with another body it is an error.
    """
    settings = load_settings()
    body = read_file(data, "--data", limit=settings.delivery.max_payload_bytes, setting="ONEPROTECT_MAX_PAYLOAD_BYTES")
    request = validation.round_trip(
        DeliveryRequested(
            specversion="1.0",
            id=new_delivery_id() if delivery is None else delivery,
            source=SOURCE,
            type="oneprotect.delivery.requested.v1",
            time=datetime.now(UTC),
            tenant=tenant,
            data=_request_data(destination, event_type, body, content_type, as_base64=as_base64),
        )
    )
    is_named = delivery is not None
    remembers = settings.nats.idempotency_window_s > 0
    result = run_connected(
        lambda jetstream: _publish(jetstream, request, force=force, is_named=is_named, remembers=remembers), settings
    )
    if as_json:
        write_json(result)
    else:
        _show(result)


async def _publish(
    jetstream: "JetStream", request: DeliveryRequested, *, force: bool, is_named: bool, remembers: bool
) -> dict[str, object]:
    """Publish the request, and return the fields of the result. `remembers`: ids that are named are remembered."""
    tenant, destination = request.tenant, request.data.destination
    found = await _find_destination(jetstream, tenant, destination)
    if found is None and not force:
        raise CliError(
            f"tenant {tenant} has no destination {destination}, so the delivery would fail with destination.not_found; "
            "create it with `oneprotect destination set`, or publish with --force"
        )
    stored = await _store(jetstream, request, remembers=is_named and remembers)
    return {
        "id": request.id,
        "tenant": tenant,
        "destination": destination,
        "stream": stored.stream or None,
        "sequence": stored.seq or None,
        "duplicate": stored.duplicate,
        "overflow": stored.stream == streams.OVERFLOW.name,
        "destination_enabled": found is not None and found.enabled,
    }


async def _store(jetstream: "JetStream", request: DeliveryRequested, *, remembers: bool) -> "PublishAck":
    """Store the request; under a claim on its id if that is remembered, as the API does."""
    from messaging.delivery_requests import DeliveryRequest, publish_requests

    tenant, destination = request.tenant, request.data.destination
    msg_id = subjects.msg_id(tenant, destination, request.id)
    headers = {HEADER_MSG_ID: msg_id, "content-type": CONTENT_TYPE, HEADER_CHECKED: "1"}
    requests = [DeliveryRequest(tenant, destination, encode(request), headers)]
    publish = functools.partial(publish_requests, jetstream.publisher)
    if not remembers:
        (stored,) = await publish(requests)
        return stored
    from consumers.delivery.named_ids import digest_of
    from oneprotect.api.operations.named_deliveries import NamedDeliveries
    from oneprotect.api.web.problems import Problem
    from oneprotect.api.web.rate_limits import TenantLimiter

    limiter = TenantLimiter(tenant_per_s=1, caller_per_s=1, max_concurrent=1)
    named = NamedDeliveries(jetstream.connection, jetstream.named_ids, limiter)
    digest = digest_of(request.data.event_type, request.data.body_content_type, request.data.body())
    try:
        (stored,) = await named.store(requests, request.id, digest, publish)
    except Problem as problem:
        raise CliError(problem.detail, fields={"type": problem.document().type}) from None
    return stored


async def _find_destination(jetstream: "JetStream", tenant: str, name: str) -> "Destination | None":
    from oneprotect.configuration.errors import NotFoundError

    try:
        return await jetstream.configuration.get_destination(tenant, name)
    except NotFoundError:
        return None


def _show(result: dict[str, object]) -> None:
    write_line(str(result["id"]))
    if result["duplicate"]:
        print_notice("duplicate: the request was stored before, and nothing was added")
    if result["overflow"]:
        print_notice("overflow: the destination has its maximum of due deliveries; this one follows when they are sent")
    if not result["destination_enabled"]:
        print_notice("the destination is disabled or unknown; the delivery will be retained for a replay")


def _request_data(
    destination: str, event_type: str, body: bytes, content_type: str, *, as_base64: bool
) -> RequestedData:
    is_json = _is_json(content_type)
    if is_json:
        body = body if as_base64 else body.strip(_JSON_SPACE)
        _require_json(body)
    embed = is_json and not as_base64
    return RequestedData(
        destination=destination,
        event_type=event_type,
        payload=msgspec.Raw(body) if embed else UNSET,
        payload_base64=UNSET if embed else base64.b64encode(body).decode(),
        content_type=content_type,
    )


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == JSON_TYPE or kind.endswith("+json")


def _require_json(body: bytes) -> None:
    """Check that the body is one JSON value in UTF-8. Raises `BadUsage` with the position, and nothing of the body."""
    try:
        body.decode()
        msgspec.json.decode(body, type=msgspec.Raw)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start})"
    except RecursionError:
        problem = "JSON with too many levels"
    except msgspec.DecodeError as error:
        place = str(error).rpartition("(")[2].rstrip(")") if "(byte" in str(error) else "at its end"
        problem = f"not JSON ({place})"
    else:
        return
    raise BadUsage(f"--data: {problem}; set --content-type for a body that is not JSON")
