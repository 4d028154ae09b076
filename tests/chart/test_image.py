"""The image, as far as it goes without an engine: linted, its build steps carried out, its contents listed."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart.dockerfile import ROOT, Instruction, build, stages

DOCKERFILE = (ROOT / "Dockerfile").read_text()
BUILD, FINAL = stages(DOCKERFILE)
LOCKED: dict[str, str] = dict(
    re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,-]+\])?==([^ ]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the build stage leaves behind, below a directory."""
    directory = tmp_path_factory.mktemp("image")
    build(BUILD, directory)
    return directory


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the image's environment: from elsewhere, with nothing of this process's environment."""
    binary, *rest = arguments
    command: list[str | Path] = [root / "opt/oneprotect/bin" / binary, *rest]
    return subprocess.run(command, cwd="/", env={"HOME": "/nonexistent"}, capture_output=True, text=True, check=False)


def test_the_program_runs_from_the_built_wheel_alone(root: Path) -> None:
    """The environment that the steps make has the program, and takes nothing from the source tree."""
    told = run(root, "oneprotect", "--version")
    places = run(root, "python", "-c", "import consumers, oneprotect, provider, schemas, sys; print(*sys.path, "
                 "*(m.__file__ for m in (consumers, oneprotect, provider, schemas)), sep='\\n')")  # fmt: skip

    assert (told.returncode, told.stdout) == (0, "oneprotect 0.1.0\n"), told.stderr
    assert places.returncode == 0
    assert str(ROOT) not in places.stdout
    assert places.stdout.count(f"{root}/opt/oneprotect/lib/") >= 4


@pytest.mark.parametrize("command", ["api", "consumer", "apply", "doctor"])
def test_every_role_has_what_it_needs(root: Path, command: str) -> None:
    """Each command loads; with settings that are bad it says which, and does not fall over what is not installed."""
    helped = run(root, "oneprotect", command, "--help")
    refused = subprocess.run(
        [root / "opt/oneprotect/bin/oneprotect", command],
        cwd="/",
        env={"ONEPROTECT_LOG_FORMAT": "xml"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert helped.returncode == 0, helped.stderr
    assert refused.returncode == 2
    assert "ONEPROTECT_LOG_FORMAT" in refused.stderr + refused.stdout


def test_the_environment_holds_what_is_locked_and_nothing_else(root: Path) -> None:
    """No pip, no tool of the build, no package that is not in the lock file; all with the locked version."""
    listing = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"

    done = run(root, "python", "-c", listing)

    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in json.loads(done.stdout).items()}
    assert installed.pop("oneprotect-delivery") == "0.1.0"
    assert installed.items() <= LOCKED.items()
    assert {"aiohttp", "msgspec", "starlette", "kubernetes-asyncio"} <= installed.keys()
    assert not installed.keys() & {"pip", "setuptools", "hatchling", "pytest"}


def test_nothing_is_written_at_run_time(root: Path) -> None:
    """Bytecode is there beforehand, and a run changes no file, so that the root may be read-only."""
    library = root / "opt/oneprotect/lib"
    before = digests(library)

    assert run(root, "oneprotect", "api", "--help").returncode == 0
    assert digests(library) == before
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in library.rglob("*.pyc")}
    ours = {path for name in ("oneprotect", "consumers") for path in library.rglob(f"site-packages/{name}/**/*.py")}
    assert len(ours) > 50
    assert ours <= compiled


def test_the_same_source_is_the_same_wheel_and_bytecode(root: Path) -> None:
    """Built again, at another time, the wheel has the same bytes, and so has all bytecode."""
    (wheel,) = (root / "build/dist").glob("*.whl")
    before = (wheel.read_bytes(), digests(root / "opt/oneprotect/lib"))
    (step,) = [one.rest for one in BUILD if one.word == "RUN" and "hatchling build" in one.rest]

    again = step.replace("install --no-compile", "install --force-reinstall --no-compile")
    surroundings = [one for one in BUILD if one.word in ("FROM", "ARG", "ENV", "WORKDIR")]
    build([*surroundings, Instruction("RUN", f"touch schemas/*.py oneprotect/*.py; {again}")], root)

    assert (wheel.read_bytes(), digests(root / "opt/oneprotect/lib")) == before
    assert any(path.endswith(".pyc") for path in before[1])


def digests(directory: Path) -> dict[str, str]:
    """A hash of each file, by its path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_dockerfile_is_clean() -> None:
    """hadolint has nothing to say, and it would: it knows what is wrong with another one."""
    clean, bad = (
        subprocess.run(
            [Path(sys.executable).parent / "hadolint", "-"], input=text, capture_output=True, text=True, check=False
        )
        for text in (DOCKERFILE, "FROM debian\nRUN apt-get install curl\n")
    )

    assert (clean.returncode, clean.stdout) == (0, "")
    assert bad.returncode == 1
    assert "DL3006" in bad.stdout


def test_the_image_is_unprivileged_and_names_no_address() -> None:
    """A numeric user, the ports that the chart asks, no secret among the variables, and no host to fetch from."""
    final = {(one.word, one.rest) for one in FINAL}

    assert ("USER", "10001:10001") in final
    assert ("EXPOSE", "8080 9090") in final
    assert ("ENTRYPOINT", '["oneprotect"]') in final
    assert not {word for word, _ in final} & {"RUN", "ADD", "HEALTHCHECK", "VOLUME"}
    assert re.search(r"https?://|index-url|trusted-host|ADD |--mount=type=secret", DOCKERFILE) is None
    installs = re.findall(r"pip [^&]*?install[^&]*", DOCKERFILE.replace("\\\n", ""))
    assert len(installs) == 3
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    """`.dockerignore` lets in exactly what the Dockerfile copies: no history, no local Secret, no credentials."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = {source for one in BUILD if one.word == "COPY" for source in one.rest.split()[:-1]}

    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert {"**/.*", "**/__pycache__"} <= set(rules)


def test_the_sbom_holds_every_locked_package(tmp_path: Path) -> None:
    """`make sbom` lists each package of the lock file with version and hashes, and is the same each time."""
    (command,) = re.findall(r"^\t\$\(BIN\)/(cyclonedx-py .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    output = tmp_path / "sbom.json"
    program, *arguments = command.replace("dist/sbom.cdx.json", str(output)).split()

    subprocess.run([Path(sys.executable).parent / program, *arguments], cwd=ROOT, check=True, capture_output=True)

    document = json.loads(output.read_bytes())
    assert not {"serialNumber", "timestamp"} & {*document, *document["metadata"]}
    assert document["metadata"]["component"]["name"] == "oneprotect-delivery"
    listed = {component["name"]: component["version"] for component in document["components"]}
    assert listed == LOCKED
    assert len(LOCKED) > 40
    for component in document["components"]:
        hashes = [one for reference in component["externalReferences"] for one in reference["hashes"]]
        assert hashes
        assert all(one["alg"] == "SHA-256" for one in hashes)
