"""Build stage of the Dockerfile, run without a container engine in a directory instead of `/`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
PLACES = ("/build", "/opt/oneprotect")
"""Paths that the build stage writes to."""
ARGUMENTS = {"PYTHON": f"python@sha256:{'0' * 64}"}
"""The arguments of the build that have no default."""


class Instruction(msgspec.Struct, frozen=True):
    """An instruction: keyword and arguments in one line."""

    word: str
    rest: str


def stages(text: str) -> list[list[Instruction]]:
    """Return the instructions of each stage, without those before the first FROM."""
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text))
    found: list[list[Instruction]] = []
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if found:
            found[-1].append(Instruction(word, " ".join(rest.split())))
    return found


def build(
    instructions: list[Instruction], below: Path, context: Path = ROOT, arguments: Mapping[str, str] = ARGUMENTS
) -> None:
    """Execute COPY, ENV, ARG, WORKDIR and RUN. A failing step raises `AssertionError` with its output."""
    environ = {"PATH": f"{_python(below)}:{os.environ['PATH']}", "HOME": os.environ["HOME"]}
    environ |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    workdir = below
    for instruction in instructions:
        match instruction.word:
            case "FROM":
                pass
            case "ARG" if instruction.rest in arguments:
                environ[instruction.rest] = arguments[instruction.rest]
            case "ARG" | "ENV":
                environ |= _assigned(instruction.rest, environ)
                environ.pop("PIP_NO_CACHE_DIR", None)  # hashes are checked, so the cache is safe
            case "WORKDIR":
                workdir = Path(_moved(instruction.rest, below))
                workdir.mkdir(parents=True, exist_ok=True)
            case "COPY":
                *sources, target = instruction.rest.split()
                for source in sources:
                    _copy(context / source, workdir / target, into=len(sources) > 1 or target == "./")
            case "RUN":
                _run(_moved(instruction.rest, below), workdir, environ)
            case word:
                raise AssertionError(
                    f"{word}: unknown instruction; add it here, so that the test covers the whole image"
                )


def _python(below: Path) -> Path:
    """Return a directory in which `python` is the interpreter of this environment, as in the base image."""
    there = below / "base"
    there.mkdir(exist_ok=True)
    if not (there / "python").exists():
        (there / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    return there


def _assigned(rest: str, environ: dict[str, str]) -> dict[str, str]:
    pairs = (assignment.partition("=") for assignment in rest.split())
    return {name: re.sub(r"\$\{(\w+)\}", lambda found: environ[found[1]], value) for name, _, value in pairs}


def _moved(text: str, below: Path) -> str:
    return re.sub(
        "|".join(rf"{re.escape(place)}(?=[/ ]|$)" for place in PLACES), lambda found: f"{below}{found[0]}", text
    )


def _copy(source: Path, target: Path, *, into: bool) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copy(source, target / source.name if into else target)


def _run(command: str, workdir: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        ["sh", "-euc", command], cwd=workdir, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
