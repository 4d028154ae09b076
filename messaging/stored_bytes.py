"""The bytes that each tenant stores in a stream with an age limit, such as the failed deliveries.

JetStream counts no bytes by subject. A follower reads subject and size of every message once, without its content,
through a consumer that the server removes when it is no longer used. Deletions within the stream are noticed when what
is older has expired.
"""

import asyncio
import contextlib
import secrets
from collections import deque
from typing import Any, Final

import msgspec

from messaging import management
from messaging.client.connection import API_TIMEOUT_S, NatsConnection
from messaging.client.errors import NotFound, ServerUnavailable
from messaging.client.headers import STATUS, has_status, read_headers
from messaging.management import NANOSECONDS

BATCH: Final = 1000
SLOT_BYTES: Final = 4 * 1024 * 1024
SLOT_NS: Final = 3600 * NANOSECONDS
"""A slot holds this much, or an hour: the exactness with which expired bytes are known."""
_INACTIVE_NS: Final = 60 * NANOSECONDS
_SIZE: Final = "Nats-Msg-Size"


class _Slot(msgspec.Struct):
    began_ns: int
    last_sequence: int
    bytes: int


class StoredBytes:
    """The bytes of each tenant in one stream, before compression, as of the last `update`."""

    def __init__(self, connection: NatsConnection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._consumer: str | None = None
        self._next = 1
        self._slots: dict[str, deque[_Slot]] = {}
        self._totals: dict[str, int] = {}

    @property
    def by_tenant(self) -> dict[str, int]:
        """The bytes of every tenant that has any."""
        return dict(self._totals)

    def of(self, tenant: str) -> int:
        """Return the bytes of one tenant."""
        return self._totals.get(tenant, 0)

    async def update(self) -> management.StreamState:
        """Add what was stored since the last update, and drop what has expired. Raises `JetStreamError`."""
        state = (await management.stream_info(self._connection, self._stream)).state
        if state.last_seq + 1 < self._next:  # another stream of this name
            self._next, self._consumer = 1, None
            self._slots.clear()
            self._totals.clear()
        for tenant in list(self._slots):
            self._drop(tenant, state.first_seq)
        while self._next <= state.last_seq and await self._read():
            pass
        return state

    async def trim(self, tenant: str, limit: int) -> None:
        """Delete the tenant's oldest messages until it has `limit` bytes. Never for a stream with pending messages."""
        surplus, before = self.of(tenant) - limit, 0
        for slot in self._slots.get(tenant, ()):
            if surplus <= 0:
                break
            surplus, before = surplus - slot.bytes, slot.last_sequence + 1
        if before:
            subject = f"oneprotect.delivery.*.{tenant}.>"
            await management.purge_subject(self._connection, self._stream, subject, before=before)
            self._drop(tenant, before)

    def _add(self, tenant: str, sequence: int, stored_ns: int, size: int) -> None:
        slots = self._slots.setdefault(tenant, deque())
        if not slots or slots[-1].bytes >= SLOT_BYTES or stored_ns - slots[-1].began_ns >= SLOT_NS:
            slots.append(_Slot(stored_ns, sequence, 0))
        slots[-1].last_sequence = sequence
        slots[-1].bytes += size
        self._totals[tenant] = self._totals.get(tenant, 0) + size

    def _drop(self, tenant: str, before: int) -> None:
        slots = self._slots[tenant]
        while slots and slots[0].last_sequence < before:
            self._totals[tenant] -= slots.popleft().bytes
        if not slots:
            del self._slots[tenant], self._totals[tenant]

    async def _read(self) -> bool:
        """Read one batch. Returns False if there was none, as the rest is deleted or unavailable."""
        read = 0
        ended = asyncio.Event()

        def receive(subject: bytes, reply: bytes, _data: bytes, block: bytes) -> None:
            nonlocal read
            if not reply or has_status(block):
                # 404: nothing is left, or not yet on the consumer's replica, which delivers it later.
                if read_headers(block).get(STATUS) != "404":  # perhaps the server has removed the consumer
                    self._consumer = None
                ended.set()
                return
            tokens = reply.decode().split(".")
            tokens = tokens[2:] if len(tokens) < 11 else tokens[4:]  # see `messaging.message`
            sequence, stored_ns = int(tokens[3]), int(tokens[5])
            if sequence >= self._next:
                size = int(read_headers(block)[_SIZE]) + len(block) + len(subject)
                self._add(subject.decode().split(".")[3], sequence, stored_ns, size)
                self._next = sequence + 1
            read += 1
            if read == BATCH or tokens[6] == "0":  # no more are pending
                ended.set()

        consumer = self._consumer or await self._create_consumer()
        inbox = self._connection.new_inbox()
        subscription = await self._connection.listen(inbox, receive)
        try:
            request = msgspec.json.encode({"batch": BATCH, "no_wait": True})
            self._connection.post(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}", request, reply=inbox)
            async with asyncio.timeout(API_TIMEOUT_S):
                await ended.wait()
        except TimeoutError:
            self._consumer = None
        finally:
            with contextlib.suppress(Exception):  # the connection may be closing
                await subscription.unsubscribe()
        return read > 0

    async def _create_consumer(self) -> str:
        name = f"bytes-{secrets.token_hex(4)}"
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "headers_only": True,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE_NS,
        }
        request = {"stream_name": self._stream, "config": config}
        await self._connection.api(f"CONSUMER.CREATE.{self._stream}.{name}", request)
        self._consumer = name
        return name


async def read_stored_bytes(connection: NatsConnection, stream: str) -> dict[str, int]:
    """Return the bytes of every tenant in the stream, none without the stream. Raises `JetStreamError`."""
    stored = StoredBytes(connection, stream)
    with contextlib.suppress(NotFound):
        state = await stored.update()
        if state.messages and not stored.by_tenant:
            raise ServerUnavailable(f"no answer to a read of {stream}")
    return stored.by_tenant
