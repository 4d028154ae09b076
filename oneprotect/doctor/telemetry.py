"""Checks of a consumer's operations port, and of the OpenTelemetry collectors."""

import asyncio
import contextlib
from typing import Final

from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.result import CheckGroup, CheckResult
from telemetry.otlp.settings import CollectorEndpoint

CONNECT_S: Final = 3.0
_LOOPBACK_OF: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
_GROUP = CheckGroup("telemetry")


async def check_telemetry(installation: InstallationSettings) -> list[CheckResult]:
    """Check the operations port and each collector."""
    return [await _check_port(installation), *[await _check_collector(one) for one in installation.collectors]]


async def _check_port(installation: InstallationSettings) -> CheckResult:
    port = installation.ops_port
    if not port and installation.provider == "kubernetes":
        return _GROUP.warning(
            "operations port",
            "ONEPROTECT_OPS_PORT is not set here, so probes and Prometheus have no endpoint",
            "set it for consumers, for example to 9090, and in a pod set ONEPROTECT_OPS_HOST to 0.0.0.0",
        )
    if not port:
        return _GROUP.ok("operations port", "not set, as usual on a developer's machine")
    answer = await _read_readiness(_LOOPBACK_OF.get(installation.ops_host, installation.ops_host), port)
    match answer:
        case None:
            return _GROUP.unknown(
                "operations port", "nothing answers on it here", "run the doctor beside a consumer, with its settings"
            )
        case "ready" | "draining":
            return _GROUP.ok("operations port", f"it answers: {answer}")
        case _:
            return _GROUP.failed(
                "operations port",
                "the process on it answers that it cannot work",
                "read the log of the process; the checks of NATS above may show the cause",
            )


async def _check_collector(collector: CollectorEndpoint) -> CheckResult:
    name = f"collector of {collector.signal}"
    if collector.host is None:
        return _GROUP.failed(name, f"{collector.variable} is not a URL", "set it like http://collector:4318")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(collector.host, collector.port)
    except (OSError, TimeoutError):
        return _GROUP.warning(
            name,
            f"the collector in {collector.variable} is unreachable, so its data is lost; deliveries are not affected",
            "check that it runs, that host and port are right, and that a NetworkPolicy allows the connection",
        )
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return _GROUP.ok(name, "reachable")


async def _read_readiness(host: str, port: int) -> str | None:
    """Return the body of `/readyz`, or None without an answer."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            answer = await reader.read(4096)
            writer.close()
    except (OSError, TimeoutError):
        return None
    return answer.rpartition(b"\r\n\r\n")[2].strip().decode("ascii", "replace")
