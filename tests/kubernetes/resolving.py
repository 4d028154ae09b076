"""Helpers that resolve secrets."""

import pytest

from provider.errors import SecretError
from provider.provider import SecretProvider
from provider.secret_ref import SecretRef
from provider.signing_secret import SigningSecret
from schemas.ids import Purpose
from tests.kubernetes.canary import locals_in_provider, shows
from tests.kubernetes.manifests import KEY

REF = SecretRef.parse("k8s://webhooks/acme-signing/signing")
ALLOWED = frozenset({"webhooks"})


class Pauses:
    """A replacement for sleep that records its durations."""

    def __init__(self) -> None:
        self.lengths_s: list[float] = []

    async def __call__(self, length_s: float) -> None:
        self.lengths_s.append(length_s)


class Clock:
    """A clock that changes only on request."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def resolve(provider: SecretProvider, ref: SecretRef = REF, *, tenant: str = "acme") -> SigningSecret:
    """Resolve for signing webhooks."""
    return await provider.resolve(ref, tenant=tenant, purpose=Purpose.WEBHOOK_SIGNING)


async def refused(
    provider: SecretProvider, error: type[SecretError], ref: SecretRef = REF, *, tenant: str = "acme"
) -> None:
    """Resolve, and require this error, with nothing foreign attached and no key in the locals of its traceback."""
    with pytest.raises(error) as failure:
        await resolve(provider, ref, tenant=tenant)
    assert (type(failure.value), failure.value.args) == (error, ())
    assert (failure.value.__context__, failure.value.__cause__) == (None, None)
    assert not shows(locals_in_provider(failure.value), KEY)
