"""Encoded spans, decoded with OpenTelemetry's own messages."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from telemetry.otlp.span_encoder import request_bytes, request_start, span_bytes
from telemetry.otlp.trace_context import Kind, TraceContext

IDS = st.integers(min_value=1, max_value=2**64 - 1)
TIMES = st.integers(min_value=0, max_value=2**63 - 1)
VALUES = st.text(max_size=300) | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
ATTRIBUTES = st.dictionaries(st.sampled_from(["a", "messaging.message.id", "x" * 200]), VALUES)
KINDS: dict[Kind, int] = {"internal": 1, "server": 2, "client": 3, "producer": 4, "consumer": 5}


@given(
    trace_id=st.integers(min_value=1, max_value=2**128 - 1),
    above=st.just(0) | IDS,
    span_id=IDS,
    is_local=st.booleans(),
    kind=st.sampled_from(list(KINDS)),
    times=st.tuples(TIMES, TIMES),
    attributes=ATTRIBUTES,
    error=st.none() | st.just("http.5xx"),
)
def test_a_span_is_read_as_it_was_written(
    trace_id: int,
    above: int,
    span_id: int,
    is_local: bool,
    kind: Kind,
    times: tuple[int, int],
    attributes: dict[str, str | int | float | bool],
    error: str | None,
) -> None:
    """Ids, times, kind, attributes of every type, status and flags; a span never ends before it begins."""
    parent = TraceContext(trace_id, above, sampled=True, is_local=is_local)
    body = span_bytes(
        "deliver",
        parent,
        span_id,
        kind=kind,
        start_ns=times[0],
        end_ns=times[1],
        attributes=attributes,
        error=error,
    )

    sent = ExportTraceServiceRequest.FromString(
        request_bytes(request_start({"service.name": "x", "n": 1}, "oneprotect", "1"), [body, body])
    )

    (resource,) = sent.resource_spans
    (scope,) = resource.scope_spans
    span, same = scope.spans
    assert span == same
    assert [(pair.key, pair.value.string_value) for pair in resource.resource.attributes] == [
        ("service.name", "x"),
        ("n", "1"),
    ]
    assert (scope.scope.name, scope.scope.version) == ("oneprotect", "1")
    assert (int.from_bytes(span.trace_id, "big"), len(span.trace_id)) == (trace_id, 16)
    assert (int.from_bytes(span.span_id, "big"), len(span.span_id)) == (span_id, 8)
    assert int.from_bytes(span.parent_span_id, "big") == above
    assert (span.name, span.kind) == ("deliver", KINDS[kind])
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (times[0], max(times))
    read = {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "") for pair in span.attributes}
    assert read == attributes | ({} if error is None else {"error.type": error})
    assert [type(read[key]) for key in attributes] == [type(value) for value in attributes.values()]
    assert (span.status.code, span.status.message) == (0 if error is None else 2, "")
    assert span.flags == (0x101 if is_local else 0x301)
