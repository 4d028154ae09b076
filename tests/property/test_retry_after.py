"""Reading `Retry-After`, whatever it says. Answers as a whole are in `tests/fuzz`."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from consumers.http_client.response import MAX_RETRY_AFTER_S, retry_after_s


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Za-z]{0,9},? ?[0-9]{0,4}[ -][A-Za-z]{3}[ -][0-9]{0,5} [0-9:]{0,9} .{0,6}")
)
def test_any_retry_after_is_a_bounded_number_or_nothing(value: str) -> None:
    """No header value raises an error, is negative, or exceeds a day."""
    seconds = retry_after_s(value, datetime(2026, 1, 1, tzinfo=UTC))

    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER_S
