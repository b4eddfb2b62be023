"""How low the distortion of independent blocks can be, from the covariance of the images that they are to draw.

A sky that is blue or red everywhere at once correlates the blocks of an image. Independent latents can make such a
correlation only by reaching beyond their own blocks, and how far they must reach follows from the images alone.

Let an image x = G(z_1 ... z_B) be a function of independent latents, and d_i its change when block i is redrawn. For
any number f(x), Var(f) <= 1/2 sum_i E (change of f)^2 (Efron and Stein 1981). Applied to the components of x along the
rows of Q, k orthonormal directions, whose variances add up to T:

    2 T  <=  sum_i E |Q d_i|^2  <=  sum_i (s_i |d_i inside block i| + t_i |d_i outside it|)^2

by the triangle inequality, where |.| on the right is a root mean square over images, and s_i, t_i are the largest
singular values of the columns of Q inside and outside block i. The means over blocks of both changes are the diversity
V and the distortion D, so by Minkowski's inequality, with all of T, V, D per value of an image,

    sqrt(2 T)  <=  a sqrt(V) + b sqrt(D),    a = max_i s_i sqrt(B m_i),    b = max_i t_i sqrt(B (1 - m_i))

where m_i is the share of the image that block i owns. A network that draws images of variance T has at least the
distortion at which both sides are equal. Nothing is assumed of G but that its blocks are independent and that nothing
else moves the components. A global code does, and so does the class of a conditional network; noise maps, which are
not redrawn either, might.

Letters: N images, C channels, H W pixels, B = R*S blocks, Y X rows and columns of cells, K components.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch

from dnnlib.util import UserError
from ssn_plugin.distortion import block_mask, block_means

CELLS_PER_SIDE = 32  # to which images are averaged: means change by no more than pixels do, so the bound holds


class Components(NamedTuple):
    """Principal components of images, which are averaged over cells; every block holds equally many of these."""

    variances: np.ndarray   # [K] per value of an image, descending
    total: float            # of all components, also those that were left out
    directions: np.ndarray  # [K, C, Y, X] orthonormal, of cells weighted with the root of their size
    cell_sizes: np.ndarray  # [Y, X] in pixels

    def project(self, img: torch.Tensor) -> torch.Tensor:
        """Components of images [N, C, H, W], scaled so that their mean squares are per value. [N, K]

        Raises ValueError for images of another size than those that the components come from.
        """
        values = self.directions.shape[1] * int(self.cell_sizes.sum())
        if img[0].numel() != values:
            raise UserError(f"images must have {values} values as those of the components, got {[*img.shape[1:]]}")
        rows = torch.from_numpy(self.directions).flatten(1).to(img)
        return weighted_cells(img, self.cell_sizes) @ rows.T / img[0].numel() ** 0.5


class DistortionBound(NamedTuple):
    """sqrt(2 T) <= a sqrt(V) + b sqrt(D) for the first 1, 2 ... K components together, see above."""

    variance: np.ndarray  # [K] T
    inside: np.ndarray    # [K] a
    outside: np.ndarray   # [K] b

    def least_distortion(self, diversity: float) -> tuple[float, int]:
        """Of a network with this diversity and the variance T; and how many components ask for it."""
        rest = np.sqrt(2 * self.variance) - self.inside * np.sqrt(diversity)
        least = np.square(rest.clip(min=0) / self.outside)   # [K]
        return float(least.max()), int(least.argmax()) + 1

    def largest_variance(self, distortion: float, diversity: float) -> np.ndarray:
        """What a network can have instead of T. [K]"""
        return np.square(self.inside * np.sqrt(diversity) + self.outside * np.sqrt(distortion)) / 2


def principal_components(
    images: Iterable[torch.Tensor],  # batches [N, C, H, W] in -1..1
    block_grid: Sequence[int],       # (R, S)
    max_components: int = 64,
) -> Components:
    """The directions in which images vary most. Raises ValueError for fewer than two images."""
    count, sums, products = 0, np.zeros([]), np.zeros([])
    for img in images:
        sizes = cell_sizes(block_grid, *img.shape[2:])
        cells = weighted_cells(img.double(), sizes).numpy()                  # [N, C*Y*X]
        count, sums, products = count + len(img), sums + cells.sum(axis=0), products + cells.T @ cells
        channels, values = img.shape[1], img[0].numel()
    if count < 2:
        raise UserError(f"principal components need at least 2 images, got {count}")
    mean = sums / count
    covariance = (products / count - np.outer(mean, mean)) / values
    last = len(covariance) - 1
    variances, vectors = scipy.linalg.eigh(covariance, subset_by_index=[max(0, last + 1 - max_components), last])
    order = variances.argsort()[::-1]
    directions = vectors.T[order].reshape(-1, channels, *sizes.shape)
    return Components(variances[order].clip(min=0), float(covariance.trace()), directions, sizes)


def distortion_bound(components: Components, block_grid: Sequence[int]) -> DistortionBound:
    """The bound for images with these components and networks with this grid, (R, S)."""
    num_blocks, num = block_grid[0] * block_grid[1], len(components.variances)
    if num_blocks < 2:
        raise UserError(f"distortion needs at least 2 blocks, got a grid of {block_grid[0]}x{block_grid[1]}")
    sizes, directions = components.cell_sizes, components.directions
    owned = block_mask(torch.arange(num_blocks), block_grid, *sizes.shape).numpy()            # [B, Y, X]
    share = np.array([sizes[mask].sum() for mask in owned]) / sizes.sum()                     # [B] m_i
    inside, outside = np.zeros(num), np.zeros(num)
    for mask, m in zip(owned, share, strict=True):
        columns = (directions[..., mask].reshape(num, -1), directions[..., ~mask].reshape(num, -1))
        for k in range(1, num + 1):
            s, t = (np.linalg.norm(part[:k], ord=2) for part in columns)
            inside[k - 1] = max(inside[k - 1], s * np.sqrt(num_blocks * m))
            outside[k - 1] = max(outside[k - 1], t * np.sqrt(num_blocks * (1 - m)))
    return DistortionBound(components.variances.cumsum(), inside, outside)


def cell_sizes(block_grid: Sequence[int], height: int, width: int) -> np.ndarray:
    """Pixels in each of the cells that images of this size are averaged over. [Y, X]

    Raises ValueError for a grid that is finer than the image.
    """
    rows, cols = block_grid
    if not (1 <= rows <= height and 1 <= cols <= width):
        raise UserError(f"a block grid must have 1 to {height} rows and 1 to {width} columns, got {rows}x{cols}")
    per_block = max(1, min(CELLS_PER_SIDE // max(rows, cols), height // rows, width // cols))
    counts = [np.bincount(np.arange(pixels) * cells * per_block // pixels)
              for cells, pixels in ((rows, height), (cols, width))]
    return np.outer(*counts)


def weighted_cells(img: torch.Tensor, sizes: np.ndarray) -> torch.Tensor:
    """Means of the cells of images [N, C, H, W], times the root of their size: never longer than img. [N, C*Y*X]"""
    means = block_means(img.flatten(0, 1), sizes.shape).reshape(*img.shape[:2], *sizes.shape)
    return (means * torch.from_numpy(sizes).to(img).sqrt()).flatten(1)
