"""What the consumers' service account may do with Secrets: get those of credentials, and nothing else."""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

from oneprotect.doctor.registered_credentials import RegisteredCredential
from oneprotect.doctor.remedies import GRANT, ROLE
from oneprotect.doctor.result import CheckGroup, CheckResult
from provider.kubernetes.access_review import Verb
from provider.secret_ref import SecretRef

MAX_SECRETS: Final = 500
"""Asked about by name; more are said to be left out."""
UNNAMED: Final = "oneprotect-doctor-asks-about-no-such-secret"
"""No credential names it, so who may get it may get any."""
TOO_MUCH: Final[tuple[Verb, ...]] = ("list", "watch", "create", "update", "patch", "delete", "deletecollection")
EVERYWHERE: Final = ""

_GROUP = CheckGroup("permissions")
_SHOWN: Final = 10


class AccessReviewer(Protocol):
    """Answers what we may do. See `provider.kubernetes.access_review.AccessReviews`."""

    async def is_allowed(self, verb: Verb, *, namespace: str, name: str = "") -> bool | None:
        """Whether we may; None when it could not be asked."""
        ...


async def check_permissions(
    reviews: AccessReviewer, namespaces: Iterable[str], registered: list[RegisteredCredential] | None
) -> list[CheckResult]:
    """What is too little, and what is too much. `registered` is None when the credentials could not be read."""
    return [await _too_little(reviews, registered), await _too_much(reviews, sorted(namespaces))]


async def _too_little(reviews: AccessReviewer, registered: list[RegisteredCredential] | None) -> CheckResult:
    name = "may get the Secrets of credentials"
    if registered is None:
        return _GROUP.unknown(name, "the credentials could not be read")
    using: dict[tuple[str, str], list[str]] = {}
    for one in registered:
        if one.ref is not None:
            using.setdefault(_place(one.ref), []).append(one.name)
    asked = list(using)[:MAX_SECRETS]
    answers = await asyncio.gather(*(reviews.is_allowed("get", namespace=place[0], name=place[1]) for place in asked))
    if None in answers:
        return _unanswered(name)
    denied = [who for place, may in zip(asked, answers, strict=True) if not may for who in using[place]]
    left_out = f"; {len(using) - len(asked)} more were not asked about" if len(using) > len(asked) else ""
    if denied:
        return _GROUP.failed(
            name, f"it may not get those of {_few(denied)} (SECRET in NAMESPACE, as the refs say){left_out}", GRANT
        )
    return _GROUP.ok(name, f"it may get all {len(asked)}{left_out}" if asked else "no credential names one")


async def _too_much(reviews: AccessReviewer, namespaces: list[str]) -> CheckResult:
    name = "may do nothing else with Secrets"
    in_its_own: list[tuple[str, str, Verb, str]] = [
        (verb, namespace, verb, "") for namespace in namespaces for verb in TOO_MUCH
    ]
    by_any_name: list[tuple[str, str, Verb, str]] = [
        ("get any, also those that no credential names", namespace, "get", UNNAMED) for namespace in namespaces
    ]
    everywhere: list[tuple[str, str, Verb, str]] = [
        (f"{verb} those of every namespace", EVERYWHERE, verb, "") for verb in ("get", "list")
    ]
    questions = [*by_any_name, *in_its_own, *everywhere]
    answers = await asyncio.gather(
        *(reviews.is_allowed(verb, namespace=namespace, name=secret) for _, namespace, verb, secret in questions)
    )
    if None in answers:
        return _unanswered(name)
    found = list(dict.fromkeys(words for (words, *_), may in zip(questions, answers, strict=True) if may))
    if not found:
        return _GROUP.ok(name, "neither list, watch nor write, and get none that no credential names")
    return _GROUP.warning(
        name,
        f"it is over-privileged: it may also {', '.join(found)}",
        "see which roles allow it: kubectl auth can-i --list --namespace NAMESPACE "
        "--as system:serviceaccount:CONSUMERS_NAMESPACE:CONSUMERS_SERVICEACCOUNT\n"
        f"bind it to this one instead, with one name for each Secret:\n{ROLE}",
    )


def not_in_a_cluster() -> CheckResult:
    """This process has no service account, and what its user may do says nothing about the consumers."""
    return _GROUP.unknown(
        "service account",
        "this process is not in a pod, so it can't tell what the consumers may do",
        "run it where one runs: kubectl exec deploy/CONSUMER -- oneprotect doctor",
    )


def _unanswered(name: str) -> CheckResult:
    return _GROUP.unknown(
        name,
        "the API server could not be asked",
        "see whether it answers: kubectl get --raw /readyz\n"
        "and that a network policy lets this pod reach it, at its own address and port",
    )


def _place(ref: SecretRef) -> tuple[str, str]:
    return ref.namespace, ref.name


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
