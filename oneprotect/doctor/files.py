"""The files that the settings name: there, readable, of the right kind, and closed to others where they are secret.

They are called by their variables: a path may be anything that was pasted, a secret too.
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
"""Looked at in each namespace of a local directory."""

_GROUP = CheckGroup("files")
_CREDS_MARKS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_GROUP_AND_OTHERS: Final = (3, 0)
"""How far their permission bits are shifted."""


def check_files(installation: InstallationSettings) -> list[CheckResult]:
    """Every file and directory that is named."""
    checks: list[CheckResult] = []
    if installation.nats_creds_file is not None:
        checks.append(_creds("ONEPROTECT_NATS_CREDS_FILE", installation.nats_creds_file))
    if installation.nats_nkey_file is not None:
        checks.append(_seed("ONEPROTECT_NATS_NKEY_FILE", installation.nats_nkey_file))
    if installation.nats_ca_file is not None:
        checks.append(_authorities("ONEPROTECT_NATS_CA_FILE", installation.nats_ca_file))
    if installation.egress_ca_file is not None:
        checks.append(_authorities("ONEPROTECT_EGRESS_CA_FILE", installation.egress_ca_file))
    if installation.provider == "local" and installation.local_dir is not None:
        checks.append(_manifests("ONEPROTECT_LOCAL_SECRETS_DIR", installation.local_dir, installation.namespaces))
    return checks


def _creds(variable: str, path: Path) -> CheckResult:
    return _closed(
        variable,
        path,
        _has_marks,
        "the file holds no NATS credentials: a user's JWT and its seed",
        "write it with `nsc generate creds --account ACCOUNT --name USER`, or mount the Secret that has it",
    )


def _seed(variable: str, path: Path) -> CheckResult:
    return _closed(
        variable,
        path,
        is_seed,
        "the file holds no seed of a NATS user (SU and 56 characters)",
        "write it with `oneprotect nats key --output FILE`, or mount the Secret that has it",
    )


def _closed(variable: str, path: Path, is_right: Callable[[bytes], bool], finding: str, mending: str) -> CheckResult:
    """Whether a file of credentials is what it should be, and nobody else's to read."""
    try:
        with path.open("rb") as file:
            right = is_right(file.read(MAX_CREDS_BYTES))
        is_open = bool(path.stat().st_mode & stat.S_IROTH)
    except OSError as error:
        return _unreadable(variable, error)
    if not right:
        return _GROUP.failed(variable, finding, mending)
    if is_open:
        return _GROUP.warning(
            variable, "every user of this machine can read the credentials", f'chmod o-rwx "${variable}"'
        )
    return _GROUP.ok(variable, "NATS credentials, closed to others")


def _has_marks(content: bytes) -> bool:
    return all(mark in content for mark in _CREDS_MARKS)


def _authorities(variable: str, path: Path) -> CheckResult:
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
            "the file holds no certificate of an authority (PEM)",
            f'see what it holds: openssl x509 -noout -text -in "${variable}"',
        )
    return _GROUP.ok(variable, f"certificates in it: {count}")


def _manifests(variable: str, directory: Path, namespaces: Iterable[str]) -> CheckResult:
    try:
        next(directory.iterdir(), None)
        found, exposed = _look_through(directory, namespaces)
    except OSError as error:
        return _unreadable(variable, error, kind="directory")
    if exposed:
        return _GROUP.warning(
            variable,
            f"other users of this machine can read {exposed} of {found} manifests with secrets",
            f'chmod -R go-rwx "${variable}"',
        )
    if not found:
        return _GROUP.warning(
            variable,
            "there is no manifest in it for any namespace that may be read",
            "put Secret manifests (JSON) into it, as NAMESPACE/SECRET.json",
        )
    return _GROUP.ok(variable, f"closed to others; manifests in it: {found}")


def _look_through(directory: Path, namespaces: Iterable[str]) -> tuple[int, int]:
    """How many manifests there are, and how many of them others can read. Raises `OSError`."""
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
    """Whether the group or all others can pass through the folders and read the file."""
    mode, passages = path.stat().st_mode, [folder.stat().st_mode for folder in folders]
    return any(
        mode >> shift & stat.S_IROTH and all(passage >> shift & stat.S_IXOTH for passage in passages)
        for shift in _GROUP_AND_OTHERS
    )


def _unreadable(variable: str, error: OSError, *, kind: str = "file") -> CheckResult:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return _GROUP.failed(variable, f"there is no such {kind}", "set it to one that is there, or unset it")
        case IsADirectoryError():
            return _GROUP.failed(variable, "it is a directory", "set it to a file")
        case PermissionError():
            return _GROUP.failed(
                variable, f"this user may not read the {kind}", f'see who may: ls -ld "${variable}"; id'
            )
        case _:
            return _GROUP.failed(
                variable, f"the {kind} can't be read ({type(error).__name__})", f'try it: ls -ld "${variable}"'
            )
