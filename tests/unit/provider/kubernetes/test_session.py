"""The session to an API server."""

from pathlib import Path
from typing import Literal

import pytest

from provider.kubernetes.api_server import ApiServerConfig, TokenFile
from provider.kubernetes.session import ApiServerSession
from provider.kubernetes.tls import CaBundle
from tests.kubernetes.certificates import Authority

SECRET = "/api/v1/namespaces/webhooks/secrets/acme"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/namespaces/webhooks/secrets"),
        ("GET", "/api/v1/secrets"),
        ("GET", f"{SECRET}?watch=true"),
        ("GET", f"{SECRET}/../other"),
        ("GET", "/api/v1/namespaces/webhooks/pods/acme"),
        ("POST", SECRET),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
    ],
)
async def test_only_one_secret_is_read_and_only_access_reviews_are_created(
    tmp_path: Path, method: Literal["GET", "POST"], path: str
) -> None:
    """Anything else is refused before a connection is opened."""
    trust = CaBundle(ca_file=Authority(tmp_path).ca_file)
    server = ApiServerConfig(url="https://127.0.0.1:9", trust=trust, credentials=TokenFile(tmp_path / "token"))
    session = ApiServerSession(server)
    try:
        with pytest.raises(ValueError, match="only one Secret is read"):
            await session.fetch(method, path, authorization=None, timeout_s=5, max_bytes=1)
    finally:
        await session.aclose()
