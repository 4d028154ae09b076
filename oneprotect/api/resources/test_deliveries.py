"""`POST …/test`: a real ping, by the way that every delivery takes, and how it went."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from consumers.attempts.log import follow
from messaging.delivery_requests import publish_request
from oneprotect.api.operations.operation import KEEPERS, ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.public_codes import to_public
from oneprotect.api.operations.request import ApiRequest
from schemas import subjects
from schemas.codes import Outcome
from schemas.events import CONTENT_TYPE, PING, AttemptResult, DeliveryRequested, RequestedData, encode
from schemas.ids import DeliveryId, new_delivery_id

SOURCE: Final = "/oneprotect/api"
MARGIN_S: Final = 5.0
"""How much longer than the attempt may take its result is waited for; what comes later is looked up by its id."""


class TestResult(Struct, frozen=True, kw_only=True):
    """How a ping went; `result` is null when no consumer has made the attempt yet: look the delivery up later."""

    id: DeliveryId
    result: Annotated[AttemptResult, Meta(description="The one attempt that was made.")] | None


async def test_destination(call: ApiRequest) -> ApiResponse:
    """Ping it."""
    parts = call.parts
    destination = await parts.configuration.get_destination(call.tenant, call.id)
    await parts.configuration.audit_test(call.tenant, call.id, by=call.by, address=call.address)
    ping = _ping(call.tenant, call.id)
    async with follow(parts.connection, call.tenant, call.id) as attempts:
        headers = {
            subjects.HEADER_MSG_ID: subjects.msg_id(call.tenant, call.id, ping.id),
            "content-type": CONTENT_TYPE,
        }
        await publish_request(parts.publisher, call.tenant, call.id, encode(ping), headers)
        result = None
        try:
            async with asyncio.timeout((destination.timeout_s or parts.request_timeout_s) + MARGIN_S):
                async for event in attempts:
                    if event.data.delivery == ping.id and event.data.outcome is not Outcome.SUPPRESSED:
                        result = to_public(event.data, public=not call.principal.is_operator)
                        break
        except TimeoutError:
            pass
    place = {"location": f"/v1/tenants/{call.tenant}/deliveries/{ping.id}"}
    return ApiResponse(status=202 if result is None else 200, body=TestResult(id=ping.id, result=result), headers=place)


def _ping(tenant: str, destination: str) -> DeliveryRequested:
    now = datetime.now(UTC)
    return DeliveryRequested(
        specversion="1.0",
        id=new_delivery_id(),
        source=SOURCE,
        type="oneprotect.delivery.requested.v1",
        time=now,
        tenant=tenant,
        data=RequestedData(
            destination=destination,
            event_type=PING,
            payload=msgspec.Raw(msgspec.json.encode({"type": PING, "timestamp": now})),
        ),
    )


OPERATIONS: Final = (
    ApiOperation(
        method="POST",
        path="/v1/tenants/{tenant}/destinations/{id}/test",
        name="testDestination",
        summary="Send a signed ping to a destination",
        description=f"A delivery of the event type `{PING}`, signed and sent by a consumer like any other, but tried "
        "once only, and never kept. The answer comes when its attempt has been made.",
        tag="destinations",
        roles=KEEPERS,
        handle=test_destination,
        says={
            200: ResponseDoc(
                what="How it went. That the receiver refused it is in `result`, and no error of this request.",
                body=TestResult,
                headers={"Location": "Where to look at it later."},
            ),
            202: ResponseDoc(
                what="It waits: no consumer has made the attempt yet.",
                body=TestResult,
                example={"id": "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB", "result": None},
                headers={"Location": "Where to look at it later."},
            ),
        },
        problems=(404,),
    ),
)
