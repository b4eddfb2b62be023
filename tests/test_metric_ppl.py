"""Path length of generators and detectors whose answer is known."""

from __future__ import annotations

import itertools
import math
import os

import numpy as np
import PIL.Image
import pytest
import torch
from metric_fixtures import dataset_kwargs, tiny_generator, write_images

from metrics import metric_utils, ppl_histogram
from metrics.perceptual_path_length import PPLSampler, compute_ppl, path_distances, path_images, slerp, trimmed_mean

CPU = torch.device("cpu")


class LinearSynthesis(torch.nn.Module):
    """Paints the styles, one number per pixel; a noise map changes nothing but its presence."""

    def __init__(self, resolution):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("noise_const", torch.zeros([resolution, resolution]))

    def forward(self, ws, noise_mode, force_fp32):
        assert noise_mode == "const" and force_fp32
        img = ws[:, 0].reshape(-1, 1, self.resolution, self.resolution)
        return img + self.noise_const


class LinearGenerator(torch.nn.Module):
    """Image = latent, so that a path in W is a straight line of known length."""

    def __init__(self, resolution=8, c_dim=0):
        super().__init__()
        self.z_dim = resolution**2
        self.c_dim, self.img_resolution, self.img_channels = c_dim, resolution, 1
        self.synthesis = LinearSynthesis(resolution)

    def mapping(self, z, c):
        return (z + c.sum(dim=1, keepdim=True))[:, None]


class Pixels(torch.nn.Module):
    """The linear detector: one channel, in units of the generator's range."""

    def forward(self, img, resize_images=True, return_lpips=False):
        assert return_lpips and not resize_images
        assert img.shape[1] == 3
        return img[:, 0].flatten(1) / 127.5




def sampler(space, where, crop=False, epsilon=1e-2, resolution=8, seed=0):
    return PPLSampler(
        G=LinearGenerator(resolution), G_kwargs={}, epsilon=epsilon, space=space, sampling=where, crop=crop,
        vgg16=Pixels(), seed=seed, items=itertools.count())


@pytest.mark.parametrize("where", ["end", "full"])
def test_path_length_in_w_of_a_linear_generator_is_the_squared_length_of_the_path(where):
    """Straight path of two independent unit normals: E |w1 - w0|^2 = 2 per dimension."""
    distances = sampler("w", where)(torch.zeros([2000, 0]))
    assert float(distances.mean()) == pytest.approx(2 * 64, rel=0.02)   # relative standard error 0.4 %


def test_path_length_in_z_of_a_linear_generator_is_the_squared_angle():
    distances = sampler("z", "full", epsilon=1e-3)(torch.zeros([500, 0]))
    # A latent of unit length moves by angle * epsilon; random directions in 64 dimensions are about 90 degrees apart.
    assert float(distances.mean()) == pytest.approx((math.pi / 2) ** 2, rel=0.05)


def test_a_crop_sees_only_its_part_of_the_image():
    """Rows 3/8 to 7/8 and columns 2/8 to 6/8 hold a quarter of the pixels, hence of the squared change."""
    whole = sampler("w", "end")(torch.zeros([1000, 0])).mean()
    crop = sampler("w", "end", crop=True)(torch.zeros([1000, 0])).mean()
    assert float(crop / whole) == pytest.approx(0.25, rel=0.05)


def test_large_images_are_averaged_down_to_256_pixels():
    distances = sampler("w", "end", resolution=512)(torch.zeros([2, 0]))
    # The mean of four independent pixels has a quarter of the variance: 2 / 4 per remaining pixel.
    assert float(distances.mean()) == pytest.approx(2 / 4 * 256**2, rel=0.05)


def test_a_label_moves_both_ends_alike():
    G = LinearGenerator(c_dim=2)
    kwargs = dict(G=G, G_kwargs={}, epsilon=1e-2, space="w", sampling="end", crop=False, vgg16=Pixels())
    one = PPLSampler(**kwargs, items=itertools.count())(torch.tensor([[1.0, 5.0]]))
    two = PPLSampler(**kwargs, items=itertools.count())(torch.tensor([[0.0, 0.0]]))
    torch.testing.assert_close(one, two, rtol=1e-2, atol=0)   # differences of nearby float32 numbers


@pytest.mark.parametrize(("space", "where"), [("x", "end"), ("w", "middle")])
def test_unknown_spaces_and_positions_are_refused(space, where):
    with pytest.raises(ValueError, match="needs space z or w"):
        sampler(space, where)


def test_slerp_meets_its_ends_and_keeps_unit_length():
    a, b = torch.randn([20, 5]), torch.randn([20, 5])
    for t, end in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(slerp(a, b, torch.full([20, 1], t)), torch.nn.functional.normalize(end, dim=1))
    middle = slerp(a, b, torch.full([20, 1], 0.3))
    torch.testing.assert_close(middle.norm(dim=1), torch.ones(20))
    unit_a, unit_b = torch.nn.functional.normalize(a, dim=1), torch.nn.functional.normalize(b, dim=1)
    angle, whole = ((unit_a * x).sum(dim=1).acos() for x in (middle, unit_b))
    torch.testing.assert_close(angle, 0.3 * whole, rtol=1e-3, atol=1e-3)


def test_trimmed_mean_drops_one_percent_at_either_end():
    values = np.concatenate([np.full(2, -1e6), np.linspace(1, 2, 296), np.full(2, 1e9)]).astype(np.float32)
    assert 1.4 < trimmed_mean(values) < 1.6
    assert trimmed_mean(np.array([3.0, 5.0])) == 4   # nothing to drop


class Thumbnail(torch.nn.Module):
    def forward(self, img, resize_images=True, return_lpips=False):
        return torch.nn.functional.adaptive_avg_pool2d(img, 4).flatten(1) / 64


@pytest.fixture
def thumbnails(monkeypatch):
    monkeypatch.setattr(metric_utils, "get_feature_detector", lambda *args, **kwargs: Thumbnail())


def distances_of(batch_size, data=None, c_dim=0):
    opts = metric_utils.MetricOptions(G=tiny_generator(c_dim=c_dim), dataset_kwargs=data, device=CPU, seed=0)
    return path_distances(opts, 10, 1e-2, "w", "full", False, batch_size)


@pytest.mark.parametrize("c_dim", [0, 3])
def test_distances_do_not_depend_on_the_batch_size(thumbnails, tmp_path, c_dim):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 6, labels=[0, 1, 2] * 2), use_labels=True)
    results = [distances_of(size, data, c_dim) for size in (1, 7, 64)]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=2e-2)   # squared differences of nearly equal images


def test_path_length_is_that_of_its_distances(thumbnails):
    opts = metric_utils.MetricOptions(G=tiny_generator(), device=CPU, seed=0)
    value = compute_ppl(opts, num_samples=10, epsilon=1e-2, space="w", sampling="full", crop=False, batch_size=2)
    assert value == pytest.approx(trimmed_mean(distances_of(2)), rel=1e-6)


def test_histogram_saves_distances_drawings_and_the_right_images(thumbnails, tmp_path):
    opts = metric_utils.MetricOptions(G=tiny_generator(), device=CPU, seed=0, outdir=str(tmp_path))
    distances = distances_of(2)
    files = ppl_histogram.save(opts, "ppl10_wfull", distances, "w", "full")
    assert sorted(os.path.basename(f) for f in files) == sorted(os.listdir(tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "ppl10_wfull-distances.npy"), distances)
    for part in ("histogram", "lowest", "highest"):
        with PIL.Image.open(tmp_path / f"ppl10_wfull-{part}.png") as image:
            assert min(image.size) > 100
    lowest = path_images(opts, [int(distances.argmin())], "w", "full")
    with PIL.Image.open(tmp_path / "ppl10_wfull-lowest.png") as sheet:
        tile = np.asarray(sheet)[84:84 + 96:6, 28:28 + 96:6]   # 16 pixels, enlarged 6-fold
    np.testing.assert_array_equal(tile, lowest[0])


def test_tenths_are_picked_evenly_from_either_end():
    distances = np.random.RandomState(0).permutation(1000)
    low, high = (distances[ppl_histogram.pick_tenth(distances, lowest, 5)] for lowest in (True, False))
    assert low[0] == 0 and low[-1] == 99 and high[0] == 900 and high[-1] == 999
    assert len(low) == len(high) == 5 and np.all(np.diff(low) > 20)


def test_a_histogram_needs_an_output_folder():
    with pytest.raises(ValueError, match="needs an output folder"):
        ppl_histogram.save(metric_utils.MetricOptions(device=CPU), "ppl", np.ones(3), "w", "end")
