"""Celery on Redis: a task for each delivery, in its pool of processes, acknowledged at its end; results in Redis."""

import sys
from typing import Any

from celery import Celery
from posting import deliver as send
from work import BROKER_URL, deliveries

app = Celery("celery_worker", broker=f"{BROKER_URL}/0", backend=f"{BROKER_URL}/1")
app.conf.update(
    task_acks_late=True,
    worker_prefetch_multiplier=32,
    worker_disable_rate_limits=True,
    worker_send_task_events=False,
    task_serializer="json",
    result_serializer="json",
    broker_connection_retry_on_startup=True,
)


@app.task(name="deliver")
def deliver(delivery: dict[str, Any]) -> dict[str, Any]:
    """Send a delivery, and return the result to record."""
    return send(delivery)


if __name__ == "__main__":
    with app.producer_pool.acquire(block=True) as producer:
        for one in deliveries(sys.argv[1], int(sys.argv[2])):
            deliver.apply_async((one,), producer=producer)
