"""Commands that query running consumers: refresh secrets and check a credential."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from messaging.client.connection import IncomingMessage
from oneprotect.cli.app import run
from oneprotect.dev.sample_secrets import write_sample_secrets
from schemas import streams, subjects
from schemas.codes import CredentialStatus
from schemas.control_messages import RefreshSecrets
from tests.support.commandline import Ran
from tests.support.leaks import Canary, Search
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until

RunHere = Callable[..., Awaitable[Ran]]

REFRESH = ("secret", "refresh", "--tenant", TENANT)
CHECK = ("credential", "check", "key", "--tenant", TENANT)


def _manifest(site: Site) -> Path:
    return site.directory / "secrets" / NAMESPACE / "signing-key.json"


def _require_discretion(site: Site, ran: Ran) -> None:
    """Require that the output contains neither the secret nor the ref."""
    assert Search(Canary("secret", site.secret)).find(ran.out + ran.err) == []
    assert "signing-key" not in ran.out + ran.err
    assert "k8s://" not in ran.out + ran.err


async def _is_configured(site: Site) -> bool:
    view = await site.jetstream.configuration.get_credential(TENANT, "key")
    return view.status is CredentialStatus.CONFIGURED


async def _are_running(site: Site, count: int) -> bool:
    """Return whether that many consumers listen for requests."""
    info = await site.jetstream.connection.api(f"CONSUMER.INFO.{streams.WORK.name}.{streams.WORK_CONSUMER.name}")
    return int(info["num_waiting"]) == count


@contextlib.asynccontextmanager
async def _hearing(site: Site, *answers: bytes) -> AsyncGenerator[list[RefreshSecrets]]:
    """Collect the refresh requests that a fake consumer receives and answers."""
    heard: list[RefreshSecrets] = []

    async def hear(incoming: IncomingMessage) -> None:
        heard.append(msgspec.json.decode(incoming.data, type=RefreshSecrets))
        for answer in answers:
            await site.jetstream.connection.publish(incoming.reply, answer)

    subscription = await site.jetstream.connection.subscribe(subjects.REFRESH, hear)
    await site.jetstream.connection.flush()
    try:
        yield heard
    finally:
        await subscription.unsubscribe()


async def test_every_consumer_reports_the_secrets_it_removed(site: Site, oneprotect: RunHere) -> None:
    """Each consumer has a row, with the number of removed secrets, or `all`."""
    async with site.consumer(), site.consumer(), site.consumer():
        await until(lambda: _are_running(site, 3))
        one = await oneprotect(*REFRESH, "--credential", "key", "--json")
        everything = await oneprotect("secret", "refresh", "--all")

    assert (one.code, everything.code) == (0, 0)
    workers = [answer["worker"] for answer in one.json["workers"]]
    assert workers == sorted(set(workers))
    assert len(workers) == 3
    assert [answer["forgotten"] for answer in one.json["workers"]] == [1, 1, 1]
    assert [line.split() for line in everything.out.splitlines()[1:]] == [[worker, "all"] for worker in workers]
    _require_discretion(site, one)
    _require_discretion(site, everything)


async def test_a_refresh_makes_the_next_delivery_use_the_new_key(
    site: Site, oneprotect: RunHere, receiver: Scripted
) -> None:
    """Consumers sign with the new key at once after a rotation and a refresh."""
    await site.destination("orders", receiver.url)
    async with site.consumer():
        await _deliver(site, receiver)
        await until(lambda: _is_checked(site))  # then every consumer reads the Secret again
        await _deliver(site, receiver)
        write_sample_secrets(site.directory / "secrets", namespace=NAMESPACE, tenant=TENANT, names=["signing-key"])
        await _deliver(site, receiver)
        ran = await oneprotect(*REFRESH)
        await _deliver(site, receiver)
    versions = [result.secret_version for result in await site.results()]

    assert ran.code == 0
    assert versions[1] == versions[2]
    assert versions[2] != versions[3]


async def _is_checked(site: Site) -> bool:
    return all(one.checked_at for one in await site.jetstream.configuration.list_credentials(TENANT))


async def _deliver(site: Site, receiver: Scripted) -> None:
    delivery = await site.deliver("orders")
    await until(lambda: receiver.of(delivery))
    await until(lambda: site.results(delivery))


@pytest.mark.parametrize(
    ("options", "refresh"),
    [
        (("--all",), RefreshSecrets()),
        (("--tenant", TENANT, "--credential", "key"), RefreshSecrets(tenant=TENANT, credential="key")),
    ],
)
async def test_the_request_to_consumers_has_the_options(
    site: Site, oneprotect: RunHere, options: tuple[str, ...], refresh: RefreshSecrets
) -> None:
    """One request reaches all consumers, and an unreadable reply is not counted."""
    async with _hearing(site, b"garbage", b'{"worker": "w-1", "forgotten": 2}', b"{}") as asked:
        ran = await oneprotect("secret", "refresh", *options, "--json")

    assert ran.json == {"workers": [{"worker": "w-1", "forgotten": 2}]}
    assert asked == [refresh]


async def test_a_refresh_without_replies_fails(site: Site, oneprotect: RunHere) -> None:
    """A request without replies exits with code 1 and an error."""
    async with _hearing(site) as asked:
        ran = await oneprotect(*REFRESH, "--json")

    assert (ran.code, ran.out) == (1, "")
    assert ran.error["error"].startswith("no consumer replied")
    assert "oneprotect consumer" in ran.error["error"]
    assert asked == [RefreshSecrets(tenant=TENANT)]


@pytest.mark.serial
async def test_without_consumers_a_refresh_fails_at_once(oneprotect: RunHere) -> None:
    """Without subscribed consumers there is no wait for a reply."""
    began_at = asyncio.get_running_loop().time()
    refresh = await oneprotect(*REFRESH)
    check = await oneprotect(*CHECK)
    took_s = asyncio.get_running_loop().time() - began_at

    assert (refresh.code, check.code) == (1, 1)
    assert check.err.startswith("error: no consumer answered, and only consumers can read Secrets")
    assert took_s < 3


async def test_a_slip_of_the_finger_is_no_revocation(site: Site, oneprotect: RunHere) -> None:
    """An unknown tenant or credential exits with code 1, without a request to consumers."""
    async with _hearing(site, b'{"worker": "w-1", "forgotten": 1}') as asked:
        unknown = await oneprotect(*REFRESH, "--credential", "kez")
        nobody = await oneprotect("secret", "refresh", "--tenant", "acne")
        unchecked = await oneprotect("credential", "check", "kez", "--tenant", TENANT)
        before = list(asked)
        right = await oneprotect(*REFRESH)

    assert (unknown.code, nobody.code, unchecked.code, right.code) == (1, 1, 1, 0)
    assert "no credential of this name" in unknown.err
    assert "the tenant has no credentials" in nobody.err
    assert "no credential of this name" in unchecked.err
    assert before == []
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "--tenant: required, unless --all is set"),
        (("--credential", "key"), "--credential: requires --tenant"),
        (("--all", "--tenant", "acme"), "--all: conflicts with --tenant"),
        (("--tenant", "whsec_C2FVsBQIhrsc"), "--tenant: expected 1 to 63 of a-z"),
        (("--tenant", "acme", "--credential", "whsec_C2FVsBQIhrsc"), "--credential: expected 1 to 63 of a-z"),
    ],
)
def test_a_refresh_requires_one_scope(options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A refresh without a scope, or with two, is refused without its input."""
    code = run(["secret", "refresh", *options])

    shown = capsys.readouterr().err
    assert code == 2
    assert told in shown
    assert "C2FVsBQ" not in shown


async def test_a_credential_that_can_sign(site: Site, oneprotect: RunHere) -> None:
    """The command shows the status that a consumer finds now and exits with code 0."""
    async with site.consumer():
        await until(lambda: _is_configured(site))
        plain = await oneprotect(*CHECK)
        as_json = await oneprotect(*CHECK, "--json")

    assert (plain.code, as_json.code) == (0, 0)
    assert "configured" in plain.out
    assert (as_json.json["id"], as_json.json["tenant"], as_json.json["status"]) == ("key", TENANT, "configured")
    assert as_json.json["version"]
    assert plain.err == as_json.err == ""
    _require_discretion(site, plain)
    _require_discretion(site, as_json)


def _unlabelled(manifest: dict[str, Any]) -> None:
    manifest["metadata"]["labels"] = {}


def _padded(manifest: dict[str, Any]) -> None:
    stored = base64.b64decode(manifest["data"]["signing"])
    manifest["data"]["signing"] = base64.b64encode(stored + b"\n").decode()


def _renamed(manifest: dict[str, Any]) -> None:
    manifest["data"]["another"] = manifest["data"].pop("signing")


@pytest.mark.parametrize(
    ("spoil", "status", "mending"),
    [
        (_unlabelled, "mismatch", "label the Secret oneprotect.io/tenant and oneprotect.io/purpose"),
        (_padded, "malformed", "with `printf %s` instead of `echo`"),
        (_renamed, "missing", "the Secret, or the key in it, does not exist; create it"),
    ],
)
async def test_a_credential_that_can_not_sign(
    site: Site, oneprotect: RunHere, spoil: Callable[[dict[str, Any]], None], status: str, mending: str
) -> None:
    """The command shows the status and one sentence with the remedy, and exits with code 1."""
    manifest = msgspec.json.decode(_manifest(site).read_bytes())
    spoil(manifest)
    async with site.consumer():
        await until(lambda: _is_configured(site))
        _manifest(site).write_bytes(msgspec.json.encode(manifest))
        plain = await oneprotect(*CHECK)
        as_json = await oneprotect(*CHECK, "--json")

    assert (plain.code, as_json.code) == (1, 1)
    assert status in plain.out
    assert plain.err.startswith(f"error: {status}: ")
    assert plain.err.count("\n") == 1
    assert mending in plain.err
    assert as_json.json["status"] == as_json.error["status"] == status
    _require_discretion(site, plain)
    _require_discretion(site, as_json)


async def test_a_misconfigured_rollover_is_shown(site: Site, oneprotect: RunHere) -> None:
    """`check` and `get` show that a previous key without an expiry does not sign."""
    manifest = msgspec.json.decode(_manifest(site).read_bytes())
    manifest["data"]["signing.previous"] = base64.b64encode(Canary.secret().reveal_bytes()).decode()
    _manifest(site).write_bytes(msgspec.json.encode(manifest))
    async with site.consumer():
        await until(lambda: _is_configured(site))
        check = await oneprotect(*CHECK)
        get = await oneprotect("credential", "get", "key", "--tenant", TENANT)

    assert (check.code, get.code) == (0, 0)
    for ran in (check, get):
        assert "misconfigured: the previous key does not sign" in ran.out
        _require_discretion(site, ran)
