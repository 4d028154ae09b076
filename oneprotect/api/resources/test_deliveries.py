"""`POST …/test`: send a ping like any delivery, and respond with its result."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from consumers.attempts.log import follow
from messaging.delivery_requests import publish_request
from oneprotect.api.operations.operation import MANAGERS, ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from oneprotect.api.operations.visibility import to_public
from schemas import subjects
from schemas.codes import Outcome
from schemas.events import CONTENT_TYPE, PING, AttemptResult, DeliveryRequested, RequestedData, encode
from schemas.headers import HEADER_MSG_ID
from schemas.ids import DeliveryId, new_delivery_id

OPERATIONS: Final = OperationGroup("destinations")
SOURCE: Final = "/oneprotect/api"
MARGIN_S: Final = 5.0
"""Time to wait for the result, beyond the request timeout of the attempt."""
_LOCATION: Final = {"Location": "The path of the delivery."}


class TestResult(Struct, frozen=True, kw_only=True):
    """The result of a ping. `result` is null while no consumer has made the attempt; get the delivery later."""

    id: DeliveryId
    result: Annotated[AttemptResult, Meta(description="The only attempt.")] | None


@OPERATIONS.add(
    "POST",
    "/v1/tenants/{tenant}/destinations/{id}/test",
    {
        200: ResponseDoc(
            "The attempt is complete. A refusal by the receiver is in `result`; it is not an error of this request.",
            TestResult,
            headers=_LOCATION,
        ),
        202: ResponseDoc(
            "The ping is queued: no consumer has made the attempt yet.",
            TestResult,
            {"id": "dlv_01JDE3V7Q0M8Z5T2R4X6Y8W0AB", "result": None},
            _LOCATION,
        ),
    },
    roles=MANAGERS,
    problems=(404,),
)
async def test_destination(request: ApiRequest) -> ApiResponse:
    """Send a signed test delivery to a destination.

    Its event type is `oneprotect.ping`. A consumer signs and sends it like any delivery, but makes a single attempt and
    never keeps it. The API responds when the attempt is complete.
    """
    parts, tenant, name = request.parts, request.tenant, request.id
    destination = await parts.configuration.get_destination(tenant, name)
    await parts.configuration.audit_test(tenant, name, by=request.by, address=request.address)
    ping = _ping(tenant, name)
    async with follow(parts.connection, tenant, name) as attempts:
        headers = {HEADER_MSG_ID: subjects.msg_id(tenant, name, ping.id), "content-type": CONTENT_TYPE}
        await publish_request(parts.publisher, tenant, name, encode(ping), headers)
        result = None
        try:
            async with asyncio.timeout((destination.timeout_s or parts.request_timeout_s) + MARGIN_S):
                async for event in attempts:
                    if event.data.delivery == ping.id and event.data.outcome is not Outcome.SUPPRESSED:
                        result = to_public(event.data, public=request.is_public)
                        break
        except TimeoutError:
            pass
    location = {"location": f"/v1/tenants/{tenant}/deliveries/{ping.id}"}
    body = TestResult(id=ping.id, result=result)
    return ApiResponse(status=202 if result is None else 200, body=body, headers=location)


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
