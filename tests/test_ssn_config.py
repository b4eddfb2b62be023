"""ssn_plugin.config: the cfg `ssn` and its edit of a host's option tree."""

import copy
import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import dnnlib
import train
from ssn_plugin import config
from ssn_plugin.config import SSNConfig, parse_block_grids, ssn_kwargs
from ssn_plugin.loss import DistortionLoss
from ssn_plugin.networks import SSNGenerator
from training import config as host_config
from training import networks
from training.config import UserError, setup_training_loop_kwargs
from training.formats.network_export import save_networks
from training.loss import StyleGAN2Loss

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two images of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        PIL.Image.fromarray(np.full([16, 16, 3], 90 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture(params=["cpu", "cuda"])
def device(request, monkeypatch):
    """Plans a run for each kind of machine."""
    monkeypatch.setattr(host_config, "training_device", lambda prefer_cpu: request.param)
    return request.param


def refusal(data, **options) -> str:
    with pytest.raises(UserError) as caught:
        setup_training_loop_kwargs(data=data, cfg="ssn", **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_block_grids_are_read_rows_first():
    assert parse_block_grids("2x8") == ((2, 8),)
    assert parse_block_grids("1x1+4x4") == ((1, 1), (4, 4))


@pytest.mark.parametrize("text", ["", "4", "4x", "4x4x4", "-4x4", "4x4+", "axb", "4 x 4"])
def test_anything_else_is_no_block_grid(text):
    with pytest.raises(ValueError, match="--blocks must be rows x columns such as 4x4, got"):
        parse_block_grids(text)


@pytest.mark.parametrize(("options", "message"), [
    (dict(blocks="4"), "--blocks must be rows x columns such as 4x4, got 4"),
    (dict(blocks="0x4"), "--blocks must have at least one row and one column, got 0x4"),
    (dict(blocks="4x4+1x1"), "--blocks must name grids from coarse to fine such as 1x1+4x4, got 4x4+1x1"),
    (dict(blocks="4x2+2x4"), "--blocks must name grids from coarse to fine such as 1x1+4x4, got 4x2+2x4"),
    (dict(blocks="4x4+4x4"), "--blocks must name grids from coarse to fine such as 1x1+4x4, got 4x4+4x4"),
    (dict(blocks="1x1+3x4"), "grid 3x4 does not divide the 16x16 image"),
    (dict(blocks="3x4"), "grid 3x4 does not divide the 16x16 image"),
    (dict(blocks="32x4"), "grid 32x4 does not divide the 16x16 image"),
    (dict(distortion_weight=-1.0), "--lambda must be at least 0, got -1"),
    (dict(distortion_weight=float("nan")), "--lambda must be at least 0, got nan"),
    (dict(distortion_weight=float("inf")), "--lambda must be at least 0, got inf"),
    (dict(distortion_warmup=-1.0), "--lambda-warmup must be at least 0, got -1"),
    (dict(distortion_interval=0), "--distortion-interval must be at least 1, got 0"),
    (dict(distortion_reduction="max"), "--distortion-reduction must be one of mean, sum, got max"),
    (dict(distortion_space="colours"), "--distortion-space must be one of pixels, features, features-efficientnet, "
                                       "features-lpips, wasserstein, got colours"),
    (dict(distortion_space="features", distortion_reduction="sum"),
     "--distortion-reduction must be mean with a --distortion-space other than pixels, got sum"),
    (dict(encoder="deep"), "--encoder must be one of gated, none, got deep"),
    (dict(style_resolution=24), "--style-resolution must be 0 or a power of two of at least 4, got 24"),
    (dict(style_resolution=-16), "--style-resolution must be 0 or a power of two of at least 4, got -16"),
    (dict(style_resolution=4, blocks="8x2"),
     "--style-resolution must be at least the 8 blocks of the grid's side, got 4"),
    (dict(block_dim=0), "--block-dim must be at least 1, got 0"),
    (dict(channels=0), "--channels must be at least 1, got 0"),
    (dict(style_mixing_prob=1.5), "--style-mixing must be between 0 and 1, got 1.5"),
    (dict(diversity_weight=-1.0), "--diversity must be at least 0, got -1"),
    (dict(pl_outside_weight=-1.0), "--pl-outside must be at least 0, got -1"),
    (dict(diversity_weight=1.0, diversity_cap=0.0), "--diversity-cap must be more than 0, got 0"),
    (dict(diversity_cap=0.5), "--diversity-cap has no effect without --diversity, got 0.5"),
    (dict(diversity_reward="linear"), "--diversity-reward has no effect without --diversity, got linear"),
    (dict(diversity_weight=1.0, diversity_reward="root"),
     "--diversity-reward must be one of log, linear, got root"),
])
def test_a_refusal_names_option_rule_and_value(data, options, message):
    assert refusal(data, **options) == message


@pytest.mark.parametrize(("options", "flag"), [
    (dict(blocks="4x4"), "--blocks"),
    (dict(distortion_weight=1.0), "--lambda"),
    (dict(encoder="none"), "--encoder"),
    (dict(style_resolution=0), "--style-resolution"),
    (dict(diversity_weight=1.0), "--diversity"),
])
def test_its_options_are_refused_beside_another_cfg(data, options, flag):
    for cfg in ["auto", "ssn-baseline"]:
        with pytest.raises(UserError) as caught:
            setup_training_loop_kwargs(data=data, cfg=cfg, **options)
        assert str(caught.value) == f"{flag} can only be given with --cfg=ssn|ssn-plus|spade, got --cfg={cfg}"


def test_the_tree_names_an_ssn_generator_with_the_grid_and_the_width_of_the_machine(data, device):
    desc, args = setup_training_loop_kwargs(data=data, cfg="ssn", blocks="2x4")
    assert desc.endswith("-ssn-blocks2x4-lambda100")
    G_kwargs = args.G_kwargs
    assert G_kwargs.class_name == "ssn_plugin.networks.SSNGenerator"
    assert G_kwargs.block_grid == [[2, 4]]
    assert G_kwargs.block_z_dim == G_kwargs.block_w_dim == (64 if device == "cpu" else 512)
    assert "z_dim" not in G_kwargs and "w_dim" not in G_kwargs


def test_every_setting_of_the_loss_reaches_the_argument_of_its_name(data):
    given = dict(distortion_weight=30.0, distortion_warmup=2.0, distortion_interval=3, distortion_reduction="sum",
                 diversity_weight=0.5, diversity_cap=0.25, diversity_reward="linear", pl_outside_weight=4.0,
                 style_mixing_prob=0.5)
    loss_kwargs = setup_training_loop_kwargs(data=data, cfg="ssn", **given)[1].loss_kwargs
    assert loss_kwargs.class_name == "ssn_plugin.loss.DistortionLoss"
    fixed = SSNConfig().kwargs("loss").keys() - given.keys()
    assert fixed == {"pl_weight", "distortion_batch_shrink"}  # which have no option
    assert given.items() <= loss_kwargs.items() and fixed <= loss_kwargs.keys()
    parameters = {**inspect.signature(StyleGAN2Loss).parameters, **inspect.signature(DistortionLoss).parameters}
    assert {*loss_kwargs} - {"class_name"} <= set(parameters)


# What --help says of a default in words, and the option that then has the same effect on the CPU.
DEFAULTS_IN_WORDS = dict(block_dim=64, channels=32, channels_max=64, encoder_init="random")


@pytest.mark.parametrize("option", [option for option in config.options() if option.name != "style_resolution"],
                         ids=lambda option: option.name)
@pytest.mark.parametrize("cfg", ["ssn", "ssn-plus"])
def test_the_default_that_help_shows_is_the_one_in_use(data, cfg, option):
    shown = re.search(r"\[default: ([^;\]]*)(?:; (.*) in ssn-plus)?", option.help)
    text = shown[2] if cfg == "ssn-plus" and shown[2] else shown[1]
    value = DEFAULTS_IN_WORDS.get(option.name) or option.type.convert(text, option, None)
    needed = dict(diversity_weight=1.0) if option.name in ("diversity_cap", "diversity_reward") else {}
    plain, given = (setup_training_loop_kwargs(data=data, gpus=0, cfg=cfg, **needed, **kwargs)[1]
                    for kwargs in [{}, {option.name: value}])
    if option.name == "encoder_init":
        assert given.G_kwargs.synthesis_kwargs.pop("encoder_gate") == 1  # the generator's own default
    assert plain == given


def test_ssn_plus_adds_a_global_code_and_a_reward_and_its_settings_can_be_overruled(data, device):
    desc, args = setup_training_loop_kwargs(data=data, cfg="ssn-plus")
    assert desc.endswith("-ssn-plus-blocks1x1+4x4-lambda100-diversity5")
    assert args.G_kwargs.block_grid == [[1, 1], [4, 4]]
    assert (args.loss_kwargs.distortion_weight, args.loss_kwargs.diversity_weight) == (100, 5)
    desc, args = setup_training_loop_kwargs(
        data=data, cfg="ssn-plus", blocks="4x4", distortion_weight=5.0, diversity_weight=0.5, diversity_cap=0.125,
    )
    assert desc.endswith("-ssn-plus-blocks4x4-lambda5-diversity0.5-cap0.125")
    plain = setup_training_loop_kwargs(
        data=data, cfg="ssn", distortion_weight=5.0, diversity_weight=0.5, diversity_cap=0.125,
    )[1]
    assert args == plain


def test_a_weight_outside_makes_path_lengths_those_of_blocks(data):
    desc, args = setup_training_loop_kwargs(data=data, cfg="ssn", pl_outside_weight=4.0)
    assert desc.endswith("-ssn-blocks4x4-lambda100-ploutside4")
    plain = setup_training_loop_kwargs(data=data, cfg="ssn", pl_outside_weight=1.0)[1]
    assert "pl_outside_weight" not in plain.loss_kwargs
    assert args.loss_kwargs == dict(plain.loss_kwargs, pl_outside_weight=4)


def test_the_baseline_is_stylegan2_with_the_size_and_settings_of_an_ssn(data, device):
    options = dict(data=data, channels=8, block_dim=24, style_mixing_prob=0.5, batch=8)
    desc, baseline = setup_training_loop_kwargs(cfg="ssn-baseline", **options)
    ssn = setup_training_loop_kwargs(cfg="ssn", **options)[1]
    assert desc.endswith("-ssn-baseline-dim24-channels8-mixing0.5-batch8")
    assert {key for key in ssn if ssn[key] != baseline.get(key)} == {"G_kwargs", "loss_kwargs", "sheets"}
    assert baseline.G_kwargs.class_name == "training.networks.Generator"
    assert baseline.G_kwargs.z_dim == baseline.G_kwargs.w_dim == ssn.G_kwargs.block_z_dim == 24
    assert baseline.G_kwargs.mapping_kwargs == ssn.G_kwargs.mapping_kwargs
    assert baseline.G_kwargs.synthesis_kwargs.items() <= ssn.G_kwargs.synthesis_kwargs.items()
    assert baseline.loss_kwargs.class_name == "training.loss.StyleGAN2Loss"
    shared = {key: value for key, value in baseline.loss_kwargs.items() if key != "class_name"}
    assert shared == dict(r1_gamma=1, pl_weight=2, style_mixing_prob=0.5)
    assert shared.items() <= ssn.loss_kwargs.items()


@pytest.fixture
def baseline_pkl(tmp_path):
    """A StyleGAN2 of 3 channels at 16x16, with latents of 5 numbers."""
    size = dict(channel_base=48, channel_max=6)
    G = networks.Generator(5, 0, 5, 16, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=size)
    D = networks.Discriminator(0, 16, 3, **size)
    path = tmp_path / "stylegan2.pkl"
    save_networks(dict(G=G, D=D, G_ema=G), str(path))
    return str(path)


def test_the_baseline_has_the_size_of_the_network_that_it_starts_from(data, baseline_pkl):
    args = setup_training_loop_kwargs(data=data, cfg="ssn-baseline", resume=baseline_pkl)[1]
    assert (args.G_kwargs.z_dim, args.G_kwargs.w_dim, args.G_kwargs.mapping_kwargs.num_layers) == (5, 5, 2)
    for kwargs in [args.G_kwargs.synthesis_kwargs, args.D_kwargs]:
        assert (kwargs.channel_base, kwargs.channel_max) == (48, 6)
    ssn = setup_training_loop_kwargs(data=data, cfg="ssn", resume=baseline_pkl)[1]
    assert args.D_kwargs == ssn.D_kwargs


def test_a_network_to_start_from_decides_the_size_of_the_baseline(data, baseline_pkl):
    with pytest.raises(UserError, match="--channels cannot be given with --resume, whose networks decide, got 8"):
        setup_training_loop_kwargs(data=data, cfg="ssn-baseline", resume=baseline_pkl, channels=8)


def test_the_baseline_cannot_start_from_an_ssn(data, tmp_path):
    G = SSNGenerator(4, 0, 4, 16, 3, synthesis_kwargs=dict(channel_base=32, channel_max=4))
    path = str(tmp_path / "ssn.pkl")
    save_networks(dict(G=G, D=networks.Discriminator(0, 16, 3, channel_base=32, channel_max=4), G_ema=G), path)
    with pytest.raises(UserError, match="a StyleGAN2 cannot start from a Spatially Stochastic Network"):
        setup_training_loop_kwargs(data=data, cfg="ssn-baseline", resume=path)


def test_channels_are_those_at_full_resolution_and_half_of_those_below(data, device):
    args = setup_training_loop_kwargs(data=data, cfg="ssn", channels=12)[1]
    for kwargs in [args.G_kwargs.synthesis_kwargs, args.D_kwargs]:
        assert (kwargs.channel_base // 16, kwargs.channel_max) == (12, 24)


def test_channels_may_double_further_down(data, device):
    desc, args = setup_training_loop_kwargs(data=data, cfg="ssn-baseline", channels=12, channels_max=96)
    assert desc.endswith("-channels12-max96")
    for kwargs in [args.G_kwargs.synthesis_kwargs, args.D_kwargs]:
        assert (kwargs.channel_base // 16, kwargs.channel_max) == (12, 96)
    with pytest.raises(UserError, match="--channels-max must be at least the --channels 12, got 8"):
        setup_training_loop_kwargs(data=data, cfg="ssn", channels=12, channels_max=8)


def test_size_and_schedule_are_those_of_auto_on_a_gpu(data, monkeypatch):
    monkeypatch.setattr(host_config, "training_device", lambda prefer_cpu: "cuda")
    auto, ssn = (setup_training_loop_kwargs(data=data, cfg=cfg)[1] for cfg in ["auto", "ssn"])
    assert {key for key in auto if auto[key] != ssn[key]} == {"G_kwargs", "loss_kwargs"}
    assert auto.G_kwargs.synthesis_kwargs.items() <= ssn.G_kwargs.synthesis_kwargs.items()


def test_the_cpu_gets_slim_networks_in_full_precision(data, monkeypatch):
    monkeypatch.setattr(host_config, "training_device", lambda prefer_cpu: "cpu")
    _desc, args = setup_training_loop_kwargs(data=data, cfg="ssn")
    for kwargs in [args.G_kwargs.synthesis_kwargs, args.D_kwargs]:
        assert (kwargs.channel_base, kwargs.channel_max) == (32 * args.training_set_kwargs.resolution, 64)
        assert (kwargs.num_fp16_res, kwargs.conv_clamp) == (0, None)
    assert args.batch_size == 32


def test_host_options_keep_working(data):
    desc, args = setup_training_loop_kwargs(
        data=data, cfg="ssn", gamma=0.5, batch=8, kimg=3, nhwc=True, fp32=True, aug="noaug", freezed=1, mirror=True
    )
    assert desc.endswith("-mirror-ssn-blocks4x4-lambda100-gamma0.5-kimg3-batch8-noaug-freezed1")
    assert (args.loss_kwargs.r1_gamma, args.batch_size, args.total_kimg) == (0.5, 8, 3)
    assert args.G_kwargs.synthesis_kwargs.fp16_channels_last
    assert args.D_kwargs.block_kwargs.freeze_layers == 1
    assert "augment_kwargs" not in args


def test_every_given_option_shows_in_the_name_of_the_run(data):
    desc, args = setup_training_loop_kwargs(
        data=data, cfg="ssn", distortion_weight=1e4, distortion_interval=4, distortion_reduction="sum", encoder="none",
        style_resolution=0, block_dim=32,
    )
    assert desc.endswith("-ssn-blocks4x4-lambda10000-interval4-sum-encodernone-styles0-dim32")
    assert args.G_kwargs.synthesis_kwargs.style_resolution == 0
    assert args.G_kwargs.block_z_dim == 32
    assert args.loss_kwargs.distortion_interval == 4


def test_images_below_8_pixels_are_refused():
    args = dict(training_set_kwargs=dict(resolution=4))
    with pytest.raises(ValueError, match="--cfg=ssn needs images of at least 8x8 pixels, got 4x4"):
        ssn_kwargs(args, SSNConfig())


def test_the_edit_leaves_its_argument_alone_and_touches_generator_and_loss_only(data):
    _desc, auto = setup_training_loop_kwargs(data=data, cfg="auto")
    kept = copy.deepcopy(auto)
    edited = ssn_kwargs(auto, SSNConfig(block_grids=((2, 2),)))
    assert auto == kept
    assert {key for key in auto if auto[key] != edited[key]} == {"G_kwargs", "loss_kwargs"}
    assert edited["loss_kwargs"]["r1_gamma"] == auto.loss_kwargs.r1_gamma


def test_the_edit_of_plain_dictionaries_is_the_same(data):
    _desc, auto = setup_training_loop_kwargs(data=data, cfg="auto")
    plain = {k: copy.deepcopy(dict(v)) if isinstance(v, dict) else v for k, v in auto.items()}
    assert ssn_kwargs(plain, SSNConfig()) == ssn_kwargs(auto, SSNConfig())


def test_settings_are_checked_without_any_host():
    assert dataclasses.asdict(SSNConfig())["distortion_weight"] == 100
    with pytest.raises(ValueError, match="distortion_batch_shrink must be at least 1, got 0"):
        SSNConfig(distortion_batch_shrink=0)


def test_importing_the_settings_imports_nothing_of_the_host():
    script = "import sys, ssn_plugin.config; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in result.stdout.split()}
    assert imported.isdisjoint({"training", "torch_utils", "dnnlib", "torch"})


def test_the_help_of_train_py_explains_every_option():
    help_of = {param.name: str(getattr(param, "help", "")) for param in train.main.params}
    for name in host_config.extension_options():
        assert "[default: " in help_of[name]


@pytest.mark.parametrize("blocks", ["1x1", "2x2", "4x2"])
def test_the_tree_builds_networks_that_its_loss_trains(data, blocks):
    _desc, args = setup_training_loop_kwargs(data=data, cfg="ssn", gpus=0, blocks=blocks, block_dim=8)
    shape: dict[str, Any] = dict(c_dim=0, img_resolution=16, img_channels=3)
    G = dnnlib.util.construct_class_by_name(**args.G_kwargs, **shape).train()
    D = dnnlib.util.construct_class_by_name(**args.D_kwargs, **shape).train().requires_grad_(False)
    loss = dnnlib.util.construct_class_by_name(
        device=torch.device("cpu"), G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, **args.loss_kwargs
    )
    num, c = 4, torch.zeros(4, 0)
    img, z = torch.rand(num, 3, 16, 16) * 2 - 1, torch.randn(num, G.z_dim)
    for phase in ["Gmain", "Greg"]:
        loss.accumulate_gradients(phase, real_img=img, real_c=c, gen_z=z, gen_c=c, sync=True, gain=1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in G.parameters())


def test_a_real_generator_gives_no_distortion_where_nothing_is_redrawn(data, monkeypatch):
    _desc, args = setup_training_loop_kwargs(data=data, cfg="ssn", gpus=0, blocks="2x2", block_dim=8)
    G = dnnlib.util.construct_class_by_name(**args.G_kwargs, c_dim=0, img_resolution=16, img_channels=3).train()
    for name, parameter in G.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)  # starts at 0, which would hide noise that differs
    loss = dnnlib.util.construct_class_by_name(
        device=torch.device("cpu"), G_mapping=G.mapping, G_synthesis=G.synthesis, D=None, **args.loss_kwargs
    )
    z, c = torch.randn(8, G.z_dim), torch.zeros(8, 0)  # of which the term uses a quarter
    monkeypatch.setattr("ssn_plugin.distortion.redraw_one_block", lambda z, blocks, num_blocks: z)
    img, redrawn_img, _blocks = loss.run_G_with_redraws(z, c, sync=True)
    torch.testing.assert_close(redrawn_img, img[:2], rtol=0, atol=1e-4)
    monkeypatch.undo()
    img, redrawn_img, _blocks = loss.run_G_with_redraws(z, c, sync=True)
    assert ((redrawn_img - img[:2]).abs().amax(dim=[1, 2, 3]) > 0.01).all()
