"""The style checker: every rule finds its violation, and code is no prose."""

from pathlib import Path

import pytest

from tools.check_style import (
    MAX_MODULES,
    check_class_names,
    check_docstring_openings,
    check_folders,
    check_phrases,
    python_prose,
    text_prose,
)

FILE = Path("consumers/example.py")


@pytest.mark.parametrize(
    "text",
    ["The worker is told.", "It tells nobody.", "Read it anew", "held at hand", "It stands in memory.", "as we go on"],
)
def test_a_banned_phrase_is_found(text: str) -> None:
    """Each phrase is found in a comment, with the number of its line."""
    found = list(check_phrases(FILE, python_prose(f"x = 1\n# {text}\n")))

    assert {violation.line for violation in found} == {2}


@pytest.mark.parametrize(
    "text",
    [
        "Standard Webhooks",
        "a blank line",
        "`tell`",
        "https://example.com/we/told",
        "a stand-in",
        "the commended mender",
    ],
)
def test_other_words_pass(text: str) -> None:
    """Longer words, inline code, addresses and compounds are no banned phrases."""
    assert list(check_phrases(FILE, text_prose(Path("README.md"), text))) == []


def test_identifiers_are_no_prose() -> None:
    """Names and literals without a space are code."""
    source = 'def tell(told: str) -> str:\n    """Return the text."""\n    return {"told": told}["told"]\n'

    assert list(check_phrases(FILE, python_prose(source))) == []


def test_code_in_an_f_string_is_no_prose() -> None:
    """Only the text around the fields of an f-string counts."""
    assert (
        list(
            check_phrases(
                FILE,
                python_prose(
                    'x = f"reply: {told.decode()} here"\
'
                ),
            )
        )
        == []
    )


def test_f_strings_and_docstrings_are_prose() -> None:
    """A literal that spans lines reports the line of the phrase."""
    source = (
        'def f(x: str) -> str:\n    """Return a text.\n\n    Nobody reads it.\n    """\n    return f"{x} is told"\n'
    )

    assert [found.line for found in check_phrases(FILE, python_prose(source))] == [4, 6]


def test_fenced_code_is_no_prose() -> None:
    """Only the text outside of the fences of a Markdown file counts."""
    text = "We run:\n```\nwe run\n```\nours\n"

    assert [found.line for found in check_phrases(Path("a.md"), text_prose(Path("a.md"), text))] == [1, 5]


@pytest.mark.parametrize(
    ("opening", "count"), [("What it does.", 1), ("One more.", 1), ("Return it.", 0), ("Item.", 0)]
)
def test_docstrings_begin_with_a_verb_or_a_noun(opening: str, count: int) -> None:
    """A pronoun or a question word at the beginning is a violation."""
    assert len(list(check_docstring_openings(FILE, f'def f() -> None:\n    """{opening}"""\n'))) == count


def test_a_class_name_is_used_once() -> None:
    """The second definition is reported with the place of the first."""
    sources = {Path("a.py"): "class Worker: ...\n", Path("b.py"): "\nclass Worker: ...\nclass Other: ...\n"}

    (found,) = check_class_names(sources)

    assert (found.path, found.line, found.reason) == (Path("b.py"), 2, "class Worker is also defined at a.py:1")


def test_a_folder_with_too_many_modules_is_reported() -> None:
    """Modules of subfolders, other files and `__init__.py` do not count."""
    files = [Path(f"a/m{number}.py") for number in range(MAX_MODULES)]

    assert list(check_folders([*files, Path("a/__init__.py"), Path("a/b/m.py"), Path("a/x.md")])) == []
    assert len(list(check_folders([*files, Path("a/more.py")]))) == 1
