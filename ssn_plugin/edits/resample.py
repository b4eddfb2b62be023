"""Keep the parts of an image that you like and redraw the rest.

Letters: N batch, L layers, R x S block grid that an edit names (row-major), B blocks of all grids, H x W
pixels. Images are in -1..1.
An image is a `Recipe`: a seed and a chain of edits. `make_latents` turns it into the input of the synthesis network,
`render` into pixels. Every draw has its own random generator, keyed by what it is for (see `ssn_plugin.edits.recipe`),
and images are made one at a time, so an image is the same alone, among others and in every order.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssn_plugin import pixels
from ssn_plugin.block_grid import block_grid_of, check_block, image_size, locate_grid
from ssn_plugin.edits.recipe import Edit, Recipe, decode_mask, hash_network
from ssn_plugin.errors import UserError

# First word of a random key, so that block latents and noise maps never share a stream.
BLOCK_STREAM, NOISE_STREAM = 1, 2


@dataclasses.dataclass(frozen=True)
class Latents:
    """All that the synthesis network takes for one image."""

    ws: torch.Tensor                                # [1, L, B*bw]
    noise: tuple[torch.Tensor, ...] | None = None   # per convolution [1, 1, r, r]; None: what the noise mode says
    blends: tuple[Blend, ...] = ()                  # from the bottom to the top


@dataclasses.dataclass(frozen=True)
class Blend:
    """Styles that a mask mixes in, over those below."""

    ws: torch.Tensor      # [1, L, B*bw]
    weight: torch.Tensor  # [1, 1, H, W] in 0..1


@dataclasses.dataclass(frozen=True)
class Rendering:
    """An image, and what the next edit starts from."""

    latents: Latents
    img: torch.Tensor                 # [C, H, W] float32 on the CPU
    held: torch.Tensor | None = None  # img minus what the network makes, where edits were to keep the rest exactly


@dataclasses.dataclass(frozen=True)
class Variant:
    """One alternative, compared with the image that it starts from."""

    edit: Edit
    img: torch.Tensor  # [C, H, W]
    inside: float      # mean squared change where redrawing was allowed
    outside: float     # and elsewhere; NaN where there is no such place

    @property
    def number(self) -> int:
        return self.edit.number

    @property
    def name(self) -> str:
        return f"v{self.number:02d}"

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, C]"""
        return to_uint8(self.img)

    @property
    def locality(self) -> float:
        """How much more the place changed than its surroundings."""
        return self.inside / self.outside if self.outside != 0 else math.inf

    @property
    def summary(self) -> str:
        """The change in words, of one or of both sides."""
        if math.isnan(self.outside):
            return f"change {self.inside:.4g}"
        return f"change inside {self.inside:.4g}, outside {self.outside:.4g}, ratio {self.locality:.3g}"


@dataclasses.dataclass(frozen=True)
class Resampling:
    """An image, its variants, and the place where they may differ."""

    recipe: Recipe
    num_ws: int
    original: torch.Tensor  # [C, H, W]
    region: torch.Tensor    # [H, W] bool
    variants: list[Variant]


def start_recipes(
    G: torch.nn.Module,
    name: str,                # file name of the network
    seeds: Sequence[int],
    label: int | None = None,
    truncation: float = 1.0,
    noise_mode: str = "const",
    sha256: str | None = None,   # of the network; None: computed
) -> list[Recipe]:
    """One recipe without edits for each seed."""
    block_grid_of(G, name)
    sha256 = sha256 or hash_network(G)
    return [Recipe(name, sha256, seed, label, truncation, noise_mode) for seed in seeds]


def check_recipe(recipe: Recipe, G: torch.nn.Module, name: str, sha256: str | None = None) -> None:
    """Raise ValueError unless the recipe belongs to this network and fits it.

    sha256: of the network before it was tuned; None: it was not, and the hash is computed.
    """
    block_grid_of(G, name)
    sha256 = sha256 or hash_network(G)
    if sha256 != recipe.network_sha256:
        raise UserError(f"the recipe belongs to {recipe.network_name} with hash {recipe.network_sha256}, "
                        f"{name} has hash {sha256}")
    if (recipe.label is None) != (G.c_dim == 0) or (recipe.label or 0) >= max(G.c_dim, 1):
        rule = f"0..{G.c_dim - 1}" if G.c_dim else "null"
        raise UserError(f"the class must be {rule} for {name}, got {recipe.label}")
    if recipe.found is not None:
        _found_latents(G, recipe)
    for edit in (*recipe.edits, *recipe.variants):
        check_edit(recipe, edit, G, name)


def check_edit(recipe: Recipe, edit: Edit, G: torch.nn.Module, name: str) -> None:
    """Raise ValueError unless the edit fits the network."""
    grid, _ = locate_grid(G.block_grid, edit.grid)
    for block in edit.blocks:
        check_block(block, grid)
    if edit.layers[1] >= G.num_ws:
        raise UserError(f"layers {list(edit.layers)} are outside the layers 0-{G.num_ws - 1} of {name}")
    if edit.noise and (recipe.noise_mode == "none" or not _noise_buffers(G)):
        raise UserError("noise cannot be redrawn in an image without noise")
    if edit.mask is not None:
        decode_mask(edit.mask, image_size(G))


def keyed_normal(shape: Sequence[int], *key: int) -> torch.Tensor:
    """Unit normals that depend on nothing but the key, a list of numbers below 2^32. float32."""
    # RandomState, because its stream is frozen: numpy may change that of its newer generators in any release.
    return torch.from_numpy(np.random.RandomState(list(key)).standard_normal(shape).astype(np.float32))


def sample_z(seed: int, z_dim: int) -> torch.Tensor:
    """The latents of an image seed, as generate.py of every StyleGAN2-ADA host draws them. [1, z_dim]"""
    return torch.from_numpy(np.random.RandomState(seed).randn(1, z_dim)).to(torch.float32)


def redraw_blocks(
    z: torch.Tensor,        # [1, B*bz]
    blocks: Sequence[int],  # indices of the blocks that get new latents
    block_z_dim: int,
    seed: int,              # image seed
    key: int,               # of the edit, so that a later redraw is a new one
    variant: int,
) -> torch.Tensor:          # [1, B*bz]
    """Replace the latents of some blocks by independent ones; all others are returned bit by bit."""
    grid = z.reshape(-1, block_z_dim).clone()  # [B, bz]
    for block in blocks:
        grid[block] = keyed_normal([block_z_dim], BLOCK_STREAM, seed, key, block, variant).to(z)
    return grid.reshape(z.shape)


def make_latents(G: torch.nn.Module, recipe: Recipe) -> Latents:
    """The latents of the recipe's image: those it starts from, then edit by edit."""
    latents = start_latents(G, recipe)
    for edit in recipe.edits:
        latents = apply_edit(G, recipe, latents, edit)
    return latents


def start_latents(G: torch.nn.Module, recipe: Recipe) -> Latents:
    """The latents that the edits start from: those of the seed, or those that were found."""
    noise = None
    if recipe.noise_mode == "random":  # drawn from the seed, since variants must share what is not redrawn
        noise = _redraw_noise(_noise_buffers(G), None, recipe.seed, number=0, variant=0)
    if recipe.found is None:
        return Latents(_map(G, recipe, sample_z(recipe.seed, G.z_dim)), noise)
    ws, fitted = _found_latents(G, recipe)
    return Latents(ws, fitted if recipe.noise_mode == "const" else noise)


def apply_edit(G: torch.nn.Module, recipe: Recipe, latents: Latents, edit: Edit) -> Latents:
    """Change the named layers of the named blocks, or mix in other styles under a mask; all else stays as it is."""
    (rows, cols), first = locate_grid(G.block_grid, edit.grid)
    blocks = [first + row * cols + col for row, col in edit.blocks] or list(range(first, first + rows * cols))
    start = start_latents(G, recipe) if edit.from_start else None
    if start is not None:
        new = start.ws
    elif edit.transplant_from is not None:
        new = _map(G, recipe, sample_z(edit.transplant_from, G.z_dim))
    else:
        z = sample_z(recipe.seed, G.z_dim)
        new = _map(G, recipe, redraw_blocks(z, blocks, G.block_z_dim, recipe.seed, edit.key, edit.number))
    chosen = _select(G, edit.layers, blocks).to(new.device)
    ws, noise, blends = latents.ws, latents.noise, latents.blends
    weight = region_weight(G, edit).to(new.device)[None, None]

    if start is not None and noise is not None:
        noise = _mix_noise(noise, start.noise or _noise_buffers(G), weight)
    elif edit.noise:
        old = _noise_buffers(G) if noise is None else noise
        noise = _redraw_noise(old, weight, recipe.seed, edit.key + 1, edit.number)
    elif noise is not None and recipe.found is not None and recipe.noise_mode == "const":
        # Maps that were fitted to a picture hold its detail, which must not show through what is redrawn.
        noise = _mix_noise(noise, _noise_buffers(G), weight)
    if edit.mask is not None:
        blends = _mix_in(latents, new, chosen, weight)
    else:
        ws = torch.where(chosen, new, ws)
        # A redrawn block is new under the masks, too.
        blends = tuple(Blend(torch.where(chosen, new, blend.ws), blend.weight) for blend in blends)
    return Latents(ws, noise, blends)


def _mix_in(latents: Latents, new: torch.Tensor, chosen: torch.Tensor, weight: torch.Tensor) -> tuple[Blend, ...]:
    """One more layer of styles, or other styles in the top layer where that has the same mask already."""
    *below, top = latents.blends or [None]
    if top is not None and torch.equal(top.weight, weight):
        return (*below, Blend(torch.where(chosen, new, top.ws), weight))
    # What is not redrawn comes from whatever lies under most of the mask.
    covering = [blend.ws for blend in latents.blends if (blend.weight * weight).sum() > weight.sum() / 2]
    before = covering[-1] if covering else latents.ws
    return (*latents.blends, Blend(torch.where(chosen, new, before), weight))


def region_weight(G: torch.nn.Module, edit: Edit) -> torch.Tensor:
    """How far each pixel belongs to the place of the edit, its feather included, 0 to 1. [H, W] float32

    Block (r, c) owns the pixels [r*H/R, (r+1)*H/R) x [c*W/S, (c+1)*W/S).
    """
    grid, _ = locate_grid(G.block_grid, edit.grid)
    weights = _place_weights(edit.mask, edit.blocks, grid, edit.feather, image_size(G))
    return torch.from_numpy(weights.astype(np.float32) / 255)


@functools.lru_cache(maxsize=16)  # all variants of an edit share a place
def _place_weights(
    mask: bytes | None, blocks: tuple[tuple[int, int], ...], grid: tuple[int, int], feather: int, size: tuple[int, int]
) -> np.ndarray:
    """uint8 [H, W]"""
    height, width = size
    if mask is not None:
        weights = decode_mask(mask, size)
    else:
        rows, cols = grid
        weights = np.zeros([height, width], dtype=np.uint8)
        for row, col in blocks:
            y, x = row * height // rows, col * width // cols
            weights[y:(row + 1) * height // rows, x:(col + 1) * width // cols] = 255
    return feathered(weights, feather)


def feathered(weights: np.ndarray, feather: int) -> np.ndarray:
    """Soften the border of a place outwards: half a cosine that reaches zero beyond `feather` pixels. uint8 [H, W]"""
    if feather == 0 or not (weights > 127).any():
        return weights
    import scipy.ndimage  # takes half as long to import as the redraw of a block

    distance = scipy.ndimage.distance_transform_edt(weights <= 127)  # of each pixel to the place; 0 within
    ramp = 0.5 + 0.5 * np.cos(np.pi * np.minimum(distance / (feather + 1), 1))
    return np.maximum(weights, (ramp * 255).round().astype(np.uint8))


def render_recipe(G: torch.nn.Module, recipe: Recipe) -> Rendering:
    """The image of a recipe; its variants do not matter. The recipe must have passed `check_recipe`."""
    exact = [i for i, edit in enumerate(recipe.edits) if edit.keep_exact]
    num_latent = exact[0] if exact else len(recipe.edits)  # edits before the first whose image must be seen
    latents = make_latents(G, dataclasses.replace(recipe, edits=recipe.edits[:num_latent]))
    rendering = Rendering(latents, render(G, recipe, latents))
    for edit in recipe.edits[num_latent:]:
        rendering = render_edit(G, recipe, rendering, edit)
    return rendering


def render_edit(G: torch.nn.Module, recipe: Recipe, before: Rendering, edit: Edit) -> Rendering:
    """The image after one more edit."""
    latents = apply_edit(G, recipe, before.latents, edit)
    img = render(G, recipe, latents)
    if edit.keep_exact:
        kept = keep_outside(before.img, img, region_weight(G, edit))
        return Rendering(latents, kept, kept - img)
    if before.held is not None:  # this edit may change everything, but what others held back stays so
        return Rendering(latents, img + before.held, before.held)
    return Rendering(latents, img)


def keep_outside(before: torch.Tensor, after: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`after` where the weight is 1, and exactly `before` where it is 0. [C, H, W], [C, H, W], [H, W] -> [C, H, W]"""
    return torch.where(weight == 0, before, before.lerp(after, weight))


def run(net: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Call a finished network; on a GPU as a CUDA graph, where the host has such and they are wanted."""
    try:
        from torch_utils.graphed import call
    except ImportError:  # another host
        return net(*args, **kwargs)
    return call(net, *args, **kwargs)


@torch.no_grad()
def render(G: torch.nn.Module, recipe: Recipe, latents: Latents) -> torch.Tensor:
    """Synthesise one image. [C, H, W] float32 on the CPU"""
    extra: dict[str, Any] = {}
    if latents.noise is not None:
        extra["noise"] = list(latents.noise)
    if latents.blends:
        extra["blend"] = tuple(torch.cat(parts, dim) for parts, dim in (
            ([blend.ws for blend in latents.blends], 0), ([blend.weight for blend in latents.blends], 1)))
    noise_mode = "none" if recipe.noise_mode == "none" else "const"
    return run(G.synthesis, latents.ws, noise_mode=noise_mode, **extra)[0].float().cpu()


def change(before: torch.Tensor, after: torch.Tensor, region: torch.Tensor) -> tuple[float, float]:
    """Mean squared change of the pixels inside and outside the region; NaN for an empty side.

    before, after: [C, H, W].  region: [H, W] bool.
    """
    squared = (after - before).square().mean(dim=0)  # [H, W]
    return squared[region].mean().item(), squared[~region].mean().item()


def to_uint8(img: torch.Tensor) -> np.ndarray:
    """[C, H, W] in -1..1 -> uint8 [H, W, C]. ValueError for what is no picture."""
    pixels.check_picture(img)
    return pixels.to_uint8(img).permute(1, 2, 0).numpy()


def resample(G: torch.nn.Module, recipe: Recipe) -> Resampling:
    """Render the recipe's image and its variants. The recipe must have passed `check_recipe`."""
    before = render_recipe(G, recipe)
    region = torch.zeros(before.img.shape[1:], dtype=torch.bool)
    if recipe.variants:
        region = region_weight(G, recipe.variants[0]) > 0.5
    variants = []
    for edit in recipe.variants:
        img = render_edit(G, recipe, before, edit).img
        variants.append(Variant(edit, img, *change(before.img, img, region)))
    return Resampling(recipe, G.num_ws, before.img, region, variants)


def _map(G: torch.nn.Module, recipe: Recipe, z: torch.Tensor) -> torch.Tensor:
    device = next(G.parameters()).device
    c = torch.zeros([1, G.c_dim], device=device)
    if recipe.label is not None:
        c[:, recipe.label] = 1
    with torch.no_grad():
        return G.mapping(z.to(device), c, truncation_psi=recipe.truncation)  # [1, L, B*bw]


def _select(G: torch.nn.Module, layers: tuple[int, int], blocks: Sequence[int]) -> torch.Tensor:
    """True for the styles of these blocks in these layers. [1, L, B*bw]"""
    num_blocks = sum(math.prod(grid) for grid in G.block_grid)
    chosen = torch.zeros([G.num_ws, num_blocks, G.w_dim // num_blocks], dtype=torch.bool)
    chosen[layers[0]:layers[1] + 1, list(blocks)] = True
    return chosen.reshape(1, G.num_ws, G.w_dim)


def _noise_buffers(G: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    """The fixed noise maps in the order of the convolutions, each [1, 1, r, r]."""
    return tuple(b[None, None] for name, b in G.synthesis.named_buffers() if name.endswith(".noise_const"))


def _redraw_noise(
    noise: Sequence[torch.Tensor],  # each [1, 1, r, r]
    weight: torch.Tensor | None,    # [1, 1, H, W]; None redraws everything
    seed: int,
    number: int,                    # 0 for the image itself, then the key of the edit and 1
    variant: int,
) -> tuple[torch.Tensor, ...]:
    """Redraw the noise pixels that lie in the region by more than half."""
    drawn = tuple(
        keyed_normal(old.shape, NOISE_STREAM, seed, number, i, variant).to(old) for i, old in enumerate(noise))
    return drawn if weight is None else _mix_noise(noise, drawn, weight)


def _mix_noise(
    old: Sequence[torch.Tensor], new: Sequence[torch.Tensor], weight: torch.Tensor   # each [1, 1, r, r]; [1, 1, H, W]
) -> tuple[torch.Tensor, ...]:
    """The new noise pixels where they lie in the region by more than half, else the old ones."""
    return tuple(
        torch.where(torch.nn.functional.adaptive_avg_pool2d(weight, a.shape[-2:]) > 0.5, b, a)
        for a, b in zip(old, new, strict=True))


def _found_latents(G: torch.nn.Module, recipe: Recipe) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """Styles [1, L, B*bw] and noise maps of `recipe.found`. ValueError if they do not fit the network."""
    assert recipe.found is not None
    arrays = recipe.found.load()
    w = arrays.pop("w", None)
    if w is None or w.shape not in ((1, 1, G.w_dim), (1, G.num_ws, G.w_dim)):
        shape = "no array w" if w is None else list(w.shape)
        raise UserError(f"the styles w of a found image must be [1, 1 or {G.num_ws}, {G.w_dim}], got {shape}")
    own = [name for name, _ in G.synthesis.named_buffers() if name.endswith(".noise_const")]
    fixed = dict(zip(own, _noise_buffers(G), strict=True))
    for name, value in arrays.items():
        if name not in fixed:
            raise UserError(f"a found image has the array {name[:80]!r}, which is no noise map of the network")
        if value.shape != fixed[name].shape[2:]:
            shape = list(fixed[name].shape[2:])
            raise UserError(f"the noise map {name} of a found image must be {shape}, got {list(value.shape)}")
    device = next(G.parameters()).device
    ws = torch.from_numpy(w.astype(np.float32)).to(device).expand(-1, G.num_ws, -1)
    fitted = {name: torch.from_numpy(value).to(fixed[name])[None, None] for name, value in arrays.items()}
    return ws, tuple((fixed | fitted).values()) if fitted else None
