"""Writing beside training, and keeping a run folder small: which snapshots stay."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import dnnlib
from training.run import run_state

STATES_KEPT = 2  # the newest, and one to fall back on should that be damaged

# Of these metrics a high value is good, of all others a low one.
HIGHER_IS_BETTER = re.compile(r"(is|pr)\d.*")


class BackgroundWriter:
    """Runs jobs one after the other in a thread while training goes on.

    An error of a job is raised by the next call of `check` or `wait`, or at the end of the `with` block.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._jobs: list[Future[None]] = []

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        # What is being written gets finished. The first error is the one to tell.
        with contextlib.suppress(Exception) if exc_type is not None else contextlib.nullcontext():
            self.wait()
        self._executor.shutdown()

    def submit(self, job: Callable[[], None]) -> None:
        """Run a job after those before it."""
        self._jobs.append(self._executor.submit(job))

    def check(self) -> None:
        """Raise the error of a job that has failed; does not wait for others."""
        while self._jobs and self._jobs[0].done():
            self._jobs.pop(0).result()

    def wait(self) -> None:
        """Wait until all jobs are done."""
        while self._jobs:
            self._jobs.pop(0).result()


class BestSnapshot:
    """Remembers which network snapshot has the best value of a metric, in `best-<metric>.json` for everybody to see.

    Of a metric with several results the change outside the redrawn block counts, or the first: of precision and recall,
    precision.
    """

    def __init__(self, metric: str, run_dir: str, saved: Mapping[str, Any] | None = None):
        self.record: dict[str, Any] | None = dict(saved) if saved is not None else None
        self.metric = metric
        self._path = os.path.join(run_dir, f"best-{metric}.json")

    def update(self, snapshot: str, results: Mapping[str, float]) -> None:
        """A snapshot, by its file name, has been measured."""
        value = results.get(f"{self.metric}_outside", next(iter(results.values())))
        sign = -1 if HIGHER_IS_BETTER.fullmatch(self.metric) else 1
        if value != value or (self.record is not None and sign * value >= sign * self.record["value"]):
            return
        self.record = dict(metric=self.metric, value=value, snapshot=snapshot)
        with dnnlib.util.naming(self._path), dnnlib.util.open_atomic(self._path, "w", encoding="utf-8") as file:
            json.dump(self.record, file)


def prune(run_dir: str, keep: int | None, best: str | None) -> None:
    """Remove all but the newest states, and all but the newest `keep` network snapshots and the best.

    keep: None for all.  best: file name, None if there is none.
    """
    for path in run_state.state_paths(run_dir)[STATES_KEPT:]:
        os.remove(path)
    if keep is None:
        return
    names = [name for name in os.listdir(run_dir) if re.fullmatch(r"network-snapshot-\d{6,}\.pkl", name)]
    for name in sorted(names, key=run_state.number_of)[:-keep]:
        if name != best:
            os.remove(os.path.join(run_dir, name))
