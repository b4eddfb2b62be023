"""`python -m ssn_plugin` as commands: its own, those it brings for other hosts, and the scripts of this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from network_file_helpers import assert_same_networks, generator, snapshot

import legacy
from ssn_plugin import cli
from ssn_plugin.hosts import commands, host
from training.formats import network_export

ROOT = Path(__file__).resolve().parent.parent


def run(*args):
    result = CliRunner().invoke(cli.main, [str(arg) for arg in args])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def stylegan2(tmp_path):
    network_export.save_networks(snapshot(generator(resolution=16)), tmp_path / "stylegan2.pkl")
    return tmp_path / "stylegan2.pkl"


@pytest.fixture
def ssn(stylegan2, tmp_path):
    assert run("transfer", stylegan2, tmp_path / "ssn.pkl", "--blocks=2x2").exit_code == 0
    return tmp_path / "ssn.pkl"


def read(path):
    with open(path, "rb") as file:
        return legacy.load_network_pkl(file)


def pixels(path):
    return np.asarray(PIL.Image.open(path))


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_transfer_writes_an_ssn_and_lists_what_is_new(stylegan2, tmp_path, suffix):
    dest = tmp_path / f"out{suffix}"
    result = run("transfer", stylegan2, dest, "--blocks=4x2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"wrote {dest}" and "G_ema.synthesis.encoder.gate4 is new" in lines
    networks, source = read(dest), read(stylegan2)
    assert networks["G_ema"].block_grid == [[4, 2]]
    assert torch.equal(networks["D"].b16.conv0.weight, source["D"].b16.conv0.weight)
    z = torch.randn([1, 8])
    with torch.no_grad():
        pair = networks["G_ema"](z.repeat(1, 8), None), source["G_ema"](z, None)
    torch.testing.assert_close(*[img.mean() for img in pair], atol=0.1, rtol=0)  # fresh noise: about the same


def test_convert_goes_there_and_back(ssn, tmp_path):
    assert run("convert", ssn, tmp_path / "a.safetensors").exit_code == 0
    assert run("convert", tmp_path / "a.safetensors", tmp_path / "b.pkl").exit_code == 0
    assert_same_networks(read(tmp_path / "b.pkl"), read(ssn))
    assert (tmp_path / "a-card.md").exists()


def test_generate_redraws_and_goes_on_from_its_recipe(ssn, tmp_path, other_host):
    out, more = tmp_path / "out", tmp_path / "more"
    result = run("generate", f"--network={ssn}", "--seeds=3", "--resample-block=0,1", "--variants=2", f"--outdir={out}")
    assert result.exit_code == 0 and result.stdout.count("change inside") == 2
    recipe = out / "seed0003-recipe.json"
    result = run("generate", f"--network={ssn}", f"--recipe={recipe}", "--pick=2", f"--outdir={more}")
    assert result.exit_code == 0
    np.testing.assert_array_equal(pixels(more / "seed0003-edit1.png"), pixels(out / "seed0003-v02.png"))


def test_generate_gives_the_image_of_the_hosts_generate_py(ssn, tmp_path, other_host):
    import generate

    run("generate", f"--network={ssn}", "--seeds=3", "--trunc=0.7", f"--outdir={tmp_path / 'a'}")
    args = [f"--network={ssn}", "--seeds=3", "--trunc=0.7", f"--outdir={tmp_path / 'b'}", "--device=cpu"]
    assert CliRunner().invoke(generate.main, args).exit_code == 0
    np.testing.assert_array_equal(pixels(tmp_path / "a" / "seed0003.png"), pixels(tmp_path / "b" / "seed0003.png"))


def test_metrics_measures_without_a_data_set_where_none_is_needed(ssn, monkeypatch, other_host):
    calls = []

    def calc_metric(**kwargs):
        calls.append(kwargs)
        return dict(metric=kwargs["metric"])

    monkeypatch.setattr("metrics.metric_main.calc_metric", calc_metric)
    monkeypatch.setattr("metrics.metric_main.report_metric", lambda result, **kwargs: print(result, kwargs))
    result = run("metrics", f"--network={ssn}", "--metrics=ssn_distortion1k,fid50k", f"--data={ssn}", "--mirror=1")
    assert result.exit_code == 0 and [call["metric"] for call in calls] == ["ssn_distortion1k", "fid50k"]
    assert calls[0]["dataset_kwargs"] == dict(
        class_name="training.dataset.ImageFolderDataset", path=str(ssn), resolution=16, use_labels=False, xflip=True
    )
    assert calls[0]["G"].block_grid == [[2, 2]] and calls[0]["num_gpus"] == 1


def test_train_is_the_command_of_this_host(tmp_path, stylegan2):
    import train

    (tmp_path / "photos").mkdir()
    PIL.Image.fromarray(np.zeros([16, 16, 3], dtype=np.uint8)).save(tmp_path / "photos" / "0.png")
    result = run("train", "--outdir=none", f"--data={tmp_path / 'photos'}", "--cfg=ssn", f"--resume={stylegan2}", "-n")
    assert result.exit_code == 0
    _, args = train.setup_training_loop_kwargs(data=str(tmp_path / "photos"), cfg="ssn", resume=str(stylegan2))
    assert json.loads(result.stdout) == args


@pytest.mark.parametrize(("args", "message"), [
    (["generate", "--network={net}", "--seeds=1", "--outdir=out"], "stylegan2.pkl has no block grid"),
    (["generate", "--network={net}", "--outdir=out"], "give either --seeds or --recipe"),
    (["generate", "--network={net}", "--seeds=4-2", "--outdir=out"], "seeds must look like 3 or 1,5,9 or 0-7"),
    (["generate", "--network={net}", "--seeds=1", "--outdir=out", "--device=tpu"], "--device must be one of cpu"),
    (["metrics", "--network={net}", "--metrics=beauty"], "metric must be one of fid50k_full"),
    (["metrics", "--network={net}", "--metrics=fid50k", "--data=lost"], "data set lost does not exist"),
    (["train", "--outdir=out", "--data=lost", "--cfg=ssn"], "--data: "),
    (["train", "--no-such-option"], "No such option"),
    (["project", "--help"], "project works in the host of this project only"),
])  # fmt: skip
def test_an_error_in_another_host_is_one_line_and_writes_nothing(
    args, message, stylegan2, tmp_path, monkeypatch, other_host
):
    assert_one_line(args, message, stylegan2, tmp_path, monkeypatch)


@pytest.mark.parametrize(("args", "message"), [
    (["transfer", "lost.pkl", "out.pkl"], "network lost.pkl is not an existing file"),
    (["transfer", "{net}", "out.onnx"], "network file to write must end in .pkl, .safetensors, .pt, got out.onnx"),
    (["transfer", "{net}", "out.pkl", "--blocks=3x3"], "grid 3x3 does not divide the 16x16 image"),
    (["transfer", "{net}", "out.pkl", "--blocks=four"], "--blocks must be rows x columns such as 4x4, got four"),
    (["transfer", "{net}", "none/out.pkl"], "the folder of the network file to write must exist, got none/out.pkl"),
    (["train", "--outdir=out", "--data=lost", "--cfg=ssn"], "--data: "),
    (["dance"], "No such command 'dance'."),
    (["--no-such-option"], "No such option"),
    (["transfer"], "Missing argument 'IN'."),
])  # fmt: skip
def test_an_error_is_one_line_and_writes_nothing(args, message, stylegan2, tmp_path, monkeypatch):
    assert_one_line(args, message, stylegan2, tmp_path, monkeypatch)


def assert_one_line(args, message, stylegan2, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run(*[arg.replace("{net}", str(stylegan2)) for arg in args])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {message}") and result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1,5-7,6", [1, 5, 6, 7]), ("0-2", [0, 1, 2])])
def test_seed_lists_mix_numbers_and_ranges(text, seeds):
    assert commands.parse_seeds(text) == seeds


def test_a_library_that_is_missing_altogether_is_named_in_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "ssn_plugin.hosts.ours", raising=False)
    monkeypatch.delattr("ssn_plugin.hosts.ours", raising=False)
    monkeypatch.setitem(sys.modules, "training.cli", None)  # as if it could not be imported
    monkeypatch.setattr(host, "current", host.current.__wrapped__)
    result = run("doctor")
    assert result.exit_code == 2 and result.stderr.startswith("Error: the library training.cli is missing: pip install")


def test_help_names_the_commands_without_loading_torch(tmp_path):
    script = "import sys; sys.argv[1:] = ['--help']; from ssn_plugin.cli import main\n" \
             "try: main()\nexcept SystemExit: print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {name} " in result.stdout for name in ("convert", "generate", "metrics", "train", "transfer"))
    assert "torch" not in result.stdout.split()
