"""Checks of the consumers' service account: it may get the Secrets of credentials, and nothing else."""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from oneprotect.doctor.registered_credentials import RegisteredCredential
from oneprotect.doctor.remedies import GRANT, ROLE
from oneprotect.doctor.result import CheckGroup, CheckResult
from provider.kubernetes.access_review import Verb

MAX_SECRETS: Final = 500
"""Secrets that are checked by name. The result states how many others there are."""
UNNAMED_SECRET: Final = "oneprotect-doctor-asks-about-no-such-secret"
"""A name that no credential uses: an account that may get it may get any Secret."""
EXCESS_VERBS: Final[tuple[Verb, ...]] = ("list", "watch", "create", "update", "patch", "delete", "deletecollection")
CLUSTER_VERBS: Final[tuple[Verb, ...]] = ("get", "list")
ALL_NAMESPACES: Final = ""

_GROUP = CheckGroup("permissions")
_REQUIRED: Final = "required access to Secrets"
_EXCESS: Final = "excess access to Secrets"
_MAX_SHOWN: Final = 10


class AccessReviewer(Protocol):
    """Access reviews of this process's service account. See `provider.kubernetes.access_review.AccessReviews`."""

    async def is_allowed(self, verb: Verb, *, namespace: str, name: str = "") -> bool | None:
        """Return whether the account has the permission, or None when the API server did not answer."""
        ...


async def check_permissions(
    reviews: AccessReviewer, namespaces: Iterable[str], registered: list[RegisteredCredential] | None
) -> list[CheckResult]:
    """Check required and excess permissions. `registered` is None when the credentials are unreadable."""
    return [await _check_required(reviews, registered), await _check_excess(reviews, sorted(namespaces))]


async def _check_required(reviews: AccessReviewer, registered: list[RegisteredCredential] | None) -> CheckResult:
    if registered is None:
        return _GROUP.unknown(_REQUIRED, "the credentials are unreadable")
    users: dict[tuple[str, str], list[str]] = {}
    for credential in registered:
        if credential.ref is not None:
            users.setdefault((credential.ref.namespace, credential.ref.name), []).append(credential.name)
    checked = list(users)[:MAX_SECRETS]
    answers = await asyncio.gather(*(reviews.is_allowed("get", namespace=place[0], name=place[1]) for place in checked))
    if None in answers:
        return _unanswered(_REQUIRED)
    denied = [name for place, may in zip(checked, answers, strict=True) if not may for name in users[place]]
    unchecked = f"; {len(users) - len(checked)} more were not checked" if len(users) > len(checked) else ""
    if denied:
        return _GROUP.failed(
            _REQUIRED,
            f"the account may not get the Secrets of {_shorten(denied)}{unchecked}",
            f"grant it, with SECRET and NAMESPACE from the refs:\n{GRANT}",
        )
    return _GROUP.ok(_REQUIRED, f"it may get all {len(checked)}{unchecked}" if checked else "no credential names one")


async def _check_excess(reviews: AccessReviewer, namespaces: list[str]) -> CheckResult:
    questions: list[tuple[str, str, Verb, str]] = [
        *(("get any Secret, even if no credential names it", name, "get", UNNAMED_SECRET) for name in namespaces),
        *((verb, name, verb, "") for name in namespaces for verb in EXCESS_VERBS),
        *((f"{verb} in every namespace", ALL_NAMESPACES, verb, "") for verb in CLUSTER_VERBS),
    ]
    answers = await asyncio.gather(
        *(reviews.is_allowed(verb, namespace=namespace, name=secret) for _, namespace, verb, secret in questions)
    )
    if None in answers:
        return _unanswered(_EXCESS)
    found = list(dict.fromkeys(text for (text, *_), may in zip(questions, answers, strict=True) if may))
    if not found:
        return _GROUP.ok(_EXCESS, "none: no list, watch or write, and no get of other Secrets")
    return _GROUP.warning(
        _EXCESS,
        f"the account is over-privileged: it may also {', '.join(found)}",
        "find the roles that allow it: kubectl auth can-i --list --namespace NAMESPACE "
        "--as system:serviceaccount:CONSUMERS_NAMESPACE:CONSUMERS_SERVICEACCOUNT\n"
        f"bind it to this role instead, with the name of each Secret:\n{ROLE}",
    )


def report_outside_cluster() -> CheckResult:
    """Return the result for a process without a service account, whose permissions are not the consumers'."""
    return _GROUP.unknown(
        "service account",
        "this process does not run in a pod, so the consumers' permissions are unknown",
        "run the doctor in a consumer's pod: kubectl exec deploy/CONSUMER -- oneprotect doctor",
    )


def _unanswered(name: str) -> CheckResult:
    return _GROUP.unknown(
        name,
        "the API server did not answer",
        "check that it answers: kubectl get --raw /readyz\n"
        "and that a NetworkPolicy lets this pod reach its address and port",
    )


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:_MAX_SHOWN])
    return f"{shown} and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else shown
