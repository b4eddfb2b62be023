"""Fixtures and settings of all tests."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_fixtures import forget_detectors

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)  # the networks of the tests are too small to be shared by threads
LONGEST = ("help_examples", "export", "distributed", "golden", "site_browser", "editor_browser", "pareto", "ops",
           "cli_chain", "bad_inputs", "calc_metrics", "resume", "host", "network_files")   # files, in seconds


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist begins with the files of the most tests, not the longest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that no worker is left alone with one of them at the end."""
    names = [f"test_{name}" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and the GPU where there is one."""
    return torch.device(request.param)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Statistics and hashes of detectors are noted elsewhere than in the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        forget_detectors(patch, tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture
def other_host() -> Iterator[None]:
    """The plugin takes the host for another one."""
    from other_host import in_host_of  # imports all metrics

    with in_host_of("reference"):
        yield


@pytest.fixture(scope="session")
def half_on_cpu() -> None:
    """Skips the test where torch is too old for half precision on the CPU."""
    x = torch.ones([1, 1, 4, 4], dtype=torch.float16)
    try:
        torch.nn.functional.conv2d(x, x)
        torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
    except RuntimeError as err:
        pytest.skip(f"this torch cannot do it on the CPU: {err}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers and real images that lies beside the checkout, if it does."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"reference data not found: {path}")
    return path
