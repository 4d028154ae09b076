"""Deliveries that wait for a secret are resumed although consumers, the server or messages between them are lost."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from consumers.credentials.checker import CredentialChecker
from consumers.destinations.destination_index import DestinationIndex
from consumers.destinations.directory import ConfigurationDirectory
from consumers.retries.reschedule import RetryNow, WaitingDeliveryResumer
from consumers.retries.server_clock import ServerClock
from messaging.client.errors import JetStreamError, ServerUnavailable
from messaging.publication import Publication
from oneprotect.bootstrap.resources import open_jetstream, open_provider
from provider.cache.provider import CachedSecretProvider
from provider.errors import SecretError, SecretNotFound, SecretUnavailable
from provider.local import LocalSecretProvider
from provider.provider import SnapshotReader
from provider.secret_ref import SecretRef
from provider.snapshot import SecretSnapshot
from schemas import streams, subjects
from schemas.codes import Code, CredentialStatus
from schemas.headers import HEADER_SCHEDULE, HEADER_SCHEDULE_TARGET, HEADER_SECRET_WAITS
from tests.support.logs import product_logging
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site, document
from tests.support.waiting import until

pytestmark = pytest.mark.retry

COUNT = 300
"""Waiting deliveries: their resumption takes a second."""
KEY = f"{TENANT}.key"


class _Reader:
    """The site's Secrets as one consumer sees them, and how often it read."""

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self.error: type[SecretError] | None = None
        self.reads = 0

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return await self._reader.read(ref)

    async def aclose(self) -> None:
        await self._reader.aclose()


@contextlib.asynccontextmanager
async def _checker(site: Site, reader: _Reader | None = None) -> AsyncGenerator[CredentialChecker]:
    """Run a consumer's checker, whose checks follow each other quickly. It is killed at the end."""
    stop = asyncio.Event()
    async with open_jetstream(site.settings, name="checker") as jetstream:
        directory = ConfigurationDirectory(jetstream.destinations, jetstream.credentials)
        destinations = DestinationIndex(jetstream.destinations, jetstream.connection)
        await directory.start()
        jetstream.connection.on_reconnect(directory.forget)
        await destinations.start()
        clock = ServerClock(jetstream.connection)
        provider = CachedSecretProvider(reader) if reader else await open_provider(site.settings)
        checker = CredentialChecker(
            directory=directory,
            credentials=jetstream.credentials,
            statuses=jetstream.statuses,
            provider=provider,
            provider_name="local",
            publisher=jetstream.publisher,
            resumption=WaitingDeliveryResumer(jetstream.connection, jetstream.publisher, destinations, clock),
            leases=jetstream.leases,
            worker="checker",
            secret_namespace=NAMESPACE,
            spread=_soon,
        )
        running = asyncio.create_task(checker.run(stop))
        yield checker
    running.cancel()  # without a connection, so it can release nothing
    await asyncio.wait({running})
    await provider.aclose()


async def _wait_for_the_secret(site: Site, count: int = COUNT) -> None:
    """Store deliveries that wait an hour for the secret."""
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    headers = {
        HEADER_SCHEDULE: f"@at {at}",
        HEADER_SCHEDULE_TARGET: subjects.due(TENANT, "orders"),
        HEADER_SECRET_WAITS: "1",
    }
    names = [f"dlv_{number}" for number in range(count)]
    await asyncio.gather(
        *(
            site.jetstream.publisher.publish(
                Publication(subjects.scheduled(TENANT, "orders", name), document("orders", delivery=name), headers)
            )
            for name in names
        )
    )


async def _waiting(site: Site) -> int:
    return sum(".scheduled." in record.subject for record in await site.records(streams.RETRIES))


async def _has_begun(site: Site) -> bool:
    return await _waiting(site) < COUNT


async def _is_resumed(site: Site) -> bool:
    view = await site.jetstream.configuration.get_credential(TENANT, "key")
    return view.status is CredentialStatus.CONFIGURED and view.resuming_since is None and not await _waiting(site)


async def test_another_consumer_resumes_what_a_killed_one_left(site: Site) -> None:
    """The status is stored already, and the killed consumer has the lease."""
    await site.destination("orders", "http://127.0.0.1:1024/")
    await _wait_for_the_secret(site)

    async with _checker(site):
        await until(lambda: _has_begun(site))
    left = await _waiting(site)
    async with _checker(site), _checker(site):
        await until(lambda: _is_resumed(site), 20)

    assert 0 < left < COUNT


async def test_the_resumption_continues_after_a_restart_of_the_server(site: Site) -> None:
    """The consumer is still there, and finds at its next check what it could not resume."""
    await site.destination("orders", "http://127.0.0.1:1024/")
    await _wait_for_the_secret(site)

    with product_logging("warning") as logs:
        async with _checker(site):
            await until(lambda: _has_begun(site))
            await site.server.kill()
            await until(lambda: "credentials.resume_failed" in logs.getvalue(), 20)
            await site.server.restart()
            left = await _waiting(site)
            await until(lambda: _is_resumed(site), 20)

    assert 0 < left < COUNT


async def test_a_check_on_request_resumes_what_waits_for_a_usable_secret(site: Site) -> None:
    """An older version stored the status, for example, and ended before it resumed the deliveries."""
    await site.destination("orders", "http://127.0.0.1:1024/")

    async with _checker(site) as checker:
        await until(lambda: _is_resumed(site))
        await _wait_for_the_secret(site, 10)
    async with _checker(site) as checker:
        await checker.check(TENANT, "key")
        before = await _waiting(site)
        state = await checker.check(TENANT, "key", fresh=True)
        await until(lambda: _is_resumed(site))

    assert before == 10
    assert state is not None
    assert state.resuming_since is not None


async def test_a_delivery_that_missed_a_usable_secret_is_resumed(site: Site) -> None:
    """Its consumer had not heard yet that the Secret is usable."""
    await site.destination("orders", "http://127.0.0.1:1024/")

    async with _checker(site):
        await until(lambda: _is_resumed(site))
    async with _checker(site) as checker:
        await checker.check(TENANT, "key")
        await _wait_for_the_secret(site, 1)
        checker.on_secret_result(KEY, Code.SECRET_NOT_FOUND)
        await until(lambda: _is_resumed(site))


async def test_repeated_checks_do_not_resume_again_and_again(site: Site) -> None:
    """Half a minute passes between two resumptions of a credential."""
    await site.destination("orders", "http://127.0.0.1:1024/")

    async with _checker(site) as checker:
        await until(lambda: _is_resumed(site))
        await _wait_for_the_secret(site, 1)
        for _ in range(20):
            await checker.check(TENANT, "key", fresh=True)
        view = await site.jetstream.configuration.get_credential(TENANT, "key")
        left = await _waiting(site)

    assert left == 1
    assert view.resuming_since is not None


async def test_a_stopped_consumer_leaves_the_resumption_to_the_next_at_once(tmp_path: Path, site: Site) -> None:
    """Each delivery is sent once, also those of an ordered queue, whose new holder missed the call."""
    waiting = Site(tmp_path, site.server, secret_retry_schedule_s="3600")
    secret = waiting.directory / "secrets" / NAMESPACE / "signing-key.json"
    content = secret.read_bytes()
    async with waiting, Scripted([200]) as receiver:
        await waiting.destination("orders", receiver.url)
        await waiting.destination("steps", receiver.url, ordering="fifo")
        secret.unlink()
        async with waiting.consumer():
            ordered = await waiting.deliver("steps")
            await until(lambda: waiting.results(ordered))
            retry = RetryNow(waiting.jetstream.connection, waiting.jetstream.publisher)
            assert await retry.retry(TENANT, ordered) == ("steps",)
        await _wait_for_the_secret(waiting)
        with pytest.raises(ServerUnavailable, match="ordered queue"):
            await retry.retry(TENANT, ordered)

        secret.write_bytes(content)
        async with waiting.consumer():
            await until(lambda: _has_begun(waiting))
        left = await _waiting(waiting)
        async with waiting.consumer():
            await until(waiting.is_settled, 10)

        assert 0 < left < COUNT
        assert len(set(receiver.ids())) == len(receiver.ids()) == COUNT + 1


def _soon(_low: float, _high: float) -> float:
    return 0.01


def _reader(site: Site) -> _Reader:
    return _Reader(LocalSecretProvider(site.directory / "secrets", namespaces_allowed=frozenset({NAMESPACE})))


async def _is_resumption_owed(site: Site) -> bool:
    return (await site.jetstream.configuration.get_credential(TENANT, "key")).resuming_since is not None


async def _changes(site: Site) -> list[str]:
    """Return the statuses that were stored, in their order."""
    events = [one for one in await site.records(streams.EVENTS) if ".credential.status_changed." in one.subject]
    return [msgspec.json.decode(event.data)["data"]["status"] for event in events]


async def test_a_consumer_that_cannot_read_a_secret_changes_no_status(site: Site) -> None:
    """The others keep their copies, and resume what waits because of it."""
    await site.destination("orders", "http://127.0.0.1:1024/")
    able, cut_off = _reader(site), _reader(site)

    async with _checker(site, able):
        await until(lambda: _is_resumed(site))
        reads, cut_off.error = able.reads, SecretUnavailable
        async with _checker(site, cut_off) as checker:
            for _ in range(200):
                checker.on_secret_result(KEY, Code.SECRET_UNAVAILABLE)
                await asyncio.sleep(0.01)
            asked = await checker.check(TENANT, "key", fresh=True)
            await until(lambda: _is_resumption_owed(site), 20)
        changes = await _changes(site)

    assert asked is not None
    assert asked.status is CredentialStatus.UNAVAILABLE
    assert (changes, able.reads) == (["configured"], reads)
    assert cut_off.reads < 30


async def test_consumers_that_disagree_change_a_status_a_few_times_a_minute(site: Site) -> None:
    """Each of them sees at every delivery that the status is wrong."""
    sees, misses = _reader(site), _reader(site)
    misses.error = SecretNotFound

    async with _checker(site, sees) as one, _checker(site, misses) as other:
        await until(lambda: _changes(site))
        for _ in range(200):
            one.on_secret_result(KEY, None, "1")
            other.on_secret_result(KEY, Code.SECRET_NOT_FOUND)
            await asyncio.sleep(0.01)

    assert len(await _changes(site)) <= 4


async def test_what_did_not_change_is_not_read_again(site: Site) -> None:
    """A reconnect makes a consumer read its configuration again, and leaves the Secrets alone."""
    reader = _reader(site)
    async with _checker(site, reader) as checker:
        await until(lambda: _is_resumed(site))
        reads, before = reader.reads, await checker.check(TENANT, "key")
        await site.server.restart()

        async def is_checked() -> bool:
            with contextlib.suppress(JetStreamError):
                return await checker.check(TENANT, "key") == before
            return False

        await until(is_checked, 20)

    assert reader.reads == reads


async def test_consumers_read_a_secret_again_when_its_status_shows_another_version(site: Site) -> None:
    """They would sign with the old key for a minute."""
    first, second = _reader(site), _reader(site)
    manifest = site.directory / "secrets" / NAMESPACE / "signing-key.json"

    async with _checker(site, first) as checker, _checker(site, second) as other:
        await until(lambda: _is_resumed(site))
        before = await site.jetstream.configuration.get_credential(TENANT, "key")
        await other.check(TENANT, "key")
        manifest.write_bytes(manifest.read_bytes())  # a new time is a new version
        rotated = await checker.check(TENANT, "key", fresh=True)

        async def has_read_again() -> bool:
            state = await other.check(TENANT, "key")
            return state is not None and rotated is not None and state.version == rotated.version

        await until(has_read_again)
    assert rotated is not None
    assert rotated.version != before.version
