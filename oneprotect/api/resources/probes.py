"""What monitoring asks: `/healthz`, `/readyz` and `/metrics`. Anybody may, so no tenant's data is in it."""

import asyncio
from typing import Final

from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from oneprotect.api.operations.operation import ApiOperation, ApiResponse, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from schemas import subjects

LOOK_S: Final = 1.0
NEEDED: Final = tuple(stream.name for stream in subjects.STREAMS)
_PLAIN: Final = "text/plain; charset=utf-8"


class StreamAvailability:
    """Whether what the API needs of JetStream is there, looked at once a second whoever asks however often."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._usable = False

    @property
    def are_usable(self) -> bool:
        """As of the last look. A lost connection is known without one."""
        return self._usable and self._connection.is_connected

    async def run(self) -> None:
        """Keep looking, until cancelled."""
        while True:
            self._usable = await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> bool:
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(*(management.stream_info(self._connection, name) for name in NEEDED))
        except (JetStreamError, TimeoutError):
            return False
        return True


async def probe(call: ApiRequest) -> ApiResponse:
    """One of the three."""
    status, media_type, body = call.parts.ops.answer("GET", call.request.scope["path"])
    return ApiResponse(status=status, media_type=media_type, body=body)


OPERATIONS: Final = (
    ApiOperation(
        method="GET",
        path="/healthz",
        name="health",
        summary="Whether this process is alive",
        tag="operating",
        handle=probe,
        says={200: ResponseDoc(what="It is.", media_type=_PLAIN)},
    ),
    ApiOperation(
        method="GET",
        path="/readyz",
        name="readiness",
        summary="Whether NATS and the streams are usable",
        tag="operating",
        handle=probe,
        says={
            200: ResponseDoc(what="They are.", media_type=_PLAIN),
            503: ResponseDoc(what="They are not.", media_type=_PLAIN),
        },
    ),
    ApiOperation(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="Figures for Prometheus",
        tag="operating",
        handle=probe,
        says={200: ResponseDoc(what="The text format, 0.0.4.", media_type="text/plain; version=0.0.4; charset=utf-8")},
    ),
)
