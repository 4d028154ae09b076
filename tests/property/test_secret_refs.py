"""Properties of the ref grammar."""

import re
import string

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from provider.errors import SecretRefInvalid
from provider.secret_ref import MAX_LENGTH, SecretRef

ALPHABET = string.ascii_lowercase + string.digits

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda name: len(name) <= 253)
keys = st.from_regex(re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII), fullmatch=True).filter(
    lambda key: key not in (".", "..") and not key.endswith((".previous", ".next"))
)
refs = st.builds("k8s://{}/{}/{}".format, labels, names, keys).filter(lambda text: len(text) <= MAX_LENGTH)


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""What is tested is no speed, and the machine may be busy."""


def parsed(text: str, central_namespace: str | None = None) -> SecretRef | None:
    """Return the ref, or None when it is refused."""
    try:
        return SecretRef.parse(text, central_namespace=central_namespace)
    except SecretRefInvalid:
        return None


@unhurried
@given(labels, names, keys)
def test_a_valid_ref_is_returned_unchanged(namespace: str, name: str, key: str) -> None:
    """Nothing is decoded, lower-cased or stripped, and the short form is equivalent."""
    text = f"k8s://{namespace}/{name}/{key}"
    if len(text) > MAX_LENGTH:
        return

    ref = SecretRef.parse(text)

    assert (ref.namespace, ref.name, ref.key, str(ref)) == (namespace, name, key, text)
    assert SecretRef.parse(f"k8s://{name}/{key}", central_namespace=namespace) == ref
    assert parsed(f"k8s://{name}/{key}") is None


@unhurried
@given(st.one_of(st.text(max_size=80), st.from_regex(r"k8s://[^\n]{0,60}", fullmatch=True)))
@example("k8s://a/b/c\n")
@example("k8s://a/b/../c")
@example("k8s://a/b%2fc/d")
def test_an_accepted_ref_is_safe_in_a_path(text: str) -> None:
    """A parsed ref equals its text, and its parts can leave neither a URL's path nor a directory."""
    ref = parsed(text)

    if ref is None:
        return
    assert str(ref) == text
    for part in (ref.namespace, ref.name, ref.key):
        assert re.fullmatch(r"[-._a-zA-Z0-9]+", part, re.ASCII)
        assert part not in (".", "..")


@unhurried
@given(refs, st.data())
def test_one_foreign_character_invalidates_a_ref(text: str, data: st.DataObject) -> None:
    """The position of the character does not matter."""
    foreign = data.draw(st.characters(exclude_characters=string.ascii_letters + string.digits + "-._/:"))
    position = data.draw(st.integers(0, len(text)))

    assert parsed(text[:position] + foreign + text[position:]) is None


@unhurried
@given(refs, st.sampled_from([".previous", ".next"]))
def test_reserved_slots_cannot_be_named(text: str, suffix: str) -> None:
    """They belong to the key before the suffix."""
    assert parsed(text + suffix) is None


@unhurried
@given(refs, st.sampled_from(["/x", "/", "/.", "/.."]))
def test_a_fourth_part_is_one_too_many(text: str, more: str) -> None:
    """However it looks."""
    assert parsed(text + more) is None


@unhurried
@given(refs, refs)
def test_refs_are_equal_exactly_when_their_texts_are(one: str, other: str) -> None:
    """And then hash alike."""
    first, second = SecretRef.parse(one), SecretRef.parse(other)

    assert (first == second) is (one == other)
    assert first == SecretRef.parse(one)
    assert hash(first) == hash(SecretRef.parse(one))
