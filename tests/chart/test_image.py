"""Image without a container engine: lint, build steps, and contents."""

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

pytestmark = pytest.mark.timeout(1800)
"""The tests wait for the build's processes to end; a build installs every package and may take minutes under load."""

LOCKED: dict[str, str] = dict(
    re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,-]+\])?==([^ ]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the build stage once, in a directory instead of `/`."""
    directory = tmp_path_factory.mktemp("image")
    build(BUILD, directory)
    return directory


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the image's environment, without the variables of this process."""
    binary, *rest = arguments
    command: list[str | Path] = [root / "opt/oneprotect/bin" / binary, *rest]
    return subprocess.run(command, cwd="/", env={"HOME": "/nonexistent"}, capture_output=True, text=True, check=False)


def test_the_program_runs_from_the_built_wheel_alone(root: Path) -> None:
    """The built environment contains the program and imports nothing from the source tree."""
    version = run(root, "oneprotect", "--version")
    places = run(root, "python", "-c", "import consumers, oneprotect, provider, schemas, sys; print(*sys.path, "
                 "*(m.__file__ for m in (consumers, oneprotect, provider, schemas)), sep='\\n')")  # fmt: skip

    assert (version.returncode, version.stdout) == (0, "oneprotect 0.1.0\n"), version.stderr
    assert places.returncode == 0
    assert str(ROOT) not in places.stdout
    assert places.stdout.count(f"{root}/opt/oneprotect/lib/") >= 4


@pytest.mark.parametrize("command", ["api", "consumer", "apply", "doctor"])
def test_every_command_starts_in_the_image(root: Path, command: str) -> None:
    """Each command prints its help, and names a bad setting; no import fails."""
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


def test_the_environment_contains_only_locked_packages(root: Path) -> None:
    """Every package has the locked version; pip and the build tools are absent."""
    listing = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"

    done = run(root, "python", "-c", listing)

    installed = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in json.loads(done.stdout).items()}
    assert installed.pop("oneprotect-delivery") == "0.1.0"
    assert installed.items() <= LOCKED.items()
    assert {"aiohttp", "msgspec", "starlette", "kubernetes-asyncio"} <= installed.keys()
    assert not installed.keys() & {"pip", "setuptools", "hatchling", "pytest"}


def test_nothing_is_written_at_run_time(root: Path) -> None:
    """Bytecode is compiled at build time, and a run changes no file: the root may be read-only."""
    library = root / "opt/oneprotect/lib"
    before = digests(library)

    assert run(root, "oneprotect", "api", "--help").returncode == 0
    assert digests(library) == before
    compiled = {path.parent.parent / f"{path.name.split('.')[0]}.py" for path in library.rglob("*.pyc")}
    ours = {path for name in ("oneprotect", "consumers") for path in library.rglob(f"site-packages/{name}/**/*.py")}
    assert len(ours) > 50
    assert ours <= compiled


def test_a_second_build_gives_identical_files(root: Path) -> None:
    """A later build of unchanged sources gives the same wheel and the same bytecode."""
    (wheel,) = (root / "build/dist").glob("*.whl")
    before = (wheel.read_bytes(), digests(root / "opt/oneprotect/lib"))
    (step,) = [one.rest for one in BUILD if one.word == "RUN" and "hatchling build" in one.rest]

    again = step.replace("install --no-compile", "install --force-reinstall --no-compile")
    surroundings = [one for one in BUILD if one.word in ("FROM", "ARG", "ENV", "WORKDIR")]
    build([*surroundings, Instruction("RUN", f"touch schemas/*.py oneprotect/*.py; {again}")], root)

    assert (wheel.read_bytes(), digests(root / "opt/oneprotect/lib")) == before
    assert any(path.endswith(".pyc") for path in before[1])


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its path."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("image", ["python:3.11-slim-trixie", "python", ""])
def test_a_base_image_without_a_digest_is_refused(tmp_path: Path, image: str) -> None:
    """The Dockerfile names no image itself, and the build fails for one whose contents may change."""
    checked = BUILD[: next(at for at, one in enumerate(BUILD) if one.word == "WORKDIR")]

    with pytest.raises(AssertionError, match="name the base image by its digest"):
        build(checked, tmp_path, arguments={"PYTHON": image})

    build(checked, tmp_path)
    assert {one.rest.split()[0] for stage in (BUILD, FINAL) for one in stage if one.word == "FROM"} == {"${PYTHON}"}


def test_hadolint_accepts_the_dockerfile() -> None:
    """hadolint finds nothing here, and finds the mistake in a bad Dockerfile."""
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
    """The image has a numeric user, the chart's ports, no secret variable, and no host to fetch from."""
    final = {(one.word, one.rest) for one in FINAL}

    assert ("USER", "10001:10001") in final
    assert ("EXPOSE", "8080 9090") in final
    assert ("ENTRYPOINT", '["oneprotect"]') in final
    assert not {word for word, _ in final} & {"RUN", "ADD", "HEALTHCHECK", "VOLUME"}
    assert re.search(r"https?://|index-url|trusted-host|ADD |--mount=type=secret", DOCKERFILE) is None
    installs = re.findall(r"pip [^&]*?install[^&]*", DOCKERFILE.replace("\\\n", ""))
    assert len(installs) == 3
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)


def test_the_build_context_contains_only_copied_files() -> None:
    """`.dockerignore` admits exactly the paths that the Dockerfile copies."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    copied = {source for one in BUILD if one.word == "COPY" for source in one.rest.split()[:-1]}

    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert {"**/.*", "**/__pycache__"} <= set(rules)


def test_the_sbom_lists_every_locked_package(tmp_path: Path) -> None:
    """`make sbom` lists each locked package with version and hashes, and is reproducible."""
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
