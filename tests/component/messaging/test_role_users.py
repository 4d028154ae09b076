"""The product under the users that are shipped: all of it works, and the server had nothing to refuse."""

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
from rich.console import Console

from messaging.admin import topology
from messaging.admin.permissions import publisher
from oneprotect.bootstrap.resources import open_jetstream
from oneprotect.cli.local.demo import DemoRun
from oneprotect.cli.local.stack import NAMESPACE, DevStack, set_up_tenant
from oneprotect.dev.receiver import DevReceiver
from oneprotect.settings.settings import Settings
from schemas import streams
from tests.support.api import running
from tests.support.commandline import CommandLine, Ran
from tests.support.receiver import Scripted
from tests.support.secured import Keys, ShippedServer
from tests.support.site import NAMESPACE as SITE_NAMESPACE
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

REFUSAL = b"permissions violation"
As = Callable[..., Awaitable[Ran]]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A key for every role."""
    return Keys(tmp_path / "keys", trusted=[publisher(TENANT)])


@contextlib.asynccontextmanager
async def _site(directory: Path, keys: Keys, **settings: str) -> AsyncGenerator[tuple[Site, Process]]:
    """A site that an operator has set up, and a consumer process with the consumer's user."""
    async with ShippedServer(directory / "nats", keys) as server:
        operator = {
            name.removeprefix("ONEPROTECT_").lower(): value
            for name, value in keys.settings("operator", server.url).items()
        }
        async with Site(directory, server, **operator, **settings) as site:
            process = await Process.start(site.environ | keys.settings("consumer", server.url), "consumer")
            try:
                await until(lambda: process.says("consumer.started"), 20)
                yield site, process
                process.terminate()
                assert await process.wait() == 0
            finally:
                process.kill()
                await process.wait()


def _refusals(server: ShippedServer) -> list[str]:
    return [line for line in server.log_path.read_text().splitlines() if "Violation" in line]


async def test_the_whole_demo_passes_under_role_users(tmp_path: Path, keys: Keys) -> None:
    """The operator, the API and the consumer can do their parts without a refusal."""
    out = io.StringIO()
    async with ShippedServer(tmp_path / "nats", keys) as server, DevReceiver() as receiver:
        common = {
            "ONEPROTECT_SECRET_PROVIDER": "local",
            "ONEPROTECT_LOCAL_SECRETS_DIR": str(tmp_path / "secrets"),
            "ONEPROTECT_SECRET_NAMESPACE": NAMESPACE,
            "ONEPROTECT_EGRESS_ALLOW_CIDRS": "127.0.0.0/8",
            "ONEPROTECT_EGRESS_ALLOW_HTTP": "true",
            "ONEPROTECT_EGRESS_PORTS": "443,1024-65535",
        }
        operator, api, consumer = (common | keys.settings(role, server.url) for role in ("operator", "api", "consumer"))
        async with open_jetstream(Settings.load(operator), name="operator") as jetstream:
            await topology.apply(jetstream.connection, replicas=1, work_per_destination=1000, ack_wait_s=30)
        settings = Settings.load(api)
        process = await Process.start(consumer, "consumer")
        try:
            async with open_jetstream(settings, name="api") as jetstream:
                await set_up_tenant(jetstream, receiver, tmp_path / "secrets")
                await until(lambda: process.says("consumer.started"), 20)
                stage = DevStack(jetstream, receiver, settings, process.process)
                code = await DemoRun(stage, Console(file=out, width=120), as_json=False).run()
            process.terminate()
            assert await process.wait() == 0
        finally:
            process.kill()
        refusals = _refusals(server)

    assert code == 0, out.getvalue()
    assert "All 100 deliveries ended as expected" in out.getvalue()
    assert refusals == []
    assert REFUSAL not in process.output


async def test_overflow_is_moved_back_and_failures_are_stored_under_role_users(tmp_path: Path, keys: Keys) -> None:
    """The consumer's user is sufficient for all work of the consumer."""
    async with _site(tmp_path, keys, work_per_destination="2") as (site, process), Scripted() as receiver:
        gone = Scripted([410])
        async with gone, Scripted([500]) as broken:
            await site.destination("orders", receiver.url, max_in_flight=1)
            await site.destination("slow", receiver.url, rate_per_s=20.0)
            await site.destination("line", receiver.url, ordering="fifo")
            await site.destination("told", receiver.url, event_types=["oneprotect.destination.*"])
            await site.destination("gone", gone.url)
            await site.destination("broken", broken.url, retry_schedule_s=[0.2])
            sent = [await site.deliver("orders") for _ in range(12)]
            sent += [await site.deliver("slow") for _ in range(3)]
            in_line = [await site.deliver("line") for _ in range(6)]
            sent += in_line
            await site.deliver("gone")
            await site.deliver("broken")
            await site.publish("orders", b"not JSON", "dlv_x")
            await until(lambda: set(receiver.ids()) >= set(sent), 30)
            await until(lambda: any(b"oneprotect.destination.disabled" in seen.body for seen in receiver.seen), 30)
            await until(site.is_settled, 30)
            disabled = await site.jetstream.configuration.get_destination(TENANT, "gone")
        kept = await site.records(streams.FAILED)
        quarantined = await site.records(streams.QUARANTINE)
        refusals = _refusals(_server(site))

    assert not disabled.enabled
    assert [one for one in receiver.ids() if one in in_line] == in_line
    assert len(kept) == 2
    assert len(quarantined) == 1
    assert refusals == []
    assert REFUSAL not in process.output


async def test_the_api_works_with_its_own_user(tmp_path: Path, keys: Keys) -> None:
    """No operation of the API is refused."""
    async with _site(tmp_path, keys) as (site, _), Scripted() as receiver:
        user = {
            name.removeprefix("ONEPROTECT_").lower(): value
            for name, value in keys.settings("api", site.server.url).items()
        }
        async with running(site, ready=True, **user) as api:
            client = await api.client("producer", "admin", "operator", "viewer")
            path = f"/v1/tenants/{TENANT}"
            destination = {"url": receiver.url, "credential": "own", "event_types": ["invoice.*"]}
            credential = {"purpose": "webhook-signing", "secret_ref": f"k8s://{SITE_NAMESPACE}/signing-key/signing"}
            answers = [
                await client("PUT", f"{path}/credentials/own", credential),
                await client("POST", f"{path}/credentials/own/check"),
                await client("PUT", f"{path}/destinations/one", destination),
                await client("PUT", f"{path}/destinations/two", destination),
                await client("POST", f"{path}/destinations/two/disable", {"reason": "test"}),
                await client("POST", f"{path}/destinations/two/enable"),
                await client("POST", f"{path}/destinations/one/test"),
                await client("POST", f"{path}/deliveries", {"destination": "one", "event_type": "a.b", "payload": 1}),
                await client("POST", f"{path}/deliveries", {"event_type": "invoice.paid", "payload": 2, "id": "fan"}),
            ]
            await until(lambda: receiver.ids().count("fan") == 2, 20)
            await until(site.is_settled, 20)
            answers += [
                await client("GET", f"{path}/deliveries/fan"),
                await client("GET", f"{path}/attempts"),
                await client("GET", f"{path}/destinations"),
                await client("GET", f"{path}/credentials"),
                await client("POST", f"{path}/replays", {"filter": {}, "dry_run": True}),
                await client("POST", f"{path}/replays", {"filter": {}}),
                await client("DELETE", f"{path}/destinations/two"),
                await api.with_token(None)("GET", "/readyz"),
            ]
        refusals = _refusals(_server(site))

    assert {(answer.status, answer.body) for answer in answers if answer.status not in range(200, 300)} == set()
    assert refusals == []


def _server(site: Site) -> ShippedServer:
    assert isinstance(site.server, ShippedServer)
    return site.server


async def test_every_command_works_for_the_operator(tmp_path: Path, keys: Keys, command_line: CommandLine) -> None:
    """The operator's key is sufficient for every command."""
    async with _site(tmp_path, keys) as (site, _), Scripted([500]) as receiver:
        body = tmp_path / "body.json"
        body.write_text("{}")

        async def run(*arguments: str) -> Ran:
            return await command_line.run(site.environ | {"ONEPROTECT_LOG_LEVEL": "info"}, *arguments)

        ran = [
            await run("apply"),
            await run("apply", "--check"),
            await run("destination", "set", "--tenant", TENANT, "orders", "--url", receiver.url, "--credential", "key"),
            await run("destination", "disable", "--tenant", TENANT, "orders"),
            await run("destination", "enable", "--tenant", TENANT, "orders"),
            await run("destination", "list", "--tenant", TENANT),
            await run("credential", "check", "--tenant", TENANT, "key"),
            await run("credential", "list", "--tenant", TENANT),
            await run("secret", "refresh", "--all"),
            await run(
                *("deliver", "--tenant", TENANT, "--destination", "orders"),
                *("--event-type", "a.b", "--data", str(body)),
            ),
        ]
        await site.publish("orders", b"not JSON", "dlv_x")
        await until(lambda: _has(site, streams.QUARANTINE), 20)
        await site.jetstream.configuration.set_destination(
            TENANT, "orders", {"url": receiver.url, "credential": "key", "retry_schedule_s": [0.1]}, by="test"
        )
        await site.deliver("orders")
        await until(lambda: _has(site, streams.FAILED), 20)
        ran += [
            await run("attempts", "--tenant", TENANT),
            await run("failed", "list", "--tenant", TENANT),
            await run("replay", "--tenant", TENANT, "--dry-run"),
            await run("replay", "--tenant", TENANT),
            await run("quarantine", "list"),
            await run("quarantine", "release", "1", "--force"),
            await run("doctor"),
        ]
        refusals = _refusals(_server(site))

    assert [(one.code, one.err) for one in ran if "not allowed" in one.out + one.err] == []
    assert refusals == []


async def _has(site: Site, stream: streams.StreamConfig) -> bool:
    return bool(await site.records(stream))


@pytest.mark.serial
@pytest.mark.parametrize(
    ("role", "arguments"),
    [
        ("consumer", ("apply",)),
        ("api", ("apply",)),
        ("consumer", ("token", "list")),
        (
            "consumer",
            ("credential", "set", "--tenant", TENANT, "new", "--secret-ref", f"k8s://{SITE_NAMESPACE}/a/signing"),
        ),
        (f"publisher_{TENANT}", ("attempts", "--tenant", TENANT)),
        (f"publisher_{TENANT}", ("secret", "refresh", "--all")),
    ],
)
async def test_a_command_without_the_permission_fails_at_once(
    tmp_path: Path, keys: Keys, command_line: CommandLine, role: str, arguments: tuple[str, ...]
) -> None:
    """The command exits with 1 and names the missing permission, long before a timeout."""
    async with ShippedServer(tmp_path / "nats", keys) as server:
        assert (await command_line.run(keys.settings("operator", server.url), "apply")).code == 0
        async with asyncio.timeout(4):
            ran = await command_line.run(keys.settings(role, server.url), *arguments, "--json")

    assert ran.code == 1
    assert json.loads(ran.err.splitlines()[-1])["error"].startswith("not allowed: this user lacks publish on ")
