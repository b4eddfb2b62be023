"""Statistics of values reported anywhere in the program, summed over time and over processes.

`report` only adds to counters on the device of the value: it neither waits for the GPU nor talks to other processes.
That happens in `Collector.update`, with one all-reduce for all names.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Mapping
from typing import Any

import torch

import dnnlib

_NUM_MOMENTS = 3  # count, sum, sum of squares
_COUNTER_DTYPE = torch.float64

_rank = 0
_sync_device: torch.device | None = None  # where the all-reduce takes place; None: a single process
_has_synced = False
# name -> device -> moments reported since the last synchronisation. The order of the names is that of registration.
_counters: dict[str, dict[torch.device, torch.Tensor]] = {}
_collectors: weakref.WeakSet[Collector] = weakref.WeakSet()


def init_multiprocessing(rank: int, sync_device: torch.device | str | None) -> None:
    """Tell this process its rank and the device for talking to the others (None for a single process).

    Must come before the first `Collector`; repeating the same call is harmless.
    """
    global _rank, _sync_device
    device = torch.device(sync_device) if sync_device is not None else None
    if _has_synced and (rank, device) != (_rank, _sync_device):
        raise RuntimeError("init_multiprocessing must be called before the first collector is made or updated")
    _rank, _sync_device = rank, device


@torch.no_grad()
def report(name: str, value: Any) -> Any:
    """Add all elements of a number, list, array or tensor to the statistic `name`; returns `value` unchanged.

    An empty value only registers the name. All processes must register the same names in the same order.
    """
    counters = _counters.setdefault(name, {})
    elems = torch.as_tensor(value).detach().flatten()
    if elems.numel() > 0:
        elems = elems.to(torch.float32)
        count = torch.full([], elems.numel(), dtype=_COUNTER_DTYPE, device=elems.device)
        sums = torch.stack([elems.sum(), elems.square().sum()]).to(_COUNTER_DTYPE)
        moments = torch.cat([count[None], sums])  # [3]
        if elems.device in counters:
            counters[elems.device].add_(moments)
        else:
            counters[elems.device] = moments
    return value


def report0(name: str, value: Any) -> Any:
    """Like `report`, but only the value of rank 0 counts; the other processes register the name."""
    report(name, value if _rank == 0 else [])
    return value


class Collector:
    """Gives access to what was reported between its last two updates, independently of other collectors.

    regex: names to collect; must match entirely.
    keep_previous: names without new data keep their values from earlier updates.
    What was reported before the construction is not seen.
    """

    def __init__(self, regex: str = ".*", keep_previous: bool = True):
        self._regex = re.compile(regex)
        self._keep_previous = keep_previous
        self._pending: dict[str, torch.Tensor] = {}  # since the last update of this collector, by whoever synchronised
        self._moments: dict[str, torch.Tensor] = {}
        synchronise()
        _collectors.add(self)

    def update(self) -> None:
        """Take over everything reported since the last update. In a group of processes all must call it."""
        synchronise()
        if not self._keep_previous:
            self._moments.clear()
        self._moments.update(self._pending)
        self._pending.clear()

    def names(self) -> list[str]:
        """Names registered so far that this collector looks at, in the order of registration."""
        return [name for name in _counters if self._regex.fullmatch(name)]

    def num(self, name: str) -> int:
        """Number of values."""
        return int(self._get(name)[0])

    def mean(self, name: str) -> float:
        """Mean of the values; NaN if there are none."""
        num, total, _ = self._get(name)
        return total / num if num > 0 else math.nan

    def std(self, name: str) -> float:
        """Population standard deviation: 0 for a single value, NaN for none or if a value is not finite."""
        num, total, total_squares = self._get(name)
        if num == 0 or not math.isfinite(total):
            return math.nan
        if num == 1:
            return 0.0
        mean = total / num
        return math.sqrt(max(total_squares / num - mean * mean, 0.0))

    def as_dict(self) -> dnnlib.EasyDict:
        """`name -> EasyDict(num, mean, std)` for all names."""
        return dnnlib.EasyDict(
            (name, dnnlib.EasyDict(num=self.num(name), mean=self.mean(name), std=self.std(name)))
            for name in self.names()
        )

    def __getitem__(self, name: str) -> float:
        return self.mean(name)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on in another process. All processes call `synchronise` before."""
        kept = {"pending": self._pending, "moments": self._moments}
        copies = {key: {name: value.clone() for name, value in kept[key].items()} for key in kept}
        return dict(names=list(_counters), **copies)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another collector had collected; the names that it knew are registered in their order."""
        for name in state["names"]:
            _counters.setdefault(name, {})
        self._pending, self._moments = dict(state["pending"]), dict(state["moments"])

    def _get(self, name: str) -> list[float]:
        return self._moments[name].tolist() if name in self._moments else [0.0] * _NUM_MOMENTS

    def _add(self, name: str, moments: torch.Tensor) -> None:
        if self._regex.fullmatch(name) and moments[0] > 0:
            self._pending[name] = self._pending[name] + moments if name in self._pending else moments


def synchronise() -> None:
    """Empty the counters of all devices and processes into the collectors. In a group of processes all must call it."""
    global _has_synced
    _has_synced = True
    if not _counters:
        return
    device = _sync_device if _sync_device is not None else torch.device("cpu")
    zero = torch.zeros([_NUM_MOMENTS], dtype=_COUNTER_DTYPE)
    deltas = torch.zeros([len(_counters), _NUM_MOMENTS], dtype=_COUNTER_DTYPE, device=device)
    for source in {source for counters in _counters.values() for source in counters}:
        # One transfer per device, not one per name.
        zero_here = zero.to(source)
        deltas += torch.stack([counters.get(source, zero_here) for counters in _counters.values()]).to(device)
    for counters in _counters.values():
        for counter in counters.values():
            counter.zero_()  # in place: a CUDA graph goes on adding to this memory
    if _sync_device is not None:
        torch.distributed.all_reduce(deltas)
    for name, moments in zip(_counters, deltas.cpu()):
        for collector in _collectors:
            collector._add(name, moments)
