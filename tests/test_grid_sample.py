"""torch_utils.ops.grid_sample_gradfix"""

from __future__ import annotations

import pytest
import torch

from torch_utils.ops.grid_sample_gradfix import grid_sample


def bilinear(image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Reference: the weighted sum over all pixels, each with a tent of width one pixel around it."""
    height, width = image.shape[2:]
    x = ((grid[..., 0] + 1) * width - 1) / 2      # [N, h, w] in pixels, 0 is the centre of the first one
    y = ((grid[..., 1] + 1) * height - 1) / 2
    tent_x = (1 - (x[..., None] - torch.arange(width)).abs()).clamp(min=0)    # [N, h, w, W]
    tent_y = (1 - (y[..., None] - torch.arange(height)).abs()).clamp(min=0)   # [N, h, w, H]
    return torch.einsum("ncij,nhwi,nhwj->nchw", image, tent_y, tent_x)


def example(dtype=torch.float64):
    """Image [2, 3, 5, 6] and grid [2, 4, 7, 2], a part of which lies outside the image."""
    return torch.randn([2, 3, 5, 6], dtype=dtype), torch.rand([2, 4, 7, 2], dtype=dtype) * 3 - 1.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_bilinear_interpolation_with_zeros_outside(dtype):
    image, grid = example(dtype)
    torch.testing.assert_close(grid_sample(image, grid), bilinear(image, grid))


def test_the_image_spans_minus_one_to_one_from_edge_to_edge():
    image = torch.tensor([[[[1.0, 3.0]]]])
    x = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    grid = torch.stack([x, torch.zeros(6)], dim=1)[None, None]
    assert grid_sample(image, grid).flatten().tolist() == [0.5, 1.0, 2.0, 3.0, 1.5, 0.0]


def test_first_and_second_derivatives_match_finite_differences():
    image, grid = example()
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: grid_sample(x, grid), [image])
    assert torch.autograd.gradgradcheck(lambda x: grid_sample(x, grid), [image])


def test_a_gradient_penalty_reaches_the_weights_behind_it():
    image, grid = example()
    image.requires_grad_()
    weight = torch.randn([2, 3, 4, 7], dtype=torch.float64, requires_grad=True)

    def penalty(weight):
        y = grid_sample(image, grid)
        (gradient,) = torch.autograd.grad((y * weight).square().sum(), image, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, [weight])


def test_no_derivative_beyond_the_first_is_asked_of_torch():
    """Older versions of torch have none, so its own node may not appear in a graph that is differentiated again."""
    image, grid = example()
    image.requires_grad_()
    y = grid_sample(image, grid)
    cotangent = torch.randn_like(y).requires_grad_()
    (dx,) = torch.autograd.grad(y, image, cotangent, create_graph=True)
    assert not any("GridSampler" in name for name in graph_nodes(dx) | graph_nodes(y))


def graph_nodes(tensor: torch.Tensor) -> set[str]:
    names, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None:
            names.add(node.name())
            todo.extend(parent for parent, _ in node.next_functions)
    return names


def test_a_grid_that_asks_for_gradients_gets_them():
    image, grid = example()
    image.requires_grad_()
    grid.requires_grad_()
    assert torch.autograd.gradcheck(grid_sample, [image, grid])


def test_nothing_is_recorded_without_gradients():
    image, grid = example()
    assert grid_sample(image, grid).grad_fn is None
    with torch.no_grad():
        assert grid_sample(image.requires_grad_(), grid).grad_fn is None


@pytest.mark.gpu
def test_values_and_gradients_on_the_gpu_equal_those_on_the_cpu():
    image, grid = example()

    def run(device):
        x = image.to(device).requires_grad_()
        y = grid_sample(x, grid.to(device))
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (ddx,) = torch.autograd.grad(dx.square().sum(), x)
        return [t.detach().cpu() for t in (y, dx, ddx)]

    torch.testing.assert_close(run("cuda"), run("cpu"))
