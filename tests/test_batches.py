"""training.run.batches: which images and labels a process is served."""

from __future__ import annotations

import itertools
import os
import re
import signal

import numpy as np
import pytest
import torch

from torch_utils.misc import InfiniteSampler
from training.dataset import Dataset
from training.run import batches
from training.run.batches import DataError, TrainingData, one_line_for_dead_workers

CPU = torch.device("cpu")
LOADER_KWARGS = dict(pin_memory=True, num_workers=3, prefetch_factor=2)


class Numbered(Dataset):
    """Item i is a gray 2x2 image of the value i, with class i % 3."""

    def __init__(self, num=20, **kwargs):
        super().__init__("numbered", [num, 1, 2, 2], **kwargs)

    def _load_raw_image(self, raw_idx):
        return np.full([1, 2, 2], raw_idx, dtype=np.uint8)

    def _load_raw_labels(self):
        return np.arange(self.num_raw, dtype=np.int64) % 3


class Noisy(Numbered):
    """Another image each time."""

    def __getitem__(self, idx):
        image, label = super().__getitem__(idx)
        return image + np.random.randint(100, 200, dtype=np.uint8), label


@pytest.fixture(params=["memory", "loader"])
def source(request, monkeypatch):
    """Run a test with the data set kept in memory, and with a data loader."""
    if request.param == "loader":
        monkeypatch.setattr(batches, "MEMORY_LIMIT", 0)


def drawn(data, num_batches):
    """Item numbers of the next batches."""
    return [round(float(v) * 127.5 + 127.5) for _ in range(num_batches) for v in data.next_batch()[0][:, 0, 0, 0]]


def test_images_are_scaled_to_minus_one_to_one_and_labels_belong_to_them(source):
    data = TrainingData(Numbered(256, use_labels=True), 16, CPU, data_loader_kwargs=LOADER_KWARGS)
    images, labels = data.next_batch()
    assert images.shape == (16, 1, 2, 2) and images.dtype == torch.float32 and labels.shape == (16, 3)
    numbers = images[:, 0, 0, 0] * 127.5 + 127.5
    torch.testing.assert_close(numbers, numbers.round(), rtol=0, atol=1e-4)
    assert labels.argmax(dim=1).tolist() == [int(n) % 3 for n in numbers.round()]


def test_the_order_is_that_of_the_sampler(source):
    dataset = Numbered()
    data = TrainingData(dataset, 8, CPU, random_seed=3, data_loader_kwargs=LOADER_KWARGS)
    assert drawn(data, 9) == list(itertools.islice(iter(InfiniteSampler(dataset, seed=3)), 72))


def test_processes_share_the_stream_of_one(source):
    dataset = Numbered()
    single = drawn(TrainingData(dataset, 8, CPU, data_loader_kwargs=LOADER_KWARGS), 5)
    halves = [
        drawn(TrainingData(dataset, 4, CPU, rank, num_gpus=2, data_loader_kwargs=LOADER_KWARGS), 5) for rank in (0, 1)
    ]
    assert [n for pair in zip(*halves) for n in pair] == single


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_the_order_goes_on_where_it_was_left(source, num_gpus):
    def served(start, num_batches):
        return [drawn(TrainingData(Numbered(), 8 // num_gpus, CPU, rank, num_gpus, start=start), num_batches)
                for rank in range(num_gpus)]

    whole, rest = served(0, 9), served(48, 3)  # 6 batches of 8 on all processes together
    assert rest == [numbers[6 * 8 // num_gpus :] for numbers in whole]


def test_a_batch_may_be_larger_than_the_data_set(source):
    assert set(drawn(TrainingData(Numbered(3), 16, CPU, data_loader_kwargs=LOADER_KWARGS), 1)) == {0, 1, 2}


def test_a_served_batch_may_be_changed_without_changing_the_next(source):
    data = TrainingData(Numbered(1), 2, CPU, data_loader_kwargs=LOADER_KWARGS)
    data.next_batch()[0].fill_(9)
    assert drawn(data, 1) == [0, 0]


def test_a_class_that_draws_a_new_version_each_time_is_not_kept():
    assert batches.fits_in_memory(Numbered()) and not batches.fits_in_memory(Noisy())
    data = TrainingData(Noisy(1), 64, CPU)
    assert len(set(drawn(data, 1))) > 10


def test_a_data_set_beyond_the_limit_is_not_kept(monkeypatch):
    monkeypatch.setattr(batches, "MEMORY_LIMIT", 20 * 4)
    assert batches.fits_in_memory(Numbered(20)) and not batches.fits_in_memory(Numbered(20, xflip=True))


def test_a_damaged_image_is_found_before_training_begins():
    class Damaged(Numbered):
        def _load_raw_image(self, raw_idx):
            if raw_idx == 17:
                raise OSError("cannot read 17.png")
            return super()._load_raw_image(raw_idx)

    with pytest.raises(OSError, match="17.png"):
        TrainingData(Damaged(), 2, CPU)


def test_random_labels_are_those_of_uniform_items_and_follow_numpys_seed():
    data = TrainingData(Numbered(30, use_labels=True), 4, CPU)
    np.random.seed(1)
    labels = data.random_labels(3000)
    np.random.seed(1)
    assert torch.equal(labels, data.random_labels(3000))
    assert torch.equal(labels.sum(dim=1), torch.ones([3000]))
    assert (labels.mean(dim=0) - 1 / 3).abs().max() < 0.04   # more than four standard deviations


def test_without_labels_their_width_is_zero():
    data = TrainingData(Numbered(), 4, CPU)
    assert data.random_labels(5).shape == (5, 0) and data.next_batch()[1].shape == (4, 0)


def test_only_a_gpu_gets_worker_processes_and_pinned_memory():
    kwargs = dict(LOADER_KWARGS, timeout=7)
    assert batches.loader_options(kwargs, CPU) == dict(timeout=7)
    assert batches.loader_options(kwargs, torch.device("cuda")) == kwargs


class Fragile(Numbered):
    """Ends its process, or only the image, when item 5 is read."""

    def __init__(self, end):
        super().__init__(20)
        self.end = end

    def _load_raw_image(self, raw_idx):
        if raw_idx == 5:
            self.end()
        return super()._load_raw_image(raw_idx)


def raise_error():
    raise FileNotFoundError(2, "No such file or directory", "photos/5.png")


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("end", "num_workers", "text"), [
    (raise_error, 0, r"\[Errno 2\] No such file or directory: 'photos/5.png'"),
    (raise_error, 1, r"FileNotFoundError: \[Errno 2\] No such file or directory: 'photos/5.png'"),
    (kill, 1, r"DataLoader worker \(pid.* (exited unexpectedly|is killed by signal: Killed\. )"),
])
def test_an_image_or_a_worker_that_is_gone_is_one_line(monkeypatch, end, num_workers, text):
    monkeypatch.setattr(batches, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(batches, "loader_options", lambda kwargs, device: dict(num_workers=num_workers))
    data = TrainingData(Fragile(end), 20, CPU)
    with pytest.raises(DataError) as caught:
        for _ in range(5):
            data.next_batch()
    assert re.fullmatch(f"cannot read the training set numbered: {text}", str(caught.value))


def test_a_worker_that_dies_while_something_else_is_computed_is_one_line_too():
    cause = "cannot read the training set: DataLoader worker .*"
    with pytest.raises(OSError, match=cause), one_line_for_dead_workers():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="shapes"), one_line_for_dead_workers():
        raise RuntimeError("shapes cannot be multiplied")
