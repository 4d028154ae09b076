"""The commands that the doctor gives: there for every status and cause, with no gap in them."""

import re

import pytest

from oneprotect.doctor.remedies import SENTENCES, SecretProblem, remedy_commands
from schemas.codes import CredentialStatus
from schemas.ids import Purpose


def test_every_status_has_its_sentence() -> None:
    """Whatever consumers may say of a credential, there is one sentence on how to mend it."""
    assert SENTENCES.keys() == set(CredentialStatus)
    assert all(sentence[0].islower() and not sentence.endswith(".") for sentence in SENTENCES.values())


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("cause", SecretProblem)
def test_every_cause_has_commands(cause: SecretProblem, *, is_local: bool) -> None:
    """They name the tenant and the purpose, leave no field open, and stand for the ref with capital letters."""
    text = remedy_commands(
        cause, is_local=is_local, tenant="acme", credential="orders-key", purpose=Purpose.WEBHOOK_SIGNING
    )

    assert text
    assert not re.search(r"\{(tenant|id|purpose)\}", text)
    assert not re.search(r"--tenant(?! acme)", text)
    assert not re.search(r"kubectl (label|patch|create) secret (?!SECRET|generic SECRET)", text)
