"""Shared parts of the Python peers: targets, signature and payload.

It runs in the peers' own environment and imports nothing of the product.
"""

import base64
import hmac
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROKER_URL = os.environ["BENCH_BROKER_URL"]
IN_FLIGHT = int(os.environ["BENCH_IN_FLIGHT"])
_SETUP = json.loads(Path(os.environ["BENCH_SETUP"]).read_bytes())
TARGETS: dict[str, tuple[str, bytes]] = {
    address: (url, base64.b64decode(key)) for address, (url, key) in _SETUP["targets"].items()
}
"""URL and key by `<tenant>.<destination>`: in the worker's memory, so that no key is in the queue."""


def deliveries(prefix: str, count: int) -> Iterator[dict[str, Any]]:
    """A round: `count` requests over all destinations in turn, `<prefix>-<number>` each."""
    addresses = _SETUP["addresses"]
    for number in range(count):
        tenant, destination = addresses[number % len(addresses)].split(".")
        yield {
            "id": f"{prefix}-{number}",
            "tenant": tenant,
            "destination": destination,
            "event_type": "invoice.paid",
            "payload": _SETUP["payload"],
        }


def signed(delivery: dict[str, Any]) -> tuple[str, dict[str, str], bytes]:
    """URL, headers and body of its POST, as Standard Webhooks has it."""
    url, key = TARGETS[f"{delivery['tenant']}.{delivery['destination']}"]
    body, timestamp = delivery["payload"].encode(), str(int(time.time()))
    content = f"{delivery['id']}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, content, "sha256")).decode()
    headers = {
        "content-type": "application/json",
        "webhook-id": delivery["id"],
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
    return url, headers, body


def result(delivery: dict[str, Any], status: int, began: float) -> dict[str, Any]:
    """Return the result to record. Raises `RuntimeError` unless the receiver accepted the delivery."""
    if status != 200:
        raise RuntimeError(f"the receiver said {status}")
    return {
        "delivery": delivery["id"],
        "tenant": delivery["tenant"],
        "destination": delivery["destination"],
        "event_type": delivery["event_type"],
        "outcome": "delivered",
        "http_status": status,
        "started_at": began,
        "duration_ms": round((time.time() - began) * 1000, 3),
    }
