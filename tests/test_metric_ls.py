"""Linear separability, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from metric_fixtures import save_torchscript, tiny_generator

from metrics import linear_separability, metric_main
from metrics.linear_separability import conditional_entropy, fit_linear_svm, separability_entropy

CPU = torch.device("cpu")


class Brightness(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return img.mean(dim=[1, 2, 3])[:, None] / 100 - 1.27


class TwoAnswers(torch.nn.Module):
    def forward(self, img: torch.Tensor) -> torch.Tensor:
        return torch.zeros([len(img), 2])


def test_entropy_of_a_perfect_and_of_a_useless_prediction():
    actual = np.array([True, False] * 50)
    assert conditional_entropy(actual, actual) == 0
    assert conditional_entropy(np.ones(100, dtype=bool), actual) == pytest.approx(np.log(2))


def test_entropy_of_a_prediction_that_is_sometimes_wrong():
    predicted = np.array([True] * 10 + [False] * 10)
    actual = np.array([True] * 9 + [False] * 1 + [False] * 10)
    expected = 0.5 * -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert conditional_entropy(predicted, actual) == pytest.approx(expected)


def test_svm_finds_the_minimum_of_its_objective():
    rng = np.random.RandomState(0)
    x = rng.randn(60, 3)
    positive = x @ [1.0, -2.0, 0.5] + 0.3 * rng.randn(60) > 0.2
    plane = fit_linear_svm(x, positive)

    def objective(v):
        slack = np.maximum(1 - np.where(positive, 1, -1) * (x @ v[:3] + v[3]), 0)
        return 0.5 * v @ v + slack @ slack
    best = scipy.optimize.minimize(objective, np.zeros(4), method="Nelder-Mead",
                                   options=dict(maxiter=20000, xatol=1e-9, fatol=1e-12))
    assert objective(plane) == pytest.approx(best.fun, rel=1e-5)


def test_an_attribute_on_a_hyperplane_is_separated_and_a_random_one_is_not():
    rng = np.random.RandomState(0)
    latents = rng.randn(2000, 4)
    linear = latents @ [1.0, 2.0, -1.0, 0.0]
    assert separability_entropy(latents, linear, 1000) < 0.05
    assert separability_entropy(latents, rng.randn(2000), 1000) == pytest.approx(np.log(2), abs=0.02)


def test_an_attribute_bent_around_the_origin_cannot_be_separated():
    latents = np.random.RandomState(0).randn(2000, 2)
    assert separability_entropy(latents, np.abs(latents[:, 0]) - 0.67, 1000) > 0.5


def test_only_the_confident_half_counts():
    latents = np.random.RandomState(0).randn(1000, 1)
    logits = latents[:, 0].copy()
    doubtful = np.abs(logits) < np.median(np.abs(logits))
    logits[doubtful] *= -1e-3   # wrong, but without confidence
    assert separability_entropy(latents, logits, 500) < 0.01
    assert separability_entropy(latents, logits, 1000) > 0.2


def test_a_constant_attribute_needs_no_prediction():
    assert separability_entropy(np.zeros([10, 2]), np.ones(10), 5) == 0


def test_the_metric_reports_both_spaces_and_its_classifiers(tmp_path):
    path = save_torchscript(Brightness(), tmp_path / "brightness.pt")
    result = metric_main.calc_metric("ls40", G=tiny_generator(), device=CPU, classifiers=[str(path)])
    assert set(result.results) == {"ls40_z", "ls40_w"}
    assert all(1 <= value <= 2 + 1e-9 for value in result.results.values())   # exp of at most ln 2
    assert list(result.provenance.classifiers) == ["brightness.pt"]


def test_samples_do_not_depend_on_the_batch_size(tmp_path):
    path = str(save_torchscript(Brightness(), tmp_path / "brightness.pt"))
    opts = linear_separability.metric_utils.MetricOptions(G=tiny_generator(), device=CPU, seed=0)
    one, other = (linear_separability.collect_samples(opts, 9, [path], size) for size in (1, 7))
    np.testing.assert_allclose(one[1], other[1], atol=1e-5)
    np.testing.assert_array_equal(one[0]["z"], other[0]["z"])


def test_classifiers_are_required_and_must_give_one_logit(tmp_path):
    with pytest.raises(ValueError, match="--classifiers"):
        metric_main.calc_metric("ls40", G=tiny_generator(), device=CPU)
    path = str(save_torchscript(TwoAnswers(), tmp_path / "two.pt"))
    with pytest.raises(ValueError, match="two.pt must return one logit per image"):
        metric_main.calc_metric("ls40", G=tiny_generator(), device=CPU, classifiers=[path])
