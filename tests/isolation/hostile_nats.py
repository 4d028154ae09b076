"""`python -m tests.isolation.hostile_nats`: messages of a tenant that burden the server and the API, in a process."""

import asyncio
import contextlib

import msgspec
import uvloop

from messaging.client.client import ServerAccess
from tests.isolation.attack_process import attack_until_end, read_attack
from tests.isolation.raw_nats import RawNats, raw_nats

_AT_ONCE_BYTES = 1_000_000


class NatsAttack(msgspec.Struct, frozen=True, kw_only=True):
    """A message that each of several connections publishes as fast as the server reads.

    With `churn` each connection publishes once, and is replaced by a new one. With `subscriptions` it subscribes to as
    many inboxes first.
    """

    access: ServerAccess
    subject: str
    data: str = "{}"
    reply: str = ""
    headers: str = ""
    connections: int = 4
    churn: bool = False
    subscriptions: int = 0


class NatsAttacker:
    """The connections of one attack."""

    def __init__(self, attack: NatsAttack) -> None:
        self._attack = attack
        self.sent = 0
        self.begun = asyncio.Event()

    async def run(self) -> None:
        """Publish on one connection after the other."""
        attack = self._attack
        messages = 1 if attack.churn else max(1, _AT_ONCE_BYTES // (len(attack.data) + 100))
        while True:
            with contextlib.suppress(OSError):
                async with raw_nats(attack.access) as connection:
                    for number in range(attack.subscriptions):
                        connection.subscribe(f"_INBOX.{number}")
                    while not connection.is_closed:
                        await self._publish(connection, messages)
                        connection.received.clear()
                        if attack.churn:
                            break

    async def _publish(self, connection: RawNats, messages: int) -> None:
        attack = self._attack
        for _ in range(messages):
            connection.publish(
                attack.subject, attack.data.encode(), reply=attack.reply, headers=attack.headers.encode()
            )
        await connection.flush()
        self.sent += messages
        self.begun.set()


async def _main() -> None:
    attacker = NatsAttacker(attack := read_attack(NatsAttack))
    await attack_until_end(attack.connections, attacker.run, attacker.begun, lambda: {"messages": attacker.sent})


if __name__ == "__main__":
    uvloop.run(_main())
