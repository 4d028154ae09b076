"""`oneprotect verify`: the signature of a received request, for receivers that reject it."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from oneprotect.cli.support.errors import DONE, FAILED, BadUsage
from oneprotect.cli.support.options import AsJson
from oneprotect.cli.support.output import write_json, write_line, write_table
from oneprotect.cli.support.parsing import parse_headers, parse_time, read_file

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
            "--secret-file", metavar="FILE", help="File with the secret, or - for stdin. Repeat it for a previous one."
        ),
    ],
    body: Annotated[
        str, typer.Option("--body", metavar="FILE", help="File with the body, byte for byte, or - for stdin.")
    ],
    headers: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="'NAME: VALUE'", help="A received header. Repeatable."),
    ] = None,
    headers_file: Annotated[
        str | None, typer.Option("--headers", metavar="FILE", help="File with all received headers, one per line.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="Time of receipt: RFC 3339, or an age. Default: now.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the signature of a received request, and show which part is wrong and why.

    The secret comes from a file, because other users can see command lines. A line end at the end of the file is
    ignored. Exits with code 0 if receivers must accept the request, otherwise with code 1.
    """
    from consumers.signatures.verifier import verify as verify_request

    if [*secret_files, body, headers_file].count("-") > 1:
        raise BadUsage("only one of --secret-file, --headers and --body can read stdin")
    result = verify_request(
        [_read_secret(source) for source in secret_files],
        headers=_read_headers(headers or [], headers_file),
        body=read_file(body, "--body", limit=MAX_BODY_BYTES),
        now=parse_time(at, "--at") or datetime.now(UTC),
    )
    if as_json:
        write_json({"valid": result.valid, "checks": result.checks, "cause": result.cause and result.cause.value})
    else:
        _show(result)
    raise typer.Exit(DONE if result.valid else FAILED)


def _show(result: "VerificationResult") -> None:
    from rich.text import Text

    rows = [
        (check.part.value, Text("right", "green") if check.ok else Text("wrong", "red"), check.text)
        for check in result.checks
    ]
    write_table(("part", "result", "reason"), rows, empty="")
    if result.valid:
        write_line(Text("Valid: receivers must accept this request.", "green"))
    else:
        write_line(Text("Invalid" + (f": {result.cause.value}." if result.cause else "."), "red"))


def _read_secret(source: str) -> str:
    material = read_file(source, "--secret-file", limit=MAX_SECRET_BYTES)
    try:
        return material.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        pass
    raise BadUsage("--secret-file: not text; write a binary key as whsec_ and base64")


def _read_headers(lines: list[str], source: str | None) -> dict[str, str]:
    if source is not None:
        content = read_file(source, "--headers", limit=MAX_HEADERS_BYTES).decode("latin-1")
        lines = [line for line in content.splitlines() if ":" in line] + lines
    return dict(parse_headers(lines, "--header"))
