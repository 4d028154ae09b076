"""Chart rendered by both Helm versions, once a session for each values file."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tools.chart import VALUES, render
from tools.get_helm import helm, pinned_helm
from tools.manifests import Manifest

Rendered = Mapping[str, list[Manifest]]
"""Manifests by the name of the file of values under `ci/`."""


@pytest.fixture(scope="session")
def binary() -> Path:
    """The Helm that `make chart` uses: no test here depends on which of both it is."""
    return helm()


@pytest.fixture(scope="session")
def helm_3() -> Path:
    """The pinned Helm 3."""
    return pinned_helm(3)


@pytest.fixture(scope="session")
def helm_4() -> Path:
    """The pinned Helm 4."""
    return pinned_helm(4)


@pytest.fixture(scope="session")
def rendered(binary: Path) -> Rendered:
    """Rendered manifests of every values file."""
    return {name: render(binary, name) for name in VALUES}
