"""Requests of operators to running consumers, over core NATS: evict Secrets (all consumers), check a credential (one)."""

import msgspec
import structlog

from consumers.credentials.checker import CredentialChecker
from messaging.client.connection import IncomingMessage, NatsConnection
from messaging.client.errors import JetStreamError
from provider.cache.provider import CachedSecretProvider
from schemas import subjects
from schemas.control_messages import CheckCredential, RefreshReply, RefreshSecrets

_GROUP = "consumers"
_log = structlog.get_logger(__name__)


class WorkerControl:
    """Answers control requests. An invalid request is logged and not answered."""

    def __init__(
        self, connection: NatsConnection, checks: CredentialChecker, provider: CachedSecretProvider, worker: str
    ) -> None:
        self._connection = connection
        self._checks = checks
        self._provider = provider
        self._worker = worker

    async def start(self) -> None:
        """Answer requests from now on."""
        await self._connection.subscribe(subjects.REFRESH, self._refresh)
        await self._connection.subscribe(subjects.CHECK, self._check, group=_GROUP)

    async def _refresh(self, incoming: IncomingMessage) -> None:
        try:
            asked = msgspec.json.decode(incoming.data, type=RefreshSecrets)
            forgotten = await self._evict(asked)
        except (msgspec.DecodeError, JetStreamError) as error:
            _log.warning("control.failed", subject=incoming.subject, error=type(error).__name__)
            return
        _log.info("secrets.refreshed", tenant=asked.tenant, credential=asked.credential, forgotten=forgotten)
        await self._answer(incoming, RefreshReply(worker=self._worker, forgotten=forgotten))

    async def _evict(self, asked: RefreshSecrets) -> int | None:
        if asked.tenant is None:
            self._provider.evict_all()
            return None
        return await self._checks.evict(asked.tenant, asked.credential)

    async def _check(self, incoming: IncomingMessage) -> None:
        try:
            asked = msgspec.json.decode(incoming.data, type=CheckCredential)
            state = await self._checks.check(asked.tenant, asked.credential, fresh=True)
        except (msgspec.DecodeError, JetStreamError) as error:
            _log.warning("control.failed", subject=incoming.subject, error=type(error).__name__)
            return
        await self._answer(incoming, state)

    async def _answer(self, incoming: IncomingMessage, answer: object) -> None:
        if incoming.reply:
            await self._connection.publish(incoming.reply, msgspec.json.encode(answer))
