"""Work in one process or, for several GPUs, in one process each, in a host that has no `training.run.processes`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch

from ssn_plugin.errors import UserError

Job = Callable[[int, dict[str, Any]], None]  # (rank, arguments)


def check_number(num_processes: int) -> None:
    """Raise ValueError if there are GPUs, but fewer than processes."""
    if torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise UserError(f"--gpus must be at most {torch.cuda.device_count()}, the number of GPUs, got {num_processes}")


def run_processes(job: Job, num_processes: int, arguments: dict[str, Any]) -> None:
    """Call `job(rank, arguments)` in as many processes, connected by torch.distributed; here if it is one.

    job: a function at the top of its module. A fresh process knows nothing of the plugin: the job registers first what
    it needs. Raises ValueError with the last line of an error in another process.
    """
    if num_processes == 1:
        _run(0, job, 1, None, arguments)
        return
    check_number(num_processes)
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = os.path.join(folder, "rendezvous")
        try:
            torch.multiprocessing.spawn(_run, args=(job, num_processes, rendezvous, arguments), nprocs=num_processes)
        except torch.multiprocessing.ProcessRaisedException as err:
            raise UserError(str(err).strip().splitlines()[-1]) from err


def device_of(rank: int) -> torch.device:
    return torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")


def _run(rank: int, job: Job, num_processes: int, rendezvous: str | None, arguments: dict[str, Any]) -> None:
    from torch_utils import training_stats

    if rendezvous is None:
        training_stats.init_multiprocessing(rank=0, sync_device=None)
        job(0, arguments)
        return
    device = device_of(rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" and os.name != "nt" else "gloo"
    init_method = "file:///" + rendezvous.replace("\\", "/").lstrip("/")
    torch.distributed.init_process_group(backend, init_method=init_method, rank=rank, world_size=num_processes)
    try:
        training_stats.init_multiprocessing(rank=rank, sync_device=device)
        job(rank, arguments)
        torch.distributed.barrier()  # with torch 2.1, a process that leaves later than another may wait for ever
    finally:
        torch.distributed.destroy_process_group()
