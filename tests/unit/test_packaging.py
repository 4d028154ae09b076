"""Top-level names, lock files and the wheel of the application."""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("schemas", "provider", "messaging", "telemetry", "consumers", "oneprotect")


def _top_level_names(distribution: importlib.metadata.Distribution) -> set[str]:
    return {Path(file).parts[0].removesuffix(".py") for file in distribution.files or () if Path(file).parts}


def test_no_other_distribution_ships_its_top_level_names() -> None:
    """Plain names such as `schemas` belong to this program alone in its environment."""
    others = [d for d in importlib.metadata.distributions() if d.metadata["Name"] != "oneprotect-delivery"]

    taken = {d.metadata["Name"]: names for d in others if (names := _top_level_names(d).intersection(OURS))}

    assert len(others) > 20, "the walk sees the environment"
    assert "aiohttp" in {name for d in others for name in _top_level_names(d)}
    assert taken == {}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_lock_files_pin_and_hash_everything_and_name_no_address(name: str) -> None:
    """Every requirement has one version and at least one hash, and no source address."""
    lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in lines if line.strip() and not line.startswith("#")]

    assert len(requirements) > 20
    for line in requirements:
        assert re.match(r"^[a-z0-9._-]+(\[[a-z,-]+\])?==[^ ]+ ", line), line
        assert "--hash=sha256:" in line, line
        assert "://" not in line


def test_development_locks_the_production_versions() -> None:
    """The development lock contains the production lock."""
    pinned = [
        {line.split(" ")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        for name in ("requirements.txt", "requirements-dev.txt")
    ]

    assert pinned[0] < pinned[1]


def test_the_production_lock_has_what_the_program_requires_and_nothing_else() -> None:
    """Each locked package is a requirement of the program or of another one, and none is for tests."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    locked = {re.split(r"[=\[]", line)[0] for line in lines if "==" in line}
    required, waiting = set[str](), ["oneprotect-delivery"]
    while waiting:
        name = waiting.pop()
        if name not in required:
            required.add(name)
            waiting += _requirements(name)

    assert locked <= required
    assert locked.isdisjoint({"faker", "polyfactory", "httpx", "hypothesis", "pytest", "schemathesis", "svix"})


def _requirements(name: str) -> list[str]:
    """Return the names of what a distribution requires, with the one extra that the program uses."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # for another platform
    chosen = [line for line in lines if "extra ==" not in line or (name == "nats-py" and "nkeys" in line)]
    return [re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line)[0]).lower() for line in chosen]


def test_the_wheel_contains_the_console_files(tmp_path: Path) -> None:
    """Templates and static files are installed beside their code; tests and benches are not."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())

    console = ROOT / "oneprotect" / "console"
    needed = {str(path.relative_to(ROOT)) for kind in ("templates", "static") for path in (console / kind).iterdir()}
    assert len(needed) > 15
    assert needed <= shipped
    assert {name.partition("/")[0] for name in shipped if not name.startswith("oneprotect_delivery")} == set(OURS)
