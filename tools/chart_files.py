"""The files of the chart that are made from the program, so that the two can't drift apart.

`python -m tools.chart_files` writes them; a test fails when one is stale.
"""

import json
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import yaml

from consumers.addresses import IPV4_DENIED, IPV6_ALLOWED, IPV6_DENIED
from oneprotect.jetstream.topology import Config, bucket_config, consumer_config, stream_config
from oneprotect.settings import VARIABLES, Settings
from schemas import subjects
from tools.get_helm import ROOT
from tools.values_reference import reference

CHART: Final = ROOT / "deploy" / "helm" / "oneprotect"

SET_BY_THE_CHART: Final = frozenset(
    f"ONEPROTECT_{name}"
    for name in (
        "API_HOST",
        "API_PORT",
        "DRAIN_TIMEOUT_S",
        "EGRESS_ALLOW_CIDRS",
        "EGRESS_ALLOW_HTTP",
        "EGRESS_CA_FILE",
        "EGRESS_PORTS",
        "LOCAL_SECRETS_DIR",
        "MAX_IN_FLIGHT",
        "NATS_CA_FILE",
        "NATS_CREDS_FILE",
        "NATS_REPLICAS",
        "NATS_URL",
        "OPS_HOST",
        "OPS_PORT",
        "SECRET_CACHE_TTL_S",
        "SECRET_MAX_STALE_S",
        "SECRET_NAMESPACE",
        "SECRET_NAMESPACES_ALLOWED",
        "SECRET_PROVIDER",
        "WORK_PER_DESTINATION",
    )
)
"""Settings with a value of their own in the chart, or with none to choose; all others go under `settings`."""

_HEAD: Final = "# Generated from {source} by `make generate`; a test fails when it is stale.\n"
_NANOSECONDS: Final = 1_000_000_000
_NACK_NAMES: Final[Mapping[str, str]] = {
    "ack_policy": "ackPolicy",
    "allow_direct": "allowDirect",
    "allow_msg_schedules": "allowMsgSchedules",
    "allow_msg_ttl": "allowMsgTtl",
    "allow_rollup_hdrs": "allowRollup",
    "deny_delete": "denyDelete",
    "description": "description",
    "discard": "discard",
    "discard_new_per_subject": "discardPerSubject",
    "durable_name": "durableName",
    "filter_subject": "filterSubject",
    "max_ack_pending": "maxAckPending",
    "max_deliver": "maxDeliver",
    "max_msg_size": "maxMsgSize",
    "max_msgs_per_subject": "maxMsgsPerSubject",
    "max_waiting": "maxWaiting",
    "name": "name",
    "retention": "retention",
    "storage": "storage",
    "subjects": "subjects",
}
"""NACK's name of each field that JetStream's API knows under another one (nats-io/nack, apis/jetstream/v1beta2)."""
_NACK_DURATIONS: Final[Mapping[str, str]] = {
    "ack_wait": "ackWait",
    "duplicate_window": "duplicateWindow",
    "max_age": "maxAge",
}


def files() -> dict[str, str]:
    """Every generated file, by its path in the chart."""
    return {
        "files/egress-ranges.yaml": egress_ranges(),
        "files/jetstream.yaml": jetstream(),
        "values.schema.json": values_schema(),
        "README.md": reference((CHART / "values.yaml").read_text()),
    }


def egress_ranges() -> str:
    """What the egress guard allows, as the blocks of a network policy: one range a family, less its holes."""

    def block(allowed: IPv4Network | IPv6Network, denied: list[str]) -> dict[str, Any]:
        return {"cidr": str(allowed), "except": denied}

    ranges = {
        "ipv4": block(IPv4Network("0.0.0.0/0"), [str(range_.network) for range_ in IPV4_DENIED]),
        "ipv6": block(IPV6_ALLOWED.network, [str(range_.network) for range_ in IPV6_DENIED]),
    }
    return _HEAD.format(source="consumers/addresses.py") + _as_yaml(ranges)


def jetstream() -> str:
    """Streams, buckets and consumers as `oneprotect apply` makes them, in NACK's words.

    Buckets are Streams here: NACK's KeyValue has no way to ask for a message's own time to live. Copies and the cap
    per destination come from the chart's values; `capped` marks the stream that has one.
    """
    settings = Settings()
    streams: list[dict[str, Any]] = [
        {"capped": stream.capped_per_subject, "spec": nack(stream_config(stream, replicas=1, work_per_destination=0))}
        for stream in subjects.STREAMS
    ]
    streams += [{"capped": False, "spec": nack(bucket_config(bucket, replicas=1))} for bucket in subjects.BUCKETS]
    consumers = [
        {"spec": {"streamName": one.stream, **nack(consumer_config(one, ack_wait_s=settings.delivery.ack_wait_s))}}
        for one in subjects.CONSUMERS
    ]
    return _HEAD.format(source="schemas/subjects.py") + _as_yaml({"streams": streams, "consumers": consumers})


def nack(config: Config) -> dict[str, Any]:
    """A JetStream configuration in NACK's words. Raises `KeyError` for a field that NACK is not known to have."""
    spec: dict[str, Any] = {}
    for name, value in config.items():
        if name == "num_replicas" or (name in ("max_msg_size", "max_msgs_per_subject") and value in (-1, 0)):
            continue
        if name == "republish":
            spec["republish"] = {"source": value["src"], "destination": value["dest"]}
        elif name not in _NACK_DURATIONS:
            spec[_NACK_NAMES[name]] = value
        elif value:
            spec[_NACK_DURATIONS[name]] = f"{value // _NANOSECONDS}s"
    return spec


def values_schema() -> str:
    """The schema of the values as it stands, with the settings that there are now."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    names = sorted({variable.name for variable in VARIABLES} - SET_BY_THE_CHART)
    schema["properties"]["settings"]["properties"] = {name: {"type": "string"} for name in names}
    return json.dumps(schema, indent=2) + "\n"


def write() -> None:
    """Bring every generated file up to date."""
    for path, text in files().items():
        (CHART / path).write_text(text)


def _as_yaml(document: object) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, width=1000)
    return text


if __name__ == "__main__":
    write()
