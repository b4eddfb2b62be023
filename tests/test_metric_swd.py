"""Sliced Wasserstein distance and its parts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from metric_fixtures import dataset_kwargs, tiny_generator, write_images

from metrics import metric_utils, sliced_wasserstein
from metrics.sliced_wasserstein import (
    compute_swd,
    draw_patches,
    laplacian_pyramid,
    normalize_channels,
    pyramid_resolutions,
    smooth,
)


def test_pyramid_levels_go_down_to_16_pixels():
    assert pyramid_resolutions(128, 128) == [128, 64, 32, 16]
    assert pyramid_resolutions(16, 16) == [16]
    assert pyramid_resolutions(8, 8) == [8]
    assert pyramid_resolutions(64, 96) == pyramid_resolutions(96, 64) == [64, 32, 16]
    with pytest.raises(ValueError, match="at least 8 pixels, got 4x16"):
        pyramid_resolutions(4, 16)


def test_smoothing_is_the_mirrored_binomial_filter():
    img = torch.randn([1, 2, 9, 9])
    taps = np.array([1, 4, 6, 4, 1]) / 16
    expected = scipy.ndimage.convolve(img[0, 1].numpy(), np.outer(taps, taps), mode="mirror")
    np.testing.assert_allclose(smooth(img)[0, 1], expected, atol=1e-6)


def test_a_pyramid_of_a_constant_image_is_zero_but_for_its_coarsest_level():
    *fine, coarse = laplacian_pyramid(torch.full([1, 3, 32, 32], 7.0), 2)
    assert float(fine[0].abs().max()) < 1e-5
    torch.testing.assert_close(coarse, torch.full([1, 3, 16, 16], 7.0))


def test_levels_add_up_to_the_image():
    img = torch.randn([2, 3, 64, 64])
    levels = laplacian_pyramid(img, 3)
    assert [level.shape[2] for level in levels] == [64, 32, 16]
    rebuilt = levels.pop()
    for level in reversed(levels):
        spread = torch.zeros_like(level)
        spread[:, :, ::2, ::2] = rebuilt
        rebuilt = level + smooth(spread, gain=4)
    torch.testing.assert_close(rebuilt, img, atol=1e-5, rtol=1e-5)


def test_patches_are_windows_of_their_image():
    img = torch.arange(2 * 3 * 16 * 16.0).reshape(2, 3, 16, 16)
    patches = draw_patches(img, [5, 6]).reshape(2, 128, 3, 7, 7)
    first = patches[1, 0, 0, 0, 0] - img[1, 0, 0, 0]
    row, col = divmod(int(first), 16)
    assert torch.equal(patches[1, 0], img[1, :, row:row + 7, col:col + 7])
    assert torch.equal(draw_patches(img[1:], [6])[0], draw_patches(img, [5, 6])[1])
    assert len({tuple(p) for p in patches[0, :, 0, 0, :1].tolist()}) > 50


def test_channels_are_normalised_over_the_whole_set():
    rng = np.random.RandomState(0)
    x = (rng.randn(500, 3, 4) * [[[1], [5], [0.1]]] + [[[2], [-3], [0]]]).reshape(500, 12)
    y = normalize_channels(x, 3).reshape(500, 3, 4)
    np.testing.assert_allclose(y.mean(axis=(0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=(0, 2)), 1)


def test_distance_in_one_dimension_is_the_wasserstein_distance():
    rng = np.random.RandomState(0)
    a, b = rng.randn(300, 1), rng.randn(300, 1) * 2 + 1
    actual = sliced_wasserstein.sliced_wasserstein(a, b, 3, np.random.RandomState(0))
    assert actual == pytest.approx(scipy.stats.wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-9)


def test_distance_of_a_shift_is_its_mean_projection():
    """A shift by v moves every projection by <v, direction>, whose mean size is |v| sqrt(2 / (pi F)) for large F."""
    a = np.random.RandomState(0).randn(50, 100)
    shift = np.full(100, 3.0)
    actual = sliced_wasserstein.sliced_wasserstein(a, a + shift, 4000, np.random.RandomState(1))
    assert actual == pytest.approx(30 * np.sqrt(2 / (np.pi * 100)), rel=0.05)


def test_sets_of_different_size_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        sliced_wasserstein.sliced_wasserstein(np.zeros([4, 3]), np.zeros([5, 3]), 1, np.random.RandomState(0))


def swd(data, num=8, **kwargs):
    opts = metric_utils.MetricOptions(
        G=tiny_generator(resolution=32), dataset_kwargs=data, device=torch.device("cpu"), seed=0, **kwargs)
    return compute_swd(opts, None, num), opts


def test_every_level_gets_a_distance_whatever_the_batch_size(tmp_path, monkeypatch):
    monkeypatch.setattr(sliced_wasserstein, "NUM_DIRECTIONS", 20)
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 20, resolution=32))
    one, opts = swd(data, batch_size=1)
    assert list(one) == [32, 16] and all(value > 0 for value in one.values())
    for size in (7, 64):
        assert swd(data, batch_size=size)[0] == pytest.approx(one, rel=1e-3)
    assert opts.provenance.num_real == opts.provenance.num_generated == 8


def test_equally_many_images_are_taken_from_both_sides(tmp_path, monkeypatch):
    monkeypatch.setattr(sliced_wasserstein, "NUM_DIRECTIONS", 2)
    _, opts = swd(dataset_kwargs(write_images(tmp_path / "d.zip", 5, resolution=32)), num=100)
    assert opts.provenance.num_real == opts.provenance.num_generated == 5


def test_real_images_are_closer_to_real_images_than_noise_is(tmp_path, monkeypatch):
    monkeypatch.setattr(sliced_wasserstein, "NUM_DIRECTIONS", 50)
    real = write_images(tmp_path / "a.zip", 24, resolution=32, seed=0)
    other = write_images(tmp_path / "b.zip", 24, resolution=32, seed=1)
    opts = metric_utils.MetricOptions(dataset_kwargs=dataset_kwargs(real), device=torch.device("cpu"), seed=0)

    def patches(images, side):
        return sliced_wasserstein.collect_patches(opts, [images], 24, [32, 16], side, "patches")

    def images_of(path):
        dataset = metric_utils.open_dataset(metric_utils.MetricOptions(dataset_kwargs=dataset_kwargs(path)))
        return torch.stack([torch.from_numpy(dataset[i][0]) for i in range(24)])

    def distance(images):
        pairs = zip(patches(images_of(real), 0), patches(images, 1))
        return sum(sliced_wasserstein.sliced_wasserstein(
            normalize_channels(a.copy(), 3), normalize_channels(b.copy(), 3), 50, np.random.RandomState(0))
            for a, b in pairs)
    noise = torch.randint(0, 256, [24, 3, 32, 32], dtype=torch.uint8)
    assert distance(images_of(other)) < 0.7 * distance(noise)
