"""What the streams hold, read through a connection of the judge's own."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any, Final, Self

from nats.aio.client import Client

from tests.chaos.judge.history import Key, Record

WAITING: Final = tuple(f"ONEPROTECT_{name}" for name in ("OVERFLOW", "WORK", "RETRIES", "ORDERED"))


class Streams:
    """The streams of an installation; `urls` are its servers."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._client: Any = Client()  # its methods are typed in part

    async def __aenter__(self) -> Self:
        async def ignore(_: Exception) -> None:
            """Reconnect without a word."""

        await self._client.connect(
            self._urls, max_reconnect_attempts=-1, reconnect_time_wait=0.2, ping_interval=5, error_cb=ignore
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def ask(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the JetStream API, and return its answer. Raises `OSError` for an error."""
        try:
            answer = await self._client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=5)
        except Exception as error:
            raise OSError(f"{subject}: {error!r}") from error
        found: dict[str, Any] = json.loads(answer.data)
        if "error" in found:
            raise OSError(f"{subject}: {found['error']}")
        return found

    async def settled(self, patience_s: float) -> bool:
        """Wait until nothing waits in a stream, and return False after a time."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if not sum([await self.count(stream) for stream in WAITING]):
                    return True
            await asyncio.sleep(0.5)
        return False

    async def count(self, stream: str) -> int:
        """Return the number of messages in a stream."""
        return int((await self.ask(f"STREAM.INFO.{stream}", {}))["state"]["messages"])

    async def results(self, label_of: Callable[[str], str]) -> list[Record]:
        """Return all recorded results, with the server's times as monotonic ones."""
        offset = time.monotonic() - time.time()
        found: list[Record] = []
        async for headers, body in self._messages("ONEPROTECT_ATTEMPTS"):
            data = json.loads(body)["data"]
            found.append(
                Record(
                    key=Key(data["destination"], data["delivery"]),
                    attempt=data["attempt"],
                    outcome=data["outcome"],
                    code=data.get("code") or "",
                    stored=_seconds(headers["Nats-Time-Stamp"]) + offset,
                    worker=label_of(data["worker"]),
                )
            )
        return found

    async def subjects(self, stream: str) -> list[str]:
        """Return the subject of each message in a stream, with what its document says about itself."""
        return [f"{headers['Nats-Subject']} {body[:200]!r}" async for headers, body in self._messages(stream)]

    async def deliveries(self, stream: str) -> list[Key]:
        """Return the delivery of each message in a stream of requests."""
        return [
            Key((document := json.loads(body))["data"]["destination"], document["id"])
            async for _, body in self._messages(stream)
        ]

    async def _messages(self, stream: str) -> AsyncIterator[tuple[dict[str, str], bytes]]:
        """Yield all messages of a stream, once all of its replicas have them."""
        info = await self.ask(f"STREAM.INFO.{stream}", {})
        while any(not one["current"] or one.get("lag") for one in info.get("cluster", {}).get("replicas", [])):
            await asyncio.sleep(0.2)
            info = await self.ask(f"STREAM.INFO.{stream}", {})
        count, sequence = 0, 1
        while sequence <= info["state"]["last_seq"]:
            async for headers, body in self._page(stream, sequence):
                count, sequence = count + 1, int(headers["Nats-Sequence"]) + 1
                yield headers, body
            if count >= info["state"]["messages"]:
                break
        if count < info["state"]["messages"]:
            raise OSError(f"{stream} has {info['state']['messages']} messages, and {count} could be read")

    async def _page(self, stream: str, sequence: int) -> AsyncIterator[tuple[dict[str, str], bytes]]:
        inbox = self._client.new_inbox()
        replies = await self._client.subscribe(inbox)
        query = json.dumps({"next_by_subj": ">", "batch": 500, "seq": sequence}).encode()
        await self._client.publish(f"$JS.API.DIRECT.GET.{stream}", query, reply=inbox)
        while True:
            message = await replies.next_msg(timeout=10)
            headers = dict(message.headers or {})
            if "Status" in headers:
                break
            yield headers, message.data
        await replies.unsubscribe()


def _seconds(stamp: str) -> float:
    """Return the seconds since 1970 of a time with nanoseconds."""
    return datetime.fromisoformat(stamp).timestamp()
