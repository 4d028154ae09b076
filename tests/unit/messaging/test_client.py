"""Messages and headers, encoded and decoded as the client library does it."""

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import Error

from messaging.client.client import PersistentClient
from messaging.client.connection import NatsConnection
from messaging.client.headers import block_of, read_headers, read_lines

NAMES = st.sampled_from(["Nats-Msg-Id", "content-type", "x", " x ", "a:b", "", "a b", "\u00e4", "x\r\ny"]) | st.text(
    max_size=8
)
VALUES = st.sampled_from(["1", "", " padded ", "a: b", "Zo\u00eb", "two\r\nlines", "nul\x00"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)


SUBJECTS = st.sampled_from(["a.b", "", "a b", "a\r\nPUB x  1", "\u00e4", "a.>"]) | st.text(max_size=6)


async def _sent(client: Client, subject: str, reply: str, headers: dict[str, str] | None) -> list[bytes] | str:
    """Return the bytes that would be sent, or the reason of the refusal."""
    sent: list[bytes] = []

    async def send(cmd: bytes, priority: bool = False) -> None:
        del priority
        sent.append(bytes(cmd))

    client._send_command = send  # type: ignore[method-assign]
    client._status = Client.CONNECTED  # pyright: ignore[reportPrivateUsage]
    client._max_payload = 1024  # pyright: ignore[reportPrivateUsage]
    try:
        await client.publish(subject, b"body", reply, headers)
    except (Error, ValueError) as error:
        return type(error).__name__
    return sent + client._pending  # pyright: ignore[reportPrivateUsage]


@given(SUBJECTS, SUBJECTS, st.none() | st.dictionaries(NAMES, VALUES, max_size=4))
@example("a.b", "", {"Nats-Msg-Id": "acme.orders.dlv_1", "content-type": "application/json"})
@example("a.b", "_INBOX.x.1", None)
def test_messages_are_encoded_like_the_library_encodes_them(
    subject: str, reply: str, headers: dict[str, str] | None
) -> None:
    """Byte for byte the same, whatever is in them, and refused where it refuses them."""

    async def both() -> tuple[list[bytes] | str, list[bytes] | str]:
        ours = await _sent(PersistentClient(), subject, reply, headers)
        return ours, await _sent(Client(), subject, reply, headers)

    ours, theirs = asyncio.run(both())

    assert ours == theirs


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.binary(max_size=30))
def test_headers_are_decoded_like_the_library_decodes_them(pairs: list[tuple[str, str]], junk: bytes) -> None:
    """The same names and values, from whatever bytes."""
    raw = "".join(f"{name}:{value}\r\n" for name, value in pairs).encode("utf-8", "surrogatepass") + junk

    assert read_lines(raw) == Client._parse_header_lines(raw)  # pyright: ignore[reportPrivateUsage]


@given(
    st.sampled_from(["", " 404 No Messages", " 408 Request Timeout", " 100 Idle Heartbeat"]),
    st.lists(st.tuples(NAMES, VALUES), max_size=4),
)
def test_a_header_block_is_decoded_like_the_library_decodes_it(status: str, pairs: list[tuple[str, str]]) -> None:
    """Status, description and headers."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in pairs if name.strip() and "\n" not in name + value)
    block = f"NATS/1.0{status}\r\n{lines}\r\n".encode()

    async def theirs() -> dict[str, str] | None:
        client: Any = Client()  # its own signatures are only partly typed
        found: dict[str, str] | None = await client._process_headers(block)
        return found

    ours = {name: value for name, value in read_headers(block).items() if value or name != "Description"}

    assert ours == (asyncio.run(theirs()) or {})


def test_a_status_without_description_is_decoded() -> None:
    """The server sends such a status when a subject has no subscriber."""
    assert read_headers(b"NATS/1.0 503\r\n\r\n")["Status"] == "503"
    assert read_headers(b"NATS/1.0 503\r\na: b\r\n\r\n")["a"] == "b"


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4))
def test_a_received_header_block_is_forwarded_unchanged(headers: dict[str, str]) -> None:
    """Whatever is in it: not a byte of it changes."""
    block = block_of(headers)

    async def posted() -> list[bytes]:
        client = PersistentClient()
        client._status = Client.CONNECTED  # pyright: ignore[reportPrivateUsage]
        client._max_payload = 1024  # pyright: ignore[reportPrivateUsage]
        client.post("a.b", b"body", block=block)
        return client._pending  # pyright: ignore[reportPrivateUsage]

    assert asyncio.run(posted()) == [b"HPUB a.b  %d %d\r\n%bbody\r\n" % (len(block), len(block) + 4, block)]


async def test_a_cancellation_at_the_time_of_the_reply_is_not_lost() -> None:
    """A task that is cancelled in the moment of the reply ends, and does not run on."""
    reply = asyncio.get_running_loop().create_future()

    class Replying(PersistentClient):
        async def request(self, *_: object, timeout: float = 0.5, **__: object) -> Any:
            return await asyncio.wait_for(reply, timeout)

    connection = NatsConnection(Replying(), inbox_prefix="_INBOX")
    asking = asyncio.create_task(connection.ask("subject"))
    await asyncio.sleep(0)
    reply.set_result(b"reply")
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
