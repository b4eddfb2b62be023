"""Demo models: what lies in models/, the name `demo:NAME` in every command, and the script that makes one."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from network_file_helpers import assert_same_tensors, discriminator, generator, snapshot
from tiny_run import write_zip

import calc_metrics
import demo
import dnnlib
import generate
import legacy
import projector
import style_mixing
import train
from benchmarks import demo_model
from metrics import metric_main
from metrics.content_hash import hash_state
from ssn_plugin import cli as plugin
from ssn_plugin import from_stylegan2
from training.formats import network_export, network_names
from training.network_files import load_networks
from training.plugins import import_metrics
from training.run import run_folders
from training.run.resuming import resume_networks

MODELS = Path(__file__).resolve().parent.parent / "models"
NAME = "demo:castles64"


def run(command, *args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def networks():
    """An SSN of 2x2 blocks for 16x16 images."""
    plain = snapshot(generator(resolution=16), discriminator(resolution=16))
    return from_stylegan2.transfer_networks(plain, [[2, 2]])[0]


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty folder in the place of models/, inside the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network_names, "MODELS_DIR", tmp_path / "models")
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def castles64(models, networks):
    """A demo model and its card."""
    network_export.save_networks(demo_model.strip(networks), models / "castles64.pkl")
    (models / "castles64.md").write_text("# castles64: Castles for tests\n")
    return models / "castles64.pkl"


# What lies in models/.


def test_every_model_has_a_card_and_every_card_a_model():
    assert {path.stem for path in MODELS.glob("*.md")} == {path.stem for path in MODELS.glob("*.pkl")}


def test_every_model_is_small():
    assert [path.name for path in MODELS.glob("*") if path.stat().st_size > demo_model.MAX_BYTES] == []


@pytest.mark.parametrize("name", network_names.demo_models())
def test_every_model_loads_without_trust_and_its_card_names_its_hash(name):
    networks = load_networks(name)
    assert networks["D"] is not None and networks["training_set_kwargs"] is None
    path = network_names.demo_models()[name]
    assert dnnlib.util.hash_file(path) in path.with_suffix(".md").read_text()


def test_a_redraw_of_the_castles_in_the_readme_changes_the_block_and_little_else(tmp_path):
    result = run(generate.main, f"--network={NAME}", "--seeds=4", "--resample-block=1,2", "--variants=1",
                 f"--outdir={tmp_path}")
    assert result.exit_code == 0, result.output
    (ratio,) = re.findall(r"inside .*, outside .*, ratio ([\d.]+)", result.stdout)
    assert float(ratio) > 10


# Names.


def test_a_demo_model_is_found_from_any_folder(castles64, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert network_names.resolve_network(NAME) == str(castles64)
    assert network_names.licence_of(NAME) == "see its card, models/castles64.md"


COMMANDS = {
    "generate": (generate.main, ["--network={}", "--seeds=1", "--outdir=out"]),
    "calc_metrics": (calc_metrics.main, ["--network={}", "--metrics=ssn_distortion2", "--gpus=0", "--json"]),
    "projector": (projector.main, ["--network={}", "--target=x.png", "--loss=mse", "--num-steps=1", "--candidates=2",
                                   "--save-video=0", "--outdir=out"]),
    "style_mixing": (style_mixing.main, ["--network={}", "--rows=1", "--cols=2", "--styles=0", "--outdir=out"]),
    "legacy": (legacy.main, ["--source={}", "--dest=out.pkl"]),
    "train": (train.main, ["--resume={}", "--outdir=out", "--data=photos.zip", "--gpus=0", "--metrics=none",
                           "--cfg=ssn", "--dry-run"]),
    "plugin generate": (plugin.main, ["generate", "--network={}", "--seeds=1", "--outdir=out"]),
    "plugin metrics": (plugin.main, ["metrics", "--network={}", "--metrics=ssn_distortion2"]),
    "plugin convert": (plugin.main, ["convert", "{}", "out.pkl"]),
    "plugin transfer": (plugin.main, ["transfer", "{}", "out.pkl"]),
    "plugin train": (plugin.main, ["train", "--resume={}", "--outdir=out", "--data=photos.zip", "--gpus=0",
                                   "--metrics=none", "--cfg=ssn", "--dry-run"]),
}


def command_line(command, network):
    main, args = COMMANDS[command]
    return main, [arg.format(network) for arg in args]


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"plugin transfer"}))
def test_every_command_takes_a_demo_model(command, castles64, tmp_path):
    write_zip(tmp_path / "photos.zip", num=4, size=16)
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    main, args = command_line(command, NAME)
    result = run(main, *args)
    assert result.exit_code == 0, result.output
    if "train" in command:
        assert json.loads(result.stdout)["resume_pkl"] == str(castles64)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_an_unknown_demo_model_with_one_line_that_lists_the_known(command, castles64, tmp_path):
    write_zip(tmp_path / "photos.zip", num=4, size=16)
    main, args = command_line(command, "demo:../castles")
    result = run(main, *args)
    assert result.exit_code == 2
    assert result.stderr == "Error: demo model must be one of demo:castles64, got demo:../castles\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_lists_the_known_names(command, castles64):
    main, args = command_line(command, "help")
    network_only = [arg for arg in args if "help" in arg]
    result = run(main, *([args[0]] if command.startswith("plugin ") else []), *network_only)
    assert result.exit_code == 0, result.output
    assert "  demo:castles64  Castles for tests\n" in result.stdout and "  ffhq256 " in result.stdout


def test_without_models_the_list_leaves_them_out_and_a_demo_name_is_refused(models):
    models.rmdir()
    assert "demo" not in network_names.network_help().lower()
    with pytest.raises(ValueError, match=r"^demo model needs a file in .*models, which has none, got demo:castles64$"):
        network_names.resolve_network(NAME)


def test_a_run_that_starts_from_a_demo_model_is_named_after_it_without_a_colon(castles64, tmp_path):
    write_zip(tmp_path / "photos.zip", num=4, size=16)
    desc, args = train.setup_training_loop_kwargs(data="photos.zip", resume=NAME, metrics=[], gpus=0)
    assert desc == "photos-auto1-resumedemo-castles64"
    assert args.resume_pkl == str(castles64) and args.ada_kimg == 100


def test_results_of_a_demo_model_never_land_in_the_run_of_the_current_folder(castles64, tmp_path):
    (tmp_path / "training_options.json").write_text("{}")
    result = run(calc_metrics.main, f"--network={NAME}", "--metrics=ssn_distortion2", "--gpus=0")
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.glob("metric-*"))


# Use.


def test_a_demo_model_can_be_read_by_ordinary_unpickling(castles64, networks):
    trusted = load_networks(NAME, trust=True)
    assert_same_tensors(trusted["G_ema"], networks["G_ema"])
    assert trusted["G"] is trusted["G_ema"], "it is in the file once"


def test_a_block_of_a_demo_model_is_redrawn_as_with_its_snapshot(castles64, networks, tmp_path):
    network_export.save_networks(networks, tmp_path / "snapshot.pkl")
    for name, network in [("demo", NAME), ("snapshot", "snapshot.pkl")]:
        args = [f"--network={network}", "--seeds=3", "--resample-block=1,1", "--variants=2", f"--outdir={name}"]
        result = run(generate.main, *args)
        assert result.exit_code == 0, result.output
        assert ("--network=demo:castles64" in result.stdout) == (name == "demo"), "the next step names it"
    for image in ("seed0003.png", "seed0003-v02.png"):
        # Their recipes, which the files carry, name the network in different words.
        pixels = [PIL.Image.open(tmp_path / folder / image).tobytes() for folder in ("demo", "snapshot")]
        assert pixels[0] == pixels[1]


@pytest.mark.parametrize("people", [True, False])
def test_the_demo_redraws_with_what_comes_along_and_then_trains(people, castles64, networks, tmp_path, monkeypatch):
    if people:
        shutil.copy(castles64, castles64.with_name("avatars64.pkl"))
    trained = tmp_path / "demo" / "run" / "network-snapshot-000001.pkl"
    trained.parent.mkdir(parents=True)
    network_export.save_networks(networks, trained)
    for name in ("HAIR", "TOWER"):  # this test's models have 2x2 blocks
        monkeypatch.setattr(demo, name, getattr(demo, name)._replace(blocks="1,1"))
    monkeypatch.setattr(demo, "draw_castles", lambda folder, seed: folder / "castles.zip")
    monkeypatch.setattr(demo, "train_network", lambda *args: print("TRAINS") or trained)
    result = run(demo.main)
    assert result.exit_code == 0, result.output
    before, after = result.stdout.split("TRAINS")
    sheet = Path("demo/tower/seed0004-sheet.png")
    assert sheet.exists() and f"Contact sheet: {sheet}" in before
    assert Path("demo/hair/seed0001-sheet.png").exists() == people
    assert after.rstrip().endswith(f"Compare {sheet} with {trained.parent}/images/seed0004-sheet.png")


def test_training_goes_on_from_a_demo_model(castles64, networks):
    blank = {key: copy.deepcopy(networks[key]) for key in ("G", "D", "G_ema")}
    for module in blank.values():
        for parameter in module.parameters():
            parameter.zero_()
    resume_networks(NAME, blank)
    for key, source in (("G", "G_ema"), ("D", "D"), ("G_ema", "G_ema")):
        assert_same_tensors(blank[key], networks[source])


# Making one.


@pytest.fixture
def finished_run(networks, models, tmp_path):
    """Folder of a run with a snapshot at 2 kimg, its statistics, and a measurement of it."""
    folder = tmp_path / "run"
    import_metrics()
    write_zip(tmp_path / "photos.zip", num=4, size=16)
    _, args = train.setup_training_loop_kwargs(
        data="photos.zip", cfg="ssn", gpus=0, metrics=[], kimg=2, distortion_weight=30.0, seed=7)
    folder.mkdir()
    run_folders.record(args, str(folder))
    network_export.save_networks(
        {**networks, "training_set_kwargs": dict(path="/home/me/photos.zip")}, folder / "network-snapshot-000002.pkl")
    ticks = [{name: dict(num=1, mean=float(value), std=0.0) for name, value in (
        ("Progress/kimg", kimg), ("Timing/total_sec", 70 * kimg))} for kimg in (0.032, 2.016, 3.0)]
    (folder / "stats.jsonl").write_text("".join(f"{json.dumps(tick)}\n" for tick in ticks))
    cpu = torch.device("cpu")
    result = metric_main.calc_metric("ssn_distortion2", G=networks["G_ema"], dataset_kwargs={}, device=cpu)
    metric_main.report_metric(result, run_dir=str(folder), snapshot_pkl=str(folder / "network-snapshot-000002.pkl"))
    return folder


def make(folder, *args):
    return run(demo_model.main, f"--network={folder / 'network-snapshot-000002.pkl'}", "--name=tiny", "--title=Noise",
               "--licence=CC0", "--command=python train.py --kimg=2", *args)


def test_a_demo_model_keeps_weights_but_neither_the_path_of_the_data_nor_a_second_generator(finished_run, networks):
    assert make(finished_run).exit_code == 0
    made = load_networks("demo:tiny")
    for key, source in (("G", "G_ema"), ("G_ema", "G_ema"), ("D", "D")):
        assert_same_tensors(made[key], networks[source])
    assert made["training_set_kwargs"] is None and made["augment_pipe"] is None
    data = network_names.demo_models()["demo:tiny"].read_bytes()
    assert b"/home/me" not in data
    one_generator = sum(value.nbytes for value in networks["G"].state_dict().values())
    assert len(data) < (finished_run / "network-snapshot-000002.pkl").stat().st_size - one_generator


def test_the_card_takes_its_numbers_from_the_files_of_the_run(finished_run, models):
    assert make(finished_run, "--hardware=An abacus", "--limits=It shows noise only.").exit_code == 0
    card = (models / "tiny.md").read_text()
    result = json.loads((finished_run / "metric-ssn_distortion2.jsonl").read_text())
    for words in (
        "# tiny: Noise\n", "| Latent grid | 2x2 |", "| Licence | CC0 |", "`photos.zip`: 4 images of 16x16 pixels,",
        "| Images seen | 2 thousand, ", "| Time | 2m 21s, 70 s for a thousand images |", "distortion (lambda) 30, ",
        "| Hardware | An abacus |", "| Random seed | 7 |", "    python train.py --kimg=2\n", " It shows noise only.\n",
        f"{result['results']['ssn_distortion2']:.5g}", "- `ssn_distortion2`: seed 0", "--network=demo:tiny",
        dnnlib.util.hash_file(models / "tiny.pkl"),
    ):
        assert words in card, words
    assert "up to" not in card, "without a reward there is nothing to cap"
    assert "demo:tiny  Noise" in network_names.network_help()


def test_the_card_shows_the_first_seeds(finished_run, models):
    assert make(finished_run, f"--samples={models.parent / 'samples.png'}").exit_code == 0
    assert "![Seeds 0 to 19](../samples.png)" in (models / "tiny.md").read_text()
    page = PIL.Image.open(models.parent / "samples.png")
    assert page.size == (10 * 16 * 2, 2 * 16 * 2)


def test_of_the_results_only_the_newest_of_these_weights_count(finished_run, networks):
    path = finished_run / "metric-ssn_distortion2.jsonl"
    line = json.loads(path.read_text())
    foreign = dict(line, provenance=dict(line["provenance"], network="0" * 64), timestamp=2e9)
    newer = dict(line, results=dict(ssn_distortion2=0.5), timestamp=line["timestamp"] + 1)
    path.write_text("".join(f"{json.dumps(item)}\n" for item in (newer, line, foreign)))
    (found,) = demo_model.results_of(networks["G_ema"], [finished_run])
    assert found["results"] == dict(ssn_distortion2=0.5)
    assert found["provenance"]["network"] == hash_state(networks["G_ema"])


@pytest.mark.parametrize(("args", "message"), [
    (["--name=../x"], "--name must consist of small letters, digits and hyphens, got ../x"),
    (["--title=two\nlines"], "--title must be a line of at most 80 letters, got 'two\\nlines'"),
    (["--results=."], ".: no metric-*.jsonl has a result of this network; calc_metrics.py --outdir=DIR makes them, "
                      "--results=DIR names their folder"),
])
def test_what_makes_no_demo_model_is_one_line_and_leaves_nothing(finished_run, models, args, message):
    result = make(finished_run, *args)
    assert result.exit_code == 2 and result.stderr == f"Error: {message}\n"
    assert list(models.iterdir()) == []


def test_a_model_that_is_too_large_leaves_the_earlier_one(finished_run, models, monkeypatch):
    (models / "tiny.pkl").write_bytes(b"earlier")
    monkeypatch.setattr(demo_model, "MAX_BYTES", 10_000)
    result = make(finished_run)
    assert result.exit_code == 2 and "must have at most 10,000 bytes" in result.stderr
    assert [(path.name, path.read_bytes()) for path in models.iterdir()] == [("tiny.pkl", b"earlier")]


def test_naming_networks_does_not_wait_for_torch():
    script = "import sys, training.formats.network_names as n; n.network_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=MODELS.parent).returncode == 0
