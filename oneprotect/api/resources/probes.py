"""Health, readiness and metrics, for monitoring without a token; the responses hold no tenant data."""

import asyncio
from typing import Final

from messaging import management
from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from oneprotect.api.operations.operation import ApiResponse, OperationGroup, ResponseDoc
from oneprotect.api.operations.request import ApiRequest
from schemas import streams

OPERATIONS: Final = OperationGroup("operating")
CHECK_INTERVAL_S: Final = 1.0
NEEDED: Final = tuple(stream.name for stream in streams.STREAMS)
_PLAIN: Final = "text/plain; charset=utf-8"


class StreamAvailability:
    """Periodic checks of the streams that the API needs, so that probes cause no request to NATS."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._usable = False

    @property
    def are_usable(self) -> bool:
        """True if all streams were available in the last check and NATS is still connected."""
        return self._usable and self._connection.is_connected

    async def run(self) -> None:
        """Check every `CHECK_INTERVAL_S` seconds until cancelled."""
        while True:
            self._usable = await self._check()
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def _check(self) -> bool:
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(*(management.stream_info(self._connection, name) for name in NEEDED))
        except (JetStreamError, TimeoutError):
            return False
        return True


@OPERATIONS.add("GET", "/healthz", {200: ResponseDoc("The process is alive.", media_type=_PLAIN)})
async def health(request: ApiRequest) -> ApiResponse:
    """Check that this process is alive."""
    return _probe(request, "/healthz")


@OPERATIONS.add(
    "GET",
    "/readyz",
    {
        200: ResponseDoc("NATS and the streams are usable.", media_type=_PLAIN),
        503: ResponseDoc("NATS or a stream is not usable.", media_type=_PLAIN),
    },
)
async def readiness(request: ApiRequest) -> ApiResponse:
    """Check that NATS and the streams are usable."""
    return _probe(request, "/readyz")


@OPERATIONS.add(
    "GET",
    "/metrics",
    {200: ResponseDoc("The text format 0.0.4.", media_type="text/plain; version=0.0.4; charset=utf-8")},
)
async def metrics(request: ApiRequest) -> ApiResponse:
    """Get metrics for Prometheus."""
    return _probe(request, "/metrics")


def _probe(request: ApiRequest, path: str) -> ApiResponse:
    status, media_type, body = request.parts.ops.answer("GET", path)
    return ApiResponse(status=status, media_type=media_type, body=body)
