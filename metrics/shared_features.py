"""Features that several metrics of one call need are computed once: `rfid5k_full` and `rkid5k_full` see the same."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

MAX_BYTES = 2 << 30   # kept in memory; 250,000 images with 2,048 features

_kept: dict[Hashable, list[np.ndarray]] | None = None   # None: outside of `sharing`


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Inside, features stay in memory for further metrics. Networks, data sets and detectors must not change."""
    global _kept
    before, _kept = _kept, {}
    try:
        yield
    finally:
        _kept = before


def feature_batches(key: Hashable, computed: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Batches of features `[N, F]`: those kept under the key, the same arrays in the same order, or else `computed`.

    key: all that the features depend on.
    """
    if _kept is None:
        yield from computed
        return
    if key in _kept:
        yield from _kept[key]
        return
    batches: list[np.ndarray] = []
    room = MAX_BYTES - sum(batch.nbytes for kept in _kept.values() for batch in kept)
    for batch in computed:
        room -= batch.nbytes
        if room >= 0:
            batches.append(batch)
        yield batch
    if room >= 0:
        _kept[key] = batches
