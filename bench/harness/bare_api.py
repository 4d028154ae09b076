"""Bare loop of the API: a minimal program that accepts a delivery over HTTP and stores it.

It uses uvicorn, one decode, and one awaited publish of the NATS client. It has no authentication, no validation beyond
its types, and no destinations. It imports nothing of the product.
"""

import sys
from typing import Any

import msgspec
import uvicorn
import uvloop
from msgspec import Raw, Struct
from nats.aio.client import Client


class Setup(Struct, frozen=True):
    """The port to listen on, and the stream to store in."""

    nats_url: str
    port: int
    subject: str


class Asked(Struct):
    """A delivery."""

    event_type: str
    destination: str
    payload: Raw


class Stored(Struct):
    """The stored event."""

    id: str
    tenant: str
    data: Asked


async def _run() -> None:
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    client: Any = Client()  # its own signatures are only partly typed
    await client.connect(setup.nats_url, pending_size=16 * 1024 * 1024)
    jetstream = client.jetstream()
    decode, encode = msgspec.json.Decoder(Asked).decode, msgspec.json.encode

    async def app(_scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        body, headers = b"", dict(_scope["headers"])
        while True:
            event = await receive()
            body += event["body"]
            if not event["more_body"]:
                break
        delivery = headers[b"idempotency-key"].decode()
        stored = encode(Stored(delivery, "acme", decode(body)))
        await jetstream.publish(setup.subject, stored, headers={"Nats-Msg-Id": delivery})
        answer = encode({"id": delivery})
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 202, "headers": fields})
        await send({"type": "http.response.body", "body": answer})

    config = uvicorn.Config(
        app, host="127.0.0.1", port=setup.port, http="httptools", ws="none", lifespan="off", access_log=False,
        log_level="warning", timeout_keep_alive=75,
    )  # fmt: skip
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(_run())
