"""Files of the chart that are made from the program: fresh, and saying the same."""

from typing import Any

import pytest
import yaml

from oneprotect.jetstream.topology import bucket_config, consumer_config, stream_config
from schemas import subjects
from tests.chart.conftest import Rendered
from tests.chart.searching import of_kind
from tools.chart_files import CHART, files
from tools.values_reference import reference

NACK_TO_JETSTREAM = {
    "ackPolicy": "ack_policy", "allowDirect": "allow_direct", "allowMsgSchedules": "allow_msg_schedules",
    "allowMsgTtl": "allow_msg_ttl", "allowRollup": "allow_rollup_hdrs", "denyDelete": "deny_delete",
    "description": "description", "discard": "discard", "discardPerSubject": "discard_new_per_subject",
    "durableName": "durable_name", "filterSubject": "filter_subject", "maxAckPending": "max_ack_pending",
    "maxDeliver": "max_deliver", "maxMsgSize": "max_msg_size", "maxMsgsPerSubject": "max_msgs_per_subject",
    "maxWaiting": "max_waiting", "name": "name", "replicas": "num_replicas", "retention": "retention",
    "storage": "storage", "subjects": "subjects",
}  # fmt: skip
NACK_DURATIONS = {"ackWait": "ack_wait", "duplicateWindow": "duplicate_window", "maxAge": "max_age"}


@pytest.mark.parametrize("path", files())
def test_generated_files_are_fresh(path: str) -> None:
    """The file is what the program says now."""
    assert (CHART / path).read_text() == files()[path], "stale: run make generate"


def as_jetstream(spec: dict[str, Any]) -> dict[str, Any]:
    """A NACK object's specification as NACK asks the server for it."""
    config: dict[str, Any] = {}
    for name, value in spec.items():
        if name in NACK_DURATIONS:
            config[NACK_DURATIONS[name]] = int(value.removesuffix("s")) * 1_000_000_000
        elif name == "republish":
            config["republish"] = {"src": value["source"], "dest": value["destination"]}
        elif name not in ("account", "preventDelete", "streamName"):
            config[NACK_TO_JETSTREAM[name]] = value
    return config


def without_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Without what the server takes for the default: zero, false, and no limit of a message's size."""
    return {name: value for name, value in config.items() if value and not (name == "max_msg_size" and value == -1)}


def test_nack_keeps_what_apply_makes(rendered: Rendered) -> None:
    """Streams, buckets and consumers of both ways are the same, to the last field."""
    by_nack = {
        m["spec"].get("name") or m["spec"]["streamName"] + "/": m["spec"]
        for m in of_kind(rendered["nack"], "Stream", "Consumer")
    }
    wanted = {s.name: stream_config(s, replicas=1, work_per_destination=500) for s in subjects.STREAMS}
    wanted |= {f"KV_{b.name}": bucket_config(b, replicas=1) for b in subjects.BUCKETS}
    wanted |= {f"{c.stream}/": consumer_config(c, ack_wait_s=30) for c in subjects.CONSUMERS}

    assert by_nack.keys() == wanted.keys()
    for name, config in wanted.items():
        assert as_jetstream(by_nack[name]) == without_defaults(config), name
        assert by_nack[name]["preventDelete"] is True


def test_the_readme_has_every_value_with_what_it_is() -> None:
    """Each value of the chart has a row, and one without a comment is an error."""
    rows = (CHART / "README.md").read_text().splitlines()

    names = {row.split("`")[1] for row in rows if row.startswith("| `")}
    assert {"image.repository", "nats.credentials.apply.secretName", "autoscaling.keda.account"} <= names
    for name in names:
        node: Any = yaml.safe_load((CHART / "values.yaml").read_text())
        for part in name.split("."):
            assert part in node, name
            node = node[part]
    with pytest.raises(ValueError, match=r"no comment above: a\.c"):
        reference("a:\n  # Said.\n  b: 1\n  c: 2\n")
