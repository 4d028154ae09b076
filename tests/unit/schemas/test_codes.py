"""Codes: what an operator sees, and what a tenant may."""

import pytest

from schemas.codes import Code, CredentialStatus

HIDDEN = {Code.SECRET_NOT_FOUND, Code.SECRET_DENIED, Code.SECRET_MISMATCH, Code.SECRET_REF_FORBIDDEN}
HIDDEN_STATUSES = {CredentialStatus.MISSING, CredentialStatus.DENIED, CredentialStatus.MISMATCH}


@pytest.mark.parametrize("code", Code)
def test_public_codes_do_not_reveal_secrets_of_other_tenants(code: Code) -> None:
    """Absent, not granted, another's and out of bounds look as if the provider could not be asked; the rest is told."""
    assert code.public is (Code.SECRET_UNAVAILABLE if code in HIDDEN else code)


@pytest.mark.parametrize("status", CredentialStatus)
def test_the_public_status_reveals_no_more_than_the_public_code(status: CredentialStatus) -> None:
    """Missing, denied and mismatch look as unavailable does; what is the tenant's own to mend is told."""
    assert status.public is (CredentialStatus.UNAVAILABLE if status in HIDDEN_STATUSES else status)


@pytest.mark.parametrize("code", Code)
def test_the_public_code_of_a_public_code_is_itself(code: Code) -> None:
    """Whoever asks twice learns nothing more."""
    assert code.public.public is code.public
