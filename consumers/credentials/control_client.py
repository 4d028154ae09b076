"""Requests to consumers over core NATS, from processes that can't read Secrets."""

import asyncio
import contextlib
from typing import Final, TypeVar

import msgspec

from messaging.client.connection import NatsConnection
from messaging.client.errors import ServerUnavailable
from messaging.client.headers import has_status
from schemas import subjects
from schemas.configuration import CredentialState
from schemas.control_messages import CheckCredential

CHECK_TIMEOUT_S: Final = 15.0
"""Time for a consumer to read the Secret, with retries, and to store the status."""


FIRST_REPLY_S: Final = 2.0
"""Time for the first reply. The server reports at once when no consumer listens."""
QUIET_S: Final = 1.0
"""Time without a further reply, after which all have replied: their number is unknown."""

T = TypeVar("T", bound=msgspec.Struct)


class NoConsumerReplied(Exception):
    """No consumer answered the request; the text says why."""


async def check_credential(connection: NatsConnection, tenant: str, credential: str) -> CredentialState:
    """Return the status that one consumer finds when it reads the Secret now. Raises `NoConsumerReplied`."""
    asked = msgspec.json.encode(CheckCredential(tenant=tenant, credential=credential))
    try:
        answer = await connection.ask(subjects.CHECK, asked, timeout_s=CHECK_TIMEOUT_S)
        return msgspec.json.decode(answer.data, type=CredentialState)
    except ServerUnavailable:
        problem = "no consumer answered, and only consumers can read Secrets; start one with `oneprotect consumer`"
    except msgspec.DecodeError:
        problem = "a consumer does not know this credential, or is of another version; try again"
    raise NoConsumerReplied(problem)


async def ask_all(connection: NatsConnection, subject: str, request: msgspec.Struct, reply: type[T]) -> list[T]:
    """Return the replies of all processes that answer a request. Raises `NotAllowed`."""
    replies: asyncio.Queue[T | None] = asyncio.Queue()

    def receive(_subject: bytes, _reply: bytes, data: bytes, block: bytes) -> None:
        if has_status(block):  # no process is subscribed
            replies.put_nowait(None)
            return
        with contextlib.suppress(msgspec.DecodeError):  # a reply of another version
            replies.put_nowait(msgspec.json.decode(data, type=reply))

    inbox = connection.new_inbox()
    subscription = await connection.listen(inbox, receive)
    collected: list[T] = []
    try:
        async with connection.permissions.guard(subject):
            await connection.publish(subject, msgspec.json.encode(request), reply=inbox)
            with contextlib.suppress(TimeoutError):
                while received := await asyncio.wait_for(replies.get(), QUIET_S if collected else FIRST_REPLY_S):
                    collected.append(received)
    finally:
        await subscription.unsubscribe()
    return collected
