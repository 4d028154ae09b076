"""Codes that an operator sees, and codes that a tenant sees."""

import pytest

from schemas.codes import Code, CredentialStatus

HIDDEN = {Code.SECRET_NOT_FOUND, Code.SECRET_DENIED, Code.SECRET_MISMATCH, Code.SECRET_REF_FORBIDDEN}
HIDDEN_STATUSES = {CredentialStatus.MISSING, CredentialStatus.DENIED, CredentialStatus.MISMATCH}


@pytest.mark.parametrize("code", Code)
def test_public_codes_do_not_reveal_secrets_of_other_tenants(code: Code) -> None:
    """A tenant sees missing, denied, mismatched and out-of-bounds secrets as unavailable, and other codes unchanged."""
    assert code.public is (Code.SECRET_UNAVAILABLE if code in HIDDEN else code)


@pytest.mark.parametrize("status", CredentialStatus)
def test_the_public_status_reveals_no_more_than_the_public_code(status: CredentialStatus) -> None:
    """A tenant sees missing, denied and mismatch as unavailable, and its own mistakes unchanged."""
    assert status.public is (CredentialStatus.UNAVAILABLE if status in HIDDEN_STATUSES else status)


@pytest.mark.parametrize("code", Code)
def test_the_public_code_of_a_public_code_is_itself(code: Code) -> None:
    """A second conversion changes nothing."""
    assert code.public.public is code.public
