"""Promises of the repository itself: what is pinned, what is packaged, what must not be mentioned."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="needs the TOML parser of Python 3.11")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EMBEDDED = ["training/networks.py", "training/augment.py", "ssn_plugin/networks.py"]
PARTS_OF_EVERY_HOST = {"torch_utils.misc", "torch_utils.persistence"} | {
    f"torch_utils.ops.{name}"
    for name in ("bias_act", "conv2d_gradfix", "conv2d_resample", "fma", "grid_sample_gradfix", "upfirdn2d")
}


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def files_of_the_project() -> list[Path]:
    ignored = {".git", ".venv", ".venv-oldest", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis",
               "__pycache__"}
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [ROOT / line for line in listed.stdout.splitlines()]
    else:  # an unpacked archive
        paths = [p for p in ROOT.rglob("*") if not ignored & set(p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_every_dependency_is_pinned_once_within_its_range(python):
    declared = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    environment = {"python_version": python, "sys_platform": "linux"}
    pinned = [pin for pin in pins() if pin.marker is None or pin.marker.evaluate(environment)]
    assert len({pin.name for pin in pinned}) == len(pinned)
    versions = {pin.name: str(pin.specifier).removeprefix("==") for pin in pinned}
    for requirement in map(Requirement, declared):
        if requirement.name == PROJECT["name"]:  # the extra that names the others
            continue
        assert requirement.specifier.contains(versions[requirement.name]), requirement.name


def test_all_pins_are_exact():
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins())


def test_no_file_names_a_package_registry():
    hosts = re.compile(r"pypi\.(org|python)|pythonhosted|download\.pytorch|anaconda\.org|conda\.anaconda|registry\.npm")
    for path in files_of_the_project():
        if path != Path(__file__).resolve():
            assert not hosts.search(path.read_text(encoding="utf-8", errors="ignore")), path


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_sources_parse_on_python_3_8_and_import_only_what_every_host_has(name):
    """What another host may lack, it must do without: such an import is the body of a `try`."""
    tree = ast.parse((ROOT / name).read_text(), feature_version=(3, 8))
    guarded = {id(node) for attempt in ast.walk(tree) if isinstance(attempt, ast.Try) for node in attempt.body}
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in guarded:
            assert node.level == 0, "relative imports fail when the text is executed alone"
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name for name in imported if name.split(".")[0] not in {*sys.stdlib_module_names, "torch", "numpy", "scipy"}}
    assert own <= PARTS_OF_EVERY_HOST


def test_the_extra_all_names_every_extra_of_users():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == PROJECT["name"] and everything.extras == set(extras) - {"all", "dev"}
