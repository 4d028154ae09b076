"""Failing provider: errors, logs and files contain nothing that it read."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from provider.cache.provider import CachedSecretProvider
from provider.errors import ProviderMisconfigured, SecretUnavailable
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.local import LocalSecretProvider
from provider.provider import SecretProvider
from provider.secret_ref import SecretRef
from provider.snapshot import SecretSnapshot
from tests.kubernetes.manifests import manifest, write
from tests.leak.support import cluster
from tests.leak.support.cluster import REF
from tests.leak.support.faults import faults, value_of
from tests.leak.support.listening import Listener
from tests.leak.support.malformed import MALFORMED, made_of
from tests.leak.support.sinks import Sinks
from tests.leak.support.tracebacks import attached
from tests.support.leaks import Canary, Search

MARKER = "a-harmless-marker"
NAMESPACES = frozenset({"webhooks"})


async def _refuse(sinks: Sinks, provider: SecretProvider, name: str) -> None:
    """Record how resolving fails, and require an error without causes that shows only its code."""
    error = await cluster.refusal(provider)
    sinks.hear_error(name, error)
    assert (attached(error), error.args) == ([error], ()), name


async def test_no_fault_of_the_api_server_shows_a_secret(listener: Listener, sinks: Sinks, tmp_path: Path) -> None:
    """Error, traceback with locals and logs contain neither the secret nor the token of a fault."""
    async with cluster.running(tmp_path) as running:
        for name, fault in faults().items():
            provider = await running.provider(timeout_s=0.2)
            listener.turn_up()
            running.server.requests.clear()
            running.server.every_answer = fault(running.server, running.document())
            await _refuse(sinks, provider, name)
            await provider.aclose()
            assert running.server.requests, name

        assert await listener.prove_alive(MARKER) == []
        assert all(sinks.holds(f"{name}: traceback", "provider.errors.Secret") for name in faults())
        assert sinks.findings(running.search) == []


async def test_malformed_secrets_are_not_shown(listener: Listener, sinks: Sinks, tmp_path: Path) -> None:
    """The error of each provider shows no part of a malformed secret."""
    async with cluster.running(tmp_path) as running:
        canary = Canary.secret("malformed secret")
        local = LocalSecretProvider(tmp_path / "secrets", NAMESPACES)
        kubernetes = await running.provider()
        listener.turn_up()
        for name, make in MALFORMED.items():
            document = manifest(
                data={"signing": made_of(canary, make), "signing.previous": running.secret.reveal_bytes()}
            )
            write(tmp_path / "secrets", document)
            running.server.put(document)
            for provider in (local, kubernetes, CachedSecretProvider(local), CachedSecretProvider(kubernetes)):
                await _refuse(sinks, provider, f"{name}, {type(provider).__name__}")
        await kubernetes.aclose()

        assert await listener.prove_alive(MARKER) == []
        assert sinks.findings(Search(canary, running.secret, running.token)) == []


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


FILES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "no UTF-8": lambda path: path.write_bytes(path.read_bytes().replace(b"Opaque", b"Op\xff\xfe")),
    "no JSON": lambda path: path.write_bytes(b"data: " + path.read_bytes()),
    "no base64": lambda path: path.write_bytes(path.read_bytes().replace(b'"signing": "', b'"signing": "!')),
    "too long": lambda path: path.write_bytes(path.read_bytes() + b" " * 1_500_000),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "a directory": lambda path: _replaced(path, Path.mkdir),
    "a pipe": lambda path: _replaced(path, os.mkfifo),
    "a way out": lambda path: _replaced(path, lambda it: it.symlink_to("/etc/passwd")),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("spoil", FILES.values(), ids=FILES)
async def test_unusable_files_are_not_shown(
    listener: Listener, sinks: Sinks, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """The error shows no content of an unusable file of the local provider."""
    canary = Canary.secret()
    spoil(write(tmp_path, manifest(data={"signing": canary.reveal_bytes()})))

    await _refuse(sinks, CachedSecretProvider(LocalSecretProvider(tmp_path, NAMESPACES)), "local")

    assert await listener.prove_alive(MARKER) == []
    assert sinks.findings(Search(canary)) == []


async def test_another_tenant_learns_nothing(listener: Listener, sinks: Sinks, tmp_path: Path) -> None:
    """A key that is there and in memory, but not for this tenant, or not under this name."""
    async with cluster.running(tmp_path) as running:
        provider = CachedSecretProvider(await running.provider())
        await cluster.resolved(provider)
        for ref, tenant in ((REF, "globex"), (SecretRef.parse(f"{REF}.x"), "acme")):
            sinks.hear_error(f"{tenant}: {ref}", await cluster.refusal(provider, ref, tenant=tenant))
        await provider.aclose()

        assert await listener.prove_alive(MARKER) == []
        assert sinks.findings(running.search) == []


class Careless:
    """A reader that raises an exception that no provider should raise."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def read(self, ref: SecretRef) -> SecretSnapshot:
        del ref
        raise self._error

    async def aclose(self) -> None:
        pass


async def test_the_cache_raises_no_foreign_exception(listener: Listener, sinks: Sinks) -> None:
    """The cache hides the text of an exception that a provider did not translate."""
    canary = Canary.secret()
    decoding = UnicodeDecodeError("utf-8", canary.reveal_bytes(), 0, 1, "no")
    for error in (KeyError(canary.reveal()), decoding, RuntimeError(canary.reveal())):
        await _refuse(sinks, CachedSecretProvider(Careless(error)), type(error).__name__)

    assert await listener.prove_alive(MARKER) == []
    assert sinks.findings(Search(canary)) == []


async def test_a_cancelled_read_shows_nothing(listener: Listener, sinks: Sinks, tmp_path: Path) -> None:
    """A delivery cancelled between the secret and the end of the response leaks nothing at exit."""
    async with cluster.running(tmp_path) as running:
        provider = CachedSecretProvider(await running.provider())
        listener.turn_up()
        running.send_without_end()
        waiting = [asyncio.create_task(cluster.resolved(provider)) for _ in range(2)]
        await running.until_sent()
        waiting[0].cancel()
        await provider.aclose()
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, asyncio.CancelledError | SecretUnavailable)
            sinks.hear_error("called off", error)

        assert await listener.prove_alive(MARKER) == []
        assert sinks.findings(running.search) == []


MISCONFIGURED: dict[str, Callable[[str], str]] = {
    "two words": lambda token: f"{token} {token}",
    "control characters": lambda token: f"{token}\x00",
    "no ASCII": lambda token: f"{token}é",
    "empty": lambda _: "",
}


@pytest.mark.parametrize("spoil", MISCONFIGURED.values(), ids=MISCONFIGURED)
async def test_an_unusable_token_is_not_shown(
    listener: Listener, sinks: Sinks, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    """The provider refuses to start, or fails when running, without showing the token."""
    async with cluster.running(tmp_path) as running:
        started = await running.provider()
        running.server.users.clear()
        (running.account / "token").write_text(spoil(running.token.reveal()))

        await _refuse(sinks, started, "running")
        with pytest.raises(ProviderMisconfigured) as failure:
            await running.provider()
        sinks.hear_error("starting", failure.value)
        await started.aclose()

        assert attached(failure.value) == [failure.value]
        assert await listener.prove_alive(MARKER) == []
        assert sinks.findings(running.search) == []


@pytest.mark.parametrize("spoiled", ['"token": [', '"token": {"a": ', '"tokens": \t@', '"exec": {"command": 1}, "x": '])
async def test_an_unusable_kubeconfig_is_not_shown(
    listener: Listener, sinks: Sinks, tmp_path: Path, spoiled: str
) -> None:
    """The error omits the lines that the parser's messages quote."""
    async with cluster.running(tmp_path) as running:
        path = running.kubeconfig()
        path.write_text(path.read_text().replace('"token": ', spoiled))

        with pytest.raises(ProviderMisconfigured) as failure:
            await KubernetesSecretProvider.from_kubeconfig(path, namespaces_allowed=NAMESPACES)
        sinks.hear_error("starting", failure.value)

        assert attached(failure.value) == [failure.value]
        assert await listener.prove_alive(MARKER) == []
        assert sinks.findings(running.search) == []


async def test_an_untrusted_server_gets_no_token(listener: Listener, sinks: Sinks, tmp_path: Path) -> None:
    """The error shows no part of the server's certificate either."""
    async with cluster.running(tmp_path / "one") as one, cluster.running(tmp_path / "other") as other:
        other.account.joinpath("ca.crt").write_bytes(one.server.authority.ca_file.read_bytes())
        provider = await other.provider()

        await _refuse(sinks, provider, "not trusted")
        await provider.aclose()

        assert other.server.requests == []
        assert await listener.prove_alive(MARKER) == []
        assert sinks.findings(other.search) == []
        assert value_of(other.document())
