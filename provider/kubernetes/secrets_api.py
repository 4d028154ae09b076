"""The one call of the Kubernetes API that deliveries need: GET of one named Secret."""

import asyncio
from typing import Final, final

from provider.kubernetes.api_server import ApiServerConfig
from provider.kubernetes.session import ApiServerResponse, ApiServerSession, ResponseFault, translate_error
from provider.secret_manifest import MAX_BYTES
from provider.secret_ref import SecretRef

TIMEOUT_S: Final = 5.0


@final
class SecretsApi:
    """Secrets of one cluster, over one HTTPS session."""

    __slots__ = ("_server", "_session")

    def __init__(self, server: ApiServerConfig) -> None:
        self._server = server
        self._session = ApiServerSession(server)

    async def get_secret(self, ref: SecretRef, *, fresh_credentials: bool) -> ApiServerResponse | ResponseFault:
        """Send one GET and return the answer or the fault. Never raises, except when cancelled."""
        try:
            authorization = await self._server.credentials.read_authorization(fresh=fresh_credentials)
        except Exception:  # noqa: BLE001 - a token file or a credential plugin may raise anything
            return ResponseFault.NOT_SENT
        trust = self._server.trust
        trust.reload_if_due()
        context = trust.context
        try:
            return await self._session.fetch(
                "GET",
                f"/api/v1/namespaces/{ref.namespace}/secrets/{ref.name}",
                authorization=authorization,
                timeout_s=TIMEOUT_S,
                max_bytes=MAX_BYTES,
            )
        except asyncio.CancelledError:
            fault = None
        except Exception as error:  # noqa: BLE001 - every failure means that there is no answer
            fault = translate_error(error)
        if fault is None:
            del authorization
            raise asyncio.CancelledError  # a new one: the original keeps frames with a token and half a Secret
        if fault is ResponseFault.UNTRUSTED:
            trust.reload()
            return fault if trust.context is context else ResponseFault.OUTDATED
        return fault

    async def aclose(self) -> None:
        """Close the session."""
        await self._session.aclose()
