"""`oneprotect verify`: for receivers who say "the signature differs"."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.errors import DONE, FAILED, BadUsage
from oneprotect.cli.support.options import AsJson

if TYPE_CHECKING:
    from consumers.signatures.verifier import VerificationResult

MAX_SECRET_BYTES: Final = 4096
MAX_HEADERS_BYTES: Final = 256 * 1024
MAX_BODY_BYTES: Final = 16 * 1024 * 1024


def verify(
    *,
    secret_files: Annotated[
        list[str],
        typer.Option(
            "--secret-file", metavar="FILE", help="The secret, in a file, or - for stdin; repeat it for a previous one."
        ),
    ],
    body: Annotated[
        str, typer.Option("--body", metavar="FILE", help="The body as received, byte for byte; - for stdin.")
    ],
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="'NAME: VALUE'", help="A header as received. Repeatable."),
    ] = None,
    headers_file: Annotated[
        str | None, typer.Option("--headers", metavar="FILE", help="All headers as received, one a line.")
    ] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="When it was received; now, without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a received request's signature, and say which part differs and why.

    The secret never goes on the command line, where others can see it. A line end at the end of its file is left
    out. Exits with 0 when a receiver has to accept the request, and with 1 when not.
    """
    from datetime import UTC, datetime

    from consumers.signatures.verifier import verify as verified
    from oneprotect.cli.support.output import write_json
    from oneprotect.cli.support.parsing import read_file, read_time

    _require_one_stdin([*secret_files, body, headers_file or ""])
    result = verified(
        [_secret(source) for source in secret_files],
        headers=_headers(headers or [], headers_file),
        body=read_file(body, "--body", limit=MAX_BODY_BYTES),
        now=read_time(at, "--at") or datetime.now(UTC),
    )
    if as_json:
        write_json({"valid": result.valid, "checks": result.checks, "cause": result.cause and result.cause.value})
    else:
        _show(result)
    raise typer.Exit(DONE if result.valid else FAILED)


def _show(result: "VerificationResult") -> None:
    from rich.text import Text

    from oneprotect.cli.support.output import write_line, write_table

    rows = [
        (check.part.value, Text("right", "green") if check.ok else Text("wrong", "red"), check.text)
        for check in result.checks
    ]
    write_table(("part", "is", "why"), rows, empty="")
    if result.valid:
        write_line(Text("Valid: the receiver has to accept this request.", "green"))
    else:
        write_line(Text("Not valid" + (f": {result.cause.value}." if result.cause else "."), "red"))


def _secret(source: str) -> str:
    from oneprotect.cli.support.parsing import read_file

    material = read_file(source, "--secret-file", limit=MAX_SECRET_BYTES)
    try:
        return material.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        pass
    raise BadUsage("--secret-file: it is not text; give raw bytes as whsec_ and base64")


def _headers(lines: list[str], source: str | None) -> dict[str, str]:
    from oneprotect.cli.support.parsing import read_file, read_headers

    if source is not None:
        content = read_file(source, "--headers", limit=MAX_HEADERS_BYTES).decode("latin-1")
        lines = [line for line in content.splitlines() if ":" in line] + lines
    return dict(read_headers(lines, "--header"))


def _require_one_stdin(sources: list[str]) -> None:
    if sources.count("-") > 1:
        raise BadUsage("only one of --secret-file, --headers and --body can be stdin")
