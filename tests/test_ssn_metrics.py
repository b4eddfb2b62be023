"""Distortion, leak and consistency against generators whose answers are known."""

from __future__ import annotations

import math
import types

import numpy as np
import pytest
import torch

from metrics import detectors, frechet_inception_distance, metric_main, metric_utils, sampling
from ssn_plugin import metrics as ssn_metrics
from ssn_plugin import pixels
from ssn_plugin.distortion import block_mask
from ssn_plugin.measures import pairs, statistics
from ssn_plugin.measures.leak_map import draw_leak_map
from ssn_plugin.networks import SSNGenerator

CPU = torch.device("cpu")


class PaintedGrid(torch.nn.Module):
    """Paints every block with the first number of its latent, and leaks a known share of it into all others."""

    def __init__(self, grid=(2, 2), leak=0.0, resolution=8, c_dim=0, block_z_dim=3):
        super().__init__()
        self.block_grid = [list(grid)]
        self.block_z_dim = block_z_dim
        self.z_dim = grid[0] * grid[1] * self.block_z_dim
        self.c_dim = c_dim
        self.img_resolution, self.img_channels = resolution, 3
        self.leak = torch.nn.Parameter(torch.tensor(float(leak)))
        self.mapping = self._map
        self.synthesis = self._paint

    def _map(self, z, c):
        return torch.cat([z, c], dim=1)[:, None]

    def _paint(self, ws, noise_mode):
        rows, cols = self.block_grid[0]
        color = ws[:, 0, : self.z_dim].reshape(len(ws), rows * cols, -1)[:, :, 0]
        color = color + self.leak * (color.sum(dim=1, keepdim=True) - color)
        img = color.reshape(-1, 1, rows, cols)
        img = torch.nn.functional.interpolate(img, size=2 * [self.img_resolution], mode="nearest")
        return img.repeat(1, 3, 1, 1) + ws[:, 0, self.z_dim :].sum(dim=1)[:, None, None, None] * 0

    def __deepcopy__(self, memo):
        return self


def tiny_ssn(**kwargs):
    return SSNGenerator(
        block_z_dim=4, c_dim=0, block_w_dim=4, img_resolution=16, img_channels=3, block_grid=[[2, 2]],
        mapping_kwargs=dict(num_layers=1), synthesis_kwargs=dict(channel_base=64, channel_max=4), **kwargs)


def test_a_generator_without_leaks_has_no_distortion():
    stats = statistics.distortion_statistics(PaintedGrid(), num_pairs=50)
    assert stats["distortion"] == (0, 0, 0)
    assert stats["diversity"].value > 0
    assert stats["locality"].value == math.inf


def test_diversity_of_independent_unit_normals_is_two_within_its_interval():
    diversity = statistics.distortion_statistics(PaintedGrid(), num_pairs=1000, batch_size=250)["diversity"]
    assert diversity.low < 2 < diversity.high
    # (a - b)^2 has mean 2 and standard deviation sqrt(8): the interval of 1000 pairs is known.
    assert (diversity.high - diversity.low) / 2 == pytest.approx(1.96 * math.sqrt(8 / 1000), rel=0.1)


def test_a_known_leak_gives_exactly_its_locality():
    stats = statistics.distortion_statistics(PaintedGrid(leak=0.1), num_pairs=20)
    assert stats["locality"].value == pytest.approx(100, rel=1e-4)
    assert stats["locality"].high - stats["locality"].low == pytest.approx(0, abs=0.1)
    assert stats["distortion"].value == pytest.approx(stats["diversity"].value / 100, rel=1e-4)


def test_leak_matrix_of_a_block_diagonal_generator_is_diagonal():
    leak = statistics.leak_matrix(PaintedGrid(grid=(2, 3), resolution=12), num_pairs=60)
    assert leak.mean.shape == (6, 6)
    assert np.all(leak.mean[~np.eye(6, dtype=bool)] == 0)
    assert np.all(np.diag(leak.mean) > 0)
    assert leak.outside.value == 0


def test_leak_matrix_shows_a_known_leak_in_every_off_diagonal_entry():
    leak = statistics.leak_matrix(PaintedGrid(leak=0.5), num_pairs=40)
    expected = np.diag(leak.mean)[:, None] * np.where(np.eye(4, dtype=bool), 1, 0.25)
    np.testing.assert_allclose(leak.mean, expected, rtol=1e-4)
    assert leak.inside.value / leak.outside.value == pytest.approx(4, rel=1e-4)


def test_statistics_do_not_depend_on_the_batch_size():
    G = tiny_ssn()
    results = [statistics.distortion_statistics(G, 8, batch_size=size) for size in (1, 7, 64)]
    for other in results[1:]:
        for key in results[0]:
            np.testing.assert_allclose(other[key], results[0][key], rtol=1e-5)


def test_another_seed_gives_other_pairs():
    one, two = (statistics.distortion_statistics(tiny_ssn(), 4, seed=seed)["distortion"].value for seed in (0, 1))
    assert one != two


def test_both_images_of_a_pair_share_their_noise_and_pairs_do_not():
    G = tiny_ssn().eval()
    for name, value in G.named_parameters():
        if name.endswith("noise_strength"):
            value.data.fill_(1.0)
        elif name.endswith("affine.weight"):
            value.data.zero_()   # the latents have no effect; what is left comes from noise
    before, after = pairs.synthesize_pairs(G, [0, 1], torch.tensor([0, 3]), seed=0, device=CPU)
    torch.testing.assert_close(before, after)
    assert (before[0] - before[1]).abs().max() > 0.1


def test_a_pair_differs_in_the_latents_of_one_block_only():
    G = PaintedGrid(grid=(3, 3), resolution=9)
    blocks = torch.tensor([0, 4, 8])
    before, after = pairs.synthesize_pairs(G, [0, 1, 2], blocks, seed=5, device=CPU)
    changed = (before != after).any(dim=1)
    assert torch.equal(changed, block_mask(blocks, (3, 3), 9, 9))


def test_training_mode_and_weights_of_the_network_are_left_alone():
    G = tiny_ssn().train()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    statistics.distortion_statistics(G, 3)
    assert G.training
    assert all(torch.equal(before[name], value) for name, value in G.state_dict().items())


def test_a_plain_network_is_told_that_it_has_no_grid():
    with pytest.raises(ValueError, match="no block grid"):
        metric_main.calc_metric("ssn_distortion10", G=torch.nn.Linear(1, 1), device=CPU)


def test_one_block_has_no_outside():
    with pytest.raises(ValueError, match="1x1 grid"):
        statistics.distortion_statistics(PaintedGrid(grid=(1, 1)), 3)


def test_fewer_pairs_than_blocks_cannot_fill_a_leak_matrix():
    with pytest.raises(ValueError, match="got 4 blocks and 3 pairs"):
        statistics.leak_matrix(PaintedGrid(), num_pairs=3)


def test_interval_of_a_mean_covers_the_truth_19_times_out_of_20():
    rng = np.random.RandomState(0)
    hits = 0
    for _ in range(1000):
        estimate = statistics.mean_estimate(rng.randn(50) + 3)
        hits += estimate.low < 3 < estimate.high
    assert 925 <= hits <= 965   # 50 samples and a normal quantile: a little below 95 %


def test_interval_of_a_ratio_covers_the_truth_19_times_out_of_20():
    rng = np.random.RandomState(0)
    hits = 0
    for _ in range(1000):
        denominator = rng.gamma(2, 1, size=200)
        estimate = statistics.ratio_estimate(3 * denominator * rng.gamma(4, 0.25, size=200), denominator)
        hits += estimate.low < 3 < estimate.high
    assert 920 <= hits <= 970


def test_metric_results_carry_names_intervals_and_provenance():
    result = metric_main.calc_metric("ssn_distortion12", G=PaintedGrid(leak=0.1), device=CPU, seed=3)
    assert set(result.results) == {
        f"ssn_distortion12{part}{bound}" for part in ("", "_diversity", "_locality") for bound in ("", "_low", "_high")}
    assert result.provenance.num_pairs == 12 and result.provenance.seed == 3
    direct = statistics.distortion_statistics(PaintedGrid(leak=0.1), 12, seed=3)
    assert result.results.ssn_distortion12 == direct["distortion"].value


def test_leak_metric_writes_matrix_and_heat_map(tmp_path):
    result = metric_main.calc_metric("ssn_leak16", G=PaintedGrid(leak=0.5), device=CPU, outdir=str(tmp_path))
    matrix = np.load(tmp_path / "ssn_leak16.npy")
    assert matrix.shape == (4, 4)
    assert result.results.ssn_leak16_inside == pytest.approx(np.diag(matrix).mean(), rel=1e-5)
    assert (tmp_path / "ssn_leak16.png").is_file()
    assert np.load(tmp_path / "ssn_leak16-ci95.npy").shape == (4, 4)


def test_leak_map_colours_large_leaks_darker():
    matrix = np.diag([1.0, 1.0, 1.0, 1.0]) + 1e-6
    matrix[0, 1] = 0.1
    image = np.asarray(draw_leak_map(matrix, (2, 2), note="")).astype(int).sum(axis=2)
    cell, left, top = 48, 28 + 64, 28 + 112

    def shade(row, col):   # beside the number in the middle of the cell
        return image[top + row * cell + 4, left + col * cell + 4]

    assert shade(0, 0) < shade(0, 1) < shade(1, 0)


def test_metrics_are_registered_under_names_with_their_prefix_and_at_any_count():
    assert {"ssn_distortion1k", "ssn_distortion50k", "ssn_leak10k"} <= set(metric_main.list_valid_metrics())
    assert metric_main.is_valid_metric("ssn_distortion500")
    assert not metric_main.is_valid_metric("ssn_distortion")


def test_the_host_can_fetch_detectors_before_it_measures():
    assert metric_main.detector_of("ssn_lpips10k") == detectors.VGG16_URL
    assert metric_main.detector_of("ssn_consistency500") == detectors.INCEPTION_URL
    assert metric_main.detector_of("ssn_rconsistency500") is metric_main.detector_of("ssn_distortion1k") is None


def test_plugin_metrics_work_with_the_options_of_the_reference_host(monkeypatch, other_host):
    """Its MetricOptions have neither seed, batch size, output folder nor provenance, and it checks no detector."""
    monkeypatch.setattr(metric_utils, "get_feature_detector", lambda **kwargs: MeanColour())
    opts = types.SimpleNamespace(
        G=PaintedGrid(leak=0.1), G_kwargs={}, dataset_kwargs={}, num_gpus=1, rank=0, device=CPU, cache=True,
        progress=metric_utils.ProgressMonitor())
    assert ssn_metrics.distortion_metric(opts, "d", 5)["d"] > 0
    with pytest.warns(UserWarning, match="not saved"):
        assert ssn_metrics.leak_metric(opts, "m", 5)["m_inside"] > 0
    assert ssn_metrics.consistency_metric(opts, "c", 20)["c"] >= 0


def test_conditional_networks_draw_labels_from_the_data_set_or_uniformly():
    G = PaintedGrid(c_dim=3)
    labels = pairs.draw_labels(G, range(60), seed=0, label_fn=None)
    assert torch.equal(labels.sum(dim=1), torch.ones(60))
    assert (labels.sum(dim=0) > 8).all()
    fixed = pairs.draw_labels(G, range(2), seed=0, label_fn=lambda i: np.array([0, 0, 1], dtype=np.float32))
    assert fixed.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert statistics.distortion_statistics(G, 4)["diversity"].value > 0
    with pytest.raises(ValueError, match="takes the labels of a data set, and none is known"):
        metric_main.calc_metric("ssn_distortion4", G=G, device=CPU)


def test_images_with_alpha_are_laid_on_white_for_a_detector():
    img = torch.tensor([100.0, 0, 200, 51]).reshape(1, 4, 1, 1)   # a fifth opaque
    for three_channels in (pixels.to_three_channels, sampling.to_three_channels):
        torch.testing.assert_close(three_channels(img).flatten(), torch.tensor([20 + 204.0, 204, 40 + 204]))
        assert three_channels(img.to(torch.uint8)).flatten().tolist() == [224, 204, 244]


def test_redrawing_all_blocks_leaves_no_old_number_and_keeps_the_distribution():
    z = torch.randn([400, 12], generator=torch.Generator().manual_seed(1))
    redrawn = torch.cat([ssn_metrics.redraw_all_blocks(row[None], 3, seed=0, number=i) for i, row in enumerate(z)])
    assert not (redrawn == z).any()
    assert abs(float((redrawn * z).mean())) < 0.06          # uncorrelated: 4800 products of standard deviation 1
    assert float(redrawn.mean()) == pytest.approx(0, abs=0.06)
    assert float(redrawn.var()) == pytest.approx(1, abs=0.08)


class MeanColour(torch.nn.Module):
    def forward(self, img, return_features=True):
        return img.float().mean(dim=[2, 3])


@pytest.fixture
def consistency(monkeypatch):
    """Measures a network by the mean colours of its images."""
    monkeypatch.setattr(detectors, "load", lambda url, device, verbose=False: MeanColour())
    monkeypatch.setattr(detectors, "get_hash", lambda url: "hash of " + url)
    monkeypatch.setattr(metric_utils, "_loaded_detectors", {})

    def measure(G, count, url="builtin:mean-colour"):
        opts = metric_utils.MetricOptions(G=G, device=CPU, seed=0)
        return ssn_metrics.consistency_metric(opts, "c", count, detector_url=url), opts.provenance
    return measure


def test_consistency_equals_its_floor_within_the_intervals(consistency):
    result, facts = consistency(PaintedGrid(block_z_dim=1), 400)
    assert facts.detector == "hash of builtin:mean-colour" and facts.num_generated == 1200
    assert result["c"] < 30 and result["c_floor"] < 30     # of a variance of (127 / 2)^2
    assert result["c_low"] < result["c_floor_high"] and result["c_floor_low"] < result["c_high"]


def test_consistency_sees_a_redraw_of_another_spread(consistency, monkeypatch):
    broken = ssn_metrics.redraw_all_blocks
    monkeypatch.setattr(ssn_metrics, "redraw_all_blocks", lambda *args: broken(*args) * 0.1)
    result, _ = consistency(PaintedGrid(block_z_dim=1), 200)
    assert result["c_low"] > result["c_floor_high"]


def test_consistency_refuses_a_detector_of_another_width(consistency):
    with pytest.raises(ValueError, match="inception-2015-12-05.pt must return 2048 features, got 3"):
        consistency(PaintedGrid(), 20, url=ssn_metrics.INCEPTION_URL)


def test_consistency_of_few_images_warns_with_their_number(consistency, monkeypatch):
    wide = torch.nn.Sequential(MeanColour(), torch.nn.Linear(3, 30))
    monkeypatch.setattr(detectors, "load", lambda *args, **kwargs: lambda img, return_features: wide(img).detach())
    with pytest.warns(UserWarning, match="25 images for 30 features: the covariance is rank-deficient"):
        consistency(PaintedGrid(), 25)


def test_both_frechet_distances_of_the_project_agree():
    rng = np.random.RandomState(0)
    x, y = rng.randn(60, 5), rng.randn(70, 5) * 2 + 1
    stats = metric_utils.FeatureStats(capture_mean_cov=True), metric_utils.FeatureStats(capture_mean_cov=True)
    for s, f in zip(stats, (x, y), strict=True):
        s.append(f)
    expected = frechet_inception_distance.frechet_distance(*stats[0].get_mean_cov(), *stats[1].get_mean_cov())
    assert statistics.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.RandomState(0).randn(1000)
    estimate = statistics.jackknife_estimate(lambda kept: float(values[kept].mean()), 1000, num_groups=1000)
    expected = statistics.mean_estimate(values)
    np.testing.assert_allclose(estimate, expected, rtol=1e-6)


class Identity(torch.nn.Module):
    def forward(self, img, resize_images=True, return_lpips=False):
        return img.flatten(1) / 127.5


def test_perceptual_distances_split_a_change_into_outside_and_inside():
    G = PaintedGrid(leak=0.01, resolution=4)
    stats = statistics.lpips_statistics(G, 30, detector=Identity())
    pixels = statistics.distortion_statistics(G, 30)
    # Values rarely leave -1..1 by much for the small leak, so only the order of magnitude is compared outside.
    assert stats["lpips_inside"].value > 100 * stats["lpips_outside"].value > 0
    # 3 channels of 4 pixels; clamping can only make a change smaller.
    assert stats["lpips_inside"].value <= pixels["diversity"].value * 3 * 4 * (1 + 1e-5)
