"""Credentials in consumers: status, waiting deliveries, and refresh."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from messaging.client.connection import IncomingMessage
from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import streams, subjects
from schemas.codes import CredentialStatus, Outcome
from schemas.configuration import CredentialState
from schemas.control_messages import CheckCredential, RefreshReply, RefreshSecrets
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until


def _manifest(site: Site) -> Path:
    return site.directory / "secrets" / NAMESPACE / "signing-key.json"


async def _status(site: Site, credential: str = "key") -> CredentialStatus:
    return (await site.jetstream.configuration.get_credential(TENANT, credential)).status


async def _has_status(site: Site, status: CredentialStatus) -> bool:
    return await _status(site) is status


async def _status_events(site: Site) -> list[tuple[str, str]]:
    events = [
        msgspec.json.decode(record.data)["data"]
        for record in await site.records(streams.EVENTS)
        if ".credential.status_changed." in record.subject
    ]
    return [(event["previous_status"], event["status"]) for event in events]


async def test_a_credential_is_checked_when_it_appears(site: Site) -> None:
    """The status turns from unchecked to configured, with version and provider, and one event reports it."""
    before = await _status(site)

    async with site.consumer(), site.consumer():
        await until(lambda: _has_status(site, CredentialStatus.CONFIGURED))
        view = await site.jetstream.configuration.get_credential(TENANT, "key")

    assert before is CredentialStatus.UNCHECKED
    assert view.provider == "local"
    assert view.version
    assert view.checked_at is not None
    assert await _status_events(site) == [("unchecked", "configured")]


def _without_labels(manifest: dict[str, dict[str, object]]) -> None:
    manifest["metadata"]["labels"] = {}


def _with_a_short_key(manifest: dict[str, dict[str, object]]) -> None:
    manifest["data"]["signing"] = "c2hvcnQ="


def _without_the_key(manifest: dict[str, dict[str, object]]) -> None:
    del manifest["data"]["signing"]


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (_without_labels, CredentialStatus.MISMATCH),
        (_with_a_short_key, CredentialStatus.MALFORMED),
        (_without_the_key, CredentialStatus.MISSING),
    ],
)
async def test_each_defect_has_its_status(
    site: Site, spoil: Callable[[dict[str, dict[str, object]]], None], status: CredentialStatus
) -> None:
    """Each defect that makes a Secret unusable has its status."""
    manifest = msgspec.json.decode(_manifest(site).read_bytes())
    spoil(manifest)
    _manifest(site).write_bytes(msgspec.json.encode(manifest))

    async with site.consumer():
        await until(lambda: _has_status(site, status))

    assert await _status_events(site) == [("unchecked", status.value)]


@pytest.mark.retry
async def test_deliveries_that_wait_for_a_secret_continue_when_it_appears(tmp_path: Path, site: Site) -> None:
    """They continue before their next retry, with all attempts left."""
    waiting = Site(tmp_path, site.server, secret_retry_schedule_s="3600")
    async with waiting, Scripted([500, 200]) as receiver:
        content = _manifest(waiting).read_bytes()
        _manifest(waiting).unlink()
        await waiting.destination("orders", receiver.url, retry_schedule_s=[0.1])
        async with waiting.consumer():
            deliveries = [await waiting.deliver("orders") for _ in range(5)]
            await until(lambda: _has_status(waiting, CredentialStatus.MISSING))
            await until(lambda: _scheduled(waiting, 5))
            assert receiver.seen == []
            _manifest(waiting).write_bytes(content)
            await _check(waiting)
            await until(lambda: len(receiver.seen) == 10, 10)
            await until(waiting.is_settled, 10)
        results = await waiting.results()

    assert {delivery: len(receiver.of(delivery)) for delivery in deliveries} == dict.fromkeys(deliveries, 2)
    assert [result.attempt for result in results if result.outcome is Outcome.DELIVERED] == [2] * 5


async def _scheduled(site: Site, count: int) -> bool:
    return len(await site.records(streams.RETRIES)) == count


async def _check(site: Site) -> CredentialState:
    asked = msgspec.json.encode(CheckCredential(tenant=TENANT, credential="key"))
    answer = await site.jetstream.connection.ask(subjects.CHECK, asked)
    return msgspec.json.decode(answer.data, type=CredentialState)


async def test_a_check_on_request_reads_the_secret_now(site: Site) -> None:
    """A requested check ignores the cache and reads the Secret."""
    async with site.consumer():
        await until(lambda: _has_status(site, CredentialStatus.CONFIGURED))
        _manifest(site).unlink()
        state = await _check(site)

    assert state.status is CredentialStatus.MISSING
    assert await _status(site) is CredentialStatus.MISSING


async def test_a_refresh_makes_every_consumer_use_the_new_secret(site: Site, receiver: Scripted) -> None:
    """All consumers sign with a rotated secret at once, although the old one is cached."""
    await site.destination("orders", receiver.url)
    async with site.consumer(), site.consumer():
        await site.deliver("orders")
        await until(lambda: len(receiver.seen) == 1)
        write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=TENANT, names=["signing-key"])
        workers = await _refresh(site, RefreshSecrets(tenant=TENANT, credential="key"), answers=2)
        versions = {(await _delivered_version(site, receiver)) for _ in range(6)}

    first = (await site.results())[0].secret_version
    assert len(workers) == 2
    assert first not in versions
    assert len(versions) == 1


async def _refresh(site: Site, asked: RefreshSecrets, *, answers: int) -> set[str]:
    workers: set[str] = set()
    inbox = site.jetstream.connection.new_inbox()

    async def receive(incoming: IncomingMessage) -> None:
        workers.add(msgspec.json.decode(incoming.data, type=RefreshReply).worker)

    await site.jetstream.connection.subscribe(inbox, receive)
    await site.jetstream.connection.publish(subjects.REFRESH, msgspec.json.encode(asked), reply=inbox)
    await until(lambda: len(workers) == answers)
    return workers


async def _delivered_version(site: Site, receiver: Scripted) -> str | None:
    delivery = await site.deliver("orders")
    await until(lambda: receiver.of(delivery))
    await until(lambda: site.results(delivery))
    return (await site.results(delivery))[0].secret_version


async def test_a_changed_credential_is_used_at_once(site: Site, receiver: Scripted) -> None:
    """Another ref in the credential, and the next delivery is signed with that Secret's key."""
    write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=TENANT, names=["another"])
    await site.destination("orders", receiver.url)
    async with site.consumer():
        first = await _delivered_version(site, receiver)
        await site.jetstream.configuration.set_credential(
            TENANT, "key", {"secret_ref": f"k8s://{NAMESPACE}/another/signing"}, by="test"
        )
        await until(lambda: _has_status(site, CredentialStatus.CONFIGURED))
        second = await _delivered_version(site, receiver)

    assert first != second


@pytest.mark.parametrize(
    ("expires_in_days", "active", "misconfigured"),
    [(1, True, False), (-1, False, False), (40, False, True), (None, False, True)],
)
async def test_a_rollover_is_shown(site: Site, expires_in_days: int | None, active: bool, misconfigured: bool) -> None:
    """The status shows whether two keys sign, until when, and an unreliable previous key."""
    manifest = msgspec.json.decode(_manifest(site).read_bytes())
    manifest["data"]["signing.previous"] = base64.b64encode(b"whsec_" + base64.b64encode(bytes(range(32)))).decode()
    expires_at = None if expires_in_days is None else datetime.now(UTC) + timedelta(days=expires_in_days)
    if expires_at:
        manifest["metadata"]["annotations"] = {"oneprotect.io/previous-expires-at": expires_at.isoformat()}
    _manifest(site).write_bytes(msgspec.json.encode(manifest))

    async with site.consumer():
        await until(lambda: _has_status(site, CredentialStatus.CONFIGURED))
        view = await site.jetstream.configuration.get_credential(TENANT, "key")

    assert view.rollover.active is active
    assert view.rollover.expires_at == expires_at
    assert view.rollover.misconfigured is misconfigured


async def test_the_status_shows_the_version_that_signs(site: Site, receiver: Scripted) -> None:
    """It follows a rotation when a delivery was signed with the new key, without a check."""
    await site.destination("orders", receiver.url)
    async with site.consumer_process(environ={"ONEPROTECT_SECRET_CACHE_TTL_S": "1"}):
        await until(lambda: _has_status(site, CredentialStatus.CONFIGURED), 30)
        before = await site.jetstream.configuration.get_credential(TENANT, "key")
        _manifest(site).write_bytes(_manifest(site).read_bytes())

        async def has_followed() -> bool:
            await site.deliver("orders")
            return (await site.jetstream.configuration.get_credential(TENANT, "key")).version != before.version

        await until(has_followed, 20)
