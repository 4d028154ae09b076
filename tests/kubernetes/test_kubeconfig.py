"""Connection: verified TLS, service account, kubeconfig, and refused settings."""

import base64
import json
import ssl
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pytest

from provider.errors import ProviderMisconfigured, SecretUnavailable
from provider.kubernetes.api_server import TOKEN_MAX_AGE_S, ApiServerConfig, TokenFile
from provider.kubernetes.provider import KubernetesSecretProvider
from provider.kubernetes.tls import CaBundle
from tests.kubernetes.apiserver import USER, ApiServer
from tests.kubernetes.certificates import Authority
from tests.kubernetes.faults import saying
from tests.kubernetes.kubeconfigs import kubeconfig, written
from tests.kubernetes.manifests import manifest
from tests.kubernetes.resolving import refused, resolve

ALLOWED = frozenset({"webhooks"})
TOKEN = "canary-of-a-token-0123456789"


def config(api: ApiServer, user: dict[str, Any], **cluster: object) -> dict[str, Any]:
    return kubeconfig(api.url, api.authority.ca_file.read_bytes(), user, **cluster)


async def provider_of(
    directory: Path, document: dict[str, Any] | str, *, context: str | None = None
) -> KubernetesSecretProvider:
    path = written(directory / "kubeconfig", document)
    return await KubernetesSecretProvider.from_kubeconfig(path, namespaces_allowed=ALLOWED, context=context)


async def resolves(provider: KubernetesSecretProvider) -> bool:
    try:
        return bool((await resolve(provider)).version)
    finally:
        await provider.aclose()


async def misconfigured(
    directory: Path, document: dict[str, Any] | str, problem: str, *, context: str | None = None
) -> None:
    with pytest.raises(ProviderMisconfigured, match=problem) as refusal:
        await provider_of(directory, document, context=context)
    assert (refusal.value.__context__, refusal.value.__cause__) == (None, None)
    assert TOKEN not in "".join(traceback.format_exception(refusal.value))


async def test_a_server_with_an_unknown_ca_gets_no_token(server: ApiServer, tmp_path: Path) -> None:
    """Only the configured CA is trusted."""
    directory = server.service_account(tmp_path / "account")
    (directory / "ca.crt").write_bytes(Authority(tmp_path / "other").ca_file.read_bytes())
    provider = await KubernetesSecretProvider.in_cluster(
        namespaces_allowed=ALLOWED, directory=directory, environ=server.environ
    )

    await refused(provider, SecretUnavailable)

    assert server.requests == []
    await provider.aclose()


async def test_a_server_with_a_foreign_certificate_gets_no_token(tmp_path: Path) -> None:
    """The certificate must be valid for the requested address."""
    async with ApiServer.running(tmp_path, host_in_certificate="127.0.0.2") as server:
        provider = await KubernetesSecretProvider.in_cluster(
            namespaces_allowed=ALLOWED, directory=server.service_account(tmp_path / "account"), environ=server.environ
        )

        await refused(provider, SecretUnavailable)

        assert server.requests == []
        await provider.aclose()


def test_a_context_verifies_the_server(tmp_path: Path) -> None:
    """The context checks certificate and host name, from TLS 1.2, and accepts the CAs of older clusters."""
    context = CaBundle(ca_file=Authority(tmp_path).ca_file).context

    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


def test_plain_http_is_refused(tmp_path: Path) -> None:
    """An API server needs an `https://` URL."""
    with pytest.raises(ProviderMisconfigured, match="https"):
        ApiServerConfig(
            url="http://127.0.0.1",
            trust=CaBundle(ca_file=Authority(tmp_path).ca_file),
            credentials=TokenFile(tmp_path / "token"),
        )


async def test_a_pod_with_an_ipv6_service_address_gets_a_url(server: ApiServer, tmp_path: Path) -> None:
    """An IPv6 address is put in brackets."""
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}

    cluster = await ApiServerConfig.in_cluster(directory=server.service_account(tmp_path / "account"), environ=environ)

    assert cluster.url == "https://[fd00::1]:443"
    assert repr(cluster) == "ApiServerConfig(...)"


@pytest.mark.parametrize("missing", ["host", "port", "token", "ca", "certificate in ca"])
async def test_outside_a_pod_there_is_no_service_account(server: ApiServer, tmp_path: Path, missing: str) -> None:
    """The error names the missing part before anything is sent."""
    directory, environ = server.service_account(tmp_path / "account"), server.environ
    match missing:
        case "host" | "port":
            del environ[f"KUBERNETES_SERVICE_{missing.upper()}"]
        case "token":
            (directory / "token").unlink()
        case "ca":
            (directory / "ca.crt").unlink()
        case _:
            (directory / "ca.crt").write_text("no certificate")

    with pytest.raises(ProviderMisconfigured) as refusal:
        await KubernetesSecretProvider.in_cluster(namespaces_allowed=ALLOWED, directory=directory, environ=environ)

    assert refusal.value.__context__ is None
    assert refusal.value.problem == str(refusal.value) != ""
    assert server.requests == []


async def test_a_token_is_read_again_after_a_minute(tmp_path: Path) -> None:
    """A renewed token is used before the old one expires."""
    path, times_s = tmp_path / "token", [1000.0]
    tokens = TokenFile(path, clock=lambda: times_s[-1])
    path.write_text("token-1")
    seen = [await tokens.read_authorization(fresh=False)]
    path.write_text("token-2")

    times_s.append(1000.0 + TOKEN_MAX_AGE_S - 1)
    seen.append(await tokens.read_authorization(fresh=False))
    times_s.append(1000.0 + TOKEN_MAX_AGE_S)
    seen.append(await tokens.read_authorization(fresh=False))
    path.write_text("token-3")
    seen.append(await tokens.read_authorization(fresh=True))

    assert seen == ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-3"]


async def test_a_kubeconfig_with_a_token(server: ApiServer, tmp_path: Path) -> None:
    """A token in the kubeconfig authenticates the provider."""
    server.users = {TOKEN: USER}

    assert await resolves(await provider_of(tmp_path, config(server, {"token": TOKEN})))


async def test_a_kubeconfig_with_a_token_file(server: ApiServer, tmp_path: Path) -> None:
    """A trailing line end is ignored, and a renewed token is read after a 401."""
    token = tmp_path / "user-token"
    token.write_text("token-1\n")
    provider = await provider_of(tmp_path, config(server, {"tokenFile": str(token)}))
    await resolve(provider)

    server.users = {TOKEN: USER}
    token.write_text(f"{TOKEN}\n")

    assert await resolves(provider)


async def test_a_kubeconfig_with_a_client_certificate(server: ApiServer, tmp_path: Path) -> None:
    """A client certificate authenticates the provider without a token."""
    certificate, key = server.authority.issue("operator.test")
    server.grant("webhooks", "acme-signing", user="operator.test")
    user: dict[str, object] = {
        "client-certificate-data": base64.b64encode(certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(key.read_bytes()).decode(),
    }

    assert await resolves(await provider_of(tmp_path, config(server, user)))
    assert "Authorization" not in server.requests[0].headers


def plugin(status: dict[str, str]) -> dict[str, object]:
    """Return a user whose credential plugin returns `status`."""
    version = "client.authentication.k8s.io/v1"
    answer = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
    return {"exec": {"apiVersion": version, "command": "printf", "args": ["%s", answer]}}


async def test_a_kubeconfig_with_a_plugin_that_returns_a_token(server: ApiServer, tmp_path: Path) -> None:
    """The plugin runs again after a 401."""
    server.users = {TOKEN: USER}

    assert await resolves(await provider_of(tmp_path, config(server, plugin({"token": TOKEN}))))


async def test_a_kubeconfig_with_a_plugin_that_returns_a_certificate(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate authenticates the provider each time it is loaded, and its key stays in no file."""
    certificate, key = server.authority.issue("operator.test")
    server.grant("webhooks", "acme-signing", user="operator.test")
    user = plugin({"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()})
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    for _ in range(2):
        assert await resolves(await provider_of(tmp_path, config(server, user)))
    assert "Authorization" not in server.requests[0].headers
    assert list(temporary.iterdir()) == []


async def test_a_kubeconfig_with_a_server_name(tmp_path: Path) -> None:
    """The certificate is checked against `tls-server-name` instead of the address."""
    async with ApiServer.running(tmp_path, host_in_certificate="api.test") as server:
        server.put(manifest())
        user: dict[str, object] = {"token": "token-1"}

        unnamed = await provider_of(tmp_path, config(server, user))
        await refused(unnamed, SecretUnavailable)
        await unnamed.aclose()

        assert await resolves(await provider_of(tmp_path, config(server, user, **{"tls-server-name": "api.test"})))


async def test_cookies_are_not_kept(tmp_path: Path) -> None:
    """The provider never sends back a cookie."""
    async with ApiServer.running(tmp_path, host_in_certificate="localhost") as server:
        server.put(manifest())
        server.next_answers.append(saying(400, Set_Cookie="session=1; Path=/"))
        provider = await provider_of(
            tmp_path, config(server, {"token": "token-1"}, server=f"https://localhost:{server.port}")
        )

        await refused(provider, SecretUnavailable)

        assert await resolves(provider)
        assert ["Cookie" in request.headers for request in server.requests] == [False, False]


async def test_a_proxy_in_a_kubeconfig_is_not_used(server: ApiServer, tmp_path: Path) -> None:
    """The provider connects to the API server directly."""
    document = config(server, {"token": "token-1"}, **{"proxy-url": "http://127.0.0.1:9"})

    assert await resolves(await provider_of(tmp_path, document))


async def test_another_context_may_be_chosen(server: ApiServer, tmp_path: Path) -> None:
    """A context is selected by name, and an unknown name is refused."""
    document = config(server, {"token": "token-1"})
    document["current-context"] = "elsewhere"

    assert await resolves(await provider_of(tmp_path, document, context="test"))
    await misconfigured(tmp_path, document, "could not be loaded")
    await misconfigured(tmp_path, document, "could not be loaded", context="none")


async def test_a_kubeconfig_may_not_skip_verification(server: ApiServer, tmp_path: Path) -> None:
    """`insecure-skip-tls-verify` is refused instead of ignored."""
    await misconfigured(tmp_path, config(server, {"token": TOKEN}, **{"insecure-skip-tls-verify": True}), "is refused")


async def test_a_kubeconfig_with_plain_http_is_refused(server: ApiServer, tmp_path: Path) -> None:
    """An `http://` server is refused."""
    await misconfigured(tmp_path, config(server, {"token": TOKEN}, server="http://127.0.0.1:6443"), "https")


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ({"client-certificate-data": "bm9uZQ==", "client-key-data": "bm9uZQ=="}, "certificate or its key"),
        ({"client-certificate": "/none", "client-key": "/none"}, "could not be loaded"),
        (
            {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "args": [TOKEN]}},
            "could not be loaded",
        ),
    ],
)
async def test_a_kubeconfig_with_unusable_credentials_is_refused(
    server: ApiServer, tmp_path: Path, user: dict[str, object], problem: str
) -> None:
    """The provider is refused before anything is sent."""
    await misconfigured(tmp_path, config(server, user), problem)
    assert server.requests == []


@pytest.mark.parametrize("text", ["", f"users: [{{user: {{token: {TOKEN}", f"- {TOKEN}", f"token: {TOKEN}\x00", "{}"])
async def test_a_broken_kubeconfig_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    """The parser's message would repeat a line with a token."""
    await misconfigured(tmp_path, text, "could not be loaded")


async def test_a_missing_kubeconfig_is_refused(tmp_path: Path) -> None:
    """No default file replaces a missing one."""
    with pytest.raises(ProviderMisconfigured):
        await KubernetesSecretProvider.from_kubeconfig(tmp_path / "none", namespaces_allowed=ALLOWED)
