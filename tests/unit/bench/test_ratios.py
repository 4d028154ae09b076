"""Ratios of the bench, computed from rounds."""

from bench.harness import comparison
from bench.harness.measure import Throughput
from bench.peers.measure import Round
from bench.peers.proof import COUNT
from bench.peers.result import compared, table


def peer(*system_us: float) -> list[Round]:
    """Return rounds with these CPU costs in total."""
    return [Round(1000.0, us - 10, 10, 5000) for us in system_us]


def test_peers_are_compared_with_the_best_that_loses_nothing() -> None:
    """A cheap peer that loses work is reported, but it does not set the ratio."""
    rounds = {
        "product": peer(50, 100),
        "bullmq": peer(100, 200),
        "bullmq-memory": peer(25, 50),
        "celery": peer(500, 500),
    }
    kept = {"product": COUNT, "bullmq": COUNT, "bullmq-memory": 0, "celery": COUNT}

    result = compared(rounds, kept, {}, 0)

    assert (result.best, result.ratio) == ("bullmq", 2.0)
    assert (result.best_any, result.ratio_any) == ("bullmq-memory", 0.5)
    assert result.peers["celery"].times == 7.5
    assert list(table(result))[-1] == "peers: 2.00"


def test_without_a_peer_that_keeps_its_work_there_is_no_ratio() -> None:
    """A single lost delivery excludes a peer."""
    rounds = {"product": peer(50), "bullmq": peer(100)}

    result = compared(rounds, {"product": COUNT, "bullmq": COUNT - 1}, {}, 0)

    assert (result.best, result.ratio) == (None, None)
    assert "peers:" not in " ".join(table(result))


def test_ratios_are_taken_within_a_round() -> None:
    """A slow round affects both contenders equally."""

    def rounds(*figures: tuple[float, float]) -> list[Throughput]:
        return [Throughput(per_s, us, 20.0, 20.0, 100) for per_s, us in figures]

    product = rounds((100, 80), (10, 800), (100, 80))
    bare = rounds((200, 40), (20, 400), (200, 40))

    found = comparison.compared(product, bare)

    assert (found.ratio, found.cpu_ratio) == (0.5, 0.5)
    assert list(comparison.table(found))[-1] == "ratio: 0.50"
