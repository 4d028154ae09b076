"""The doctor reports when the servers write to disk: with the shipped configuration, and without an answer."""

from pathlib import Path

import pytest

from messaging.admin.manifests import Durability
from messaging.client.connection import connect
from oneprotect.doctor.durability import SyncConfig, check_durability, judge
from oneprotect.doctor.result import CheckStatus
from tests.support.secured import Keys, ShippedServer
from tests.support.site import Site

_SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("durability", "status", "finding"),
    [
        (Durability.FSYNC, CheckStatus.OK, "fsync: a message is on disk before it is acknowledged; one copy"),
        (Durability.REPLICATED, CheckStatus.WARNING, "one copy, on disk within 1 s: a power failure loses"),
    ],
)
async def test_each_role_sees_the_shipped_durability(
    tmp_path: Path, durability: Durability, status: CheckStatus, finding: str
) -> None:
    """A single server reports its durability to every role: one copy alone needs `fsync`."""
    keys = Keys(tmp_path / "keys")
    async with ShippedServer(tmp_path / "nats", keys, durability=durability) as server:
        for role in ("operator", "consumer", "api"):
            async with connect(keys.access(role, server.url), name="test") as connection:
                result = await check_durability(connection)
            assert (result.status, result.finding[: len(finding)]) == (status, finding)


async def test_a_server_that_says_nothing_is_unknown(site: Site) -> None:
    """Without the import in the account no server answers, and the doctor says so."""
    result = await check_durability(site.jetstream.connection)

    assert result.status is CheckStatus.UNKNOWN
    assert "deploy/nats/accounts.conf" in (result.remedy or "")


@pytest.mark.parametrize(
    ("configs", "replicas", "status", "finding"),
    [
        ([SyncConfig(sync_always=True)] * 3, 3, CheckStatus.OK, "fsync"),
        ([SyncConfig(_SECOND)] * 3, 3, CheckStatus.OK, "replicated: 3 copies, on disk within 1 s"),
        ([SyncConfig(120 * _SECOND)] * 3, 3, CheckStatus.WARNING, "3 copies, on disk within 120 s"),
        ([SyncConfig(sync_always=True), SyncConfig(_SECOND)], 2, CheckStatus.WARNING, "2 copies, on disk within 1 s"),
    ],
)
def test_the_weakest_server_decides(
    configs: list[SyncConfig], replicas: int, status: CheckStatus, finding: str
) -> None:
    """Servers that differ are as durable as the one that writes last."""
    result = judge(configs, replicas)

    assert result.status is status
    assert result.finding.startswith(finding)
