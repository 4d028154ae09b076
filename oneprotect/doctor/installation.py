"""The settings that the checks use, and the checks of the settings themselves."""

from pathlib import Path
from typing import Literal

from msgspec import Struct

from messaging.admin.topology import DEFAULT_LIMITS, StreamLimits
from messaging.client.client import ServerAccess
from oneprotect.doctor.result import CheckGroup, CheckResult
from telemetry.otlp.settings import CollectorEndpoint

_GROUP = CheckGroup("settings")


class InstallationSettings(Struct, frozen=True, kw_only=True):
    """Settings that the checks use. Durations are in seconds."""

    variables_set: int
    """Number of `ONEPROTECT_*` variables."""
    nats: ServerAccess
    replicas: int = 1
    work_per_destination: int = 1000
    limits: StreamLimits = DEFAULT_LIMITS
    tenant_bytes: int = 0
    """Bytes of waiting and failed deliveries that a tenant may store."""
    ack_wait_s: float = 30.0
    request_timeout_s: float = 15.0
    drain_timeout_s: float = 25.0
    egress_ca_file: Path | None = None
    provider: Literal["kubernetes", "local"] | None = None
    central_namespace: str | None = None
    namespaces: frozenset[str] = frozenset()
    """Every namespace that may be read, including the central one."""
    local_dir: Path | None = None
    ops_host: str = "127.0.0.1"
    ops_port: int | None = None
    collectors: tuple[CollectorEndpoint, ...] = ()


def check_invalid(problems: tuple[str, ...]) -> list[CheckResult]:
    """Return a result for each problem of invalid settings, which prevent all other checks."""
    return [_invalid(problem) for problem in problems]


def _invalid(problem: str) -> CheckResult:
    variable, _, rest = problem.partition(": ")
    finding, _, remedy = rest.rpartition("; ")
    return _GROUP.failed(variable, finding or remedy, remedy if finding else "see docs/reference/settings.md")


def check_settings(installation: InstallationSettings) -> list[CheckResult]:
    """Check settings that are valid on their own, but may not work together."""
    checks = [_variables(installation), _drain(installation)]
    if installation.provider is None:
        checks.append(
            _GROUP.unknown(
                "secret provider",
                "ONEPROTECT_SECRET_PROVIDER is not set, so Secrets cannot be checked and a consumer would not start",
                "run the doctor with the settings of the consumers",
            )
        )
    else:
        checks.append(_namespaces(installation))
    return checks


def _variables(installation: InstallationSettings) -> CheckResult:
    count = installation.variables_set
    return _GROUP.ok("variables", f"{count} set, all valid" if count else "none set; all settings have their defaults")


def _drain(installation: InstallationSettings) -> CheckResult:
    if installation.drain_timeout_s > installation.request_timeout_s:
        return _GROUP.ok("drain timeout", "long enough for the attempts of a stopping consumer")
    return _GROUP.warning(
        "drain timeout",
        "shorter than the request timeout: a stopping consumer interrupts attempts, which are then sent twice",
        "set ONEPROTECT_DRAIN_TIMEOUT_S above ONEPROTECT_REQUEST_TIMEOUT_S, and the pods' "
        "terminationGracePeriodSeconds above both",
    )


def _namespaces(installation: InstallationSettings) -> CheckResult:
    if installation.namespaces:
        return _GROUP.ok("secret namespaces", f"refs may name {len(installation.namespaces)}")
    return _GROUP.failed(
        "secret namespaces",
        "no namespace may be read, so that every ref is refused (secret.ref_forbidden)",
        "set ONEPROTECT_SECRET_NAMESPACE to the namespace of the Secrets, "
        "or list several in ONEPROTECT_SECRET_NAMESPACES_ALLOWED",
    )
