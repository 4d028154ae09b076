"""The checker finds each kind of fault in a history that was made by hand, and no fault in a good one."""

from collections import Counter

import msgspec
import pytest

from tests.chaos.judge.checker import check
from tests.chaos.judge.history import Event, History, Key, Post, Record, Request

KEY = Key("orders", "d-1")
NEXT = Key("orders", "d-2")
OTHER = Key("others", "o-1")


def _request(key: Key = KEY, number: int = 1, accepted: float | None = 1.1) -> Request:
    return Request(key, number, begun=1.0, accepted=accepted)


def _post(started: float, status: int = 200, *, sender: str = "consumer0.1", key: Key = KEY) -> Post:
    return Post(key, started, started + 0.1, status, sender)


def _record(
    stored: float, outcome: str = "delivered", code: str = "http.2xx", *, attempt: int = 1, key: Key = KEY
) -> Record:
    return Record(key, attempt, outcome, code, stored, "consumer0.1")


def _event(kind: str, target: str, started: float, ended: float) -> Event:
    return Event(kind, target, started, ended)


def _history(*, busy: object = True, **fields: object) -> History:
    """Return a good history with some fields replaced. A busy consumer records something else soon afterwards."""
    good = History(
        seed=0, ack_wait_s=10, ordered=["orders"], requests=[_request()], posts=[_post(1.2)], records=[_record(1.31)]
    )
    history = msgspec.structs.replace(good, **fields)
    if busy:
        history.requests = [*history.requests, _request(OTHER)]
        history.posts = [*history.posts, _post(3.9, key=OTHER)]
        history.records = [*history.records, _record(4.01, key=OTHER)]
    return history


def _faults(**fields: object) -> dict[str, int]:
    return dict(check(_history(**fields)).kinds())


def test_a_delivery_that_was_sent_and_recorded_once_has_no_fault() -> None:
    """The good history has no finding and no duplicate."""
    verdict = check(_history())

    assert (verdict.findings, verdict.duplicates) == ([], Counter())


def test_retries_until_a_success_have_no_fault() -> None:
    """A refused attempt is no acceptance, so the next one is no duplicate."""
    posts = [_post(1.2, 503), _post(5.0)]
    records = [_record(1.31, "retry_scheduled", "http.5xx"), _record(5.11, attempt=2)]

    assert _faults(posts=posts, records=records) == {}


def test_an_accepted_request_without_a_post_was_never_sent() -> None:
    """An accepted request that left no trace is lost, and has no outcome."""
    assert _faults(posts=[], records=[]) == {"never sent": 1, "no outcome": 1}


def test_a_request_that_was_not_accepted_may_be_lost() -> None:
    """The publisher knows that a request without an answer is not certain."""
    assert _faults(requests=[_request(accepted=None)], posts=[], records=[]) == {}


def test_a_delivery_whose_retry_vanished_has_no_outcome() -> None:
    """A scheduled retry is no outcome when nothing waits."""
    assert _faults(posts=[_post(1.2, 503)], records=[_record(1.31, "retry_scheduled", "http.5xx")]) == {"no outcome": 1}


def test_a_failed_delivery_must_be_kept() -> None:
    """A delivery that was given up on needs a copy for a replay."""
    fields = {"posts": [_post(1.2, 410)], "records": [_record(1.31, "failed", "http.410")]}

    assert _faults(**fields) == {"not kept": 1}
    assert _faults(**fields, kept=[KEY]) == {}


def test_a_request_after_the_record_of_success_is_a_fault_whatever_happened() -> None:
    """No event explains a request after `delivered` is on record."""
    posts = [_post(1.2), _post(20.0)]
    records = [_record(1.31), _record(20.11, attempt=2)]
    events = [_event("kill", "consumer0.1", 1.25, 3.0)]

    assert _faults(posts=posts, records=records, events=events) == {"sent after its record": 1}


def test_a_second_acceptance_without_an_event_is_unexplained() -> None:
    """Two consumers send one delivery, and nothing disturbed the first."""
    posts = [_post(1.2), _post(3.0, sender="consumer1.1")]
    records = [_record(3.11), _record(3.12, attempt=2)]

    assert _faults(posts=posts, records=records) == {"unexplained duplicate": 1}


@pytest.mark.parametrize("kind", ["kill", "pause", "cut"])
def test_an_event_explains_a_duplicate_of_the_process_that_it_hit(kind: str) -> None:
    """The first sender was disturbed between its request and the record of the answer."""
    posts = [_post(1.2), _post(12.0, sender="consumer1.1")]
    events = [_event(kind, "consumer0.1", 1.25, 14.0)]
    verdict = check(_history(posts=posts, records=[_record(12.11)], events=events))

    assert verdict.findings == []
    assert verdict.duplicates == {kind: 1}
    assert verdict.unrecorded == {kind: 1}


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(_event("pause", "consumer1.1", 1.25, 11.0), id="of another process"),
        pytest.param(_event("pause", "consumer0.1", 0.1, 1.1), id="before the request"),
        pytest.param(_event("pause", "consumer0.1", 8.0, 11.0), id="long after the answer"),
        pytest.param(_event("clock", "consumer0.1", 1.25, 11.0), id="that interrupts nothing"),
        pytest.param(_event("stop", "consumer0.1", 1.25, 11.0), id="that lets the consumer finish"),
        pytest.param(_event("reset", "consumer0.1", 1.25, 1.26), id="that lets the consumer connect again"),
        pytest.param(_event("step-down", "servers", 1.25, 1.26), id="of the servers, long before"),
    ],
)
def test_other_events_explain_no_duplicate(event: Event) -> None:
    """A disturbance elsewhere or at another time is no excuse."""
    posts = [_post(1.2), _post(30.0, sender="consumer1.1")]
    records = [_record(30.11), _record(30.2, attempt=2)]

    assert _faults(posts=posts, records=records, events=[event]) == {"unexplained duplicate": 1}


def test_servers_that_store_nothing_explain_a_duplicate() -> None:
    """The result could not be stored until another consumer got the message."""
    posts = [_post(1.2), _post(12.0, sender="consumer1.1")]
    events = [_event("all servers killed", "servers", 1.25, 8.0)]
    records = [_record(12.11), _record(12.2, attempt=2)]
    verdict = check(_history(posts=posts, records=records, events=events, busy=False))

    assert verdict.findings == []
    assert verdict.duplicates == {"outage": 1}
    assert _faults(posts=posts, records=records, events=events) == {"unexplained duplicate": 1}, "it stored another one"


def test_a_request_that_begins_during_another_is_a_fault_unless_the_servers_change_leaders() -> None:
    """A new leader may not know to whom the one before gave the message. It excuses nothing after the answer."""
    restart = [_event("rolling restart", "servers", 0.5, 1.25)]
    first = _post(1.2, sender="consumer1.1")
    during = [first, _post(first.started + (first.ended - first.started) / 2, sender="consumer2.1")]
    after = [first, _post(first.ended + 0.01, sender="consumer2.1")]

    excused = check(_history(posts=during, records=[_record(1.31)], events=restart, busy=False))

    assert (excused.findings, excused.duplicates, excused.unrecorded) == ([], {"failover": 1}, {"failover": 1})
    assert _faults(posts=during, records=[_record(1.31)])["unexplained duplicate"] == 1
    assert _faults(posts=after, records=[_record(1.31)], events=restart)["unexplained duplicate"] == 1


def test_an_answer_that_nobody_recorded_is_a_fault() -> None:
    """Each request has a result, unless an event hit its sender."""
    posts = [_post(1.2, 503), _post(5.0)]

    assert _faults(posts=posts, records=[_record(5.11)]) == {"POST without record": 1}


def test_a_result_without_a_request_is_a_fault() -> None:
    """A recorded answer needs a request that the receiver saw."""
    records = [_record(1.31), _record(2.0, "retry_scheduled", "http.5xx", attempt=2)]

    assert _faults(records=records) == {"record without POST": 1}


def test_a_later_delivery_before_an_earlier_one_is_out_of_order() -> None:
    """An ordered destination sees each number once, in order, with repetitions of the last one only."""
    requests = [_request(), _request(NEXT, 2)]
    records = [_record(1.31), _record(1.35, key=NEXT)]

    assert _faults(requests=requests, posts=[_post(1.2), _post(1.25, key=NEXT)], records=records) == {}
    assert _faults(requests=requests, posts=[_post(1.2, key=NEXT), _post(1.25)], records=records) == {"out of order": 1}
    swapped = _history(requests=requests, posts=[_post(1.2, key=NEXT), _post(1.25)], records=records, ordered=[])
    assert check(swapped).findings == []


def test_what_waits_is_left_over_and_not_lost() -> None:
    """A delivery that waits in a stream may still be sent."""
    assert _faults(posts=[], records=[], waiting=[("ONEPROTECT_RETRIES", KEY)]) == {"left over": 1}


def test_what_remains_is_a_fault() -> None:
    """Nothing may wait at the end, be quarantined, be refused, or appear from nowhere."""
    stranger = Key("orders", "d-9")
    refused = msgspec.structs.replace(_request(), refused=409)
    faults = _faults(
        requests=[refused],
        posts=[_post(1.2), _post(2.0, key=stranger)],
        records=[_record(1.31), _record(2.11, key=stranger)],
        waiting=[("ONEPROTECT_WORK", KEY)],
        quarantined=["oneprotect.delivery.quarantined.x"],
    )

    assert faults == {"refused": 1, "left over": 1, "quarantined": 1, "not requested": 1}


def test_an_outage_does_not_excuse_a_consumer_that_forgets_an_answer() -> None:
    """The servers come back, and the consumer that has the answer records it then."""
    posts = [_post(1.2, 503), _post(60.0)]
    outage = [_event("all servers killed", "servers", 1.25, 8.0)]

    assert _faults(posts=posts, records=[_record(60.11)], events=outage) == {"POST without record": 1}
