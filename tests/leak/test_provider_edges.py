"""Provider with cancelled reads, refused refs, copies, and files of a kubeconfig."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from provider.errors import SecretRefInvalid
from provider.kubernetes.api_server import TokenFile
from provider.secret_ref import SecretRef
from tests.leak.support import cluster, search_targets
from tests.leak.support.sinks import Sinks
from tests.leak.support.tracebacks import frames
from tests.support.leaks import Canary, Search
from tests.support.site import Process
from tests.support.waiting import until


async def test_a_cancelled_read_leaves_no_secret_in_its_traceback(sinks: Sinks, tmp_path: Path) -> None:
    """`CancelledError` of the uncached provider refers to no frame with the body or token."""
    async with cluster.running(tmp_path) as running:
        provider = await running.provider()
        running.send_without_end()
        reading = asyncio.create_task(cluster.resolved(provider))
        await running.until_sent()
        reading.cancel()

        with pytest.raises(asyncio.CancelledError) as failure:
            await reading
        await provider.aclose()
        sinks.hear_error("cancelled", failure.value)

        assert sinks.findings(running.search) == []


@pytest.mark.parametrize("form", ["{}", "k8s://{}", "k8s://webhooks/{}/signing", "k8s://webhooks/signing/{}"])
def test_a_secret_pasted_as_a_ref_is_in_no_product_local(form: str) -> None:
    """The frame that refuses a key drops it; a ref stays."""
    pasted = Canary.secret("pasted secret")

    with pytest.raises(SecretRefInvalid) as failure:
        SecretRef.parse(form.format(pasted.reveal()))

    ours = [frame.f_locals for frame in frames(failure.value) if "/provider/" in frame.f_code.co_filename]
    assert ours
    assert Search(pasted).find(repr(ours)) == []


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
async def test_a_token_leaves_the_process_by_no_door(tmp_path: Path, copied: Callable[[object], object]) -> None:
    """Keys are sealed against copies; the service account's token is not."""
    token = Canary.word("bearer token")
    (tmp_path / "token").write_text(token.reveal())
    credentials = TokenFile(tmp_path / "token")
    await credentials.read_authorization(fresh=True)

    with pytest.raises(TypeError):
        copied(credentials)


async def test_a_clients_private_key_is_written_to_no_file(tmp_path: Path) -> None:
    """A kubeconfig's `client-key-data` goes into a temporary file, which stays there when the process is killed."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    async with cluster.running(tmp_path / "cluster") as running:
        certificate, key = running.server.authority.issue("consumer")
        environ = {
            "KUBECONFIG": str(running.kubeconfig(certificate, key)),
            "ONEPROTECT_SECRET_PROVIDER": "kubernetes",
            "ONEPROTECT_NATS_URL": "nats://127.0.0.1:1",
            "TMPDIR": str(temporary),
        }
        consumer = await Process.start(environ, "consumer")
        await until(lambda: consumer.says("nats.unreachable"), 15)
        consumer.kill()
        await consumer.wait()

        assert Search(Canary("private key", key.read_bytes())).find(search_targets.files(temporary)) == []
