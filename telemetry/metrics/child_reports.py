"""Reports of a process to its supervisor, once a second and at the end, over an inherited socket.

When the supervisor closes its end or dies, the process stops.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable
from typing import Final

import msgspec
from msgspec import Struct

from telemetry.metrics.registry import Labels, LatencySnapshot, MetricSnapshot

EVERY_S: Final = 1.0
MAX_REPORT_BYTES: Final = 16 * 1024 * 1024

_HEAD_BYTES: Final = 4


class ChildReport(Struct, frozen=True):
    """Readiness (`ReadinessState.status`) and metrics of a process."""

    status: str
    values: tuple[tuple[str, Labels, float], ...] = ()
    latencies: tuple[tuple[str, Labels, LatencySnapshot], ...] = ()

    @classmethod
    def of(cls, status: str, snapshot: MetricSnapshot) -> "ChildReport":
        """Return a report of a snapshot."""
        values = tuple((name, labels, float(value)) for (name, labels), value in snapshot.values.items())
        return cls(status, values, tuple((name, labels, one) for (name, labels), one in snapshot.latencies.items()))

    @property
    def snapshot(self) -> MetricSnapshot:
        """The reported snapshot."""
        return MetricSnapshot(
            values={(name, labels): value for name, labels, value in self.values},
            latencies={(name, labels): latency for name, labels, latency in self.latencies},
        )


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ChildReport).decode


@contextlib.asynccontextmanager
async def report_to_supervisor(
    link: socket.socket | None, report: Callable[[], ChildReport], stop: asyncio.Event
) -> AsyncGenerator[None]:
    """Report while the block runs, if there is a `link`, and set `stop` when the supervisor is gone."""
    if link is None:
        yield
        return
    reader, writer = await asyncio.open_unix_connection(sock=link)

    def send() -> None:
        data = _encode(report())
        writer.write(len(data).to_bytes(_HEAD_BYTES, "big") + data)

    async def report_repeatedly() -> None:
        while not writer.is_closing():
            send()
            await asyncio.sleep(EVERY_S)

    async def listen() -> None:
        with contextlib.suppress(OSError):  # a killed supervisor may leave a reset instead of an end of the stream
            await reader.read()
        stop.set()

    tasks = [asyncio.create_task(report_repeatedly(), name="report"), asyncio.create_task(listen(), name="supervised")]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            if not writer.is_closing():
                send()
                await writer.drain()
            writer.close()


async def read_reports(reader: asyncio.StreamReader, on_report: Callable[[ChildReport], None]) -> None:
    """Call `on_report` with each report of a process until it ends. Raises `ValueError` for a malformed one."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            size = int.from_bytes(await reader.readexactly(_HEAD_BYTES), "big")
            if size > MAX_REPORT_BYTES:
                raise ValueError("the report is too large")
            on_report(_decode(await reader.readexactly(size)))
