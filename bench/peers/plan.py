"""The peers, their commands, and the features that each leaves to its user."""

from typing import Final, Literal

import msgspec
from msgspec import Struct

WARM_UP_SHARE: Final = 0.25
"""More than the product's: a peer is started for each round, and Node compiles what it finds hot."""

LACKING: Final = (
    "turns for each tenant (one slow receiver holds every slot)",
    "a circuit breaker and a limit for each destination",
    "secrets by reference, and their rollover (here: in the worker's memory from the start)",
    "a guard against addresses inside of the network",
    "retries when the receiver's `retry-after` asks for them",
    "the second try of a delivery whose worker died held back when the first is on record",
    "results without anything that is secret, attempt by attempt",
    "replay by filter",
)
"""What none of them does by itself."""
_IN_MEMORY: Final = "work, results and retries that wait beyond the memory of one server"


class Peer(Struct, frozen=True):
    """A peer. `module` has its worker, and adds a round's work; `worker` is the command that starts it."""

    name: str
    title: str
    broker: Literal["nats", "redis", "redis in memory"]
    module: str
    worker: tuple[str, ...]
    how: str
    """The way that its documentation recommends, in words."""
    processes: str = "one process"
    waiting: tuple[str, ...] = ()
    """Arguments of `redis-cli` whose answer is the number of deliveries that wait."""
    counted: tuple[str, ...] = ()
    """The same for results on record."""
    lacks: tuple[str, ...] = ()
    """What it does not do by itself, beyond that."""

    @property
    def runs_on_node(self) -> bool:
        """Or else on Python."""
        return self.module.endswith(".cjs")


FASTSTREAM: Final = Peer(
    name="faststream",
    title="FastStream on JetStream",
    broker="nats",
    module="faststream_worker.py",
    worker=("faststream", "run", "faststream_worker:app", "--log-level", "warning"),
    how="pull subscriber, 128 workers, uvloop, one aiohttp session; acknowledged after the result is stored",
    lacks=("a schedule of retries (what failed comes back at once, or after a delay that the handler has to choose)",),
)
CELERY: Final = Peer(
    name="celery",
    title="Celery on Redis",
    broker="redis",
    module="celery_worker.py",
    worker=(
        *("celery", "--app", "celery_worker", "worker", "--pool", "prefork", "--concurrency", "4"),
        *("--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ),
    how="prefork (faster here than greenlets or threads), acks_late, prefetch of 128, urllib3 with kept connections",
    processes="four processes with one delivery in flight each, and the one that feeds them",
    waiting=("LLEN", "celery"),
    counted=("-n", "1", "DBSIZE"),
    lacks=(
        "more in flight than it has processes",
        "a second try of what a process had in hand when it died (unless `task_reject_on_worker_lost` is set)",
        "work of a dead worker back within an hour (Redis' `visibility_timeout`)",
        _IN_MEMORY,
    ),
)
DRAMATIQ: Final = Peer(
    name="dramatiq",
    title="dramatiq on Redis",
    broker="redis",
    module="dramatiq_worker.py",
    worker=("dramatiq-gevent", "dramatiq_worker", "--processes", "1", "--threads", "128"),
    how="gevent with 128 greenlets, urllib3 with kept connections; acknowledged after the result is in Redis",
    processes="one worker process, and the one that watches it",
    waiting=("LLEN", "dramatiq:default"),
    counted=("-n", "1", "DBSIZE"),
    lacks=(_IN_MEMORY,),
)
BULLMQ: Final = Peer(
    name="bullmq",
    title="BullMQ on Redis",
    broker="redis",
    module="bullmq_worker.cjs",
    worker=("node", "bench/peers/workers/bullmq_worker.cjs"),
    how="one worker with a concurrency of 128, undici with kept connections; what it returns is kept with the job",
    waiting=("LLEN", "bull:deliveries:wait"),
    counted=("ZCARD", "bull:deliveries:completed"),
    lacks=(
        "a further try of a delivery whose worker has died twice (it counts as failed: `maxStalledCount`)",
        _IN_MEMORY,
    ),
)
BULLMQ_IN_MEMORY: Final = msgspec.structs.replace(
    BULLMQ,
    name="bullmq-memory",
    title="BullMQ, nothing on disk",
    broker="redis in memory",
    how="the same, on a Redis with `appendonly no`",
    lacks=("anything that is there after its Redis has died", *BULLMQ.lacks),
)
PEERS: Final = (FASTSTREAM, CELERY, DRAMATIQ, BULLMQ, BULLMQ_IN_MEMORY)
