"""benchmarks/bound.py and benchmarks/distortion_bound.py: how low the distortion of blocks can be."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from network_file_helpers import generator, moved, snapshot

from benchmarks import distortion_bound as benchmark
from benchmarks.bound import distortion_bound, principal_components
from ssn_plugin.distortion import block_mask, mean_inside_change, mean_outside_change
from ssn_plugin.networks import SSNGenerator


def all_images(draw_image, num_blocks):
    """What a generator draws for each value, -1 or 1, of the latents of its blocks. [2^B, C, H, W]"""
    return torch.stack([draw_image(np.array(z)) for z in itertools.product([-1, 1], repeat=num_blocks)])


def exact_changes(images, grid):
    """Diversity and distortion of redrawing a block: the mean over all latents, all blocks and both new values."""
    num_blocks = grid[0] * grid[1]
    numbers = torch.arange(len(images))
    inside, outside = [], []
    for block in range(num_blocks):
        flipped = images[numbers ^ (1 << (num_blocks - 1 - block))]
        mask = block_mask(torch.full([len(images)], block), grid, *images.shape[2:])
        inside.append(mean_inside_change(images, flipped, mask).mean() / 2)  # half of the redraws repeat the old value
        outside.append(mean_outside_change(images, flipped, mask).mean() / 2)
    return float(np.mean(inside)), float(np.mean(outside))


def bound_of(images, grid):
    return distortion_bound(principal_components([images], grid), grid)


def pixels_of(block, grid, size):
    return block_mask(torch.tensor([block]), grid, *size)[0].double()[None]


CHECKERS = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]]).repeat(2, 1)
VOTE, LEADER, LOCAL, REMOTE, TWO = (  # 2x2 blocks, 4x6 pixels
    lambda z: torch.full([1, 4, 6], 0.1 * z.sum(), dtype=torch.float64),
    lambda z: torch.full([1, 4, 6], 0.1 * z[2], dtype=torch.float64),
    lambda z: 0.1 * z[1] * pixels_of(1, (2, 2), (4, 6)),
    lambda z: 0.1 * z[0] * pixels_of(3, (2, 2), (4, 6)),
    lambda z: LEADER(z) + 0.19 * z[1] * CHECKERS * pixels_of(1, (2, 2), (4, 6)),
)


@pytest.mark.parametrize("draw_image", [VOTE, LEADER, LOCAL, REMOTE], ids=["vote", "leader", "local", "remote"])
def test_the_bound_is_reached_by_a_vote_by_a_leader_by_a_block_alone_and_by_one_that_changes_another(draw_image):
    images = all_images(draw_image, 4)
    diversity, distortion = exact_changes(images, (2, 2))
    bound = bound_of(images, (2, 2))
    assert bound.largest_variance(distortion, diversity)[0] == pytest.approx(bound.variance[0])
    assert bound.least_distortion(diversity)[0] == pytest.approx(distortion, abs=1e-12)


def test_a_second_component_may_lie_in_a_block_that_has_little_of_the_first():
    images = all_images(TWO, 4)
    diversity, distortion = exact_changes(images, (2, 2))
    bound = bound_of(images, (2, 2))
    assert bound.inside[:2] == pytest.approx([0.5, 1]) and bound.outside[:2] == pytest.approx([1.5, 3**0.5])
    assert (bound.largest_variance(distortion, diversity) >= bound.variance).all()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), grid=st.sampled_from([(1, 2), (2, 2), (2, 3), (3, 1)]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 40)), reach=st.floats(0, 3),
)
def test_no_generator_is_below_the_bound(seed, grid, size, reach):
    """Whatever images belong to the latents, however the grid cuts the pixels, for any number of components."""
    num_blocks = grid[0] * grid[1]
    random = np.random.RandomState(seed)
    everywhere = torch.from_numpy(random.randn(2**num_blocks, 2, *size))     # any function of all latents
    local = torch.from_numpy(random.randn(2, num_blocks, 2, *size))
    masks = torch.stack([pixels_of(block, grid, size) for block in range(num_blocks)])
    common = torch.from_numpy(random.randn(2**num_blocks, 1, 1, 1))          # the same in all pixels
    images = reach * (everywhere / 3 + common) + all_images(
        lambda z: sum(local[(value + 1) // 2, i] * masks[i] for i, value in enumerate(z)), num_blocks)
    diversity, distortion = exact_changes(images, grid)
    bound = bound_of(images, grid)
    assert bound.least_distortion(diversity)[0] <= distortion * (1 + 1e-9) + 1e-12
    assert (bound.largest_variance(distortion, diversity) >= bound.variance * (1 - 1e-9)).all()


def test_a_network_of_the_least_distortion_has_just_the_variance_of_the_images():
    bound = bound_of(torch.randn([40, 3, 16, 16]) + torch.randn([40, 3, 1, 1]), (4, 4))
    least, num = bound.least_distortion(0.02)
    assert least > 0
    assert bound.largest_variance(least, 0.02)[num - 1] == pytest.approx(bound.variance[num - 1])
    assert bound.least_distortion(1e6)[0] == 0  # blocks that change enough have all the variance by themselves


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (7, 5)])
def test_projections_of_the_images_have_the_variances_of_the_components_in_any_batches(size):
    images = torch.randn([30, 3, *size]) * 0.3 + torch.randn([30, 1, 1, 1]) + 0.5
    components = principal_components(images.split(7), (4, 4), max_components=5)
    assert components.variances.shape == (5,) and (np.diff(components.variances) <= 0).all()
    np.testing.assert_allclose(components.project(images).numpy().var(axis=0), components.variances, rtol=1e-4)
    whole = principal_components([images], (4, 4), max_components=5)
    np.testing.assert_allclose(whole.variances, components.variances)
    assert components.cell_sizes.sum() == size[0] * size[1]


def test_variances_are_those_of_the_pixels_where_every_pixel_is_a_cell():
    images = torch.randn([50, 2, 8, 8], dtype=torch.float64)
    components = principal_components([images], (4, 4), max_components=1000)
    values = images.flatten(1).numpy()
    assert components.total == pytest.approx(values.var(axis=0).mean())
    expected = np.linalg.eigvalsh(np.cov(values.T, bias=True))[::-1] / values.shape[1]
    np.testing.assert_allclose(components.variances, expected, atol=1e-12)


@pytest.mark.parametrize("images", [[], [torch.zeros([1, 3, 8, 8])]])
def test_components_of_fewer_than_two_images_are_refused(images):
    with pytest.raises(ValueError, match=f"principal components need at least 2 images, got {len(images)}"):
        principal_components(images, (4, 4))


@pytest.mark.parametrize("shape", [[3, 16, 16], [1, 8, 8]])
def test_images_of_another_size_or_number_of_channels_have_no_projection(shape):
    components = principal_components([torch.randn([4, 3, 8, 8])], (2, 2))
    with pytest.raises(ValueError, match=r"images must have 192 values as those of the components, got \[\d"):
        components.project(torch.zeros([2, *shape]))


def test_a_single_block_has_no_bound():
    with pytest.raises(ValueError, match="distortion needs at least 2 blocks, got a grid of 1x1"):
        bound_of(torch.randn([4, 3, 8, 8]), (1, 1))


class AddingGenerator(torch.nn.Module):
    """Adds to all pixels the latents of a 2x2 grid, times 0.1, that of a global code, times 0.3, and a noise map."""

    z_dim, block_z_dim, c_dim, block_grid = 5, 1, 0, [[1, 1], [2, 2]]

    def __init__(self, noise_strength: float):
        super().__init__()
        self.mapping = lambda z, c: z
        self.synthesis = AddingSynthesis(noise_strength)


class AddingSynthesis(torch.nn.Module):
    noise_resolutions = (1,)

    def __init__(self, noise_strength: float):
        super().__init__()
        self.noise_strength = torch.nn.Parameter(torch.tensor(noise_strength))

    def forward(self, ws, noise):
        shared = 0.3 * ws[:, 0] + 0.1 * ws[:, 1:].sum(dim=1) + self.noise_strength * noise[0].flatten()
        return shared[:, None, None, None].expand(-1, 3, 8, 8)


def test_what_moves_the_components_of_a_network_is_told_apart(monkeypatch):
    monkeypatch.setattr(benchmark, "BATCH", 1000)  # does not divide the number of images
    images = torch.randn([20, 1, 1, 1]).expand(20, 3, 8, 8)
    components = principal_components([images], (2, 2))
    found = benchmark.measure_network(AddingGenerator(0.2), components, 1, 2500)
    expected = dict(variance=0.09 + 4 * 0.01 + 0.04, blocks=4 * 0.01, noise=0.04, global_code=0.09,
                    distortion=2 * 0.01, diversity=2 * 0.01)
    assert found == pytest.approx(expected, rel=0.1)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images that share their brightness, and networks."""
    folder = tmp_path_factory.mktemp("bound")
    (folder / "images").mkdir()
    random = np.random.RandomState(0)
    for i in range(12):
        pixels = (random.randint(0, 40, [16, 16, 3]) + random.randint(0, 200)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
    ssn = SSNGenerator(4, 0, 4, 16, 3, block_grid=[[1, 1], [2, 2]], mapping_kwargs=dict(num_layers=2),
                       synthesis_kwargs=dict(channel_base=64, channel_max=8))  # fmt: skip
    for name, G in (("ssn", moved(ssn)), ("stylegan2", generator(resolution=16))):
        with open(folder / f"{name}.pkl", "wb") as file:
            pickle.dump(snapshot(G), file)
    return folder


def run(folder, *options):
    return CliRunner().invoke(benchmark.main, [f"--data={folder / 'images'}", *options])


def test_images_alone_have_a_table_of_the_least_distortion(folder):
    result = run(folder, "--diversity=0.01,100")
    assert result.exit_code == 0, result.output
    rows = [line.split(" | ") for line in result.stdout.splitlines() if line.startswith("| 0.01 | ")]
    assert len(rows) == 1 and float(rows[0][1]) >= float(rows[0][3].rstrip(" |")) > 0
    assert result.stdout.splitlines()[-1].startswith("| 100 | 0.0000 |")


def test_networks_are_compared_and_drawn(folder, tmp_path):
    result = run(folder, "--blocks=1x1+2x2", f"--network=an ssn={folder / 'ssn.pkl'}", "--point=elsewhere=0.001,0.02",
                 "--components=2", "--pairs=8", f"--outdir={tmp_path / 'out'}", "--device=cpu")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "distortion_bound.json").read_text())
    assert content["components"] == 2 and list(content["networks"]) == ["an ssn", "elsewhere"]
    measured, point = content["networks"].values()
    assert list(point) == ["distortion", "diversity", "at_most"]
    bound = bound_of(torch.cat([*benchmark.image_batches(str(folder / "images"))]), (2, 2))
    assert point["at_most"] == pytest.approx(bound.largest_variance(0.001, 0.02)[1] / bound.variance[1])
    assert min(measured[key] for key in ("variance", "blocks", "noise", "global_code")) > 0
    assert [line for line in result.stdout.splitlines() if line.startswith("| elsewhere")] == [
        f"| elsewhere | 0.001 | 0.02 | - | {point['at_most']:.1%} | - | - | - |"]
    pytest.importorskip("matplotlib")
    assert PIL.Image.open(tmp_path / "out" / "distortion_bound.png").size == (768, 480)


@pytest.mark.parametrize(("options", "message"), [
    (["--diversity=0.1,-1"], "--diversity must be some numbers from 0 with commas between, got '0.1,-1'"),
    (["--diversity=nan"], "--diversity must be some numbers from 0 with commas between, got 'nan'"),
    (["--point=a=1"], "--point must be 2 numbers from 0 with commas between, got '1'"),
    (["--point=a"], "--point must be NAME=..., got 'a'"),
    (["--network=={folder}/ssn.pkl"], "--network must be NAME=..., got '={folder}/ssn.pkl'"),
    (["--network=a={folder}/ssn.pkl", "--point=a=1,1"], "--point must have a name of its own, got a twice"),
    (["--blocks=4"], "--blocks must be rows x columns such as 4x4, got 4"),
    (["--blocks=4x32"], "a block grid must have 1 to 16 rows and 1 to 16 columns, got 4x32"),
    (["--blocks=0x4"], "a block grid must have 1 to 16 rows and 1 to 16 columns, got 0x4"),
    (["--blocks=1x1"], "distortion needs at least 2 blocks, got a grid of 1x1"),
    (["--network=a={folder}/ssn.pkl"], "--blocks must be the 2x2 of a, got 4x4"),
    (["--network=a={folder}/stylegan2.pkl"],
     "a has no block grid: only Spatially Stochastic Networks (train.py --cfg=ssn) have one"),
])
def test_wrong_options_are_refused_and_nothing_is_written(folder, tmp_path, options, message):
    options = [option.format(folder=folder) for option in options]
    result = run(folder, *options, f"--outdir={tmp_path / 'out'}", "--device=cpu")
    assert (result.exit_code, result.stderr) == (2, f"Error: {message.format(folder=folder)}\n")
    assert not (tmp_path / "out").exists()
