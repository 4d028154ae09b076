"""`oneprotect doctor`: what is wrong with this installation, and how to mend it."""

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import typer

from oneprotect.cli.support.errors import DONE, FAILED, USAGE
from oneprotect.cli.support.options import AsJson
from oneprotect.doctor.result import CheckResult, CheckStatus

if TYPE_CHECKING:
    from rich.text import Text

    from oneprotect.doctor.installation import InstallationSettings
    from oneprotect.doctor.runner import SecretSources
    from oneprotect.settings.settings import Settings
    from telemetry.otlp.settings import CollectorEndpoint

MARKS: Final = {CheckStatus.OK: "✓", CheckStatus.WARNING: "!", CheckStatus.FAILED: "✗", CheckStatus.UNKNOWN: "?"}
STYLES: Final = {
    CheckStatus.OK: "green",
    CheckStatus.WARNING: "yellow",
    CheckStatus.FAILED: "red",
    CheckStatus.UNKNOWN: "cyan",
}


def doctor(*, as_json: AsJson = False) -> None:
    """Look at everything that deliveries need, and say what is wrong and how to mend it. Changes nothing.

    \b
    settings     do they fit together?
    files        are they there, and closed to others?
    nats         is the server there, new enough, near, and its clock right?
    streams      are they what `oneprotect apply` makes?
    work         do consumers take it, and does any wait for long?
    credentials  can each of them sign? If not, why?
    permissions  may this service account get the Secrets it needs, and nothing else?
    telemetry    is the operations port there, and the collector in reach?

    Marks: ✓ fine, ! should not stay like this, ✗ deliveries suffer, ? could not be looked at. Run it with the settings
    of the consumers; in a cluster, where one runs: only there it sees what they see. It shows no ref and no secret.
    Exit code: 0 if nothing failed, 1 if something did, 2 if the settings can't be used.
    """
    from oneprotect.cli.support.context import load_settings, run
    from oneprotect.doctor.installation import invalid_settings
    from oneprotect.settings.settings import SettingsError

    try:
        settings = load_settings()
        installation = _installation(settings)
    except SettingsError as error:
        problems = error.problems
    else:
        checks = run(_examine(settings, installation))
        _show(checks, as_json=as_json)
        raise typer.Exit(FAILED if _count(checks, CheckStatus.FAILED) else DONE)
    _show(invalid_settings(problems), as_json=as_json)
    raise typer.Exit(USAGE)


async def _examine(settings: "Settings", installation: "InstallationSettings") -> list[CheckResult]:
    from oneprotect.bootstrap.process_hardening import harden_process
    from oneprotect.doctor.runner import examine

    harden_process()  # it reads the Secrets, as a consumer does
    async with AsyncExitStack() as opened:
        return await examine(installation, await _sources(settings, opened))


async def _sources(settings: "Settings", opened: AsyncExitStack) -> "SecretSources":
    """What can be opened, and why the rest can't."""
    from oneprotect.bootstrap.secret_providers import is_pod, open_reader, open_reviews
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
    from oneprotect.bootstrap.resources import archive_of
    from oneprotect.doctor.installation import InstallationSettings

    nats, secret, delivery = settings.nats, settings.secret, settings.delivery
    return InstallationSettings(
        variables_set=sum(name.startswith("ONEPROTECT_") for name in os.environ),
        nats_url=nats.url,
        nats_creds_file=nats.creds_file,
        nats_nkey_file=nats.nkey_file,
        nats_inbox_prefix=nats.inbox_prefix,
        nats_ca_file=nats.ca_file,
        replicas=nats.replicas,
        work_per_destination=nats.work_per_destination,
        archive=archive_of(settings),
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
    from oneprotect.cli.support.output import write_json, write_line

    counts = {status.value: _count(checks, status) for status in CheckStatus}
    if as_json:
        write_json({"checks": checks, "counts": counts})
        return
    for line in _lines(checks):
        write_line(line)
    told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    write_line(f"\n{len(checks)} checks: {told}.")


def _lines(checks: list[CheckResult]) -> "list[Text]":
    from rich.text import Text

    lines: list[Text] = []
    for group in dict.fromkeys(check.group for check in checks):
        lines.append(Text(f"\n{group}" if lines else group, "bold"))
        members = [check for check in checks if check.group == group]
        width = max(len(check.name) for check in members)
        for check in members:
            lines += _check_lines(check, width)
    return lines


def _check_lines(check: CheckResult, width: int) -> "list[Text]":
    from rich.text import Text

    from oneprotect.cli.support.output import cell

    style = STYLES[check.status]
    first = Text("  ").append(f"{MARKS[check.status]} ", style)
    first.append_text(cell(f"{check.name:<{width}}  {check.finding}"))
    lines = [first]
    for number, line in enumerate((check.mending or "").splitlines()):
        lines.append(Text("    ").append(" " if number else "→", style).append(" ").append_text(cell(line)))
    return lines


def _count(checks: list[CheckResult], status: CheckStatus) -> int:
    return sum(check.status is status for check in checks)
