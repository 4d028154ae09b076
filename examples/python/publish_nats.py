"""Request a delivery over NATS, with nats-py (pip install 'nats-py[nkeys]'), for high rates.

    echo '{"total": 42}' | NATS_URL=... NATS_NKEY_FILE=acme.nk python publish_nats.py acme orders invoice.paid [ID]

The NATS user is a trusted publisher of this tenant (`oneprotect nats user publisher --tenant acme`).
"""

import asyncio
import json
import os
import ssl
import sys
import uuid
from datetime import datetime, timezone

import nats
import nats.errors
from nats.js.errors import APIError

FULL = 10077  # the destination's work limit is reached: publish to the overflow


async def deliver(client, tenant, destination, event_type, payload, delivery_id=None, tries=8):
    """Return the id once JetStream has stored the request. Raises APIError or PermissionError when it is refused."""
    delivery_id = delivery_id or uuid.uuid4().hex
    document = {
        "specversion": "1.0",
        "id": delivery_id,
        "source": "/example",
        "type": "oneprotect.delivery.requested.v1",
        "time": datetime.now(timezone.utc).isoformat(),
        "tenant": tenant,
        "data": {"destination": destination, "event_type": event_type, "payload": payload},
    }
    headers = {
        "Nats-Msg-Id": f"{tenant}.{destination}.{delivery_id}",  # a repeated message is stored once
        "content-type": "application/cloudevents+json",
    }
    data = json.dumps(document).encode()
    lane = "requested"
    for attempt in range(tries):
        try:
            await client.jetstream().publish(
                f"oneprotect.delivery.{lane}.{tenant}.{destination}", data, headers=headers, timeout=2
            )
            return delivery_id
        except APIError as error:
            if error.err_code != FULL or lane == "overflow":
                raise
            lane = "overflow"
            continue
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
            if "permissions violation" in str(client.last_error):
                raise PermissionError(str(client.last_error)) from None
            # No leader at the moment, or a lost answer: repeat.
        await asyncio.sleep(min(0.25 * 2**attempt, 10))
    raise TimeoutError("JetStream did not store it")


async def main(tenant, destination, event_type, *delivery_id):
    """Publish the payload on stdin."""
    ca_file = os.environ.get("NATS_CA_FILE")
    client = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed=os.environ.get("NATS_NKEY_FILE"),
        tls=ssl.create_default_context(cafile=ca_file) if ca_file else None,
        inbox_prefix=f"_INBOX_publisher_{tenant}",  # the only prefix that the user may subscribe to
        max_reconnect_attempts=-1,
    )
    try:
        print(await deliver(client, tenant, destination, event_type, json.load(sys.stdin), *delivery_id))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
