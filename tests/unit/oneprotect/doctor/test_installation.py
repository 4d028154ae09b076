"""Checks of settings, and of the files that they name."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from messaging.client.client import ServerAccess
from oneprotect.dev.sample_secrets import write_sample_secrets
from oneprotect.doctor.files import check_files
from oneprotect.doctor.installation import InstallationSettings, check_invalid, check_settings
from oneprotect.doctor.result import CheckResult, CheckStatus
from oneprotect.settings.settings import Settings, SettingsError
from tests.kubernetes.certificates import Authority

CREDS = "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\nSUAX\n"
NATS_CREDS, NATS_CA = "ONEPROTECT_NATS_CREDS_FILE", "ONEPROTECT_NATS_CA_FILE"
EGRESS_CA, LOCAL_DIR = "ONEPROTECT_EGRESS_CA_FILE", "ONEPROTECT_LOCAL_SECRETS_DIR"


def _installation(*, creds_file: Path | None = None, ca_file: Path | None = None, **given: Any) -> InstallationSettings:
    nats = ServerAccess(url="nats://127.0.0.1:4222", creds_file=creds_file, ca_file=ca_file)
    return InstallationSettings(variables_set=3, nats=nats, **given)


def _found(checks: list[CheckResult]) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in checks}


def _written(path: Path, content: str, *, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_settings_that_fit_together() -> None:
    """Consistent settings pass, and are counted."""
    checks = check_settings(_installation(provider="local", namespaces=frozenset({"webhooks"})))

    assert set(_found(checks).values()) == {CheckStatus.OK}
    assert checks[0].finding == "3 set, all valid"


@pytest.mark.parametrize(
    ("drain_s", "status"), [(25.0, CheckStatus.OK), (15.0, CheckStatus.WARNING), (5.0, CheckStatus.WARNING)]
)
def test_the_drain_timeout_is_longer_than_a_request(drain_s: float, status: CheckStatus) -> None:
    """A drain timeout below the request timeout is a warning."""
    checks = check_settings(_installation(drain_timeout_s=drain_s, request_timeout_s=15.0))

    assert _found(checks)["drain timeout"] is status


def test_a_provider_without_a_namespace_fails() -> None:
    """A provider without a namespace refuses every ref, so the check fails."""
    checks = check_settings(_installation(provider="kubernetes"))

    (check,) = (check for check in checks if check.name == "secret namespaces")
    assert check.status is CheckStatus.FAILED
    assert "ONEPROTECT_SECRET_NAMESPACE" in (check.remedy or "")


def test_a_missing_provider_is_unknown() -> None:
    """A process that reads no Secrets needs no provider, so a missing one is no failure."""
    checks = check_settings(_installation())

    assert _found(checks)["secret provider"] is CheckStatus.UNKNOWN
    assert CheckStatus.FAILED not in _found(checks).values()


def test_every_problem_of_invalid_settings_is_a_result() -> None:
    """Each result has the name of the variable and a remedy, and not the value."""
    environ = {
        "ONEPROTECT_NATS_ULR": "hidden",
        "ONEPROTECT_API_PORT": "hidden",
        "ONEPROTECT_SECRET_PROVIDER": "local",
    }
    with pytest.raises(SettingsError) as error:
        Settings.load(environ)
    checks = check_invalid(error.value.problems)

    assert _found(checks) == dict.fromkeys(
        ("ONEPROTECT_NATS_ULR", "ONEPROTECT_API_PORT", "ONEPROTECT_LOCAL_SECRETS_DIR"), CheckStatus.FAILED
    )
    assert checks[0].remedy == "did you mean ONEPROTECT_NATS_URL?"
    assert "hidden" not in str(checks)


def test_valid_files_pass(tmp_path: Path) -> None:
    """Private credentials, CA certificates and private manifests pass."""
    authority = Authority(tmp_path / "pki")
    write_sample_secrets(tmp_path / "secrets", namespace="webhooks", tenant="acme", names=["one", "two"])
    checks = check_files(
        _installation(
            creds_file=_written(tmp_path / "nats.creds", CREDS),
            ca_file=authority.ca_file,
            egress_ca_file=authority.ca_file,
            provider="local",
            namespaces=frozenset({"webhooks", "empty"}),
            local_dir=tmp_path / "secrets",
        )
    )

    assert _found(checks) == dict.fromkeys((NATS_CREDS, NATS_CA, EGRESS_CA, LOCAL_DIR), CheckStatus.OK)
    assert checks[-1].finding == "manifests: 2; other users cannot read them"


def test_missing_files_fail(tmp_path: Path) -> None:
    """The result of a missing file or directory has the name of the variable, and not the path."""
    missing = tmp_path / "hidden"
    checks = check_files(
        _installation(creds_file=missing, ca_file=missing, egress_ca_file=missing, provider="local", local_dir=missing)
    )

    assert _found(checks) == dict.fromkeys((NATS_CREDS, NATS_CA, EGRESS_CA, LOCAL_DIR), CheckStatus.FAILED)
    assert {check.finding for check in checks} == {"the file does not exist", "the directory does not exist"}
    assert "hidden" not in str(checks)


def test_a_directory_in_place_of_a_file_fails(tmp_path: Path) -> None:
    """A directory in place of a file fails, and a file in place of a directory."""
    checks = check_files(
        _installation(
            creds_file=tmp_path,
            ca_file=tmp_path,
            provider="local",
            local_dir=_written(tmp_path / "file", ""),
        )
    )

    assert set(_found(checks).values()) == {CheckStatus.FAILED}


def test_files_with_other_content_fail(tmp_path: Path) -> None:
    """A file without credentials or certificates fails, and its content is not shown."""
    pasted = _written(tmp_path / "file", "hidden " * 20)
    checks = check_files(_installation(creds_file=pasted, ca_file=pasted, egress_ca_file=pasted))

    assert set(_found(checks).values()) == {CheckStatus.FAILED}
    assert checks[0].finding == "the file does not contain NATS credentials: a user JWT and its seed"
    assert checks[1].finding == "the file contains no CA certificate (PEM)"
    assert "hidden" not in str(checks)


@pytest.mark.parametrize(
    ("mode", "status"),
    [(0o400, CheckStatus.OK), (0o440, CheckStatus.OK), (0o644, CheckStatus.WARNING), (0o604, CheckStatus.WARNING)],
)
def test_credentials_that_other_users_can_read_are_a_warning(tmp_path: Path, mode: int, status: CheckStatus) -> None:
    """Only the user and the group may read credentials. Pods read mounted files as their group."""
    creds = _written(tmp_path / "nats.creds", CREDS, mode=mode)
    (check,) = check_files(_installation(creds_file=creds))

    assert check.status is status
    assert check.remedy == (None if status is CheckStatus.OK else f'chmod o-rwx "${NATS_CREDS}"')
    assert "SUAX" not in str(check)


def test_the_remedy_makes_manifests_private(tmp_path: Path) -> None:
    """A manifest that other users can read is a warning until the command of the remedy runs."""
    secrets = tmp_path / "secrets"
    write_sample_secrets(secrets, namespace="webhooks", tenant="acme", names=["one", "two"])
    (secrets / "webhooks" / "one.json").chmod(0o644)
    installation = _installation(provider="local", namespaces=frozenset({"webhooks"}), local_dir=secrets)
    (in_a_private_folder,) = check_files(installation)
    for folder in (secrets, secrets / "webhooks"):
        folder.chmod(0o755)
    (exposed,) = check_files(installation)
    subprocess.run(["sh", "-c", str(exposed.remedy)], env=os.environ | {LOCAL_DIR: str(secrets)}, check=True)
    (fixed,) = check_files(installation)

    assert in_a_private_folder.status is CheckStatus.OK
    assert exposed.status is CheckStatus.WARNING
    assert exposed.finding == "other users of this machine can read 1 of 2 Secret manifests"
    assert fixed.status is CheckStatus.OK


def test_a_directory_without_manifests_is_a_warning(tmp_path: Path) -> None:
    """A directory without a manifest in an allowed namespace is a warning."""
    (check,) = check_files(_installation(provider="local", namespaces=frozenset({"webhooks"}), local_dir=tmp_path))

    assert check.status is CheckStatus.WARNING
    assert "NAMESPACE/SECRET.json" in (check.remedy or "")
