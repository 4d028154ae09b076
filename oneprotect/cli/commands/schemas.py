"""`oneprotect schemas`: what travels, for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence


def schemas(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="The directory; made if need be.")],
    as_json: AsJson = False,
) -> None:
    """Write JSON Schema of every event and configuration object, AsyncAPI of the subjects, and OpenAPI of the API."""
    from oneprotect.cli.support.output import write_json, write_line

    paths = [str(path) for path in _write(output)]
    if as_json:
        write_json({"files": paths})
    else:
        write_line("\n".join(paths))


def _write(output: Path) -> "Sequence[Path]":
    from oneprotect.api.app import OPERATIONS
    from oneprotect.api.docs.openapi import document
    from schemas import export

    try:
        return [*export.write(output), export.write_one(output, "openapi", document(OPERATIONS))]
    except OSError as error:
        problem = type(error).__name__
    raise CliError(f"--output: can't be written to ({problem}); choose another directory")
