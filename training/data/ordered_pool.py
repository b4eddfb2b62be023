"""Map a function over 0, 1, ..., n-1 in several processes, with the results in order."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
CHUNK = 8              # items that a worker does at once; passing a chunk on costs about a fifth of a millisecond
CHUNKS_PER_WORKER = 2  # in work or waiting for their turn; bounds the memory that results take


class WorkerDied(OSError):
    """A worker process ended without saying why."""


def ordered_map(
    function: Callable[[int], T],
    num_items: int,
    workers: int = 0,   # new processes, which get `function` pickled once; with 0 this process does the work
) -> Generator[T, None, None]:
    """Results of `function` for 0 ... `num_items`-1, in order, whichever process computes them.

    Close the iterator (`contextlib.closing`) to stop the workers early. They also end when this process dies.
    Exceptions of `function` are raised here; `WorkerDied` if a worker ends in another way.
    """
    if workers == 0:
        yield from map(function, range(num_items))
        return
    # Forking would copy the threads of numerical libraries half-way; fresh processes are safe everywhere.
    context = multiprocessing.get_context("spawn")
    with interrupts_blocked():   # also for the process that keeps track of semaphores
        pool = ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(function,))
    chunks = (range(start, min(start + CHUNK, num_items)) for start in range(0, num_items, CHUNK))
    try:
        with interrupts_blocked():
            pending = deque(pool.submit(work, chunk) for chunk in islice(chunks, CHUNKS_PER_WORKER * workers))
        while pending:
            yield from pending.popleft().result()
            pending.extend(pool.submit(work, chunk) for chunk in islice(chunks, 1))
    except BrokenProcessPool as err:
        raise WorkerDied("a worker process died: memory ran out (fewer workers need less), or a damaged file crashed "
                         "its reader") from err
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Context in which SIGINT and SIGHUP wait. Processes that are started in it never see these signals.

    Ctrl-C, and a terminal that closes, reach all processes of a terminal. The parent handles that; the workers would
    only print tracebacks, or be missed.
    """
    if not hasattr(signal, "pthread_sigmask"):   # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def available_processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_function: Callable[[int], Any] | None = None   # what this worker process computes


def start_worker(function: Callable[[int], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, which would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def work(items: range) -> list[Any]:
    assert _function is not None
    return [_function(item) for item in items]
