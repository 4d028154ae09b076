"""The chart, rendered: one way for `make chart` and for the tests.

`python -m tools.chart` lints the chart with each file of values under `ci/`, renders it, and checks what comes out.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import yaml

from tools.chart_files import CHART, files
from tools.get_helm import HelmUnavailable, helm
from tools.manifests import Manifest, parse, problems

RELEASE: Final = "oneprotect"
NAMESPACE: Final = "oneprotect"
VALUES: Final = tuple(sorted(path.stem for path in (CHART / "ci").glob("*.yaml")))
"""The files of values under `ci/`."""

Values = Mapping[str, Any]


class ChartError(Exception):
    """Helm refused; the text is what it said."""


def render(binary: Path, *values: str | Values, release: str = RELEASE, options: Iterable[str] = ()) -> list[Manifest]:
    """The manifests for values: names of files under `ci/`, and mappings that win over them. Raises `ChartError`."""
    return parse(_run([binary, "template", release, CHART, "--namespace", NAMESPACE, *options], values))


def lint(binary: Path, *values: str | Values) -> None:
    """Helm's own rules, warnings included. Raises `ChartError`."""
    _run([binary, "lint", CHART, "--strict"], values)


def _run(command: list[str | Path], values: Iterable[str | Values]) -> str:
    given = json.dumps(_merged(values))  # quotes every string: Helm reads a bare `y` as true
    done = subprocess.run([*command, "--values", "-"], input=given, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ChartError(done.stdout + done.stderr)
    return done.stdout


def _merged(values: Iterable[str | Values]) -> Values:
    merged: Values = {}
    for one in values:
        given = yaml.safe_load((CHART / "ci" / f"{one}.yaml").read_text()) if isinstance(one, str) else one
        merged = _over(merged, given)
    return merged


def _over(below: Values, above: Values) -> Values:
    """Mappings are merged, all else is replaced: as Helm does with one file of values after another."""
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            merged[key] = _over(cast("Values", below[key]), cast("Values", above[key]))
    return merged


def _problems(binary: Path) -> Iterator[str]:
    for path, text in files().items():
        if (CHART / path).read_text() != text:
            yield f"{path}: stale; run make generate"
    for name in VALUES:
        try:
            lint(binary, name)
            rendered = render(binary, name)
        except ChartError as error:
            yield f"{name}: {error}"
            continue
        yield from (f"{name}: {problem}" for problem in problems(rendered))
        sys.stdout.write(f"{name}: {len(rendered)} manifests\n")


def main() -> int:
    """Print the problems; 0 when there are none."""
    try:
        found = list(_problems(helm()))
    except HelmUnavailable as unavailable:
        found = [str(unavailable)]
    sys.stderr.write("".join(f"{problem}\n" for problem in found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
