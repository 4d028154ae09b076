"""Whether what a consumer tells is heard: its operations port, and the collector that it exports to."""

import asyncio
import contextlib
from typing import Final

from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.result import CheckGroup, CheckResult
from telemetry.otlp.settings import CollectorEndpoint

CONNECT_S: Final = 3.0
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound
_GROUP = CheckGroup("telemetry")


async def check_telemetry(installation: InstallationSettings) -> list[CheckResult]:
    """The port, and each collector that is named."""
    return [await _port(installation), *[await _collector(one) for one in installation.collectors]]


async def _port(installation: InstallationSettings) -> CheckResult:
    port = installation.ops_port
    if not port and installation.provider == "kubernetes":
        return _GROUP.warning(
            "operations port",
            "ONEPROTECT_OPS_PORT is not set here: no probe can look, and no Prometheus can read",
            "set it for consumers, for example to 9090, and ONEPROTECT_OPS_HOST to 0.0.0.0 in a pod",
        )
    if not port:
        return _GROUP.ok("operations port", "none is asked for, as on a developer's machine")
    answer = await _ask(_ANY.get(installation.ops_host, installation.ops_host), port)
    match answer:
        case None:
            return _GROUP.unknown(
                "operations port", "nobody answers on it here", "run it where a consumer runs, with its settings"
            )
        case "ready" | "draining":
            return _GROUP.ok("operations port", f"it answers: {answer}")
        case _:
            return _GROUP.failed(
                "operations port",
                "it answers, and says that the work is not possible",
                "see what the process logs; what NATS needs is examined above",
            )


async def _collector(collector: CollectorEndpoint) -> CheckResult:
    name = f"collector of {collector.signal}"
    if collector.host is None:
        return _GROUP.failed(name, f"{collector.variable} holds no URL", "set it like http://collector:4318")
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(collector.host, collector.port)
    except (OSError, TimeoutError):
        return _GROUP.warning(
            name,
            f"what {collector.variable} names can't be reached, so it hears nothing; deliveries do not suffer",
            "see that it runs, that the name and the port are right, and that the NetworkPolicy lets it through",
        )
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return _GROUP.ok(name, "it can be reached")


async def _ask(host: str, port: int) -> str | None:
    """What `/readyz` says, in one word; None without an answer."""
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            answer = await reader.read(4096)
            writer.close()
    except (OSError, TimeoutError):
        return None
    return answer.rpartition(b"\r\n\r\n")[2].strip().decode("ascii", "replace")
