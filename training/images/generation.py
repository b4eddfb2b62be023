"""From a network file and a seed to an 8-bit image.

The latents of a seed are those of every StyleGAN2-ADA host, so that seed 7 is the same image everywhere. Metrics draw
theirs per item from streams of their own (`metrics/sampling.py`); `ssn_plugin` keys redraws like the noise here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

import dnnlib
from dnnlib.util import UserError
from metrics import sampling
from training.formats.reading import with_fp16
from training.network_files import load_networks

MAX_SEED = 2**32 - 1     # numpy's RandomState takes no more
MAX_NPZ_BYTES = 2**30    # a projection with every noise map of a 1024x1024 network has 25 MB
MAX_IMAGES = 1_000_000   # per run; a longer list is a slip of the keyboard


def parse_seeds(text: str) -> list[int]:
    """`3`, `1,5,9` or `0-7` (inclusive), or a mixture, -> seeds in the given order, repetitions dropped."""
    seeds: dict[int, None] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,20})(?:\s*-\s*(\d{1,20}))?\s*", part)
        if not match:
            raise UserError(f"seeds must look like 3 or 1,5,9 or 0-7, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= MAX_SEED:
            raise UserError(f"seeds {part.strip()} must run upwards within 0..{MAX_SEED}")
        if last - first + len(seeds) >= MAX_IMAGES:
            raise UserError(f"seeds {text!r} are more than {MAX_IMAGES} images")
        seeds.update(dict.fromkeys(range(first, last + 1)))
    return list(seeds)


def series_name(seeds: Sequence[int]) -> str:
    """What a file about several seeds is called: `seed0003-seed0007`, by the first and the last; `seed0003` of one."""
    first, last = f"seed{seeds[0]:04d}", f"seed{seeds[-1]:04d}"
    return first if len(seeds) == 1 else f"{first}-{last}"


def load_generator(
    network: str, device: torch.device, trust: bool = False, in_half: bool = False
) -> torch.nn.Module:
    """The averaged generator `G_ema` of a network file, URL or short name, ready for inference.

    trust: execute source code that the file carries (see `legacy.load_network_pkl`).
    in_half: compute its four highest resolutions in half precision (see `torch_utils.half`), if it has none so far.
    """
    G = load_networks(network, trust=trust)["G_ema"].eval()
    if in_half and not any(getattr(module, "use_fp16", False) for module in G.modules()):
        G = with_fp16(dict(G=None, D=None, G_ema=G))["G_ema"]
    return G.requires_grad_(False).to(device)


def seed_to_z(seed: int, z_dim: int) -> torch.Tensor:
    """The latents of an image seed, the same on every device and host. [1, z_dim] float32"""
    return torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim)).to(torch.float32)


def seed_to_noise(seed: int, index: int, shape: Sequence[int]) -> torch.Tensor:
    """The random noise map of an image seed for convolution `index`, the same on every device. float32

    Its key is that of `ssn_plugin.edits.resample`, so that an image is the same with and without redrawn variants.
    """
    return torch.from_numpy(np.random.RandomState([2, seed, 0, index, 0]).standard_normal(shape)).to(torch.float32)


def class_to_label(class_idx: int | Sequence[float] | None, c_dim: int) -> torch.Tensor:
    """One-hot label of a class, all zero without one; or the given vector. [1, c_dim]"""
    if isinstance(class_idx, Sequence):
        return torch.tensor([class_idx], dtype=torch.float32)
    c = torch.zeros([1, c_dim])
    if c_dim and class_idx is not None:
        c[:, class_idx] = 1
    return c


def to_uint8(img: torch.Tensor) -> np.ndarray:
    """[N, C, H, W] in -1..1 -> uint8 [N, H, W, C], cut off rather than rounded. UserError for what is no picture."""
    if img.shape[1] not in (1, 3, 4):
        raise UserError(f"pictures have 1, 3 or 4 channels, the network makes {img.shape[1]}")
    if not img.isfinite().all():
        raise UserError("the network makes pixels that are not numbers (NaN or infinite): its weights are damaged, or "
                        "its training diverged")
    return sampling.to_uint8(img).permute(0, 2, 3, 1).cpu().numpy()


def synthesize(G: torch.nn.Module, ws: torch.Tensor, noise: dict[str, torch.Tensor]) -> torch.Tensor:
    """Images `[N, C, H, W]` of styles `[N, num_ws, w_dim]`, with these noise maps instead of the fixed ones."""
    return sampling.call_with_noise(G.synthesis, noise, ws, noise_mode="const")


def call_with_seed(net: torch.nn.Module, seed: int, noise_mode: str, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Call a network or its synthesis part; random noise is that of the seed, see `seed_to_noise`."""
    if noise_mode != "random":
        return net(*args, noise_mode=noise_mode, **kwargs)
    fixed = enumerate(sampling.noise_maps(net).items())
    noise = {name: seed_to_noise(seed, i, buffer.shape).to(buffer) for i, (name, buffer) in fixed}
    return sampling.call_with_noise(net, noise, *args, noise_mode="const", **kwargs)


@torch.no_grad()
def image_of_seed(
    G: torch.nn.Module, seed: int, c: torch.Tensor, truncation_psi: float, noise_mode: str
) -> np.ndarray:
    """The image of one seed and label `[1, c_dim]`, uint8 [H, W, C].

    A batch would be faster on a GPU, but its rounding differs from that of single images, so that a seed would give
    slightly different pixels from one call to the next.
    """
    z = seed_to_z(seed, G.z_dim).to(c)
    return to_uint8(call_with_seed(G, seed, noise_mode, z, c, truncation_psi=truncation_psi))[0]


def save_seeds(
    G: torch.nn.Module,
    seeds: Sequence[int],
    class_idx: int | Sequence[float] | None,   # or a label vector
    truncation_psi: float,
    noise_mode: str,
    outdir: str | os.PathLike,
    finish: Callable[[np.ndarray], np.ndarray] = lambda image: image,   # applied to each image [H, W, C]
    text_of: Callable[[int], dict[str, str]] | None = None,   # seed -> texts that its file carries, by keyword
    suffix: str = "",
) -> Iterator[str]:
    """Write `seed0003{suffix}.png` for each seed; yields the paths as they are done."""
    os.makedirs(outdir, exist_ok=True)
    c = class_to_label(class_idx, G.c_dim).to(device_of(G))
    for seed in seeds:
        image = finish(image_of_seed(G, seed, c, truncation_psi, noise_mode))
        text = None if text_of is None else text_of(seed)
        yield save_png(image, os.path.join(outdir, f"seed{seed:04d}{suffix}.png"), text)


def load_projected_w(path: str | os.PathLike) -> np.ndarray:
    """The array `w` of an npz file that projector.py wrote, float32. Its shape is checked by `check_projected_w`."""
    w = _load_arrays(path, ["w"]).get("w")
    if w is None:
        raise UserError(f"{path} has no array 'w' as projector.py writes it")
    return w


def check_projected_w(G: torch.nn.Module, w: np.ndarray, path: str | os.PathLike) -> None:
    if w.ndim != 3 or w.shape[1:] != (G.num_ws, G.w_dim):
        raise UserError(f"{path}: w must be [N, {G.num_ws}, {G.w_dim}] for this network, got {list(w.shape)}")


def load_projected_noise(G: torch.nn.Module, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The noise maps that projector.py fitted and wrote beside `w`, by buffer name; empty if it fitted none."""
    own = sampling.noise_maps(G.synthesis)
    found = _load_arrays(path, list(own))
    for name, value in found.items():
        shape = list(own[name].shape)
        if list(value.shape) != shape:
            raise UserError(f"{path}: {name} must be {shape} for this network, got {list(value.shape)}")
    return {name: torch.from_numpy(value).to(own[name]) for name, value in found.items()}


def _load_arrays(path: str | os.PathLike, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an npz file has, float32. UserError if it is none or they are not numbers."""
    with open(path, "rb") as file:
        try:
            data = np.load(file, allow_pickle=False)
            if isinstance(data, np.ndarray):   # a single array, not a collection
                return {}
            unpacked = sum(member.file_size for member in data.zip.infolist())
            arrays = {name: np.asarray(data[name]) for name in names if name in data and unpacked <= MAX_NPZ_BYTES}
        except MemoryError:
            raise
        except Exception as err:   # damage shows as errors of zipfile, zlib, lzma, the parser of headers and others
            raise UserError(f"{path} is not a readable npz file ({type(err).__name__})") from err
    if unpacked > MAX_NPZ_BYTES:
        raise UserError(f"{path} unpacks to {unpacked} bytes, the limit is {MAX_NPZ_BYTES}")
    for name, value in arrays.items():
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise UserError(f"{path}: {name} must hold finite floats, got {value.dtype}")
    return {name: value.astype(np.float32) for name, value in arrays.items()}


@torch.no_grad()
def save_projected(
    G: torch.nn.Module,
    w: np.ndarray,                    # [N, num_ws, w_dim]
    noise: dict[str, torch.Tensor],   # fitted noise maps, instead of the network's fixed ones
    noise_mode: str,
    outdir: str | os.PathLike,
) -> Iterator[str]:
    """Write `proj00.png` for each row of w; yields the paths as they are done. Random noise is that of the row."""
    os.makedirs(outdir, exist_ok=True)
    for i, row in enumerate(torch.from_numpy(w).to(device_of(G))):
        if noise_mode == "const":
            img = synthesize(G, row[None], noise)
        else:
            img = call_with_seed(G.synthesis, i, noise_mode, row[None])
        yield save_png(to_uint8(img)[0], os.path.join(outdir, f"proj{i:02d}.png"))


def save_png(image: np.ndarray, path: str, text: dict[str, str] | None = None) -> str:
    """Write uint8 [H, W, C] of 1 (gray), 3 (RGB) or 4 (RGBA) channels, whole or not at all; returns the path.

    text: ASCII that the file carries, by keyword.
    """
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    with dnnlib.util.open_atomic(path) as file:
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, format="PNG", pnginfo=chunks)
    return path


def device_of(G: torch.nn.Module) -> torch.device:
    return next(G.parameters()).device


@torch.no_grad()
def image_shape(G: torch.nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of the images of G."""
    ws = torch.zeros([1, G.num_ws, G.w_dim], device=device_of(G))
    _, channels, height, width = G.synthesis(ws, noise_mode="none").shape
    return channels, height, width
