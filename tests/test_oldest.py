"""Promises of constraints-oldest.txt, which `make test-oldest` installs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

packaging_requirements = pytest.importorskip("packaging.requirements")
tomllib = pytest.importorskip("tomllib", reason="needs the TOML parser of Python 3.11")

ROOT = Path(__file__).resolve().parent.parent
NOT_NEEDED = {"mypy", "ruff", "ssn-plugin"}  # two check the code; the extra [all] names the project itself


def lower_bounds() -> dict[str, str]:
    """Package -> oldest version that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    requirements = [packaging_requirements.Requirement(text) for text in declared]
    return {req.name: str(req.specifier).removeprefix(">=") for req in requirements if req.name not in NOT_NEEDED}


def pins(python: str) -> dict[str, str]:
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = [packaging_requirements.Requirement(line) for line in lines if line and not line.startswith("#")]
    valid = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate({"python_version": python})]
    assert len({pin.name for pin in valid}) == len(valid), "a package is pinned twice"
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in valid)
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in valid}


@pytest.mark.parametrize("python", ["3.10", "3.11"])
def test_the_oldest_versions_are_the_lower_bounds_of_the_project(python):
    pinned = pins(python)
    for name, bound in lower_bounds().items():
        assert pinned[name] == bound or pinned[name] == f"{bound}.0", name
