"""Endless batches of real images and labels for one training process.

Shapes: N images of a batch on this process, C channels, H x W pixels.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from torch_utils import misc
from training.dataset import Dataset

MEMORY_LIMIT = 2**30  # bytes of pixels and labels up to which a data set is decoded once and kept


class DataError(OSError):
    """The next batch could not be read. Nothing of the training has changed since the step before."""


@contextlib.contextmanager
def one_line_for_dead_workers() -> Iterator[None]:
    """Turn torch's report of a dead worker process, which may interrupt any computation, into an OSError."""
    try:
        yield
    except RuntimeError as err:
        if not str(err).startswith("DataLoader worker"):
            raise
        raise OSError(f"cannot read the training set: {err}") from err


class TrainingData:
    """Draws from a data set in the order of `misc.InfiniteSampler`, and moves what it drew to the device.

    A data set of up to `MEMORY_LIMIT` bytes is decoded before training begins. That finds damaged files while nothing
    is lost, and serves a batch in microseconds. A larger one is decoded as it is drawn: by worker processes where a
    GPU would wait for the pixels, in this process on the CPU, where a step takes a thousand times longer than its
    images and workers would only take cores away from it. The order does not depend on any of this.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,                # images per batch on this process
        device: torch.device,
        rank: int = 0,
        num_gpus: int = 1,
        random_seed: int = 0,           # of the order
        data_loader_kwargs: Mapping[str, Any] | None = None,  # num_workers, prefetch_factor, pin_memory, ...
        start: int = 0,                 # images of the order to pass over: those that all processes have drawn before
    ):
        self.dataset = dataset
        self.device = device
        sampler = misc.InfiniteSampler(dataset, rank=rank, num_replicas=num_gpus, seed=random_seed)
        order = itertools.islice(sampler, start // num_gpus, None)
        if fits_in_memory(dataset):
            self._batches = memory_batches(*decode_all(dataset), order, batch_size)
        else:
            kwargs = loader_options(data_loader_kwargs or {}, device)
            self._batches = iter(torch.utils.data.DataLoader(dataset, sampler=order, batch_size=batch_size, **kwargs))

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 [N, C, H, W] in -1..1 and labels float32 [N, label_dim], on the device.

        Raises DataError, one line, where an image cannot be read any more or a worker process has died.
        """
        try:
            images, labels = next(self._batches)
        except (OSError, ValueError, RuntimeError) as err:
            cause = str(err).strip().splitlines() or [type(err).__name__]  # a worker's traceback ends with the error
            raise DataError(f"cannot read the training set {self.dataset.name}: {cause[-1]}") from err
        return self._to_device(images).to(torch.float32).div_(127.5).sub_(1), self._to_device(labels)

    def random_labels(self, num: int) -> torch.Tensor:
        """Labels [num, label_dim] of items drawn uniformly with numpy's global generator, on the device."""
        if not self.dataset.has_labels:
            return torch.zeros([num, 0], device=self.device)
        labels = np.stack([self.dataset.get_label(i) for i in np.random.randint(len(self.dataset), size=num)])
        return self._to_device(torch.from_numpy(labels))

    def _to_device(self, x: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":
            x = x if x.is_pinned() else x.pin_memory()  # only pinned memory is copied while the GPU computes
        return x.to(self.device, non_blocking=True)


def fits_in_memory(dataset: Dataset) -> bool:
    """Whether every item can be kept. A class with its own `__getitem__` may draw a new version each time: never."""
    item_bytes = int(np.prod(dataset.image_shape)) + 4 * dataset.label_dim
    return type(dataset).__getitem__ is Dataset.__getitem__ and len(dataset) * item_bytes <= MEMORY_LIMIT


def decode_all(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """All images uint8 [len, C, H, W] and labels float32 [len, label_dim]."""
    images = np.empty([len(dataset), *dataset.image_shape], dtype=np.uint8)
    labels = np.empty([len(dataset), dataset.label_dim], dtype=np.float32)
    for i in range(len(dataset)):
        images[i], labels[i] = dataset[i]
    return torch.from_numpy(images), torch.from_numpy(labels)


def memory_batches(
    images: torch.Tensor, labels: torch.Tensor, order: Iterator[int], batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The items that `order` names, `batch_size` at a time."""
    while True:
        chosen = torch.tensor([int(i) for i in itertools.islice(order, batch_size)])
        yield images[chosen], labels[chosen]


def loader_options(data_loader_kwargs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Options of the data loader without those that the device has no use for."""
    if device.type == "cuda":
        return dict(data_loader_kwargs)
    return {key: value for key, value in data_loader_kwargs.items()
            if key not in ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers")}
