"""Edit recipes: how an image came about, to make it again and to edit it further.

An image starts from a seed, or from styles that a search found, and is changed edit by edit. Every edit has a key. The
new latents of a block follow from the image seed, the key, the block and the number of the variant, and from nothing
else. So v05 of a block is the same however many variants are drawn and whatever other blocks are redrawn with it;
under another key, v05 of the same block is another draw; and an edit can be dropped, and the others stay what they
were. Noise maps follow in the same way, with the number of the convolution in place of the block.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json

import numpy as np
import torch
from PIL import Image

from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.errors import UserError

NOISE_MODES = ("const", "random", "none")
MAX_SEED = 2**32 - 1     # numpy's RandomState takes no more
MAX_KEY = MAX_SEED - 1   # noise maps use the number after it
MAX_FEATHER = 512        # pixels
MAX_EDITS = 1000
MAX_VARIANTS = 10_000


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change of an image: where, in which layers, and where the new latents come from.

    The place is a set of blocks or a mask; the source is a random draw, the image of another seed, or the first image.
    """

    blocks: tuple[tuple[int, int], ...] = ()  # (row, col) of each redrawn block; empty with a mask
    grid: tuple[int, int] | None = None       # rows and columns of the grid of these blocks; None: the finest
    mask: bytes | None = None                 # PNG, 8-bit gray, size of the image; white is redrawn
    feather: int = 0                          # pixels around the place over which old and new are mixed
    keep_exact: bool = False                  # put the old pixels back beyond the feather?
    layers: tuple[int, int] = (0, 0)          # first and last layer whose latents change, inclusive
    noise: bool = False                       # redraw the noise maps at that place too?
    key: int = 0                              # tells the draws of the edits of an image apart
    variant: int | None = None                # number of the random draw, beside seed, key and block
    transplant_from: int | None = None        # image seed that the latents come from
    from_start: bool = False                  # bring back what the image started with?

    def __post_init__(self) -> None:
        if bool(self.blocks) == (self.mask is not None):
            raise UserError("an edit has either blocks or a mask")
        if self.grid is not None and self.mask is not None:
            raise UserError(f"an edit with a mask redraws the finest grid, got grid {list(self.grid)}")
        if len(set(self.blocks)) != len(self.blocks):
            raise UserError(f"an edit names a block twice: {[list(block) for block in self.blocks]}"[:200])
        if not 0 <= self.layers[0] <= self.layers[1]:
            raise UserError(f"layers must be first <= last, both >= 0, got {list(self.layers)}")
        if [self.variant is not None, self.transplant_from is not None, self.from_start].count(True) != 1:
            raise UserError("an edit has either a variant, transplant_from or from_start")
        if self.noise and self.variant is None:
            raise UserError("a transplant keeps the noise maps, so noise must be false")
        if not 0 <= self.feather <= MAX_FEATHER:
            raise UserError(f"the feather must be 0..{MAX_FEATHER} pixels, got {self.feather}")
        if self.feather and self.mask is None and not self.keep_exact:
            raise UserError("blocks have a feather only where the rest is kept exactly")
        if not 0 <= self.key <= MAX_KEY:
            raise UserError(f"the key of an edit must be in 0..{MAX_KEY}, got {self.key}")
        for name in ("variant", "transplant_from"):
            check_seed(name, getattr(self, name))

    @property
    def number(self) -> int:
        """Tells the variants of one sheet apart."""
        return 1 if self.variant is None else self.variant

    def same_place(self, other: Edit) -> bool:
        return (self.blocks, self.grid, self.mask, self.feather) == (
            other.blocks, other.grid, other.mask, other.feather)


@dataclasses.dataclass(frozen=True)
class Picture:
    """The owner's picture that an image was found for, and the part of it that was looked at."""

    name: str                       # file name, for people
    width: int                      # upright
    height: int
    box: tuple[int, int, int, int]  # left, top, right, bottom of the part, pixels

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            raise UserError(f"box {list(self.box)} is not within the picture of {self.width}x{self.height} pixels")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make an image, and the alternatives for its next edit."""

    network_name: str                  # file name, for people
    network_sha256: str                # see `hash_network`; of the network as it was before tuning
    seed: int                          # of the image, or, where it starts from `found`, of the draws alone
    label: int | None = None           # class of a conditional network
    truncation: float = 1.0
    noise_mode: str = "const"
    edits: tuple[Edit, ...] = ()       # applied in order to the image that it starts from
    variants: tuple[Edit, ...] = ()    # each one a possible next edit
    found: Arrays | None = None        # styles `w` [1, 1 or L, w_dim] to start from, and fitted noise maps
    tuned: Arrays | None = None        # what to add to parameters of the network, by name
    picture: Picture | None = None     # that `found` was found for
    network_path: str | None = dataclasses.field(default=None, compare=False)  # where the network was last seen

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        check_seed("class", self.label)
        if not abs(self.truncation) < 3e38:   # networks multiply with it in single precision
            raise UserError(f"truncation must be finite and below 3e38, got {self.truncation}")
        if self.noise_mode not in NOISE_MODES:
            raise UserError(f"noise_mode must be one of {', '.join(NOISE_MODES)}, got {self.noise_mode[:80]!r}")
        if len(self.edits) > MAX_EDITS or len(self.variants) > MAX_VARIANTS:
            raise UserError(f"a recipe has at most {MAX_EDITS} edits and {MAX_VARIANTS} variants, "
                            f"got {len(self.edits)} and {len(self.variants)}")
        numbers = [edit.number for edit in self.variants]
        if len(set(numbers)) != len(numbers):
            raise UserError(f"the variants must have different numbers, got {numbers}"[:200])
        if not all(edit.same_place(self.variants[0]) for edit in self.variants):
            raise UserError("the variants must all change the same place")
        keys = [edit.key for edit in self.edits]
        if len(set(keys)) != len(keys) or not {edit.key for edit in self.variants}.isdisjoint(keys):
            raise UserError(f"every edit needs a key of its own, got {keys}"[:200])

    @property
    def next_key(self) -> int:
        """For an edit to come: no other edit has it."""
        return max((edit.key + 1 for edit in self.edits), default=0)

    def edited(self, edit: Edit) -> Recipe:
        """With one more edit, under the next key. The variants are dropped."""
        return dataclasses.replace(self, edits=(*self.edits, dataclasses.replace(edit, key=self.next_key)), variants=())

    def with_variants(self, variants: tuple[Edit, ...]) -> Recipe:
        """With these alternatives for the next edit, under the next key."""
        key = self.next_key
        return dataclasses.replace(self, variants=tuple(dataclasses.replace(edit, key=key) for edit in variants))

    def without(self, number: int) -> Recipe:
        """With the edit of this number, counted from 1, taken out. The draws of the others stay what they are."""
        if not 1 <= number <= len(self.edits):
            rule = f"1..{len(self.edits)}" if self.edits else "one of its edits, and it has none"
            raise UserError(f"the edit to drop must be {rule}, got {number}")
        return dataclasses.replace(self, edits=self.edits[:number - 1] + self.edits[number:], variants=())

    def moved(self, number: int, to: int) -> Recipe:
        """With the edit of this number as edit `to`, both counted from 1. All draws stay what they are."""
        for value in (number, to):
            if not 1 <= value <= len(self.edits):
                rule = f"1..{len(self.edits)}" if self.edits else "among its edits, and it has none"
                raise UserError(f"an edit to move must be {rule}, got {value}")
        edits = [*self.edits[:number - 1], *self.edits[number:]]
        edits.insert(to - 1, self.edits[number - 1])
        return dataclasses.replace(self, edits=tuple(edits), variants=())

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
        raise UserError(f"the recipe has no variant {number}; it has {numbers}, and 0 for the image before")


def check_seed(name: str, value: int | None) -> None:
    if value is not None and not 0 <= value <= MAX_SEED:
        raise UserError(f"{name} must be in 0..{MAX_SEED}, got {value}")


def hash_network(G: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers, and over the block grid.

    It does not depend on how or in which order the network was stored. Result lines of this project's host state
    another hash, which knows no grids (`hash_state` of `metrics/content_hash.py`).
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
                raise UserError(f"a mask must be 8-bit gray, got mode {image.mode}")
            if size is not None and (image.height, image.width) != size:
                raise UserError(f"the mask is {image.width}x{image.height}, the image {size[1]}x{size[0]}")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as err:
        raise UserError(f"a mask is not a readable PNG ({err})") from err
