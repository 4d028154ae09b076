"""Import cost of a consumer: each library is imported only when it is needed."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from messaging.client.client import ServerAccess
from messaging.client.connection import connect
from oneprotect.dev.nats_server import EmbeddedNats
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.manifests import manifest
from tests.support.receiver import Scripted
from tests.support.site import Site
from tests.support.waiting import until

HEAVY = {
    "aiohttp",
    "cryptography",
    "jinja2",
    "kubernetes_asyncio",
    "starlette",
    "opentelemetry",
    "requests",
    "uvicorn",
    "yaml",
}
MOST_MODULES = 560
MOST_MEMORY_BYTES = 80_000_000
MOST_MEMORY_WITH_KUBECONFIG_BYTES = 160_000_000
"""A kubeconfig is loaded by kubernetes-asyncio, which imports every API and every kind of object."""

READS_A_SECRET = """
    import asyncio, pathlib, sys
    import psutil, uvloop
    import oneprotect.bootstrap.consumer
    from provider.kubernetes.provider import KubernetesSecretProvider
    from provider.secret_ref import SecretRef

    async def main():
        provider = await KubernetesSecretProvider.in_cluster(
            namespaces_allowed=frozenset({"webhooks"}), directory=pathlib.Path(sys.argv[1])
        )
        snapshot = await provider.read(SecretRef.parse("k8s://webhooks/signing-key/signing"))
        print(snapshot.tenant, psutil.Process().memory_info().rss, "kubernetes_asyncio" in sys.modules)
        await provider.aclose()

    uvloop.run(main())
"""


def test_a_consumers_parts_bring_no_heavy_library() -> None:
    """Importing all that a consumer is made of loads no library that only others use, and few modules in all."""
    code = (
        "import sys, uvloop, oneprotect.bootstrap.consumer;"
        "print(len(sys.modules), *{m.partition('.')[0] for m in sys.modules})"
    )

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()

    assert HEAVY.isdisjoint(printed[1:])
    assert {"nats", "httptools", "uvloop"} <= set(printed[1:]), "the pipe is alive"
    assert int(printed[0]) < MOST_MODULES


async def test_an_idle_consumer_uses_little_memory(site: Site) -> None:
    """An idle consumer with the local provider stays below 80 MB."""
    async with site.consumer_process() as consumer:
        await until(lambda: consumer.says("consumer.started"), 60)
        resident = psutil.Process(consumer.process.pid).memory_info().rss

    assert 10_000_000 < resident < MOST_MEMORY_BYTES


async def test_a_consumer_with_a_kubeconfig_delivers_in_less_than_160_mb(site: Site, tmp_path: Path) -> None:
    """Outside a cluster, the library that loads the kubeconfig stays in memory."""
    async with ApiServer.running(tmp_path / "api") as api, Scripted() as receiver:
        environ = {"ONEPROTECT_SECRET_PROVIDER": "kubernetes", "KUBECONFIG": str(_kubeconfig(api, tmp_path))}
        await site.destination("orders", receiver.url)
        async with site.consumer_process(environ=environ) as consumer:
            delivery = await site.deliver("orders")
            await until(site.is_settled, 60)
            resident = psutil.Process(consumer.process.pid).memory_info().rss

    assert api.requests
    assert receiver.ids() == [delivery]
    assert 10_000_000 < resident < MOST_MEMORY_WITH_KUBECONFIG_BYTES


async def test_reading_secrets_in_a_pod_uses_little_more(tmp_path: Path) -> None:
    """In a pod, a consumer that reads a Secret imports no Kubernetes library and stays below 80 MB."""
    async with ApiServer.running(tmp_path / "api") as api:
        api.put(manifest(name="signing-key"))
        run = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(READS_A_SECRET),
            str(api.service_account(tmp_path / "account")),
            cwd=Path(__file__).parents[3],
            env={**os.environ, **api.environ},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await run.communicate()

    tenant, resident, is_imported = output.decode().split()
    assert (tenant, is_imported) == ("acme", "False")
    assert 10_000_000 < int(resident) < MOST_MEMORY_BYTES


def _kubeconfig(api: ApiServer, directory: Path) -> Path:
    """One that leads to `api`, which has a Secret for the site's credential."""
    api.put(manifest(name="signing-key"))
    account = api.service_account(directory / "account")
    user = {"token": (account / "token").read_text()}
    return written(directory / "config", kubeconfig(api.url, (account / "ca.crt").read_bytes(), user))


@pytest.mark.filterwarnings("ignore:.*ws_close.*:DeprecationWarning")  # how the client library calls aiohttp
async def test_websockets_to_nats_still_work(tmp_path: Path) -> None:
    """A consumer that connects by WebSocket imports the library that others do not need."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"

    class WithWebSockets(EmbeddedNats):
        def _write_config(self, port: int) -> Path:
            path = super()._write_config(port)
            path.write_text(f"{path.read_text()}\nwebsocket {{ listen: {at}, no_tls: true }}\n")
            return path

    access = ServerAccess(url=f"ws://{at}")
    async with WithWebSockets(tmp_path), connect(access, name="test") as connection:
        assert connection.is_connected
