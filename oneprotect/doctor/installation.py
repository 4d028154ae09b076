"""What is examined, as the settings say it; and what the settings say themselves."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from messaging.admin.topology import DEFAULT_ARCHIVE, ArchiveLimits
from oneprotect.doctor.result import CheckGroup, CheckResult
from telemetry.otlp.settings import CollectorEndpoint

_GROUP = CheckGroup("settings")


class InstallationSettings(Struct, frozen=True, kw_only=True):
    """The settings that matter here. Durations in seconds."""

    variables_set: int
    """How many `ONEPROTECT_` variables are set."""
    nats_url: str
    nats_creds_file: Path | None = None
    nats_nkey_file: Path | None = None
    nats_inbox_prefix: str = "_INBOX"
    nats_ca_file: Path | None = None
    replicas: int = 1
    work_per_destination: int = 1000
    archive: ArchiveLimits = DEFAULT_ARCHIVE
    ack_wait_s: float = 30.0
    request_timeout_s: float = 15.0
    drain_timeout_s: float = 25.0
    egress_ca_file: Path | None = None
    provider: Literal["kubernetes", "local"] | None = None
    central_namespace: str | None = None
    namespaces: frozenset[str] = frozenset()
    """Every namespace that may be read, the central one among them."""
    local_dir: Path | None = None
    ops_host: str = "127.0.0.1"
    ops_port: int | None = None
    collectors: tuple[CollectorEndpoint, ...] = ()


def invalid_settings(problems: tuple[str, ...]) -> list[CheckResult]:
    """What to say of settings that can't be used: each problem begins with a variable's name and says how to mend it.

    Then there is nothing that the rest could look at.
    """
    return [_misunderstood(problem) for problem in problems]


def _misunderstood(problem: str) -> CheckResult:
    variable, _, rest = problem.partition(": ")
    finding, _, mending = rest.rpartition("; ")
    return _GROUP.failed(variable, finding or mending, mending if finding else "see docs/reference/settings.md")


def check_settings(installation: InstallationSettings) -> list[CheckResult]:
    """Settings that each make sense, and together do not."""
    checks = [_variables(installation), _drain(installation)]
    if installation.provider is None:
        checks.append(
            _GROUP.unknown(
                "secret provider",
                "ONEPROTECT_SECRET_PROVIDER is not set, so Secrets can't be looked at; a consumer would not start",
                "examine it with the settings of the consumers",
            )
        )
    else:
        checks.append(_namespaces(installation))
    return checks


def _variables(installation: InstallationSettings) -> CheckResult:
    count = installation.variables_set
    return _GROUP.ok("variables", f"{count} set, and understood" if count else "none set: the defaults hold")


def _drain(installation: InstallationSettings) -> CheckResult:
    drain_s, request_s = installation.drain_timeout_s, installation.request_timeout_s
    if drain_s > request_s:
        return _GROUP.ok("drain timeout", "a consumer that stops can finish what it is sending")
    return _GROUP.warning(
        "drain timeout",
        "a consumer that stops gives up before its requests do: what is cut off is sent a second time",
        "set ONEPROTECT_DRAIN_TIMEOUT_S to more than ONEPROTECT_REQUEST_TIMEOUT_S, and the pods' "
        "terminationGracePeriodSeconds to more than both",
    )


def _namespaces(installation: InstallationSettings) -> CheckResult:
    if installation.namespaces:
        return _GROUP.ok("secret namespaces", f"{len(installation.namespaces)} may be named by refs")
    return _GROUP.failed(
        "secret namespaces",
        "no namespace may be read, so every ref is refused (secret.ref_forbidden)",
        "set ONEPROTECT_SECRET_NAMESPACE to the namespace of the Secrets, "
        "or list several in ONEPROTECT_SECRET_NAMESPACES_ALLOWED",
    )
