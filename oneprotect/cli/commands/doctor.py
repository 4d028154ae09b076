"""`oneprotect doctor`: checks of an installation, each with a remedy."""

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import typer

from oneprotect.cli.support.context import load_settings, run_async
from oneprotect.cli.support.errors import DONE, FAILED, USAGE
from oneprotect.cli.support.options import AsJson
from oneprotect.cli.support.output import format_cell, write_json, write_line
from oneprotect.doctor.result import CheckResult, CheckStatus

if TYPE_CHECKING:
    from rich.text import Text

    from oneprotect.doctor.installation import InstallationSettings
    from oneprotect.doctor.runner import SecretSources
    from oneprotect.settings.settings import Settings
    from telemetry.otlp.settings import CollectorEndpoint

MARKS: Final = {
    CheckStatus.OK: ("✓", "green"),
    CheckStatus.WARNING: ("!", "yellow"),
    CheckStatus.FAILED: ("✗", "red"),
    CheckStatus.UNKNOWN: ("?", "cyan"),
}


def doctor(*, as_json: AsJson = False) -> None:
    """Check everything that deliveries need, and print a remedy for each problem. Changes nothing.

    \b
    settings     consistent with each other
    files        present, valid, and not readable by other users
    nats         reachable, recent enough, close enough, with enough storage and the right time
    streams      as `oneprotect apply` creates them
    work         requested by consumers, and not delayed
    credentials  able to sign
    permissions  the service account may get the Secrets it needs, and nothing else
    telemetry    operations port and collectors reachable

    Marks: ✓ no problem, ! warning, ✗ deliveries are affected, ? not checked.

    Use the settings of the consumers; in a cluster, run the doctor in a consumer's pod. It shows no ref and no secret.
    Exit codes: 0 if no check failed, 1 if a check failed, 2 if the settings are invalid.
    """
    from oneprotect.doctor.installation import check_invalid
    from oneprotect.settings.settings import SettingsError

    try:
        settings = load_settings()
        installation = _installation(settings)
    except SettingsError as error:
        problems = error.problems
    else:
        checks = run_async(_examine(settings, installation))
        _show(checks, as_json=as_json)
        raise typer.Exit(FAILED if _count(checks, CheckStatus.FAILED) else DONE)
    _show(check_invalid(problems), as_json=as_json)
    raise typer.Exit(USAGE)


async def _examine(settings: "Settings", installation: "InstallationSettings") -> list[CheckResult]:
    from oneprotect.bootstrap.process_hardening import harden_process
    from oneprotect.doctor.runner import examine

    harden_process()  # this process reads Secrets, like a consumer
    async with AsyncExitStack() as opened:
        return await examine(installation, await _open_sources(settings, opened))


async def _open_sources(settings: "Settings", opened: AsyncExitStack) -> "SecretSources":
    from oneprotect.bootstrap.resources import is_pod, open_reader, open_reviews
    from oneprotect.doctor.runner import SecretSources
    from provider.errors import ProviderMisconfigured

    secret = settings.secret
    if secret.provider is None:
        return SecretSources()
    try:
        reader = await open_reader(secret.provider, namespaces=secret.namespaces, local_dir=secret.local_dir)
        opened.push_async_callback(reader.aclose)
        if secret.provider == "local" or not is_pod():
            return SecretSources(reader=reader)
        reviews = await open_reviews()
        opened.push_async_callback(reviews.aclose)
    except ProviderMisconfigured as error:
        return SecretSources(problem=error.problem)
    return SecretSources(reader=reader, reviews=reviews)


def _installation(settings: "Settings") -> "InstallationSettings":
    from oneprotect.bootstrap.resources import nats_access, stream_limits
    from oneprotect.doctor.installation import InstallationSettings

    secret, delivery = settings.secret, settings.delivery
    return InstallationSettings(
        variables_set=sum(name.startswith("ONEPROTECT_") for name in os.environ),
        nats=nats_access(settings),
        replicas=settings.nats.replicas,
        work_per_destination=settings.nats.work_per_destination,
        limits=stream_limits(settings),
        tenant_bytes=settings.tenant.max_waiting_bytes + settings.tenant.max_failed_bytes,
        ack_wait_s=delivery.ack_wait_s,
        request_timeout_s=delivery.request_timeout_s,
        drain_timeout_s=delivery.drain_timeout_s,
        egress_ca_file=settings.egress.ca_file,
        provider=secret.provider,
        central_namespace=secret.namespace,
        namespaces=secret.namespaces,
        local_dir=secret.local_dir,
        ops_host=settings.ops.host,
        ops_port=settings.ops.port,
        collectors=_collectors(),
    )


def _collectors() -> "tuple[CollectorEndpoint, ...]":
    from oneprotect.settings.settings import SettingsError
    from telemetry.otlp.settings import OtelError, read_endpoints

    try:
        return read_endpoints(os.environ)
    except OtelError as error:
        problem = str(error)
    raise SettingsError([problem])


def _show(checks: list[CheckResult], *, as_json: bool) -> None:
    counts = {status.value: _count(checks, status) for status in CheckStatus}
    if as_json:
        write_json({"checks": checks, "counts": counts})
        return
    for line in _format_checks(checks):
        write_line(line)
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    write_line(f"\n{len(checks)} {'check' if len(checks) == 1 else 'checks'}: {summary}.")


def _format_checks(checks: list[CheckResult]) -> "list[Text]":
    from rich.text import Text

    lines: list[Text] = []
    for group in dict.fromkeys(check.group for check in checks):
        lines.append(Text(f"\n{group}" if lines else group, "bold"))
        members = [check for check in checks if check.group == group]
        width = max(len(check.name) for check in members)
        for check in members:
            lines += _format_check(check, width)
    return lines


def _format_check(check: CheckResult, width: int) -> "list[Text]":
    from rich.text import Text

    mark, style = MARKS[check.status]
    lines = [Text.assemble("  ", (f"{mark} ", style), format_cell(f"{check.name:<{width}}  {check.finding}"))]
    for number, line in enumerate((check.remedy or "").splitlines()):
        lines.append(Text.assemble("    ", (" " if number else "→", style), " ", format_cell(line)))
    return lines


def _count(checks: list[CheckResult], status: CheckStatus) -> int:
    return sum(check.status is status for check in checks)
