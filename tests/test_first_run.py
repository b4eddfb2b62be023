"""benchmarks/first_run.py: what the compared runs are called."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks import first_run


@pytest.fixture
def runs(tmp_path):
    """Folders of two runs, lambda 0 and 30."""
    folders = []
    for weight in (0.0, 30.0):
        folders.append(tmp_path / f"{weight:g}")
        folders[-1].mkdir()
        options = dict(loss_kwargs=dict(distortion_weight=weight))
        (folders[-1] / "training_options.json").write_text(json.dumps(options))
    return folders


@pytest.mark.parametrize(("options", "names"), [
    ([], ["lambda 0", "lambda 30"]), (["--labels=none,some"], ["none", "some"])])
def test_runs_are_called_by_their_labels_or_by_lambda(runs, monkeypatch, options, names):
    seen = {}
    monkeypatch.setattr(first_run, "print_table", lambda runs, *_: seen.update(runs))
    result = CliRunner().invoke(first_run.main, [*map(str, runs), *options])
    assert result.exit_code == 0 and seen == dict(zip(names, runs, strict=True))


@pytest.mark.parametrize("labels", ["one", "same,same", "a,b,c"])
def test_labels_that_do_not_tell_the_runs_apart_are_refused(runs, labels):
    result = CliRunner().invoke(first_run.main, [*map(str, runs), f"--labels={labels}"])
    assert result.exit_code == 2
    named = labels.replace(",", ", ")
    assert result.stderr == f"Error: --labels must name each of the 2 runs differently, got {named}\n"
