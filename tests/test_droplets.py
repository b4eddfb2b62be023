"""benchmarks/droplets.py: the four layers, the droplet score, and the comparison with its resumption."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from benchmarks import droplet_layers, droplets
from training.networks import SynthesisLayer

SIZE = dict(c_dim=0, img_resolution=16, img_channels=3, synthesis_kwargs=dict(channel_base=64, channel_max=8))
TINY = ["--tiny", "--kimg=0.008"]


def make_generator(layer):
    return droplet_layers.make_generator(layer, block_z_dim=4, block_w_dim=4, **SIZE).eval().requires_grad_(False)


def images_of(G, z):
    return G(z, torch.zeros([len(z), 0]), noise_mode="const")


def make_layer(name, **kwargs):
    return droplet_layers.LAYERS[name][0](6, 5, 4, 8, **kwargs).requires_grad_(False)


def means_and_deviations(y):
    return y.mean(dim=[2, 3]), y.var(dim=[2, 3], unbiased=False).sqrt()


# Layers


@pytest.mark.parametrize("layer", droplet_layers.LAYERS)
def test_every_generator_is_made_of_its_layer_and_makes_images(layer):
    G = make_generator(layer)
    cls, grid = droplet_layers.LAYERS[layer]
    layers = droplet_layers.synthesis_layers(G)
    assert list(layers) == [f"synthesis.{name}" for name in
                            ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1")]
    assert all(type(module) is cls for module in layers.values())
    assert G.block_grid == [grid]
    assert images_of(G, torch.randn([2, G.z_dim])).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("layer", droplet_layers.LAYERS)
def test_a_copy_of_a_generator_makes_the_same_images(layer):
    G = make_generator(layer)
    z = torch.randn([2, G.z_dim])
    assert torch.equal(images_of(copy.deepcopy(G), z), images_of(G, z))


def test_adain_gives_every_channel_the_mean_and_deviation_of_its_style():
    layer, encoded = make_layer("adain"), torch.randn([3, 4, 1, 1])
    y = layer(torch.randn([3, 6, 8, 8]), encoded)
    scale, shift = layer.scale_and_shift(encoded)[:, :, 0, 0].chunk(2, dim=1)
    mean, deviation = means_and_deviations(y)
    torch.testing.assert_close(mean, shift, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(deviation, (1 + scale).abs(), atol=1e-5, rtol=1e-5)


def test_spade_without_its_prediction_is_instance_normalisation():
    layer = make_layer("spade", up=2)
    layer.affine[1].weight.zero_()
    mean, deviation = means_and_deviations(layer(torch.randn([3, 6, 4, 4]), torch.randn([3, 4, 4, 4])))
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.ones_like(deviation))


def test_the_style_of_spade_varies_over_the_image():
    layer, encoded = make_layer("spade"), torch.zeros([1, 4, 4, 4])
    encoded[..., 0, 0] = 10
    x = torch.randn([1, 6, 8, 8])
    change = (layer(x, encoded, noise_mode="none") - layer(x, 0 * encoded, noise_mode="none")).abs().sum(dim=1)[0]
    assert change[:4, :4].max() > 0.1
    assert change[7, 7] == 0  # two 3x3 convolutions and the enlargement do not reach so far


def test_the_modulated_layer_is_that_of_stylegan2():
    layer = make_layer("modulated", up=2)
    published = SynthesisLayer(6, 5, 4, 8, up=2).requires_grad_(False)
    published.load_state_dict(layer.state_dict())
    x, w = torch.randn([3, 6, 4, 4]), torch.randn([3, 4])
    torch.testing.assert_close(layer(x, w[:, :, None, None], noise_mode="const"), published(x, w, noise_mode="const"))


@pytest.mark.parametrize("layer", ["adain", "spade"])
def test_a_normalised_layer_forgets_the_gain_of_its_kernel_and_a_blend_is_refused(layer):
    module, x, encoded = make_layer(layer), torch.randn([2, 6, 8, 8]), torch.randn([2, 4, 1, 1])
    before = module(x, encoded, noise_mode="none")
    module.weight.mul_(7)
    torch.testing.assert_close(module(x, encoded, noise_mode="none"), before, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="cannot blend two latents"):
        module(x, encoded, mask=torch.zeros([1, 1, 8, 8]))


# Measurement


def test_the_droplet_score_is_the_largest_over_the_median_norm():
    flat, spot = np.full([8, 8], 3.0), np.full([8, 8], 2.0)
    spot[5, 1] = 50
    np.testing.assert_allclose(droplets.droplet_scores(np.stack([flat, spot])), [1, 25])


def test_the_score_does_not_depend_on_the_scale_of_a_layer():
    norms = np.random.RandomState(0).rand(4, 8, 8)
    np.testing.assert_allclose(droplets.droplet_scores(100 * norms), droplets.droplet_scores(norms))


def test_what_is_measured_is_what_layers_put_out_and_what_they_normalise():
    G = make_generator("adain")
    seen = {}
    layer = G.synthesis.b16.conv1
    layer.register_forward_hook(lambda _m, _args, out: seen.update(after=out))
    layer.norm.register_forward_pre_hook(lambda _m, args: seen.update(before=args[0]))
    _images, norms = droplets.measure(G, 3)
    assert set(norms) == {"b16.conv0", "b16.conv0, before", "b16.conv1", "b16.conv1, before"}
    for name, features in [("b16.conv1", seen["after"]), ("b16.conv1, before", seen["before"])]:
        np.testing.assert_allclose(norms[name], features.square().sum(dim=1).sqrt().numpy(), rtol=1e-5)


def test_noise_does_not_count_as_droplets():
    G = make_generator("modulated")
    _images, quiet = droplets.measure(G, 2)
    for layer in droplet_layers.synthesis_layers(G).values():
        layer.noise_strength.fill_(100)
    _images, noisy = droplets.measure(G, 2)
    np.testing.assert_array_equal(noisy["b16.conv1"], quiet["b16.conv1"])


def test_images_do_not_depend_on_how_many_are_measured_at_a_time(monkeypatch):
    G = make_generator("spatial")
    images, norms = droplets.measure(G, 3)
    monkeypatch.setattr(droplets, "BATCH", 1)
    alone, norms_alone = droplets.measure(G, 3)
    assert np.abs(images.astype(int) - alone).max() <= 1
    np.testing.assert_allclose(norms["b16.conv1"], norms_alone["b16.conv1"], rtol=1e-4)


def test_nothing_is_recorded_after_a_measurement():
    G = make_generator("spade")
    with droplets.recorded_norms(G) as norms:
        pass
    images_of(G, torch.randn([1, G.z_dim]))
    assert norms == {}


# Comparison


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty images of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.RandomState(0)
    for i in range(20):
        PIL.Image.fromarray(rng.randint(256, size=[16, 16, 3], dtype=np.uint8)).save(folder / f"{i}.png")
    return str(folder)


def run(data, outdir, *options):
    return CliRunner().invoke(droplets.main, [f"--data={data}", f"--outdir={outdir}", *TINY, *options])


@pytest.fixture(scope="module")
def outdir(data, tmp_path_factory):
    """A finished comparison."""
    folder = tmp_path_factory.mktemp("droplets")
    result = run(data, folder)
    assert result.exit_code == 0, result.output
    return folder


def test_a_tiny_comparison_makes_every_file_and_all_of_them_parse(outdir):
    results = json.loads((outdir / "results.json").read_text())
    assert [entry["layer"] for entry in results["layers"]] == list(droplet_layers.LAYERS)
    for entry in results["layers"]:
        assert entry["seconds"] > 0 and entry["commit"] and entry["machine"]
        for scores in (entry["trained"], entry["untrained"]):
            assert all(1 <= score["mean"] <= score["largest"] for score in scores.values())
    tables = [part for part in (outdir / "results.md").read_text().split("\n\n") if part.startswith("|")]
    assert [len(table.splitlines()) for table in tables] == [4, 4, 6]
    assert "AdaIN, before the normalisation" in tables[0]
    with PIL.Image.open(outdir / "heat-maps.png") as picture:
        assert min(picture.size) > 100


def test_the_scores_before_training_are_those_of_the_seed(outdir, data):
    settings = json.loads((outdir / "settings.json").read_text())
    G = droplets.build(droplets.train_options("modulated", outdir / "modulated", settings))
    expected = droplets.summarise(droplets.measure(G, settings["images"])[1])
    entry = json.loads((outdir / "modulated" / "scores.json").read_text())
    assert entry["untrained"] == expected != entry["trained"]


def test_the_same_command_trains_nothing_again(outdir, data):
    before = {path: path.stat().st_mtime_ns for path in outdir.glob("*/*")}
    result = run(data, outdir)
    assert result.exit_code == 0 and "Training" not in result.output
    assert {path: path.stat().st_mtime_ns for path in outdir.glob("*/*")} == before


def test_a_layer_that_lost_its_scores_is_measured_again_and_not_trained(outdir, data):
    path = outdir / "spatial" / "scores.json"
    before = json.loads(path.read_text())
    stats = (outdir / "spatial" / "stats.jsonl").read_bytes()
    os.remove(path)
    result = run(data, outdir)
    assert result.exit_code == 0 and result.output.count("is finished") == 3
    assert json.loads(path.read_text()) == before
    assert (outdir / "spatial" / "stats.jsonl").read_bytes() == stats


def test_an_interrupted_comparison_ends_without_scores(data, tmp_path, monkeypatch):
    monkeypatch.setattr(droplets, "training_loop", lambda **_kwargs: False)  # as after Ctrl-C, with its state saved
    assert run(data, tmp_path / "out").exit_code == 130
    assert not list(tmp_path.glob("out/*/scores.json"))


def test_a_layer_can_be_made_alone(data, tmp_path):
    result = run(data, tmp_path / "out", "--layer=modulated")
    assert result.exit_code == 0 and result.output.count("Training with") == 1
    assert "| layer | modulated |" in (tmp_path / "out" / "results.md").read_text()
    assert not (tmp_path / "out" / "adain").exists()


@pytest.mark.parametrize("option, message", [
    ("--batch=4", "was made with other settings, choose another --outdir: batch was 8"),
    ("--data=nowhere.zip", "other settings"),
])
def test_a_folder_of_other_settings_is_refused_in_one_line(outdir, data, option, message):
    result = run(data, outdir, option)
    assert result.exit_code == 2
    assert result.output.count("\n") == 1 and message in result.output


def test_images_that_are_too_small_are_refused_before_anything_is_made(tmp_path):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    result = run(tmp_path, tmp_path / "out")
    assert result.exit_code == 2 and "at least 16 pixels wide" in result.output
    assert not (tmp_path / "out").exists()
