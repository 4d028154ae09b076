"""The scaling model: its results are near the measured ones and bounded by its inputs."""

import json
from collections.abc import Sequence

import pytest

from bench.simulate import Costs, Layout, Load, capacity_per_s, layout_for, main, simulate

MEASURED_BEFORE = Costs(worker_us=133, server_us=47, receiver_us=31)
"""CPU times of an earlier run, in which both one and two workers were measured on two cores."""


@pytest.mark.parametrize(("workers", "measured_per_s"), [(1, 7_159), (2, 8_600)])
def test_the_model_is_near_the_measured_rates(workers: int, measured_per_s: float) -> None:
    """The rates of one and two workers on two cores are within 12 % of the measured rates."""
    layout = Layout(workers=workers, shared_cores=2)

    assert capacity_per_s(layout, MEASURED_BEFORE) == pytest.approx(measured_per_s, rel=0.12)


def test_more_of_anything_is_never_slower() -> None:
    """Workers, shards and nodes add capacity until another part is short."""
    layouts = [Layout(workers=n, replicas=3, nodes=3) for n in (1, 2, 4, 8)]
    rates = [capacity_per_s(layout) for layout in layouts]

    assert rates == sorted(rates)
    assert capacity_per_s(Layout(shards=2, workers=4, replicas=3, nodes=3)) > rates[2] * 0.99


@pytest.mark.parametrize("rate", [200, 1_000, 10_000, 100_000])
@pytest.mark.parametrize("replicas", [1, 3])
def test_the_layout_for_a_load_keeps_up_with_it(rate: float, replicas: int) -> None:
    """The proposed layout delivers the load quickly, with room left."""
    load = Load(deliveries_per_s=rate)

    outcome = simulate(load, layout_for(load, replicas=replicas))

    assert outcome.keeps_up
    assert outcome.delivered_per_s == pytest.approx(rate, rel=0.1)
    assert outcome.p99_ms < 50


def test_beyond_capacity_it_falls_behind() -> None:
    """Twice what a worker can do is delivered at its capacity, ever later, and the limit is named."""
    load = Load(deliveries_per_s=16_000, receiver_ms=1, new_connections=0)

    outcome = simulate(load, Layout(workers=1))

    assert not outcome.keeps_up
    assert outcome.limit == "workers"
    assert outcome.delivered_per_s == pytest.approx(8_000, rel=0.1)
    assert outcome.p99_ms > 500


def test_handshakes_and_slow_receivers_cost_what_they_cost() -> None:
    """A connection for each delivery takes nine times the CPU; receivers of a second take slots, and no CPU."""
    plain = simulate(Load(deliveries_per_s=500, new_connections=0), Layout())
    opening = simulate(Load(deliveries_per_s=500, new_connections=1), Layout())
    slow = simulate(Load(deliveries_per_s=400, receiver_ms=1000, new_connections=0), Layout())

    assert opening.worker_cores / plain.worker_cores == pytest.approx((125 + 1046) / 125, rel=0.02)
    assert (slow.limit, slow.keeps_up) == ("slots", False)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--rate", "500"], 0), (["--rate", "20000", "--workers", "1", "--shards", "1"], 1)]
)
def test_the_command_prints_what_a_load_takes(
    arguments: Sequence[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON for programs, words for people; it exits with 1 when the layout falls behind."""
    assert main([*arguments, "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"]["keeps_up"] is (code == 0)
    assert main(list(arguments)) == code
    assert "most used" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--workers", "-1"], ["--new-connections", "2"]])
def test_invalid_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A rate of nothing, fewer than no workers, a share above one: exit 2, with the reason."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "expected" in capsys.readouterr().err
