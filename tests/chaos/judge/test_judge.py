"""The judge in short: an installation is disturbed at random, and loses, repeats and reorders nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.judge.trial import Plan, judge, report

pytestmark = [pytest.mark.serial, pytest.mark.timeout(240)]


async def test_disturbed_deliveries_keep_their_guarantees(tmp_path: Path, figure: Callable[[str], None]) -> None:
    """Consumers, APIs and servers are killed, paused and cut off for 40 s."""
    plan = Plan(seconds=40, seed=1, ack_wait_s=5, settle_s=150)
    history, verdict = await judge(plan, tmp_path)

    lines = report(history, verdict)
    assert not verdict.findings, "\n".join(lines)
    figure("; ".join(lines))
