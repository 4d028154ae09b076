"""Checks against a real nats-server and real Secret manifests, each of them broken in turn."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.observability.stream_metrics import StreamMetrics
from messaging.client.client import ServerAccess
from messaging.client.errors import ServerUnavailable
from messaging.pull_consumer import fetch
from oneprotect.bootstrap.resources import stream_limits
from oneprotect.dev.nats_server import EmbeddedNats, free_port
from oneprotect.doctor.backlog import check_work
from oneprotect.doctor.credentials import check_credentials
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.registered_credentials import list_registered
from oneprotect.doctor.remedies import SecretProblem
from oneprotect.doctor.result import CheckResult, CheckStatus
from oneprotect.doctor.runner import NATS_GROUPS, SecretSources, examine
from provider.errors import SecretDenied
from provider.local import LocalSecretProvider
from provider.provider import SnapshotReader
from provider.secret_ref import SecretRef
from provider.snapshot import SecretSnapshot
from schemas import control_messages, streams, subjects
from schemas.codes import CredentialStatus
from telemetry.metrics import definitions
from telemetry.otlp.settings import read_endpoints
from tests.support.collector import Collector
from tests.support.leaks import Canary, Search
from tests.support.ops import Ops
from tests.support.receiver import Scripted
from tests.support.site import NAMESPACE, TENANT, Site
from tests.support.waiting import until


def _installation(site: Site, **changes: Any) -> InstallationSettings:
    settings = site.settings
    given = InstallationSettings(
        variables_set=len(site.environ),
        nats=ServerAccess(url=settings.nats.url),
        work_per_destination=settings.nats.work_per_destination,
        ack_wait_s=settings.delivery.ack_wait_s,
        provider="local",
        central_namespace=NAMESPACE,
        namespaces=frozenset({NAMESPACE}),
        local_dir=settings.secret.local_dir,
    )
    return msgspec.structs.replace(given, **changes)


def _reader(site: Site) -> LocalSecretProvider:
    return LocalSecretProvider(site.directory / "secrets", namespaces_allowed=frozenset({NAMESPACE}))


async def _examine(site: Site, *, reader: SnapshotReader | None = None, **changes: Any) -> list[CheckResult]:
    """Run all checks, and require that no result contains the secret or its ref."""
    checks = await examine(_installation(site, **changes), SecretSources(reader=reader or _reader(site)))
    _require_discretion(site, checks)
    return checks


async def _examine_credentials(site: Site) -> list[CheckResult]:
    """As `_examine`, and only the credentials."""
    registered = await list_registered(site.jetstream.connection, NAMESPACE)
    checks = await check_credentials(registered, _reader(site), is_local=True)
    _require_discretion(site, checks)
    return checks


def _require_discretion(site: Site, checks: list[CheckResult]) -> None:
    told = msgspec.json.encode(checks)
    assert Search(Canary("secret", site.secret)).find(told) == []
    assert b"signing-key" not in told
    assert f"k8s://{NAMESPACE}".encode() not in told
    assert str(site.directory).encode() not in told


def _of(checks: list[CheckResult], group: str, name: str = "") -> CheckResult:
    (found,) = (check for check in checks if check.group == group and check.name.startswith(name))
    return found


def _not_ok(checks: list[CheckResult]) -> list[tuple[str, str, CheckStatus]]:
    return [(check.group, check.name, check.status) for check in checks if check.status is not CheckStatus.OK]


async def _is_configured(site: Site, credential: str = "key") -> bool:
    view = await site.jetstream.configuration.get_credential(TENANT, credential)
    return view.status is CredentialStatus.CONFIGURED


def _manifest(site: Site) -> Path:
    return site.directory / "secrets" / NAMESPACE / "signing-key.json"


def _rewrite(site: Site, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = msgspec.json.decode(_manifest(site).read_bytes())
    change(manifest)
    _manifest(site).write_bytes(msgspec.json.encode(manifest))


async def test_all_is_well(site: Site, receiver: Scripted) -> None:
    """With consumers and one scheduled retry, every check in every group passes."""
    receiver.script = [503]
    await site.destination("orders", receiver.url, retry_schedule_s=[3600])
    async with site.consumer():
        await site.deliver("orders")
        await until(lambda: _is_configured(site))
        await until(lambda: _waits(site, 1))
        checks = await _examine(site)

    assert _not_ok(checks) == [("nats", "durability", CheckStatus.UNKNOWN)]  # this server has no system account
    assert {check.group for check in checks} == {"settings", "files", "nats", *NATS_GROUPS, "telemetry"}
    assert _of(checks, "work", "schedules").finding == "1 scheduled, none overdue"
    assert _of(checks, "credentials").finding == "1 of 1 can sign"
    assert [check.name for check in checks if check.remedy] == ["durability"]


async def _waits(site: Site, count: int) -> bool:
    return len(await site.records(streams.RETRIES)) == count


async def test_without_nats_the_other_checks_run(site: Site, nats_server: EmbeddedNats) -> None:
    """An unreachable server is one failure with a remedy. The checks that need it are unknown, and the others run."""
    await nats_server.stop()
    checks = await _examine(site)

    assert _not_ok(checks) == [
        ("nats", "reachable", CheckStatus.FAILED),
        *((group, "examined", CheckStatus.UNKNOWN) for group in NATS_GROUPS),
    ]
    assert "nats --server" in (_of(checks, "nats").remedy or "")
    assert _of(checks, "files").status is CheckStatus.OK


class _WithoutJetStream(EmbeddedNats):
    """A server that only passes messages on."""

    def _config(self, port: int) -> dict[str, Any]:
        return {name: value for name, value in super()._config(port).items() if name != "jetstream"}


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    """A server without JetStream fails, and the checks that need JetStream are skipped."""
    async with _WithoutJetStream(tmp_path / "nats") as server:
        checks = await examine(
            InstallationSettings(variables_set=0, nats=ServerAccess(url=server.url)), SecretSources()
        )

    jetstream = _of(checks, "nats", "jetstream")
    assert jetstream.status is CheckStatus.FAILED
    assert jetstream.finding.startswith("JetStream does not reply")
    assert "store_dir" in (jetstream.remedy or "")
    assert {check.group for check in checks if check.status is CheckStatus.UNKNOWN} == {"settings", *NATS_GROUPS}


@contextlib.asynccontextmanager
async def _old_server() -> AsyncGenerator[str]:
    """A fake nats-server that reports version 2.11."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = {"server_id": "OLD", "version": "2.11.4", "proto": 1, "headers": True, "max_payload": 1048576}
        writer.write(b"INFO " + msgspec.json.encode(hello) + b"\r\n")
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_an_old_server_gets_no_further_requests() -> None:
    """A server that is too old fails with its version, and nothing else is requested from it."""
    async with _old_server() as url:
        checks = await examine(InstallationSettings(variables_set=0, nats=ServerAccess(url=url)), SecretSources())

    version = _of(checks, "nats", "version")
    assert version.status is CheckStatus.FAILED
    assert "2.11.4 is too old" in version.finding
    assert "2.12" in (version.remedy or "")
    assert {check.finding for check in checks if check.group in NATS_GROUPS} == {
        "not checked, because the server is too old"
    }


async def test_streams_are_compared(site: Site) -> None:
    """Missing and different streams fail by name, and `oneprotect apply` fixes them."""
    connection = site.jetstream.connection
    await connection.api(f"STREAM.DELETE.{streams.QUARANTINE.name}")
    await connection.api(f"CONSUMER.DELETE.{streams.WORK.name}.{streams.WORK_CONSUMER.name}")

    checks = [check for check in await _examine(site, work_per_destination=7) if check.group == "streams"]
    await site.apply()
    mended = await _examine(site)

    assert {(check.name, check.status, check.remedy) for check in checks} == {
        (name, CheckStatus.FAILED, "oneprotect apply")
        for name in ("stream ONEPROTECT_WORK", "stream ONEPROTECT_QUARANTINE", "consumer ONEPROTECT_WORK/delivery")
    }
    assert "max_msgs_per_subject: 1000 → 7" in _of(checks, "streams", "stream ONEPROTECT_WORK").finding
    assert _of(mended, "streams").status is CheckStatus.OK


async def test_before_the_first_apply(nats_server: EmbeddedNats) -> None:
    """On an empty server every stream is missing, and no check crashes."""
    checks = await examine(
        InstallationSettings(variables_set=0, nats=ServerAccess(url=nats_server.url)), SecretSources()
    )

    missing = [check for check in checks if check.group == "streams"]
    assert len(missing) == len(streams.STREAMS) + len(streams.BUCKETS) + len(streams.ALL_CONSUMERS)
    assert {check.remedy for check in missing} == {"oneprotect apply"}
    assert _of(checks, "nats", "clock").status is CheckStatus.UNKNOWN
    assert {check.status for check in checks if check.group in ("work", "credentials")} == {CheckStatus.UNKNOWN}


@pytest.mark.parametrize(
    ("ahead_s", "status", "told"),
    [
        (0, CheckStatus.OK, "agree"),
        (20, CheckStatus.WARNING, "20.0 s ahead of the server's"),
        (-20, CheckStatus.WARNING, "20.0 s behind the server's"),
        (-90, CheckStatus.FAILED, "90.0 s behind the server's; receivers reject"),
    ],
)
async def test_a_clock_that_is_wrong(site: Site, ahead_s: float, status: CheckStatus, told: str) -> None:
    """A small difference of the clocks passes, and a large one is reported with its direction."""
    wrong = timedelta(seconds=ahead_s)
    checks = await examine(
        _installation(site), SecretSources(reader=_reader(site)), now=lambda: datetime.now(UTC) + wrong
    )

    clock = _of(checks, "nats", "clock")
    assert clock.status is status
    assert told in clock.finding
    assert _of(checks, "work", "schedules").status is CheckStatus.OK


async def test_work_without_consumers_fails(site: Site) -> None:
    """Without a consumer process both durable consumers fail, with the number of pending messages."""
    await site.destination("orders", "https://acme.com/hook")
    await site.deliver("orders")
    before = await _examine(site)
    async with site.consumer():
        during = await _examine(site)

    assert _of(before, "work", "consumer ONEPROTECT_WORK").status is CheckStatus.FAILED
    assert "1 pending" in _of(before, "work", "consumer ONEPROTECT_WORK").finding
    assert "oneprotect consumer" in (_of(before, "work", "consumer ONEPROTECT_RETRIES").remedy or "")
    assert _of(during, "work", "consumer ONEPROTECT_WORK").status is CheckStatus.OK
    assert _of(during, "work", "consumer ONEPROTECT_RETRIES").status is CheckStatus.OK


async def test_unsettled_work_without_requests_is_a_warning(site: Site) -> None:
    """Unsettled messages without further requests are a warning: workers are busy or have stopped."""
    await site.destination("orders", "https://acme.com/hook")
    await site.deliver("orders")
    await fetch(site.jetstream.connection, stream="ONEPROTECT_WORK", consumer="delivery", batch=1)
    check = _of(await _examine(site), "work", "consumer ONEPROTECT_WORK")

    assert check.status is CheckStatus.WARNING
    assert "1 unsettled, 0 pending" in check.finding


async def test_old_due_work_is_a_warning(site: Site) -> None:
    """Old due work is a warning, with its age and the destination with most of it."""
    for name, count in (("orders", 1), ("invoices", 2)):
        await site.destination(name, "https://acme.com/hook")
        for _ in range(count):
            await site.deliver(name)
    young = _of(await check_work(site.jetstream.connection), "work", "due work")
    old = _of(await check_work(site.jetstream.connection, old_s=0), "work", "due work")

    assert young.status is CheckStatus.OK
    assert "3, the oldest for" in young.finding
    assert old.status is CheckStatus.WARNING
    assert old.finding.startswith("3 pending, the oldest for ")
    assert old.finding.endswith(" s; most for acme/invoices (2)")


async def test_overflow_names_the_destination(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The overflow is counted, and the destination with most of it is named."""
    async with Site(tmp_path, nats_server, work_per_destination="2") as site:
        for name, count in (("orders", 5), ("invoices", 3)):
            await site.destination(name, "https://acme.com/hook")
            for _ in range(count):
                await site.deliver(name)
        check = _of(await _examine(site), "work", "overflow")

    assert check.status is CheckStatus.WARNING
    assert check.finding == "4 pending, because destinations have their maximum of due work; most for acme/orders (3)"


async def test_an_overflow_that_does_not_move_is_a_warning(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Overflow of a destination with capacity is a warning when no feeder moves it back."""
    async with Site(tmp_path, nats_server, work_per_destination="2") as site:
        await site.destination("orders", "https://acme.com/hook")
        for _ in range(5):
            await site.deliver("orders")
        await site.jetstream.connection.api("STREAM.PURGE.ONEPROTECT_WORK", {})
        check = _of(await _examine(site), "work", "overflow")

    assert check.status is CheckStatus.WARNING
    assert check.finding == "3 pending, and none moves back although there is capacity: acme/orders"


class _Limited(EmbeddedNats):
    """A server whose account may use 10 MB of disk."""

    def _config(self, port: int) -> dict[str, Any]:
        account = {"jetstream": {"max_file": 10_000_000}, "users": [{"user": "all", "password": "all"}]}
        return super()._config(port) | {"accounts": {"ALL": account}, "no_auth_user": "all"}


async def test_a_disk_that_fills(tmp_path: Path) -> None:
    """An account near its limit is a warning, at the limit a failure, and the metrics have both values."""
    sizes = {f"{name}_max_bytes": str(1024**2) for name in ("attempts", "events", "quarantine")}
    async with _Limited(tmp_path / "limited") as server, Site(tmp_path, server, archive_days="0", **sizes) as site:
        before = _of(await _examine(site), "nats", "storage")
        await _fill(site, 8_400_000)
        nearly = _of(await _examine(site), "nats", "storage")
        await _fill(site, 9_600_000)
        full = _of(await _examine(site), "nats", "storage")
        backlog, stop = StreamMetrics(site.jetstream.connection, site.jetstream.replays), asyncio.Event()
        stop.set()
        await backlog.run(stop)
        readings = list(backlog())
        told = {metric.name: value for metric, labels, value in readings if not labels}
        names = {dict(labels)["stream"] for metric, labels, _ in readings if metric is definitions.STREAM_BYTES}

    assert [check.status for check in (before, nearly, full)] == [
        CheckStatus.OK,
        CheckStatus.WARNING,
        CheckStatus.FAILED,
    ]
    assert nearly.finding.startswith("storage at 8")
    assert "docs/how-to/runbooks.md" in (full.remedy or "")
    assert told["oneprotect_jetstream_storage_limit_bytes"] == 10_000_000
    assert told["oneprotect_jetstream_storage_bytes"] > 9_500_000
    assert told["oneprotect_backlog_sample_age_seconds"] < 60
    assert names == {stream.name for stream in streams.STREAMS if not stream.archived}


async def test_sizes_that_do_not_fit_into_the_account(tmp_path: Path) -> None:
    """The doctor warns when one tenant can use up what all need, and `apply` names what the server cannot reserve."""
    sizes = {f"{name}_max_bytes": str(1024**2) for name in ("attempts", "events", "quarantine", "archive")}
    async with _Limited(tmp_path / "limited") as server, Site(tmp_path, server, **sizes) as site:
        limits = stream_limits(site.settings)
        fits = _of(await _examine(site, limits=limits, tenant_bytes=5_000_000), "nats", "sizes")
        exceeds = _of(await _examine(site, limits=limits, tenant_bytes=8_000_000), "nats", "sizes")
        site.settings = site.load(attempts_max_bytes="20000000")
        with pytest.raises(ServerUnavailable) as refused:
            await site.apply()

    assert (fits.status, exceeds.status) == (CheckStatus.OK, CheckStatus.WARNING)
    assert "one tenant can use up the room of all" in exceeds.finding
    assert "ONEPROTECT_ATTEMPTS reserves 20,000,000 bytes" in str(refused.value)
    assert "lower ONEPROTECT_ATTEMPTS_MAX_BYTES" in str(refused.value)


async def _fill(site: Site, size: int) -> None:
    while int((await site.jetstream.connection.api("INFO"))["storage"]) < size:
        await site.jetstream.publisher.put("oneprotect.delivery.overflow.acme.filler", bytes(100_000))


async def test_whether_telemetry_is_heard(site: Site) -> None:
    """Unreachable collectors and operations ports are reported by the name of their variable."""
    async with Collector() as collector:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        heard = await _examine(site, collectors=read_endpoints(environ))
    unheard = await _examine(site, collectors=read_endpoints(environ), ops_port=free_port(), ops_host="0.0.0.0")  # noqa: S104
    unreadable = await _examine(site, collectors=read_endpoints({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nowhere"}))

    assert _of(heard, "telemetry", "collector of traces").status is CheckStatus.OK
    assert _of(heard, "telemetry", "collector of metrics").status is CheckStatus.OK
    assert _of(unheard, "telemetry", "collector of traces").status is CheckStatus.WARNING
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in _of(unheard, "telemetry", "collector of traces").finding
    assert _of(unheard, "telemetry", "operations port").status is CheckStatus.UNKNOWN
    assert _of(unreadable, "telemetry", "collector of traces").status is CheckStatus.FAILED


async def test_the_operations_port_answers(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The port of a running consumer is ready. With Kubernetes, a missing port is a warning."""
    port = free_port()
    async with Site(tmp_path, nats_server, ops_port=str(port)) as site, site.consumer():
        await until(Ops(port).is_ready, 20)
        there = _of(await _examine(site, ops_port=port), "telemetry", "operations port")
        none = _of(await _examine(site, provider="kubernetes"), "telemetry", "operations port")

    assert (there.status, there.finding) == (CheckStatus.OK, "it answers: ready")
    assert none.status is CheckStatus.WARNING


def _label(**labels: str | None) -> Callable[[dict[str, Any]], None]:
    """Set labels `oneprotect.io/...`, or remove those that are None."""

    def change(manifest: dict[str, Any]) -> None:
        for name, value in labels.items():
            manifest["metadata"]["labels"].pop(f"oneprotect.io/{name}")
            if value is not None:
                manifest["metadata"]["labels"][f"oneprotect.io/{name}"] = value

    return change


def _key(change: Callable[[bytes], bytes]) -> Callable[[dict[str, Any]], None]:
    """Change the value under the key."""

    def rewrite(manifest: dict[str, Any]) -> None:
        stored = base64.b64decode(manifest["data"]["signing"])
        manifest["data"]["signing"] = base64.b64encode(change(stored)).decode()

    return rewrite


def _rename_key(manifest: dict[str, Any]) -> None:
    manifest["data"]["another"] = manifest["data"].pop("signing")


def _as_tls(manifest: dict[str, Any]) -> None:
    manifest["type"] = "kubernetes.io/tls"


def _in_plain(manifest: dict[str, Any]) -> None:
    manifest["stringData"] = {"signing": base64.b64decode(manifest["data"].pop("signing")).decode()}


BROKEN: list[tuple[Callable[[dict[str, Any]], None], SecretProblem, str]] = [
    (
        _label(tenant=None, purpose=None),
        SecretProblem.UNLABELLED,
        "oneprotect.io/tenant: acme, oneprotect.io/purpose: webhook",
    ),
    (_label(tenant="globex"), SecretProblem.OTHER_TENANT, "if it belongs to acme, set its metadata.labels"),
    (_label(purpose="other"), SecretProblem.OTHER_PURPOSE, "oneprotect.io/purpose: webhook-signing"),
    (_rename_key, SecretProblem.NO_KEY, "oneprotect credential set key --tenant acme"),
    (_key(lambda key: key + b"\n"), SecretProblem.MALFORMED_KEY, "1. a line end after the key, from `echo`"),
    (_key(lambda key: key[:20]), SecretProblem.MALFORMED_KEY, "2. fewer than 24 or more than 64 bytes"),
    (_as_tls, SecretProblem.OTHER_TYPE, "`type` to Opaque"),
    (_in_plain, SecretProblem.MALFORMED_SECRET, "`stringData` is not read"),
]
"""Change to the Secret, the finding, and the remedy."""


@pytest.mark.parametrize(("change", "cause", "mending"), BROKEN, ids=[cause.name for _, cause, _ in BROKEN])
async def test_a_secret_that_can_not_sign(
    site: Site, change: Callable[[dict[str, Any]], None], cause: SecretProblem, mending: str
) -> None:
    """Each defect of a Secret has its own finding and remedy."""
    well = await _examine_credentials(site)
    _rewrite(site, change)
    check = _of(await _examine_credentials(site), "credentials")

    assert _of(well, "credentials").finding.startswith("the Secret can sign")
    assert (check.name, check.status, check.finding) == ("acme/key", CheckStatus.FAILED, cause.value)
    assert mending in (check.remedy or "")


async def test_a_secret_that_is_not_there(site: Site) -> None:
    """A missing Secret, a forbidden namespace, and an unreadable credential have different findings."""
    await _set_credential(site, "gone", "nothing-there")
    await _set_credential(site, "far", "signing-key", namespace="elsewhere")
    await site.jetstream.credentials.put(f"{TENANT}.odd", b"not a credential")
    checks = await _examine(site)

    assert _of(checks, "credentials", "acme/gone").finding == SecretProblem.NO_SECRET.value
    assert _of(checks, "credentials", "acme/far").finding == SecretProblem.FORBIDDEN.value
    assert "ONEPROTECT_SECRET_NAMESPACES_ALLOWED" in (_of(checks, "credentials", "acme/far").remedy or "")
    assert _of(checks, "credentials", "acme/odd").finding == "this version cannot read the stored credential"


async def _set_credential(site: Site, name: str, secret: str, *, namespace: str = NAMESPACE) -> None:
    fields = {"secret_ref": f"k8s://{namespace}/{secret}/signing"}
    await site.jetstream.configuration.set_credential(TENANT, name, fields, by="test")


async def test_a_fixed_secret_that_consumers_have_not_checked_is_a_warning(site: Site) -> None:
    """A Secret that can sign again is a warning until a consumer has checked it."""
    manifest = _manifest(site).read_bytes()
    _manifest(site).unlink()
    async with site.consumer():
        await until(lambda: _has_status(site, CredentialStatus.MISSING))
    _manifest(site).write_bytes(manifest)
    check = _of(await _examine(site), "credentials")

    assert check.status is CheckStatus.WARNING
    assert check.finding.startswith("the Secret can sign, but consumers reported missing at 20")
    assert check.remedy == "check it again: oneprotect credential check key --tenant acme"


async def test_a_deleted_secret_that_consumers_still_cache_fails(site: Site) -> None:
    """A deleted Secret fails, although consumers still sign with the cached one."""
    async with site.consumer():
        await until(lambda: _is_configured(site))
        _manifest(site).unlink()
        check = _of(await _examine(site), "credentials")

    assert check.status is CheckStatus.FAILED
    assert check.finding.startswith("the Secret does not exist; consumers reported configured at 20")


async def _has_status(site: Site, status: CredentialStatus) -> bool:
    return (await site.jetstream.configuration.get_credential(TENANT, "key")).status is status


class _Blind:
    """A place from which no Secret can be read."""

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        del ref
        raise SecretDenied

    async def aclose(self) -> None:
        """Do nothing, because nothing is open."""


@pytest.mark.parametrize("reader", [None, _Blind()])
async def test_without_access_to_secrets_the_status_of_the_consumers_is_shown(
    site: Site, reader: SnapshotReader | None
) -> None:
    """The result shows the consumers' status and the most frequent remedy."""
    sources = SecretSources(reader=reader)
    async with site.consumer():
        await until(lambda: _is_configured(site))
        well = await examine(_installation(site), sources)
        _rewrite(site, _label(tenant="globex"))
        await site.jetstream.connection.ask(
            subjects.CHECK, msgspec.json.encode(control_messages.CheckCredential(tenant=TENANT, credential="key"))
        )
        checks = await examine(_installation(site, provider="kubernetes"), sources)

    check = _of(checks, "credentials")
    assert _of(well, "credentials").finding == "1 of 1 can sign"
    assert check.status is CheckStatus.FAILED
    assert check.finding.startswith("consumers reported mismatch at 20")
    assert "kubectl label secret SECRET --namespace NAMESPACE oneprotect.io/tenant=acme" in (check.remedy or "")
    _require_discretion(site, checks)


async def test_an_unchecked_credential_is_unknown(site: Site) -> None:
    """Without a status and without access to the Secret, the result is unknown."""
    checks = await examine(_installation(site), SecretSources())

    assert _of(checks, "credentials").status is CheckStatus.UNKNOWN
    assert "oneprotect consumer" in (_of(checks, "credentials").remedy or "")


async def test_a_previous_key_that_can_not_be_relied_on(site: Site) -> None:
    """A rollover without an expiry is a warning, with the annotation to set."""
    old = Canary.secret("old")

    def roll_over(manifest: dict[str, Any]) -> None:
        manifest["data"]["signing.previous"] = base64.b64encode(old.reveal_bytes()).decode()

    _rewrite(site, roll_over)
    async with site.consumer():
        await until(lambda: _is_configured(site))
        here = await _examine(site)
        elsewhere = await examine(_installation(site), SecretSources())

    for checks in (here, elsewhere):
        assert _of(checks, "credentials").status is CheckStatus.WARNING
        assert "oneprotect.io/previous-expires-at=" in (_of(checks, "credentials").remedy or "")
        assert Search(old).find(msgspec.json.encode(checks)) == []
