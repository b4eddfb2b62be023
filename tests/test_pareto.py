"""benchmarks/pareto.py: the comparison of training runs, its resumption, its tables and its sheets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import warm_python
from click.testing import CliRunner

from benchmarks import pareto, pareto_report, pareto_sheets
from ssn_plugin.distortion import block_mask

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--tiny", "--lambdas=0", "--train-options=--aug=noaug --channels=2 --block-dim=2 --batch=16 --workers=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty images of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.RandomState(0)
    for i in range(20):
        PIL.Image.fromarray(rng.randint(256, size=[8, 8, 3], dtype=np.uint8)).save(folder / f"{i}.png")
    return str(folder)


def run_pareto(*arguments):
    return warm_python.run([ROOT / "benchmarks" / "pareto.py", *arguments])


@pytest.fixture(scope="module")
def outdir(data, tmp_path_factory):
    """A finished comparison of the baseline with one SSN, as the command line makes it."""
    folder = tmp_path_factory.mktemp("pareto")
    result = run_pareto(f"--data={data}", f"--outdir={folder}", *TINY)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_tiny_comparison_makes_every_file_and_all_of_them_parse(outdir):
    results = json.loads((outdir / "results.json").read_text())
    by_variant = {point["variant"]: point for point in results["points"]}
    assert set(by_variant) == {"stylegan2", "lambda0"}
    for point in by_variant.values():
        assert point["finished"] and point["training_seconds"] > 0 and point["commit"] and point["machine"]
        assert [snapshot["kimg"] for snapshot in point["snapshots"]] == [1]
        for name in point["sheets"]["files"]:
            PIL.Image.open(outdir / point["folder"] / "sheets" / name).verify()
    assert {"rfid16_full", "rkid16_full", "swd16_full"} <= set(results["summary"]["stylegan2"])
    ssn = results["summary"]["lambda0"]
    assert ssn["locality"]["value"] == pytest.approx(ssn["diversity"]["value"] / ssn["distortion"]["value"])
    assert ssn["largest leak"]["value"] >= ssn["leak"]["value"] > 0
    assert set(by_variant["lambda0"]["sheets"]["border_step"]) == {"original", "redrawn", "pasted"}
    PIL.Image.open(outdir / "pareto.png").verify()


def test_the_page_holds_the_tables_of_the_paper(outdir):
    text = (outdir / "results.md").read_text()
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    for table in tables:
        assert len({line.count(" | ") for line in table.splitlines()}) == 1, "rows of one length"
    assert "are not FID" in text
    assert "| Baseline StyleGAN2 |" in tables[0] and tables[0].splitlines()[2].endswith("| no |")
    assert tables[1].splitlines()[3].startswith("| SSN, lambda 0 (no regularisation) |")
    assert "1-fold | +0% |" in tables[1]
    assert "--cfg=ssn-baseline" in tables[-1] and "--cfg=ssn --lambda=0" in tables[-1]


def test_the_same_command_repeats_nothing(outdir, data):
    before = {path: path.stat().st_mtime_ns for path in outdir.rglob("points/**/*") if path.is_file()}
    result = run_pareto(f"--data={data}", f"--outdir={outdir}", *TINY)
    assert result.returncode == 0 and "python" not in result.stdout
    assert before == {path: path.stat().st_mtime_ns for path in outdir.rglob("points/**/*") if path.is_file()}


def test_lite_adds_the_metrics_in_packaged_features(tmp_path):
    ssn = pareto.Point("lambda0", ("--cfg=ssn",), seed=0)
    plain, lite = (set(make_plan(tmp_path, lite=lite).metrics(ssn)) for lite in (False, True))
    assert {name.rstrip("0123456789_ful") for name in lite - plain} == {"fid_lite", "kid_lite", "ssn_stlpips"}
    scores = {name: 1.0 for name in lite} | {"ssn_stlpips32_outside": 0.1, "ssn_stlpips32_inside": 0.2}
    named = pareto_report.named_scores(scores)
    assert (named["ST-LPIPS outside"], named["ST-LPIPS inside"]) == (0.1, 0.2)
    assert {"fid_lite", "kid_lite"} <= {pareto_report.QUALITY.fullmatch(name)["name"] for name in named
                                        if pareto_report.QUALITY.fullmatch(name)}


class FakeWorkers:
    """Writes the files of the commands instead of running them; the command number `fail_at` fails."""

    def __init__(self, fail_at=None):
        self.commands: list[str] = []
        self.fail_at = fail_at

    def run(self, command, log):
        options = dict(part[2:].split("=", 1) for part in command[2:] if "=" in part)
        name = Path(command[1]).name
        self.commands.append(f"{name} {Path(options['network']).stem[-6:]}" if "network" in options else name)
        if len(self.commands) == self.fail_at:
            raise ValueError("no space left")
        getattr(self, name.removesuffix(".py"))(options)

    def train(self, options):
        folder = Path(options["outdir"])
        run = folder / f"{len(list(folder.glob('0*'))):05d}-run"
        run.mkdir(parents=True)
        (run / "training_options.json").write_text("{}")
        (run / "stats.jsonl").write_text(json.dumps({"Timing/total_sec": {"mean": 60}}) + "\n")
        for kimg in range(0, int(options["kimg"]) + 1, int(options["snap"])):
            (run / f"network-snapshot-{kimg:06d}.pkl").touch()

    def calc_metrics(self, options):
        folder = Path(options["outdir"])
        folder.mkdir(exist_ok=True)
        for name in options["metrics"].split(","):
            (folder / f"metric-{name}.jsonl").write_text(json.dumps({"results": {name: 1.5}}) + "\n")

    def pareto_sheets(self, options):
        folder = Path(options["outdir"])
        folder.mkdir(exist_ok=True)
        record = dict(network=Path(options["network"]).name, files=["samples.png"])
        (folder / "sheets.json").write_text(json.dumps(record))


def make_plan(tmp_path, **changes):
    settings = dict(data="cars.zip", outdir=tmp_path, kimg=10, snapshots=2, images=50, pairs=40, detectors=None,
                    gpus=None, threads=1, train_options=())
    return pareto.Plan(**{**settings, **changes})


POINT = pareto.Point("lambda5", ("--cfg=ssn", "--lambda=5"), 0)
STEPS = ["train.py", "calc_metrics.py 000005", "calc_metrics.py 000010", "pareto_sheets.py 000010"]


def test_every_snapshot_but_that_of_the_first_step_is_scored(tmp_path):
    workers = FakeWorkers()
    pareto.make_point(make_plan(tmp_path), POINT, workers)
    assert workers.commands == STEPS


def test_a_source_starts_every_point_and_an_interrupted_one_carries_on(tmp_path):
    plan = make_plan(tmp_path, source="/somewhere/stylegan2.pkl")
    assert "--resume=/somewhere/stylegan2.pkl" in pareto.train_command(plan, POINT)
    run = plan.folder(POINT) / "00000-run"
    run.mkdir(parents=True)
    (run / "training_options.json").write_text("{}")
    (run / "training-state-000005.pt").touch()
    commands = []

    class Recorder(FakeWorkers):
        def train(self, options):
            commands.append(options)

    with pytest.raises(ValueError, match="holds no snapshot of 10 kimg"):
        pareto.make_point(plan, POINT, Recorder())
    assert commands == [dict(outdir=str(run), kimg="10", snap="5")]


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_an_interrupted_point_goes_on_with_the_step_that_failed(tmp_path, fail_at):
    plan = make_plan(tmp_path)
    with pytest.raises(ValueError, match="no space left"):
        pareto.make_point(plan, POINT, FakeWorkers(fail_at))
    workers = FakeWorkers()
    pareto.make_point(plan, POINT, workers)
    assert workers.commands == STEPS[fail_at - 1:]
    again = FakeWorkers()
    pareto.make_point(plan, POINT, again)
    assert again.commands == []


def test_a_run_without_its_last_snapshot_is_not_finished(tmp_path):
    plan = make_plan(tmp_path)
    folder = plan.folder(POINT)
    FakeWorkers().train(dict(outdir=str(folder), kimg="7", snap="5"))
    assert pareto_report.finished_run(folder, 10) is None
    workers = FakeWorkers()
    pareto.make_point(plan, POINT, workers)
    assert workers.commands == STEPS
    assert pareto_report.finished_run(folder, 10).name == "00001-run"


def test_a_result_cut_short_is_measured_again_and_only_that(tmp_path):
    plan = make_plan(tmp_path)
    pareto.make_point(plan, POINT, FakeWorkers())
    network = plan.folder(POINT) / "00000-run" / "network-snapshot-000005.pkl"
    cut = pareto_report.scores_folder(network) / "metric-swd50_full.jsonl"
    cut.write_text(cut.read_text()[:10])
    assert pareto.missing_metrics(plan, POINT, network) == ["swd50_full"]
    assert "swd50_full" not in pareto_report.read_scores(cut.parent)


def test_snapshots_fall_on_ticks(tmp_path):
    for snapshots in (1, 2, 4, 20):
        command = pareto.train_command(make_plan(tmp_path, kimg=200, snapshots=snapshots), POINT)
        options = dict(part[2:].split("=", 1) for part in command[2:])
        assert float(options["tick"]) * int(options["snap"]) == 200 / snapshots


def test_a_point_made_with_other_options_is_not_mixed_in(tmp_path):
    pareto.claim(make_plan(tmp_path), POINT, "abc", "a machine")
    pareto.claim(make_plan(tmp_path, data="elsewhere/cars.zip"), POINT, "def", "a machine")
    with pytest.raises(ValueError, match=r"lambda5-seed0 was made with other options, .*: --batch=8$"):
        pareto.claim(make_plan(tmp_path, train_options=("--batch=8",)), POINT, "abc", "a machine")


def test_a_larger_budget_carries_on_and_a_smaller_one_is_refused(tmp_path):
    for kimg in (10, 20):
        plan, workers = make_plan(tmp_path, kimg=kimg), FakeWorkers()
        pareto.claim(plan, POINT, "abc", "a machine")
        pareto.make_point(plan, POINT, workers)
    assert workers.commands == ["train.py", "calc_metrics.py 000010", "calc_metrics.py 000020",
                                "pareto_sheets.py 000020"]
    with pytest.raises(ValueError, match="--kimg must be at least the 20 of .*lambda5-seed0, got 10"):
        pareto.claim(make_plan(tmp_path), POINT, "abc", "a machine")


def test_a_finished_point_keeps_the_commit_that_it_was_made_with(tmp_path):
    plan = make_plan(tmp_path)
    pareto.claim(plan, POINT, "abc", "a machine")
    pareto.claim(plan, POINT, "def", "a machine")
    pareto.make_point(plan, POINT, FakeWorkers())
    pareto.claim(plan, POINT, "ghi", "a machine")
    assert json.loads((plan.folder(POINT) / "point.json").read_text())["commit"] == "def"


def test_points_come_variant_by_variant_for_each_seed():
    points = pareto.make_points("0,1e4", "0,3", ["2x2: --blocks=2x2", "plus: --cfg=ssn-plus"], baseline=True)
    names = ["stylegan2", "lambda0", "lambda10000", "2x2", "plus"]
    assert [point.name for point in points] == [f"{name}-seed{seed}" for seed in (0, 3) for name in names]
    assert [point.is_ssn for point in points[:5]] == [False, True, True, True, True]
    assert points[3].options == ("--cfg=ssn", "--blocks=2x2") and points[4].options == ("--cfg=ssn-plus",)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--lambdas=1,x"], "--lambdas must be numbers with commas between, got 'x'"),
    (["--seeds=0.5"], "--seeds must be numbers with commas between, got '0.5'"),
    (["--lambdas=", "--no-baseline"], "nothing to train"),
    (["--kimg=3"], "--kimg must be a multiple of the 2 --snapshots, got 3"),
    (["--variant=2x2"], "--variant must be NAME: OPTIONS with a name of letters"),
    (["--variant=a/b: --blocks=2x2"], "--variant must be NAME: OPTIONS with a name of letters"),
    (["--variant=lambda1: --blocks=2x2"], "--variant must have a name of its own, got lambda1 twice"),
    (["--variant=p: --cfg ssn-plus"], "--variant must name its cfg as --cfg=NAME"),
    (["--variant=odd: --blocks=3x3"], "odd: grid 3x3 does not divide the 8x8 image"),
    (["--variant=odd: --blcoks=2x2"], "odd: No such option"),
])
def test_what_cannot_be_trained_is_refused_before_anything_is(data, tmp_path, arguments, message):
    result = CliRunner().invoke(pareto.main, [f"--data={data}", f"--outdir={tmp_path / 'out'}", *arguments])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_failed_command_is_named_with_its_last_line_and_its_log(tmp_path):
    program = tmp_path / "broken.py"
    program.write_text("print('first'); raise SystemExit('the disk is full')")
    with pareto.Workers(threads=1) as workers, pytest.raises(ValueError) as caught:
        workers.run([sys.executable, str(program)], tmp_path / "run.log")
    assert str(caught.value) == f"broken.py ended with code 1: the disk is full (see {tmp_path / 'run.log'})"


def test_one_point_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    def make_point(plan, point, workers):
        if point.variant == "lambda1":
            raise ValueError("diverged")
        FakeWorkers().train(dict(outdir=str(plan.folder(point)), kimg="10", snap="5"))

    monkeypatch.setattr(pareto, "make_point", make_point)
    points = pareto.make_points("0,1,2", "0", [], baseline=False)
    failures = pareto.make_points_in_parallel(make_plan(tmp_path), points, jobs=2)
    assert failures == {"lambda1-seed0": "diverged"}
    assert (tmp_path / "points" / "lambda2-seed0").is_dir()


def fake_point(variant, seed=0, **scores):
    is_ssn = variant != "stylegan2"
    return dict(variant=variant, seed=seed, is_ssn=is_ssn, finished=True, snapshots=[dict(kimg=10, scores=scores)])


def test_several_seeds_give_their_mean_and_their_range():
    points = [fake_point("lambda0", seed, rfid50_full=value, ssn_distortion40=0.5, ssn_distortion40_low=0.4)
              for seed, value in enumerate([1.0, 2.0, 6.0])]
    summary = pareto_report.summarise(points)["lambda0"]
    assert summary == {"rfid50_full": (3.0, 1.0, 6.0), "distortion": (0.5, 0.5, 0.5)}
    assert pareto_report.format_summary(summary["rfid50_full"]) == "3 (1 to 6)"


def test_one_seed_keeps_the_interval_of_the_metric():
    scores = dict(rfid50_full=7.0, ssn_distortion40=0.5, ssn_distortion40_low=0.4, ssn_distortion40_high=0.7)
    summary = pareto_report.summarise([fake_point("lambda0", **scores)])["lambda0"]
    assert summary["distortion"] == (0.5, 0.4, 0.7)
    assert pareto_report.format_summary(summary["rfid50_full"]) == "7"


def test_the_distortion_of_the_most_pairs_counts():
    scores = dict(ssn_distortion40=0.5, ssn_distortion2000=0.25, ssn_distortion40_diversity=0.75)
    assert pareto_report.named_scores(scores) == dict(distortion=0.25, diversity=0.75)


def test_changes_are_told_against_lambda_0():
    reference = pareto_report.summarise([fake_point("lambda0", rfid50_full=4.0, ssn_distortion40=0.26)])["lambda0"]
    other = pareto_report.summarise([fake_point("lambda9", rfid50_full=5.0, ssn_distortion40=0.04)])["lambda9"]
    assert pareto_report.against_lambda_0(other, reference) == ("6.5-fold", "+25%")
    baseline = pareto_report.summarise([fake_point("stylegan2", rfid50_full=3.0)])["stylegan2"]
    assert pareto_report.against_lambda_0(baseline, reference) == ("-", "-25%")


def test_the_table_goes_from_the_baseline_over_rising_lambdas_to_the_other_variants():
    points = [fake_point(variant) for variant in ["ssn-plus", "lambda10", "lambda9", "stylegan2", "lambda1e+06"]]
    ordered = [point["variant"] for point in sorted(points, key=pareto_report.sort_key)]
    assert ordered == ["stylegan2", "lambda9", "lambda10", "lambda1e+06", "ssn-plus"]


def test_the_border_of_a_pasted_block_is_its_step():
    before = torch.zeros([1, 3, 8, 8])
    resampled = block_mask(torch.tensor([5]), [4, 4], 8, 8)       # inside the image: eight pairs of neighbours
    after = before + 1
    assert pareto_sheets.border_step(after, resampled).item() == 0
    pasted = pareto_sheets.paste(before, 3 * after, torch.tensor([5]), (4, 4))
    assert pasted.sum().item() == 3 * 3 * 4
    assert pareto_sheets.border_step(pasted, resampled).item() == pytest.approx(9)


def test_a_region_without_a_border_has_no_step():
    everything = torch.ones([2, 4, 4], dtype=torch.bool)
    assert torch.equal(pareto_sheets.border_step(torch.randn(2, 3, 4, 4), everything), torch.zeros(2))


def test_a_sheet_shows_several_blocks_all_over_the_grid():
    blocks = {pareto_sheets.spread_block(number, (4, 4)) for number in range(8)}
    assert len(blocks) == 8 and {block // 4 for block in blocks} == {block % 4 for block in blocks} == {0, 1, 2, 3}


def test_outlined_images_stand_where_their_row_and_column_are():
    rows = [[np.full([4, 4, 3], 10 * row + col, np.uint8) for col in range(2)] for row in range(3)]
    boxes = [(0, 0, 1, 1), (1, 2, 2, 3), (2, 1, 3, 2)]
    page = np.asarray(pareto_sheets.draw_sheet(rows, 8, boxes, outlined=(0, 1), captions=["a", "b"]))
    pitch = 4 * 8 + pareto_sheets.GAP
    for row in range(3):
        for col in range(2):
            corner = page[pareto_sheets.CAPTION + (row + 1) * pitch - pareto_sheets.GAP - 1, col * pitch + 31]
            assert corner.tolist() == [10 * row + col] * 3
