"""ssn_plugin.distortion_spaces: change outside a block in features, and of patches."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from metric_fixtures import forget_detectors, write_detectors

from metrics import detectors, efficientnet_lite0
from metrics.random_vgg16 import RandomVGG16
from ssn_plugin import distortion_spaces as spaces
from ssn_plugin.distortion import block_mask, mean_outside_change

GRID = [2, 2]
needs_efficientnet = pytest.mark.skipif(efficientnet_lite0.WEIGHTS.find() is None, reason="needs the extra [features]")
ALL = ["features", pytest.param("features-efficientnet", marks=needs_efficientnet), "features-lpips", "wasserstein"]


@pytest.fixture
def change_in(tmp_path, monkeypatch):
    """Makes the measure of a space; LPIPS is a stand-in."""
    forget_detectors(monkeypatch, tmp_path)
    monkeypatch.setenv(detectors.DIR_VARIABLE, str(write_detectors(tmp_path / "detectors")))
    return functools.partial(spaces.outside_change_in, block_grid=GRID, device=torch.device("cpu"))


def pair(channels=3, side=32, num=2):
    """Two images, and the mask of another block for each."""
    before, after = torch.randn([2, num, channels, side, side]) * 0.3
    return before, after, block_mask(torch.arange(num) % 4, GRID, side, side)


@pytest.mark.parametrize("space", ALL)
def test_identical_images_have_no_distortion(change_in, space):
    before, _, mask = pair()
    assert change_in(space)(before, before, mask).tolist() == [0, 0]


@pytest.mark.parametrize("space", ALL)
def test_a_change_inside_the_block_alone_is_none_however_far_receptive_fields_reach(change_in, space):
    before, after, mask = pair()
    assert change_in(space)(before, torch.where(mask[:, None], after, before), mask).tolist() == [0, 0]


@pytest.mark.parametrize("space", ALL)
def test_a_change_of_a_single_block_outside_is_seen_by_its_own_sample(change_in, space):
    before, after, mask = pair()
    other = block_mask(torch.tensor([3, 3]), GRID, 32, 32)
    change = change_in(space)(before, torch.where(other[:, None], after, before), mask)
    assert (change > 1e-5).all()
    after = torch.where(other[:, None], after, before)
    after[0] = before[0]
    assert change_in(space)(before, after, mask)[0] == 0


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("space", ALL)
def test_gray_images_and_transparent_ones_are_measured(change_in, space, channels):
    assert (change_in(space)(*pair(channels)) > 0).all()


@pytest.mark.parametrize("space", ALL)
def test_derivatives_are_finite_also_where_nothing_changed(change_in, space):
    before, after, mask = pair()
    after[0] = before[0]
    after.requires_grad_()
    change_in(space)(before, after, mask).sum().backward()
    assert after.grad.isfinite().all() and after.grad[1].abs().max() > 0


def test_features_can_be_differentiated_twice():
    before, after, mask = (x[:1].double() for x in pair(side=4))
    weight = torch.randn([5, 3, 3, 3], dtype=torch.float64)
    smooth = lambda img: [spaces.unit_length(F.softplus(F.conv2d(img / 127.5 - 1, weight, padding=1)))]  # noqa: E731
    change = lambda x: spaces.feature_outside_change(before, x, mask > 0, smooth)  # noqa: E731
    assert torch.autograd.gradgradcheck(change, after.requires_grad_())


def test_patches_can_be_differentiated_twice():
    before, after, _ = (x[:1].double() for x in pair(side=4))
    directions = torch.randn([2, 3, 2, 2], dtype=torch.float64)
    project = lambda img: spaces.project_patches(img, [1, 1], directions)  # noqa: E731
    change = lambda x: spaces.sliced_wasserstein(project(before), project(x).exp())  # noqa: E731
    assert torch.autograd.gradgradcheck(change, after.requires_grad_())


def test_with_pixels_for_features_it_is_the_mean_change_of_pixels():
    before, after, mask = pair()
    change = spaces.feature_outside_change(before, after, mask, lambda img: [img / 127.5])
    torch.testing.assert_close(change, 3 * mean_outside_change(before, after, mask))


def test_layers_count_alike():
    before, after, mask = pair()
    change = spaces.feature_outside_change(before, after, mask, lambda img: [img / 127.5, img / 255])
    torch.testing.assert_close(change, 3 * (1 + 1 / 4) / 2 * mean_outside_change(before, after, mask))


def test_one_block_has_no_outside():
    before, after, _ = pair()
    mask = torch.ones([2, 32, 32], dtype=torch.bool)
    assert spaces.feature_outside_change(before, after, mask, lambda img: [img]).tolist() == [0, 0]
    assert spaces.patch_outside_change(before, after, mask, [1, 1]).tolist() == [0, 0]


def test_patches_that_trade_places_within_a_block_are_no_change():
    a = torch.randn([2, 4, 8, 30])   # N, B, D, P
    assert torch.equal(spaces.sliced_wasserstein(a, a[..., torch.randperm(30)]), torch.zeros([2, 4]))


def test_a_shift_of_all_patches_is_its_square():
    a = torch.randn([2, 4, 8, 30])
    torch.testing.assert_close(spaces.sliced_wasserstein(a, a + 0.5), torch.full([2, 4], 0.25))


def test_a_shift_of_all_pixels_is_its_square_over_orthonormal_directions():
    before, _, _ = pair(side=8)
    directions = torch.eye(48).reshape(48, 3, 4, 4)
    projected = [spaces.project_patches(img, GRID, directions) for img in (before, before + 0.5)]
    torch.testing.assert_close(spaces.sliced_wasserstein(*projected), torch.full([2, 4], 0.25))


def test_patches_are_those_of_their_block():
    img = torch.randn([1, 2, 6, 8])
    direction = torch.randn([1, 2, 2, 2])
    patches = spaces.project_patches(img, [2, 2], direction)[0, :, 0]   # [B, P]
    by_hand = [(img[0, :, 3 * r + i : 3 * r + i + 2, 4 * c + j : 4 * c + j + 2] * direction[0]).sum()
               for r in range(2) for c in range(2) for i in range(2) for j in range(3)]
    torch.testing.assert_close(patches.flatten(), torch.stack(by_hand))


def test_a_random_direction_gives_the_mean_squared_shift_on_average(monkeypatch):
    monkeypatch.setattr(spaces, "DIRECTIONS", 5000)
    torch.manual_seed(0)
    before, _, mask = pair(side=8)
    change = spaces.patch_outside_change(before, before + 0.5, mask, GRID)
    torch.testing.assert_close(change, torch.full([2], 0.25), rtol=0.1, atol=0)


def test_the_feature_maps_end_in_what_the_metrics_use():
    vgg, img = RandomVGG16(), torch.rand([1, 3, 32, 32]) * 255
    maps = vgg.maps(img)
    assert [list(x.shape[1:]) for x in maps] == [[64, 32, 32], [128, 16, 16], [256, 8, 8], [512, 4, 4]]
    torch.testing.assert_close(vgg(img), maps[-1].mean(dim=[2, 3]))


def test_a_missing_network_is_one_line(monkeypatch, tmp_path):
    forget_detectors(monkeypatch, tmp_path)
    monkeypatch.setattr(detectors, "load", lambda *_args: (_ for _ in ()).throw(OSError("no such file")))
    with pytest.raises(ValueError, match="^--distortion-space=features-lpips: no such file$"):
        spaces.outside_change_in("features-lpips", GRID, torch.device("cpu"))


def test_another_host_lacks_the_networks_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "metrics.random_vgg16", None)
    monkeypatch.delattr("metrics.random_vgg16")
    with pytest.raises(ValueError, match="needs the networks in this project's own metrics/"):
        spaces.outside_change_in("features", GRID, torch.device("cpu"))


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="distortion space must be one of pixels, features, .*, got 'colours'"):
        spaces.outside_change_in("colours", GRID, torch.device("cpu"))
