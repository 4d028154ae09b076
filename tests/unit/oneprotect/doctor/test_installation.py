"""What the doctor says of settings and of the files that they name."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oneprotect.dev.sample_secrets import write_sample_secrets
from oneprotect.doctor.files import check_files
from oneprotect.doctor.installation import InstallationSettings, check_settings, invalid_settings
from oneprotect.doctor.result import CheckResult, CheckStatus
from oneprotect.settings.settings import Settings, SettingsError
from tests.kubernetes.certificates import Authority

CREDS = "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\nSUAX\n"
NATS_CREDS, NATS_CA = "ONEPROTECT_NATS_CREDS_FILE", "ONEPROTECT_NATS_CA_FILE"
EGRESS_CA, LOCAL_DIR = "ONEPROTECT_EGRESS_CA_FILE", "ONEPROTECT_LOCAL_SECRETS_DIR"


def _installation(**given: Any) -> InstallationSettings:
    return InstallationSettings(variables_set=3, nats_url="nats://127.0.0.1:4222", **given)


def _found(checks: list[CheckResult]) -> dict[str, CheckStatus]:
    return {check.name: check.status for check in checks}


def _written(path: Path, content: str, *, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def test_settings_that_fit_together() -> None:
    """Settings that make sense are fine, and counted."""
    checks = check_settings(_installation(provider="local", namespaces=frozenset({"webhooks"})))

    assert set(_found(checks).values()) == {CheckStatus.OK}
    assert checks[0].finding == "3 set, and understood"


@pytest.mark.parametrize(
    ("drain_s", "status"), [(25.0, CheckStatus.OK), (15.0, CheckStatus.WARNING), (5.0, CheckStatus.WARNING)]
)
def test_the_drain_timeout_is_longer_than_a_request(drain_s: float, status: CheckStatus) -> None:
    """A consumer that gives up before its requests do sends them twice."""
    checks = check_settings(_installation(drain_timeout_s=drain_s, request_timeout_s=15.0))

    assert _found(checks)["drain timeout"] is status


def test_without_a_namespace_nothing_is_resolved() -> None:
    """A provider without a namespace refuses every ref, which fails."""
    checks = check_settings(_installation(provider="kubernetes"))

    (check,) = (check for check in checks if check.name == "secret namespaces")
    assert check.status is CheckStatus.FAILED
    assert "ONEPROTECT_SECRET_NAMESPACE" in (check.mending or "")


def test_without_a_provider_secrets_are_unknown() -> None:
    """A process that resolves no secrets needs no provider: that is said, and is no failure."""
    checks = check_settings(_installation())

    assert _found(checks)["secret provider"] is CheckStatus.UNKNOWN
    assert CheckStatus.FAILED not in _found(checks).values()


def test_settings_that_can_not_be_used_are_told_all_at_once() -> None:
    """Every problem is a check of its own, by the variable's name, with how to mend it and without its value."""
    environ = {
        "ONEPROTECT_NATS_ULR": "hidden",
        "ONEPROTECT_API_PORT": "hidden",
        "ONEPROTECT_SECRET_PROVIDER": "local",
    }
    with pytest.raises(SettingsError) as error:
        Settings.load(environ)
    checks = invalid_settings(error.value.problems)

    assert _found(checks) == dict.fromkeys(
        ("ONEPROTECT_NATS_ULR", "ONEPROTECT_API_PORT", "ONEPROTECT_LOCAL_SECRETS_DIR"), CheckStatus.FAILED
    )
    assert checks[0].mending == "did you mean ONEPROTECT_NATS_URL?"
    assert "hidden" not in str(checks)


def test_files_as_they_should_be(tmp_path: Path) -> None:
    """Credentials closed to others, authorities, and closed manifests are fine."""
    authority = Authority(tmp_path / "pki")
    write_sample_secrets(tmp_path / "secrets", namespace="webhooks", tenant="acme", names=["one", "two"])
    checks = check_files(
        _installation(
            nats_creds_file=_written(tmp_path / "nats.creds", CREDS),
            nats_ca_file=authority.ca_file,
            egress_ca_file=authority.ca_file,
            provider="local",
            namespaces=frozenset({"webhooks", "empty"}),
            local_dir=tmp_path / "secrets",
        )
    )

    assert _found(checks) == dict.fromkeys((NATS_CREDS, NATS_CA, EGRESS_CA, LOCAL_DIR), CheckStatus.OK)
    assert checks[-1].finding == "closed to others; manifests in it: 2"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """A missing file or directory fails by its variable; its path, which may be anything pasted, is not shown."""
    missing = tmp_path / "hidden"
    checks = check_files(
        _installation(
            nats_creds_file=missing, nats_ca_file=missing, egress_ca_file=missing, provider="local", local_dir=missing
        )
    )

    assert _found(checks) == dict.fromkeys((NATS_CREDS, NATS_CA, EGRESS_CA, LOCAL_DIR), CheckStatus.FAILED)
    assert {check.finding for check in checks} == {"there is no such file", "there is no such directory"}
    assert "hidden" not in str(checks)


def test_directories_in_place_of_files(tmp_path: Path) -> None:
    """A directory is no file, and a file is no directory."""
    checks = check_files(
        _installation(
            nats_creds_file=tmp_path,
            nats_ca_file=tmp_path,
            provider="local",
            local_dir=_written(tmp_path / "file", ""),
        )
    )

    assert set(_found(checks).values()) == {CheckStatus.FAILED}


def test_files_of_another_kind(tmp_path: Path) -> None:
    """What holds neither credentials nor certificates fails, and nothing of what it holds is shown."""
    pasted = _written(tmp_path / "file", "hidden " * 20)
    checks = check_files(_installation(nats_creds_file=pasted, nats_ca_file=pasted, egress_ca_file=pasted))

    assert set(_found(checks).values()) == {CheckStatus.FAILED}
    assert checks[0].finding == "the file holds no NATS credentials: a user's JWT and its seed"
    assert checks[1].finding == "the file holds no certificate of an authority (PEM)"
    assert "hidden" not in str(checks)


@pytest.mark.parametrize(
    ("mode", "status"),
    [(0o400, CheckStatus.OK), (0o440, CheckStatus.OK), (0o644, CheckStatus.WARNING), (0o604, CheckStatus.WARNING)],
)
def test_credentials_are_closed_to_others(tmp_path: Path, mode: int, status: CheckStatus) -> None:
    """Others than user and group must not read them; a group is how a pod gets at what is mounted."""
    creds = _written(tmp_path / "nats.creds", CREDS, mode=mode)
    (check,) = check_files(_installation(nats_creds_file=creds))

    assert check.status is status
    assert check.mending == (None if status is CheckStatus.OK else f'chmod o-rwx "${NATS_CREDS}"')
    assert "SUAX" not in str(check)


def test_mending_closes_the_manifests(tmp_path: Path) -> None:
    """A manifest that others can read, through folders that they can pass, is a warning until the command is run."""
    secrets = tmp_path / "secrets"
    write_sample_secrets(secrets, namespace="webhooks", tenant="acme", names=["one", "two"])
    (secrets / "webhooks" / "one.json").chmod(0o644)
    installation = _installation(provider="local", namespaces=frozenset({"webhooks"}), local_dir=secrets)
    (behind_a_closed_folder,) = check_files(installation)
    for folder in (secrets, secrets / "webhooks"):
        folder.chmod(0o755)
    (exposed,) = check_files(installation)
    subprocess.run(["sh", "-c", str(exposed.mending)], env=os.environ | {LOCAL_DIR: str(secrets)}, check=True)
    (mended,) = check_files(installation)

    assert behind_a_closed_folder.status is CheckStatus.OK
    assert exposed.status is CheckStatus.WARNING
    assert exposed.finding == "other users of this machine can read 1 of 2 manifests with secrets"
    assert mended.status is CheckStatus.OK


def test_a_directory_without_manifests(tmp_path: Path) -> None:
    """A directory in which no allowed namespace has a manifest is most likely the wrong one."""
    (check,) = check_files(_installation(provider="local", namespaces=frozenset({"webhooks"}), local_dir=tmp_path))

    assert check.status is CheckStatus.WARNING
    assert "NAMESPACE/SECRET.json" in (check.mending or "")
