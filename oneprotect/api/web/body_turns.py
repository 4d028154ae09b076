"""Turns of tenants to send request bodies, and to have them stored.

A tenant that sends large bodies on many connections would fill the connection to NATS, behind which all others wait.
"""

from typing import Final

from starlette.requests import Request

from messaging.tenant_turns import FairTurns, TooManyWaiting
from oneprotect.api.web.problems import too_many
from oneprotect.api.web.request_body import BodyLimits, read_bytes
from oneprotect.api.web.routing import SLOTS

BUFFERED_BYTES: Final = 64 * 1024
"""Bytes of a body that the server reads in any case, before it pauses the client."""
READING_BYTES_PER_TENANT: Final = 4 * 1024 * 1024
"""Bytes of a tenant's large bodies in memory."""
READING_BYTES: Final = 64 * 1024 * 1024
STORING_BYTES_PER_TENANT: Final = 256 * 1024
"""Bytes of a tenant's requests in progress: more would delay others, and make the tenant itself no faster."""
STORING_BYTES: Final = 2 * 1024 * 1024
SMALL_BYTES: Final = 16 * 1024
"""A tenant without a request in progress waits for no other tenant with a request of this size."""
REQUEST_BYTES: Final = 2048
"""The least size of a request: its work besides its body."""
MAX_WAITING: Final = 4096
WAITING_BYTES_PER_TENANT: Final = 16 * 1024 * 1024
WAITING_BYTES: Final = 64 * 1024 * 1024
MAX_WAIT_S: Final = 5.0
"""Time to wait for a turn, after which a request is refused: by then most requesters have stopped to wait."""


class BodyTurns:
    """The turns of one process."""

    def __init__(self) -> None:
        self._reading = FairTurns(
            bytes_per_tenant=READING_BYTES_PER_TENANT, max_bytes=READING_BYTES, free_bytes=READING_BYTES_PER_TENANT
        )
        self.storing: Final = FairTurns(
            bytes_per_tenant=STORING_BYTES_PER_TENANT,
            max_bytes=STORING_BYTES,
            free_bytes=SMALL_BYTES,
            max_waiting=MAX_WAITING,
            waiting_bytes_per_tenant=WAITING_BYTES_PER_TENANT,
            max_waiting_bytes=WAITING_BYTES,
        )

    async def read(self, http: Request, limits: BodyLimits, tenant: str) -> bytes:
        """Return the body, when it is the tenant's turn until the request is over. Raises `Problem`."""
        declared = http.headers.get("content-length", "")
        size = int(declared) if declared.isdigit() and len(declared) <= 12 else limits.body_bytes
        if BUFFERED_BYTES < size <= limits.body_bytes:  # the client is paused, and a larger body is refused
            await _hold(http, self._reading, tenant, size)
        body = await read_bytes(http, limits)
        await _hold(http, self.storing, tenant, max(REQUEST_BYTES, len(body)))
        return body


async def _hold(http: Request, turns: FairTurns, tenant: str, size: int) -> None:
    """Wait for a turn, and end it with the request."""
    try:
        turn = await turns.wait(tenant, size=size, within_s=MAX_WAIT_S)
    except (TooManyWaiting, TimeoutError):
        problem = too_many("The tenant sends more bytes than can be stored.", 1)
    else:
        http.scope[SLOTS].callback(turns.end, turn)
        return
    raise problem
