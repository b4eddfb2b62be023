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
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"{name} is not there")
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports fail when the text is executed alone"
            imported.add(str(node.module).split(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"torch", "numpy", "scipy", "torch_utils"}
    assert not foreign


def test_every_folder_of_the_plugin_is_packaged_and_nothing_else():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "ssn_plugin").rglob("*.py")}
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(packages) == {".".join(folder.parts) for folder in folders}
