"""--g-arch and --d-arch: how generator and discriminator join resolutions, with every cfg and beside --resume."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from network_file_helpers import assert_same_tensors, discriminator, generator, snapshot

import dnnlib
from train import setup_training_loop_kwargs  # train.py, unlike training.config, brings the cfgs of plugins along
from training import config
from training.config import UserError
from training.formats import network_export
from training.network_files import load_networks
from training.run.resuming import resume_networks
from training.run.train_options import ARCHITECTURES

SHAPE: dict[str, Any] = dict(c_dim=0, img_resolution=16, img_channels=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two images of 16x16 pixels, in a folder `photos`."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    for i in range(2):
        PIL.Image.fromarray(np.full([16, 16, 3], 90 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture
def source(tmp_path):
    """A network file whose generator is `orig` and whose discriminator is `skip`."""
    path = tmp_path / "source.pkl"
    network_export.save_networks(snapshot(generator("orig", resolution=16), discriminator("skip", resolution=16)), path)
    return str(path)


def without_architectures(args: Any) -> Any:
    args = copy.deepcopy(args)
    for kwargs in (args.G_kwargs.synthesis_kwargs, args.D_kwargs):
        kwargs.pop("architecture", None)
    return args


@pytest.mark.parametrize("cfg", ["auto", *config.CFG_TABLE, "ssn", "ssn-plus", "ssn-baseline", "spade"])
def test_with_every_cfg_they_decide_the_architectures_and_nothing_else(data, cfg):
    desc, plain = setup_training_loop_kwargs(data=data, cfg=cfg, batch=32)
    named, args = setup_training_loop_kwargs(data=data, cfg=cfg, batch=32, g_arch="resnet", d_arch="skip")
    assert args.G_kwargs.synthesis_kwargs.architecture == "resnet"
    assert args.D_kwargs.architecture == "skip"
    assert without_architectures(args) == without_architectures(plain)
    assert named == desc.replace("-batch32", "-garchresnet-darchskip-batch32")


def test_without_them_the_tree_names_no_architecture_but_that_of_cifar(data):
    for cfg in ["auto", "ssn", "cifar"]:
        args = setup_training_loop_kwargs(data=data, cfg=cfg)[1]
        assert "architecture" not in args.G_kwargs.synthesis_kwargs
        assert args.D_kwargs.get("architecture") == ("orig" if cfg == "cifar" else None)


@pytest.mark.parametrize("option", ["g_arch", "d_arch"])
def test_an_unknown_architecture_is_refused(option):
    with pytest.raises(UserError) as caught:
        setup_training_loop_kwargs(data="no/such/folder", **{option: "dense"})
    assert str(caught.value) == f"--{option.replace('_', '-')} must be one of orig, skip, resnet, got dense"


@pytest.mark.parametrize("cfg", ["auto", "ssn"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_of_every_architecture_learn(data, cfg, architecture, monkeypatch):
    spec = dataclasses.replace(config.auto_spec(16, 1), fmaps=1 / 256, channel_max=8, mapping_layers=2)
    monkeypatch.setattr(config, "cfg_spec", lambda *_: spec)
    args = setup_training_loop_kwargs(data=data, cfg=cfg, gpus=0, g_arch=architecture, d_arch=architecture)[1]
    G, D = (dnnlib.util.construct_class_by_name(**kwargs, **SHAPE).train() for kwargs in (args.G_kwargs, args.D_kwargs))
    loss = dnnlib.util.construct_class_by_name(
        device=torch.device("cpu"), G_mapping=G.mapping, G_synthesis=G.synthesis, D=D, **args.loss_kwargs)
    img, c, z = torch.rand(4, 3, 16, 16) * 2 - 1, torch.zeros(4, 0), torch.randn(4, G.z_dim)
    for phase, network in [("Gboth", G), ("Dboth", D)]:
        loss.accumulate_gradients(phase, real_img=img, real_c=c, gen_z=z, gen_c=c, sync=True, gain=1)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(("ours", "message"), [
    (("skip", "skip"), "G must have the architecture skip, it has orig; --g-arch=orig goes with it"),
    (("orig", "resnet"), "D must have the architecture resnet, it has skip; --d-arch=skip goes with it"),
])
def test_a_run_does_not_start_from_networks_of_another_architecture(source, ours, message):
    """Most of their tensors would fit by name and shape."""
    G, D = generator(ours[0], resolution=16), discriminator(ours[1], resolution=16)
    before = copy.deepcopy(G.state_dict())
    with pytest.raises(ValueError) as caught:
        resume_networks(source, dict(G=G, D=D, G_ema=G))
    assert str(caught.value) == f"source.pkl does not fit this run: {message}"
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


def test_a_run_starts_from_networks_of_its_architecture(source):
    run = dict(G=generator("orig", resolution=16), D=discriminator("skip", resolution=16))
    resume_networks(source, run)
    theirs = load_networks(source)
    for name, network in run.items():
        assert_same_tensors(network, theirs[name])


@pytest.mark.parametrize(("option", "theirs"), [("g_arch", "orig"), ("d_arch", "skip")])
def test_an_ssn_takes_the_architectures_of_a_network_that_it_starts_from(data, source, option, theirs):
    assert setup_training_loop_kwargs(data=data, cfg="ssn", gpus=0, resume=source, **{option: theirs})
    args = setup_training_loop_kwargs(data=data, cfg="ssn", gpus=0, resume=source)[1]
    assert (args.G_kwargs.synthesis_kwargs.architecture, args.D_kwargs.architecture) == ("orig", "skip")
    with pytest.raises(UserError) as caught:
        setup_training_loop_kwargs(data=data, cfg="ssn", gpus=0, resume=source, **{option: "resnet"})
    assert str(caught.value) == f"--{option.replace('_', '-')} must be that of --resume, {theirs}, got resnet"
