"""`oneprotect dev`, whose receiver has the secrets for verification."""

import asyncio
import base64
import re
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec

from consumers.signatures.signer import sign
from oneprotect.dev.receiver import DevReceiver
from provider.signing_keys import HmacKey
from provider.signing_secret import SigningSecret
from tests.leak.support import search_targets
from tests.leak.support.listening import Listener
from tests.leak.support.sinks import Sinks
from tests.support.leaks import Canary, Search
from tests.support.site import Process
from tests.support.waiting import until

MARKER = "a-harmless-marker"


async def test_receiver_responses_show_neither_secret_nor_signature(listener: Listener, sinks: Sinks) -> None:
    """Responses show neither for valid, forged and malformed requests, and on other paths."""
    canary = Canary.secret()
    secret = SigningSecret(current=HmacKey(canary.reveal_bytes()), version="1")
    signed = sign(secret, delivery="a", body=b"{}", now=datetime.now(UTC))
    right = {"webhook-id": "a", "webhook-timestamp": signed.timestamp, "webhook-signature": signed.signature}
    altered: list[dict[str, str]] = [
        {},
        {"webhook-signature": "v1,bad"},
        {"webhook-signature": signed.signature.replace("v1,", "v1=")},
        {"webhook-timestamp": "never"},
        {"webhook-timestamp": "1"},
        {"webhook-id": "é"},
    ]
    async with DevReceiver() as receiver, aiohttp.ClientSession() as session:
        receiver.route("/in", canary.reveal())
        for path in ("/in", "/elsewhere"):
            for one in altered:
                async with session.post(receiver.url(path), headers=right | one, data=b"{}") as answer:
                    sinks.hear("HTTP", str(answer.status), repr(answer.raw_headers), await answer.read())
        sinks.hear("receipts", repr(list(receiver.received)))
        statuses = {receipt.status for receipt in receiver.received}

    assert {200, 401} <= statuses
    assert sinks.holds("HTTP", "200")
    assert await listener.prove_alive(MARKER) == []
    assert sinks.findings(Search(canary, Canary("signature", signed.signature.removeprefix("v1,")))) == []


async def test_dev_shows_its_sample_secrets_nowhere(sinks: Sinks, tmp_path: Path) -> None:
    """Sample secrets are only in their directory, even after the receiver got invalid HTTP."""
    directory, signature = tmp_path / "dev", Canary.secret("signature")
    process = await Process.start({"ONEPROTECT_LOG_LEVEL": "debug"}, "dev", "--data-dir", str(directory))
    try:
        await until(lambda: process.says("consumer.started") and process.says("Ctrl-C"), 15)
        url = re.search(rb"http://127.0.0.1:(\d+)", process.output)
        assert url
        answer = await _no_http(int(url[1]), signature)
    finally:
        process.terminate()
        assert await process.wait() == 0
    canaries = [_canary(path) for path in (directory / "secrets").rglob("*.json")]
    sinks.hear("output", bytes(process.output))
    sinks.hear("files", search_targets.files(directory / "nats"))

    assert answer.startswith(b"HTTP/1.0 400")
    assert len(canaries) > 1
    assert sinks.holds("output", "consumer.stopped")
    assert sinks.holds("files", "ONEPROTECT_WORK")
    assert sinks.findings(Search(signature, *canaries)) == []
    assert Search(*canaries).find(search_targets.files(directory / "secrets"))


async def _no_http(port: int, signature: Canary) -> bytes:
    """Return the receiver's response to invalid HTTP, which it quotes to the sender."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST /in HTTP/1.1\r\nwebhook-signature {signature.reveal()}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


def _canary(path: Path) -> Canary:
    manifest = msgspec.json.decode(path.read_bytes())
    return Canary(path.stem, base64.b64decode(manifest["data"]["signing"]))
