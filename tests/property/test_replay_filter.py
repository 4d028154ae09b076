"""Selection of kept deliveries by a filter."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.retention.retained import RetainedDelivery, matches, stream_for, subject_for
from schemas import streams, subjects
from schemas.configuration import ReplayFilter

pytestmark = pytest.mark.retry

START = datetime(2026, 11, 23, tzinfo=UTC)
DESTINATIONS, IDS = ("orders", "invoices", "a"), tuple(f"dlv_{number}" for number in range(6))
OUTCOMES = ("failed", "skipped", "delivered")
CODES, TYPES = ("http.5xx", "http.410", "secret.not_found"), ("invoice.paid", "invoice.sent")

times = st.integers(0, 20).map(lambda minutes: START + timedelta(minutes=minutes))
kept_deliveries = st.builds(
    RetainedDelivery,
    id=st.sampled_from(IDS),
    tenant=st.just("acme"),
    destination=st.sampled_from(DESTINATIONS),
    event_type=st.sampled_from(TYPES),
    code=st.sampled_from(CODES),
    outcome=st.sampled_from(OUTCOMES),
    attempt=st.integers(1, 9),
    sequence=st.integers(1, 99),
    stored_at=times,
)
filters = st.builds(
    ReplayFilter,
    destination=st.none() | st.sampled_from(DESTINATIONS),
    since=st.none() | times,
    until=st.none() | times,
    codes=st.lists(st.sampled_from(CODES), max_size=2, unique=True).map(tuple),
    event_types=st.lists(st.sampled_from(TYPES), max_size=2, unique=True).map(tuple),
    ids=st.lists(st.sampled_from(IDS), max_size=3, unique=True).map(tuple),
    outcomes=st.sampled_from([(), ("failed",), ("skipped",), ("failed", "skipped"), ("delivered",)]),
)


def _reaches(pattern: str, name: str) -> bool:
    """Whether a subject is one of those that a pattern with `*` names."""
    parts, tokens = pattern.split("."), name.split(".")
    return len(parts) == len(tokens) and all(part in ("*", token) for part, token in zip(parts, tokens, strict=True))


@given(kept=kept_deliveries, chosen=filters)
def test_the_read_subjects_contain_the_selection(kept: RetainedDelivery, chosen: ReplayFilter) -> None:
    """The subjects that are read contain every delivery that the filter selects."""
    if kept.outcome == "delivered":
        stored_in, stored_on = streams.DELIVERED, subjects.delivered("acme", kept.destination)
    else:
        stored_in, stored_on = streams.FAILED, subjects.failed("acme", kept.destination, kept.id)
    is_looked_for = stream_for(chosen) is stored_in and _reaches(subject_for("acme", chosen), stored_on)

    # With no word about outcomes a filter looks among those that failed or were skipped.
    assert not matches(kept, chosen) or is_looked_for or (not chosen.outcomes and kept.outcome == "delivered")


@given(kept=kept_deliveries, one=filters, other=filters)
def test_each_condition_restricts_the_selection(kept: RetainedDelivery, one: ReplayFilter, other: ReplayFilter) -> None:
    """A filter selects exactly the deliveries that meet all its conditions."""
    alone = [
        ReplayFilter(**{name: getattr(one, name)}) for name in ReplayFilter.__struct_fields__ if getattr(one, name)
    ]

    assert matches(kept, one) == all(matches(kept, condition) for condition in alone)
    assert matches(kept, ReplayFilter())
    assert matches(kept, ReplayFilter(since=one.since, until=other.until)) == (
        (one.since is None or one.since <= kept.stored_at) and (other.until is None or kept.stored_at < other.until)
    )
