"""How far styles lie from those that a network makes of random latents."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

PRIOR_SEED = 124        # of the samples
NUM_SAMPLES = 2000      # of latents, each of all blocks
LEAST_VARIANCE = 1e-3   # of a direction, as a share of the largest: narrower ones are an accident of the samples


@dataclasses.dataclass(frozen=True)
class StylePrior:
    """A normal distribution of the styles of a block, for each grid; the blocks of a grid share theirs."""

    means: list[torch.Tensor]     # per grid [bw]
    whiten: list[torch.Tensor]    # per grid [bw, bw]: styles less the mean times this have unit covariance
    blocks: list[int]             # per grid
    usual: float                  # 99 of 100 samples have fewer deviations than this

    def deviations(self, ws: torch.Tensor) -> torch.Tensor:
        """Root mean square over blocks and directions, in standard deviations: 1 on average. [N, L, B*bw] -> [N, L]"""
        sizes = [count * len(mean) for count, mean in zip(self.blocks, self.means)]
        squares = [((part.unflatten(2, (count, -1)) - mean) @ matrix).square().flatten(2)
                   for part, count, mean, matrix in zip(ws.split(sizes, dim=2), self.blocks, self.means, self.whiten)]
        return torch.cat(squares, dim=2).mean(dim=2).sqrt()


@torch.no_grad()
def style_prior(G: torch.nn.Module, label: torch.Tensor) -> StylePrior:
    """The distribution of the styles of G; `label` [1, c_dim]."""
    blocks = [rows * cols for rows, cols in getattr(G, "block_grid", [[1, 1]])]
    random = np.random.RandomState(PRIOR_SEED)
    parts = []
    for _ in range(0, NUM_SAMPLES, 500):
        z = torch.from_numpy(random.randn(500, G.z_dim)).to(label)
        parts.append(G.mapping(z, label.expand(500, -1))[:, 0])
    w = torch.cat(parts)                                                     # [N, B*bw]
    width = w.shape[1] // sum(blocks)
    means, whiten = [], []
    for part in w.split([count * width for count in blocks], dim=1):
        styles = part.reshape(-1, width).double()
        covariance = torch.atleast_2d(torch.cov(styles.t()))
        variances, directions = torch.linalg.eigh(covariance)
        variances = variances.clamp(min=LEAST_VARIANCE * float(variances[-1]) or 1.0)
        means.append(styles.mean(dim=0).to(w))
        whiten.append((directions / variances.sqrt()).to(w))
    prior = StylePrior(means, whiten, blocks, usual=0.0)
    return dataclasses.replace(prior, usual=float(prior.deviations(w[:, None]).quantile(0.99)))
