"""Images that are higher than wide or the reverse, and images of 1, 3 and 4 channels: data, networks, whole runs."""

from __future__ import annotations

import io
import itertools
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner

import calc_metrics
import dataset_tool
import generate
import legacy
import projector
import style_mixing
import train
from ssn_plugin import networks as ssn
from ssn_plugin.edits.edit_options import EditRequest, Mask
from ssn_plugin.edits.resample import region_weight, start_recipes
from training import networks
from training.augment import AugmentPipe
from training.config import UserError, auto_spec, setup_training_loop_kwargs
from training.data.image_size import is_possible_size
from training.dataset import ImageFolderDataset
from training.formats.network_export import save_networks
from training.network_files import load_networks
from training.training_loop import training_loop

SMALL = dict(channel_base=64, channel_max=8)
ARCHITECTURES = ("skip", "resnet", "orig")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
WIDE = [8, 12]   # height and width of most images here; they grow from 4x6


def generator(size: Any = WIDE, channels: int = 3, c_dim: int = 0, **synthesis: Any) -> Any:
    G = networks.Generator(
        8, c_dim, 8, size, channels, mapping_kwargs=dict(num_layers=2), synthesis_kwargs={**SMALL, **synthesis})
    return disturbed(G.eval())


def ssn_generator(size: Any = WIDE, grid: Any = (2, 3), channels: int = 3, **synthesis: Any) -> Any:
    G = ssn.SSNGenerator(8, 0, 8, size, channels, block_grid=[list(grid)], mapping_kwargs=dict(num_layers=2),
                         synthesis_kwargs={**SMALL, **synthesis})
    return disturbed(G.eval())


def discriminator(size: Any = WIDE, channels: int = 3, c_dim: int = 0, **kwargs: Any) -> Any:
    return disturbed(networks.Discriminator(c_dim, size, channels, **{**SMALL, **kwargs}))


def disturbed(module: torch.nn.Module) -> torch.nn.Module:
    """The module with noise and biases that are not zero."""
    for name, parameter in module.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.data += 0.2
    return module


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write_images(folder: Path, size: list[int], channels: int = 3, count: int = 12) -> str:
    """A folder of random images; `size` is height and width."""
    folder.mkdir()
    rnd = np.random.RandomState(0)
    for i in range(count):
        pixels = rnd.randint(256, size=[*size, channels], dtype=np.uint8)
        PIL.Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(folder / f"{i}.png")
    return str(folder)


def run(command: Any, *args: Any) -> str:
    result = CliRunner().invoke(command, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.output


# Sizes.


@pytest.mark.parametrize("size, names, smallest", [
    ([64, 96], [4, 8, 16, 32, 64], [4, 6]), ([96, 64], [4, 8, 16, 32, 64], [6, 4]), ([8, 16], [4, 8], [4, 8]),
    ([8, 12], [4, 8], [4, 6]), ([20, 24], [4, 8, 16], [5, 6]), ([576, 1024], [4, 8, 16, 32, 64, 128, 256], [9, 16]),
    ([64, 1024], [4, 8, 16, 32, 64], [4, 64]),
])
def test_a_rectangle_grows_from_the_smallest_grid_of_its_shape_with_four_cells_a_side(size, names, smallest):
    for module in (networks, ssn):
        sizes = module.block_sizes(size)
        assert list(sizes) == names
        assert list(sizes.values()) == [[side * 2**i for side in smallest] for i in range(len(names))]
        assert sizes[names[-1]] == size


@pytest.mark.parametrize("side", [4, 8, 64, 1024])
def test_squares_are_told_by_one_number(side):
    powers = [2**i for i in range(2, int(math.log2(side)) + 1)]
    for module in (networks, ssn):
        assert module.block_sizes(side) == module.block_sizes([side, side]) == {power: power for power in powers}
    if side == 8:
        assert generator([side, side]).img_resolution == discriminator((side, side)).img_resolution == side


def test_networks_can_be_built_for_every_size_that_data_may_have():
    for height, width in itertools.product(range(8, 132, 4), repeat=2):
        if is_possible_size(width, height):
            sizes = networks.block_sizes([height, width])
            assert sizes == ssn.block_sizes([height, width]) and len(sizes) >= 2
            ssn.check_block_grid([[4, 4]], [height, width])  # the default fits
            assert math.prod(networks.side_lengths(sizes[4])) <= 16 * 16


@pytest.mark.parametrize("size, nearest", [
    ([64, 96], 64), ([96, 96], 128), ([95, 96], 64), ([8, 16], 8), ([4, 64], 16), ([1024, 1920], 1024), ([32, 32], 32),
])
def test_the_nominal_side_is_the_power_of_two_nearest_to_the_side_of_a_square_of_that_area(size, nearest):
    assert networks.nominal_side(size) == ssn.nominal_side(size) == nearest
    assert abs(nearest - math.sqrt(math.prod(size))) == min(
        abs(2**i - math.sqrt(math.prod(size))) for i in range(12))


def test_layers_of_a_rectangle_are_as_wide_as_those_of_the_square_nearest_in_area():
    wide, square = (networks.Generator(8, 0, 8, size, 3, synthesis_kwargs=dict(channel_base=512, channel_max=32))
                    for size in ([32, 48], 32))
    widths = [[getattr(G.synthesis, f"b{name}").conv1.weight.shape[0] for name in G.synthesis.block_resolutions]
              for G in (wide, square)]
    assert widths[0] == widths[1] == [32, 32, 32, 16]


@pytest.mark.parametrize("make, message", [
    (lambda: generator([10, 16]), "sides of rectangular images must be multiples of 4, got 16x10"),
    (lambda: generator([0, 16]), "sides of rectangular images must be multiples of 4, got 16x0"),
    (lambda: generator([24, 24]), "image resolution must be a power of two and at least 4, got 24"),
    (lambda: discriminator([4, 8]), "a discriminator needs images of at least 8x8 pixels, got 8x4"),
    (lambda: ssn_generator(WIDE, (3, 2)), "grid 3x2 does not divide the 12x8 image: 3 rows must divide 8"),
])
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Networks.


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_every_parameter(architecture, channels):
    G = generator(channels=channels, architecture=architecture)
    S = ssn_generator(channels=channels, architecture=architecture)
    D = discriminator(channels=channels, architecture=architecture)
    for net, latents in ((G, normal(2, 8)), (S, normal(2, 48))):
        img = net(latents, None, noise_mode="random")
        assert img.shape == (2, channels, *WIDE)
        for module in (net, D):
            module.zero_grad()
        D(img, None).sum().backward()
        for name, parameter in [*net.named_parameters(), *D.named_parameters()]:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def transpose(module: torch.nn.Module, like: torch.nn.Module) -> None:
    """Give `module` the weights of `like` with height and width exchanged."""
    state = {}
    for name, value in like.state_dict().items():
        if name == "b4.fc.weight":
            height, width = like.b4.resolution
            value = value.reshape(len(value), -1, height, width).transpose(2, 3).reshape(value.shape)
        elif value.ndim >= 3 or name.endswith("noise_const"):
            value = value.transpose(-1, -2)
        state[name] = value
    module.load_state_dict(state)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_network_turned_on_its_side_makes_the_image_turned_on_its_side(architecture):
    """Nowhere is a height taken for a width."""
    wide, high = (generator(size, architecture=architecture) for size in ([8, 12], [12, 8]))
    transpose(high, wide)
    z = normal(2, 8)
    img = wide(z, None, noise_mode="const")
    torch.testing.assert_close(high(z, None, noise_mode="const"), img.transpose(2, 3), atol=1e-5, rtol=1e-5)
    D_wide, D_high = (discriminator(size, architecture=architecture) for size in ([8, 12], [12, 8]))
    transpose(D_high, D_wide)
    torch.testing.assert_close(D_high(img.transpose(2, 3), None), D_wide(img, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, dict(style_resolution=0), dict(style_resolution=4), dict(encoder="none")])
def test_an_ssn_turned_on_its_side_makes_the_image_turned_on_its_side(options):
    wide, high = ssn_generator([16, 24], (2, 3), **options), ssn_generator([24, 16], (3, 2), **options)
    transpose(high, wide)
    z = normal(2, 2, 3, 8)
    img = wide(z.reshape(2, -1), None, noise_mode="const")
    turned = high(z.transpose(1, 2).reshape(2, -1), None, noise_mode="const")
    torch.testing.assert_close(turned, img.transpose(2, 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("grid, gate", [((1, 1), 1.0), ((4, 4), 0.0), ((2, 3), 0.0), ((4, 6), 0.0)])
def test_equal_blocks_give_the_image_of_stylegan2(architecture, grid, gate):
    G = ssn_generator([16, 24], grid, architecture=architecture, encoder_gate=gate)
    plain = generator([16, 24], architecture=architecture)
    state = {name: value for name, value in G.state_dict().items() if "encoder" not in name and name != "mapping.w_avg"}
    plain.load_state_dict(dict(state, **{"mapping.w_avg": torch.zeros(8)}))
    z = normal(2, 8)
    expected = plain(z, None, noise_mode="const")
    actual = G(z.repeat(1, math.prod(grid)), None, noise_mode="const")
    torch.testing.assert_close(actual, expected, atol=2e-5 * float(expected.detach().abs().max()), rtol=0)


@pytest.mark.parametrize("grid, side, expected", [
    ((4, 4), 256, 16), ((4, 4), 64, 16), ((2, 2), 64, 16), ((8, 8), 256, 32), ((16, 4), 256, 64),   # 4 for each cell
    ((4, 4), 32, 8), ((2, 2), 32, 8), ((2, 2), 16, 4), ((8, 8), 64, 16),                            # a quarter
    ((4, 4), 16, 8), ((1, 4), 16, 8), ((8, 8), 16, 16), ((1, 1), 64, 1),                            # 2 for each cell
])
def test_style_maps_of_squares_resolve_the_cells_in_at_most_a_quarter_of_the_image(grid, side, expected):
    assert ssn.default_style_level([grid], side) == expected


def test_style_maps_of_rectangles_have_the_shape_of_the_image():
    G = ssn_generator([32, 48], (4, 6))
    shapes = [tuple(style.shape[2:]) for style in G.synthesis.encode(normal(1, G.num_ws, G.w_dim))]
    assert G.synthesis.style_level == 8   # 8x12, which is 2x2 pixels for each block
    assert shapes == 2 * [(4, 6)] + 6 * [(8, 12)]
    assert G.synthesis.noise_resolutions == [[4, 6]] + 2 * [[8, 12]] + 2 * [[16, 24]] + 2 * [[32, 48]]


@pytest.mark.parametrize("trust", [False, True])
def test_a_snapshot_makes_the_same_images_when_it_is_loaded_again(trust):
    G, S, D = generator(channels=4), ssn_generator(), discriminator(c_dim=2)
    file = io.BytesIO(pickle.dumps(dict(G=S, D=D, G_ema=G, augment_pipe=None, training_set_kwargs=None)))
    loaded = legacy.load_network_pkl(file, trust=trust)
    assert loaded["G_ema"].img_resolution == loaded["D"].img_resolution == WIDE
    torch.testing.assert_close(loaded["G_ema"](normal(1, 8), None, noise_mode="const"),
                               G(normal(1, 8), None, noise_mode="const"))
    torch.testing.assert_close(loaded["G"](normal(1, 48), None, noise_mode="const"),
                               S(normal(1, 48), None, noise_mode="const"))
    img, c = normal(2, 3, *WIDE), torch.eye(2)
    torch.testing.assert_close(loaded["D"](img, c), D(img, c))


def test_safetensors_hold_rectangles_and_rosinality_checkpoints_refuse_them(tmp_path):
    networks_of = dict(G=generator(), D=discriminator(), G_ema=generator())
    save_networks(networks_of, tmp_path / "net.safetensors")
    assert load_networks(str(tmp_path / "net.safetensors"))["G_ema"].img_resolution == WIDE
    with pytest.raises(ValueError, match=r"cannot hold this network: its images are not square"):
        save_networks(networks_of, tmp_path / "net.pt")


# Data and options.


def test_a_data_set_says_what_networks_and_the_host_want_to_know(tmp_path):
    wide = ImageFolderDataset(write_images(tmp_path / "wide", WIDE, channels=4), resolution=WIDE)
    square = ImageFolderDataset(write_images(tmp_path / "square", [8, 8]), resolution=[8, 8])
    assert wide.image_shape == [4, 8, 12] and wide.img_resolution == WIDE and wide.num_channels == 4
    assert square.img_resolution == square.resolution == 8
    with pytest.raises(ValueError, match="wide: images must be square, they are 12x8"):
        wide.resolution  # noqa: B018 - a property
    with pytest.raises(OSError, match="images must be 8x12, .* is 12x8"):
        ImageFolderDataset(str(tmp_path / "wide"), resolution=[12, 8])


@pytest.mark.parametrize("cfg", ["auto", "ssn", "paper256"])
def test_options_of_a_rectangle_are_those_of_the_square_nearest_in_area(tmp_path, cfg):
    trees = []
    for name, size in (("wide", [32, 48]), ("square", [32, 32])):
        _desc, args = setup_training_loop_kwargs(data=write_images(tmp_path / name, size), cfg=cfg, gpus=1)
        trees.append(args)
    assert trees[0].training_set_kwargs.resolution == [32, 48] and trees[1].training_set_kwargs.resolution == 32
    for args in trees:
        del args.training_set_kwargs.path, args.training_set_kwargs.resolution
    assert trees[0] == trees[1]


def test_the_full_resolution_has_as_many_channels_as_were_asked_for(tmp_path):
    _desc, args = setup_training_loop_kwargs(data=write_images(tmp_path / "wide", [32, 48]), cfg="ssn", channels=8)
    args.G_kwargs.pop("class_name")
    G = ssn.SSNGenerator(c_dim=0, img_resolution=[32, 48], img_channels=3, **args.G_kwargs)
    assert G.synthesis.b32.conv1.weight.shape[0] == 8 and G.synthesis.b16.conv1.weight.shape[0] == 16


@pytest.mark.parametrize("size, options, message", [
    ([8, 10], {}, "got 10x8; 8x8 is near and possible"),
    ([16, 24], dict(augpipe="bgcf"), "--augpipe filters images of more than 21 pixels only, got bgcf"),
    ([16, 24], dict(cfg="ssn", blocks="3x2"), "grid 3x2 does not divide the 24x16 image"),
])
def test_options_that_do_not_fit_a_rectangle_are_refused(tmp_path, size, options, message):
    with pytest.raises(UserError) as caught:
        setup_training_loop_kwargs(data=write_images(tmp_path / "images", size), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_colour_augmentation_leaves_opacity_alone():
    pipe = AugmentPipe(brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
    img = normal(8, 4, *WIDE).clamp(-1, 1)
    torch.manual_seed(3)
    with_opacity = pipe(img)
    torch.manual_seed(3)
    torch.testing.assert_close(with_opacity, torch.cat([pipe(img[:, :3]), img[:, 3:]], dim=1))
    assert (with_opacity[:, :3] - img[:, :3]).abs().mean() > 0.05


def test_a_mask_must_have_the_size_of_the_image_and_blocks_own_their_part_of_it():
    G = ssn_generator(WIDE, (2, 3)).requires_grad_(False)
    recipes = start_recipes(G, "net", [0], None, 1.0, "const")
    fitting, turned = (Mask("m.png", np.full(size, 255, np.uint8)) for size in (WIDE, WIDE[::-1]))
    with pytest.raises(ValueError, match="mask m.png is 8x12, the image 12x8"):
        EditRequest(mask=turned, num_variants=1).add_to(recipes, G, "net")
    (recipe,) = EditRequest(mask=fitting, num_variants=1).add_to(recipes, G, "net")
    assert region_weight(G, recipe.variants[0]).tolist() == np.ones(WIDE).tolist()
    (recipe,) = EditRequest(blocks="1,2", num_variants=1).add_to(recipes, G, "net")
    expected = np.zeros(WIDE)
    expected[4:, 8:] = 1
    assert region_weight(G, recipe.variants[0]).tolist() == expected.tolist()


# Whole runs.


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory) -> dict[int, Path]:
    """Snapshots of small runs on wide images, an SSN each, by the number of channels."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs")
    return {channels: run_tiny(folder / str(channels), channels) for channels in (1, 3, 4)}


SSN_OPTIONS = dict(cfg="ssn", blocks="2x3", block_dim=8, channels=4)


def run_tiny(folder: Path, num_channels: int, size: list[int] = WIDE, options: dict[str, Any] = SSN_OPTIONS) -> Path:
    """dataset_tool.py, the options of train.py and a few of its steps. Returns the last snapshot."""
    folder.mkdir()
    source = write_images(folder / "source", [17, 31], num_channels)
    run(dataset_tool.main, f"--source={source}", f"--dest={folder / 'data.zip'}",
        f"--resolution={size[1]}x{size[0]}", f"--force-channels={num_channels}")
    _desc, args = setup_training_loop_kwargs(data=str(folder / "data.zip"), gpus=0, batch=4, metrics=[], **options)
    if options["cfg"] == "auto":  # there is no option for small networks
        args.G_kwargs.update(z_dim=8, w_dim=8)
        for kwargs in (args.G_kwargs.synthesis_kwargs, args.D_kwargs):
            kwargs.update(SMALL)
    run_dir = folder / "run"
    run_dir.mkdir()
    (run_dir / "training_options.json").write_text(json.dumps(args))
    args.update(run_dir=str(run_dir), total_kimg=0.012, kimg_per_tick=1, image_snapshot_ticks=1,
                network_snapshot_ticks=1, preview_size=(3, 2))
    training_loop(**args)
    preview = PIL.Image.open(run_dir / "fakes_init.png")
    assert preview.size == (3 * size[1], 2 * size[0]) and preview.mode == MODES[num_channels]
    return max(run_dir.glob("network-snapshot-*.pkl"))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_blocks_of_a_trained_rectangle_can_be_redrawn(snapshots, tmp_path, channels):
    common = [f"--network={snapshots[channels]}", f"--outdir={tmp_path}", "--seeds=1", "--variants=2"]
    run(generate.main, *common, "--resample-block=1,2", "--resample-noise")
    original, variant = (PIL.Image.open(tmp_path / f"seed0001{suffix}.png") for suffix in ("", "-v01"))
    assert original.mode == MODES[channels] and original.size == (12, 8)
    change = np.abs(np.asarray(original, dtype=float) - np.asarray(variant)).reshape(8, 12, -1).mean(axis=2)
    assert change[4:, 8:].mean() > change[:4, :4].mean()
    assert {"seed0001-sheet.png", "seed0001-change.png"} <= {path.name for path in tmp_path.iterdir()}
    PIL.Image.fromarray(np.eye(8, 12, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    run(generate.main, *common, f"--resample-mask={tmp_path / 'mask.png'}")


def test_every_other_command_takes_a_trained_rectangle(snapshots, tmp_path):
    network = f"--network={snapshots[4]}"
    out = f"--outdir={tmp_path}"
    run(generate.main, network, out, "--seeds=0-1", "--trunc-grid=0.5,1")
    run(generate.main, network, out, "--seeds=0-1", "--interpolate=2")
    run(style_mixing.main, network, out, "--rows=0", "--cols=1,2")
    assert PIL.Image.open(tmp_path / "grid.png").size == (3 * 12, 2 * 8)
    run(generate.main, network, out, "--seeds=3")
    run(projector.main, network, out, f"--target={tmp_path / 'seed0003.png'}", "--loss=mse", "--num-steps=3",
        "--candidates=4", "--save-video=false")
    assert PIL.Image.open(tmp_path / "proj.png").size == (12, 8)
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "target.png"), PIL.Image.open(tmp_path / "seed0003.png"))


@pytest.mark.parametrize("channels", [1, 4])
def test_metrics_measure_a_trained_rectangle(snapshots, channels):
    """Without a data set of its own the metric takes that of the snapshot, whose size must be found again."""
    printed = run(calc_metrics.main, f"--network={snapshots[channels]}", "--metrics=ssn_distortion8", "--gpus=0")
    (result,) = (json.loads(line) for line in printed.splitlines() if line.startswith("{"))
    assert 0 < result["results"]["ssn_distortion8"] < math.inf


def test_stylegan2_learns_rectangles_too(tmp_path):
    snapshot = run_tiny(tmp_path / "auto", 4, [16, 24], dict(cfg="auto"))
    printed = run(calc_metrics.main, f"--network={snapshot}", "--metrics=swd16k", "--gpus=0")
    assert "swd16k" in printed
    args = json.loads((tmp_path / "auto" / "run" / "training_options.json").read_text())
    assert args["training_set_kwargs"]["resolution"] == [16, 24]
    assert args["loss_kwargs"]["r1_gamma"] == auto_spec(16, 1).gamma


def test_train_py_reports_the_size_of_a_rectangle(tmp_path):
    data = write_images(tmp_path / "wide", [64, 96])
    assert "12 images of 96x64" in run(train.main, "--outdir=none", f"--data={data}", "--gpus=0", "--dry-run")
