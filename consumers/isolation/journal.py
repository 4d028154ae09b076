"""The journal of handled messages: what a process was handling when it died.

The journal is a file in memory, with one slot for each message that is being handled. The kernel keeps its content when
the process ends in whatever way. A process removes its journal at a clean end. Another process of the installation
finds the journal of a dead one, because the lock of its owner is gone.
"""

import contextlib
import fcntl
import mmap
import os
import secrets
import stat
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Final

import structlog

SLOT_BYTES: Final = 64
MAX_JOURNAL_BYTES: Final = 64 * 1024 * 1024
_SUFFIX: Final = ".journal"

_log = structlog.get_logger(__name__)


class HandlingJournal:
    """The journal of this process. Without a usable directory it is kept in memory only, and lost with the process."""

    def __init__(self, directory: Path, *, slots: int) -> None:
        self._path: Path | None = None
        self._file = -1
        self._free = list(range(0, slots * SLOT_BYTES, SLOT_BYTES))
        self._pack = struct.Struct(f"{SLOT_BYTES}s").pack_into
        try:
            self._map = self._create(directory, slots * SLOT_BYTES)
        except OSError as error:
            _log.warning("journal.unavailable", error=error.strerror)
            self._map = mmap.mmap(-1, slots * SLOT_BYTES)

    def _create(self, directory: Path, size: int) -> mmap.mmap:
        _prepare(directory)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        new = directory / f"{name}.new"  # another process must not find the file before it is locked
        self._file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            os.posix_fallocate(self._file, 0, size)  # a sparse file on a full disk would end the process by SIGBUS
        except OSError:
            new.unlink()
            raise
        self._path = new.rename(directory / f"{name}{_SUFFIX}")
        return mmap.mmap(self._file, size)

    def begin(self, identity: str) -> int:
        """Note that a message is being handled from now on, and return its slot; -1 when all are in use."""
        if not self._free:
            return -1
        slot = self._free.pop()
        self._pack(self._map, slot, identity.encode())
        return slot

    def end(self, slot: int) -> None:
        """Note that the message in a slot of `begin` is no longer handled."""
        if slot >= 0:
            self._map[slot] = 0
            self._free.append(slot)

    def close(self) -> None:
        """Remove the journal: this process ends cleanly, and returned what it had in hand."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._map.close()
        if self._file >= 0:
            os.close(self._file)


def _prepare(directory: Path) -> None:
    """Create the directory. Raises `OSError` unless it is this user's alone: names below /tmp can be guessed."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(0, "the state directory belongs to another user")


@contextlib.contextmanager
def left_by_the_dead(path: Path) -> Generator[list[str] | None]:
    """Yield what a dead process was handling, and then remove its journal; None while its owner lives.

    The journal stays when the block raises.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # another process was first
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        content = os.read(file, MAX_JOURNAL_BYTES)
        slots = (content[at : at + SLOT_BYTES] for at in range(0, len(content), SLOT_BYTES))
        yield [slot.rstrip(b"\0").decode("ascii", "replace") for slot in slots if slot[0]]
        path.unlink(missing_ok=True)
    finally:
        os.close(file)


def find_journals(directory: Path) -> list[Path]:
    """Return the journals of living and dead processes."""
    with contextlib.suppress(OSError):
        return sorted(directory.glob(f"*{_SUFFIX}"))
    return []
