"""The protocol keeps its promises in every order of steps and faults, and each of its rules is needed.

The number of faults is bounded: a fault is a crash, a pause beyond a term, a lost acknowledgement or answer, a stalled
connection, a stale or failed read, a restart of the server, or a duplicate window that has passed.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.model import jetstream as js
from tests.model import ledger, ordered, overflow, protocol, replay
from tests.model.explorer import Exploration, explore
from tests.model.jetstream import Message
from tests.model.ordered import OrderedRules
from tests.model.overflow import FeedRules
from tests.model.protocol import Rules, check, is_done
from tests.model.replay import ReplayRules

REQUEST = Message("work", 1, id="1")
ALL_RULES, ALL_ORDERED, ALL_REPLAY = Rules(), OrderedRules(), ReplayRules()
DEFERRED = Message("scheduled", 1, 1, waits=1, id="1.1.1")
Figure = Callable[[str], None]


def retries(faults: int, rules: Rules = ALL_RULES, attempts: int = 2, *, is_deferred: bool = False) -> Exploration:
    """Two consumers, and a request that fails at times.

    `is_deferred`: its consumer has died after it stored a deferral.
    """
    start = js.start_state({"consumer": 2}, faults, REQUEST)
    if is_deferred:
        start = start._replace(messages=(start.messages[0]._replace(known=1, handed=1),)).stored(DEFERRED)
    return explore(
        start,
        {"consumer": partial(protocol.consumer, rules, attempts)},
        environment=partial(protocol.environment, rules),
        check=check,
        is_done=is_done,
    )


def queue(
    faults: int,
    rules: OrderedRules = ALL_ORDERED,
    deliveries: int = 2,
    attempts: int = 1,
    *,
    actions: int = 1,
    queues: int = 2,
) -> Exploration:
    """Two workers want the lease of an ordered queue, and its producer publishes by any route."""
    return explore(
        js.start_state({"queue": queues, "producer": 1}, faults),
        {
            "queue": partial(ordered.queue, rules, attempts, actions),
            "producer": partial(ordered.producer, rules, deliveries, 1),
        },
        environment=js.forget,
        check=check,
        is_done=is_done,
        lasting="producer",
    )


def change(faults: int, rules: OrderedRules = ALL_ORDERED, *, requests: int = 1, hands: int = 2) -> Exploration:
    """The ordering of a destination changes while consumers have its requests in hand."""
    waiting = (Message("work", number, id=f"{number}") for number in range(1, requests + 1))
    return explore(
        js.start_state({"hand": hands, "queue": 1}, faults, *waiting),
        {"hand": ordered.hand, "queue": partial(ordered.changed_queue, rules)},
        environment=ordered.come_again,
        check=check,
        is_done=is_done,
    )


def purge(faults: int, rules: OrderedRules = ALL_ORDERED) -> Exploration:
    """A request of another tenant beside one that moves into an ordered queue."""
    moved = Message("fifo", 2, id="2")
    return explore(
        js.start_state({"consumer": 1, "mover": 1}, faults, REQUEST, moved),
        {"consumer": partial(protocol.consumer, Rules(), 1), "mover": partial(ordered.mover, rules)},
        environment=js.forget,
        check=check,
        is_done=lambda state: all(m.stream == "ordered" for m in state.messages),
    )


def feed(faults: int, rules: FeedRules, *streams: str, feeders: int = 1, sheds: int = 0) -> Exploration:
    """Consumers that shed some messages, and feeders."""
    return explore(
        js.start_state(
            {"consumer": 2, "feeder": feeders},
            faults,
            *(Message(stream, number, id=str(number)) for number, stream in enumerate(streams, 1)),
        ),
        {
            "consumer": partial(overflow.consumer, rules, sheds=sheds),
            "feeder": partial(overflow.feeder, rules, len(streams)),
        },
        environment=overflow.environment,
        check=check,
        is_done=is_done,
    )


def repeated_id(faults: int, producer: str = "api", rules: Rules = ALL_RULES, **broken: Any) -> Exploration:
    """An id is requested twice: over two processes of the API, by two trusted publishers, or by `both`."""
    producers = {"api": 1, "publisher": 1} if producer == "both" else {producer: 2}
    return explore(
        js.start_state({"consumer": 2, **producers}, faults),
        {
            "consumer": partial(protocol.consumer, rules, 1),
            "api": partial(ledger.api, **broken),
            "publisher": partial(ledger.publisher, **broken),
        },
        environment=partial(protocol.environment, rules),
        check=check,
        is_done=is_done,
    )


def replays(faults: int, rules: ReplayRules = ALL_REPLAY) -> Exploration:
    """Two processes run one replay of a failed delivery."""
    return explore(
        replay.start_state(faults),
        {"consumer": partial(protocol.consumer, Rules(), 2), "replay": partial(replay.run, rules)},
        environment=partial(protocol.environment, Rules()),
        check=replay.check,
        is_done=is_done,
    )


Model = Callable[[], Exploration]
PROTOCOLS: dict[str, Model] = {
    "retries": partial(retries, 2),
    "retries to the last attempt": partial(retries, 1, attempts=3),
    "retries and deferrals": partial(retries, 1, Rules(defers=True)),
    "retries and missing secrets": partial(retries, 1, Rules(misses_secrets=True)),
    "ordered queue": partial(queue, 1),
    "change of the ordering": partial(change, 1),
    "change of the ordering with two requests": partial(change, 0, requests=2, hands=1),
    "ordered destination beside others": partial(purge, 2),
    "overflow": partial(feed, 2, FeedRules(), "overflow", feeders=2),
    "overflow of several requests": partial(feed, 1, FeedRules(), "overflow", "overflow"),
    "shedding": partial(feed, 1, FeedRules(), "work", sheds=1),
    "repeated id over the API": partial(repeated_id, 1),
    "repeated id by trusted publishers": partial(repeated_id, 1, "publisher"),
    "replay": partial(replays, 1),
}
LONG: dict[str, Model] = {
    "retries, 3 faults": partial(retries, 3),
    "retries to the last attempt, 2 faults": partial(retries, 2, attempts=3),
    "retries and deferrals, 2 faults": partial(retries, 2, Rules(defers=True)),
    "ordered queue with retries": partial(queue, 1, attempts=2),
    "change of the ordering, 2 faults": partial(change, 2),
    "ordered queue of 3": partial(queue, 1, deliveries=3),
    "one id over the API and by a trusted publisher": partial(repeated_id, 1, "both"),
    "repeated id over the API, 2 faults": partial(repeated_id, 2),
    "repeated id by trusted publishers, 2 faults": partial(repeated_id, 2, "publisher"),
    "shedding of copies": partial(feed, 1, FeedRules(), "work", sheds=4),
    "replay, 2 faults": partial(replays, 2),
}
MUTATIONS: dict[str, Model] = {
    "the work stream is purged": partial(purge, 1, OrderedRules(deletes_one=False)),
    "an old schedule replaces a newer one": partial(retries, 2, Rules(is_monotonic=False), 3),
    "a redelivery does not look at the results": partial(retries, 1, Rules(looks_on_redelivery=False)),
    "the next attempt of a redelivery does not look": partial(retries, 1, Rules(inherits_doubt=False)),
    "the record of an earlier wait counts": partial(retries, 1, Rules(tells_waits_apart=False, misses_secrets=True)),
    "the next attempt is not looked for twice": partial(
        retries, 1, Rules(looks_twice=False, defers=True), is_deferred=True
    ),
    "a stale message is dropped before its outcome is kept": partial(retries, 2, Rules(keeps_final=False)),
    "a lagging replica decides": partial(retries, 2, Rules(reads_leader=False)),
    "a killed server's count of deliveries is trusted": partial(retries, 2, Rules(distrusts_counts=False)),
    "an outage counts as a crash": partial(retries, 2, Rules(waits_for_outages=False)),
    "nothing fires overdue schedules": partial(retries, 1, Rules(fires_overdue=False)),
    "a consumer sends after its term": partial(retries, 1, Rules(checks_term=False)),
    "a consumer settles after its term": partial(retries, 2, Rules(settles_in_term=False)),
    "a holder sends after its lease": partial(queue, 1, OrderedRules(checks_lease=False)),
    "a direct publish overtakes the work stream": partial(queue, 0, OrderedRules(probes=False)),
    "a moved message is sent without a look": partial(queue, 2, OrderedRules(marks_moved=False), 1, actions=3),
    "a message in hand elsewhere is moved": partial(change, 0, OrderedRules(waits_for_hands=False)),
    "a moved copy does not wait for its original": partial(change, 1, OrderedRules(copies_wait=False)),
    "a move does not look again for newer requests": partial(
        queue, 0, OrderedRules(reads_overflow_again=False), 4, queues=1
    ),
    "an old head is sent without a look": partial(queue, 1, OrderedRules(looks_at_old_heads=False)),
    "the ids are in the duplicate window only": partial(repeated_id, 1, "publisher", is_checked=True),
    "an old claim of the own message is not renewed": partial(repeated_id, 2, "publisher", Rules(renews_claims=False)),
    "a claim does not look for waiting retries": partial(
        repeated_id, 1, "publisher", Rules(looks_in_retries=False, defers=True)
    ),
    "a message does not look for the request of the API": partial(
        repeated_id, 1, "both", Rules(looks_for_requests=False)
    ),
    "what the API stores late is sent without a look": partial(repeated_id, 1, rules=Rules(looks_at_late_ones=False)),
    "a new feed does not doubt the one before": partial(feed, 2, FeedRules(doubts=False), "overflow", feeders=2),
    "a new feed does not look for what is moved": partial(feed, 2, FeedRules(finds_moved=False), "overflow", feeders=2),
    "a shed copy does not wait for its original": partial(feed, 1, FeedRules(copies_wait=False), "work", sheds=1),
    "a replay does not look for requests": partial(replays, 2, ReplayRules(searches=False)),
    "a replay saves its cursor first": partial(replays, 1, ReplayRules(saves_cursor_last=False)),
}


@pytest.mark.parametrize("model", PROTOCOLS.values(), ids=PROTOCOLS.keys())
def test_no_order_of_steps_and_faults_breaks_a_promise(model: Model, figure: Figure) -> None:
    found = model()
    figure(f"{found.states} states")
    assert not found.violation, str(found)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", LONG.values(), ids=LONG.keys())
def test_more_faults_break_no_promise(model: Model, figure: Figure) -> None:
    found = model()
    figure(f"{found.states} states")
    assert not found.violation, str(found)


@pytest.mark.parametrize("model", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_each_rule_is_needed(model: Model, figure: Figure) -> None:
    found = model()
    sys.stdout.write(f"{found}\n")
    figure(f"{found.states} states, {len(found.trace)} steps to: {found.violation}")
    assert found.violation
