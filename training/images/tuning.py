"""Tune a network to one picture, around the styles that a search found for it.

Pivotal tuning (Roich et al. 2021, arXiv:2106.05744): with the styles fixed, the pivot, the synthesis network learns the
picture, while a second term keeps what it makes of styles near by. Near by is here what an editor will visit, the pivot
with some blocks redrawn: there the redrawn blocks shall look as they did before, and the rest like the picture.
A network without a grid of blocks has no such neighbours; it keeps the images half way to random styles.

The noise maps are tuned along with the weights. They take the fine detail that a small network cannot learn, and an
edit puts the network's own maps back where it redraws, so nothing of the old detail shows through.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F

from dnnlib.util import UserError
from metrics.sampling import noise_maps
from training.images.distances import Distance
from training.images.generation import synthesize


@dataclasses.dataclass(frozen=True)
class TuningOptions:
    """Settings of the tuning."""

    num_steps: int = 300
    learning_rate: float = 6e-3     # of the weights; falls to zero over the second half
    noise_learning_rate: float = 0.05
    pixel_weight: float = 1.0       # of the mean squared error, beside the distance of the search
    neighbour_weight: float = 0.2   # of the term that keeps neighbours as they were; 0: without
    neighbour_interval: int = 2     # steps from one neighbour to the next, which then counts that many times
    redrawn_share: float = 0.25     # chance of each block to be redrawn in a neighbour
    seed: int = 303                 # of the neighbours

    def __post_init__(self) -> None:
        for name in ("num_steps", "neighbour_interval"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("learning_rate", "noise_learning_rate", "pixel_weight", "neighbour_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be >= 0, got {getattr(self, name)}")


def tune(
    G: torch.nn.Module,
    target: torch.Tensor,                            # [1, C, H, W] in -1..1
    distance: Distance,
    ws: torch.Tensor,                                # [1, L, w_dim]  the pivot
    noise: dict[str, torch.Tensor],                  # noise maps that the search fitted; others start from G's own
    label: torch.Tensor,                             # [1, c_dim]
    options: TuningOptions,
    on_step: Callable[[float], None] | None = None,  # called after every step with the distance
    on_image: Callable[[torch.Tensor], None] | None = None,  # called in every step with the image [1, C, H, W]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What to add to parameters of G, by name, float16 on the CPU, and all noise maps. G is left as it was."""
    tuned = copy.deepcopy(G)
    parameters = {name: value.requires_grad_() for name, value in tuned.named_parameters()
                  if name.startswith("synthesis.")}
    noise = {name: value.clone().requires_grad_() for name, value in (noise_maps(G.synthesis) | noise).items()}
    rates = [options.learning_rate, options.noise_learning_rate]
    optimizer = torch.optim.Adam([dict(params=list(parameters.values())), dict(params=list(noise.values()))])
    random = torch.Generator().manual_seed(options.seed)
    for step in range(options.num_steps):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1.0, 2 * (1 - step / options.num_steps))
        img = synthesize(tuned, ws, noise)
        found = distance(img).sum()
        loss = found + options.pixel_weight * (img - target).square().mean()
        if options.neighbour_weight and step % options.neighbour_interval == 0:
            styles, region, expected = neighbour(G, target, ws, label, options.redrawn_share, random)
            made = synthesize(tuned, styles, own_noise_in(own_noise(G, tuned), noise, region))
            error = (made - expected).square().mean()
            loss = loss + options.neighbour_weight * options.neighbour_interval * error
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if on_image is not None:
            on_image(img.detach())
        if on_step is not None:
            on_step(found.item())
    before = dict(G.named_parameters())
    deltas = {name: (value.detach() - before[name]).to("cpu", torch.float16) for name, value in parameters.items()}
    return deltas, {name: value.detach() for name, value in noise.items()}


def own_noise(G: torch.nn.Module, tuned: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The fixed noise maps of G, scaled so that they have the same effect at the strengths of the tuned network."""
    before, after = (dict(net.synthesis.named_parameters()) for net in (G, tuned))
    maps = {}
    for name, value in noise_maps(G.synthesis).items():
        strength = name.removesuffix("noise_const") + "noise_strength"
        old, new = (float(net[strength].detach()) for net in (before, after))
        maps[name] = value * (old / new if new else 0.0)
    return maps


def own_noise_in(
    own: dict[str, torch.Tensor], noise: dict[str, torch.Tensor], region: torch.Tensor   # bool [H, W]
) -> dict[str, torch.Tensor]:
    """Noise maps with the network's own put back in a region of the image, as edits do."""
    weight = region[None, None].float()
    return {name: torch.where(F.adaptive_avg_pool2d(weight, value.shape)[0, 0] > 0.5, own[name], value)
            for name, value in noise.items()}


@torch.no_grad()
def neighbour(
    G: torch.nn.Module,
    target: torch.Tensor,   # [1, C, H, W]
    ws: torch.Tensor,       # [1, L, w_dim]
    label: torch.Tensor,    # [1, c_dim]
    redrawn_share: float,
    random: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Styles near the pivot [1, L, w_dim], where they are redrawn, bool [H, W], and what shall become of them."""
    new = G.mapping(torch.randn([1, G.z_dim], generator=random).to(target), label)
    if not hasattr(G, "block_grid"):
        halfway = ws.lerp(new, 0.5)
        everywhere = torch.ones(target.shape[2:], dtype=torch.bool, device=ws.device)
        return halfway, everywhere, synthesize(G, halfway, {})
    rows, cols = G.block_grid[-1]
    redrawn = torch.rand([rows * cols], generator=random) < redrawn_share
    redrawn[int(torch.randint(rows * cols, [], generator=random))] = True   # at least one
    num_blocks = sum(r * c for r, c in G.block_grid)
    chosen = torch.cat([redrawn.new_zeros([num_blocks - rows * cols]), redrawn])   # those of other grids stay
    chosen = chosen.repeat_interleave(G.w_dim // num_blocks).to(ws.device)
    styles = torch.where(chosen, new, ws)
    height, width = target.shape[2:]
    region = redrawn.reshape(rows, cols).to(ws.device)
    region = region.repeat_interleave(height // rows, dim=0).repeat_interleave(width // cols, dim=1)
    return styles, region, torch.where(region, synthesize(G, styles, {}), target)


def add_deltas(G: torch.nn.Module, deltas: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A copy of G with the results of `tune` added. Its own noise has the effect that it had."""
    tuned = copy.deepcopy(G)
    parameters = dict(tuned.named_parameters())
    with torch.no_grad():
        for name, delta in deltas.items():
            parameters[name].add_(delta.to(parameters[name]))
        for name, value in own_noise(G, tuned).items():
            noise_maps(tuned.synthesis)[name].copy_(value)
    return tuned
