"""A webhook receiver on loopback that verifies every request with the independent `standardwebhooks` package.

It shares only the specification with the sender, so that other receivers accept the deliveries that it accepts.
"""

import asyncio
import base64
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Final, Self

from aiohttp import web
from msgspec import Meta, Struct
from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_RECEIPTS: Final = 100_000

_HOST: Final = "127.0.0.1"
_VERIFIED: Final = ""


class ScriptedAnswers(Struct, frozen=True, kw_only=True):
    """Answers of a path to verified requests: `status` to the first `failures` of each webhook-id, then 200."""

    failures: Annotated[int, Meta(ge=0)] = 0
    status: Annotated[int, Meta(ge=200, le=599)] = 503
    retry_after_s: int | None = None


ALWAYS_OK: Final = ScriptedAnswers()


class ReceivedRequest(Struct, frozen=True, kw_only=True):
    """A received request and its answer, without secret, signature and body."""

    path: str
    webhook_id: str
    timestamp: Annotated[
        int | None, Meta(description="`webhook-timestamp` in Unix seconds; None when it is not a number.")
    ]
    verified: bool
    reason: Annotated[str, Meta(description="Reason of the failed verification; empty when it succeeded.")]
    attempt: Annotated[int, Meta(description="Number of requests with this webhook-id on this path, from 1.")]
    status: int
    body_bytes: int
    received_at: datetime


class _ReceiverPath:
    """The verifier and the answers of a path."""

    __slots__ = ("answers", "attempts", "verifier")

    def __init__(self, verifier: Webhook, answers: ScriptedAnswers) -> None:
        self.verifier = verifier
        self.answers = answers
        self.attempts: Counter[str] = Counter()

    def verify(self, body: bytes, headers: Mapping[str, str]) -> str:
        """Return the verifier's fixed error text, or an empty string for a valid request."""
        try:
            self.verifier.verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as error:
            return str(error)
        except UnicodeDecodeError:
            return "Body is not UTF-8, which the verifier needs"
        except ValueError:
            return "Malformed signature headers"
        return _VERIFIED

    def answer(self, reason: str, attempt: int) -> tuple[int, dict[str, str]]:
        """Return the HTTP status and headers."""
        if reason != _VERIFIED:
            return 401, {}
        if attempt > self.answers.failures:
            return 200, {}
        wait_s = self.answers.retry_after_s
        return self.answers.status, {} if wait_s is None else {"retry-after": str(wait_s)}


class DevReceiver:
    """Receiver of POST requests of up to 1 MiB on its paths. Use as an asynchronous context manager.

    `received` has the last `MAX_RECEIPTS` requests, oldest first. `on_receipt` is called with each request.
    """

    def __init__(self, *, port: int = 0, on_receipt: Callable[[ReceivedRequest], None] | None = None) -> None:
        self.received: deque[ReceivedRequest] = deque(maxlen=MAX_RECEIPTS)
        self._port = port
        self._on_receipt = on_receipt
        self._routes: dict[str, _ReceiverPath] = {}
        self._followers: set[asyncio.Queue[ReceivedRequest]] = set()
        self._runner: web.AppRunner | None = None

    def route(self, path: str, secret: str, answers: ScriptedAnswers = ALWAYS_OK) -> None:
        """Accept requests on `path` that are signed with `secret` (`whsec_` and base64). Replaces an existing path.

        Raises `ValueError` without the secret.
        """
        verifier = _verifier(secret)
        if verifier is None:
            raise ValueError("expected a secret of `whsec_` and base64")
        self._routes[path] = _ReceiverPath(verifier, answers)

    def url(self, path: str) -> str:
        """Return `http://127.0.0.1:<port><path>`."""
        return f"http://{_HOST}:{self._port}{path}"

    def follow(self) -> AsyncIterator[ReceivedRequest]:
        """Yield every stored request, then each new one, without end."""
        queue: asyncio.Queue[ReceivedRequest] = asyncio.Queue()
        for receipt in self.received:
            queue.put_nowait(receipt)
        self._followers.add(queue)
        return self._drain(queue)

    async def _drain(self, queue: asyncio.Queue[ReceivedRequest]) -> AsyncIterator[ReceivedRequest]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._followers.discard(queue)

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        path = request.rel_url.raw_path
        webhook_id = request.headers.get("webhook-id", "")
        reason, attempt, status, headers = self._judge(path, webhook_id, body, request.headers)
        self._record(
            ReceivedRequest(
                path=path,
                webhook_id=webhook_id,
                timestamp=_whole_number(request.headers.get("webhook-timestamp", "")),
                verified=reason == _VERIFIED,
                reason=reason,
                attempt=attempt,
                status=status,
                body_bytes=len(body),
                received_at=datetime.now(UTC),
            )
        )
        return web.Response(status=status, headers=headers)

    def _judge(
        self, path: str, webhook_id: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[str, int, int, dict[str, str]]:
        """Return the reason, the attempt, and the answer's status and headers."""
        route = self._routes.get(path)
        if route is None:
            return "No such path", 1, 404, {}
        route.attempts[webhook_id] += 1
        attempt = route.attempts[webhook_id]
        reason = route.verify(body, headers)
        return reason, attempt, *route.answer(reason, attempt)

    def _record(self, receipt: ReceivedRequest) -> None:
        self.received.append(receipt)
        for queue in self._followers:
            queue.put_nowait(receipt)
        if self._on_receipt:
            self._on_receipt(receipt)

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, _HOST, self._port).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner:
            await self._runner.cleanup()


def _verifier(secret: str) -> Webhook | None:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return None
    return Webhook(key) if key and secret.startswith("whsec_") else None


def _whole_number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None
