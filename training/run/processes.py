"""The processes of a run: how they are started and connected, and what they agree on.

Either a launcher such as torchrun has started them, see `training.run.place`, or `start` starts them here. GPUs talk
through NCCL, CPUs through gloo, which also carries what processes with GPUs have to agree on.
"""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import torch

from dnnlib.util import UserError
from torch_utils import devices, training_stats
from torch_utils.allocator import keep_freed_memory
from training.cli import is_bug
from training.run import rendezvous
from training.run.place import Place, launched_place
from training.run.stopping import SIGNALS

GRACE = 30                             # seconds that processes have to finish writing when another one has ended

Job = Callable[[Place, Any], None]  # (place, argument); a function at the top of its module


def choose_device(place: Place, on_cpu: bool) -> torch.device:
    """The GPU of a process, or the CPU. Raises ValueError if this machine has fewer GPUs than processes."""
    device, count = devices.choose_device(on_cpu=on_cpu), torch.cuda.device_count()
    if device.type == "cuda" and place.local_size > count:
        raise UserError(f"--gpus must be at most {count}, the number of GPUs of this machine, got {place.local_size}")
    return devices.choose_device(device, index=place.local_rank)


@contextlib.contextmanager
def connected(place: Place, device: torch.device, meeting_file: str | None = None) -> Iterator[bool]:
    """Connect the processes for the rest of their lives, which end with `leave` after the block.

    They meet at a new file, or where their launcher says. Gives whether a launcher has started them in the place of
    others. Raises ConnectionError, one line, when one of them is lost.
    """
    if place.num_processes == 1:
        training_stats.init_multiprocessing(rank=0, sync_device=None)
        yield place.restarts > 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with one_line_for_lost_processes():
        if meeting_file is not None:
            store, generation = torch.distributed.FileStore(meeting_file, place.num_processes), 1
        else:
            store, generation = rendezvous.store_of_launcher(place)
        torch.distributed.init_process_group(
            backend, store=store, rank=place.rank, world_size=place.num_processes, timeout=rendezvous.TIMEOUT)
        training_stats.init_multiprocessing(rank=place.rank, sync_device=device)
        yield anywhere(place.restarts > 0 or generation > 1)
        anywhere(False)  # gloo may end a process whose peer leaves before it is done


def leave(exit_code: int = 0) -> NoReturn:
    """End one of several processes at once: gloo's destructors abort one process in forty."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


@contextlib.contextmanager
def one_line_for_lost_processes() -> Iterator[None]:
    """Turn what torch.distributed says about a lost process into a ConnectionError of one line."""
    try:
        yield
    except RuntimeError as err:
        if re.search(r"\b(gloo|nccl|connection|socket|peer|\w*store)\b", str(err), re.IGNORECASE) is None:
            raise
        reason = re.sub(r"^\[.*?\] ", "", str(err).strip()).splitlines()[0].split(". ")[0]  # after the place in C++
        raise ConnectionError(f"the connection to another process of the run is lost: {reason}") from err


def is_connected() -> bool:
    """Are there other processes to talk to?"""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def share(value: Any) -> Any:
    """The value of the first process, in every process."""
    if not is_connected():
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def anywhere(flag: bool) -> bool:
    """Is the flag true in any of the processes? Goes past the GPU and does not wait for it."""
    if not is_connected():
        return flag
    total = torch.tensor(int(flag))
    torch.distributed.all_reduce(total)
    return bool(total)


def compute_first(place: Place, compute: Callable[[], Any]) -> Any:
    """What `compute()` returns in the first process, in every process. An error ends the others without a word."""
    result, error = None, None
    if place.rank == 0:
        try:
            result = compute()
        except Exception as err:
            error = err
    result, failed = share((result, error is not None))
    if error is not None:
        raise error
    if failed:
        sys.exit(2)
    return result


def run(job: Job, num_processes: int, argument: Any, on_cpu: bool = False) -> None:
    """Call `job(place, argument)` in the processes of a launcher, if one has started this one; otherwise `start` them.

    Raises ValueError if the launcher has started another number than one that was asked for.
    """
    place = launched_place()
    if place is None:
        start(job, num_processes, argument, on_cpu)
        return
    if num_processes not in (1, place.num_processes):
        raise UserError(f"--gpus must be 0 for the CPU or {place.num_processes}, the number of processes that were "
                        f"launched, got {num_processes}")
    with connected(place, choose_device(place, on_cpu)):
        job(place, argument)
    if place.num_processes > 1:
        leave()


def start(job: Job, num_processes: int, argument: Any, on_cpu: bool = False) -> None:
    """Call `job(place, argument)` in as many processes on this machine, connected; here if it is one.

    SIGTERM and SIGINT reach all of them. When one fails, the others get some time to end by themselves; then this
    raises the ValueError or OSError of that one, ChildProcessError if it was killed, RuntimeError with its traceback
    for anything else.
    """
    if num_processes == 1:
        with connected(Place(), choose_device(Place(), on_cpu)):
            job(Place(), argument)
        return
    choose_device(Place(local_size=num_processes), on_cpu)  # before anything is started
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.start_processes(
            _work, args=(job, num_processes, folder, argument, on_cpu), nprocs=num_processes, join=False,
            start_method="spawn")
        with _signals_forwarded_to(context.pids()):
            try:
                _wait_for_all(context.processes)
            finally:
                failed = _end(context.processes)
        if failed:
            _raise_first(folder, failed)


def _work(rank: int, job: Job, num_processes: int, folder: str, argument: Any, on_cpu: bool) -> None:
    """One of the processes that `start` starts; the reason of a failure goes to a file."""
    keep_freed_memory()
    place = Place(rank, num_processes, rank, num_processes)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max((os.cpu_count() or 1) // num_processes, 1))
    try:
        with connected(place, choose_device(place, on_cpu), os.path.join(folder, "meeting")):
            job(place, argument)
    except (Exception, KeyboardInterrupt) as err:
        with open(os.path.join(folder, f"failure-{rank}"), "wb") as file:
            pickle.dump(_portable(err), file)
        leave(2)
    leave()


def _portable(err: BaseException) -> BaseException:
    """The exception as it can be raised in another process, where a bug needs its traceback as text."""
    is_expected = isinstance(err, (OSError, KeyboardInterrupt)) or (isinstance(err, ValueError) and not is_bug(err))
    if not is_expected:
        return RuntimeError(traceback.format_exc())
    try:
        return pickle.loads(pickle.dumps(err))
    except Exception:  # one with a constructor of its own
        return ValueError(str(err))


def _wait_for_all(processes: list[Any]) -> None:
    """Return when all have ended well, or when one has failed."""
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in multiprocessing.connection.wait(list(running)):
            process = running.pop(sentinel)
            process.join()
            if process.exitcode != 0:
                return


def _end(processes: list[Any]) -> dict[int, int]:
    """End what is still running: it may finish a file, but cannot go on without the others.

    Returns rank -> exit code of those that failed by themselves, which most do soon after another one is gone.
    """
    soon = time.monotonic() + 2
    for process in processes:
        process.join(timeout=max(soon - time.monotonic(), 0))
    failed = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        process.join(timeout=max(deadline - time.monotonic(), 0))
        process.kill()
        process.join()
    return failed


def _raise_first(folder: str, failed: Mapping[int, int]) -> None:
    """Raise for the failure that made the others fail, which merely lost a connection."""
    errors: list[BaseException] = []
    for rank, exit_code in failed.items():
        path = os.path.join(folder, f"failure-{rank}")
        if os.path.exists(path):
            with open(path, "rb") as file:
                errors.append(pickle.load(file))
        else:
            how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
            errors.append(ChildProcessError(f"process {rank} of the run ended with {how}"))
    kinds = (ConnectionError, ChildProcessError)
    raise min(errors, key=lambda err: kinds[::-1].index(type(err)) + 1 if type(err) in kinds else 0)


@contextlib.contextmanager
def _signals_forwarded_to(pids: list[int]) -> Iterator[None]:
    """Pass a request to stop on to the processes. A second SIGINT interrupts this one."""
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return

    def forward(number: int, _frame: Any) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, former[signal.SIGINT])
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)  # not SIGINT, which those at a terminal have got already

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former = {number: signal.signal(number, forward) for number in handled}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
