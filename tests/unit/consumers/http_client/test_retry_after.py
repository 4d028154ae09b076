"""Reading `Retry-After`."""

from datetime import UTC, datetime

import pytest

from consumers.http_client.response import retry_after_s

NOW = datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("0.65", 0.65),
        ("86400", 86_400.0),
        ("86401", 86_400.0),
        ("9" * 32, 86_400.0),
        ("Sun, 06 Nov 1994 08:50:37 GMT", 60.0),
        ("Sunday, 06-Nov-94 08:50:37 GMT", 60.0),
        ("Sun Nov  6 08:50:37 1994", 60.0),
        ("Sun, 06 Nov 1994 09:50:37 +0100", 60.0),
        ("Sun, 06 Nov 1994 08:50:37 -0000", 60.0),
        ("Sun, 06 Nov 1994 08:49:36 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
    ],
)
def test_seconds_and_dates_are_read(value: str, seconds: float) -> None:
    """Seconds and all three forms of an HTTP date are read, and kept between nothing and a day."""
    assert retry_after_s(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "+1",
        "1e3",
        "1,5",
        "\uff11\uff12",
        "soon",
        "nan",
        "inf",
        "9" * 33,
        "Sun, 99 Nov 1994 08:50:37 GMT",
        "GMT",
    ],
)
def test_garbage_is_ignored(value: str) -> None:
    """A value that is neither format counts as no header."""
    assert retry_after_s(value, NOW) is None
