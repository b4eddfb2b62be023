"""projector.py: finds the latents of an image, and writes what it found."""

from __future__ import annotations

import copy
import inspect
import shlex
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
from metric_fixtures import TinyVGG, save_torchscript, tiny_generator, write_snapshot
from PIL import Image

import generate
import projector
from metrics import sampling
from ssn_plugin.networks import SSNGenerator
from training.images import generation, projection, projection_files
from training.images.distances import PerceptualDistance, PixelDistance
from training.images.projection import ProjectionOptions, fit
from training.networks import Generator

QUICK = dict(num_steps=60, num_candidates=64, w_avg_samples=1000)
SMALL = dict(channel_base=64, channel_max=8)


def grid_generator(channels: int = 3) -> SSNGenerator:
    """8x8 pixels in 2x2 blocks."""
    torch.manual_seed(0)
    G = SSNGenerator(4, 0, 4, 8, channels, block_grid=[[2, 2]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                     synthesis_kwargs=SMALL)
    for name, value in G.named_parameters():
        if name.endswith("noise_strength"):
            value.data.fill_(0.1)
    return G.eval().requires_grad_(False)


def wide_generator() -> Generator:
    """RGBA images of 16x8 pixels."""
    torch.manual_seed(0)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=[8, 16], img_channels=4, mapping_kwargs=dict(num_layers=2),
                  synthesis_kwargs=SMALL)
    return G.eval().requires_grad_(False)


@torch.no_grad()
def image_of(G: torch.nn.Module, seed: int = 1, class_idx: int | None = None) -> torch.Tensor:
    c = generation.class_to_label(class_idx, G.c_dim)
    return G(generation.seed_to_z(seed, G.z_dim), c, noise_mode="const")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Networks of 8x8 pixels, one of its images, and pictures that are none."""
    folder = tmp_path_factory.mktemp("projector")
    write_snapshot(folder / "plain.pkl", tiny_generator(8), data=None)
    write_snapshot(folder / "ssn.pkl", grid_generator(), data=None)
    write_snapshot(folder / "gray.pkl", tiny_generator(8, channels=1, c_dim=3), data=None)
    image = generation.to_uint8(image_of(tiny_generator(8)))[0]
    Image.fromarray(image).save(folder / "photo.png")
    Image.fromarray(image).convert("F").save(folder / "float.tiff")
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:-30])
    (folder / "junk").write_bytes(b"junk")
    (folder / "detectors").mkdir()
    save_torchscript(TinyVGG(), folder / "detectors" / "vgg16.pt")
    return folder


@pytest.fixture(autouse=True)
def without_downloads(monkeypatch, tmp_path_factory) -> None:
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("metrics.detectors._detector_dir", None)
    monkeypatch.setattr("metrics.detectors._check_reachable", unreachable)


def unreachable(url: str) -> None:
    raise OSError("no network")


def run(*args: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(projector.main, [str(arg) for arg in args])


def run_ok(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("make", [tiny_generator, grid_generator, wide_generator])
def test_projecting_an_image_of_the_network_reaches_it(make):
    G = make()
    target = image_of(G)
    found = fit(G, target, PixelDistance(target), ProjectionOptions(**QUICK))
    assert found.distance < 1e-3 * target.var()
    again = G.synthesis(found.ws[-1:], noise_mode="const")
    assert (again - target).square().mean() == pytest.approx(found.distance, rel=1e-4)


def test_projecting_an_image_of_the_network_reaches_it_in_perceptual_distance():
    G = tiny_generator(8)
    target = image_of(G)
    distance = PerceptualDistance(target, TinyVGG())
    found = fit(G, target, distance, ProjectionOptions(**QUICK))
    assert found.distance < 1e-3 * float(distance(image_of(G, seed=2)))


def test_projecting_an_image_of_a_class_reaches_it_with_that_class():
    G = tiny_generator(8, channels=1, c_dim=3)
    target, label = image_of(G, class_idx=2), generation.class_to_label(2, 3)
    found = fit(G, target, PixelDistance(target), ProjectionOptions(**QUICK), label)
    assert found.distance < 1e-3 * target.var()
    with pytest.raises(ValueError, match=r"a conditional network needs a label \[1, 3\]"):
        fit(G, target, PixelDistance(target), ProjectionOptions(**QUICK))


def test_a_style_per_layer_and_free_noise_maps_each_come_closer_to_a_foreign_image():
    G = tiny_generator(8)
    target = torch.nn.functional.interpolate(torch.rand([1, 3, 4, 4]) * 2 - 1, size=[8, 8], mode="bilinear")
    styles, layers, noise = (
        fit(G, target, PixelDistance(target), ProjectionOptions(**QUICK, **options)).distance
        for options in (dict(), dict(w_plus=True), dict(fit_noise=True, regularize_noise_weight=0))
    )
    assert layers < styles and noise < styles


def test_styles_are_one_for_all_layers_unless_asked_for_one_per_layer():
    G = tiny_generator(8)
    target = image_of(G)
    options = dict(QUICK, num_steps=3)
    ws = fit(G, target, PixelDistance(target), ProjectionOptions(**options)).ws
    assert ws.shape == (3, G.num_ws, G.w_dim) and torch.equal(ws, ws[:, :1].expand_as(ws))
    ws = fit(G, target, PixelDistance(target), ProjectionOptions(**options, w_plus=True)).ws
    assert ws.shape == (3, G.num_ws, G.w_dim) and not torch.equal(ws[:, 0], ws[:, 1])


def test_the_seed_decides_everything_and_the_network_stays_as_it_was():
    G = tiny_generator(8)
    target, before, state = image_of(G), copy.deepcopy(G.state_dict()), torch.get_rng_state()
    options = dict(num_steps=5, num_candidates=4, w_avg_samples=100, fit_noise=True)
    runs = [fit(G, target, PixelDistance(target), ProjectionOptions(**options, seed=seed)) for seed in (7, 7, 8)]
    assert torch.equal(runs[0].ws, runs[1].ws) and not torch.equal(runs[0].ws, runs[2].ws)
    assert all(torch.equal(runs[0].noise[name], runs[1].noise[name]) for name in runs[0].noise)
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_fitted_noise_maps_have_zero_mean_and_unit_variance():
    G = tiny_generator(8)
    target = image_of(G)
    found = fit(G, target, PixelDistance(target), ProjectionOptions(**dict(QUICK, num_steps=5), fit_noise=True))
    assert found.noise.keys() == sampling.noise_maps(G.synthesis).keys()
    for value in found.noise.values():
        assert value.mean().abs() < 1e-6 and value.square().mean() == pytest.approx(1, abs=1e-5)


def test_noise_that_repeats_itself_is_penalised_and_white_noise_is_not():
    # Ones at 16x16 are twos at 8x8: both products of the two levels are 1 and 4, squared and summed over two axes.
    assert projection.noise_autocorrelation(torch.ones([16, 16])) == 2 * (1 + 16)
    checkers = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1   # every neighbour is the opposite
    assert projection.noise_autocorrelation(checkers) == 2
    assert projection.noise_autocorrelation(torch.randn([512, 512])) < 0.1


def test_rate_and_style_noise_follow_the_schedule_of_the_paper():
    options = ProjectionOptions()
    rates = [options.learning_rate(t) for t in (0, 0.025, 0.05, 0.75, 0.875, 1)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.1, 0.05, 0])
    assert [options.style_noise(t) for t in (0, 0.375, 0.75, 1)] == pytest.approx([0.05, 0.0125, 0, 0])


def test_the_mean_style_and_its_deviation_are_those_of_fixed_samples():
    G = tiny_generator(8)
    mean, deviation = projection.style_statistics(G, 1500, torch.zeros([1, 0]))
    w = G.mapping(torch.from_numpy(np.random.RandomState(123).randn(1500, G.z_dim)), None)[:, 0]
    torch.testing.assert_close(mean[0, 0], w.mean(dim=0))
    torch.testing.assert_close(deviation[0, 0], (w - w.mean(dim=0)).norm(dim=1).square().mean().sqrt().expand(G.w_dim))


def test_the_blocks_of_a_grid_share_one_mean_style_and_one_deviation():
    G = grid_generator()
    mean, deviation = projection.style_statistics(G, 400, torch.zeros([1, 0]))
    blocks = G.mapping(torch.from_numpy(np.random.RandomState(123).randn(100, G.z_dim)), None)[:, 0].reshape(400, 4)
    torch.testing.assert_close(mean[0, 0], blocks.mean(dim=0).repeat(4))
    norm = (blocks - blocks.mean(dim=0)).norm(dim=1)
    torch.testing.assert_close(deviation[0, 0], norm.square().mean().sqrt().expand(16))


def start_of(G: torch.nn.Module, target: torch.Tensor, num_candidates: int) -> tuple[torch.Tensor, float, str]:
    label, gen = torch.zeros([1, 0]), torch.Generator().manual_seed(3)
    mean, _ = projection.style_statistics(G, 100, label)
    return projection.find_start(G, target, PixelDistance(target), mean, label, num_candidates, gen)


def test_the_search_starts_from_the_sample_nearest_to_the_target():
    G = tiny_generator(8)
    z = torch.randn([20, G.z_dim], generator=torch.Generator().manual_seed(3))
    images = G(z, None, noise_mode="const")
    w, distance, what = start_of(G, images[13:14], 20)
    torch.testing.assert_close(w, G.mapping(z[13:14], None)[:, :1])
    assert distance < 1e-6 and what == "the best of 20 samples"
    w, _, what = start_of(G, images[13:14], 0)
    assert torch.equal(w, projection.style_statistics(G, 100, torch.zeros([1, 0]))[0]) and what == "the mean style"


def test_the_search_in_a_grid_starts_from_the_best_sample_for_each_block():
    G = grid_generator()
    z = torch.randn([20, G.z_dim], generator=torch.Generator().manual_seed(3))
    w = G.mapping(z, None)[:, 0].reshape(20, 4, 4)
    mixed = torch.stack([w[4, 0], w[11, 1], w[4, 2], w[11, 3]]).reshape(1, 1, 16)
    target = G.synthesis(mixed.expand(-1, G.num_ws, -1), noise_mode="const")
    found, distance, what = start_of(G, target, 20)
    assert what == "the best of 20 samples for each block"
    nearest = min(float((image - target).square().mean()) for image in G(z, None, noise_mode="const"))
    assert distance < 0.5 * nearest


@pytest.mark.parametrize("options", [dict(num_steps=0), dict(num_candidates=-1), dict(noise_ramp_length=0)])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        ProjectionOptions(**options)


def test_the_function_of_the_host_keeps_its_signature_and_result(folder, monkeypatch):
    parameters = inspect.signature(projector.project).parameters
    defaults = {name: value.default for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert defaults == dict(
        num_steps=1000, w_avg_samples=10000, initial_learning_rate=0.1, initial_noise_factor=0.05,
        lr_rampdown_length=0.25, lr_rampup_length=0.05, noise_ramp_length=0.75, regularize_noise_weight=1e5,
        verbose=False, device=inspect.Parameter.empty, seed=303)
    monkeypatch.setenv("DNNLIB_DETECTORS", str(folder / "detectors"))
    G = tiny_generator(8)
    target = (image_of(G)[0] + 1) * 127.5
    ws = projector.project(G, target, num_steps=4, w_avg_samples=100, device=torch.device("cpu"))
    assert ws.shape == (4, G.num_ws, G.w_dim)


def test_perceptual_distance_sees_gray_as_rgb_reduces_large_images_and_counts_transparency():
    gray = torch.rand([2, 1, 512, 512]) * 2 - 1
    distance = PerceptualDistance(gray[:1], TinyVGG())(gray)
    reduced = torch.nn.functional.avg_pool2d(gray, 2).repeat(1, 3, 1, 1)
    torch.testing.assert_close(distance, PerceptualDistance(reduced[:1], TinyVGG())(reduced))
    rgba = torch.zeros([1, 4, 8, 8])
    assert PerceptualDistance(rgba, TinyVGG())(rgba + torch.tensor([0, 0, 0, 0.5])[:, None, None]) == 0.25


@pytest.mark.parametrize("extra", [[], ["--fit-noise=true"], ["--w-plus"]])
def test_generate_makes_the_projected_image_again(folder, tmp_path, extra):
    network = ["--network", folder / "ssn.pkl"]
    output = run_ok(*network, "--target", folder / "photo.png", "--loss=mse", "--num-steps=8", "--candidates=4",
                    "--save-video=false", *extra, "--outdir", tmp_path / "out dir")
    names = {path.name for path in (tmp_path / "out dir").iterdir()}
    assert names == {"target.png", "proj.png", "projected_w.npz", "proj-recipe.json"}
    command = shlex.split(output.splitlines()[-1].split(": ", 1)[1])
    assert command[:2] == ["python", "generate.py"]
    result = click.testing.CliRunner().invoke(generate.main, command[2:])
    assert result.exit_code == 0, result.output
    out = tmp_path / "out dir"
    assert (out / "proj00.png").read_bytes() == (out / "proj.png").read_bytes()
    saved = np.load(out / "projected_w.npz")
    assert saved["w"].shape == (1, 4, 16) and (len(saved.files) > 1) == ("--fit-noise=true" in extra)


def test_a_tuned_picture_can_be_redrawn_and_given_back(folder, tmp_path):
    """From a photograph to the photograph with an edit, in three commands that name no network but in the first."""
    rgb = np.random.RandomState(0).randint(0, 256, [30, 40, 3], dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "me.png")
    output = run_ok("--network", folder / "ssn.pkl", "--target", tmp_path / "me.png", "--num-steps=4", "--candidates=4",
                    "--save-video=false", "--tune", "--tune-steps=5", "--w-plus", "--center=12,15,20",
                    "--outdir", tmp_path)
    assert "so pixels and edges are compared" in output and "after tuning" in output
    recipe = f"--recipe={tmp_path}/proj-recipe.json"

    def run_generate(*options):
        result = click.testing.CliRunner().invoke(generate.main, [str(option) for option in options])
        assert result.exit_code == 0, result.output

    run_generate(recipe, f"--outdir={tmp_path}/again")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "again" / "proj.png")),
                          np.asarray(Image.open(tmp_path / "proj.png")))
    run_generate(recipe, "--resample-block=0,1", "--variants=1", f"--paste-into={tmp_path}/me.png")
    pasted = np.asarray(Image.open(tmp_path / "proj-v01-photo.png"))
    assert pasted.shape == rgb.shape and (pasted != rgb)[5:15, 12:22].any()
    assert np.array_equal(pasted[20:], rgb[20:]) and np.array_equal(pasted[:, 26:], rgb[:, 26:])


def test_the_same_seed_gives_the_same_files(folder, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_ok("--network", folder / "plain.pkl", "--target", folder / "photo.png", "--loss=mse", "--num-steps=3",
               "--candidates=0", "--save-video=false", "--seed", seed, "--outdir", tmp_path / name)
    a, b, c = (np.load(tmp_path / name / "projected_w.npz")["w"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


def test_the_film_shows_the_target_beside_every_step(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("training.images.video._ffmpegs", lambda: [])
    output = run_ok("--network", folder / "plain.pkl", "--target", folder / "photo.png", "--loss=mse", "--num-steps=7",
                    "--candidates=0", "--outdir", tmp_path)
    assert "films become animated WebP" in output and f"{tmp_path}/proj.webp\n" in output
    with Image.open(tmp_path / "proj.webp") as film:
        assert (film.n_frames, film.size) == (7, (512, 256))
        film.seek(6)
        last = np.asarray(film.convert("RGB")).astype(int)
    target, reached = (np.asarray(Image.open(tmp_path / name).resize((256, 256), Image.Resampling.NEAREST)).astype(int)
                       for name in ("target.png", "proj.png"))
    assert abs(last[:, :256] - target).mean() < 8 and abs(last[:, 256:] - reached).mean() < 8   # the codec loses some


def test_a_film_that_cannot_be_written_does_not_spoil_the_search(folder, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(projection_files, "save_film", fail)
    output = run_ok("--network", folder / "plain.pkl", "--target", folder / "photo.png", "--loss=mse", "--num-steps=2",
                    "--candidates=0", "--outdir", tmp_path)
    assert "Warning: no film was saved: No space left on device" in output
    assert (tmp_path / "projected_w.npz").exists() and (tmp_path / "proj.png").exists()


def test_a_conditional_network_projects_into_the_chosen_class(folder, tmp_path):
    run_ok("--network", folder / "gray.pkl", "--target", folder / "photo.png", "--loss=mse", "--num-steps=2",
           "--candidates=0", "--class=1", "--save-video=false", "--outdir", tmp_path)
    assert Image.open(tmp_path / "target.png").mode == "L"


def save_and_fit(path: Path, image: Image.Image, G: torch.nn.Module, **options) -> np.ndarray:
    image.save(path, **options)
    return projection_files.fit_to_network(projection_files.open_target(path), G)


def test_the_middle_of_the_target_is_used(tmp_path):
    wide = np.zeros([10, 30, 3], dtype=np.uint8)
    wide[:, 10:20] = 200
    assert (save_and_fit(tmp_path / "t.png", Image.fromarray(wide), tiny_generator(8)) == 200).all()
    high = np.zeros([30, 10, 3], dtype=np.uint8)
    high[12:17] = 200   # the middle 10x5, as the network's images are twice as wide as high
    pixels = save_and_fit(tmp_path / "t.png", Image.fromarray(high), wide_generator())
    assert pixels.shape == (8, 16, 4) and (pixels[2:6, :, :3] == 200).all()


def test_a_target_is_turned_upright_and_reduced_to_8_bits(tmp_path):
    top = np.zeros([8, 8, 3], dtype=np.uint8)
    top[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3   # turned by half
    pixels = save_and_fit(tmp_path / "t.png", Image.fromarray(top), tiny_generator(8), exif=exif)
    assert np.array_equal(pixels, top[::-1])
    deep = np.full([8, 8], 200 * 256 + 7, dtype=np.uint16)
    assert (save_and_fit(tmp_path / "t.png", Image.fromarray(deep), tiny_generator(8, channels=1)) == 200).all()


def test_transparency_becomes_black_where_the_network_has_none_as_in_data_sets(tmp_path):
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (save_and_fit(tmp_path / "t.png", clear, tiny_generator(8)) == 0).all()
    assert (save_and_fit(tmp_path / "t.png", clear, wide_generator())[:, :, 3] == 0).all()


REFUSALS = [
    (["--network=missing.pkl", "--target=photo.png"], "network missing.pkl is not an existing file"),
    (["--network=junk", "--target=photo.png", "--loss=mse"], "junk"),
    (["--network=plain.pkl"], "--target"),
    (["--network=plain.pkl", "--target=missing.png"], "target missing.png cannot be read: No such file"),
    (["--network=plain.pkl", "--target=detectors"], "target detectors cannot be read: Is a directory"),
    (["--network=plain.pkl", "--target=junk"], "target junk: not an image that Pillow knows"),
    (["--network=plain.pkl", "--target=cut.png"], "target cut.png: "),
    (["--network=plain.pkl", "--target=float.tiff"], "target float.tiff has Pillow's mode F; images must have 8 or 16"),
    (["--network=plain.pkl", "--target=photo.png", "--loss=lpips"],
     "cannot download the detector https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/vgg16.pt "
     "(no network); put vgg16.pt into a folder and name that with --detectors or $DNNLIB_DETECTORS, or compare pixels "
     "with --loss=edges or --loss=mse"),
    (["--network=plain.pkl", "--target=photo.png", "--crop=0,0,9,9", "--loss=mse"], "crop 0,0,9,9 is no part of the"),
    (["--network=plain.pkl", "--target=photo.png", "--crop=0,0,9,9", "--center=1,1"],
     "--crop cannot be combined with --center"),
    (["--network=plain.pkl", "--target=photo.png", "--tune"], "--tune is for networks whose images can be redrawn"),
    (["--network=plain.pkl", "--target=photo.png", "--detectors=missing"], "detector folder does not exist: missing"),
    (["--network=plain.pkl", "--target=photo.png", "--num-steps=0"], "--num-steps"),
    (["--network=plain.pkl", "--target=photo.png", "--candidates=-1"], "--candidates"),
    (["--network=plain.pkl", "--target=photo.png", "--loss=l1"], "--loss"),
    (["--network=plain.pkl", "--target=photo.png", "--device=tpu"], "device must be cpu, cuda or cuda:N, got 'tpu'"),
    (["--network=gray.pkl", "--target=photo.png", "--loss=mse"], "the network is conditional: choose one of its"),
    (["--network=gray.pkl", "--target=photo.png", "--loss=mse", "--class=3"], "--class must be in 0..2"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS, ids=[" ".join(options) for options, _ in REFUSALS])
def test_a_wrong_request_is_refused_in_one_line_before_anything_is_written(
    folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(folder)
    result = run(*options, "--outdir", tmp_path / "out")
    assert result.exit_code == 2
    errors = [line for line in result.output.splitlines() if not line.startswith("Note")]
    assert len(errors) == 1 and errors[0].startswith("Error: ") and message in errors[0], result.output
    assert not (tmp_path / "out").exists()


def test_help_ends_with_two_commands_that_run(folder, tmp_path, monkeypatch):
    (tmp_path / "network-snapshot.pkl").write_bytes((folder / "plain.pkl").read_bytes())
    (tmp_path / "photo.png").write_bytes((folder / "photo.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNNLIB_DETECTORS", str(folder / "detectors"))
    for command in run_ok("--help").rstrip().splitlines()[-2:]:
        python, script, *options = shlex.split(command)
        assert (python, script) == ("python", "projector.py")
        run_ok(*options, "--num-steps=3", "--candidates=4")
    assert {"target.png", "proj.png", "projected_w.npz"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert len(list((tmp_path / "out").glob("proj.*"))) == 2   # the image, and the film of the first command
