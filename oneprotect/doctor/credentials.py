"""Checks of credentials: each can sign, or the cause and a remedy.

The status from the consumers is decisive. Where this process can also read the Secrets, it distinguishes causes that
share a status. It keeps no content of the Secrets that it reads.
"""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from oneprotect.doctor.registered_credentials import RegisteredCredential
from oneprotect.doctor.remedies import REMEDY_BY_STATUS, SecretProblem, remedy_commands
from oneprotect.doctor.result import CheckGroup, CheckResult
from provider.errors import SecretError
from provider.provider import SnapshotReader
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.codes import Code, CredentialStatus
from schemas.ids import Purpose

MAX_READ: Final = 500
"""Credentials whose Secrets are read. Those with a problem come first."""
MAX_CONCURRENT_READS: Final = 8
READ_TIMEOUT_S: Final = 10.0
"""Limit for all reads. Credentials that are not read in time are judged by their status alone."""

_GROUP = CheckGroup("credentials")
_NOT_SEEN: Final = frozenset({SecretProblem.DENIED, SecretProblem.UNAVAILABLE})
"""Problems of this process's access, which say nothing about the Secret."""
_CAUSE_BY_CODE: Final = {
    Code.SECRET_REF_INVALID: SecretProblem.REF_INVALID,
    Code.SECRET_REF_FORBIDDEN: SecretProblem.FORBIDDEN,
    Code.SECRET_MISMATCH: SecretProblem.OTHER_TYPE,
    Code.SECRET_NOT_FOUND: SecretProblem.NO_SECRET,
    Code.SECRET_MALFORMED: SecretProblem.MALFORMED_SECRET,
    Code.SECRET_DENIED: SecretProblem.DENIED,
    Code.SECRET_UNAVAILABLE: SecretProblem.UNAVAILABLE,
}
"""Causes that a read reports before the Secret's labels and keys are checked."""
_LIKELY_CAUSE: Final = {
    CredentialStatus.MISSING: SecretProblem.NO_SECRET,
    CredentialStatus.MISMATCH: SecretProblem.UNLABELLED,
    CredentialStatus.MALFORMED: SecretProblem.MALFORMED_KEY,
    CredentialStatus.DENIED: SecretProblem.DENIED,
    CredentialStatus.UNAVAILABLE: SecretProblem.UNAVAILABLE,
}
"""The most frequent cause of each status."""


class CredentialFinding(Struct, frozen=True):
    """Result of reading a credential's Secret. `cause` is None when the Secret can sign."""

    cause: SecretProblem | None
    rollover_misconfigured: bool = False


async def check_credentials(
    registered: list[RegisteredCredential], reader: SnapshotReader | None, *, is_local: bool
) -> list[CheckResult]:
    """Return a result for each credential with a problem, and one for all others.

    Args:
        reader: Reads Secrets, if this process has access to them.
        is_local: Give remedies for the local provider.
    """
    ordered = sorted(registered, key=lambda credential: credential.state.status is CredentialStatus.CONFIGURED)
    found = await _read_secrets(reader, ordered[:MAX_READ]) if reader is not None else {}
    judged = [_judge(credential, found.get(credential.name), is_local=is_local) for credential in ordered]
    checks = sorted((check for check in judged if check is not None), key=lambda check: check.name)
    working = len(judged) - len(checks)
    if working or not judged:
        checks.insert(0, _GROUP.ok("configured", f"{working} of {len(judged)} can sign" if judged else "none exist"))
    return checks


async def _read_secrets(reader: SnapshotReader, registered: list[RegisteredCredential]) -> dict[str, CredentialFinding]:
    """Return the findings that are available in time, by the credential's name."""
    deadline = asyncio.get_running_loop().time() + READ_TIMEOUT_S
    slots = asyncio.Semaphore(MAX_CONCURRENT_READS)
    found: dict[str, CredentialFinding] = {}

    async def read(credential: RegisteredCredential) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline), slots:
                found[credential.name] = await examine_secret(reader, credential)

    await asyncio.gather(*(read(credential) for credential in registered))
    return found


async def examine_secret(reader: SnapshotReader, registered: RegisteredCredential) -> CredentialFinding:
    """Read the credential's Secret, and return the reason why it cannot sign."""
    ref, credential = registered.ref, registered.credential
    if ref is None or credential is None:
        return CredentialFinding(SecretProblem.REF_INVALID)
    try:
        snapshot = await reader.read(ref)
    except SecretError as error:
        return CredentialFinding(_CAUSE_BY_CODE[error.code])
    found = snapshot.find_secret(ref.key, tenant=registered.tenant, purpose=credential.purpose)
    if isinstance(found, SigningSecret):
        return CredentialFinding(None, found.describe_rollover(datetime.now(UTC)).misconfigured)
    match found.code:
        case Code.SECRET_MISMATCH:
            return CredentialFinding(_mismatch_cause(snapshot, registered.tenant))
        case Code.SECRET_NOT_FOUND:
            return CredentialFinding(SecretProblem.NO_KEY)
        case _:
            malformed = SecretProblem.MALFORMED_SECRET if snapshot.malformed else SecretProblem.MALFORMED_KEY
            return CredentialFinding(malformed)


def _mismatch_cause(snapshot: SecretSnapshot, tenant: str) -> SecretProblem:
    if snapshot.tenant is None:
        return SecretProblem.UNLABELLED
    return SecretProblem.OTHER_PURPOSE if snapshot.tenant == tenant else SecretProblem.OTHER_TENANT


def _judge(one: RegisteredCredential, found: CredentialFinding | None, *, is_local: bool) -> CheckResult | None:
    """Return the problem of a credential, or None."""
    if one.credential is None:
        return _GROUP.failed(
            one.name,
            "this version cannot read the stored credential",
            f"set it again: oneprotect credential set {one.id} --tenant {one.tenant} "
            "--secret-ref k8s://NAMESPACE/SECRET/KEY",
        )
    if found is None or found.cause in _NOT_SEEN:
        return _judge_by_status(one, found, is_local=is_local)
    if found.cause is not None:
        return _report_cause(one, found.cause, is_local=is_local)
    if one.state.status is not CredentialStatus.CONFIGURED:
        return _GROUP.warning(
            one.name,
            f"the Secret can sign, but consumers {_last_report(one)}",
            f"check it again: oneprotect credential check {one.id} --tenant {one.tenant}",
        )
    return _report_rollover(one) if found.rollover_misconfigured else None


def _judge_by_status(
    one: RegisteredCredential, found: CredentialFinding | None, *, is_local: bool
) -> CheckResult | None:
    """Judge a credential whose Secret this process cannot read."""
    status = one.state.status
    if status is CredentialStatus.CONFIGURED:
        return _report_rollover(one) if one.state.rollover.misconfigured else None
    if status is CredentialStatus.UNCHECKED:
        if found is not None and found.cause is not None:
            return _report_cause(one, found.cause, is_local=is_local)
        return _GROUP.unknown(one.name, "no consumer has checked it yet", REMEDY_BY_STATUS[status])
    cause = _LIKELY_CAUSE.get(status)
    commands = f"\n{_commands(one, cause, is_local=is_local)}" if cause else ""
    return _GROUP.failed(
        one.name,
        f"consumers {_last_report(one)}, and this process cannot read the Secret",
        REMEDY_BY_STATUS[status] + commands,
    )


def _report_cause(one: RegisteredCredential, cause: SecretProblem, *, is_local: bool) -> CheckResult:
    finding = cause.value
    if one.state.status is CredentialStatus.CONFIGURED:
        finding += f"; consumers {_last_report(one)}, and sign with the cached secret for a while"
    return _GROUP.failed(one.name, finding, _commands(one, cause, is_local=is_local))


def _report_rollover(one: RegisteredCredential) -> CheckResult:
    return _GROUP.warning(
        one.name,
        "it signs with the current key only, because the rollover to the previous key is misconfigured",
        "set when the previous key expires, at most 30 days ahead: "
        "kubectl annotate secret SECRET --namespace NAMESPACE "
        "--overwrite oneprotect.io/previous-expires-at=\"$(date -u -d '+24 hours' +%Y-%m-%dT%H:%M:%SZ)\"\n"
        "if the time is right, the previous key is malformed or equals the current one: "
        "see docs/how-to/rotate-a-secret.md",
    )


def _last_report(one: RegisteredCredential) -> str:
    if one.state.checked_at is None:
        return "have not checked it yet"
    return f"reported {one.state.status.value} at {one.state.checked_at:%Y-%m-%d %H:%M:%S} UTC"


def _commands(one: RegisteredCredential, cause: SecretProblem, *, is_local: bool) -> str:
    purpose = one.credential.purpose if one.credential else Purpose.WEBHOOK_SIGNING
    return remedy_commands(cause, is_local=is_local, tenant=one.tenant, credential=one.id, purpose=purpose)
