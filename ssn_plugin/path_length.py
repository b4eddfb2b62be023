"""Path length of single blocks: low-distortion path length regularisation (Hong et al. 2020, Appendix B.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ssn_plugin import distortion
from ssn_plugin.block_grid import first_block
from torch_utils.ops import conv2d_gradfix


def random_block_path_lengths(
    img: torch.Tensor,                     # [N, C, H, W], computed from ws
    ws: torch.Tensor,                      # [N, L, B*bw] styles of all blocks of all grids
    block_grids: Sequence[Sequence[int]],  # [[rows, cols], ...]
    outside_weight: float,                 # weight of the pixels outside a block, beta
) -> torch.Tensor:                         # [N], differentiable
    """Path length of one random block of each image, with the pixels outside it weighted by beta.

    Path length regularisation (Karras et al. 2020, section 3.2) keeps |J^T y| close to a constant a for random images
    y ~ N(0, I) / sqrt(H*W), J = dG(w)/dw: every part of w comes to affect every part of the image equally. Here it is

        |J_b^T (m_b . y)| sqrt(B),    J_b = dG(w)/dw_b,    m_b = 1 inside block b, beta outside,

    the norm being the root of the sum over w_b, averaged over the L layers. It is constant over b and y only where a
    block's style affects the pixels inside with strength a and those outside with a / beta; a large beta thus asks for
    low distortion. We know the paper's Eq. 15 by its description only: different weights inside and outside, and with
    weights 1 the regularisation of StyleGAN2. That holds here in the mean square: the sum of |J_b^T y|^2 over all
    blocks is |J^T y|^2.

    With several grids, one is drawn for the whole batch, or the large blocks of a coarse one would hardly count. B is
    then the number of its blocks times the number of grids.
    """
    n, (height, width) = len(img), img.shape[2:]
    grid = int(torch.randint(len(block_grids), []))  # on the CPU: no step has to wait for a GPU
    num_blocks = math.prod(block_grids[grid])
    blocks = torch.randint(num_blocks, [n], device=img.device)                             # within that grid
    inside = distortion.block_mask(blocks, block_grids[grid], height, width)[:, None]      # [N, 1, H, W]
    noise = torch.randn_like(img) / (height * width) ** 0.5
    with conv2d_gradfix.no_weight_gradients():
        (grad,) = torch.autograd.grad(
            (img * noise * torch.where(inside, 1.0, outside_weight)).sum(), ws, create_graph=True)
    by_block = grad.unflatten(2, [sum(map(math.prod, block_grids)), -1])                   # [N, L, B, bw]
    of_block = by_block[torch.arange(n, device=img.device), :, first_block(block_grids[: grid + 1]) + blocks]
    # Unlike a root of squares, the norm has a finite gradient for a block that does nothing.
    scale = (num_blocks * len(block_grids) / ws.shape[1]) ** 0.5
    return torch.linalg.vector_norm(of_block, dim=[1, 2]) * scale                          # of [N, L, bw]
