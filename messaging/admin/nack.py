"""Streams, buckets and consumers as objects of NACK, the JetStream controller for Kubernetes.

They are for clusters in which NACK, and not `apply`, creates what is at the server. Field names are those of its
`jetstream.nats.io/v1beta2` resources. A bucket is written as the stream that it is: the KeyValue resource has no field
for announcing what was stored.
"""

from typing import Any, Final

from messaging.admin.topology import Config, bucket_config, consumer_config, stream_config
from schemas import subjects

API_VERSION: Final = "jetstream.nats.io/v1beta2"

_FIELDS: Final = {
    "name": "name",
    "description": "description",
    "subjects": "subjects",
    "retention": "retention",
    "storage": "storage",
    "num_replicas": "replicas",
    "max_age": "maxAge",
    "max_bytes": "maxBytes",
    "max_consumers": "maxConsumers",
    "max_msgs_per_subject": "maxMsgsPerSubject",
    "max_msg_size": "maxMsgSize",
    "duplicate_window": "duplicateWindow",
    "discard": "discard",
    "discard_new_per_subject": "discardPerSubject",
    "allow_direct": "allowDirect",
    "allow_rollup_hdrs": "allowRollup",
    "allow_atomic": "allowAtomicPublish",
    "allow_msg_schedules": "allowMsgSchedules",
    "allow_msg_ttl": "allowMsgTtl",
    "deny_delete": "denyDelete",
    "compression": "compression",
    "republish": "republish",
    "durable_name": "durableName",
    "deliver_policy": "deliverPolicy",
    "filter_subject": "filterSubject",
    "ack_policy": "ackPolicy",
    "ack_wait": "ackWait",
    "max_deliver": "maxDeliver",
    "max_ack_pending": "maxAckPending",
    "max_waiting": "maxWaiting",
}
_DURATIONS: Final = frozenset({"max_age", "duplicate_window", "ack_wait"})
_NANOSECONDS: Final = 1_000_000_000


def objects(*, replicas: int, work_per_destination: int, ack_wait_s: float) -> list[dict[str, Any]]:
    """Every object, streams first. Raises `KeyError` for a field of ours that NACK has no name for."""
    streams = [
        stream_config(stream, replicas=replicas, work_per_destination=work_per_destination)
        for stream in subjects.STREAMS
    ]
    buckets = [bucket_config(bucket, replicas=replicas) for bucket in subjects.BUCKETS]
    consumers = [
        _object(
            "Consumer",
            f"{consumer.stream}-{consumer.name}",
            {"streamName": consumer.stream} | spec_of(consumer_config(consumer, ack_wait_s=ack_wait_s)),
        )
        for consumer in subjects.ALL_CONSUMERS
    ]
    return [_object("Stream", config["name"], spec_of(config)) for config in streams + buckets] + consumers


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name.lower().replace("_", "-")},
        # Deleting the object, or the release that brought it, must not delete accepted deliveries.
        "spec": spec | {"preventDelete": True},
    }


def spec_of(config: Config) -> dict[str, Any]:
    """What the server is asked for, by NACK's names. Raises `KeyError` for what it has no name for."""
    spec: dict[str, Any] = {}
    for key, value in config.items():
        if key == "republish":
            spec[_FIELDS[key]] = {"source": value["src"], "destination": value["dest"]}
        elif key not in _DURATIONS:
            spec[_FIELDS[key]] = value
        elif value:
            spec[_FIELDS[key]] = f"{value / _NANOSECONDS:.10g}s"
    return spec
