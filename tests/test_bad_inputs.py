"""Three hundred generated mistakes over all commands: each is one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import os
import random
import subprocess
import zipfile
from pathlib import Path

import click
import numpy as np
import PIL.Image
import pytest
import warm_python
from bad_inputs import NUMBER_OF_CASES, WORKING, Case, command_line, make_cases, png
from click.testing import CliRunner
from network_file_helpers import generator, snapshot
from other_host import in_host_of

from ssn_plugin import from_stylegan2
from training.formats import network_export

pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).resolve().parent.parent
SEED = 5
MODULES = dict(plugin="ssn_plugin.cli", reference="ssn_plugin.cli")  # "reference": its commands in another host
SCRIPTS = ("train", "generate", "dataset_tool", "calc_metrics", "legacy", "projector", "style_mixing")


def command_object(command: str) -> click.Command:
    """The click command of a name such as `train`, `calc_metrics report` or `plugin transfer`."""
    script, _, sub = command.partition(" ")
    main = importlib.import_module(MODULES.get(script, script)).main
    with in_host_of(command):
        return main.get_command(click.Context(main), sub) if sub else main


def run(command: str, args: list[str]):
    """Result of the command line in this process. Exceptions other than the end of the command are raised here."""
    script, _, sub = command.partition(" ")
    main = importlib.import_module(MODULES.get(script, script)).main
    with in_host_of(command):
        result = CliRunner().invoke(main, [*([sub] if sub else []), *args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder of tiny files that work."""
    folder = tmp_path_factory.mktemp("good")
    rng = random.Random(0)
    (folder / "images").mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for i in range(4):
            (folder / "images" / f"{i}.png").write_bytes(png(rng))
            archive.writestr(f"{i}.png", (folder / "images" / f"{i}.png").read_bytes())
    PIL.Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "mask.png")
    plain = snapshot(generator())
    plain["training_set_kwargs"] = dict(class_name="training.dataset.ImageFolderDataset", path=str(folder / "images"))
    network_export.save_networks(plain, folder / "plain.pkl")
    network_export.save_networks(snapshot(generator(c_dim=3)), folder / "labelled.pkl")
    networks, _ = from_stylegan2.transfer_networks(plain, [[2, 2]])
    network_export.save_networks(networks, folder / "ssn.pkl")
    run("generate", [f"--network={folder / 'ssn.pkl'}", "--seeds=3", "--resample-block=0,1", "--variants=2",
                     f"--outdir={folder / 'edit'}"])
    (folder / "edit" / "seed0003-recipe.json").rename(folder / "recipe.json")
    line = dict(results=dict(fid50k=9.0), metric="fid50k", snapshot_pkl="network-snapshot-000001.pkl", provenance={})
    for name in ("fid50k", "again"):
        (folder / f"metric-{name}.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def all_cases() -> list[tuple[str, int]]:
    return [(command, i) for command, count in NUMBER_OF_CASES.items() for i in range(count)]


def make_case(command: str, number: int, folder: Path, good: Path) -> Case:
    wrong = make_cases(command, command_object(command).params, SEED)[number]
    return command_line(command, wrong, random.Random(f"{SEED} {command} {number}"), folder, good)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_over_three_hundred_and_every_command_is_among_them():
    assert len(all_cases()) == 308
    assert {command.split()[0] for command in NUMBER_OF_CASES} == {*SCRIPTS, *MODULES}
    plugin = importlib.import_module("ssn_plugin.cli").main.commands
    assert {f"plugin {name}" for name in plugin} <= set(NUMBER_OF_CASES)


@pytest.mark.parametrize("command", NUMBER_OF_CASES)
def test_the_command_works_before_something_is_made_wrong(command, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(command, command_line(command, {}, random.Random(0), tmp_path, good).args)
    # Their exit code also tells whether results may be compared, and whether the machine will do.
    assert result.exit_code in ((0, 1) if command.endswith(("report", "doctor")) else (0,)), result.output


@pytest.mark.parametrize(("command", "number"), all_cases())
def test_a_mistake_is_one_line_and_leaves_nothing_behind(command, number, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    case = make_case(command, number, tmp_path, good)
    before = files_below(tmp_path)
    result = run(command, case.args)
    assert result.exit_code == 2, f"{case.what}: {result.output}"
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, f"{case.what}: {result.stderr}"
    assert "Traceback" not in result.output, f"{case.what}: {result.stderr}"
    assert len(result.stderr) < 1000, f"{case.what}: {result.stderr}"
    assert files_below(tmp_path) == before, case.what


def test_the_good_files_were_not_touched(good):
    images = {f"{i}.png" for i in range(4)}
    assert {path.name for path in (good / "images").iterdir()} == images
    assert not (good / "out").exists()


def run_script(command: str, args: list[str], folder: Path) -> subprocess.CompletedProcess:
    """The command line in a process of its own, which must end with one line."""
    script, _, sub = command.partition(" ")
    words = ["-m", "ssn_plugin", sub] if script == "plugin" else [str(ROOT / f"{script}.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = warm_python.run([*words, *args], cwd=folder, env=env, timeout=120)
    assert result.returncode == 2, f"{args}: {result.stderr}"
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, f"{args}: {result.stderr}"
    return result


@pytest.mark.parametrize("command", [*SCRIPTS, "plugin transfer"])
def test_so_it_is_in_a_process_of_its_own(command, good, tmp_path):
    run_script(command, make_case(command, 0, tmp_path, good).args, tmp_path)


def test_a_damaged_image_ends_a_run_in_one_line_and_every_file_is_whole(tmp_path):
    rng = random.Random(0)
    (tmp_path / "images").mkdir()
    for i in range(8):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(rng)[: 100 if i == 5 else None])
    args = ["--outdir=runs", "--data=images", "--cfg=ssn", "--blocks=2x2", "--block-dim=8", "--channels=8", "--batch=4",
            "--kimg=1", "--metrics=none", "--gpus=0", "--workers=1", "--snap=1"]
    result = run_script("train", args, tmp_path)
    assert "images: cannot read 5.png" in result.stderr
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "training_options.json").read_text())["batch_size"] == 4
    assert not any(path.name.startswith(".tmp") for path in run_dir.rglob("*"))
    for path in run_dir.glob("*.png"):
        PIL.Image.open(path).load()


def test_every_command_has_a_line_that_works():
    assert WORKING.keys() == NUMBER_OF_CASES.keys()
