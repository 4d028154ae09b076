"""The format of a token, and the checks that need no lookup."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneprotect.api.auth.token_format import PREFIX, IssuedToken, digest, parse_token_id
from telemetry.redaction import scrub


def test_a_token_contains_its_id_and_gives_its_hash() -> None:
    """Each created token is different."""
    first, second = IssuedToken(), IssuedToken()

    assert parse_token_id(first.reveal()) == first.id
    assert digest(first.reveal()) == first.digest
    assert first.reveal().startswith(PREFIX)
    assert first.reveal() != second.reveal()


@given(st.integers(min_value=0, max_value=75), st.characters(codec="ascii"))
def test_any_slip_of_the_finger_is_noticed(place: int, letter: str) -> None:
    """One changed character, wherever it is, makes it no token."""
    text = IssuedToken().reveal()
    changed = text[:place] + letter + text[place + 1 :]

    assert parse_token_id(changed) == (parse_token_id(text) if changed == text else None)


@given(st.text(max_size=100))
def test_other_text_is_no_token(text: str) -> None:
    """Whatever it is."""
    assert parse_token_id(text) is None
    assert parse_token_id(PREFIX + text) is None


def test_it_can_not_get_out_by_mistake() -> None:
    """Not printed, copied or pickled; and a log would mask it."""
    token = IssuedToken()

    assert token.reveal() not in f"{token!r} {token} {token!s}"
    for leak in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            leak(token)
    assert token.reveal()[20:] not in scrub(f"it was {token.reveal()} here")
