"""The files of a projection: the target image that goes in; pictures, latents and a film that come out."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image

import dnnlib
from dnnlib.util import UserError
from training.data.decoding import on_black, read_picture
from training.images.generation import device_of, image_shape, save_png, synthesize, to_uint8
from training.images.projection import Projection
from training.images.video import FilmFormat, save_film

FPS = 10
MODES = {1: "L", 3: "RGB", 4: "RGBA"}   # Pillow's names by number of channels


def open_target(path: str | os.PathLike) -> Image.Image:
    """Read a picture as the data sets do. `ValueError` or `OSError` naming the file if it is not one."""
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as err:
        raise UserError(f"target {path} cannot be read: {err.strerror}") from err
    return read_picture(data, f"target {path}")


def fit_to_network(image: Image.Image, G: torch.nn.Module) -> np.ndarray:
    """The middle of a picture at the size and with the channels of G's images, uint8 `[H, W, C]`.

    Crops to the shape of the network's images and resizes with Lanczos' filter. Where the network has no transparency,
    that of the picture lies on black, as in data sets.
    """
    channels, height, width = image_shape(G)
    if channels not in MODES:
        raise UserError(f"images must be gray, RGB or RGBA, the network makes {channels} channels")
    picture = (image if channels == 4 else on_black(image)).convert(MODES[channels])
    crop_w = min(picture.width, max(round(picture.height * width / height), 1))
    crop_h = min(picture.height, max(round(picture.width * height / width), 1))
    left, top = (picture.width - crop_w) // 2, (picture.height - crop_h) // 2
    picture = picture.crop((left, top, left + crop_w, top + crop_h))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS)).reshape(height, width, channels)


def to_tensor(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 [H, W, C] -> [1, C, H, W] in -1..1"""
    return torch.tensor(image, device=device, dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1


@torch.no_grad()
def save_image_and_latents(G: torch.nn.Module, projection: Projection, outdir: str) -> list[str]:
    """Write `proj.png` and `projected_w.npz`; returns their paths.

    The npz file has the styles `w` `[1, num_ws, w_dim]` and, where they were fitted, the noise maps under the names of
    their buffers in `G.synthesis`; `generate.py --projected-w` makes the same image of them.
    """
    w = projection.ws[-1:]
    img = synthesize(G, w.to(device_of(G)), projection.noise)
    paths = [save_png(to_uint8(img)[0], os.path.join(outdir, "proj.png"))]
    paths.append(os.path.join(outdir, "projected_w.npz"))
    with dnnlib.util.open_atomic(paths[-1]) as file:
        np.savez(file, w=w.numpy(), **{name: value.cpu().numpy() for name, value in projection.noise.items()})
    return paths


def save_search_film(
    G: torch.nn.Module,
    projection: Projection,
    target: np.ndarray,                           # uint8 [H, W, C]
    outdir: str,
    film_format: FilmFormat,
    on_frame: Callable[[], None] | None = None,   # called with every frame
) -> str:
    """Write `proj.mp4` (or .webp): the target beside the image of every step. Returns the path."""
    name = os.path.join(outdir, "proj")
    return save_film(_frames(G, projection, target), len(projection.ws), FPS, name, film_format, on_frame)


@torch.no_grad()
def _frames(G: torch.nn.Module, projection: Projection, target: np.ndarray) -> Iterator[np.ndarray]:
    for ws in projection.ws:
        img = synthesize(G, ws[None].to(device_of(G)), projection.noise)
        yield np.concatenate([target, to_uint8(img)[0]], axis=1)
