"""Environment of the provider: loggers that would show Secrets, and proxies that would redirect requests."""

import asyncio
import json
import logging
import logging.config
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.errors import SecretNotFound, SecretUnavailable
from provider.kubernetes.provider import KubernetesSecretProvider
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.canary import shows
from tests.kubernetes.faults import cut_body, cut_json, saying
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.manifests import KEY, OTHER_KEY, manifest
from tests.kubernetes.resolving import refused, resolve

LIBRARY = "kubernetes_asyncio.client.rest"


class Everything(logging.Handler):
    """Keeps whatever reaches it."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {self.format(record)} {record.__dict__}")


@pytest.fixture
def heard() -> Iterator[Everything]:
    """All logging at DEBUG, heard at the root and at the library's own loggers."""
    handler, loggers = Everything(), [logging.getLogger(name) for name in (None, "kubernetes_asyncio", LIBRARY)]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, level in zip(loggers, before, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


async def test_debug_logging_shows_no_secret_and_no_token(
    server: ApiServer, provider: KubernetesSecretProvider, heard: Everything
) -> None:
    """Neither successful nor failed reads log a secret at DEBUG."""
    asyncio.get_running_loop().set_debug(True)
    server.put(manifest(data={"signing": KEY, "signing.previous": OTHER_KEY}))

    await resolve(provider)
    for fault in (cut_json(manifest()), cut_body(manifest()), saying(500, KEY.decode())):
        server.next_answers.extend([fault] * 3)
        await refused(provider, SecretUnavailable)
        await resolve(provider)
    server.remove("webhooks", "acme-signing")
    await refused(provider, SecretNotFound)
    logging.getLogger("oneprotect.test").debug("the pipe is alive")

    everything = "\n".join(heard.lines)
    assert "the pipe is alive" in everything
    assert "token-1" not in everything
    assert not shows(everything, KEY)
    assert not shows(everything, OTHER_KEY)


async def test_the_librarys_own_logging_stays_silent_whatever_is_configured(
    server: ApiServer, heard: Everything, tmp_path: Path
) -> None:
    """No level, handler or later configuration brings back what the library logs while it loads a kubeconfig."""
    document = kubeconfig(server.url, server.authority.ca_file.read_bytes(), {"token": "token-1"})
    path = written(tmp_path / "kubeconfig", document)
    provider = await KubernetesSecretProvider.from_kubeconfig(path, namespaces_allowed=frozenset({"webhooks"}))
    await resolve(provider)
    await provider.aclose()
    for loggers in ({"kubernetes_asyncio": {"level": "DEBUG"}}, {}):
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "loggers": loggers})
    logging.getLogger(LIBRARY).setLevel(logging.DEBUG)
    logging.getLogger(LIBRARY).addHandler(heard)

    for level in (logging.DEBUG, logging.CRITICAL):
        logging.getLogger(LIBRARY).log(level, "response body: %s", KEY)
        logging.getLogger("kubernetes_asyncio.config.kube_config").log(level, "%s", KEY)
    logging.getLogger("kubernetes").debug("the pipe is alive")

    assert [line for line in heard.lines if "kubernetes_asyncio" in line] == []
    assert any("the pipe is alive" in line for line in heard.lines)


SCRIPT = """
    import asyncio, json, sys, pathlib, ssl
    import aiohttp
    from provider.kubernetes.provider import KubernetesSecretProvider
    from tests.kubernetes.resolving import resolve

    async def others(url, ca_file, **options):
        async with aiohttp.ClientSession(trust_env=True) as session:
            try:
                async with session.get(url, ssl=ssl.create_default_context(cafile=ca_file), **options) as response:
                    return response.status
            except Exception as error:
                return type(error).__name__

    async def main(directory, url):
        directory = pathlib.Path(directory)
        provider = await KubernetesSecretProvider.in_cluster(
            namespaces_allowed=frozenset({"webhooks"}), directory=directory
        )
        version = (await resolve(provider)).version
        await provider.aclose()
        imported = "kubernetes_asyncio" in sys.modules
        return {
            "imported": imported,
            "version": version,
            "others": await others(url, directory / "ca.crt"),
            "others_with_a_token": await others(url, directory / "ca.crt", headers={"Authorization": "Bearer x"}),
        }

    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
"""


async def test_proxies_and_netrc_in_the_environment_are_ignored(server: ApiServer, tmp_path: Path) -> None:
    """The environment redirects or breaks other clients in the process, but not the reads of Secrets."""
    visits: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visits.append(await reader.readline())
        writer.close()

    netrc = tmp_path / "netrc"
    netrc.write_text("default login mallory password canary\n")
    netrc.chmod(0o600)
    directory = server.service_account(tmp_path / "account")
    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    names = ("http_proxy", "https_proxy", "all_proxy")
    environ = {
        **{key: value for key, value in os.environ.items() if key.lower() != "no_proxy"},
        **{name: address for lower in names for name in (lower, lower.upper())},
        **server.environ,
        "NETRC": str(netrc),
    }

    run = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(SCRIPT),
        str(directory),
        server.url,
        cwd=Path(__file__).parents[2],
        env=environ,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await run.communicate()
    listener.close()

    assert json.loads(output) == {
        "imported": False,
        "version": "6d1f3a52-0000-4000-8000-000000000001/41",
        "others": "ServerDisconnectedError",
        "others_with_a_token": "ValueError",
    }
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer token-1"]
    assert visits
