"""The wheel: what it holds, and that it works in an empty environment, far from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import ssn_plugin
from ssn_plugin import cli

ROOT = Path(__file__).resolve().parent.parent
HOST = ("dnnlib", "metrics", "torch_utils", "training")
SCRIPTS = [path.name for path in ROOT.glob("*.py") if path.name != "setup.py"]
MAX_FILE_BYTES = 6_000_000


def run(command: list[str], cwd: Path, exit_code: int = 0) -> subprocess.CompletedProcess:
    """The command, with nothing of this checkout on its path."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
    assert result.returncode == exit_code, result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built without a network from a copy of the files that it is made of."""
    pytest.importorskip("setuptools", minversion="77.0.3")
    folder = tmp_path_factory.mktemp("build")
    for name in ("ssn_plugin", "models", *HOST):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md", *SCRIPTS):
        shutil.copy(ROOT / name, folder)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('dist'))"
    run([sys.executable, "-c", build], folder)
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The folder of commands of a fresh environment with the wheel, which sees the dependencies of this one."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    paths = {key: sysconfig.get_path(key, vars=dict(base=str(folder))) for key in ("purelib", "scripts")}
    Path(paths["purelib"], "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    Path(paths["purelib"], "training.py").write_text("raise RuntimeError('of another package')\n")
    python = str(Path(paths["scripts"], "python"))
    install = ["install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    run([sys.executable, "-m", "pip", "--python", python, *install, str(wheel)], folder)
    return Path(paths["scripts"])


def test_the_wheel_holds_every_module_and_the_demo_networks_below_one_name(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ssn_plugin").rglob("*.py")}
    modules |= {f"ssn_plugin/_host/{path.relative_to(ROOT)}" for name in HOST for path in (ROOT / name).rglob("*.py")}
    modules |= {f"ssn_plugin/_host/{name}" for name in SCRIPTS}
    models = {f"ssn_plugin/_host/models/{path.name}" for path in (ROOT / "models").iterdir()}
    folders = (ROOT / "ssn_plugin" / "editor" / "static", ROOT / "ssn_plugin" / "exporting" / "page")
    page = {str(path.relative_to(ROOT)) for folder in folders for path in folder.iterdir()}
    assert names == modules | models | page


def test_no_file_of_the_wheel_is_large(wheel):
    sizes = {item.filename: item.file_size for item in zipfile.ZipFile(wheel).infolist()}
    assert max(sizes.values()) < MAX_FILE_BYTES


def test_far_from_the_checkout_a_block_of_the_demo_network_is_redrawn_as_it_is_here(environment, tmp_path):
    command = ["generate", "--network=demo:castles64", "--seeds=4", "--resample-block=1,2", "--variants=2"]
    printed = run([str(environment / "ssn"), *command, "--outdir=out", "--device=cpu"], tmp_path).stdout
    assert "To keep an image and go on: ssn generate --network=demo:castles64" in printed
    image = ssn_plugin.open("demo:castles64", device="cpu").image(seed=4)
    there = np.asarray(PIL.Image.open(tmp_path / "out" / "seed0004-v02.png"))
    np.testing.assert_array_equal(there, image.redraw("1,2", variants=2).pick(2).pixels)


def test_every_command_starts(environment, tmp_path):
    commands = ["", *cli.SCRIPTS, *cli.main.commands]
    script = "import sys; from ssn_plugin.cli import console\n" \
             "for command in sys.argv[1].split(','):\n" \
             "    sys.argv = ['ssn', *command.split(), '--help']\n" \
             "    try: console()\n" \
             "    except SystemExit as end: assert end.code == 0\n"
    printed = run([str(environment / "python"), "-c", script, ",".join(commands)], tmp_path).stdout
    assert re.findall(r"^Usage: (ssn ?\w*) \[", printed, re.MULTILINE) == ["ssn", *(f"ssn {c}" for c in commands[1:])]


def test_its_modules_are_imported_and_its_networks_read_by_name(environment, tmp_path):
    script = """import sys, ssn_plugin
assert "torch" not in sys.modules
sys.path.insert(0, ssn_plugin.HOST_DIR)  # before the `training` of another package
import legacy
from ssn_plugin.networks import SSNGenerator
with open(sys.argv[1], "rb") as file:
    G = legacy.load_network_pkl(file)["G_ema"]
assert isinstance(G, SSNGenerator), type(G)
print(ssn_plugin.__file__)
"""
    network = str(ROOT / "models" / "castles64.pkl")
    printed = run([str(environment / "python"), "-c", script, network], tmp_path).stdout
    assert Path(printed.strip()).is_relative_to(environment.parent)


def test_a_folder_with_another_training_package_is_taken_for_another_host(environment, tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    result = run([str(environment / "python"), "-m", "ssn_plugin", "generate", "--help"], tmp_path, exit_code=2)
    assert result.stderr.startswith("Error: ssn_plugin works inside a StyleGAN2-ADA checkout")
    assert result.stderr.endswith("training.networks\n") and result.stderr.count("\n") == 1
