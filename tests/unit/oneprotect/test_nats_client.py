"""Messages and headers, put together and taken apart as the client library does it."""

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import Error

from oneprotect.jetstream.client import PersistentClient

NAMES = st.sampled_from(["Nats-Msg-Id", "content-type", "x", " x ", "a:b", "", "a b", "\u00e4", "x\r\ny"]) | st.text(
    max_size=8
)
VALUES = st.sampled_from(["1", "", " padded ", "a: b", "Zo\u00eb", "two\r\nlines", "nul\x00"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)


SUBJECTS = st.sampled_from(["a.b", "", "a b", "a\r\nPUB x  1", "\u00e4", "a.>"]) | st.text(max_size=6)


async def _sent(client: Client, subject: str, reply: str, headers: dict[str, str] | None) -> list[bytes] | str:
    """What would go over the wire, or why nothing would."""
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
    return sent


@given(SUBJECTS, SUBJECTS, st.none() | st.dictionaries(NAMES, VALUES, max_size=4))
@example("a.b", "", {"Nats-Msg-Id": "acme.orders.dlv_1", "content-type": "application/json"})
@example("a.b", "_INBOX.x.1", None)
def test_messages_are_written_as_the_library_writes_them(
    subject: str, reply: str, headers: dict[str, str] | None
) -> None:
    """Byte for byte the same, whatever is in them, and refused where it refuses them."""

    async def both() -> tuple[list[bytes] | str, list[bytes] | str]:
        ours = await _sent(PersistentClient(), subject, reply, headers)
        return ours, await _sent(Client(), subject, reply, headers)

    ours, theirs = asyncio.run(both())

    assert ours == theirs


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4), st.binary(max_size=30))
def test_headers_are_read_as_the_library_reads_them(pairs: list[tuple[str, str]], junk: bytes) -> None:
    """The same names and values, from whatever bytes."""
    raw = "".join(f"{name}:{value}\r\n" for name, value in pairs).encode("utf-8", "surrogatepass") + junk

    ours, theirs = PersistentClient._parse_header_lines, Client._parse_header_lines  # pyright: ignore[reportPrivateUsage]

    assert ours(raw) == theirs(raw)
