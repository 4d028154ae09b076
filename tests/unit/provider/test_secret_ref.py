"""Secret refs: the grammar of the contract, section 2."""

import pytest

from provider.errors import SecretRefForbidden, SecretRefInvalid
from provider.secret_ref import SecretRef

LONGEST_NAME = "a" * 253


@pytest.mark.parametrize(
    "text",
    [
        "k8s://webhooks/acme-signing/signing",
        "k8s://w/a/s",
        "k8s://0/1/2",
        "k8s://webhooks/acme.signing-2.v1/_Some.Key-",
        "k8s://webhooks/acme/...",
        "k8s://webhooks/acme/previous",
        "k8s://webhooks/acme/signing.previous.v2",
        f"k8s://{'n' * 63}/{'a' * 63}/{'k' * 253}",
        f"k8s://webhooks/{LONGEST_NAME}/signing",
    ],
)
def test_a_three_part_ref_is_its_own_canonical_form(text: str) -> None:
    """A ref that the grammar allows is accepted unchanged."""
    ref = SecretRef.parse(text)

    assert str(ref) == text
    assert SecretRef.parse(text, central_namespace="elsewhere") == ref


def test_a_two_part_ref_is_in_the_central_namespace() -> None:
    """The canonical form of a short ref has three parts."""
    ref = SecretRef.parse("k8s://acme-signing/signing", central_namespace="webhooks")

    assert str(ref) == "k8s://webhooks/acme-signing/signing"
    assert (ref.namespace, ref.name, ref.key) == ("webhooks", "acme-signing", "signing")
    assert ref == SecretRef.parse(str(ref))
    assert hash(ref) == hash(SecretRef.parse(str(ref)))


def test_a_two_part_ref_needs_a_central_namespace() -> None:
    """No namespace is ever guessed."""
    with pytest.raises(SecretRefInvalid):
        SecretRef.parse("k8s://acme-signing/signing")


@pytest.mark.parametrize("central", ["", "Webhooks", "web/hooks", "..", "w\n"])
def test_a_central_namespace_follows_the_grammar_too(central: str) -> None:
    """A bad setting cannot smuggle a path in."""
    with pytest.raises(SecretRefInvalid):
        SecretRef.parse("k8s://acme-signing/signing", central_namespace=central)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k8s://",
        "k8s:///",
        "k8s:////",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "K8S://webhooks/acme/signing",
        "k8s:/webhooks/acme/signing",
        " k8s://webhooks/acme/signing",
        "k8s://webhooks/acme/signing ",
        "k8s://webhooks/acme/signing\n",
        "k8s://webhooks/acme\n/signing",
        "k8s://webhooks\n/acme/signing",
        "k8s://webhooks/acme/signing/more",
        "k8s://webhooks//signing",
        "k8s:///acme/signing",
        "k8s://webhooks/acme/",
        "k8s://webhooks/acme/.",
        "k8s://webhooks/acme/..",
        "k8s://webhooks/../acme",
        "k8s://webhooks/./acme",
        "k8s://../acme/signing",
        "k8s://webhooks/..%2fkube-system/signing",
        "k8s://web%68ooks/acme/signing",
        "k8s://webhooks/acme/sign%69ng",
        "k8s://user@webhooks/acme/signing",
        "k8s://webhooks:443/acme/signing",
        "k8s://webhooks/acme/signing?x",
        "k8s://webhooks/acme/signing#x",
        "k8s://Webhooks/acme/signing",
        "k8s://webhooks/Acme/signing",
        "k8s://webhooks/acme_signing/signing",
        "k8s://web.hooks/acme/signing",
        "k8s://-webhooks/acme/signing",
        "k8s://webhooks-/acme/signing",
        "k8s://webhooks/-acme/signing",
        "k8s://webhooks/acme-/signing",
        "k8s://webhooks/.acme/signing",
        "k8s://webhooks/acme./signing",
        "k8s://webhooks/ac..me/signing",
        "k8s://webhooks/ac.-me/signing",
        "k8s://webhooks/acme/sig ning",
        "k8s://webhooks/acme/sig\x00ning",
        "k8s://webhooks/acme/sig\\ning",
        "k8s://webhooks/acme/signing.previous",
        "k8s://webhooks/acme/signing.next",
        "k8s://webhooks/acme/.previous",
        "k8s://wébhooks/acme/signing",
        "k8s://webhooks/acme/sígning",
        "k8s://webhooks/acme/s\u0131gning",
        "k8s://web\uff48ooks/acme/signing",
        "k8s://webhooks/\u0661/signing",
        f"k8s://{'n' * 64}/acme/signing",
        f"k8s://webhooks/{LONGEST_NAME}a/signing",
        f"k8s://webhooks/acme/{'k' * 254}",
    ],
)
def test_whatever_else_is_refused_and_never_repeated(text: str) -> None:
    """People paste the secret itself where a ref should be, so the error has nothing of it."""
    with pytest.raises(SecretRefInvalid) as refused:
        SecretRef.parse(text, central_namespace="webhooks")

    assert str(refused.value) == "secret.ref_invalid"
    assert refused.value.args == ()
    assert refused.value.__context__ is None


def test_a_ref_has_at_most_512_characters() -> None:
    """The canonical form counts, so that it can always be parsed again."""
    longest = f"k8s://webhooks/{LONGEST_NAME}/" + "k" * 243

    assert len(str(SecretRef.parse(longest))) == 512
    with pytest.raises(SecretRefInvalid):
        SecretRef.parse(longest + "k")
    with pytest.raises(SecretRefInvalid):
        SecretRef.parse(longest.replace("webhooks/", "") + "k", central_namespace="webhooks")


@pytest.mark.parametrize(
    ("namespace", "name", "key"),
    [("web/hooks", "acme", "signing"), ("webhooks", "../x", "signing"), ("webhooks", "acme", "x/y"), ("w", "", "k")],
)
def test_there_is_no_ref_outside_the_grammar(namespace: str, name: str, key: str) -> None:
    """A ref that was not parsed is checked all the same."""
    with pytest.raises(SecretRefInvalid):
        SecretRef(namespace=namespace, name=name, key=key)


def test_a_namespace_must_be_allowed_by_name() -> None:
    """An empty list allows nothing."""
    ref = SecretRef.parse("k8s://webhooks/acme/signing")

    ref.require_namespace(frozenset({"webhooks"}))

    with pytest.raises(SecretRefForbidden):
        ref.require_namespace(frozenset({"webhooks-2", "*"}))
    with pytest.raises(SecretRefForbidden):
        ref.require_namespace(frozenset())


def test_a_ref_is_shown_only_explicitly() -> None:
    """`repr`, which may be logged, reveals nothing."""
    ref = SecretRef.parse("k8s://webhooks/acme/signing")

    assert repr(ref) == f"{ref!r}" == "SecretRef(...)"
    assert "acme" not in repr({"ref": ref})


def test_refs_to_different_things_differ() -> None:
    """Equality is by every part, and never with a string."""
    ref = SecretRef.parse("k8s://webhooks/acme/signing")

    others = ["k8s://webhooks/acme/signing2", "k8s://webhooks/acme2/signing", "k8s://webhooks2/acme/signing"]

    assert all(SecretRef.parse(other) != ref for other in others)
    assert ref != str(ref)
