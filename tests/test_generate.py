"""generate.py: the stock options, films and sheets, resampling from the command line, and what it refuses."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shlex
import zipfile
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
from PIL import Image

import generate
from dnnlib.util import UserError
from metrics import sampling
from ssn_plugin.networks import SSNGenerator
from training.images import generation
from training.images.interpolation import Interpolation, interpolation_frames, slerp
from training.networks import Generator

SMALL = dict(channel_base=64, channel_max=8)


def save_network(path: Path, G: torch.nn.Module) -> Path:
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(param, 0.1)
    G.eval().requires_grad_(False)
    networks = dict(G=G, D=None, G_ema=G, training_set_kwargs=None, augment_pipe=None)
    path.write_bytes(pickle.dumps(networks))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Networks of 16x16 pixels: `ssn.pkl`, `plus.pkl`, `plain.pkl` and `gray.pkl` (one channel, three classes)."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, block_grid in [("ssn", [[4, 4]]), ("plus", [[1, 1], [4, 4]])]:
        mapping = dict(num_layers=2, lr_multiplier=1)
        G = SSNGenerator(4, 0, 4, 16, 3, block_grid=block_grid, mapping_kwargs=mapping, synthesis_kwargs=SMALL)
        save_network(folder / f"{name}.pkl", G)
    sizes = dict(z_dim=4, w_dim=4, img_resolution=16, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=SMALL)
    save_network(folder / "plain.pkl", Generator(c_dim=0, img_channels=3, **sizes))
    save_network(folder / "gray.pkl", Generator(c_dim=3, img_channels=1, **sizes))
    mask = np.zeros([16, 16], dtype=np.uint8)
    mask[:8, :8] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:8]).save(folder / "half.png")
    np.savez(folder / "w.npz", w=np.random.RandomState(0).randn(2, 6, 4))
    noise: dict = {"b8.conv0.noise_const": np.zeros([4, 4])}
    np.savez(folder / "noise.npz", w=np.zeros([1, 6, 4]), **noise)
    np.savez(folder / "other.npz", v=np.zeros([2, 6, 4]))
    (folder / "junk").write_bytes(b"junk")
    return folder


def run(*args: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(generate.main, [str(arg) for arg in args])


def run_ok(*args: str) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def load(path: Path) -> torch.nn.Module:
    return pickle.loads(path.read_bytes())["G_ema"]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def as_8_bit(img: torch.Tensor) -> np.ndarray:
    """[1, C, H, W] -> [H, W, C], truncated: an independent reading of the host's rule."""
    return np.clip(np.floor(img[0].permute(1, 2, 0).double().numpy() * 127.5 + 128), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("trunc", "noise_mode"), [(1, "const"), (0.5, "none")])
def test_an_image_is_that_of_the_averaged_generator_at_the_seed(folder, tmp_path, trunc, noise_mode):
    run_ok("--network", folder / "plain.pkl", "--seeds=1,3-4", "--trunc", trunc, "--noise-mode", noise_mode,
           "--outdir", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seed0001.png", "seed0003.png", "seed0004.png"]
    z = torch.from_numpy(np.random.RandomState(4).randn(1, 4))
    img = load(folder / "plain.pkl")(z, None, truncation_psi=trunc, noise_mode=noise_mode)
    assert np.array_equal(pixels(tmp_path / "seed0004.png"), as_8_bit(img))


def test_an_image_does_not_depend_on_the_seeds_beside_it(folder, tmp_path):
    run_ok("--network", folder / "ssn.pkl", "--seeds=0-3", "--outdir", tmp_path / "many")
    run_ok("--network", folder / "ssn.pkl", "--seeds=2", "--outdir", tmp_path / "one")
    assert digests(tmp_path / "one")["seed0002.png"] == digests(tmp_path / "many")["seed0002.png"]


@pytest.mark.parametrize("network", ["ssn.pkl", "plain.pkl"])
def test_random_noise_is_that_of_the_seed(folder, tmp_path, network):
    common = ["--network", folder / network, "--noise-mode=random"]
    run_ok(*common, "--seeds=1-3", "--outdir", tmp_path / "many")
    run_ok(*common, "--seeds=2", "--outdir", tmp_path / "one")
    run_ok("--network", folder / network, "--seeds=2", "--outdir", tmp_path / "const")
    image = (tmp_path / "one" / "seed0002.png").read_bytes()
    assert image == (tmp_path / "many" / "seed0002.png").read_bytes()
    assert image != (tmp_path / "const" / "seed0002.png").read_bytes()


def test_random_noise_of_a_latent_is_replaced_for_one_call_only(folder):
    G = load(folder / "plain.pkl")
    before = {name: buffer.clone() for name, buffer in G.named_buffers()}
    ws, state = torch.zeros([1, 6, 4]), torch.get_rng_state()
    images = [generation.call_with_seed(G.synthesis, seed, "random", ws) for seed in (0, 1, 0)]
    assert torch.equal(images[0], images[2]) and not torch.equal(images[0], images[1])
    assert all(torch.equal(buffer, before[name]) for name, buffer in G.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_conditional_network_draws_the_chosen_class_in_gray(folder, tmp_path):
    run_ok("--network", folder / "gray.pkl", "--seeds=7", "--class=2", "--outdir", tmp_path)
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 4))
    img = load(folder / "gray.pkl")(z, torch.eye(3)[2:], noise_mode="const")
    assert np.array_equal(pixels(tmp_path / "seed0007.png"), as_8_bit(img)[:, :, 0])


def test_several_classes_give_an_image_of_each(folder, tmp_path):
    run_ok("--network", folder / "gray.pkl", "--seeds=7", "--class=1,2", "--outdir", tmp_path / "two")
    run_ok("--network", folder / "gray.pkl", "--seeds=7", "--class=all", "--outdir", tmp_path / "all")
    run_ok("--network", folder / "gray.pkl", "--seeds=7", "--class=2", "--outdir", tmp_path / "one")
    assert sorted(os.listdir(tmp_path / "two")) == ["seed0007-class01.png", "seed0007-class02.png"]
    assert sorted(os.listdir(tmp_path / "all")) == [f"seed0007-class{number:02d}.png" for number in range(3)]
    for name in ("two", "all"):
        image = pixels(tmp_path / name / "seed0007-class02.png")
        assert np.array_equal(image, pixels(tmp_path / "one" / "seed0007.png"))


def test_a_class_can_be_called_by_its_name_in_the_training_data(folder, tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("L", (16, 16)).save(tmp_path / "data" / "a.png")
    names = ["ant", "bee, wild", "cat"]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(dict(labels=[["a.png", 2]], class_names=names)))
    snapshot = dict(G=load(folder / "gray.pkl"), D=None, training_set_kwargs=dict(path=str(tmp_path / "data")))
    (tmp_path / "named.pkl").write_bytes(pickle.dumps(dict(snapshot, G_ema=snapshot["G"], augment_pipe=None)))
    for text, number in (("cat", 2), ("bee, wild", 1)):
        run_ok("--network", tmp_path / "named.pkl", "--seeds=7", f"--class={text}", "--outdir", tmp_path / "name")
        run_ok("--network", folder / "gray.pkl", "--seeds=7", f"--class={number}", "--outdir", tmp_path / "number")
        assert np.array_equal(pixels(tmp_path / "name/seed0007.png"), pixels(tmp_path / "number/seed0007.png"))
    result = run("--network", str(tmp_path / "named.pkl"), "--seeds=7", "--class=dog", "--outdir", str(tmp_path / "x"))
    assert result.stderr == "Error: --class must be in 0..2 or one of ant, bee, wild, cat, got dog\n"


def test_a_label_vector_is_used_as_it_is(folder, tmp_path):
    run_ok("--network", folder / "gray.pkl", "--seeds=7", "--label=0.25,0,-1.5", "--outdir", tmp_path)
    z = torch.from_numpy(np.random.RandomState(7).randn(1, 4))
    img = load(folder / "gray.pkl")(z, torch.tensor([[0.25, 0, -1.5]]), noise_mode="const")
    assert np.array_equal(pixels(tmp_path / "seed0007.png"), as_8_bit(img)[:, :, 0])


def test_projected_latents_are_rendered_instead_of_seeds(folder, tmp_path):
    output = run_ok("--network", folder / "plain.pkl", "--projected-w", folder / "w.npz", "--seeds=1",
                    "--outdir", tmp_path)
    assert "--seeds has no effect" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proj00.png", "proj01.png"]
    w = torch.from_numpy(np.load(folder / "w.npz")["w"]).float()
    img = load(folder / "plain.pkl").synthesis(w[1:], noise_mode="const")
    assert np.array_equal(pixels(tmp_path / "proj01.png"), as_8_bit(img))


def test_fitted_noise_maps_are_rendered_with_the_projected_latents(folder, tmp_path):
    G = load(folder / "plain.pkl")
    w = np.random.RandomState(0).randn(1, 6, 4).astype(np.float32)
    noise = {name: torch.randn(value.shape) for name, value in sampling.noise_maps(G.synthesis).items()}
    np.savez(tmp_path / "w.npz", w=w, **{name: value.numpy() for name, value in noise.items()})
    common = ["--network", folder / "plain.pkl", "--projected-w", tmp_path / "w.npz", "--outdir", tmp_path]
    run_ok(*common)
    with torch.no_grad():
        for name, value in noise.items():
            G.synthesis.get_buffer(name).copy_(value)
    expected = {mode: as_8_bit(G.synthesis(torch.from_numpy(w), noise_mode=mode)) for mode in ("const", "none")}
    assert np.array_equal(pixels(tmp_path / "proj00.png"), expected["const"])
    run_ok(*common, "--noise-mode=none")
    assert np.array_equal(pixels(tmp_path / "proj00.png"), expected["none"])


def film_of(folder: Path, **options) -> list[np.ndarray]:
    settings = {name: options.pop(name) for name in ("class_idx", "truncation_psi", "noise_mode") if name in options}
    network = options.pop("network", "plain.pkl")
    return list(interpolation_frames(load(folder / network), Interpolation(**options), **settings))


@pytest.mark.parametrize("space", ["w", "z"])
@pytest.mark.parametrize(("network", "class_idx"), [("plain.pkl", None), ("ssn.pkl", None), ("gray.pkl", 1)])
def test_a_film_passes_through_the_images_of_its_seeds(folder, tmp_path, space, network, class_idx):
    frames = film_of(folder, network=network, seeds=[5, 2, 9], steps=4, space=space, class_idx=class_idx,
                     truncation_psi=0.7)
    assert len(frames) == 9
    paths = generation.save_seeds(load(folder / network), [5, 2, 9], class_idx, 0.7, "const", tmp_path)
    for number, path in zip((0, 4, 8), paths, strict=True):
        assert np.array_equal(np.squeeze(frames[number]), pixels(Path(path)))


def test_a_film_ends_at_its_last_seed_or_on_the_way_back_to_its_first(folder):
    loop = film_of(folder, seeds=[5, 2], steps=3, loop=True)
    once = film_of(folder, seeds=[5, 2], steps=3)
    assert (len(loop), len(once)) == (6, 4)
    assert all(np.array_equal(a, b) for a, b in zip(loop, once, strict=False))
    assert np.array_equal(loop[4], film_of(folder, seeds=[2, 5], steps=3)[1]), "the way back from 2 to 5"


def test_a_film_in_w_moves_in_a_straight_line_and_one_in_z_on_the_sphere(folder):
    G = load(folder / "plain.pkl")
    z = [generation.seed_to_z(seed, 4) for seed in (5, 2)]
    w = [G.mapping(latent, None) for latent in z]
    half = film_of(folder, seeds=[5, 2], steps=2)[1]
    img = G.synthesis((w[0] + w[1]) / 2, noise_mode="const")
    assert abs(half.astype(int) - as_8_bit(img)).max() <= 1
    directions = [latent / latent.norm() for latent in z]   # half way on an arc is the sum of its ends
    img = G(directions[0] + directions[1], None, noise_mode="const")
    half = film_of(folder, seeds=[5, 2], steps=2, space="z")[1]
    assert abs(half.astype(int) - as_8_bit(img)).max() <= 1


def test_spherical_interpolation_turns_each_block_at_constant_speed():
    a, b = torch.randn([1, 12]), torch.randn([1, 12])
    path = [slerp(a, b, t, num_blocks=3).reshape(3, 4) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert torch.equal(path[0], a.reshape(3, 4))
    torch.testing.assert_close(path[4], b.reshape(3, 4))
    steps = [torch.cosine_similarity(before, after).acos() for before, after in zip(path, path[1:], strict=False)]
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0])
    torch.testing.assert_close(slerp(a, a, 0.3, 3), a)


def test_random_noise_stays_the_same_throughout_a_film(folder):
    frames = film_of(folder, seeds=[5, 2], steps=1, noise_mode="random")
    img = generation.call_with_seed(load(folder / "plain.pkl"), 5, "random", generation.seed_to_z(2, 4), None)
    assert np.array_equal(frames[1], as_8_bit(img))


def test_interpolating_writes_a_film_named_by_its_seeds(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.images.video._ffmpegs", lambda: [])
    common = ["--network", folder / "ssn.pkl", "--seeds=5,2,9", "--outdir", tmp_path]
    output = run_ok(*common, "--interpolate=2", "--space=z", "--fps=20", "--trunc=0.7", "--loop")
    assert "animated WebP" in output and output.endswith(f"{tmp_path}/seed0005-seed0009.webp\n")
    with Image.open(tmp_path / "seed0005-seed0009.webp") as film:
        assert (film.n_frames, film.size) == (6, (256, 256))
        film.load()
        assert film.info["duration"] == 50   # milliseconds
    run_ok(*common, "--interpolate=2")
    with Image.open(tmp_path / "seed0005-seed0009.webp") as film:
        assert film.n_frames == 5


def test_a_truncation_grid_has_the_image_of_each_seed_and_psi(folder, tmp_path):
    output = run_ok("--network", folder / "plain.pkl", "--seeds=4,1", "--trunc-grid=-0.5,0,1", "--outdir", tmp_path)
    assert output == f"{tmp_path}/seed0004-seed0001-trunc.png\n"
    page = pixels(tmp_path / "seed0004-seed0001-trunc.png")
    for row, seed in enumerate((4, 1)):
        for column, psi in enumerate((-0.5, 0, 1)):
            run_ok("--network", folder / "plain.pkl", "--seeds", seed, "--trunc", psi, "--outdir", tmp_path)
            image = pixels(tmp_path / f"seed{seed:04d}.png").repeat(8, axis=0).repeat(8, axis=1)
            top, left = page.shape[0] - 20 + 4 - (2 - row) * 132, page.shape[1] - 20 + 4 - (3 - column) * 132
            assert np.array_equal(page[top : top + 128, left : left + 128], image)


def test_a_truncation_grid_of_one_seed_is_named_by_it(folder, tmp_path):
    run_ok("--network", folder / "gray.pkl", "--class=1", "--seeds=4", "--trunc-grid=0.5", "--outdir", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["seed0004-trunc.png"]


def test_a_class_for_an_unconditional_network_is_a_warning(folder, tmp_path):
    output = run_ok("--network", folder / "plain.pkl", "--seeds=1", "--class=1", "--outdir", tmp_path)
    assert "Warning: --class has no effect" in output


def test_redrawing_writes_images_figures_and_recipe(folder, tmp_path):
    output = run_ok("--network", folder / "ssn.pkl", "--seeds=3", "--resample-block=1,2", "--variants=2",
                    "--outdir", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "seed0003-change.png", "seed0003-recipe.json", "seed0003-sheet.png", "seed0003-v01.png", "seed0003-v02.png",
        "seed0003.png",
    ]
    assert len(re.findall(r"-v\d\d\.png  change inside [\d.e-]+, outside [\d.e-]+, ratio [\d.e-]+\n", output)) == 2


def test_the_global_code_is_redrawn_by_the_name_of_its_grid_and_the_recipe_goes_on_with_a_block(folder, tmp_path):
    network, out = ("--network", folder / "plus.pkl"), tmp_path / "out"
    output = run_ok(*network, "--seeds=3", "--resample-block=1x1:0", "--variants=2", "--outdir", out)
    assert len(re.findall(r"-v\d\d\.png  change [\d.e-]+\n", output)) == 2
    assert output.rstrip().endswith("--resample-block=0,0"), "no block of the finest grid was redrawn yet"
    files, recipe = digests(out), ("--recipe", out / "seed0003-recipe.json")
    run_ok(*network, *recipe, "--outdir", tmp_path / "again")
    assert digests(tmp_path / "again") == files
    run_ok(*network, *recipe, "--pick=2", "--resample-block=1,2", "--outdir", out)
    assert np.array_equal(pixels(out / "seed0003-edit1.png"), pixels(out / "seed0003-v02.png"))


@pytest.mark.parametrize("noise_mode", ["const", "random", "none"])
def test_the_original_of_a_redraw_is_the_image_of_the_seed(folder, tmp_path, noise_mode):
    common = ["--network", folder / "ssn.pkl", "--seeds=3", "--trunc=0.7", "--noise-mode", noise_mode]
    run_ok(*common, "--outdir", tmp_path / "stock")
    run_ok(*common, "--resample-block=0", "--variants=1", "--outdir", tmp_path / "redraw")
    assert np.array_equal(pixels(tmp_path / "stock" / "seed0003.png"), pixels(tmp_path / "redraw" / "seed0003.png"))


def test_several_seeds_do_not_overwrite_each_other(folder, tmp_path):
    run_ok("--network", folder / "ssn.pkl", "--seeds=3,4", "--resample-block=all", "--variants=1", "--outdir", tmp_path)
    assert len(list(tmp_path.glob("seed0003*"))) == len(list(tmp_path.glob("seed0004*"))) == 5


@pytest.mark.parametrize("options", [
    ["--resample-block=1,2+1,3", "--resample-layers=fine", "--trunc=0.7"],
    ["--resample-block=5", "--resample-noise", "--noise-mode=random", "--variant-seed=8"],
    ["--resample-mask=MASK", "--resample-noise"],
    ["--resample-block=keep:0", "--transplant-from=11"],
], ids=["layers", "noise", "mask", "transplant"])
def test_replaying_a_recipe_gives_the_same_files_byte_by_byte(folder, tmp_path, options):
    options = [option.replace("MASK", str(folder / "mask.png")) for option in options]
    variants = [] if "--transplant-from=11" in options else ["--variants=2"]
    network = ["--network", folder / "ssn.pkl"]
    run_ok(*network, "--seeds=3", *options, *variants, "--outdir", tmp_path / "first")
    run_ok(*network, "--recipe", tmp_path / "first" / "seed0003-recipe.json", "--outdir", tmp_path / "again")
    assert digests(tmp_path / "first") == digests(tmp_path / "again")


def test_keeping_a_variant_and_redrawing_elsewhere_goes_on_from_its_image(folder, tmp_path):
    network = ["--network", folder / "ssn.pkl"]
    run_ok(*network, "--seeds=3", "--resample-block=1,2", "--variants=3", "--outdir", tmp_path)
    run_ok(*network, "--recipe", tmp_path / "seed0003-recipe.json", "--pick=2", "--resample-block=0,0", "--variants=2",
           "--outdir", tmp_path)
    run_ok(*network, "--recipe", tmp_path / "seed0003-edit1-recipe.json", "--pick=1", "--outdir", tmp_path)
    files = digests(tmp_path)
    assert files["seed0003-edit1.png"] == files["seed0003-v02.png"]
    assert files["seed0003-edit2.png"] == files["seed0003-edit1-v01.png"]
    assert len(json.loads((tmp_path / "seed0003-edit2-recipe.json").read_text())["edits"]) == 2


def test_the_printed_command_goes_on_from_the_recipe(folder, tmp_path):
    output = run_ok("--network", folder / "ssn.pkl", "--seeds=3", "--resample-block=0", "--variants=1",
                    "--outdir", tmp_path / "a folder")
    command = shlex.split(output.splitlines()[-1].split(": ", 1)[1])
    assert command[:2] == ["python", "generate.py"]
    assert "--resample-block=0,1" in command, "block 0 was redrawn just now"
    assert "seed0003-edit1-sheet.png" in run_ok(*command[2:])


def test_the_printed_command_keeps_device_and_trust(folder, tmp_path):
    output = run_ok("--network", folder / "ssn.pkl", "--seeds=3", "--resample-block=all", "--variants=1",
                    "--device=cpu", "--trust-pickle", "--outdir", tmp_path)
    assert {"--device=cpu", "--trust-pickle"} <= set(shlex.split(output.splitlines()[-1]))


def test_variants_after_those_already_seen_are_others_of_the_same_series(folder, tmp_path):
    common = ["--network", folder / "ssn.pkl", "--seeds=3", "--resample-block=1"]
    run_ok(*common, "--variants=3", "--outdir", tmp_path / "three")
    run_ok(*common, "--variants=1", "--variant-seed=2", "--outdir", tmp_path / "third")
    assert digests(tmp_path / "three")["seed0003-v03.png"] == digests(tmp_path / "third")["seed0003-v03.png"]


def test_further_variants_join_those_in_the_folder(folder, tmp_path):
    common = ["--network", folder / "ssn.pkl", "--seeds=3", "--resample-block=1,2"]
    run_ok(*common, "--variants=4", "--outdir", tmp_path / "at once")
    run_ok(*common, "--variants=2", "--outdir", tmp_path / "bit by bit")
    run_ok(*common, "--variants=2", "--variant-seed=2", "--outdir", tmp_path / "bit by bit")
    assert digests(tmp_path / "bit by bit") == digests(tmp_path / "at once")
    run_ok(*common, "--variants=1", "--outdir", tmp_path / "bit by bit")
    assert digests(tmp_path / "bit by bit") == digests(tmp_path / "at once")


def test_another_edit_of_the_same_image_gets_files_of_its_own(folder, tmp_path):
    common = ["--network", folder / "ssn.pkl", "--seeds=3", "--variants=1", "--outdir", tmp_path]
    run_ok(*common, "--resample-block=1,2")
    first = digests(tmp_path)
    output = run_ok(*common, "--resample-block=0,0")
    assert "seed0003-2-recipe.json" in output.splitlines()[-1]
    both = digests(tmp_path)
    assert first.items() <= both.items()
    assert {name.replace("seed0003", "seed0003-2") for name in first} == both.keys() - first.keys()
    run_ok(*common, "--resample-block=0,0")
    assert digests(tmp_path) == both


@pytest.mark.parametrize("options", [
    "--seeds=1", "--seeds=1 --resample-block=0", "--seeds=1,2 --interpolate=2", "--seeds=1 --trunc-grid=0.5",
])
@pytest.mark.parametrize("kind, message", [("nan", "not numbers"), ("five", "pictures have 1, 3 or 4 channels")])
def test_a_network_that_makes_no_pictures_is_refused_before_the_first_file(kind, message, options, folder, tmp_path):
    if kind == "nan":
        G = load(folder / "ssn.pkl")
        G.synthesis.b16.conv1.bias[3] = float("nan")
    else:
        sizes = dict(mapping_kwargs=dict(num_layers=2), synthesis_kwargs=SMALL)
        G = SSNGenerator(4, 0, 4, 16, 5, block_grid=[[4, 4]], **sizes)
    network = save_network(tmp_path / "net.pkl", G)
    result = run("--network", network, *options.split(), "--outdir", tmp_path / "out")
    assert result.exit_code == 2 and result.output.count("Error") == 1, result.output
    assert message in result.output.splitlines()[-1]
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_damage_in_a_file_of_latents_is_one_line(compression, tmp_path):
    buffer, path = io.BytesIO(), tmp_path / "w.npz"
    np.save(buffer, np.random.RandomState(0).randn(1, 6, 4))
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("w.npy", buffer.getvalue())
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x21]) + good[position + 1:])
        try:
            assert generation.load_projected_w(path).dtype == np.float32
        except UserError as err:
            assert str(err).startswith(str(path)) and str(err).isprintable()


REFUSALS = [
    (["--network=missing.pkl", "--seeds=1"], "missing.pkl"),
    (["--network=junk", "--seeds=1"], "junk"),
    (["--network=ssn.pkl", "--seeds="], "seeds must look like 3 or 1,5,9 or 0-7, got ''"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block="], "block '' must be ROW,COL or an index or 'all'"),
    (["--network=ssn.pkl"], "--seeds is required without --projected-w or --recipe"),
    (["--network=ssn.pkl", "--seeds=a"], "seeds must look like 3 or 1,5,9 or 0-7, got 'a'"),
    (["--network=ssn.pkl", "--seeds=5-3"], "seeds 5-3 must run upwards within 0..4294967295"),
    (["--network=ssn.pkl", "--seeds=4294967296"], "seeds 4294967296 must run upwards within 0..4294967295"),
    (["--network=ssn.pkl", "--seeds=0-4294967295"], "seeds '0-4294967295' are more than 1000000 images"),
    (["--network=ssn.pkl", "--seeds=1", "--trunc=nan"], "--trunc must be finite, got nan"),
    (["--network=ssn.pkl", "--seeds=1", "--trunc=-1e39"], "--trunc must be within -1000000..1000000, got -1e+39"),
    (["--network=ssn.pkl", "--seeds=1", "--device=tpu"], "device must be cpu, cuda or cuda:N, got 'tpu'"),
    (["--network=ssn.pkl", "--seeds=1", "--device=cuda:99"], "device cuda:99 is not there"),
    (["--network=gray.pkl", "--seeds=1"], "the network is conditional: choose one of its classes with --class=0..2"),
    (["--network=gray.pkl", "--seeds=1", "--class=1-3"], "--class must be in 0..2 for this network, got 3"),
    (["--network=gray.pkl", "--seeds=1", "--class=dog"], "give --class as a number"),
    (["--network=gray.pkl", "--seeds=1,2", "--class=all", "--interpolate=2"], "--class must be one class here"),
    (["--network=gray.pkl", "--seeds=1", "--label=1,0"], "--label must be 3 numbers for this network, as 0,0.5,1, got"),
    (["--network=gray.pkl", "--seeds=1", "--label=1,0,nan"], "--label must be 3 numbers for this network"),
    (["--network=plain.pkl", "--seeds=1", "--label=1"], "--label is for conditional networks"),
    (["--network=gray.pkl", "--seeds=1", "--class=3"], "--class must be in 0..2 for this network, got 3"),
    (["--network=ssn.pkl", "--projected-w=w.npz"], "w.npz: w must be [N, 6, 64] for this network, got [2, 6, 4]"),
    (["--network=ssn.pkl", "--projected-w=other.npz"], "other.npz has no array 'w' as projector.py writes it"),
    (["--network=plain.pkl", "--projected-w=noise.npz"],
     "noise.npz: b8.conv0.noise_const must be [8, 8] for this network, got [4, 4]"),
    (["--network=ssn.pkl", "--projected-w=junk"], "junk is not a readable npz file"),
    (["--network=ssn.pkl", "--projected-w=missing.npz"], "missing.npz: No such file or directory"),
    (["--network=plain.pkl", "--seeds=1", "--interpolate=5"], "needs at least two seeds and one frame for each, got 1"),
    (["--network=plain.pkl", "--seeds=1-3", "--interpolate=0"], "--interpolate"),
    (["--network=plain.pkl", "--seeds=1-3", "--interpolate=99999"], "may have at most 100000 frames, got 199999"),
    (["--network=plain.pkl", "--seeds=1-3", "--interpolate=5", "--trunc-grid=1"],
     "--interpolate cannot be combined with --trunc-grid"),
    (["--network=plain.pkl", "--seeds=1-3", "--space=z"], "--space needs --interpolate"),
    (["--network=plain.pkl", "--seeds=1-3", "--interpolate=5", "--fps=0"], "--fps"),
    (["--network=gray.pkl", "--seeds=1-3", "--interpolate=5"], "the network is conditional"),
    (["--network=plain.pkl", "--seeds=1", "--trunc-grid="], "truncation values must look like 0.5,0.7,1, got ''"),
    (["--network=plain.pkl", "--seeds=1", "--trunc-grid=1,1e39"], "truncation values must be within -1000000..1000000"),
    (["--network=plain.pkl", "--seeds=1", "--trunc-grid=0.5,inf"], "truncation values must look like 0.5,0.7,1"),
    (["--network=plain.pkl", "--seeds=0-999", "--trunc-grid=0,0.5,1"], "at most 2000 images, got 1000 x 3"),
    (["--network=plain.pkl", "--seeds=1", "--trunc-grid=1", "--trunc=0.7"],
     "--trunc-grid cannot be combined with --trunc"),
    (["--network=plain.pkl", "--seeds=1", "--resample-block=0"], "plain.pkl has no block grid"),
    (["--network=plain.pkl", "--recipe=recipe.json"], "plain.pkl has no block grid"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block=4,0"], "block (4, 0) is outside the 4x4 latent grid"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block=0", "--resample-layers=6"], "outside the layers 0-5"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-mask=half.png"], "mask half.png is 16x8, the image 16x16"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-mask=junk"], "mask junk is not a readable image"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-mask=no.png"], "mask no.png cannot be read: No such file"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block=0", "--resample-mask=mask.png"],
     "--resample-block cannot be combined with --resample-mask"),
    (["--network=ssn.pkl", "--seeds=1", "--variants=3"], "--variants needs --resample-block or --resample-mask"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block=0", "--variants=0"], "--variants"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block=0", "--transplant-from=3", "--variants=3"],
     "--transplant-from cannot be combined with --variants"),
    (["--network=ssn.pkl", "--seeds=1", "--resample-block=0", "--resample-noise", "--noise-mode=none"],
     "noise cannot be redrawn in an image without noise"),
    (["--network=missing.pkl", "--seeds=1", "--resample-block=0", "--variant-seed=4294967290"],
     "the last variant must be in 0..4294967295, got 4294967298"),
    (["--network=missing.pkl", "--seeds=1", "--resample-block=0", "--transplant-from=4294967296"],
     "the seed to transplant from must be in 0..4294967295, got 4294967296"),
    (["--network=ssn.pkl", "--seeds=1", "--pick=1"], "--pick needs --recipe"),
    (["--network=ssn.pkl", "--recipe=recipe.json", "--seeds=1"], "--recipe cannot be combined with --seeds"),
    (["--network=ssn.pkl", "--recipe=recipe.json", "--pick=9"], "the recipe has no variant 9; it has 1, 2"),
    (["--network=ssn.pkl", "--recipe=recipe.json", "--resample-block=0"],
     "recipe.json holds 2 variants: name the one to go on from with --pick"),
    (["--network=ssn.pkl", "--recipe=junk"], "recipe junk: not JSON"),
    (["--network=ssn.pkl", "--recipe=missing.json"], "missing.json: No such file or directory"),
]


@pytest.fixture(scope="module")
def recipe(folder) -> None:
    """`recipe.json`: two variants of a block of `ssn.pkl`."""
    run_ok("--network", folder / "ssn.pkl", "--seeds=3", "--resample-block=0", "--variants=2", "--outdir", folder)
    (folder / "seed0003-recipe.json").rename(folder / "recipe.json")


@pytest.mark.parametrize(("options", "message"), REFUSALS, ids=[" ".join(options) for options, _ in REFUSALS])
def test_a_wrong_request_is_refused_in_one_line_before_anything_is_written(
    folder, recipe, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(folder)
    result = run(*options, "--outdir", tmp_path / "out")
    assert result.exit_code == 2
    errors = [line for line in result.output.splitlines() if not line.startswith(("Warning", "Note"))]
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_is_a_file_is_refused(folder, tmp_path):
    (tmp_path / "out").write_text("")
    result = run("--network", folder / "ssn.pkl", "--seeds=1", "--outdir", tmp_path / "out")
    assert result.exit_code == 2
    assert result.output == f"Error: {tmp_path / 'out'}: File exists\n"


def test_help_ends_with_two_commands_that_run(folder, tmp_path, monkeypatch):
    (tmp_path / "network-snapshot.pkl").write_bytes((folder / "ssn.pkl").read_bytes())
    monkeypatch.chdir(tmp_path)
    commands = run_ok("--help").rstrip().splitlines()[-2:]
    for command in commands:
        python, script, *options = shlex.split(command)
        assert (python, script) == ("python", "generate.py")
        run_ok(*options)
    assert (tmp_path / "out" / "seed0015.png").exists()
    assert (tmp_path / "out" / "seed0003-sheet.png").exists()


@pytest.mark.parametrize(("text", "seeds"), [
    ("3", [3]),
    ("1,5,9", [1, 5, 9]),
    ("0-3", [0, 1, 2, 3]),
    ("7, 1-3, 2", [7, 1, 2, 3]),
])
def test_seed_lists_mix_numbers_and_ranges(text, seeds):
    assert generation.parse_seeds(text) == seeds


def test_conversion_to_8_bits_truncates_and_clips():
    img = torch.tensor([-2.0, -1.0, 0.0, 0.0039, 0.004, 0.996, 2.0]).reshape(1, 1, 1, 7)
    assert generation.to_uint8(img).ravel().tolist() == [0, 0, 128, 128, 128, 254, 255]
