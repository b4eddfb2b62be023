"""Where detector files come from, and what happens when they cannot be had or are not what they should be."""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.error
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from metric_fixtures import TinyInception, forget_detectors, save_torchscript, write_detectors

import dnnlib
from metrics import content_hash, detectors, metric_utils
from metrics.random_vgg16 import BLOCKS, NUM_FEATURES, RandomVGG16, fit_resolution


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch, tmp_path):
    forget_detectors(monkeypatch, tmp_path / "cache")


@pytest.fixture
def no_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("unreachable")
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def test_loading_a_torchscript_file_raises_no_deprecation_warning(tmp_path):
    path = save_torchscript(TinyInception(), tmp_path / "d.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = detectors.load(str(path))
    assert not detector.training
    assert detector(torch.zeros([2, 3, 8, 8], dtype=torch.uint8), return_features=True).shape == (2, 2048)


def test_a_detector_is_found_in_the_named_folder_or_by_the_environment(tmp_path, monkeypatch):
    folder = write_detectors(tmp_path / "detectors")
    assert detectors.find_local(detectors.VGG16_URL) is None
    monkeypatch.setenv(detectors.DIR_VARIABLE, str(folder))
    assert detectors.find_local(detectors.VGG16_URL) == str(folder / "vgg16.pt")
    detectors.set_detector_dir(str(tmp_path))
    assert detectors.find_local(detectors.VGG16_URL) is None


def test_a_download_of_an_earlier_run_is_found(tmp_path):
    downloads = tmp_path / "cache" / "downloads"
    downloads.mkdir(parents=True)
    md5 = hashlib.md5(detectors.INCEPTION_URL.encode()).hexdigest()
    path = save_torchscript(TinyInception(), downloads / f"{md5}_inception-2015-12-05.pt")
    assert detectors.fetch(detectors.INCEPTION_URL) == str(path)
    assert dnnlib.util.open_url(detectors.INCEPTION_URL, return_filename=True) == str(path)


def test_without_a_network_one_line_says_what_to_put_where(no_network):
    with pytest.raises(OSError) as caught:
        detectors.fetch(detectors.INCEPTION_URL)
    message = str(caught.value)
    assert detectors.INCEPTION_URL in message and "put inception-2015-12-05.pt into" in message
    assert "--detectors" in message and "\n" not in message


def test_without_a_network_the_message_names_the_folder_that_was_searched(no_network, tmp_path):
    detectors.set_detector_dir(str(tmp_path))
    with pytest.raises(OSError, match=f"put vgg16.pt into {tmp_path}"):
        detectors.fetch(detectors.VGG16_URL)


def test_a_name_server_that_never_answers_is_given_up_on(monkeypatch):
    answer = threading.Event()   # never given while the test waits
    monkeypatch.setattr(detectors, "REACH_TIMEOUT", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer.wait())
    try:
        with pytest.raises(OSError, match="no answer within"):
            detectors.fetch(detectors.VGG16_URL)
    finally:
        answer.set()


def test_every_detector_names_its_origin_and_width():
    for url, info in detectors.KNOWN_DETECTORS.items():
        assert info.origin and info.num_features > 0, url
        assert info.sha256 is None or len(info.sha256) == 64, url


def test_a_file_that_differs_from_its_first_use_is_refused(tmp_path):
    folder = write_detectors(tmp_path / "detectors")
    detectors.set_detector_dir(str(folder))
    first = detectors.get_hash(detectors.INCEPTION_URL)
    assert first == dnnlib.util.hash_file(folder / "inception-2015-12-05.pt")
    save_torchscript(TinyInception(num_features=2047), folder / "inception-2015-12-05.pt")
    with pytest.raises(ValueError, match="damaged or another detector"):
        detectors.get_hash(detectors.INCEPTION_URL)
    with pytest.raises(ValueError, match="damaged or another detector"):
        detectors.load(detectors.INCEPTION_URL)


def test_a_hash_that_cannot_be_noted_is_warned_about(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DNNLIB_CACHE_DIR", str(tmp_path / "file"))
    detectors.set_detector_dir(str(write_detectors(tmp_path / "detectors")))
    with pytest.warns(UserWarning, match="the detector's hash is not kept for later runs: "):
        assert len(detectors.get_hash(detectors.INCEPTION_URL)) == 64


def test_a_known_hash_is_enforced(tmp_path, monkeypatch):
    detectors.set_detector_dir(str(write_detectors(tmp_path / "detectors")))
    info = detectors.DetectorInfo("test", 2048, sha256="0" * 64)
    monkeypatch.setitem(detectors.KNOWN_DETECTORS, detectors.INCEPTION_URL, info)
    with pytest.raises(ValueError, match="not its publisher's"):
        detectors.load(detectors.INCEPTION_URL)


def test_a_file_that_is_no_torchscript_is_named(tmp_path):
    (tmp_path / "vgg16.pt").write_bytes(b"not a detector")
    detectors.set_detector_dir(str(tmp_path))
    with pytest.raises(ValueError, match="vgg16.pt is not a TorchScript file"):
        detectors.load(detectors.VGG16_URL)


def test_a_missing_detector_folder_is_named():
    with pytest.raises(OSError, match="detector folder does not exist: /nowhere"):
        detectors.set_detector_dir("/nowhere")


def test_a_detector_is_loaded_once_per_process(tmp_path, monkeypatch):
    detectors.set_detector_dir(str(write_detectors(tmp_path / "detectors")))
    one = metric_utils.get_feature_detector(detectors.VGG16_URL)
    assert metric_utils.get_feature_detector(detectors.VGG16_URL) is one


# The random VGG16


def test_random_weights_are_those_of_the_frozen_generator():
    weight = RandomVGG16().conv1_1
    expected = np.random.RandomState(0).randn(64, 3, 3, 3) * np.sqrt(2 / 27)
    np.testing.assert_array_equal(weight.numpy(), expected.astype(np.float32))
    assert len(RandomVGG16().state_dict()) == sum(map(len, BLOCKS))


def test_random_features_keep_the_scale_of_their_input():
    """He initialisation keeps the second moment, so that features of noise are neither vanishing nor exploding."""
    with torch.no_grad():
        features = RandomVGG16()(torch.randint(0, 256, [2, 3, 32, 32], dtype=torch.uint8))
    assert features.shape == (2, NUM_FEATURES)
    assert 0.05 < features.square().mean() < 5


def test_random_features_accept_any_size_and_see_large_images_averaged_down():
    for size in ((8, 8), (32, 48), (200, 100)):
        height, width = fit_resolution(torch.zeros([1, 3, *size])).shape[2:]
        assert 32 <= max(height, width) <= 128
    checkerboard = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(128, 128)[None, None]
    assert fit_resolution(checkerboard).abs().max() == 0
    exact = torch.randn([1, 3, 64, 64])
    assert fit_resolution(exact) is exact


def test_random_detector_is_available_by_its_name():
    detector = metric_utils.get_feature_detector(detectors.RANDOM_VGG16_URL)
    assert detectors.get_hash(detectors.RANDOM_VGG16_URL) == content_hash.hash_state(detector)
