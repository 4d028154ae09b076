"""Request a delivery over NATS, with nats-py (pip install 'nats-py[nkeys]').

    echo '{"total": 42}' | NATS_URL=... NATS_NKEY_FILE=acme.nk python publish_nats.py acme orders invoice.paid [ID]

The request is repeated with its id until it is accepted. The id is stored once.
"""

import asyncio
import json
import os
import ssl
import sys
import uuid

import nats
import nats.errors

AGAIN = {"429", "500", "502", "503", "504"}


async def deliver(client, tenant, destination, event_type, payload, delivery_id=None, tries=8):
    """Return the stored delivery. Raises RuntimeError when the API refuses, or after the last try."""
    delivery_id = delivery_id or uuid.uuid4().hex  # better: your event's id, then a restart requests it once
    body = json.dumps({"destination": destination, "event_type": event_type, "payload": payload}).encode()
    for attempt in range(tries):
        wait_s = min(0.25 * 2**attempt, 30)
        try:
            answer = await client.request(
                f"oneprotect.api.v1.{tenant}.deliveries", body, timeout=10, headers={"Idempotency-Key": delivery_id}
            )
            headers = answer.headers or {}
            status = headers.get("Nats-Service-Error-Code")
            if status is None:
                return json.loads(answer.data)
            problem = f"{status} {answer.data.decode()}"
            if status not in AGAIN:
                raise RuntimeError(problem)
            wait_s = max(wait_s, int(headers.get("Retry-After", 0)))
        except nats.errors.NoRespondersError:
            problem = "no API process answers for this tenant"
        except nats.errors.TimeoutError:
            problem = "no answer"
            if "permissions violation" in str(client.last_error):
                raise RuntimeError(str(client.last_error)) from None
        await asyncio.sleep(wait_s)
    raise RuntimeError(f"not accepted: {problem}")


async def main(*arguments):
    """Request the delivery of the payload on stdin."""
    ca_file = os.environ.get("NATS_CA_FILE")
    client = await nats.connect(
        os.environ["NATS_URL"],
        nkeys_seed=os.environ.get("NATS_NKEY_FILE"),
        tls=ssl.create_default_context(cafile=ca_file) if ca_file else None,
        max_reconnect_attempts=-1,
    )
    try:
        stored = await deliver(client, *arguments[:3], json.load(sys.stdin), *arguments[3:])
        print(stored["id"])
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
