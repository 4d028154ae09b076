"""Requests of operators to running consumers, over core NATS: evict Secrets (all of them), check a credential (one)."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from consumers.credentials.checker import CredentialChecker
from messaging.client.connection import IncomingMessage, NatsConnection, OnIncoming
from messaging.client.errors import JetStreamError
from provider.cache.provider import CachedSecretProvider
from schemas import subjects
from schemas.configuration import CredentialState
from schemas.control_messages import (
    CheckCredential,
    ForgetReply,
    ForgetTenant,
    HeldMessages,
    HeldReply,
    RefreshReply,
    RefreshSecrets,
)

_GROUP = "consumers"
_log = structlog.get_logger(__name__)


class WorkerControl:
    """Answers control requests. An invalid request is logged and not answered."""

    def __init__(
        self,
        connection: NatsConnection,
        checker: CredentialChecker,
        provider: CachedSecretProvider,
        worker: str,
        *,
        forget_tenant: Callable[[str], int],
        holds: Callable[[str], bool],
    ) -> None:
        """Create it.

        Args:
            forget_tenant: Drops what is in memory of a tenant, and returns its messages that are still handled.
            holds: Returns whether the message `<stream>.<sequence>` is in hand.
        """
        self._connection = connection
        self._checker = checker
        self._provider = provider
        self._worker = worker
        self._forget_tenant = forget_tenant
        self._holds = holds

    async def start(self) -> None:
        """Answer requests from now on."""
        await self._connection.subscribe(subjects.REFRESH, self._answering(self._refresh))
        await self._connection.subscribe(subjects.FORGET, self._answering(self._forget))
        await self._connection.subscribe(subjects.HELD, self._answering(self._held))
        await self._connection.subscribe(subjects.CHECK, self._answering(self._check), group=_GROUP)

    async def _refresh(self, data: bytes) -> RefreshReply:
        request, evicted = msgspec.json.decode(data, type=RefreshSecrets), None
        if request.tenant is None:
            self._provider.evict_all()
        else:
            evicted = await self._checker.evict(request.tenant, request.credential)
        _log.info("secrets.refreshed", tenant=request.tenant, credential=request.credential, forgotten=evicted)
        return RefreshReply(worker=self._worker, forgotten=evicted)

    async def _forget(self, data: bytes) -> ForgetReply:
        tenant = msgspec.json.decode(data, type=ForgetTenant).tenant
        await self._checker.evict(tenant, None)
        return ForgetReply(worker=self._worker, in_hand=self._forget_tenant(tenant))

    async def _held(self, data: bytes) -> HeldReply:
        request = msgspec.json.decode(data, type=HeldMessages)
        held = tuple(number for number in request.sequences if self._holds(f"{request.stream}.{number}"))
        return HeldReply(worker=self._worker, held=held)

    async def _check(self, data: bytes) -> CredentialState | None:
        request = msgspec.json.decode(data, type=CheckCredential)
        return await self._checker.check(request.tenant, request.credential, fresh=True)

    def _answering(self, handle: Callable[[bytes], Awaitable[object]]) -> OnIncoming:
        async def answer(incoming: IncomingMessage) -> None:
            try:
                reply = await handle(incoming.data)
            except (msgspec.DecodeError, JetStreamError) as error:
                _log.warning("control.failed", subject=incoming.subject, error=type(error).__name__)
                return
            if incoming.reply:
                await self._connection.publish(incoming.reply, msgspec.json.encode(reply))

        return answer
