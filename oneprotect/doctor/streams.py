"""Check of streams, consumers and buckets against what this version needs."""

from messaging.admin import topology
from messaging.admin.topology import TopologyChange
from messaging.client.connection import NatsConnection
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.result import CheckGroup, CheckResult

_GROUP = CheckGroup("streams")


async def check_streams(connection: NatsConnection, installation: InstallationSettings) -> list[CheckResult]:
    """Return a result for each difference that `oneprotect apply` would remove. Raises `JetStreamError`."""
    changes = await topology.apply(
        connection,
        replicas=installation.replicas,
        work_per_destination=installation.work_per_destination,
        ack_wait_s=installation.ack_wait_s,
        limits=installation.limits,
        check=True,
    )
    different = [_describe(change) for change in changes if change.action != "none"]
    return different or [_GROUP.ok("streams, buckets and consumers", f"all {len(changes)} are up to date")]


def _describe(change: TopologyChange) -> CheckResult:
    name = f"{change.kind} {change.name}"
    if change.action == "create":
        return _GROUP.failed(name, "missing", "oneprotect apply")
    fields = "; ".join(f"{field}: {old} → {new}" for field, (old, new) in change.fields.items())
    return _GROUP.failed(name, f"differs from what this version and these settings need: {fields}", "oneprotect apply")
