"""Sampling of deliveries, and OpenTelemetry's variables for it."""

import pytest

from telemetry.otlp.settings import ExportSettings, OtelError
from telemetry.otlp.trace_context import TraceContext, TraceSampler

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
YES, NO = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
KEYS = [f"acme.orders.dlv_{number}" for number in range(10_000)]


def sampling(sampler: str, ratio: str = "0.05") -> TraceSampler:
    return TraceSampler(
        ExportSettings.read({**ENDPOINT, "OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": ratio})
    )


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, False, False),
        (ENDPOINT, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True, False),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, False, True),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False, False),
    ],
)
def test_export_is_off_by_default(environ: dict[str, str], traces: bool, metrics: bool) -> None:
    """An endpoint or exporter enables export; `none` and the global switch disable it."""
    export = ExportSettings.read(environ)

    assert (export.traces, export.metrics) == (traces, metrics)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "5%"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "nan"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "60s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
    ],
)
def test_an_invalid_value_is_reported_with_the_variable(variable: str, value: str) -> None:
    """An unsupported value is refused with the variable's name and without the value."""
    environ = {"OTEL_TRACES_SAMPLER": "traceidratio", **ENDPOINT, variable: value}

    with pytest.raises(OtelError, match=f"^{variable}: expected ") as caught:
        ExportSettings.read(environ)

    assert f"`{value}`" not in str(caught.value)


def test_the_flag_of_the_caller_takes_precedence() -> None:
    """With a `parentbased_` sampler the caller's flag decides, and with others the ratio."""
    for name in ("parentbased_traceidratio", "parentbased_always_off", "parentbased_always_on"):
        assert [sampling(name).samples(header, "key") for header in (YES, NO)] == [True, False]
    assert [sampling("always_on").samples(header, "key") for header in (YES, NO, None)] == [True, True, True]
    assert [sampling("always_off").samples(header, "key") for header in (YES, NO, None)] == [False, False, False]


@pytest.mark.parametrize("ratio", ["0", "0.05", "0.5", "1"])
def test_the_ratio_is_kept_and_constant(ratio: str) -> None:
    """About that many deliveries without a flag are sampled, and each of them by every attempt and worker."""
    chosen = [key for key in KEYS if sampling("parentbased_traceidratio", ratio).samples(None, key)]

    assert chosen == [key for key in chosen if sampling("parentbased_traceidratio", ratio).samples(None, key)]
    assert abs(len(chosen) / len(KEYS) - float(ratio)) < 0.02


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        "whsec_c2VjcmV0",
    ],
)
def test_a_malformed_traceparent_is_ignored(header: str | None) -> None:
    """Anything that the specification does not allow counts as no header."""
    assert TraceContext.read(header) is None


def test_a_traceparent() -> None:
    """Ids and flag are read, those of later versions too, and written again as the first version has them."""
    parent = TraceContext.read(YES)
    assert parent == TraceContext(int(TRACE, 16), int(SPAN, 16), sampled=True)
    assert TraceContext.read(f"01-{TRACE}-{SPAN}-01-more") == parent
    assert parent is not None
    assert parent.header(1) == f"00-{TRACE}-0000000000000001-01"


def test_a_delivery_without_a_caller_has_one_trace() -> None:
    """Its id follows from the delivery's, so every attempt on every worker finds the same."""
    one, same, other = (TraceContext.of_key(key) for key in ("a.b.c", "a.b.c", "a.b.d"))

    assert one == same
    assert one.trace_id != other.trace_id
    assert (one.span_id, one.sampled) == (0, True)
