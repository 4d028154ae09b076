"""What whoever runs the NATS servers needs from this version, as files: `deploy/nats` holds them.

Permissions of each role, streams and consumers for people who create them by hand (`nats stream add --config`), and
values for the NATS project's own chart. All of it follows from `schemas.subjects` and `roles`.
"""

import json
from collections.abc import Iterator
from typing import Any, Final, cast

from messaging.admin.permissions import ROLES, NatsRole
from messaging.admin.topology import bucket_config, consumer_config, stream_config
from schemas import streams

MAX_CONSUMERS: Final = 10_000
"""Consumers of one stream: so many destinations can have a line at a time. A server's default is 1,000."""
SECRET: Final = "oneprotect-nats-users"
"""The Kubernetes Secret with the public keys: one key for each role, and `sys`."""

_MADE: Final = "# Made by `oneprotect nats files`; changes here are lost.\n"


def documents(*, replicas: int, work_per_destination: int, ack_wait_s: float) -> dict[str, str]:
    """Every file by its path below the directory."""
    configs = [
        stream_config(stream, replicas=replicas, work_per_destination=work_per_destination)
        for stream in streams.STREAMS
    ]
    buckets = [bucket_config(bucket, replicas=replicas) for bucket in streams.BUCKETS]
    made = {f"streams/{config['name']}.json": _json(config) for config in configs + buckets}
    for consumer in streams.ALL_CONSUMERS:
        config = consumer_config(consumer, ack_wait_s=ack_wait_s)
        made[f"consumers/{consumer.stream}.{consumer.name}.json"] = _json(config)
    made["permissions.conf"] = _MADE + "".join(_permissions(role) for role in ROLES)
    made["helm-values.yaml"] = _MADE + _VALUES_HEAD + "\n".join(_yaml(_values(replicas))) + "\n"
    return made


def user_entry(role: NatsRole, nkey: str) -> str:
    """The role's entry for the list of users in a server's configuration, on several lines."""
    return f"{{\n  nkey: {nkey}\n  permissions {{\n{_indented(_rules(role), 4)}\n  }}\n}}\n"


def _permissions(role: NatsRole) -> str:
    name = f"ONEPROTECT_{role.name.upper()}_PERMISSIONS"
    return f"\n# {role.name}: {role.does}\n{name} {{\n{_indented(_rules(role), 2)}\n}}\n"


def _rules(role: NatsRole) -> str:
    sections = (("publish", role.publish), ("subscribe", role.subscribe))
    return "\n".join(
        f"{verb} {{ allow: [\n" + "\n".join(f"  {json.dumps(one)}" for one in allowed) + "\n] }"
        for verb, allowed in sections
    )


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.splitlines())


_VALUES_HEAD: Final = f"""\
# Values for the NATS project's Helm chart (`nats`, 2.x): helm upgrade --install nats nats/nats -f helm-values.yaml
# Beside it: the Secrets nats-client-tls and nats-route-tls (ca.crt, tls.crt, tls.key; cert-manager writes such), and
# {SECRET} with the public keys, as README.md says.
"""


def _values(replicas: int) -> dict[str, Any]:
    names = [role.name for role in ROLES]
    users = [{"nkey": _unquoted(_variable(role.name)), "permissions": _allowed(role)} for role in ROLES]
    return {
        "config": {
            "cluster": {
                "enabled": replicas > 1,
                "replicas": max(replicas, 2),
                "tls": {
                    "enabled": True,
                    "secretName": "nats-route-tls",
                    "merge": {"ca_file": "/etc/nats-certs/cluster/ca.crt", "verify": True},
                },
            },
            "jetstream": {
                "enabled": True,
                "fileStore": {"enabled": True, "dir": "/data", "pvc": {"enabled": True, "size": "20Gi"}},
                "memoryStore": {"enabled": False},
                "merge": {"limits": {"default_max_consumers": MAX_CONSUMERS}},
            },
            "nats": {"tls": {"enabled": True, "secretName": "nats-client-tls"}},
            "monitor": {"enabled": True, "port": 8222},
            "merge": {
                "max_payload": _unquoted("1MB"),
                "accounts": {
                    "ONEPROTECT": {"jetstream": "enabled", "users": users},
                    "SYS": {"users": [{"nkey": _unquoted(_variable("sys"))}]},
                },
                "system_account": "SYS",
            },
        },
        "container": {
            "env": {
                _variable(name)[1:]: {"valueFrom": {"secretKeyRef": {"name": SECRET, "key": name}}}
                for name in [*names, "sys"]
            }
            | {"GOMEMLIMIT": "1GiB"},
            "merge": {
                "resources": {
                    "requests": {"cpu": "1", "memory": "1536Mi"},
                    "limits": {"memory": "1536Mi"},
                }
            },
        },
        "podTemplate": {
            "topologySpreadConstraints": {
                "kubernetes.io/hostname": {"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
            }
        },
        "natsBox": {"enabled": False},
        "promExporter": {"enabled": True},
    }


def _allowed(role: NatsRole) -> dict[str, Any]:
    return {"publish": {"allow": list(role.publish)}, "subscribe": {"allow": list(role.subscribe)}}


def _variable(name: str) -> str:
    return f"$ONEPROTECT_{name.upper()}_NKEY"


def _unquoted(text: str) -> str:
    """How the chart is told to write a value without quotes, which is what a variable and a size need."""
    return f"<< {text} >>"


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _yaml(node: object, indent: int = 0) -> Iterator[str]:
    """Maps and lists as lines of YAML's block style, the rest as JSON, which YAML reads as it is."""
    margin = " " * indent
    if isinstance(node, dict):
        for key, value in cast("dict[str, object]", node).items():
            if value and isinstance(value, dict | list):
                yield f"{margin}{key}:"
                yield from _yaml(cast("object", value), indent + 2)
            else:
                yield f"{margin}{key}: {json.dumps(value, ensure_ascii=False)}"
    elif isinstance(node, list):
        for item in cast("list[object]", node):
            first, *rest = _yaml(item, indent + 2)
            yield f"{margin}- {first.lstrip()}"
            yield from rest
    else:
        yield f"{margin}{json.dumps(node, ensure_ascii=False)}"
