"""style_mixing.py: images that share their styles between two seeds."""

from __future__ import annotations

import shlex
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
from metric_fixtures import tiny_generator, write_snapshot
from PIL import Image

import style_mixing
from ssn_plugin.networks import SSNGenerator
from training.images import generation
from training.images import style_mixing as library
from training.networks import Generator

SMALL = dict(channel_base=64, channel_max=8)


def grid_generator() -> SSNGenerator:
    torch.manual_seed(0)
    G = SSNGenerator(4, 0, 4, 8, 3, block_grid=[[2, 2]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                     synthesis_kwargs=SMALL)
    return with_mean_style(G)


def deep_generator() -> Generator:
    """RGBA images of 32x32 pixels, eight layers."""
    torch.manual_seed(0)
    G = Generator(z_dim=4, c_dim=0, w_dim=4, img_resolution=32, img_channels=4, mapping_kwargs=dict(num_layers=2),
                  synthesis_kwargs=SMALL)
    return with_mean_style(G)


def with_mean_style(G: torch.nn.Module) -> torch.nn.Module:
    G.mapping.w_avg.copy_(torch.randn(G.mapping.w_avg.shape))
    return G.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Networks of 8x8 pixels and four layers, and one of 32x32 and eight."""
    folder = tmp_path_factory.mktemp("mixing")
    write_snapshot(folder / "plain.pkl", with_mean_style(tiny_generator(8)), data=None)
    write_snapshot(folder / "ssn.pkl", grid_generator(), data=None)
    write_snapshot(folder / "gray.pkl", tiny_generator(8, channels=1, c_dim=3), data=None)
    write_snapshot(folder / "deep.pkl", deep_generator(), data=None)
    (folder / "junk").write_bytes(b"junk")
    return folder


def run(*args: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(style_mixing.main, [str(arg) for arg in args])


def run_ok(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@torch.no_grad()
def mixture(G: torch.nn.Module, row: int, column: int, styles: list[int], psi: float = 1) -> np.ndarray:
    """The host's rule, written out: w of every seed, truncated on all layers, the chosen ones from the column."""
    z = torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, G.z_dim) for seed in (row, column)]))
    w = G.mapping(z, torch.zeros([2, 0]))
    w = G.mapping.w_avg + (w - G.mapping.w_avg) * psi
    w[0, styles] = w[1, styles]
    return generation.to_uint8(G.synthesis(w[:1], noise_mode="const"))[0]


@pytest.mark.parametrize(("network", "make"), [("plain.pkl", lambda: with_mean_style(tiny_generator(8))),
                                               ("ssn.pkl", grid_generator)])
def test_chosen_styles_come_from_the_column_and_the_others_from_the_row(folder, tmp_path, network, make):
    output = run_ok("--network", folder / network, "--rows=5,7", "--cols=1-3", "--styles=0,2-3", "--trunc=0.7",
                    "--outdir", tmp_path)
    G = make()
    pairs = [*((seed, seed) for seed in (5, 7, 1, 2, 3)), *((row, column) for row in (5, 7) for column in (1, 2, 3))]
    names = [f"{row}-{column}.png" for row, column in pairs] + ["grid.png"]
    assert output.splitlines() == [str(tmp_path / name) for name in names]
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for row, column in [(5, 1), (7, 3), (5, 5), (2, 2)]:
        expected = mixture(G, row, column, [0, 2, 3], psi=0.7)
        assert abs(pixels(tmp_path / f"{row}-{column}.png").astype(int) - expected).max() <= 1


def test_the_grid_has_the_sources_around_a_black_corner(folder, tmp_path):
    run_ok("--network", folder / "plain.pkl", "--rows=5,7", "--cols=1-3", "--outdir", tmp_path)
    grid = pixels(tmp_path / "grid.png")
    assert grid.shape == (3 * 8, 4 * 8, 3) and not grid[:8, :8].any()
    names = [["1-1", "2-2", "3-3"], ["5-5", "5-1", "5-2", "5-3"], ["7-7", "7-1", "7-2", "7-3"]]
    for row, line in enumerate(names):
        for column, name in enumerate(line, start=1 if row == 0 else 0):
            tile = grid[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            assert np.array_equal(tile, pixels(tmp_path / f"{name}.png")), name


def test_a_seed_in_rows_and_columns_is_written_once(folder, tmp_path):
    output = run_ok("--network", folder / "plain.pkl", "--rows=5,7", "--cols=5", "--outdir", tmp_path)
    assert output.splitlines() == [str(tmp_path / name) for name in ("5-5.png", "7-7.png", "7-5.png", "grid.png")]
    grid = pixels(tmp_path / "grid.png")
    for top, left in ((0, 8), (8, 0), (8, 8)):
        assert np.array_equal(grid[top : top + 8, left : left + 8], pixels(tmp_path / "5-5.png"))


def test_a_source_is_the_image_of_its_seed(folder, tmp_path):
    run_ok("--network", folder / "plain.pkl", "--rows=5", "--cols=1", "--trunc=0.5", "--outdir", tmp_path)
    G = with_mean_style(tiny_generator(8))
    for path in generation.save_seeds(G, [5], None, 0.5, "const", tmp_path):
        assert np.array_equal(pixels(Path(path)), pixels(tmp_path / "5-5.png"))


def test_half_of_the_layers_are_mixed_but_no_more_than_seven(folder, tmp_path):
    assert library.default_styles(18) == library.default_styles(14) == [0, 1, 2, 3, 4, 5, 6]
    assert library.default_styles(10) == [0, 1, 2, 3, 4]
    assert library.default_styles(4) == [0, 1]
    run_ok("--network", folder / "deep.pkl", "--rows=5", "--cols=1", "--outdir", tmp_path)
    assert np.array_equal(pixels(tmp_path / "5-1.png"), mixture(deep_generator(), 5, 1, [0, 1, 2, 3]))


def test_the_corner_is_black_also_with_transparency(folder, tmp_path):
    run_ok("--network", folder / "deep.pkl", "--rows=5", "--cols=1", "--outdir", tmp_path)
    assert (pixels(tmp_path / "grid.png")[:32, :32] == [0, 0, 0, 255]).all()


def test_noise_is_chosen_and_random_noise_is_that_of_the_row(folder, tmp_path):
    for mode in ("const", "none", "random"):
        run_ok("--network", folder / "plain.pkl", "--rows=5,6", "--cols=1", "--noise-mode", mode, "--outdir",
               tmp_path / mode)
    run_ok("--network", folder / "plain.pkl", "--rows=6", "--cols=1", "--noise-mode=random", "--outdir", tmp_path / "b")
    images = {mode: pixels(tmp_path / mode / "6-1.png").tobytes() for mode in ("const", "none", "random", "b")}
    assert len(set(images.values())) == 3 and images["random"] == images["b"]


def test_a_conditional_network_mixes_within_the_chosen_class(folder, tmp_path):
    run_ok("--network", folder / "gray.pkl", "--rows=5", "--cols=1", "--class=1", "--outdir", tmp_path)
    G = tiny_generator(8, channels=1, c_dim=3)
    img = G(generation.seed_to_z(5, G.z_dim), torch.eye(3)[1:2], noise_mode="const")
    assert np.array_equal(pixels(tmp_path / "5-5.png"), generation.to_uint8(img)[0, :, :, 0])


def test_a_class_for_an_unconditional_network_is_a_warning(folder, tmp_path):
    output = run_ok("--network", folder / "plain.pkl", "--rows=5", "--cols=1", "--class=1", "--outdir", tmp_path)
    assert "Warning: --class has no effect" in output


@pytest.mark.parametrize(("text", "styles"), [
    ("3", [3]), ("5,1", [1, 5]), ("0-3", [0, 1, 2, 3]), ("2-3, 0-2", [0, 1, 2, 3]),
])
def test_style_lists_mix_numbers_and_ranges(text, styles):
    assert library.parse_styles(text) == styles


SEEDS = ["--rows=1", "--cols=2"]
REFUSALS = [
    (["--network=missing.pkl", *SEEDS], "network missing.pkl is not an existing file"),
    (["--network=junk", *SEEDS], "junk"),
    (["--network=plain.pkl", "--rows=1"], "--cols"),
    (["--network=plain.pkl", "--rows=a", "--cols=2"], "seeds must look like 3 or 1,5,9 or 0-7, got 'a'"),
    (["--network=plain.pkl", "--rows=0-9999", "--cols=0-999"],
     "at most 536870912 pixels, got 10000 rows and 1000 columns of 8x8"),
    (["--network=plain.pkl", *SEEDS, "--styles="], "styles must look like 3 or 1,5 or 0-6, got ''"),
    (["--network=plain.pkl", *SEEDS, "--styles=3-1"], "styles must look like 3 or 1,5 or 0-6, got '3-1'"),
    (["--network=plain.pkl", *SEEDS, "--styles=-1"], "styles must look like 3 or 1,5 or 0-6, got '-1'"),
    (["--network=plain.pkl", *SEEDS, "--styles=0-6"], "styles must be in 0..3 for this network, got 6"),
    (["--network=plain.pkl", *SEEDS, "--trunc=inf"], "--trunc must be finite, got inf"),
    (["--network=plain.pkl", *SEEDS, "--trunc=1e39"], "--trunc must be within -1000000..1000000, got 1e+39"),
    (["--network=plain.pkl", *SEEDS, "--noise-mode=some"], "--noise-mode"),
    (["--network=plain.pkl", *SEEDS, "--device=tpu"], "device must be cpu, cuda or cuda:N, got 'tpu'"),
    (["--network=gray.pkl", *SEEDS], "the network is conditional: choose one of its classes with --class=0..2"),
    (["--network=gray.pkl", *SEEDS, "--class=-1"], "--class must be in 0..2 for this network, got -1"),
]


@pytest.mark.parametrize(("options", "message"), REFUSALS, ids=[" ".join(options) for options, _ in REFUSALS])
def test_a_wrong_request_is_refused_in_one_line_before_anything_is_written(
    folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(folder)
    result = run(*options, "--outdir", tmp_path / "out")
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_help_ends_with_two_commands_that_run(folder, tmp_path, monkeypatch):
    (tmp_path / "network-snapshot.pkl").write_bytes((folder / "deep.pkl").read_bytes())
    monkeypatch.chdir(tmp_path)
    for command in run_ok("--help").rstrip().splitlines()[-2:]:
        python, script, *options = shlex.split(command)
        assert (python, script) == ("python", "style_mixing.py")
        run_ok(*options)
    assert (tmp_path / "out" / "100-821.png").exists() and (tmp_path / "out" / "3-7.png").exists()
