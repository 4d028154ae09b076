"""Packages that are not run before somebody needs them, with real ones on the path."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.kubernetes.lazy_packages import register_lazy_packages

PACKAGE = "deferred_for_a_test"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose `large` imports its only module when it is run, and says so."""
    large = tmp_path / PACKAGE / "large"
    large.mkdir(parents=True)
    (tmp_path / PACKAGE / "__init__.py").write_text(f"from {PACKAGE}.large import THING\n")
    (large / "__init__.py").write_text(f"from {PACKAGE}.large.part import THING\nhas_run = True\n")
    (large / "part.py").write_text("THING = object()\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


def test_a_deferred_package_gives_its_modules_without_running() -> None:
    """One module of it is imported, and nothing else of it is there."""
    register_lazy_packages(PACKAGE, f"{PACKAGE}.large")

    part = importlib.import_module(f"{PACKAGE}.large.part")

    large = sys.modules[f"{PACKAGE}.large"]
    assert sys.modules[PACKAGE].large is large
    assert vars(large)["part"] is part
    assert "has_run" not in vars(large)


def test_it_runs_once_for_a_name_that_is_not_there() -> None:
    """Who imports from it gets what anybody gets, of the same modules as those that were imported before."""
    register_lazy_packages(PACKAGE, f"{PACKAGE}.large")
    part = importlib.import_module(f"{PACKAGE}.large.part")

    package = importlib.import_module(PACKAGE)

    assert package.THING is part.THING
    assert package.large.has_run
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_what_is_imported_already_stays_as_it_is() -> None:
    """A package that has run is not entered anew."""
    package = importlib.import_module(PACKAGE)

    register_lazy_packages(PACKAGE, f"{PACKAGE}.large")

    assert sys.modules[PACKAGE] is package
    assert "__getattr__" not in vars(package) | vars(package.large)


def test_a_package_that_does_not_exist_is_said_to_be_missing() -> None:
    """As by `import`."""
    with pytest.raises(ModuleNotFoundError, match="no_such_package") as failure:
        register_lazy_packages("no_such_package")

    assert failure.value.name == "no_such_package"
