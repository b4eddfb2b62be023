"""benchmarks/contributions.py: what each resolution adds to the image, and how that is told."""

from __future__ import annotations

import json
import pickle
import sys

import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from network_file_helpers import generator, moved, snapshot

from benchmarks import contributions
from ssn_plugin.networks import SSNGenerator
from training.networks import Generator

SIZES = ["4x4", "8x8", "16x16"]


def ssn():
    G = SSNGenerator(4, 0, 4, 16, 3, block_grid=[[1, 1], [2, 2]], mapping_kwargs=dict(num_layers=2),
                     synthesis_kwargs=dict(channel_base=64, channel_max=8))  # fmt: skip
    return moved(G).eval().requires_grad_(False)


def latents(G, num=3):
    c = torch.eye(G.c_dim)[:1].expand(num, -1) if G.c_dim else torch.zeros([num, 0])
    return torch.randn([num, G.z_dim], generator=torch.Generator().manual_seed(0)), c


def keep_rgb_of(G, resolution):
    """Let the generator add colour at this resolution only."""
    for res in G.synthesis.block_resolutions:
        if res != resolution:
            torgb = getattr(G.synthesis, f"b{res}").torgb
            torgb.weight.data.zero_()
            torgb.bias.data.zero_()


def save_run(folder, *kimgs, G=None):
    folder.mkdir()
    for kimg in kimgs:
        with open(folder / f"network-snapshot-{kimg:06d}.pkl", "wb") as file:
            pickle.dump(snapshot(generator(resolution=16) if G is None else G), file)
    return folder


def run(*arguments):
    return CliRunner().invoke(contributions.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("make", [
    lambda: generator(resolution=16), lambda: generator(c_dim=2, resolution=16), ssn,
    lambda: moved(Generator(8, 0, 8, [16, 24], 1, synthesis_kwargs=dict(channel_base=64, channel_max=8))).eval(),
])
def test_the_contributions_add_up_to_the_image(make):
    G = make()
    parts, img = contributions.contributions(G, *latents(G))
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(dim=0), img)
    assert all(part.std() > 0 for part in parts.values())


def test_the_sizes_are_those_of_the_images_also_of_rectangles():
    assert list(contributions.mean_deviations(ssn(), 2)) == SIZES
    G = Generator(8, 0, 8, [16, 24], 1, synthesis_kwargs=dict(channel_base=64, channel_max=8)).eval()
    assert list(contributions.mean_deviations(G, 2)) == ["6x4", "12x8", "24x16"]


@pytest.mark.parametrize("resolution", [4, 8, 16])
@pytest.mark.parametrize("make", [lambda: generator(resolution=16), ssn])
def test_the_only_resolution_that_adds_colour_contributes_all(make, resolution):
    G = make()
    keep_rgb_of(G, resolution)
    shares = contributions.shares(contributions.mean_deviations(G, 3))
    assert shares == {size: float(size == f"{resolution}x{resolution}") for size in SIZES}


def test_a_deviation_is_that_of_the_up_sampled_image_and_the_mean_over_images(monkeypatch):
    monkeypatch.setattr(contributions, "BATCH", 2)  # so that the last batch is smaller
    G = generator(resolution=16)
    keep_rgb_of(G, 8)
    z = torch.cat([contributions.seed_to_z(seed, G.z_dim) for seed in range(5)])
    img = G(z, torch.zeros([5, 0]), noise_mode="const")
    expected = img.flatten(1).std(dim=1, unbiased=False).mean().item()
    assert contributions.mean_deviations(G, 5)["8x8"] == pytest.approx(expected, rel=1e-4)


def test_a_constant_image_has_no_contributions():
    assert contributions.shares({"4x4": 0.0, "8x8": 0.0}) == {"4x4": 0, "8x8": 0}


def test_hooks_do_not_outlive_the_measurement():
    G = ssn()
    contributions.contributions(G, *latents(G))
    assert not any(module._forward_hooks for module in G.modules())


def test_a_run_is_measured_in_the_order_of_training_and_drawn(tmp_path):
    folder = save_run(tmp_path / "run", 1000, 20, 0)
    (folder / "network-snapshot-latest.pkl").touch()  # somebody's own file
    result = run(f"--run={folder}", "--images=2", f"--outdir={tmp_path / 'out'}", "--device=cpu")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "contributions.json").read_text())
    assert (content["run"], content["images"]) == ("run", 2)
    assert [row["kimg"] for row in content["snapshots"]] == [0, 20, 1000]
    for row in content["snapshots"]:
        assert list(row["share"]) == list(row["deviation"]) == SIZES
        assert sum(row["share"].values()) == pytest.approx(1)
    pytest.importorskip("matplotlib")
    assert PIL.Image.open(tmp_path / "out" / "contributions.png").size == (768, 480)


def test_a_single_snapshot_is_drawn_too_and_by_default_into_the_folder_of_the_run(tmp_path):
    pytest.importorskip("matplotlib")
    folder = save_run(tmp_path / "run", 20, G=ssn())
    assert run(f"--run={folder}", "--images=1").exit_code == 0
    colors = PIL.Image.open(folder / "contributions.png").convert("RGB").getcolors(2**20)
    assert len([color for count, color in colors if count > 3000 and len(set(color)) > 1]) == len(SIZES)


def test_without_matplotlib_the_numbers_are_there_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = save_run(tmp_path / "run", 0)
    result = run(f"--run={folder}", "--images=1")
    assert result.exit_code == 0
    assert result.stderr == "matplotlib is not installed: no figure is drawn (pip install matplotlib)\n"
    assert (folder / "contributions.json").is_file() and not (folder / "contributions.png").exists()


@pytest.mark.parametrize("architecture", ["orig", "resnet"])
def test_a_generator_without_an_rgb_output_at_each_resolution_is_refused(tmp_path, architecture):
    folder = save_run(tmp_path / "run", 0, G=generator(architecture, resolution=16))
    result = run(f"--run={folder}")
    assert (result.exit_code, result.stderr) == (2, (
        "Error: network-snapshot-000000.pkl: the generator must have the architecture skip, with an RGB output at each "
        f"resolution, it has {architecture}\n"))


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_folder_without_snapshots_is_refused_and_nothing_is_made(tmp_path, make):
    make(tmp_path / "run")
    result = run(f"--run={tmp_path / 'run'}", f"--outdir={tmp_path / 'out'}")
    assert (result.exit_code, result.stderr) == (2, (
        f"Error: --run must be a folder with files network-snapshot-*.pkl, {tmp_path / 'run'} holds none\n"))
    assert not (tmp_path / "out").exists()
