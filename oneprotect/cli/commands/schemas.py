"""`oneprotect schemas`: JSON Schema, AsyncAPI and OpenAPI documents."""

from pathlib import Path
from typing import Annotated

import typer

from oneprotect.cli.support.errors import CliError
from oneprotect.cli.support.options import AsJson
from oneprotect.cli.support.output import write_result


def schemas(
    *,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Output directory. Created if missing.")],
    as_json: AsJson = False,
) -> None:
    """Write JSON Schema of events and configuration, AsyncAPI of the NATS subjects, and OpenAPI of the HTTP API."""
    paths = [str(path) for path in _write(output)]
    write_result({"files": paths}, "\n".join(paths), as_json=as_json)


def _write(output: Path) -> list[Path]:
    from oneprotect.api.app import OPERATIONS
    from oneprotect.api.docs.openapi import document
    from schemas import export

    try:
        return [*export.write(output), export.write_one(output, "openapi", document(OPERATIONS))]
    except OSError as error:
        problem = type(error).__name__
    raise CliError(f"--output: the directory is not writable ({problem}); choose another one")
