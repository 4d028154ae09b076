"""Objects of the provider: contents after a resolve, and output when printed."""

import asyncio
import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consumers.signatures import signer
from provider.cache.provider import CachedSecretProvider
from provider.ed25519_key import Ed25519SigningKey
from provider.errors import SecretMalformed
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.session import ApiServerResponse
from provider.local import LocalSecretProvider
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret
from tests.kubernetes.manifests import manifest, write
from tests.leak.support import cluster
from tests.leak.support.malformed import MALFORMED, USABLE, Malformed, made_of
from tests.leak.support.objects import contents, looks, reachable
from tests.leak.support.sinks import Sinks
from tests.leak.support.tracebacks import attached
from tests.support.leaks import Canary, Search
from tests.support.signing import sign_with

NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAMESPACES = frozenset({"webhooks"})


def private_key() -> Canary:
    """A new `whsk_` secret, whose public half these tests treat as secret too."""
    key = Ed25519PrivateKey.generate()
    halves = key.private_bytes_raw() + key.public_key().public_bytes_raw()
    return Canary("private key", b"whsk_" + base64.b64encode(halves))


def _secret_of(*canaries: Canary) -> SigningSecret:
    keys = [
        (Ed25519SigningKey if one.reveal().startswith("whsk_") else HmacKey)(one.reveal_bytes()) for one in canaries
    ]
    return SigningSecret(
        current=keys[0], previous=keys[1], previous_expires_at=NOW + timedelta(days=1), version="uid/1"
    )


async def test_no_object_of_the_provider_contains_the_secret(tmp_path: Path) -> None:
    """No text or bytes reachable after signing contain the secret; the token proves the walk works."""
    async with cluster.running(tmp_path) as running:
        inner = await running.provider()
        provider = CachedSecretProvider(inner)
        secret = await cluster.resolved(provider)
        signatures = sign_with(secret, b"message", datetime.now(UTC))
        await asyncio.sleep(0)

        held = list(reachable(provider, inner, secret))
        await provider.aclose()

        assert {type(one) for one in held} >= {KubernetesSecretProvider, HmacKey, SigningSecret}
        assert {finding.canary for finding in running.search.find(contents(held))} == {"bearer token"}
        assert [signature.slot for signature in signatures] == ["current", "previous"]


@pytest.mark.parametrize("make", USABLE.values(), ids=USABLE)
async def test_no_object_of_the_local_provider_contains_the_secret(tmp_path: Path, make: Malformed) -> None:
    """No reachable object contains the secret in any file format."""
    canary, other = Canary.secret(), private_key()
    write(tmp_path, manifest(data={"signing": made_of(canary, make), "other": other.reveal_bytes()}))
    provider = CachedSecretProvider(LocalSecretProvider(tmp_path, NAMESPACES))

    secret = await cluster.resolved(provider)
    held = list(reachable(provider, secret))

    assert {type(one) for one in held} >= {LocalSecretProvider, HmacKey, Ed25519SigningKey}
    assert b"acme" in contents(held)
    assert Search(canary, other).find(contents(held)) == []


def test_the_walk_finds_hidden_objects() -> None:
    """The walk finds objects in slots, closures, bound methods, containers and untracked objects."""
    canaries = [Canary.secret(str(number)) for number in range(4)]
    texts = [canary.reveal() for canary in canaries]

    def remember(text: str) -> Callable[[], str]:
        return lambda: text

    hidden = [
        remember(texts[0]),
        {"a": (texts[1].encode(),)},
        bytearray(texts[2].encode()).hex,
        ApiServerResponse(200, texts[3].encode()),
    ]

    found = {finding.canary for finding in Search(*canaries).find(contents(reachable(hidden)))}
    assert found == {"0", "1", "2", "3"}


async def test_no_object_of_the_provider_shows_a_secret(sinks: Sinks, tmp_path: Path) -> None:
    """Printing, copying, pickling and encoding show no secret, and neither does the refusal."""
    async with cluster.running(tmp_path) as running:
        canaries = Canary.secret(), private_key()
        inner = await running.provider()
        provider = CachedSecretProvider(inner)
        local = LocalSecretProvider(tmp_path, NAMESPACES)
        roots = (provider, inner, local, await cluster.resolved(provider), _secret_of(*canaries))
        ours = [one for one in reachable(roots) if type(one).__module__.startswith("provider.")]
        ours += [cluster.REF, ApiServerResponse(200, running.secret.reveal_bytes())]
        for one in ours:
            for way, shown in looks(one):
                if isinstance(shown, BaseException):
                    sinks.hear_error(f"{way}, {type(one).__name__}", shown)
                else:
                    sinks.hear(f"{way}, {type(one).__name__}", shown)
        await provider.aclose()

        kinds = {type(one).__name__ for one in ours}
        assert kinds >= {
            "HmacKey",
            "Ed25519SigningKey",
            "SigningSecret",
            "SecretSnapshot",
            "SecretRef",
            "ApiServerResponse",
        }
        assert kinds >= {
            "KubernetesSecretProvider",
            "LocalSecretProvider",
            "CachedSecretProvider",
            "ApiServerConfig",
            "TokenFile",
        }
        assert all(sinks.holds(f"seen by repr, {kind}", kind) for kind in kinds)
        found = sinks.findings(Search(running.secret, running.previous, running.token, *canaries))
        # The body of a response has a public name, and so has the token, which every request carries.
        assert [line for line in found if not line.startswith("out by")] == []
        assert [
            line for line in found if "bearer token" not in line and "attributes, ApiServerResponse" not in line
        ] == []


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("kind", [HmacKey, Ed25519SigningKey])
def test_a_refused_key_is_not_shown(sinks: Sinks, make: Malformed, kind: type[HmacKey | Ed25519SigningKey]) -> None:
    """The frame that refused the key no longer refers to it."""
    canary = Canary.secret()

    with pytest.raises(SecretMalformed) as failure:
        kind(made_of(canary, make))
    sinks.hear_error("refused", failure.value)

    assert attached(failure.value) == [failure.value]
    assert sinks.holds("refused: locals of all frames", "canary = Canary(secret)")
    assert sinks.findings(Search(canary)) == []


MISUSES: dict[str, Callable[[SigningSecret], object]] = {
    "text to sign": lambda secret: sign_with(secret, "text", NOW),  # type: ignore[arg-type]  # what is misused
    "a time without a zone": lambda secret: sign_with(secret, b"", datetime(2026, 1, 1)),  # noqa: DTZ001 - the misuse
    "no time": lambda secret: sign_with(secret, b"", None),  # type: ignore[arg-type]  # what is misused
    "an id with a dot": lambda secret: signer.sign(secret, delivery="a.b", body=b"", now=NOW),
    "a body of text": lambda secret: signer.sign(secret, delivery="a", body="text", now=NOW),  # type: ignore[arg-type]  # misuse
    "a time that is none": lambda secret: signer.sign(secret, delivery="a", body=b"", now="now"),  # type: ignore[arg-type]  # misuse
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
def test_signing_that_fails_shows_no_key(sinks: Sinks, misuse: Callable[[SigningSecret], object]) -> None:
    """In no frame of its traceback, whichever scheme the keys are of."""
    first, second, third, fourth = Canary.secret(), private_key(), Canary.secret(), private_key()
    for secret in (_secret_of(first, second), _secret_of(fourth, third)):
        with pytest.raises((TypeError, ValueError, AttributeError)) as failure:
            misuse(secret)
        sinks.hear_error("misused", failure.value)

    assert sinks.holds("misused: locals of all frames", "SigningSecret(...)")
    assert sinks.findings(Search(first, second, third, fourth)) == []
