"""The dashboard, the alerts and the metrics table, compared with the metrics of a consumer."""

import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml

from oneprotect.dev.nats_server import EmbeddedNats, free_port
from schemas import streams
from schemas.codes import Outcome
from schemas.configuration import ReplayFilter
from telemetry.metrics import definitions
from telemetry.metrics.definitions import CATALOGUE, MetricDefinition
from tests.support.collector import Collector
from tests.support.ops import Ops
from tests.support.promql import Asked, Selector, read
from tests.support.receiver import Scripted
from tests.support.site import TENANT, Process, Site
from tests.support.waiting import until
from tools.grafana_dashboard import dashboard

ROOT = Path(__file__).resolve().parents[3]
DASHBOARD = ROOT / "deploy" / "grafana" / "oneprotect.json"
ALERTS = ROOT / "deploy" / "helm" / "oneprotect" / "files" / "alerts.yaml"
RUNBOOKS = ROOT / "docs" / "how-to" / "runbooks.md"

OF_TARGETS = {"namespace", "pod", "job", "instance", "le"}
"""Labels that Prometheus adds to what it reads, and the one of buckets."""
SUPERVISOR = {definitions.RESTARTS.name, definitions.SUPERVISED.name, definitions.SUPERVISED_WANTED.name}
ELSEWHERE = {
    definitions.HTTP_REQUESTS.name,
    definitions.HTTP_DURATION.name,
    definitions.NATS_REQUESTS.name,
    definitions.NATS_DURATION.name,
    definitions.QUOTA_REFUSALS.name,
    definitions.LARGEST_TENANT.name,
    definitions.STORAGE_LIMIT.name,
    *SUPERVISOR,
}
"""Told by the API, by a supervisor of consumers, or only where the account has a limit."""

_LINE = re.compile(r"([a-z_]+)(?:\{(.*)\})? ([0-9.e+-]+|\+Inf)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

Series = dict[str, list[dict[str, str]]]


@pytest_asyncio.fixture
async def told(tmp_path: Path, nats_server: EmbeddedNats) -> AsyncIterator[Series]:
    """Metrics of a consumer after deliveries with each outcome: labels by sample name."""
    port = free_port()
    async with (
        Collector() as collector,
        Site(tmp_path, nats_server, ops_port=str(port)) as site,
        Scripted() as receiver,
        Scripted([503]) as broken,
    ):
        ops = Ops(port)
        await site.jetstream.configuration.set_credential(
            TENANT, "missing", {"secret_ref": "k8s://webhooks/missing/signing"}, by="test"
        )
        await site.destination("orders", receiver.url)
        await site.destination("broken", broken.url, retry_schedule_s=())
        await site.destination("missing", receiver.url, credential="missing")
        environ = {**site.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_METRIC_EXPORT_INTERVAL": "200"}
        consumer = await Process.start(environ, "consumer")
        try:
            deliveries = [await site.deliver(name) for name in ("orders", "broken", "missing")]
            for delivery in deliveries:
                await until(partial(site.results, delivery), 40)
            await until(partial(site.records, streams.FAILED), 40)
            await _replay(site)
            await until(partial(_has_failed_twice, site, deliveries[1]), 40)
            await until(lambda: collector.spans and collector.metrics, 40)
            await until(partial(_exports, ops, definitions.REPLAYED.name), 40)
            await until(partial(_exports, ops, definitions.OVERDUE.name), 40)
            yield await _series(ops)
        finally:
            consumer.terminate()
            await consumer.wait()


async def _replay(site: Site) -> None:
    """Request the failed delivery again."""
    replay, row = await site.jetstream.replayer.begin(TENANT, ReplayFilter(), by="test")
    assert (await site.jetstream.replayer.run(TENANT, replay, row)).replayed == 1


async def _has_failed_twice(site: Site, delivery: str) -> bool:
    results = await site.results(delivery)
    return [result.outcome for result in results] == [Outcome.FAILED, Outcome.FAILED]


async def _exports(ops: Ops, name: str) -> bool:
    return name in await _series(ops)


async def _series(ops: Ops) -> Series:
    series: Series = {}
    for line in (await ops.get("/metrics"))[1].splitlines():
        if not line.startswith("#"):
            found = _LINE.fullmatch(line)
            assert found, f"not as Prometheus reads it: {line}"
            series.setdefault(found[1], []).append(dict(_LABEL.findall(found[2] or "")))
    return series


def _alerts() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    return rules


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in _alerts():
        yield rule["alert"], rule["expr"]
    for panel in msgspec.json.decode(DASHBOARD.read_bytes())["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]


async def test_every_metric_and_label_in_queries_is_exported(told: Series) -> None:
    """A running consumer exports each metric, label and label value of alerts and panels."""
    wrong = [f"{where}: {problem}" for where, text in _expressions() for problem in _problems(read(text), told)]

    assert wrong == []


def _problems(asked: Asked, told: Series) -> Iterator[str]:
    known: set[str] = set(OF_TARGETS)
    for selector in asked.selectors:
        metric = CATALOGUE.get(_metric(selector.metric))
        if metric is None:
            yield f"there is no {selector.metric}"
            continue
        known |= set(metric.labels)
        if (metric.kind == "gauge") == selector.is_range:
            yield f"{selector.metric} is a {metric.kind}"
        yield from _mismatches(selector, metric, told)
    if extra := asked.grouped - known:
        yield f"grouped by {sorted(extra)}, which nothing here has"


def _mismatches(selector: Selector, metric: MetricDefinition, told: Series) -> Iterator[str]:
    if strange := {label for label, _, _ in selector.matchers} - {*metric.labels, *OF_TARGETS}:
        yield f"{selector.metric} has no label {sorted(strange)}"
    if metric.name in ELSEWHERE:
        return
    if selector.metric not in told:
        yield f"no consumer tells {selector.metric}"
    for label, operator, value in selector.matchers:
        values = {labels.get(label) for labels in told.get(selector.metric, ())}
        if operator == "=" and label in metric.labels and value not in values:
            yield f"{selector.metric} is never told with {label}={value}"


def _metric(line: str) -> str:
    """Return the metric of a sample name: a histogram has three."""
    return line if line in CATALOGUE else re.sub(r"_(bucket|sum|count)$", "", line)


async def test_every_exported_metric_is_in_the_catalogue(told: Series) -> None:
    """A consumer exports exactly the catalogue's metrics and labels, without those of other roles."""
    labels: dict[str, set[str]] = {}
    for line, series in told.items():
        labels.setdefault(_metric(line), set()).update(label for one in series for label in one)

    assert set(labels) == set(CATALOGUE) - ELSEWHERE
    assert [name for name, found in labels.items() if found - {*CATALOGUE[name].labels, "le"}] == []


@pytest.mark.parametrize("rule", _alerts(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_has_its_runbook(rule: dict[str, Any]) -> None:
    """An alert has a delay, a severity and a description, and its runbook has three parts."""
    assert re.fullmatch(r"[0-9]+[mh]", rule["for"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["runbook"] == f"docs/how-to/runbooks.md#{rule['alert'].lower()}"
    heading = f"### {rule['alert']}\n"
    page = RUNBOOKS.read_text(encoding="utf-8")
    assert page.count(heading) == 1
    section = re.split(r"\n##", page.partition(heading)[2], maxsplit=1)[0]
    assert [part in section for part in ("**Symptom.**", "**Look.**", "**Do.**")] == [True, True, True]


def test_alerts_are_named_once() -> None:
    """No two alerts have the same name, and the page has no runbook of an alert that is gone."""
    names = [rule["alert"] for rule in _alerts()]
    headings = re.findall(r"^### (OneProtect\w+)$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(names) == sorted(set(names)) == sorted(headings)


def test_the_dashboard_is_up_to_date() -> None:
    """The file equals the generated one, and its panels have separate positions and a selectable source."""
    found = msgspec.json.decode(DASHBOARD.read_bytes())
    taken = [
        (x, y)
        for panel in found["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert found == dashboard(), "python -m tools.grafana_dashboard > deploy/grafana/oneprotect.json"
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    assert [variable["name"] for variable in found["templating"]["list"]] == ["datasource", "namespace"]
