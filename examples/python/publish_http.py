"""Request a delivery over HTTP, with the standard library.

    echo '{"total": 42}' | DELIVERY_URL=... DELIVERY_TOKEN=... python publish_http.py acme orders invoice.paid [ID]

The request is repeated with its id until it is accepted. The id is stored once.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

AGAIN = {429, 500, 502, 503, 504}


def deliver(url, token, tenant, destination, event_type, payload, delivery_id=None, tries=8):
    """Return the stored delivery. Raises RuntimeError when the API refuses, or after the last try."""
    delivery_id = delivery_id or uuid.uuid4().hex  # better: your event's id, then a restart requests it once
    request = urllib.request.Request(
        f"{url}/v1/tenants/{tenant}/deliveries",
        data=json.dumps({"destination": destination, "event_type": event_type, "payload": payload}).encode(),
        headers={
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "idempotency-key": delivery_id,
        },
    )
    for attempt in range(tries):
        wait_s = min(0.25 * 2**attempt, 30)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read().decode()}"
            if error.code not in AGAIN:
                raise RuntimeError(problem) from None
            if (said := error.headers.get("retry-after", "")).isdigit():
                wait_s = max(wait_s, int(said))
        except OSError as error:
            problem = str(error)
        time.sleep(wait_s)
    raise RuntimeError(f"not accepted: {problem}")


if __name__ == "__main__":
    stored = deliver(
        os.environ["DELIVERY_URL"], os.environ["DELIVERY_TOKEN"], *sys.argv[1:4], json.load(sys.stdin), *sys.argv[4:]
    )
    print(stored["id"])
