"""Messages to store, and their acknowledgements."""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from messaging.client.errors import JetStreamError


class Publication(msgspec.Struct, frozen=True, gc=False):
    """A message to store. With `Nats-Msg-Id` among its headers it may be sent again safely.

    `block`: encoded headers, as they came with another message; then `headers` is empty.
    """

    subject: str
    payload: bytes
    headers: dict[str, str]
    block: bytes = b""


class PublishAck(msgspec.Struct, frozen=True, gc=False):
    """JetStream's acknowledgement of a stored message; `duplicate` if the message was stored before."""

    stream: str
    seq: int
    duplicate: bool = False


OnStored = Callable[[PublishAck | JetStreamError], None]


class MessagePublisher(Protocol):
    """A publisher of messages, such as `JetStreamPublisher`."""

    def send(self, publication: Publication, on_stored: OnStored) -> None:
        """Send a message, and call `on_stored` once, with the acknowledgement or the error."""
        ...


async def publish(publisher: MessagePublisher, publication: Publication) -> PublishAck:
    """Send a message and wait until it is stored. Raises `RejectedByServer` or `ServerUnavailable`."""
    outcome: asyncio.Future[PublishAck | JetStreamError] = asyncio.get_running_loop().create_future()

    def on_stored(result: PublishAck | JetStreamError) -> None:
        if not outcome.done():
            outcome.set_result(result)

    publisher.send(publication, on_stored)
    result = await outcome
    if isinstance(result, JetStreamError):
        raise result
    return result
