"""Remedies: complete for every status, code and cause."""

import re

import pytest

from oneprotect.doctor.remedies import REMEDY_BY_CODE, REMEDY_BY_STATUS, SecretProblem, remedy_commands
from schemas.codes import Code, CredentialStatus
from schemas.ids import Purpose


def test_every_status_and_code_has_a_remedy() -> None:
    """Each status of a credential, and each code of a secret, has a remedy of one sentence."""
    assert REMEDY_BY_STATUS.keys() == set(CredentialStatus)
    assert REMEDY_BY_CODE.keys() == {code for code in Code if code.value.startswith("secret.")}
    texts = [*REMEDY_BY_STATUS.values(), *REMEDY_BY_CODE.values()]
    assert all((text[0].islower() or text.startswith("Secret")) and not text.endswith(".") for text in texts)


@pytest.mark.parametrize("is_local", [True, False])
@pytest.mark.parametrize("cause", SecretProblem)
def test_every_cause_has_commands(cause: SecretProblem, *, is_local: bool) -> None:
    """The commands contain the tenant and the purpose, no unfilled field, and placeholders for the ref."""
    text = remedy_commands(
        cause, is_local=is_local, tenant="acme", credential="orders-key", purpose=Purpose.WEBHOOK_SIGNING
    )

    assert text
    assert not re.search(r"\{(tenant|id|purpose)\}", text)
    assert not re.search(r"--tenant(?! acme)", text)
    assert not re.search(r"kubectl (label|patch|create) secret (?!SECRET|generic SECRET)", text)
