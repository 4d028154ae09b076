"""Reports of a process to its supervisor."""

import asyncio
import socket

import pytest

from telemetry.metrics.child_reports import ChildReport, report_to_supervisor
from telemetry.metrics.registry import MetricRegistry


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_process_stops_when_its_supervisor_is_gone(*, is_read: bool) -> None:
    """However it went: with all reports read, or killed with one unread, which resets the connection."""
    ours, theirs = socket.socketpair()
    stop = asyncio.Event()

    async with report_to_supervisor(ours, lambda: ChildReport.of("ready", MetricRegistry().snapshot()), stop):
        came = await asyncio.to_thread(theirs.recv, 65_536, 0 if is_read else socket.MSG_PEEK)
        theirs.close()
        await asyncio.wait_for(stop.wait(), 10)

    assert came
