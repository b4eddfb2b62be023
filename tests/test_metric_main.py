"""The registry: names, counts, results and the lines written for them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from metric_fixtures import dataset_kwargs, forget_detectors, tiny_generator, write_detectors, write_images

from metrics import detectors, metric_main

CPU = torch.device("cpu")
STOCK = ["fid50k_full", "kid50k_full", "pr50k3_full", "ppl2_wend", "is50k", "fid50k", "kid50k", "pr50k3", "ppl_zfull",
         "ppl_wfull", "ppl_zend", "ppl_wend"]


@pytest.fixture
def local_detectors(tmp_path, monkeypatch):
    forget_detectors(monkeypatch, tmp_path / "cache")
    monkeypatch.setenv(detectors.DIR_VARIABLE, str(write_detectors(tmp_path / "detectors")))


def test_stock_metrics_are_registered_first_and_in_order():
    assert metric_main.list_valid_metrics()[:12] == STOCK


@pytest.mark.parametrize("name", ["fid5k_full", "fid500", "rfid2.5k_full", "kid1k", "rkid200", "pr5k3_full", "pr1k5",
                                  "is500", "ppl2k_wend", "ppl100_zfull_crop", "swd2k_full", "ls1k"])
def test_any_sample_count_is_a_valid_name(name):
    assert metric_main.is_valid_metric(name)


def test_a_count_of_zero_is_no_metric():
    assert not metric_main.is_valid_metric("fid0")
    with pytest.raises(ValueError, match="a sample count must be at least 1, got 0k"):
        metric_main.check_metric("kid0k_full")


@pytest.mark.parametrize("name", ["", "fid", "fid5m", "fid-5k", "fid5k_ful", "pr500", "ppl2k", "ppl2k_xend", "none"])
def test_other_names_are_not(name):
    assert not metric_main.is_valid_metric(name)
    with pytest.raises(ValueError, match="metric must be one of fid50k_full"):
        metric_main.calc_metric(name)


def test_counts_are_read_with_and_without_thousands():
    assert [metric_main.parse_count(text) for text in ("7", "500", "5k", "2.5k")] == [7, 500, 5000, 2500]
    with pytest.raises(ValueError, match="at least 1"):
        metric_main.parse_count("0")


def recipe_arguments(monkeypatch, module, function, name):
    """The arguments with which a metric calls its formula."""
    seen = {}

    def record(opts, *args, **kwargs):
        seen.update(kwargs, args=args, dataset_kwargs=dict(opts.dataset_kwargs))
        return (0.0, 0.0) if function in ("compute_pr", "compute_is") else 0.0
    monkeypatch.setattr(getattr(metric_main, module), function, record)
    metric_main.calc_metric(name, G=None, device=CPU, dataset_kwargs=dict(max_size=7, xflip=True))
    return seen


@pytest.mark.parametrize(("name", "max_real", "num_gen", "xflip"), [
    ("fid50k_full", None, 50_000, False), ("fid50k", 50_000, 50_000, True),
    ("fid5k_full", None, 5_000, False), ("fid5k", 5_000, 5_000, True)])
def test_frechet_metrics_take_the_counts_of_their_name(monkeypatch, name, max_real, num_gen, xflip):
    seen = recipe_arguments(monkeypatch, "frechet_inception_distance", "compute_fid", name)
    assert seen["args"][:2] == (max_real, num_gen)
    assert seen["dataset_kwargs"] == dict(max_size=None, xflip=xflip)


@pytest.mark.parametrize(("name", "max_real", "num_gen"), [
    ("kid50k_full", 1_000_000, 50_000), ("kid50k", 50_000, 50_000), ("kid200", 200, 200)])
def test_kernel_metrics_use_100_subsets_of_1000(monkeypatch, name, max_real, num_gen):
    seen = recipe_arguments(monkeypatch, "kernel_inception_distance", "compute_kid", name)
    assert seen["args"] == (max_real, num_gen)
    assert (seen["num_subsets"], seen["max_subset_size"]) == (100, 1000)


@pytest.mark.parametrize(("name", "max_real", "num_gen", "nhood"), [
    ("pr50k3_full", 200_000, 50_000, 3), ("pr50k3", 50_000, 50_000, 3), ("pr2k5_full", 200_000, 2_000, 5)])
def test_precision_metrics_take_counts_and_neighbours_of_their_name(monkeypatch, name, max_real, num_gen, nhood):
    seen = recipe_arguments(monkeypatch, "precision_recall", "compute_pr", name)
    assert seen["args"] == (max_real, num_gen, nhood)
    assert seen["row_batch_size"] == seen["col_batch_size"] == 10_000


@pytest.mark.parametrize(("name", "num", "space", "where", "crop"), [
    ("ppl2_wend", 50_000, "w", "end", False), ("ppl_zfull", 50_000, "z", "full", True),
    ("ppl_wfull", 50_000, "w", "full", True), ("ppl_zend", 50_000, "z", "end", True),
    ("ppl_wend", 50_000, "w", "end", True), ("ppl2k_wend", 2_000, "w", "end", False),
    ("ppl300_zfull_crop", 300, "z", "full", True)])
def test_path_length_metrics_take_space_position_and_crop_of_their_name(monkeypatch, name, num, space, where, crop):
    seen = {}
    monkeypatch.setattr(metric_main.perceptual_path_length, "path_distances",
                        lambda opts, *args, **kwargs: seen.update(kwargs, num=args[0]) or np.ones(10))
    monkeypatch.setattr(metric_main.detectors, "get_hash", lambda url: "hash")
    assert metric_main.calc_metric(name, G=None, device=CPU).results == {name: 1.0}
    assert seen == dict(num=num, space=space, sampling_mode=where, crop=crop, epsilon=1e-4, batch_size=2)


def test_all_families_run_on_tiny_data(local_detectors, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 30))
    names = ["fid20_full", "kid20", "pr0.02k3_full", "is20", "ppl6_wend", "ppl4_zfull_crop", "rfid20_full", "rkid20",
             "swd20"]
    G = tiny_generator()
    results = {}
    with pytest.warns(UserWarning, match="rank-deficient"):
        for name in names:
            results |= metric_main.calc_metric(name, G=G, dataset_kwargs=data, device=CPU).results
    assert set(results) == {
        "fid20_full", "kid20", "pr0.02k3_full_precision", "pr0.02k3_full_recall", "is20_mean", "is20_std", "ppl6_wend",
        "ppl4_zfull_crop", "rfid20_full", "rkid20", "swd20", "swd20_16"}
    assert np.isfinite(list(results.values())).all()
    assert results["fid20_full"] > 0 and results["is20_mean"] >= 1 and results["ppl6_wend"] > 0


def test_a_repeated_measurement_is_identical_and_another_seed_is_not(local_detectors, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    G = tiny_generator()

    def measure(seed=None):
        return metric_main.calc_metric("kid12", G=G, dataset_kwargs=data, device=CPU, seed=seed).results.kid12
    assert measure() == measure() == measure(seed=0) != measure(seed=1)


def test_a_result_says_what_it_was_computed_from(local_detectors, tmp_path):
    data = dataset_kwargs(write_images(tmp_path / "d.zip", 12))
    result = metric_main.calc_metric("kid10", G=tiny_generator(), dataset_kwargs=data, device=CPU, seed=4)
    assert {"results", "metric", "total_time", "total_time_str", "num_gpus"} <= set(result)
    facts = result.provenance
    assert (facts.seed, facts.num_real, facts.num_generated) == (4, 10, 10)
    assert len(facts.network) == len(facts.data) == len(facts.detector) == 64
    assert facts.detector_name == "inception-2015-12-05"
    assert "truncated" in facts.rounding and facts.resize and facts.dtype and facts.versions["torch"]


def test_a_result_line_is_printed_and_appended(tmp_path, capsys):
    result = dict(results=dict(a=1.5), metric="a", total_time=1.0, total_time_str="1s", num_gpus=1)
    for _ in range(2):
        metric_main.report_metric(result, run_dir=str(tmp_path), snapshot_pkl=str(tmp_path / "x.pkl"))
    lines = (tmp_path / "metric-a.jsonl").read_text().splitlines()
    assert len(lines) == 2 and capsys.readouterr().out.splitlines() == lines
    line = json.loads(lines[0])
    assert line["results"] == {"a": 1.5} and line["snapshot_pkl"] == "x.pkl" and line["timestamp"] > 0
    metric_main.report_metric(result, run_dir=str(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()


def test_a_registered_name_wins_over_a_pattern(monkeypatch):
    monkeypatch.setattr(metric_main, "_metrics", dict(metric_main._metrics))

    def fid7(opts):
        return dict(fid7=7.0)
    assert metric_main.register_metric(fid7) is fid7
    assert metric_main.calc_metric("fid7", device=CPU).results == {"fid7": 7.0}


def test_detectors_of_stock_metrics_are_known_before_they_run():
    assert metric_main.detector_of("fid5k_full") == metric_main.detector_of("is50k") == detectors.INCEPTION_URL
    assert metric_main.detector_of("ppl2_wend") == metric_main.detector_of("pr5k3") == detectors.VGG16_URL
    assert metric_main.detector_of("rfid5k") is metric_main.detector_of("swd5k") is None


def test_a_detector_is_fetched_for_the_metrics_that_need_one(local_detectors, monkeypatch):
    fetched = []
    monkeypatch.setattr(metric_main.detectors, "fetch", lambda url, verbose: fetched.append(url))
    for name in ("fid50k_full", "rfid5k", "ppl2_wend"):
        metric_main.fetch_detector(name)
    assert fetched == [detectors.INCEPTION_URL, detectors.VGG16_URL]


@pytest.mark.parametrize(("name", "message"), [
    ("kid1", "at least 2 images on each side, got 1"), ("pr0.003k3_full", "3 neighbours need more than 3"),
    ("is9", "10 splits need at least 10 images, got 9")])
def test_a_count_that_is_too_small_is_refused_before_any_image_is_read(name, message):
    with pytest.raises(ValueError, match=message):
        metric_main.calc_metric(name, G=tiny_generator(), device=CPU, dataset_kwargs=dataset_kwargs("missing.zip"))


def test_a_label_source_belongs_to_the_facts_of_a_result(local_detectors, tmp_path):
    data = write_images(tmp_path / "d.zip", 6, labels=[0, 1, 2, 0, 1, 2])
    kwargs = dict(device=CPU, dataset_kwargs=dataset_kwargs(data, use_labels=True))
    conditional = metric_main.calc_metric("ppl4_wend", G=tiny_generator(c_dim=3), **kwargs)
    assert len(conditional.provenance.data) == 64
    assert "data" not in metric_main.calc_metric("ppl4_wend", G=tiny_generator(), **kwargs).provenance
