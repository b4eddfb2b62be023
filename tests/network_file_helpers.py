"""Tiny networks and files for the tests of loading and converting."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch

import legacy
from training.augment import AugmentPipe
from training.networks import Discriminator, Generator

NARROW = dict(channel_base=64, channel_max=8)


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with every parameter and moving average away from its initial value, so that each of them matters."""
    gen = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if "filter" not in name and not name.startswith("Hz"):
                value.add_(0.1 * torch.randn(value.shape, generator=gen))
    return module


def generator(architecture: str = "skip", c_dim: int = 0, resolution: int = 8, **synthesis_kwargs: Any) -> Any:
    kwargs = dict(NARROW, architecture=architecture, **synthesis_kwargs)
    sizes = dict(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=resolution, img_channels=3)
    return moved(Generator(**sizes, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=kwargs))


def discriminator(architecture: str = "resnet", c_dim: int = 0, resolution: int = 8, **kwargs: Any) -> Any:
    sizes = dict(c_dim=c_dim, img_resolution=resolution, img_channels=3)
    return moved(Discriminator(**sizes, architecture=architecture, **{**NARROW, **kwargs}))


def frozen_copy(module: Any) -> Any:
    return copy.deepcopy(module).eval().requires_grad_(False)


def snapshot(G: Any = None, D: Any = None, **extra: Any) -> dict[str, Any]:
    """What a training run of this host writes, as a dict."""
    G = generator() if G is None else G
    D = discriminator(c_dim=G.c_dim, resolution=G.img_resolution) if D is None else D
    pipe = AugmentPipe(xflip=1, scale=1, brightness=1)
    pipe.p.fill_(0.25)
    networks = dict(G=frozen_copy(G), D=frozen_copy(D), G_ema=frozen_copy(G), augment_pipe=frozen_copy(pipe))
    return dict(training_set_kwargs=dict(path="images.zip", resolution=G.img_resolution), **networks, **extra)


def load(data: Any, **kwargs: Any) -> dict[str, Any]:
    """`legacy.load_network_pkl` of bytes, or of the pickle of anything else."""
    data = data if isinstance(data, bytes) else pickle.dumps(data)
    return legacy.load_network_pkl(io.BytesIO(data), **kwargs)


@torch.no_grad()
def image_of(G: Any, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    z = torch.randn([2, G.z_dim], generator=gen)
    c = torch.eye(G.c_dim)[:2] if G.c_dim else torch.zeros([2, 0])
    return G(z, c, truncation_psi=0.7, noise_mode="const")


@torch.no_grad()
def logits_of(D: Any) -> torch.Tensor:
    gen = torch.Generator().manual_seed(1)
    img = torch.randn([2, D.img_channels, D.img_resolution, D.img_resolution], generator=gen)
    return D(img, torch.eye(D.c_dim)[:2] if D.c_dim else torch.zeros([2, 0]))


def assert_same_tensors(actual: torch.nn.Module, expected: torch.nn.Module) -> None:
    actual_state, expected_state = actual.state_dict(), expected.state_dict()
    assert list(actual_state) == list(expected_state)
    for name, value in expected_state.items():
        torch.testing.assert_close(actual_state[name], value, rtol=0, atol=0, msg=name)


def assert_same_networks(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in ("G", "D", "G_ema", "augment_pipe"):
        assert_same_tensors(actual[key], expected[key])
    torch.testing.assert_close(image_of(actual["G_ema"]), image_of(expected["G_ema"]), rtol=0, atol=0)
    torch.testing.assert_close(logits_of(actual["D"]), logits_of(expected["D"]), rtol=0, atol=0)
    assert actual["training_set_kwargs"] == expected["training_set_kwargs"]
