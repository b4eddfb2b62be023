"""The examples of docs/python.md and the notebook run as they stand, in order; training is cut short."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from click.testing import CliRunner
from network_file_helpers import discriminator, generator, snapshot

import dataset_tool
import ssn_plugin
from training import config
from training.formats import network_export
from training.images import projection

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "python.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def short(monkeypatch):
    """A search takes two steps, and training a single one of a slim network."""
    options = projection.ProjectionOptions
    monkeypatch.setattr(projection, "ProjectionOptions", lambda num_steps, **others: options(2, 4, **others))
    full = config.setup_training_loop_kwargs

    def shortened(**options):
        desc, args = full(**options, gpus=0, batch=8, channels=8, block_dim=8, workers=1)
        args.update(total_kimg=0.008, preview_size=[2, 2])
        return desc, args

    monkeypatch.setattr(config, "setup_training_loop_kwargs", shortened)


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch, short):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        dataset_tool.main, ["--source=castles", "--dest=castles.zip", "--max-images=8", "--resolution=16x16"])
    assert result.exit_code == 0, result.output
    source = snapshot(generator(resolution=16), discriminator(resolution=16))
    network_export.save_networks(source, tmp_path / "stylegan2.pkl")
    PIL.Image.new("RGB", (80, 60), "navy").save("photo.png")
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(example, names)
    assert len(EXAMPLES) == 9
    written = {path.name for path in tmp_path.iterdir()}
    assert {"castle.png", "edits.json", "edited.png", "ssn.pkl", "ssn-onnx", "training-runs"} <= written
    assert names["img"].shape == (1, 3, 16, 16)


def test_the_notebook_runs_from_its_first_cell_to_the_last(tmp_path, monkeypatch):
    """Its cells are plain Python, so no kernel is needed; the value of a last line is what a notebook would show."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs" / "redraw.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        body = ast.parse(cell).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        shown.append(None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    assert [value.size for value in shown if isinstance(value, PIL.Image.Image)] == [(1152, 192)] * 2 + [(384, 192)]
    assert shown[-1]["ssn_distortion50"] > 0 and (tmp_path / "castle.png").exists()
    assert all(not cell.get("outputs") for cell in notebook["cells"]), "generated data stays out of the repository"


def test_every_extra_and_every_package_has_its_row_and_its_licence():
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML parser of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = re.findall(r"^\| `?(\w+)`? \| .* \| (.*) \|$", TEXT.partition("## Extras")[2], re.MULTILINE)
    listed = {extra: set(re.findall(r"([\w-]+) \([^)]+\)", packages)) for extra, packages in rows[1:]}
    declared = {"none": project["dependencies"], **project["optional-dependencies"]}
    del declared["all"], declared["dev"]
    assert listed == {extra: {re.split("[>=]", name)[0] for name in names} for extra, names in declared.items()}


def test_everything_that_is_offered_is_in_the_examples():
    text = TEXT
    functions = [name for name in ssn_plugin.__all__ if name[0].islower()]
    assert functions == ["export", "from_pretrained", "measure", "open", "project", "push_to_hub", "train", "transfer"]
    assert all(f"ssn_plugin.{name}(" in text for name in functions)
