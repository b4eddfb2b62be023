"""The formulas against closed forms and slow, independent computations."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import scipy.linalg
import torch

from metrics.frechet_inception_distance import frechet_distance, sqrt_psd, warn_if_rank_deficient
from metrics.inception_score import inception_score
from metrics.kernel_inception_distance import kernel_distance, squared_mmd
from metrics.metric_utils import FeatureStats
from metrics.precision_recall import fraction_within, kth_neighbour_distance, precision_recall


def random_covariance(size, rng, rank=None):
    factor = rng.randn(size, rank or size + 5)
    return factor @ factor.T / factor.shape[1]


# Frechet distance


def test_frechet_distance_of_axis_aligned_gaussians_has_its_closed_form():
    mean1, mean2 = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 5.0])
    std1, std2 = np.array([1.0, 2.0, 0.5]), np.array([3.0, 2.0, 0.0])
    expected = np.square(mean1 - mean2).sum() + np.square(std1 - std2).sum()
    assert frechet_distance(mean1, np.diag(std1**2), mean2, np.diag(std2**2)) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_does_not_change_under_a_common_rotation():
    rng = np.random.RandomState(0)
    rotation = np.linalg.qr(rng.randn(3, 3))[0]
    mean1, mean2, cov1, cov2 = rng.randn(3), rng.randn(3), np.diag([1.0, 4.0, 9.0]), np.diag([4.0, 1.0, 0.25])
    turned = frechet_distance(
        rotation @ mean1, rotation @ cov1 @ rotation.T, rotation @ mean2, rotation @ cov2 @ rotation.T)
    assert turned == pytest.approx(frechet_distance(mean1, cov1, mean2, cov2), rel=1e-10)


@pytest.mark.parametrize("size", [1, 8, 40])
def test_frechet_distance_equals_the_one_with_a_general_matrix_root(size):
    rng = np.random.RandomState(size)
    mean1, mean2 = rng.randn(2, size)
    cov1, cov2 = random_covariance(size, rng), random_covariance(size, rng)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    expected = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * root).real
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_rank_deficient_covariances_is_finite_and_symmetric():
    rng = np.random.RandomState(0)
    cov1, cov2 = random_covariance(30, rng, rank=5), random_covariance(30, rng, rank=7)
    one, two = (frechet_distance(np.zeros(30), a, np.zeros(30), b) for a, b in ((cov1, cov2), (cov2, cov1)))
    assert one == pytest.approx(two, rel=1e-6) and one > 0


def test_frechet_distance_to_itself_is_zero_and_never_negative():
    rng = np.random.RandomState(0)
    for rank in (3, 50):
        mean, cov = rng.randn(40), random_covariance(40, rng, rank)
        assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-5 * np.trace(cov)


def test_a_matrix_that_is_no_covariance_is_refused():
    with pytest.raises(ValueError, match="positive semi-definite"):
        frechet_distance(np.zeros(2), np.diag([-5.0, -5.0]), np.zeros(2), np.eye(2))


def test_square_root_of_a_covariance_squares_to_it():
    cov = random_covariance(6, np.random.RandomState(0))
    np.testing.assert_allclose(sqrt_psd(cov) @ sqrt_psd(cov), cov, atol=1e-12)


def test_fewer_images_than_features_are_warned_about_with_their_number():
    with pytest.warns(UserWarning, match="40 real images for 2048 features"):
        warn_if_rank_deficient(40, 2048, "real")


def test_frechet_distance_of_1024_features_takes_seconds():
    rng = np.random.RandomState(0)
    cov1, cov2 = random_covariance(1024, rng), random_covariance(1024, rng)
    start = time.process_time()
    frechet_distance(np.zeros(1024), cov1, np.zeros(1024), cov2)
    assert time.process_time() - start < 30   # about 1 s; a loose limit for busy machines


# Kernel distance


def slow_squared_mmd(x, y):
    """Sums over pairs, as the definition says."""
    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3
    m = len(x)
    within = sum(kernel(s[i], s[j]) for s in (x, y) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return within - 2 * sum(kernel(a, b) for a in x for b in y) / m**2


def test_squared_mmd_equals_the_sums_over_pairs():
    rng = np.random.RandomState(0)
    x, y = rng.randn(9, 4), rng.randn(9, 4) + 0.3
    assert squared_mmd(x, y) == pytest.approx(slow_squared_mmd(x, y), rel=1e-10)


def test_squared_mmd_is_the_same_in_tiles(monkeypatch):
    rng = np.random.RandomState(0)
    x, y = rng.randn(50, 4), rng.randn(50, 4)
    whole = squared_mmd(x, y)
    monkeypatch.setattr("metrics.kernel_inception_distance.TILE", 7)
    assert squared_mmd(x, y) == pytest.approx(whole, rel=1e-12)


def test_kernel_distance_of_identical_sets_is_the_known_negative_bias():
    """With equal sets the pairs (i, i) count in the cross term only: -2 (mean diagonal - mean off-diagonal) / m."""
    x = np.random.RandomState(0).randn(20, 3)
    k = (x @ x.T / 3 + 1) ** 3
    off_diagonal = (k.sum() - np.trace(k)) / (20 * 19)
    expected = -2 * (np.trace(k) / 20 - off_diagonal) / 20
    assert kernel_distance(x, x, 1, 1000, np.random.RandomState(0)) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_of_samples_of_one_distribution_is_unbiased():
    rng = np.random.RandomState(0)
    values = [squared_mmd(rng.randn(40, 2), rng.randn(40, 2)) for _ in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_kernel_distance_needs_two_images_on_each_side():
    with pytest.raises(ValueError, match="at least 2"):
        kernel_distance(np.zeros([1, 3]), np.zeros([5, 3]), 1, 10)


# Precision and recall


def points(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1)


def test_kth_neighbour_excludes_the_point_itself():
    assert kth_neighbour_distance(points(0, 1, 3, 7), 1, 2, 3).tolist() == pytest.approx([1, 1, 2, 4], abs=1e-3)
    assert kth_neighbour_distance(points(0, 1, 3, 7), 2, 2, 3).tolist() == pytest.approx([3, 2, 3, 6], abs=1e-3)


def test_a_probe_on_the_radius_counts():
    assert fraction_within(points(0, 10), torch.tensor([1.0, 2.0]), points(1, 1.5, 8, 20), 3, 1) == 0.5


def test_precision_and_recall_of_nested_sets():
    """Generated images inside a part of the real ones: all are precise, and the other part is never recalled."""
    real = points(*np.linspace(0, 1, 20), *np.linspace(100, 101, 20))
    precision, recall = precision_recall(real, points(*np.linspace(0.2, 0.8, 30)), nhood_size=3)
    assert precision == 1
    assert 0 < recall <= 0.5


def test_precision_and_recall_of_far_sets_are_zero_and_of_equal_sets_one():
    x = points(*np.linspace(0, 1, 30))
    assert precision_recall(x, x + 50) == (0, 0)
    assert precision_recall(x, x) == (1, 1)


def test_precision_and_recall_do_not_depend_on_the_tiles():
    gen = torch.Generator().manual_seed(0)
    real, fake = torch.randn([70, 5], generator=gen), torch.randn([60, 5], generator=gen) * 1.3
    assert precision_recall(real, fake, 3, 10_000, 10_000) == precision_recall(real, fake, 3, 11, 7)


def test_fewer_points_than_neighbours_are_refused():
    with pytest.raises(ValueError, match="3 neighbours need more than 3 generated images, got 2"):
        precision_recall(torch.randn([10, 2]), torch.randn([2, 2]), 3)


# Inception score


def test_inception_score_of_confident_balanced_classes_is_their_number():
    probs = np.tile(np.eye(5, dtype=np.float32), [8, 1])
    mean, std = inception_score(probs, num_splits=4)
    assert mean == pytest.approx(5) and std == pytest.approx(0, abs=1e-12)


def test_inception_score_of_one_class_is_one():
    assert inception_score(np.tile([[0.2, 0.8]], [10, 1]), 2) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_inception_score_splits_are_consecutive():
    probs = np.repeat(np.eye(2), 10, axis=0)   # first half one class, second half the other
    assert inception_score(probs, 1)[0] == pytest.approx(2)
    assert inception_score(probs, 2)[0] == pytest.approx(1)


# Statistics


def test_mean_and_covariance_are_those_of_numpy_however_the_rows_arrive():
    x = np.random.RandomState(0).randn(50, 4).astype(np.float32)
    stats = FeatureStats(capture_mean_cov=True)
    for part in np.split(x, [1, 8, 40]):
        stats.append(part)
    mean, cov = stats.get_mean_cov()
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(x.astype(np.float64), rowvar=False, bias=True), rtol=1e-10, atol=1e-12)


def test_items_beyond_the_maximum_are_dropped():
    stats = FeatureStats(capture_all=True, max_items=5)
    for _ in range(3):
        stats.append(np.ones([3, 2]))
    assert stats.is_full() and stats.num_items == 5 and stats.get_all().shape == (5, 2)


def test_features_of_changing_width_are_refused():
    stats = FeatureStats(capture_all=True)
    stats.append(np.ones([3, 2]))
    with pytest.raises(ValueError, match="must stay 2 wide, got 4"):
        stats.append(np.ones([3, 4]))


def test_statistics_survive_a_round_trip(tmp_path):
    stats = FeatureStats(capture_all=True, capture_mean_cov=True, max_items=7)
    stats.append(np.random.RandomState(0).randn(9, 3))
    stats.save(tmp_path / "s.pkl")
    loaded = FeatureStats.load(tmp_path / "s.pkl")
    assert np.array_equal(loaded.get_all(), stats.get_all()) and loaded.max_items == 7
    assert all(np.array_equal(a, b) for a, b in zip(loaded.get_mean_cov(), stats.get_mean_cov()))


def test_a_statistics_file_cannot_run_code(tmp_path):
    (tmp_path / "s.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/should-not-exist'\ntR.")
    with pytest.raises(ValueError, match="asks for os.system, which safe loading does not allow"):
        FeatureStats.load(tmp_path / "s.pkl")
