"""Checks of files that the settings name: existence, content, and file permissions of secrets.

Results name the variable and not the path, because users sometimes paste a secret in place of a path.
"""

import ssl
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from messaging.client.client import is_seed
from oneprotect.doctor.installation import InstallationSettings
from oneprotect.doctor.result import CheckGroup, CheckResult

MAX_CREDS_BYTES: Final = 64 * 1024
MAX_MANIFESTS: Final = 1000
"""Manifests that are checked in each namespace of a local directory."""

_GROUP = CheckGroup("files")
_CREDS_MARKS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_GROUP_AND_OTHERS: Final = (3, 0)
"""Shifts of the permission bits of the group and of others."""


def check_files(installation: InstallationSettings) -> list[CheckResult]:
    """Check every file and directory that is set."""
    nats = installation.nats
    checks: list[CheckResult] = []
    if nats.creds_file is not None:
        checks.append(_creds("ONEPROTECT_NATS_CREDS_FILE", nats.creds_file))
    if nats.nkey_file is not None:
        checks.append(_seed("ONEPROTECT_NATS_NKEY_FILE", nats.nkey_file))
    if nats.ca_file is not None:
        checks.append(_certificates("ONEPROTECT_NATS_CA_FILE", nats.ca_file))
    if installation.egress_ca_file is not None:
        checks.append(_certificates("ONEPROTECT_EGRESS_CA_FILE", installation.egress_ca_file))
    if installation.provider == "local" and installation.local_dir is not None:
        checks.append(_manifests("ONEPROTECT_LOCAL_SECRETS_DIR", installation.local_dir, installation.namespaces))
    return checks


def _creds(variable: str, path: Path) -> CheckResult:
    return _private_file(
        variable,
        path,
        lambda content: all(mark in content for mark in _CREDS_MARKS),
        "the file does not contain NATS credentials: a user JWT and its seed",
        "create it with `nsc generate creds --account ACCOUNT --name USER`, or mount the Secret that contains it",
    )


def _seed(variable: str, path: Path) -> CheckResult:
    return _private_file(
        variable,
        path,
        is_seed,
        "the file does not contain the seed of a NATS user (SU and 56 characters)",
        "create it with `oneprotect nats key --output FILE`, or mount the Secret that contains it",
    )


def _private_file(
    variable: str, path: Path, is_valid: Callable[[bytes], bool], finding: str, remedy: str
) -> CheckResult:
    """Check the content of a file with credentials, and that other users cannot read it."""
    try:
        with path.open("rb") as file:
            valid = is_valid(file.read(MAX_CREDS_BYTES))
        is_exposed = bool(path.stat().st_mode & stat.S_IROTH)
    except OSError as error:
        return _unreadable(variable, error)
    if not valid:
        return _GROUP.failed(variable, finding, remedy)
    if is_exposed:
        return _GROUP.warning(
            variable, "every user of this machine can read the credentials", f'chmod o-rwx "${variable}"'
        )
    return _GROUP.ok(variable, "contains NATS credentials; other users cannot read them")


def _certificates(variable: str, path: Path) -> CheckResult:
    try:
        with path.open("rb"):
            pass
        count = len(ssl.create_default_context(cafile=path).get_ca_certs())
    except ssl.SSLError:
        count = 0
    except OSError as error:
        return _unreadable(variable, error)
    if not count:
        return _GROUP.failed(
            variable,
            "the file contains no CA certificate (PEM)",
            f'show its content: openssl x509 -noout -text -in "${variable}"',
        )
    return _GROUP.ok(variable, f"CA certificates: {count}")


def _manifests(variable: str, directory: Path, namespaces: Iterable[str]) -> CheckResult:
    try:
        next(directory.iterdir(), None)
        found, exposed = _count_manifests(directory, namespaces)
    except OSError as error:
        return _unreadable(variable, error, kind="directory")
    if exposed:
        return _GROUP.warning(
            variable,
            f"other users of this machine can read {exposed} of {found} Secret manifests",
            f'chmod -R go-rwx "${variable}"',
        )
    if not found:
        return _GROUP.warning(
            variable,
            "the directory has no manifest for a namespace that may be read",
            "add Secret manifests (JSON) as NAMESPACE/SECRET.json",
        )
    return _GROUP.ok(variable, f"manifests: {found}; other users cannot read them")


def _count_manifests(directory: Path, namespaces: Iterable[str]) -> tuple[int, int]:
    """Count the manifests, and those that other users can read. Raises `OSError`."""
    found = exposed = 0
    for namespace in sorted(namespaces):
        folder = directory / namespace
        for count, path in enumerate(sorted(folder.glob("*.json")) if folder.is_dir() else (), 1):
            found += 1
            exposed += _is_exposed(path, (directory, folder))
            if count == MAX_MANIFESTS:
                break
    return found, exposed


def _is_exposed(path: Path, folders: Iterable[Path]) -> bool:
    """Return whether the group or others can read the file, and enter every folder above it."""
    mode, folder_modes = path.stat().st_mode, [folder.stat().st_mode for folder in folders]
    return any(
        mode >> shift & stat.S_IROTH and all(folder_mode >> shift & stat.S_IXOTH for folder_mode in folder_modes)
        for shift in _GROUP_AND_OTHERS
    )


def _unreadable(variable: str, error: OSError, *, kind: str = "file") -> CheckResult:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return _GROUP.failed(variable, f"the {kind} does not exist", f"set it to an existing {kind}, or unset it")
        case IsADirectoryError():
            return _GROUP.failed(variable, "it is a directory", "set it to a file")
        case PermissionError():
            return _GROUP.failed(
                variable, f"this user may not read the {kind}", f'show the permissions: ls -ld "${variable}"; id'
            )
        case _:
            return _GROUP.failed(
                variable, f"the {kind} is unreadable ({type(error).__name__})", f'inspect it: ls -ld "${variable}"'
            )
