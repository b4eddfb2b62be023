"""The files of a projection: the target image that goes in; pictures, latents and a film that come out."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image, ImageOps

import dnnlib
from dnnlib.util import UserError
from training.data.decoding import on_black, open_image, read_picture
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


def open_photograph(path: str | os.PathLike) -> Image.Image:
    """Read a picture as it is stored, upright and with its colour profile, to give it back bit by bit."""
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as err:
        raise UserError(f"photograph {path} cannot be read: {err.strerror}") from err
    image = open_image(data, f"photograph {path}")
    if image.info.get("sixteen_bits") or image.mode.startswith(("I", "F")):
        raise UserError(f"photograph {path} must have 8 bits per channel")
    return ImageOps.exif_transpose(image)


Box = tuple[int, int, int, int]   # left, top, right, bottom, in pixels


def choose_box(picture: tuple[int, int], image: tuple[int, int], crop: str | None, center: str | None) -> Box:
    """The part of a picture to look at, in the proportions of the network's images. Both sizes are width and height.

    crop: `LEFT,TOP,RIGHT,BOTTOM`, whose middle is taken; None: the whole picture.  center: `X,Y` or `X,Y,WIDTH`, a
    part of that width around this point, or as wide as possible. ValueError where that is no part of the picture.
    """
    width, height = picture
    aspect = image[0] / image[1]
    if center is not None:
        x, y, *given = _numbers("center", center, (2, 3))
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(f"center {center} is outside the picture of {width}x{height} pixels")
        half = min(x, width - x, aspect * y, aspect * (height - y), *(side / 2 for side in given))
        if half < 1 or (given and half < given[0] / 2):
            raise UserError(f"center {center} leaves no part of that size in the picture of {width}x{height} pixels")
        return _rounded(x - half, y - half / aspect, 2 * half, 2 * half / aspect)
    left, top, right, bottom = (0, 0, width, height) if crop is None else _numbers("crop", crop, (4,))
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UserError(f"crop {crop} is no part of the picture of {width}x{height} pixels")
    wide = min(right - left, max(round((bottom - top) * aspect), 1))
    high = min(bottom - top, max(round((right - left) / aspect), 1))
    return _rounded(left + (right - left - wide) // 2, top + (bottom - top - high) // 2, wide, high)


def _numbers(name: str, text: str, counts: tuple[int, ...]) -> list[int]:
    parts = text.split(",")
    if len(parts) not in counts or not all(re.fullmatch(r"\s*\d{1,6}\s*", part) for part in parts):
        raise UserError(f"{name} must be {' or '.join(map(str, counts))} numbers with commas, got {text!r}")
    return [int(part) for part in parts]


def _rounded(left: float, top: float, width: float, height: float) -> Box:
    return round(left), round(top), round(left) + max(round(width), 1), round(top) + max(round(height), 1)


def fit_to_network(image: Image.Image, G: torch.nn.Module, box: Box | None = None) -> np.ndarray:
    """A part of a picture at the size and with the channels of G's images, uint8 `[H, W, C]`.

    box: the part, see `choose_box`; None: the middle. Resizes with Lanczos' filter. Where the network has no
    transparency, that of the picture lies on black, as in data sets.
    """
    channels, height, width = image_shape(G)
    if channels not in MODES:
        raise UserError(f"images must be gray, RGB or RGBA, the network makes {channels} channels")
    picture = (image if channels == 4 else on_black(image)).convert(MODES[channels])
    picture = picture.crop(box or choose_box(picture.size, (width, height), None, None))
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
