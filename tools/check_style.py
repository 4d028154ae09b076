"""Style rules that the linters do not know: folder size, class names, docstring openings and banned phrases.

`python -m tools.check_style` prints every violation as `path:line: reason` and exits with 1 when there is one.
With `--structure` it checks folder sizes and class names only. With `--report` it prints the number of violations per
package instead, and exits with 0.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

PRODUCT: Final = ("schemas", "provider", "messaging", "telemetry", "consumers", "oneprotect")
MAX_MODULES: Final = 20
"""Python modules in one folder, `__init__.py` not counted."""

PROSE_SUFFIXES: Final = (".md", ".yaml", ".html", ".txt", ".toml")
PROSE_FOLDERS: Final = (*PRODUCT, "deploy", "docs", "examples")

BANNED: Final = {
    r"tell|tells|telling|told": "name the actor and the verb: reports, logs, returns",
    r"mend|mends|mended|mending": "fix",
    r"heed|heeds|heeded|heeding": "obey, follow, respect",
    r"anew": "again",
    r"at hand": "in memory, available",
    r"(put|puts|putting) off": "postpone, delay",
    r"stand|stands|stood": "is, remains",
    r"(go|goes|going|gone|went) on(?!-)": "continue",
    r"whoever|somebody|nobody": "name the actor",
    r"that which|those who": "name the thing or the actor",
    r"we|our|ours": "name the actor: the consumer, the API, the operator",
    r"blanks|blank(?! line)": "space, empty",
}
_PHRASES: Final = {
    re.compile(rf"(?<![\w.`/-])(?:{words})(?![\w`=(/-])", re.IGNORECASE): hint for words, hint in BANNED.items()
}
_BAD_OPENING: Final = re.compile(r"(It|What|Whether|Where|Who|How|The same|One)\b")
_CODE: Final = re.compile(r"\"[\w.-]+\"|``[^`]+``|`[^`\n]+`|https?://\S+|\]\([^)\s]*\)")
_FENCE: Final = re.compile(r"^ *(```|~~~)")


class Violation(NamedTuple):
    """A broken rule; `line` is 0 when the whole file or folder breaks it."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


def check_folders(files: list[Path]) -> Iterator[Violation]:
    """Yield each folder that has more than `MAX_MODULES` modules."""
    modules = Counter(path.parent for path in files if path.suffix == ".py" and path.name != "__init__.py")
    for folder, count in sorted(modules.items()):
        if count > MAX_MODULES:
            yield Violation(folder, 0, f"{count} modules in one folder; at most {MAX_MODULES}")


def check_class_names(sources: dict[Path, str]) -> Iterator[Violation]:
    """Yield each module-level class whose name another module of the product has already used."""
    places: dict[str, list[tuple[Path, int]]] = defaultdict(list)
    for path, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append((path, node.lineno))
    for name, (first, *others) in sorted(places.items()):
        for path, line in others:
            yield Violation(path, line, f"class {name} is also defined at {first[0]}:{first[1]}")


def check_docstring_openings(path: Path, source: str) -> Iterator[Violation]:
    """Yield each docstring that begins with a pronoun or a question word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found = _BAD_OPENING.match(ast.get_docstring(node) or "")
            if found:
                line = node.body[0].lineno
                yield Violation(path, line, f"docstring begins with {found[0]!r}; use a verb or a noun phrase")


def check_phrases(path: Path, lines: Iterator[tuple[int, str]]) -> Iterator[Violation]:
    """Yield each banned phrase in numbered lines of prose; inline code and links do not count."""
    for number, line in lines:
        prose = _CODE.sub(" ", line)
        for pattern, hint in _PHRASES.items():
            for found in pattern.finditer(prose):
                yield Violation(path, number, f"{found[0]!r}: {hint}")


def python_prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of comments, docstrings and literals that contain a space, with their numbers."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        is_prose = kind in ("STRING", "FSTRING_MIDDLE") and re.search(r"\s", token.string)
        if kind == "COMMENT" or is_prose:
            is_template = token.string.lower().startswith(("f", "rf", "fr"))
            text = re.sub(r"\{[^{}]*\}", " ", token.string) if is_template else token.string
            yield from enumerate(text.splitlines(), token.start[0])


def text_prose(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers, without the fenced code of Markdown."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if path.suffix == ".md" and _FENCE.match(line):
            is_code = not is_code
        elif not is_code:
            yield number, line


def check_structure(files: list[Path]) -> Iterator[Violation]:
    """Yield the violations of folder sizes and class names."""
    yield from check_folders(files)
    yield from check_class_names(_product_sources(files))


def check_prose(files: list[Path]) -> Iterator[Violation]:
    """Yield the violations in docstrings, comments, literals, documentation and templates."""
    for path, source in _product_sources(files).items():
        yield from check_docstring_openings(path, source)
        yield from check_phrases(path, python_prose(source))
    for path in files:
        if path.suffix in PROSE_SUFFIXES and (len(path.parts) == 1 or path.parts[0] in PROSE_FOLDERS):
            yield from check_phrases(path, text_prose(path, path.read_text()))


def _product_sources(files: list[Path]) -> dict[Path, str]:
    return {path: path.read_text() for path in files if path.suffix == ".py" and path.parts[0] in PRODUCT}


def tracked_files() -> list[Path]:
    """Return the files that Git tracks and that exist, sorted."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)  # noqa: S607
    return sorted(path for name in listed.stdout.split("\0") if name and (path := Path(name)).is_file())


def main(arguments: list[str]) -> int:
    """Print violations, or with `--report` their number per package; return the exit code."""
    files = tracked_files()
    violations = list(check_structure(files))
    if "--structure" not in arguments:
        violations += check_prose(files)
    if "--report" in arguments:
        packages = Counter("/".join(violation.path.parts[:-1][:2]) or "." for violation in violations)
        for package, count in sorted(packages.items()):
            print(f"{count:5} {package}")  # noqa: T201
        print(f"{len(violations):5} in all")  # noqa: T201
        return 0
    for violation in violations:
        print(violation)  # noqa: T201
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
