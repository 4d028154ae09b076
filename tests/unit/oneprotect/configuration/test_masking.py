"""Masking: credentials of receivers are write-only, and a round trip of what was read changes nothing."""

import msgspec
import pytest

from oneprotect.configuration.masking import MASK, mask, unmask
from schemas.configuration import DestinationSpec
from schemas.validation import ValidationError

SECRET = "canary-of-the-receiver"
STORED = DestinationSpec(
    url=f"https://example.com/in?token={SECRET}&a=1&{SECRET}",
    credential="key",
    headers={"Authorization": f"Bearer {SECRET}", "x-team": "billing"},
)


def test_a_reader_sees_names_and_no_values() -> None:
    """Any header may hold a credential, and any parameter of the query."""
    shown = mask(STORED)

    assert SECRET not in repr(shown)
    assert shown.headers == {"Authorization": MASK, "x-team": MASK}
    assert shown.url == f"https://example.com/in?token={MASK}&a={MASK}&{MASK}"
    assert mask(msgspec.structs.replace(STORED, url="https://example.com/in")).url == "https://example.com/in"


def test_what_was_read_can_be_written_back() -> None:
    """Other fields change, in whatever case the headers are written, and the stored values stay."""
    changed = msgspec.structs.replace(mask(STORED), description="new", headers={"authorization": MASK, "x-b": "2"})

    whole = unmask(changed, STORED)

    assert whole.url == STORED.url
    assert whole.headers == {"authorization": f"Bearer {SECRET}", "x-b": "2"}
    assert whole.description == "new"
    assert unmask(STORED, None) == STORED


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        ({}, None),
        ({"headers": {"x-other": MASK}}, STORED),
        ({"url": "https://attacker.example/in"}, STORED),
        ({"url": "https://example.com/other"}, STORED),
        ({"url": f"https://example.com/in?token={MASK}"}, STORED),
        ({"url": f"https://attacker.example/in?token={MASK}", "headers": {}}, STORED),
    ],
)
def test_a_mask_never_becomes_a_value_and_never_moves_one(
    change: dict[str, object], stored: DestinationSpec | None
) -> None:
    """No stored value goes to another address, where the writer could read it."""
    with pytest.raises(ValidationError):
        unmask(msgspec.structs.replace(mask(STORED), **change), stored)


def test_stored_and_new_headers_obey_the_common_limit() -> None:
    """Kept values count."""
    stored = msgspec.structs.replace(STORED, headers={f"x-{n}": "v" * 1000 for n in range(3)})
    added = dict.fromkeys(stored.headers, MASK) | {"x-new": "v" * 1020, "x-more": "v" * 100}

    with pytest.raises(ValidationError):
        unmask(msgspec.structs.replace(stored, headers=added), stored)
