"""Edit recipes: small JSON files that say how an image came about, to make it again and to edit it further.

The new latents of a block follow from the image seed, the number of edits before, the block and the number of the
variant, and from nothing else. So v05 of a block is the same however many variants are drawn and whatever other
blocks are redrawn with it; after another edit, v05 of the same block is a new draw. Noise maps follow in the same way,
with the number of the convolution in place of the block.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssn_plugin.files import open_atomic

FORMAT = "ssn-recipe 1"
NOISE_MODES = ("const", "random", "none")
MAX_SEED = 2**32 - 1           # numpy's RandomState takes no more
MAX_FILE_BYTES = 64 * 2**20    # a recipe is small; do not read a disk image by mistake


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change of an image: where, in which layers, and where the new latents come from.

    The place is a set of blocks or a mask; the source is a random draw or the image of another seed.
    """

    blocks: tuple[tuple[int, int], ...] = ()  # (row, col) of each redrawn block; empty with a mask
    grid: tuple[int, int] | None = None       # rows and columns of the grid of these blocks; None: the finest
    mask: bytes | None = None                 # PNG, 8-bit gray, size of the image; white is redrawn
    layers: tuple[int, int] = (0, 0)          # first and last layer whose latents change, inclusive
    noise: bool = False                       # redraw the noise maps at that place too?
    variant: int | None = None                # number of the random draw, beside seed, edits before and block
    transplant_from: int | None = None        # image seed that the latents come from

    def __post_init__(self) -> None:
        if bool(self.blocks) == (self.mask is not None):
            raise ValueError("an edit has either blocks or a mask")
        if self.grid is not None and self.mask is not None:
            raise ValueError(f"an edit with a mask redraws the finest grid, got grid {list(self.grid)}")
        if len(set(self.blocks)) != len(self.blocks):
            raise ValueError(f"an edit names a block twice: {[list(block) for block in self.blocks]}")
        if not 0 <= self.layers[0] <= self.layers[1]:
            raise ValueError(f"layers must be first <= last, both >= 0, got {list(self.layers)}")
        if (self.variant is None) == (self.transplant_from is None):
            raise ValueError("an edit has either a variant or transplant_from")
        if self.noise and self.transplant_from is not None:
            raise ValueError("a transplant keeps the noise maps, so noise must be false")
        for name in ("variant", "transplant_from"):
            check_seed(name, getattr(self, name))

    @property
    def number(self) -> int:
        """Tells the variants of one sheet apart."""
        return 1 if self.variant is None else self.variant


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make an image, and the alternatives for its next edit."""

    network_name: str                  # file name, for people
    network_sha256: str                # see `hash_network`
    seed: int
    label: int | None = None           # class of a conditional network
    truncation: float = 1.0
    noise_mode: str = "const"
    edits: tuple[Edit, ...] = ()       # applied in order to the image of the seed
    variants: tuple[Edit, ...] = ()    # each one a possible next edit

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        check_seed("class", self.label)
        if not math.isfinite(self.truncation):
            raise ValueError(f"truncation must be finite, got {self.truncation}")
        if self.noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {', '.join(NOISE_MODES)}, got {self.noise_mode!r}")
        numbers = [edit.number for edit in self.variants]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"the variants must have different numbers, got {numbers}")
        places = {(edit.blocks, edit.grid, edit.mask) for edit in self.variants}
        if len(places) > 1:
            raise ValueError("the variants must all change the same place")

    def starts_like(self, other: Recipe) -> bool:
        """Is the image before the variants the same? The network counts by its content, not by its name."""
        return self.pick(0) == dataclasses.replace(other.pick(0), network_name=self.network_name)

    def joined(self, other: Recipe) -> Recipe | None:
        """One recipe with the variants of both; None unless they draw the same edit of the same image."""
        variants = {*self.variants, *other.variants}
        series = {dataclasses.replace(edit, variant=None if edit.variant is None else 1) for edit in variants}
        if len(series) > 1 or not self.starts_like(other):
            return None
        return dataclasses.replace(self, variants=tuple(sorted(variants, key=lambda edit: edit.number)))

    def pick(self, number: int) -> Recipe:
        """The recipe of variant `number`, without alternatives; 0 is the image that the variants start from."""
        if number == 0:
            return dataclasses.replace(self, variants=())
        for edit in self.variants:
            if edit.number == number:
                return dataclasses.replace(self, edits=(*self.edits, edit), variants=())
        numbers = ", ".join(str(edit.number) for edit in self.variants) or "none"
        raise ValueError(f"the recipe has no variant {number}; it has {numbers}, and 0 for the image before")


def check_seed(name: str, value: int | None) -> None:
    if value is not None and not 0 <= value <= MAX_SEED:
        raise ValueError(f"{name} must be in 0..{MAX_SEED}, got {value}")


def hash_network(G: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, and over the block grid.

    It does not depend on how or in which order the network was stored.
    """
    digest = hashlib.sha256(json.dumps([list(grid) for grid in G.block_grid]).encode())
    for name, tensor in sorted(G.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encode_mask(weights: np.ndarray) -> bytes:
    """uint8 [H, W] -> PNG."""
    buffer = io.BytesIO()
    Image.fromarray(weights).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def decode_mask(png: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """PNG -> uint8 [H, W]; with `size` (H, W) anything else is refused before its pixels are read."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.mode != "L":
                raise ValueError(f"a mask must be 8-bit gray, got mode {image.mode}")
            if size is not None and (image.height, image.width) != size:
                raise ValueError(f"the mask is {image.width}x{image.height}, the image {size[1]}x{size[0]}")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as err:
        raise ValueError(f"a mask is not a readable PNG ({err})") from err


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON's types; `recipe_from_json` is the way back."""
    masks: dict[bytes, str] = {}  # a mask is stored once, however many variants share it

    def edit_to_json(edit: Edit) -> dict[str, Any]:
        data: dict[str, Any] = {"blocks": edit.blocks}
        if edit.grid is not None:
            data["grid"] = edit.grid
        if edit.mask is not None:
            data = {"mask": masks.setdefault(edit.mask, f"mask{len(masks) + 1}")}
        data |= {"layers": edit.layers, "noise": edit.noise}
        source = "variant" if edit.variant is not None else "transplant_from"
        return data | {source: getattr(edit, source)}

    lists = {key: [edit_to_json(edit) for edit in getattr(recipe, key)] for key in ("edits", "variants")}
    return {
        "format": FORMAT,
        "network": {"name": recipe.network_name, "sha256": recipe.network_sha256},
        "seed": recipe.seed,
        "class": recipe.label,
        "truncation": recipe.truncation,
        "noise_mode": recipe.noise_mode,
        "masks": {name: base64.b64encode(png).decode() for png, name in masks.items()},
        **lists,
    }


def write_recipe(recipe: Recipe, path: str | os.PathLike) -> None:
    """Write the recipe, one line per edit, so that people can read it and version control can compare it."""
    lines = []
    for key, value in recipe_to_json(recipe).items():
        rows = ",".join(f"\n    {json.dumps(row)}" for row in value) if isinstance(value, list) else ""
        lines.append(f'  "{key}": [{rows}\n  ]' if rows else f'  "{key}": {json.dumps(value)}')
    with open_atomic(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("{\n" + ",\n".join(lines) + "\n}\n")


def read_recipe(path: str | os.PathLike) -> Recipe:
    """Read a recipe strictly: unknown keys, wrong types and values out of range are errors.

    Raises ValueError with one line that names the file, OSError when it cannot be read.
    """
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise ValueError(f"recipe {path}: {os.path.getsize(path)} bytes, at most {MAX_FILE_BYTES} are read")
    with open(path, "rb") as file:
        text = file.read()
    try:
        return recipe_from_json(parse_json(text))
    except (ValueError, OverflowError) as err:
        raise ValueError(f"recipe {path}: {err}") from err


def parse_json(text: bytes) -> Any:
    """Strict JSON: no key twice, no NaN. ValueError for anything else."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as err:
        raise ValueError("not a text file in UTF-8") from err
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON, {err}") from err
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def recipe_from_json(data: Any) -> Recipe:
    """Read what `recipe_to_json` made. ValueError for unknown keys, wrong types and values out of range."""
    keys = ("format", "network", "seed", "class", "truncation", "noise_mode", "masks", "edits", "variants")
    check_keys("the recipe", data, keys)
    if data["format"] != FORMAT:
        raise ValueError(f"format must be {FORMAT!r}, got {data['format']!r}")
    check_keys("network", data["network"], ("name", "sha256"))
    masks = {
        name: _decode_base64(name, text)
        for name, text in typed("masks", data["masks"], dict).items()
    }
    truncation = data["truncation"]
    return Recipe(
        network_name=typed("network name", data["network"]["name"], str),
        network_sha256=typed("network sha256", data["network"]["sha256"], str),
        seed=typed("seed", data["seed"], int),
        label=None if data["class"] is None else typed("class", data["class"], int),
        truncation=float(truncation) if type(truncation) is int else typed("truncation", truncation, float),
        noise_mode=typed("noise_mode", data["noise_mode"], str),
        edits=tuple(_edit_from_json(edit, masks) for edit in typed("edits", data["edits"], list)),
        variants=tuple(_edit_from_json(edit, masks) for edit in typed("variants", data["variants"], list)),
    )


def _edit_from_json(data: Any, masks: dict[str, bytes]) -> Edit:
    typed("an edit", data, dict)
    place = "mask" if "mask" in data else "blocks"
    source = "transplant_from" if "transplant_from" in data else "variant"
    optional = ("grid",) if "grid" in data else ()
    check_keys("an edit", data, (place, *optional, "layers", "noise", source))
    if place == "mask" and typed("mask", data["mask"], str) not in masks:
        raise ValueError(f"edit names {data['mask']!r}, masks has {', '.join(masks) or 'none'}")
    blocks = typed("blocks", data["blocks"], list) if place == "blocks" else []
    return Edit(
        blocks=tuple(_int_pair("a block", block) for block in blocks),
        grid=_int_pair("grid", data["grid"]) if optional else None,
        mask=masks[data["mask"]] if place == "mask" else None,
        layers=_int_pair("layers", data["layers"]),
        noise=typed("noise", data["noise"], bool),
        **{source: typed(source, data[source], int)},
    )


def typed(name: str, value: Any, kind: type) -> Any:
    # `type is`, not isinstance: JSON's true must not pass as the number 1.
    if type(value) is not kind:
        raise ValueError(f"{name} must be of type {kind.__name__}, got {json.dumps(value)[:80]}")
    return value


def _int_pair(name: str, value: Any) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2 or any(type(x) is not int for x in value):
        raise ValueError(f"{name} must be a list of two integers, got {json.dumps(value)[:80]}")
    return value[0], value[1]


def _decode_base64(name: str, text: Any) -> bytes:
    try:
        return base64.b64decode(typed(name, text, str), validate=True)
    except ValueError as err:
        raise ValueError(f"{name} is not base64 ({err})") from err


def check_keys(name: str, data: Any, keys: Sequence[str]) -> None:
    typed(name, data, dict)
    for key in data:
        if key not in keys:
            raise ValueError(f"{name} has the unknown key {key!r}; it takes {', '.join(keys)}")
    for key in keys:
        if key not in data:
            raise ValueError(f"{name} lacks the key {key!r}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError(f"a key occurs twice among {', '.join(key for key, _ in pairs)}")
    return data


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number")
