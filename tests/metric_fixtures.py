"""Small data sets, networks and detectors for the tests of the metrics. Nothing here needs a download."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from metrics import detectors, metric_utils
from training.networks import Discriminator, Generator


def forget_detectors(patch: pytest.MonkeyPatch, cache: Path) -> None:
    """Use no detectors, hashes and statistics but those that are found from now on, and note them in this folder."""
    patch.setenv("DNNLIB_CACHE_DIR", str(cache))
    patch.delenv(detectors.DIR_VARIABLE, raising=False)
    patch.setattr(detectors, "_detector_dir", None)
    patch.setattr(detectors, "_hashes", {})
    patch.setattr(metric_utils, "_loaded_detectors", {})


class TinyInception(torch.nn.Module):
    """Called like the Inception detector: random features of a 4x4 thumbnail, or class probabilities."""

    def __init__(self, num_features: int = 2048):
        super().__init__()
        gen = torch.Generator().manual_seed(1)
        self.register_buffer("weight", torch.randn([48, num_features], generator=gen) / 50)
        self.register_buffer("classes", torch.randn([48, 10], generator=gen) / 50)

    def forward(self, img: torch.Tensor, return_features: bool = False, no_output_bias: bool = False) -> torch.Tensor:
        x = torch.nn.functional.adaptive_avg_pool2d(img.to(torch.float32) - 128, [4, 4]).flatten(1)
        if return_features:
            return torch.relu(x @ self.weight)
        return torch.softmax(x @ self.classes, dim=1)


class TinyVGG(torch.nn.Module):
    """Called like the VGG16 detector: random features of a 4x4 thumbnail, or that thumbnail as a perceptual vector."""

    def __init__(self, num_features: int = 4096):
        super().__init__()
        gen = torch.Generator().manual_seed(2)
        self.register_buffer("weight", torch.randn([48, num_features], generator=gen) / 50)

    def forward(
        self, img: torch.Tensor, resize_images: bool = True, return_features: bool = False, return_lpips: bool = False
    ) -> torch.Tensor:
        x = torch.nn.functional.adaptive_avg_pool2d(img.to(torch.float32) - 128, [4, 4]).flatten(1)
        return x / 64 if return_lpips else torch.relu(x @ self.weight)


def save_torchscript(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)   # torch still writes the format, but not forever
        torch.jit.script(module).save(str(path))
    return path


def write_detectors(folder: Path) -> Path:
    """The two detector files under the names of the published ones."""
    folder.mkdir(exist_ok=True)
    save_torchscript(TinyInception(), folder / "inception-2015-12-05.pt")
    save_torchscript(TinyVGG(), folder / "vgg16.pt")
    return folder


def write_images(path: Path, num: int, resolution: int = 16, channels: int = 3, seed: int = 0, labels=None) -> Path:
    """A zip of smooth random images."""
    rng = np.random.RandomState(seed)
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"00000/img{i:08d}.png" for i in range(num)]
        for name in names:
            coarse = rng.randint(0, 256, [4, 4, channels]).astype(np.uint8)
            img = PIL.Image.fromarray(coarse[:, :, 0] if channels == 1 else coarse)
            buffer = io.BytesIO()
            img.resize((resolution, resolution), PIL.Image.Resampling.BILINEAR).save(buffer, format="PNG")
            archive.writestr(name, buffer.getvalue())
        if labels is not None:
            archive.writestr("dataset.json", json.dumps(dict(labels=[list(pair) for pair in zip(names, labels)])))
    return path


def dataset_kwargs(path: Path, **kwargs) -> dict:
    return dict(class_name="training.dataset.ImageFolderDataset", path=str(path), **kwargs)


def tiny_generator(resolution: int = 16, channels: int = 3, c_dim: int = 0, seed: int = 0) -> Generator:
    """A random network whose noise and biases have an effect."""
    torch.manual_seed(seed)
    G = Generator(
        z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=resolution, img_channels=channels,
        mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=64, channel_max=8))
    for name, value in G.named_parameters():
        if name.endswith("noise_strength"):
            value.data.fill_(0.2)
    return G.eval().requires_grad_(False)


def write_snapshot(path: Path, G: torch.nn.Module, data: dict | None) -> Path:
    D = Discriminator(c_dim=G.c_dim, img_resolution=G.img_resolution, img_channels=G.img_channels, channel_base=64,
                      channel_max=8).requires_grad_(False)
    with open(path, "wb") as file:
        pickle.dump(dict(training_set_kwargs=data, G=G, D=D, G_ema=G, augment_pipe=None), file)
    return path
