"""ssn_plugin.distortion: block ownership, redrawing latents, change inside and outside a block."""

import functools

import pytest
import torch

from ssn_plugin.distortion import (
    block_mask,
    block_means,
    diversity_reward,
    mean_inside_change,
    mean_outside_change,
    redraw_one_block,
    sum_outside_change,
)

# A 4x4 image with blocks of 2x2 pixels whose four blocks change by 1, 2, 3 and 4 in every channel.
STEPS = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)


def random_images(height: int, width: int, num: int = 3) -> torch.Tensor:
    return torch.randn([num, 2, height, width], dtype=torch.float64)


def test_every_pixel_belongs_to_the_block_whose_share_of_the_image_it_lies_in():
    rows, cols, height, width = 3, 2, 7, 5  # divides neither side
    masks = block_mask(torch.arange(rows * cols), [rows, cols], height, width)
    for y in range(height):
        for x in range(width):
            for block in range(rows * cols):
                r, c = divmod(block, cols)
                in_rows = r * height / rows <= y < (r + 1) * height / rows
                in_cols = c * width / cols <= x < (c + 1) * width / cols
                assert masks[block, y, x] == (in_rows and in_cols)


def test_a_grid_finer_than_the_image_is_refused():
    with pytest.raises(ValueError, match="a block grid over 4 pixels must have 1 to 4 cells per side, got 8"):
        block_mask(torch.tensor([0]), [8, 2], 4, 4)


@pytest.mark.parametrize(("block", "mean", "total", "inside"), [
    (0, (4 + 9 + 16) / 3, 4 + 9 + 16, 1),
    (3, (1 + 4 + 9) / 3, 1 + 4 + 9, 16),
])
def test_change_of_four_blocks_equals_the_sum_done_by_hand(block, mean, total, inside):
    before = torch.randn([1, 3, 4, 4])
    after = before + STEPS
    resampled = block_mask(torch.tensor([block]), [2, 2], 4, 4)
    assert mean_outside_change(before, after, resampled).item() == pytest.approx(mean, rel=1e-5)
    assert sum_outside_change(before, after, resampled, [2, 2]).item() == pytest.approx(total, rel=1e-5)
    assert mean_inside_change(before, after, resampled).item() == pytest.approx(inside, rel=1e-5)


def test_channels_are_averaged():
    before = torch.zeros([1, 3, 4, 4])
    after = torch.tensor([3.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand_as(before)
    resampled = block_mask(torch.tensor([0]), [2, 2], 4, 4)
    assert mean_outside_change(before, after, resampled).item() == pytest.approx(3)


def test_blocks_of_different_size_count_by_pixels_in_the_mean_and_once_each_in_the_sum():
    before = torch.zeros([1, 1, 1, 8])
    after = torch.tensor([0.0, 0, 0, 1, 1, 1, 2, 2]).reshape(before.shape)  # blocks of 3, 3 and 2 pixels
    resampled = block_mask(torch.tensor([0]), [1, 3], 1, 8)
    assert mean_outside_change(before, after, resampled).item() == pytest.approx((3 * 1 + 2 * 4) / 5)
    assert sum_outside_change(before, after, resampled, [1, 3]).item() == pytest.approx(1 + 4)


def test_identical_images_have_no_distortion_at_all():
    img = random_images(8, 8)
    resampled = block_mask(torch.tensor([0, 5, 15]), [4, 4], 8, 8)
    for change in [
        mean_outside_change(img, img, resampled),
        sum_outside_change(img, img, resampled, [4, 4]),
        mean_inside_change(img, img, resampled),
    ]:
        assert torch.equal(change, torch.zeros(3, dtype=torch.float64))


def test_change_inside_the_block_is_not_distortion():
    before = random_images(8, 8)
    resampled = block_mask(torch.tensor([0, 5, 15]), [4, 4], 8, 8)
    after = before + 7 * resampled[:, None]
    assert mean_outside_change(before, after, resampled).abs().max() == 0
    assert sum_outside_change(before, after, resampled, [4, 4]).abs().max() == 0
    torch.testing.assert_close(mean_inside_change(before, after, resampled), torch.full([3], 49.0, dtype=torch.float64))


def test_with_one_block_nothing_lies_outside():
    before, after = random_images(4, 4), random_images(4, 4)
    resampled = block_mask(torch.zeros(3, dtype=torch.int64), [1, 1], 4, 4)
    assert torch.equal(mean_outside_change(before, after, resampled), torch.zeros(3, dtype=torch.float64))


def test_each_sample_is_measured_by_its_own_block():
    before, after = random_images(8, 8), random_images(8, 8)
    blocks = torch.tensor([2, 0, 3])
    together = mean_outside_change(before, after, block_mask(blocks, [2, 2], 8, 8))
    for n in range(3):
        alone = mean_outside_change(before[n:n + 1], after[n:n + 1], block_mask(blocks[n:n + 1], [2, 2], 8, 8))
        torch.testing.assert_close(together[n:n + 1], alone)


@pytest.mark.parametrize(
    "term", [mean_outside_change, mean_inside_change, functools.partial(sum_outside_change, block_grid=[2, 2])]
)
def test_gradients_reach_both_images(term):
    before, after = random_images(4, 4, num=2).requires_grad_(), random_images(4, 4, num=2).requires_grad_()
    resampled = block_mask(torch.tensor([1, 2]), [2, 2], 4, 4)
    assert torch.autograd.gradcheck(lambda x, y: term(x, y, resampled), (before, after))
    grads = torch.autograd.grad(term(before, after, resampled).sum(), [before, after])
    assert torch.equal(grads[0], -grads[1])
    assert grads[0].abs().max() > 0


def test_images_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \[1, 3, 4, 4\] and \[1, 3, 8, 8\]"):
        mean_outside_change(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 4, dtype=torch.bool))


def test_block_means_average_the_pixels_that_each_block_owns():
    change = torch.rand([2, 7, 5])
    means = block_means(change, [3, 2])
    masks = block_mask(torch.arange(6), [3, 2], 7, 5)
    expected = torch.stack([change[:, mask].mean(dim=1) for mask in masks], dim=1).reshape(2, 3, 2)
    torch.testing.assert_close(means, expected)


def test_only_the_named_block_of_each_latent_is_redrawn():
    z = torch.randn([3, 6 * 5])
    kept = z.clone()
    new = redraw_one_block(z, torch.tensor([4, 0, 5]), 6)
    assert torch.equal(z, kept)
    changed = (new != z).reshape(3, 6, 5)
    expected = torch.zeros(3, 6, 5, dtype=torch.bool)
    for n, block in enumerate([4, 0, 5]):
        expected[n, block] = True
    assert torch.equal(changed, expected)


def test_redrawing_every_block_in_any_order_leaves_nothing_of_the_old_latent():
    z = torch.full([2, 4 * 8], 100.0)
    for block in [2, 0, 3, 1]:
        z = redraw_one_block(z, torch.full([2], block), 4)
    assert z.abs().max() < 10  # unit normals


def test_redrawn_blocks_are_unit_normal_and_independent():
    z = redraw_one_block(torch.zeros([2000, 2 * 4]), torch.zeros(2000, dtype=torch.int64), 2)[:, :4]
    # 8000 draws: three standard errors of mean and variance are 0.034 and 0.047.
    assert z.mean().abs() < 0.034
    assert (z.var() - 1).abs() < 0.047
    assert (torch.corrcoef(z.T) - torch.eye(4)).abs().max() < 0.1


def test_both_rewards_give_the_cap_at_the_cap_and_no_more():
    inside = torch.tensor([0.2, 5.0])
    for shape in ["linear", "log"]:
        assert torch.allclose(diversity_reward(inside, 0.2, shape), torch.tensor([0.2, 0.2]))


def test_a_doubling_earns_the_same_wherever_it_is_well_above_the_floor():
    inside = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    reward = diversity_reward(inside, 1.0, "log")
    assert torch.allclose(reward.diff(), torch.tensor([2.0, 2.0], dtype=torch.float64).log(), rtol=0.06)
    assert diversity_reward(torch.zeros(1), 1.0, "log").isfinite().all()


def test_an_unknown_reward_is_refused():
    with pytest.raises(ValueError, match="diversity reward must be 'linear' or 'log', got 'root'"):
        diversity_reward(torch.ones(1), 1.0, "root")
