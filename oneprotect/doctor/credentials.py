"""Credentials: whether each can sign, and if not, why, and how to mend that.

The consumers' word on them is what counts. Where this process can read the Secrets as well, it looks for itself, and so
tells causes apart that share a status. Of what it reads it keeps whether it signs, and nothing else.
"""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from oneprotect.doctor.registered_credentials import RegisteredCredential
from oneprotect.doctor.remedies import SENTENCES, SecretProblem, remedy_commands
from oneprotect.doctor.result import CheckGroup, CheckResult
from provider.errors import SecretError
from provider.provider import SnapshotReader
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from provider.snapshot import SecretSnapshot
from schemas.codes import Code, CredentialStatus
from schemas.ids import Purpose

MAX_READ: Final = 500
"""Credentials whose Secrets are read here. Those that are known not to work come first."""
MAX_CONCURRENT_READS: Final = 8
LOOK_S: Final = 10.0
"""For all of them. Of those that are not read by then, the consumers' word is told."""

_GROUP = CheckGroup("credentials")
_UNSEEN: Final = frozenset({SecretProblem.DENIED, SecretProblem.UNAVAILABLE})
"""These say something about who looks, and nothing about the Secret."""
_OF_READ: Final = {
    Code.SECRET_REF_INVALID: SecretProblem.REF_INVALID,
    Code.SECRET_REF_FORBIDDEN: SecretProblem.FORBIDDEN,
    Code.SECRET_MISMATCH: SecretProblem.OTHER_TYPE,
    Code.SECRET_NOT_FOUND: SecretProblem.NO_SECRET,
    Code.SECRET_MALFORMED: SecretProblem.MALFORMED_SECRET,
    Code.SECRET_DENIED: SecretProblem.DENIED,
    Code.SECRET_UNAVAILABLE: SecretProblem.UNAVAILABLE,
}
"""What an error means that comes before the Secret's labels and keys are looked at."""


class CredentialFinding(Struct, frozen=True):
    """What this process found: why a credential can't sign, or None when it can; and whether its rollover is amiss."""

    cause: SecretProblem | None
    rollover_misconfigured: bool = False


async def check_credentials(
    registered: list[RegisteredCredential], reader: SnapshotReader | None, *, is_local: bool
) -> list[CheckResult]:
    """One check for each credential that needs somebody, and one for all the others. `reader`: where to look."""
    ordered = sorted(registered, key=lambda one: one.state.status is CredentialStatus.CONFIGURED)
    seen = await _look(reader, ordered[:MAX_READ]) if reader is not None else {}
    judged = [_judge(one, seen.get(one.name), is_local=is_local) for one in ordered]
    checks = sorted((check for check in judged if check is not None), key=lambda check: check.name)
    well = len(judged) - len(checks)
    if well or not judged:
        checks.insert(0, _GROUP.ok("configured", f"{well} of {len(judged)} can sign" if judged else "there are none"))
    return checks


async def _look(reader: SnapshotReader, registered: list[RegisteredCredential]) -> dict[str, CredentialFinding]:
    """What can be found out in time, by the credential's name."""
    deadline, turns = asyncio.get_running_loop().time() + LOOK_S, asyncio.Semaphore(MAX_CONCURRENT_READS)
    seen: dict[str, CredentialFinding] = {}

    async def look(one: RegisteredCredential) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline), turns:
                seen[one.name] = await examine_secret(reader, one)

    await asyncio.gather(*(look(one) for one in registered))
    return seen


async def examine_secret(reader: SnapshotReader, one: RegisteredCredential) -> CredentialFinding:
    """Read the credential's Secret, and say what is amiss with it."""
    if one.ref is None or one.credential is None:
        return CredentialFinding(SecretProblem.REF_INVALID)
    try:
        snapshot = await reader.read(one.ref)
    except SecretError as error:
        return CredentialFinding(_OF_READ[error.code])
    return _seen(snapshot, one.ref, one.tenant, one.credential.purpose)


def _seen(snapshot: SecretSnapshot, ref: SecretRef, tenant: str, purpose: Purpose) -> CredentialFinding:
    found = snapshot.find_secret(ref.key, tenant=tenant, purpose=purpose)
    if isinstance(found, SigningSecret):
        return CredentialFinding(None, found.describe_rollover(datetime.now(UTC)).misconfigured)
    if found.code is Code.SECRET_MISMATCH:
        return CredentialFinding(_mislabelled(snapshot, tenant))
    return CredentialFinding(
        SecretProblem.NO_KEY if found.code is Code.SECRET_NOT_FOUND else SecretProblem.MALFORMED_KEY
    )


def _mislabelled(snapshot: SecretSnapshot, tenant: str) -> SecretProblem:
    if snapshot.tenant is None:
        return SecretProblem.UNLABELLED
    return SecretProblem.OTHER_PURPOSE if snapshot.tenant == tenant else SecretProblem.OTHER_TENANT


def _judge(one: RegisteredCredential, seen: CredentialFinding | None, *, is_local: bool) -> CheckResult | None:
    """What to say of it; None when all is well."""
    status = one.state.status
    if one.credential is None:
        return _GROUP.failed(
            one.name,
            "this version can't read what is stored of it",
            f"set it anew: oneprotect credential set {one.id} --tenant {one.tenant} "
            "--secret-ref k8s://NAMESPACE/SECRET/KEY",
        )
    if seen is None or seen.cause in _UNSEEN:
        return _by_status(one, seen, is_local=is_local)
    if seen.cause is not None:
        return _broken(one, seen.cause, is_local=is_local)
    if status is not CredentialStatus.CONFIGURED:
        return _GROUP.warning(
            one.name,
            f"its Secret can sign, but consumers {_said(one)}",
            f"let one look again: oneprotect credential check {one.id} --tenant {one.tenant}",
        )
    return _rollover(one) if seen.rollover_misconfigured else None


def _by_status(one: RegisteredCredential, seen: CredentialFinding | None, *, is_local: bool) -> CheckResult | None:
    """By the consumers' word alone, as nothing can be seen from here."""
    status = one.state.status
    if status is CredentialStatus.CONFIGURED:
        return _rollover(one) if one.state.rollover.misconfigured else None
    if status is CredentialStatus.UNCHECKED:
        if seen is not None and seen.cause is not None:
            return _broken(one, seen.cause, is_local=is_local)
        return _GROUP.unknown(one.name, "no consumer has looked at it yet", SENTENCES[status])
    cause = _LIKELY.get(status)
    mending = _commands(one, cause, is_local=is_local) if cause else ""
    return _GROUP.failed(
        one.name, f"consumers {_said(one)}, and its Secret can't be looked at from here", _lines(status, mending)
    )


_LIKELY: Final = {
    CredentialStatus.MISSING: SecretProblem.NO_SECRET,
    CredentialStatus.MISMATCH: SecretProblem.UNLABELLED,
    CredentialStatus.MALFORMED: SecretProblem.MALFORMED_KEY,
    CredentialStatus.DENIED: SecretProblem.DENIED,
    CredentialStatus.UNAVAILABLE: SecretProblem.UNAVAILABLE,
}
"""The commonest cause of each status."""


def _broken(one: RegisteredCredential, cause: SecretProblem, *, is_local: bool) -> CheckResult:
    finding = cause.value
    if one.state.status is CredentialStatus.CONFIGURED:
        finding += f"; consumers {_said(one)}, and go on with what they remember for a while"
    return _GROUP.failed(one.name, finding, _commands(one, cause, is_local=is_local))


def _rollover(one: RegisteredCredential) -> CheckResult:
    return _GROUP.warning(
        one.name,
        "it signs, but with its current key alone: there is a previous key that can't be relied on",
        "until when it signs: kubectl annotate secret SECRET --namespace NAMESPACE --overwrite "
        "oneprotect.io/previous-expires-at=\"$(date -u -d '+24 hours' +%Y-%m-%dT%H:%M:%SZ)\" (30 days at most)\n"
        "if that is right already, the previous key is malformed or the current one again: "
        "see docs/how-to/rotate-a-secret.md",
    )


def _said(one: RegisteredCredential) -> str:
    if one.state.checked_at is None:
        return "have not looked at it yet"
    return f"said {one.state.status.value} at {one.state.checked_at:%Y-%m-%d %H:%M:%S} UTC"


def _commands(one: RegisteredCredential, cause: SecretProblem, *, is_local: bool) -> str:
    purpose = one.credential.purpose if one.credential else Purpose.WEBHOOK_SIGNING
    return remedy_commands(cause, is_local=is_local, tenant=one.tenant, credential=one.id, purpose=purpose)


def _lines(status: CredentialStatus, mending: str) -> str:
    return f"{SENTENCES[status]}\n{mending}" if mending else SENTENCES[status]
