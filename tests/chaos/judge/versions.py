"""Versions of the product: this checkout, and older commits from the history of Git."""

import io
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Final

import msgspec

ROOT: Final = Path(__file__).parents[3]


class Version(msgspec.Struct, frozen=True):
    """A directory with the product's packages, and a Python with its dependencies."""

    checkout: Path
    python: Path

    @classmethod
    def current(cls) -> "Version":
        """Return the version of this checkout."""
        return cls(ROOT, Path(sys.executable))

    @classmethod
    def of(cls, commit: str, directory: Path) -> "Version":
        """Extract a commit to a new directory. It gets an environment of its own if it needs other dependencies.

        Raises:
            LookupError: The commit is not in this clone.
        """
        command = ["git", "-C", str(ROOT), "archive", commit]
        archive = subprocess.run(command, capture_output=True, check=False)
        if archive.returncode:
            raise LookupError(f"commit {commit} is not in this clone; fetch the history: git fetch --unshallow")
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(directory, filter="data")
        locked = "requirements.txt"
        if (directory / locked).read_bytes() == (ROOT / locked).read_bytes():
            return cls(directory, Path(sys.executable))
        environment = directory / ".venv"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        install = ["-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(directory / locked)]
        subprocess.run([str(python), *install], check=True)
        return cls(directory, python)
