"""The signing secret of a tenant, looked for in everything that a run leaves behind."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from oneprotect.jetstream.connection import Incoming
from schemas import subjects
from tests.support.leaks import forms, leaks
from tests.support.receiver import HANG, RESET, Answer, Scripted, Step
from tests.support.site import NAMESPACE, TENANT, Process, Site, document
from tests.support.waiting import until


@pytest.mark.parametrize("form", forms("whsec_" + "QUJD" * 11).keys())
def test_the_search_finds_every_form(form: str) -> None:
    """A secret hidden in any form, or any twelve bytes of it, is found; without it nothing is."""
    secret = "whsec_" + "QUJD" * 11
    hidden = forms(secret)[form]

    assert form in leaks(b"before " + hidden + b" after", secret)
    assert form in leaks(b"before " + hidden[2:16] + b" after", secret)
    assert leaks(b"nothing to be seen here" * 10, secret) == []


async def test_the_secret_is_nowhere_but_in_its_secret(site: Site) -> None:
    """Deliveries of every ending, at DEBUG, leave no trace of the secret in logs, messages, files or command output."""
    wire = bytearray()

    async def overhear(incoming: Incoming) -> None:
        wire.extend(incoming.subject.encode() + str(incoming.headers).encode() + incoming.data)

    await site.jetstream.connection.subscribe(">", overhear)
    script: list[Step] = [500, Answer(503, {"retry-after": "1"}), HANG, RESET, 200]
    async with Scripted(script) as receiver, Scripted([Answer(200, {"x": "y"})]) as echo:
        await site.destination("orders", receiver.url, timeout_s=0.5, capture_response=True)
        await site.destination("echo", echo.url, headers={"authorization": "Bearer not-ours"})
        async with site.consumer_process() as consumer:
            await site.deliver("orders")
            await site.deliver("echo")
            await site.deliver("nowhere")
            await site.publish("orders", b"{", "dlv_poison")
            await until(lambda: len(receiver.seen) == 5, 30)
            await until(site.is_settled, 30)
            await _break_secret(site, receiver)
            consumer.terminate()
            assert await consumer.wait() == 0
    commands = [await _command(site, *command) for command in _COMMANDS]

    assert b"oneprotect.delivery.attempted" in wire
    assert b"consumer.started" in consumer.output
    assert leaks(bytes(wire), site.secret) == []
    assert leaks(bytes(consumer.output), site.secret) == []
    for command, output in zip(_COMMANDS, commands, strict=True):
        assert output, command
        assert leaks(output, site.secret) == [], command
    stored = await asyncio.to_thread(_files, site.directory / "nats")
    assert b"oneprotect.delivery.attempted" in stored
    assert leaks(stored, site.secret) == []


_COMMANDS = (
    ("secret", "check", f"k8s://{NAMESPACE}/signing-key/signing", "--tenant", TENANT, "--purpose", "webhook-signing"),
    ("secret", "check", f"k8s://{NAMESPACE}/missing/signing", "--tenant", TENANT, "--purpose", "webhook-signing"),
    ("secret", "check", f"k8s://{NAMESPACE}/signing-key/signing", "--tenant", "globex", "--purpose", "webhook-signing"),
    ("attempts", "--json"),
    ("destination", "list", "--tenant", TENANT, "--json"),
    ("credential", "list", "--tenant", TENANT, "--json"),
    ("replay", "--tenant", TENANT, "--dry-run"),
)


async def _break_secret(site: Site, receiver: Scripted) -> None:
    """Make the Secret unusable in ways that tempt an error message to show it."""
    path = site.directory / "secrets" / NAMESPACE / "signing-key.json"
    whole = path.read_bytes()
    manifest = msgspec.json.decode(whole)
    manifest["data"]["signing"] = manifest["data"]["signing"][:-3] + "!!!"
    for content in (msgspec.json.encode(manifest), whole[: len(whole) - 20], whole.replace(b"Opaque", b"Op\xff\xfe")):
        path.write_bytes(content)
        code = await (await Process.start(site.environ, *_COMMANDS[0])).wait()
        assert code == 1
    path.write_bytes(whole)
    assert receiver.seen


async def _command(site: Site, *arguments: str) -> bytes:
    process = await Process.start(site.environ, *arguments)
    await process.wait()
    return bytes(process.output)


def _files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_documents_of_tests_carry_no_secret() -> None:
    """What the tests themselves publish is clean, so that a finding is the product's."""
    assert leaks(document("orders"), "whsec_" + "QUJD" * 11) == []
    assert subjects.ROOT == "oneprotect"
