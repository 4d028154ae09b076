"""Rotating NATS credentials under a running consumer: nothing is restarted, and nothing is lost."""

from pathlib import Path

from messaging.admin.nkeys import write_key
from tests.support.receiver import Scripted
from tests.support.secured import Keys, ShippedServer
from tests.support.site import Site
from tests.support.waiting import until


async def test_a_consumer_survives_the_rotation_of_its_key(tmp_path: Path) -> None:
    """The consumer reconnects with the new key after the old one is removed."""
    keys = Keys(tmp_path / "keys")
    async with ShippedServer(tmp_path / "nats", keys) as server, Scripted() as receiver:
        operator = {
            name.removeprefix("ONEPROTECT_").lower(): value
            for name, value in keys.settings("operator", server.url).items()
        }
        async with Site(tmp_path, server, **operator) as site:
            await site.destination("orders", receiver.url)
            async with site.consumer_process(environ=keys.settings("consumer", server.url)) as consumer:
                await until(lambda: consumer.says("consumer.started"), 20)
                new = write_key(tmp_path / "new.nk")
                await _reload(server, "$NATS_CONSUMER_NKEY", new)
                (tmp_path / "new.nk").replace(keys.seed("consumer"))
                before = await site.deliver("orders")
                await until(lambda: before in receiver.ids(), 20)
                assert not consumer.says("nats.disconnected")

                await _reload(server, new)
                await until(lambda: consumer.says("nats.reconnected"), 20)
                after = await site.deliver("orders")
                await until(lambda: after in receiver.ids(), 20)
                await until(site.is_settled, 20)
                consumer.terminate()
                assert await consumer.wait() == 0

    assert receiver.ids() == [before, after]


async def test_a_consumer_reconnects_after_a_revoked_key_is_replaced(tmp_path: Path) -> None:
    """The consumer retries after an early revocation, and works again with the new key."""
    keys = Keys(tmp_path / "keys")
    async with ShippedServer(tmp_path / "nats", keys) as server, Scripted() as receiver:
        operator = {
            name.removeprefix("ONEPROTECT_").lower(): value
            for name, value in keys.settings("operator", server.url).items()
        }
        async with Site(tmp_path, server, **operator) as site:
            await site.destination("orders", receiver.url)
            async with site.consumer_process(environ=keys.settings("consumer", server.url)) as consumer:
                await until(lambda: consumer.says("consumer.started"), 20)
                await _reload(server, write_key(tmp_path / "stranger.nk"))
                await until(lambda: consumer.says("Authorization Violation"), 20)
                keys.seed("consumer").rename(tmp_path / "gone.nk")
                await until(lambda: consumer.says("the credentials file cannot be used"), 20)
                (tmp_path / "gone.nk").rename(keys.seed("consumer"))
                delivery = await site.deliver("orders")
                await _reload(server, "$NATS_CONSUMER_NKEY")
                await until(lambda: delivery in receiver.ids(), 30)
                await until(site.is_settled, 20)

    assert receiver.ids() == [delivery]


async def _reload(server: ShippedServer, *keys: str) -> None:
    """Give the consumer's role these keys, as an administrator does, and have the server read it (SIGHUP)."""
    accounts = server.shipped / "accounts.conf"
    role = "permissions: $ONEPROTECT_CONSUMER_PERMISSIONS }"
    lines = [line for line in accounts.read_text().splitlines() if role not in line]
    place = next(number for number, line in enumerate(lines) if "users = [" in line) + 1
    accounts.write_text(
        "\n".join([*lines[:place], *(f"{{ nkey: {key}, {role}" for key in keys), *lines[place:]]) + "\n"
    )
    await server.reload()
