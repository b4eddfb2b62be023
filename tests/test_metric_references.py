"""Agreement with pytorch-fid and torch-fidelity on the same features.

`make` installs both, without what they require: they import torchvision for networks that play no part here, and of
torchvision there is no build that fits every build of torch. Empty modules stand in for it.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from metric_fixtures import TinyInception, dataset_kwargs, tiny_generator, write_images

from metrics import detectors, metric_utils
from metrics.frechet_inception_distance import frechet_distance
from metrics.kernel_inception_distance import kernel_distance

TORCHVISION_PARTS = ("datasets", "transforms", "transforms.functional", "models", "models.inception", "models.utils")


@pytest.fixture
def reference(monkeypatch):
    """Imports a module of a reference package, or skips the test where the package is not installed."""
    def load(name):
        add_stand_ins(monkeypatch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")   # of third-party code at import
            try:
                return importlib.import_module(name)
            except ModuleNotFoundError as err:
                pytest.skip(f"{err.name} is not installed")
    return load


def add_stand_ins(monkeypatch):
    """Modules under torchvision's names, of which every attribute is an empty class."""
    for name in ("torchvision", *(f"torchvision.{part}" for part in TORCHVISION_PARTS)):
        module = types.ModuleType(name)
        module.__path__ = []
        module.__getattr__ = lambda attribute: type(attribute, (), {})
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


@pytest.fixture
def extract(tmp_path, monkeypatch):
    """Features of real and generated images by one small random extractor, through our pipeline."""
    def run():
        monkeypatch.setattr(detectors, "load", lambda url, device, verbose=False: TinyInception(num_features=24))
        monkeypatch.setattr(detectors, "get_hash", lambda url: "hash")
        monkeypatch.setattr(metric_utils, "_loaded_detectors", {})
        opts = metric_utils.MetricOptions(
            G=tiny_generator(), dataset_kwargs=dataset_kwargs(write_images(tmp_path / "d.zip", 80)), cache=False,
            device=torch.device("cpu"), seed=0)
        args = (opts, "builtin:small", dict(return_features=True))
        real = metric_utils.compute_feature_stats_for_dataset(*args, capture_all=True)
        gen = metric_utils.compute_feature_stats_for_generator(*args, capture_all=True, max_items=70)
        return real.get_all().astype(np.float64), gen.get_all().astype(np.float64)
    return run


def moments(x):
    """Mean and unbiased covariance, which both packages use."""
    return x.mean(axis=0), np.cov(x, rowvar=False)


def test_frechet_distance_equals_pytorch_fids(reference, extract, monkeypatch):
    fid_score = reference("pytorch_fid.fid_score")
    (mean1, cov1), (mean2, cov2) = map(moments, extract())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # it passes `disp`, which is deprecated, and a product of deficient rank
        try:
            expected = fid_score.calculate_frechet_distance(mean1, cov1, mean2, cov2)
        except TypeError:   # scipy has dropped the argument; the call is otherwise the same
            monkeypatch.setattr(fid_score.linalg, "sqrtm", lambda x, disp, f=fid_score.linalg.sqrtm: (f(x), 0))
            expected = fid_score.calculate_frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_equals_torch_fidelitys(reference, extract):
    metric_fid = reference("torch_fidelity.metric_fid")
    (mean1, cov1), (mean2, cov2) = map(moments, extract())
    result = metric_fid.fid_statistics_to_metric(
        dict(mu=mean1, sigma=cov1), dict(mu=mean2, sigma=cov2), verbose=False)
    expected = result[metric_fid.KEY_METRIC_FID]
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_equals_torch_fidelitys(reference, extract):
    """It draws both subsets from one RandomState, the first set first; ours draws the generated one first."""
    metric_kid = reference("torch_fidelity.metric_kid")
    real, gen = extract()
    result = metric_kid.kid_features_to_metric(
        torch.from_numpy(gen), torch.from_numpy(real), kid_subsets=7, kid_subset_size=50, rng_seed=11, verbose=False,
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    actual = kernel_distance(real, gen, num_subsets=7, max_subset_size=50, rng=np.random.RandomState(11))
    assert actual == pytest.approx(result[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-6)
