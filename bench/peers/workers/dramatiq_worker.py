"""dramatiq on Redis: an actor's message for each delivery, on greenlets; results in Redis."""

import sys
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from posting import deliver as send
from work import BROKER_URL, deliveries

broker = RedisBroker(url=f"{BROKER_URL}/0?max_connections=512")
results = RedisBackend(url=f"{BROKER_URL}/1?max_connections=512")
broker.add_middleware(Results(backend=results, store_results=True, result_ttl=86_400_000))
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3)
def deliver(delivery: dict[str, Any]) -> dict[str, Any]:
    """Send a delivery, and return the result to record."""
    return send(delivery)


if __name__ == "__main__":
    for one in deliveries(sys.argv[1], int(sys.argv[2])):
        deliver.send(one)
