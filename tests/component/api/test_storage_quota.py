"""Storage of tenants: one over a limit is refused by the API, loses no delivery, and pushes out nothing of others."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from messaging import management, stored_bytes
from messaging.admin import manifests, topology
from messaging.publication import Publication
from messaging.stored_bytes import BATCH, StoredBytes
from oneprotect.api.operations import storage_quota
from oneprotect.api.operations.storage_quota import StorageLimits, StorageQuota
from oneprotect.api.web.problems import Problem
from oneprotect.bootstrap.resources import open_jetstream, stream_limits
from oneprotect.dev.nats_server import EmbeddedNats
from oneprotect.settings.settings import Settings
from schemas import streams, subjects
from telemetry.metrics.registry import MetricRegistry
from tests.component.api.routes import OURS, THEIRS
from tests.support.api import Api, Client, Reply, running
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

BODY = {"event_type": "invoice.paid", "payload": "x" * 100_000, "destination": "orders"}


async def _fill(site: Site, tenant: str, stream: streams.StreamConfig, count: int, size: int) -> None:
    for number in range(count):
        failed, archived = subjects.failed(tenant, "orders", f"dlv_{number}"), subjects.delivered(tenant, "orders")
        subject = failed if stream is streams.FAILED else archived
        await site.jetstream.publisher.publish(Publication(subject, b"x" * size, {"a": "b"}))


async def test_the_bytes_of_each_tenant_are_followed_without_their_content(site: Site) -> None:
    """What is added counts, what expires does not, and an interrupted follower continues where it was."""
    await _fill(site, OURS, streams.FAILED, BATCH + 5, 10)
    await _fill(site, THEIRS, streams.FAILED, 3, 1000)
    stored = StoredBytes(site.jetstream.connection, streams.FAILED.name)

    await stored.update()
    first = stored.of(OURS), stored.of(THEIRS)
    await _fill(site, THEIRS, streams.FAILED, 2, 1000)
    await stored.update()
    await stored.update()

    assert 10 * (BATCH + 5) < first[0] < 200 * (BATCH + 5)
    assert 3000 < first[1] < 4000
    assert stored.of(THEIRS) == first[1] // 3 * 5
    await site.jetstream.connection.api(f"STREAM.PURGE.{streams.FAILED.name}")
    await stored.update()
    assert stored.by_tenant == {}


async def test_bytes_that_the_consumer_does_not_have_yet_are_counted_later(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state may come from a replica that is ahead of the consumer's."""
    stream_info = management.stream_info

    async def ahead(*arguments: Any) -> management.StreamInfo:
        info = await stream_info(*arguments)
        state = msgspec.structs.replace(info.state, last_seq=info.state.last_seq + 2)
        return msgspec.structs.replace(info, state=state)

    await _fill(site, OURS, streams.FAILED, 3, 1000)
    stored = StoredBytes(site.jetstream.connection, streams.FAILED.name)
    monkeypatch.setattr(management, "stream_info", ahead)
    await stored.update()
    first = stored.of(OURS)
    monkeypatch.undo()
    await _fill(site, OURS, streams.FAILED, 2, 1000)
    await stored.update()

    assert stored.of(OURS) == first // 3 * 5 > 5000


async def _deliver(client: Client, tenant: str) -> Reply:
    return await client("POST", f"/v1/tenants/{tenant}/deliveries", BODY)


async def _set_up_theirs(api: Api) -> Client:
    configuration = api.site.jetstream.configuration
    await configuration.set_credential(THEIRS, "key", {"secret_ref": "k8s://webhooks/signing-key/signing"}, by="test")
    fields = {"url": "https://example.com/in", "credential": "key"}
    await configuration.set_destination(THEIRS, "orders", fields, by="test")
    return await api.client("producer", tenant=THEIRS)


async def test_a_tenant_with_too_many_failed_bytes_is_refused(site: Site) -> None:
    """The refusal names the quota and its use. Another tenant is served."""
    await site.destination("orders", "https://example.com/in")
    await _fill(site, OURS, streams.FAILED, 3, 500_000)
    async with running(site, tenant_max_failed_bytes="1048576") as api:
        producer, other = await api.client("producer"), await _set_up_theirs(api)

        async def refusal() -> Reply | None:
            reply = await _deliver(producer, OURS)
            return reply if reply.status == 507 else None

        refused = await until(refusal, 20)
        served = await _deliver(other, THEIRS)

    assert refused is not None
    assert refused.json["type"] == "urn:oneprotect:problem:quota-exceeded"
    assert "of 1,048,576 bytes of failed deliveries" in refused.json["detail"]
    assert int(refused.headers["retry-after"]) > 0
    assert served.status == 202


async def test_a_tenant_with_too_many_waiting_bytes_is_refused_until_they_are_delivered(
    site: Site, receiver: Scripted
) -> None:
    """Nothing that was accepted is lost, and the room comes back."""
    await site.destination("orders", receiver.url)
    async with running(site, tenant_max_waiting_bytes="1048576") as api:
        producer, other = await api.client("producer"), await _set_up_theirs(api)
        statuses = [(await _deliver(producer, OURS)).status for _ in range(20)]
        served = await _deliver(other, THEIRS)
        async with site.consumer():
            await until(lambda: len(receiver.seen) >= statuses.count(202), 30)

            async def is_accepted() -> bool:
                return (await _deliver(producer, OURS)).status == 202

            await until(is_accepted, 20)

    assert statuses == sorted(statuses)
    assert 5 <= statuses.count(202) <= 10, "what is stored during the first check may count twice"
    assert served.status == 202


async def test_what_waits_counts_after_a_restart_of_the_api(site: Site) -> None:
    """A small first delivery says nothing about the size of those that wait."""
    await site.destination("orders", "https://example.com/in")
    async with running(site) as api:
        producer = await api.client("producer")
        assert [(await _deliver(producer, OURS)).status for _ in range(12)] == [202] * 12
    async with running(site, tenant_max_waiting_bytes="1048576") as api:
        producer = await api.client("producer")

        async def is_refused() -> bool:
            reply = await producer("POST", f"/v1/tenants/{OURS}/deliveries", {**BODY, "payload": "x"})
            return reply.status == 507

        assert await until(is_refused)


async def test_a_tenant_that_delivers_keeps_its_account(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tenants push out the account that was used least recently."""
    monkeypatch.setattr(storage_quota, "MAX_TENANTS", 2)
    limits = StorageLimits(waiting_bytes=1000, failed_bytes=1000, archive_share=0.5)
    quota = StorageQuota(site.jetstream.connection, limits, MetricRegistry())
    for tenant, size in ((OURS, 600), (THEIRS, 1), (OURS, 1), ("initech", 1)):
        quota.require_room(tenant, [size])

    with pytest.raises(Problem):
        quota.require_room(OURS, [600])


class _Limited(EmbeddedNats):
    """A server whose account may store 24 MiB."""

    def _config(self, port: int) -> dict[str, Any]:
        account = {"jetstream": {"max_file": 24 * 1024**2}, "users": [{"user": "all", "password": "all"}]}
        return super()._config(port) | {"accounts": {"ALL": account}, "no_auth_user": "all"}


async def test_a_tenant_that_fills_the_account_is_refused_while_others_and_results_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the tenant with more than its part, and near the limit everybody, so that what waits can be settled."""
    monkeypatch.setattr(storage_quota, "INTERVAL_S", 0.2)
    sizes = {f"{name}_max_bytes": str(1024**2) for name in ("attempts", "events", "quarantine", "archive")}
    async with (
        _Limited(tmp_path / "nats") as server,
        Site(tmp_path, server, **sizes) as site,
        running(site) as api,
    ):
        await site.destination("orders", "https://example.com/in")
        producer, other = await api.client("producer"), await _set_up_theirs(api)
        fill = Publication(subjects.overflow(OURS, "orders"), b"x" * 500_000, {})

        async def fill_to(megabytes: int) -> None:
            connection = site.jetstream.connection
            while (await management.account_info(connection))["storage"] < megabytes * 1_000_000:
                await site.jetstream.publisher.publish(fill)

        async def statuses() -> tuple[int, int]:
            small = {**BODY, "payload": "x"}
            ours = await producer("POST", f"/v1/tenants/{OURS}/deliveries", small)
            theirs = await other("POST", f"/v1/tenants/{THEIRS}/deliveries", small)
            return ours.status, theirs.status

        async def are(*wanted: int) -> bool:
            return await statuses() == wanted

        await fill_to(12)
        assert await statuses() == (202, 202)
        await fill_to(16)
        await until(lambda: are(507, 202), 20)
        await fill_to(20)
        await until(lambda: are(507, 507), 20)
        refused = await _deliver(other, THEIRS)
        result = await site.jetstream.publisher.publish(
            Publication(subjects.attempted(OURS, "orders", "x"), b"x" * 1000, {})
        )
        await site.jetstream.connection.api(f"STREAM.PURGE.{streams.OVERFLOW.name}")
        await until(lambda: are(202, 202), 20)

    assert "nearly full" in refused.json["detail"]
    assert result.seq == 1


async def test_results_and_events_never_exceed_their_size(site: Site) -> None:
    """The oldest are removed, and nothing is refused."""
    site.settings = site.load(attempts_max_bytes="1048576", events_max_bytes="1048576", quarantine_max_bytes="1048576")
    await site.apply()
    kept = {
        streams.ATTEMPTS: subjects.attempted(OURS, "orders", "x"),
        streams.EVENTS: subjects.operational("config.changed", OURS, "x"),
        streams.QUARANTINE: subjects.quarantined(subjects.requested(OURS, "orders")),
    }
    for stream, subject in kept.items():
        publication = Publication(subject, b"x" * 50_000, {})
        stored = [await site.jetstream.publisher.publish(publication) for _ in range(30)]
        state = (await management.stream_info(site.jetstream.connection, stream.name)).state
        assert state.bytes <= 1024**2
        assert state.last_seq == stored[-1].seq


def test_the_sizes_and_the_quotas_of_a_tenant_fit_into_the_shipped_store() -> None:
    """One tenant cannot use up what the others need, and the program has the defaults of the settings."""
    settings = Settings()
    tenant = settings.tenant.max_waiting_bytes + settings.tenant.max_failed_bytes

    assert stream_limits(settings) == topology.DEFAULT_LIMITS
    assert topology.DEFAULT_LIMITS.reserved_bytes + tenant <= manifests.STORE_GB * 10**9


async def test_a_full_archive_loses_the_oldest_deliveries_of_the_tenant_that_fills_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant within its share keeps what it has, although it is older."""
    monkeypatch.setattr(stored_bytes, "SLOT_BYTES", 50_000)
    site.settings = site.load(archive_max_bytes="1048576")
    await site.apply()
    await _fill(site, THEIRS, streams.DELIVERED, 5, 10_000)
    await _fill(site, OURS, streams.DELIVERED, 85, 10_000)
    async with running(site, archive_max_bytes="1048576"):

        async def trimmed() -> bool:
            async with open_jetstream(site.settings, name="test") as jetstream:
                found = await stored_bytes.read_stored_bytes(jetstream.connection, streams.DELIVERED.name)
            return found[OURS] <= 262_144 and found[THEIRS] > 50_000

        assert await until(trimmed, 20)
        last = (await site.records(streams.DELIVERED))[-1]

    assert last.sequence == 90
