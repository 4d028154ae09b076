"""Subscriptions: the event types of a destination."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.subscriptions import asks_for, matches

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


def test_a_destination_without_types_has_no_subscription() -> None:
    """One matching pattern is enough, and no pattern matches nothing."""
    assert asks_for(("order.*", "invoice.paid"), "invoice.paid")
    assert not asks_for(("order.*",), "invoice.paid")
    assert not asks_for((), "invoice.paid")
