"""Two versions side by side: a rolling upgrade and a rollback under load lose, repeat and reorder nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.chaos.judge.trial import Plan, judge, report
from tests.chaos.judge.versions import Version

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

BEFORE: Final = "526a534"
"""The commit before messages carried what the delivery protocol needs."""


@pytest.mark.parametrize("ordered", [False, True], ids=["unordered", "ordered"])
async def test_a_rolling_upgrade_and_a_rollback_lose_nothing(
    tmp_path: Path, figure: Callable[[str], None], ordered: bool
) -> None:
    """Each program is replaced by this version under load, and then by the old one again.

    Ordered destinations have a trial of their own: the old version loses others' deliveries beside them.
    """
    old, new = Version.of(BEFORE, tmp_path / "old"), Version.current()
    plan = Plan(
        seconds=40, seed=0, ordered=ordered, unordered=not ordered, settle_s=60, version=old, replaced_by=(new, old)
    )
    history, verdict = await judge(plan, tmp_path / "site")

    lines = report(history, verdict)
    assert not verdict.findings, "\n".join(lines)
    assert not verdict.duplicates, "\n".join(lines)
    figure("; ".join(lines))
