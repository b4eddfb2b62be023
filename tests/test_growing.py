"""Promises of training.run.growing: networks that start from smaller ones begin with what those have learned."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_run import write_zip

import dnnlib
from dnnlib.util import UserError
from ssn_plugin.networks import SSNGenerator
from torch_utils.ops import upfirdn2d
from training.config import setup_training_loop_kwargs
from training.network_files import save_network_snapshot
from training.networks import Discriminator, Generator
from training.run.resuming import resume_networks

SIZE = dict(channel_base=128, channel_max=16)


def make_networks(resolution: int, seed: int, grids=None, d_arch="resnet", g_arch="skip", base=128):
    """G, D and G_ema with 4 to 16 channels; an SSN with `grids`."""
    torch.manual_seed(seed)
    size = dict(SIZE, channel_base=base)
    common = dict(c_dim=0, img_resolution=resolution, img_channels=3, mapping_kwargs=dict(num_layers=2),
                  synthesis_kwargs=dict(size, architecture=g_arch))
    if grids is None:
        G, G_ema = (Generator(z_dim=8, w_dim=8, **common).eval().requires_grad_(False) for _ in range(2))
    else:
        G, G_ema = (SSNGenerator(block_grid=grids, block_z_dim=4, block_w_dim=4, **common).eval().requires_grad_(False)
                    for _ in range(2))
    D = Discriminator(c_dim=0, img_resolution=resolution, img_channels=3, architecture=d_arch, **size).eval()
    return dict(G=G, D=D.requires_grad_(False), G_ema=G_ema)


def grown(tmp_path, source, networks):
    """Start `networks` from `source`. Returns what is said."""
    path = tmp_path / "source.pkl"
    save_network_snapshot(dict(source, augment_pipe=None, training_set_kwargs={}), str(path))
    said: list[str] = []
    resume_networks(str(path), networks, say=said.append)
    return said


def enlarged(img: torch.Tensor, times: int) -> torch.Tensor:
    kernel = upfirdn2d.setup_filter([1, 3, 3, 1])
    for _ in range(times):
        img = upfirdn2d.upsample2d(img, kernel)
    return img


@pytest.mark.parametrize("grids", [None, [[4, 4]], [[1, 1], [4, 4]]], ids=["stylegan2", "ssn", "ssn-plus"])
@pytest.mark.parametrize("doublings", [1, 2])
def test_the_first_image_is_that_of_the_smaller_network_enlarged(tmp_path, grids, doublings):
    source, networks = make_networks(8, 0, grids), make_networks(8 * 2**doublings, 1, grids)
    said = grown(tmp_path, source, networks)
    for name in ("G", "G_ema"):
        z = torch.randn([3, source[name].z_dim], generator=torch.Generator().manual_seed(2))
        small = source[name](z, torch.zeros([3, 0]), noise_mode="const")
        large = networks[name](z, torch.zeros([3, 0]), noise_mode="const")
        torch.testing.assert_close(large, enlarged(small, doublings), atol=1e-5, rtol=1e-5)
    assert any("G.synthesis.b16.conv0.weight" in line for line in said)
    assert not any("b8." in line for line in said if "fromrgb" not in line)


def test_a_discriminator_that_sees_the_image_at_every_level_judges_as_before(tmp_path):
    source, networks = make_networks(8, 0, d_arch="skip"), make_networks(16, 1, d_arch="skip")
    grown(tmp_path, source, networks)
    img = torch.randn([4, 3, 16, 16], generator=torch.Generator().manual_seed(2))
    small = upfirdn2d.downsample2d(img, upfirdn2d.setup_filter([1, 3, 3, 1]))
    torch.testing.assert_close(networks["D"](img, None), source["D"](small, None), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("doublings", [1, 2])
def test_a_residual_discriminator_judges_even_pictures_as_before(tmp_path, doublings):
    # Of one colour, so that activation and filter may change places; enough channels (16) for the former ones.
    source = make_networks(8, 0, base=1024)
    networks = make_networks(8 * 2**doublings, 1, base=1024)
    grown(tmp_path, source, networks)
    colours = torch.rand([4, 3, 1, 1], generator=torch.Generator().manual_seed(2)) * 2 - 1
    # Near the border the filters see zeros, which images of other sizes have elsewhere: compare in the middle.
    first = networks["D"]
    x, img = None, colours.expand(-1, -1, *[8 * 2**doublings] * 2)
    for level in first.block_resolutions[:doublings]:
        x, img = getattr(first, f"b{level}")(x, img)
    expected = source["D"].b8.fromrgb(colours.expand(-1, -1, 8, 8))
    torch.testing.assert_close(x[:, :, 3:5, 3:5], expected[:, :, 3:5, 3:5], atol=1e-4, rtol=1e-3)


def test_grown_networks_learn_everywhere(tmp_path):
    networks = make_networks(16, 1)
    grown(tmp_path, make_networks(8, 0), networks)
    for network in networks.values():
        network.requires_grad_(True)
    z = torch.randn([2, 8])
    networks["D"](networks["G"](z, None, noise_mode="const"), None).sum().backward()
    assert networks["G"].synthesis.b16.torgb.weight.grad.abs().sum() > 0
    assert networks["D"].b16.conv1.weight.grad.abs().sum() > 0


def test_a_generator_that_paints_only_at_the_end_cannot_grow(tmp_path):
    with pytest.raises(UserError, match="lower resolution with --g-arch=skip"):
        grown(tmp_path, make_networks(8, 0, g_arch="orig"), make_networks(16, 1, g_arch="orig"))


def test_a_larger_network_is_still_refused(tmp_path):
    with pytest.raises(UserError, match="does not fit this run"):
        grown(tmp_path, make_networks(16, 0), make_networks(8, 1))


@pytest.mark.parametrize("cfg", ["ssn-plus", "ssn-baseline"])
def test_the_options_of_a_grown_run_fit_the_file(tmp_path, cfg):
    """`train.py --resume` of a network of half the resolution builds one whose first images are the same."""
    write_zip(tmp_path / "small.zip", size=32)
    write_zip(tmp_path / "large.zip", size=64)
    size = dict(channels=4, channels_max=8, block_dim=8, metrics=[])
    args = setup_training_loop_kwargs(cfg=cfg, data=str(tmp_path / "small.zip"), gpus=0, **size)[1]
    small = networks_of(args, 32, seed=0)
    path = tmp_path / "source.pkl"
    save_network_snapshot(dict(small, augment_pipe=None, training_set_kwargs={}), str(path))
    options = dict(cfg=cfg, data=str(tmp_path / "large.zip"), gpus=0, resume=str(path), metrics=[])
    large = networks_of(setup_training_loop_kwargs(**options)[1], 64, seed=1)
    resume_networks(str(path), large, say=lambda line: None)
    z, c = torch.randn([2, small["G"].z_dim], generator=torch.Generator().manual_seed(2)), torch.zeros([2, 0])
    expected = enlarged(small["G"](z, c, noise_mode="const"), 1)
    torch.testing.assert_close(large["G"](z, c, noise_mode="const"), expected, atol=1e-4, rtol=1e-4)


def networks_of(args, resolution: int, seed: int):
    torch.manual_seed(seed)
    common: dict[str, Any] = dict(c_dim=0, img_resolution=resolution, img_channels=3)
    G, D = (dnnlib.util.construct_class_by_name(**kwargs, **common).eval().requires_grad_(False)
            for kwargs in (args.G_kwargs, args.D_kwargs))
    return dict(G=G, D=D, G_ema=copy.deepcopy(G))
