"""Results in order from several processes, and the end of these processes."""

from __future__ import annotations

import functools
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from training.data.ordered_pool import CHUNK, ordered_map

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers):
    assert list(ordered_map(operator.neg, 50, workers)) == [-i for i in range(50)]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_items_give_no_results(workers):
    assert list(ordered_map(operator.neg, 0, workers)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_function_are_raised_here(workers):
    results = ordered_map(functools.partial(operator.getitem, range(2 * CHUNK)), 10**9, workers)
    assert [next(results) for _ in range(2 * CHUNK)] == list(range(2 * CHUNK))
    with pytest.raises(IndexError):
        next(results)
    assert multiprocessing.active_children() == []


def test_closing_ends_the_workers_early():
    results = ordered_map(operator.neg, 10**9, 2)
    next(results)
    assert multiprocessing.active_children() != []
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_is_an_error(workers):
    with pytest.raises(OSError, match="a worker process died: memory ran out"):
        list(ordered_map(os._exit, CHUNK, workers))


def test_workers_do_not_outlive_a_killed_parent():
    code = "import time; from training.data.ordered_pool import ordered_map; print(*ordered_map(time.sleep, 1000, 2))"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    end = time.monotonic() + 30
    while len(family := psutil.Process(parent.pid).children(recursive=True)) < 3:   # one keeps track of semaphores
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert not psutil.wait_procs(family, timeout=30)[1]
