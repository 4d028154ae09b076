"""Files in `deploy/nats`: fresh, complete, and accepted by a real server."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from messaging.admin.manifests import Durability, documents
from messaging.admin.permissions import ROLES
from messaging.client.connection import connect
from oneprotect.dev.nats_server import EmbeddedNats
from schemas import streams

CHECKED_IN = Path(__file__).parents[2] / "deploy" / "nats"
ALL = [stream.name for stream in streams.STREAMS] + [f"KV_{bucket.name}" for bucket in streams.BUCKETS]


def _made(replicas: int = 3) -> dict[str, str]:
    return documents(replicas=replicas, work_per_destination=1000, ack_wait_s=30)


def test_checked_in_files_are_fresh() -> None:
    """The files equal the output of the code, and no file of a removed stream remains."""
    made = _made()

    stored = {name: (CHECKED_IN / name).read_text() for name in made}
    listed = {
        f"{folder}/{path.name}" for folder in ("streams", "consumers") for path in (CHECKED_IN / folder).iterdir()
    }

    assert stored == made, "run: make nats"
    assert listed == {name for name in made if name.startswith(("streams/", "consumers/"))}


async def test_a_server_accepts_the_definitions(nats_server: EmbeddedNats) -> None:
    """Each stream and consumer can be created from its file alone."""
    made = _made(replicas=1)
    async with connect(nats_server.url, name="test") as connection:
        for path, text in made.items():
            if path.startswith("streams/"):
                config = json.loads(text)
                await connection.api(f"STREAM.CREATE.{config['name']}", config)
            elif path.startswith("consumers/"):
                config = json.loads(text)
                stream = path.split("/")[1].split(".")[0]
                create = f"CONSUMER.CREATE.{stream}.{config['durable_name']}.{config['filter_subject']}"
                await connection.api(create, {"stream_name": stream, "config": config})
        names = (await connection.api("STREAM.NAMES"))["streams"]

    assert sorted(names) == sorted(ALL)


def test_chart_values_hold_every_role_and_no_secret() -> None:
    """Users have their permissions, and unquoted variables read the keys from a Secret."""
    values: dict[str, Any] = yaml.safe_load(_made()["helm-values.yaml"])

    users = values["config"]["merge"]["accounts"]["ONEPROTECT"]["users"]
    variables = values["container"]["env"]
    assert [user["nkey"] for user in users] == [f"<< $NATS_{role.name.upper()}_NKEY >>" for role in ROLES]
    assert [user["permissions"]["publish"]["allow"] for user in users] == [list(role.publish) for role in ROLES]
    assert {f"NATS_{role.name.upper()}_NKEY" for role in ROLES} < set(variables)
    assert all("secretKeyRef" in value["valueFrom"] for name, value in variables.items() if name.endswith("_NKEY"))


@pytest.mark.parametrize(
    ("replicas", "chosen", "name", "sync_interval"),
    [
        (1, None, "fsync", "always"),
        (3, None, "replicated", "1s"),
        (3, Durability.FSYNC, "fsync", "always"),
    ],
)
def test_the_files_name_the_durability(replicas: int, chosen: Durability | None, name: str, sync_interval: str) -> None:
    """The server's file and the chart's values have the same choice: by default `fsync` for fewer than three copies."""
    made = documents(replicas=replicas, work_per_destination=1000, ack_wait_s=30, durability=chosen)

    values: dict[str, Any] = yaml.safe_load(made["helm-values.yaml"])
    assert f"# durability: {name}." in made["durability.conf"]
    assert f'sync_interval: "{sync_interval}"' in made["durability.conf"]
    assert values["config"]["jetstream"]["merge"]["sync_interval"] == sync_interval
    assert f"# durability: {name}." in made["helm-values.yaml"]
