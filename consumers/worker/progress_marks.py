"""Marks of messages in progress: the server confirms each mark, and only then is the message's term longer.

The server waits for an acknowledgement again from the moment at which it reads the mark. It confirms the mark by the
sequence of the message, even when it has given the message to another process. So a confirmation counts only while the
term lasts: until then no other process can have the message.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final, Self

from messaging.client.connection import NatsConnection
from messaging.client.errors import JetStreamError
from messaging.client.term import Term, clock, held_s
from messaging.message import Message

MARK: Final = b"+WPI"
CONFIRM_TIMEOUT_S: Final = 1.0


class ProgressMarks:
    """Sends marks, and extends the terms of their messages. Use as an asynchronous context manager."""

    def __init__(self, connection: NatsConnection, *, ack_wait_s: float) -> None:
        self._connection = connection
        self._held_s = held_s(ack_wait_s)
        self._inbox = connection.new_inbox()
        self._token_at = len(self._inbox) + 1
        self._sent = 0
        self._unconfirmed: dict[int, tuple[Message, Term]] = {}
        """Each message of the last round by the number of its mark, with the term that a confirmation gives it."""
        self._all_confirmed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._subscription = await self._connection.listen(self._inbox + ".*", self._on_confirmed)
        return self

    async def __aexit__(self, *exception: object) -> None:
        with contextlib.suppress(Exception):  # the connection may be closed already
            await self._subscription.unsubscribe()

    def begin_round(self) -> None:
        """Forget marks without a confirmation: the next round repeats them."""
        self._unconfirmed.clear()

    def send(self, messages: Iterable[Message]) -> None:
        """Mark messages as in progress, except those whose term is over."""
        self._all_confirmed.clear()
        term = Term(clock() + self._held_s)
        for message in messages:
            if not message.is_held():
                continue
            self._sent += 1
            with contextlib.suppress(JetStreamError):  # the term stays as it is
                self._connection.post(message.reply.decode(), MARK, reply=f"{self._inbox}.{self._sent}")
                self._unconfirmed[self._sent] = message, term

    async def are_confirmed(self) -> bool:
        """Wait for the confirmations of the round, and return whether all came in time."""
        if self._unconfirmed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_TIMEOUT_S):
                    await self._all_confirmed.wait()
        return not self._unconfirmed

    def _on_confirmed(self, subject: bytes, _reply: bytes, _data: bytes, block: bytes) -> None:
        if block:  # an error status: no consumer has heard the mark
            return
        message, term = self._unconfirmed.pop(int(subject[self._token_at :]), (None, None))
        if message is not None and term is not None and message.is_held():
            message.term = term
        if not self._unconfirmed:
            self._all_confirmed.set()
