"""The POST of the peers that work with processes or greenlets: urllib3, on connections that are kept."""

import time
from typing import Any

import urllib3
from work import IN_FLIGHT, result, signed

_POOL = urllib3.PoolManager(num_pools=4, maxsize=IN_FLIGHT, retries=False, timeout=10.0)


def deliver(delivery: dict[str, Any]) -> dict[str, Any]:
    """Send it, and return what is to be recorded."""
    began = time.time()
    url, headers, body = signed(delivery)
    response = _POOL.request("POST", url, body=body, headers=headers, redirect=False)
    return result(delivery, response.status, began)
