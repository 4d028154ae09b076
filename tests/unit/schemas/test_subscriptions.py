"""Subscriptions: the event types of a destination."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.subscriptions import SubscriptionIndex, matches

EVENT_TYPES = st.from_regex(r"[A-Za-z0-9_]{1,5}(\.[A-Za-z0-9_]{1,5}){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("pattern", "event_type"),
    [
        ("invoice.paid", "invoice.paid"),
        ("invoice.*", "invoice.paid"),
        ("invoice.*", "invoice.paid.late"),
        ("*", "invoice.paid"),
        ("*", "oneprotected.thing"),
        ("oneprotect.destination.disabled", "oneprotect.destination.disabled"),
        ("oneprotect.destination.*", "oneprotect.destination.disabled"),
        ("oneprotect.*", "oneprotect.destination.disabled"),
        ("oneprotect.config.*", "oneprotect.config.changed"),
        ("oneprotect.config.changed", "oneprotect.config.changed"),
        ("oneprotect.quarantine.*", "oneprotect.quarantine.released"),
    ],
)
def test_a_pattern_matches_its_type_and_a_wildcard_the_types_below(pattern: str, event_type: str) -> None:
    """An exact type, a prefix with a wildcard and the bare wildcard match their types."""
    assert matches(pattern, event_type)


@pytest.mark.parametrize(
    ("pattern", "event_type"),
    [
        ("invoice", "invoice.paid"),
        ("invoice.paid", "invoice.paid.late"),
        ("invoice.paid", "Invoice.paid"),
        ("invoice.*", "invoice"),
        ("invoice.*", "invoices.paid"),
        ("oneprotect.destination.*", "oneprotect.replay.started"),
    ],
)
def test_a_pattern_matches_no_other_type(pattern: str, event_type: str) -> None:
    """A pattern does not match prefixes, longer types or another letter case."""
    assert not matches(pattern, event_type)


@pytest.mark.parametrize(
    ("pattern", "event_type"),
    [
        ("*", "oneprotect.destination.disabled"),
        ("*", "oneprotect.config.changed"),
        ("oneprotect.*", "oneprotect.config.changed"),
        ("oneprotect.*", "oneprotect.quarantine.released"),
    ],
)
def test_a_bare_wildcard_does_not_match_operational_events(pattern: str, event_type: str) -> None:
    """A wildcard from outside reaches neither the operational events nor, from among them, the audit trail."""
    assert not matches(pattern, event_type)


@given(EVENT_TYPES)
def test_every_type_matches_itself_and_the_bare_wildcard_unless_it_is_operational(event_type: str) -> None:
    """Every type matches its own name, and `*` if it is not below `oneprotect.`."""
    assert matches(event_type, event_type)
    assert matches("*", event_type) is not event_type.startswith("oneprotect.")


PATTERNS = st.one_of(EVENT_TYPES, EVENT_TYPES.map(lambda event_type: event_type + ".*"), st.just("*"))


@given(st.lists(st.tuples(st.integers(0, 3).map(str), st.lists(PATTERNS, max_size=4)), max_size=8), EVENT_TYPES)
def test_the_index_finds_whoever_has_a_matching_pattern(changes: list[tuple[str, list[str]]], event_type: str) -> None:
    """After any changes, the index finds the names whose patterns match, sorted, and no others."""
    index, current = SubscriptionIndex(), dict[str, list[str]]()
    for name, patterns in changes:
        index.remove(name, current.get(name, ()))
        index.add(name, patterns)
        current[name] = patterns
    for asked in (event_type, *(pattern for _, patterns in changes for pattern in patterns if "*" not in pattern)):
        expected = [name for name, patterns in current.items() if any(matches(one, asked) for one in patterns)]
        assert index.find(asked) == sorted(expected)


def test_a_search_costs_the_same_however_many_patterns_there_are() -> None:
    """The index asks for the parts of the event type, and for no other pattern."""

    def steps(subscribers: int) -> int:
        index = SubscriptionIndex()
        for number in range(subscribers):
            index.add(f"d{number}", [f"a.b.x{part}.{number}.*" for part in range(128)])
        count = 0

        def trace(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(trace)
        try:
            assert index.find("a.b.zz") == []
        finally:
            sys.setprofile(None)
        return count

    assert steps(1) == steps(100)
