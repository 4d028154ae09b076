"""Generated files of the chart are up to date."""

from typing import Any

import pytest
import yaml

from tools.chart_files import CHART, files
from tools.values_reference import reference


@pytest.mark.parametrize("path", files())
def test_generated_files_are_fresh(path: str) -> None:
    """The file equals what the program generates."""
    assert (CHART / path).read_text() == files()[path], "stale: run make generate"


def test_the_readme_documents_every_value() -> None:
    """Each value has a row, and a value without a comment is an error."""
    rows = (CHART / "README.md").read_text().splitlines()

    names = {row.split("`")[1] for row in rows if row.startswith("| `")}
    assert {"image.repository", "nats.credentials.apply.secretName", "autoscaling.keda.account"} <= names
    for name in names:
        node: Any = yaml.safe_load((CHART / "values.yaml").read_text())
        for part in name.split("."):
            assert part in node, name
            node = node[part]
    with pytest.raises(ValueError, match=r"no comment above: a\.c"):
        reference("a:\n  # Said.\n  b: 1\n  c: 2\n")
