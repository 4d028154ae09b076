"""Traces and metrics over OTLP, from a consumer as it is deployed to a real collector."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import aiohttp

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas.roles import Role, TokenSpec
from tests.support.collector import Collector, Span
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLER}-01"
UNSAMPLED = f"00-{TRACE}-{CALLER}-00"
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


def exporting(site: Site, collector: Collector, **variables: str) -> dict[str, str]:
    """The environment of a consumer that exports to `collector`, and soon."""
    return {
        **site.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        **variables,
    }


async def stop(consumer: Process) -> None:
    """Drain the consumer and require a clean exit, because unexported spans are lost."""
    consumer.terminate()
    assert await consumer.wait() == 0


async def test_a_delivery_is_one_trace(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """A sampled caller's delivery has one span per step, in order, under the caller's span."""
    async with Collector() as collector, Site(tmp_path, nats_server) as site, Scripted() as receiver:
        await site.destination("orders", receiver.url + "?token=1")
        consumer = await Process.start(exporting(site, collector), "consumer")
        delivery = await site.deliver("orders", traceparent=SAMPLED)
        await until(lambda: site.results(delivery), 20)
        await until(site.is_settled, 10)
        await stop(consumer)

    (top,) = collector.named("deliver")
    below = collector.below(top)
    assert (top.trace_id, top.parent_id, top.kind, top.service) == (TRACE, CALLER, CONSUMER, "oneprotect-consumer")
    assert set(below) == {"pull", "resolve secret", "POST", "publish result"}
    assert {span.trace_id for span in below.values()} == {TRACE}
    steps = [below[name] for name in ("pull", "resolve secret", "POST", "publish result")]
    assert steps == sorted(steps, key=lambda span: span.start_ns)
    assert all(before.end_ns <= after.start_ns for before, after in pairwise(steps))
    assert (top.start_ns, top.end_ns) == (steps[0].start_ns, steps[-1].end_ns)
    assert not any(span.is_error for span in collector.spans)
    assert top.attributes == {
        "messaging.system": "nats",
        "messaging.operation.type": "process",
        "messaging.message.id": delivery,
        "oneprotect.tenant": "acme",
        "oneprotect.destination": "orders",
        "oneprotect.event_type": "invoice.paid",
        "oneprotect.attempt": 1,
        "oneprotect.outcome": "delivered",
        "oneprotect.code": "http.2xx",
    }
    assert below["POST"].kind == CLIENT
    assert below["POST"].attributes == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "http.response.status_code": 200,
    }
    assert below["publish result"].kind == PRODUCER


async def test_an_api_request_starts_the_trace(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The caller's span is the parent of the API's, and that is the parent of the consumer's."""
    port = free_port()
    async with (
        Collector() as collector,
        Site(tmp_path, nats_server, api_port=str(port)) as site,
        Scripted() as receiver,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        await site.destination("orders", receiver.url)
        spec = TokenSpec(tenant=TENANT, roles=(Role.PRODUCER,))
        _, token = await site.jetstream.tokens.create(spec, by="test")
        processes = [await Process.start(exporting(site, collector), name) for name in ("api", "consumer")]
        await until(partial(_is_ready, client), 20)
        async with client.post(
            f"/v1/tenants/{TENANT}/deliveries",
            json={"destination": "orders", "event_type": "invoice.paid", "payload": {"n": 1}},
            headers={"authorization": f"Bearer {token.reveal()}", "traceparent": SAMPLED},
        ) as answer:
            assert answer.status == 202
        await until(lambda: receiver.seen, 20)
        await until(site.is_settled, 10)
        for process in processes:
            await stop(process)

    (asked,) = collector.named("POST /v1/tenants/{tenant}/deliveries")
    (top,) = collector.named("deliver")
    assert (asked.trace_id, asked.parent_id, asked.kind, asked.service) == (TRACE, CALLER, SERVER, "oneprotect-api")
    assert asked.attributes["http.response.status_code"] == 202
    assert (top.trace_id, top.parent_id) == (TRACE, asked.span_id)


async def _is_ready(client: aiohttp.ClientSession) -> bool:
    try:
        async with client.get("/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def test_retries_stay_in_the_trace(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Each attempt is a span of the trace; one that fails has its code and no text."""
    async with Collector() as collector, Site(tmp_path, nats_server) as site, Scripted([503, 200]) as receiver:
        await site.destination("orders", receiver.url)
        consumer = await Process.start(exporting(site, collector), "consumer")
        await site.deliver("orders", traceparent=SAMPLED)
        await until(lambda: len(receiver.seen) == 2, 20)
        await until(site.is_settled, 10)
        await stop(consumer)

    first, second = collector.named("deliver")
    assert (first.trace_id, second.trace_id) == (TRACE, TRACE)
    assert (first.attributes["oneprotect.attempt"], second.attributes["oneprotect.attempt"]) == (1, 2)
    assert (first.is_error, second.is_error) == (True, False)
    assert first.attributes["error.type"] == "http.5xx"
    assert collector.below(first)["POST"].attributes["error.type"] == "http.5xx"
    assert all(span.status_text == "" and span.events == 0 for span in collector.spans)


async def test_the_callers_sampling_flag_is_respected(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Without it, only failures are traced."""
    async with (
        Collector() as collector,
        Site(tmp_path, nats_server) as site,
        Scripted() as receiver,
        Scripted([503, 200]) as flaky,
    ):
        await site.destination("orders", receiver.url)
        await site.destination("flaky", flaky.url)
        consumer = await Process.start(exporting(site, collector), "consumer")
        well = await site.deliver("orders", traceparent=UNSAMPLED)
        await until(lambda: site.results(well), 20)
        badly = await site.deliver("flaky", traceparent=UNSAMPLED)
        await until(lambda: len(flaky.seen) == 2, 20)
        await until(site.is_settled, 10)
        await stop(consumer)

    assert [ids(span) for span in collector.named("deliver")] == [(badly, 1)]


async def test_without_a_caller_the_ratio_decides(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Deliveries without a trace get their own with ratio 1, and none with 0."""
    for ratio, expected in (("1", 1), ("0", 0)):
        async with Collector() as collector, Scripted() as receiver, Site(tmp_path, nats_server) as site:
            await site.destination("orders", receiver.url)
            sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
            consumer = await Process.start(exporting(site, collector, **sampler), "consumer")
            delivery = await site.deliver("orders")
            await until(partial(site.results, delivery), 20)
            await until(site.is_settled, 10)
            await stop(consumer)

        assert len(collector.named("deliver")) == expected
        assert all(span.parent_id == "" for span in collector.named("deliver"))


async def test_metrics_are_exported(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The figures of `/metrics` are exported, the last time after the drain."""
    async with Collector() as collector, Site(tmp_path, nats_server) as site, Scripted() as receiver:
        await site.destination("orders", receiver.url)
        consumer = await Process.start(exporting(site, collector, OTEL_TRACES_EXPORTER="none"), "consumer")
        delivery = await site.deliver("orders")
        await until(lambda: site.results(delivery), 20)
        await until(site.is_settled, 10)
        await stop(consumer)

    assert collector.spans == []
    assert collector.value("oneprotect_attempts_total", outcome="delivered", code="http.2xx") == 1
    assert collector.value("oneprotect_deliveries_total", outcome="delivered") == 1
    (latency,) = collector.metrics["oneprotect_delivery_latency_seconds"]
    assert (latency.count, sum(latency.bucket_counts), latency.HasField("min")) == (1, 1, False)
    assert len(latency.bucket_counts) == len(latency.explicit_bounds) + 1


async def test_an_unavailable_collector_delays_nothing(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """Deliveries continue, and a drain waits for the collector a few seconds at most."""
    async with Collector() as collector:
        pass
    async with Site(tmp_path, nats_server) as site, Scripted() as receiver:
        await site.destination("orders", receiver.url)
        consumer = await Process.start(exporting(site, collector), "consumer")
        delivery = await site.deliver("orders", traceparent=SAMPLED)
        await until(lambda: site.results(delivery), 20)
        consumer.terminate()
        await until(lambda: consumer.says("consumer.stopped"), 20)
        assert await consumer.wait() == 0
        assert not consumer.says(collector.url.removeprefix("http://"))


async def test_an_unsupported_otel_variable_is_refused(tmp_path: Path, nats_server: EmbeddedNats) -> None:
    """The consumer stops, and names the variable."""
    async with Site(tmp_path, nats_server) as site:
        consumer = await Process.start(
            {**site.environ, "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "consumer"
        )
        assert await consumer.wait() == 2
        assert consumer.says("OTEL_EXPORTER_OTLP_PROTOCOL: expected `http/protobuf`")
        assert not consumer.says("grpc")


def ids(span: Span) -> tuple[str, int]:
    """Which delivery and attempt a span is of."""
    return span.attributes["messaging.message.id"], span.attributes["oneprotect.attempt"]
