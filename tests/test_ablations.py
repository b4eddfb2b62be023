"""benchmarks/ablations.py: variants that train.py accepts, and the page about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import ablations, pareto
from training.data.castles import draw_castle

RUN = ["--train-options=--aug=noaug --channels=2 --block-dim=2", "--kimg=10"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("castles")
    draw_castle(0, 32).save(folder / "castle.png")
    return str(folder)


def finish(plan, points, jobs):
    """Write what the points would leave behind, without training them: the score of point i is i."""
    for number, point in enumerate(points):
        run = plan.folder(point) / "00000-run"
        scores = run / "scores-000010"
        scores.mkdir(parents=True)
        (run / "training_options.json").write_text("{}")
        (run / "network-snapshot-000010.pkl").touch()
        (run / "stats.jsonl").write_text(json.dumps({"Timing/total_sec": {"mean": 60 * number}}) + "\n")
        results = dict(rfid50_full=number, ssn_distortion40=0.5, ssn_distortion40_locality=2)
        (scores / "metric-rfid50_full.jsonl").write_text(json.dumps(dict(results=results)) + "\n")
    return {}


def compare(monkeypatch, data, outdir, *options, work=finish):
    monkeypatch.setattr(pareto, "make_points_in_parallel", work)
    return CliRunner().invoke(ablations.main, [f"--outdir={outdir}", f"--data={data}", *RUN, *options])


def test_train_accepts_every_variant_and_all_are_on_the_page(monkeypatch, data, tmp_path):
    result = compare(monkeypatch, data, tmp_path)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "ablations.md").read_text()
    for ablation in ablations.ABLATIONS.values():
        table = text.partition(f"## {ablation.question}\n\n")[2].partition("\n\n")[0].splitlines()[2:]
        assert [row.split(" | ")[0].strip("| ") for row in table] == list(ablation.variants)
        assert table[0].endswith(" | default | 0 | 0.5 | - | 2 |"), "the point that all share"
        assert all(options in row for row, options in zip(table, ablation.variants.values(), strict=True))


def test_the_page_is_about_the_others_where_one_failed(monkeypatch, data, tmp_path):
    def fail_at_the_last(plan, points, jobs):
        finish(plan, points[:-1], jobs)
        return {points[-1].name: "diverged"}

    result = compare(monkeypatch, data, tmp_path, "--only=grid", work=fail_at_the_last)
    assert result.exit_code == 2 and "1 of 3 points failed: grid-8x8-seed0" in result.stderr
    text = (tmp_path / "ablations.md").read_text()
    assert "| 2x2 |" in text and "| 8x8 |" not in text


def test_the_default_is_trained_once(data):
    names = ablations.variants_of(ablations.ABLATIONS)
    answers = sum(len(ablation.variants) for ablation in ablations.ABLATIONS.values())
    assert len(names) == answers - len(ablations.ABLATIONS) + 1
    assert [options for options in names.values() if not options] == [""]


def test_only_some_are_compared(monkeypatch, data, tmp_path):
    assert compare(monkeypatch, data, tmp_path, "--only=grid").exit_code == 0
    assert {path.name for path in Path(tmp_path, "points").iterdir()} == {
        "default-seed0", "grid-2x2-seed0", "grid-8x8-seed0"}
    assert (tmp_path / "ablations.md").read_text().count("## ") == 1


@pytest.mark.parametrize(("option", "message"), [
    ("--only=grid,depth", "--only must be some of encoder, styles, interval, grid, mixing, reduction, path-length, "
                          "warm-up, reward, got depth"),
    ("--lambdas=1", "--lambdas cannot be given, the ablations decide"),
    ("--variant=a: --blocks=2x2", "--variant cannot be given, the ablations decide"),
    ("--kimgs=1", "--kimgs"),
])
def test_what_cannot_be_compared_is_refused(monkeypatch, data, tmp_path, option, message):
    result = compare(monkeypatch, data, tmp_path / "out", option)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
