"""Deliveries with every outcome, and everything that they leave behind."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas.codes import Outcome
from tests.leak.support import cluster, search_targets
from tests.leak.support.faults import faults, value_of
from tests.leak.support.listening import Listener
from tests.leak.support.processes import consumer_pid
from tests.leak.support.scene import MARKER, Scene, signatures, until_ended
from tests.leak.support.sinks import Sinks
from tests.leak.support.threaded_doubles import run_in_thread
from tests.support import api
from tests.support.collector import Collector
from tests.support.leaks import Search
from tests.support.ops import Ops
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

KEPT = {f"file ONEPROTECT_{stream}" for stream in ("ATTEMPTS", "FAILED", "QUARANTINE", "EVENTS")}
HEARD = {f"NATS oneprotect.delivery.{kind}" for kind in ("attempted", "failed", "quarantined", "requested")}


@contextlib.asynccontextmanager
async def _site(tmp_path: Path, server: EmbeddedNats, **settings: str) -> AsyncGenerator[Site]:
    async with Site(tmp_path, server, drain_timeout_s="0.2", **settings) as site:
        site.environ |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONASYNCIODEBUG": "1", "PYTHONWARNINGS": "always"}
        (tmp_path / "temporary").mkdir()
        (tmp_path / "temporary" / MARKER).write_text(MARKER)
        yield site


async def _stop(sinks: Sinks, site: Site, consumer: Process) -> None:
    """Stop the consumer and record its output, its files and the server's pages."""
    sinks.hear_all(search_targets.kernel(consumer_pid(), "the consumer"))
    sinks.hear_all(search_targets.kernel(site.server.pid, "nats-server"))
    consumer.terminate()
    assert await consumer.wait() == 0
    sinks.hear("output of the consumer", bytes(consumer.output))
    sinks.hear_all(search_targets.store(site))
    sinks.hear_all(await search_targets.monitoring(site.server))
    sinks.hear("temporary files", search_targets.files(site.directory / "temporary"))


async def test_a_consumer_leaves_no_secret_behind(tmp_path: Path, nats_server: EmbeddedNats, sinks: Sinks) -> None:
    """No metric, trace or log record at DEBUG contains a secret, through every outcome and a shutdown."""
    ops = Ops(free_port())
    everything = {"log_attempts": "all", "metrics_tenants_max": "5"}
    async with (
        run_in_thread(Collector) as collector,
        _site(tmp_path, nats_server, **everything) as site,
        Scene.opened(site) as scene,
        api.running(site) as served,
    ):
        site.environ |= {
            "ONEPROTECT_OPS_PORT": str(ops.port),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "always_on",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }
        await search_targets.overhear(site, sinks)
        async with site.consumer_process() as consumer:
            await scene.play()
            sinks.hear("/metrics of the consumer", (await ops.get("/metrics"))[1])
            sinks.hear("/metrics of the API", (await served.with_token(None)("GET", "/metrics")).body)
            await _stop(sinks, site, consumer)
        sinks.hear("OTLP", *collector.bodies)
        spans = {span.name for span in collector.spans}
        outcomes = {result.outcome for result in await site.results()}

    assert outcomes >= {Outcome.DELIVERED, Outcome.RETRY_SCHEDULED, Outcome.FAILED}
    assert len(scene.signatures) > len(scene.receiver.seen)  # two of each, as both keys sign
    assert KEPT | HEARD | {"temporary files", "OTLP", "output of the consumer"} <= set(sinks.carry(MARKER))
    assert spans == {"deliver", "pull", "resolve secret", "POST", "publish result"}
    assert sinks.holds("OTLP", "oneprotect_secret_read_failures_total")
    assert sinks.holds("/metrics of the consumer", 'tenant="acme"')
    assert sinks.holds("/metrics of the API", "oneprotect_http_requests_total")
    assert sinks.holds("output of the consumer", "consumer.stopped")
    assert all(sinks.holds(f"environ of {name}", "HOME=") for name in ("the consumer", "nats-server"))
    assert sinks.findings(scene.secrets) == []
    assert sinks.findings(scene.configuration, but=search_targets.CONFIGURATION) == []
    assert sinks.findings(scene.configuration) != []  # where it is configured, it is found


async def test_a_consumer_shows_no_secret_inside_its_process(
    tmp_path: Path, nats_server: EmbeddedNats, listener: Listener, sinks: Sinks
) -> None:
    """Log records with arguments and errors with locals contain no secret, even before redaction."""
    async with _site(tmp_path, nats_server) as site, Scene.opened(site) as scene:
        async with site.consumer():
            await scene.play()

        assert await listener.prove_alive(MARKER) == []
        assert sinks.holds("structlog", "consumer.stopped")
        assert sinks.findings(scene.secrets) == []
        assert sinks.findings(scene.configuration) == []


async def test_a_consumer_with_secrets_from_kubernetes_leaves_none_behind(
    tmp_path: Path, nats_server: EmbeddedNats, sinks: Sinks
) -> None:
    """The consumer meets faults of the API server, gets the secret, delivers, and stops."""
    kubernetes = {"secret_provider": "kubernetes", "secret_cache_ttl_s": "0", "secret_max_stale_s": "0"}
    async with (
        cluster.running(tmp_path / "cluster") as running,
        _site(tmp_path, nats_server, **kubernetes) as site,
        Scripted() as receiver,
    ):
        site.environ["KUBECONFIG"] = str(running.kubeconfig())
        await search_targets.overhear(site, sinks)
        await site.jetstream.configuration.set_credential(TENANT, "key", {"secret_ref": str(cluster.REF)}, by=MARKER)
        await site.destination("orders", receiver.url)
        running.server.every_answer = faults()["no UTF-8"](running.server, running.document())
        async with site.consumer_process() as consumer:
            delivery = await site.deliver("orders", delivery=MARKER)
            # An answer of no use after each one that fails: the breaker counts failures in a row, and would open.
            for name in ("500 with the Secret", "no base64", "a broken header", "401 with our token"):
                running.server.requests.clear()
                running.server.every_answer = faults()[name](running.server, running.document())
                await site.deliver("orders")
                await until(lambda: running.server.requests, 10)
            running.server.every_answer = None
            await until_ended(site, delivery, Outcome.DELIVERED)
            await _stop(sinks, site, consumer)

    assert {"file ONEPROTECT_ATTEMPTS", "file ONEPROTECT_EVENTS"} <= set(sinks.carry(MARKER))
    assert "NATS oneprotect.delivery.attempted" in sinks.carry(MARKER)
    assert sinks.holds("output of the consumer", "consumer.stopped")
    assert sinks.findings(running.search) == []
    assert sinks.findings(Search(*signatures(receiver))) == []
    assert running.search.find(value_of(running.document())) != []
