"""How the processes of a launcher such as torchrun find each other, also those it starts in the place of lost ones."""

from __future__ import annotations

import datetime
import time
import uuid

import torch

from training.run.place import Place

TIMEOUT = datetime.timedelta(hours=1)  # for the others: one process may hash a data set or compute a metric alone
NOBODY = "nobody"                      # stands in a store where no process has written yet


def store_of_launcher(place: Place) -> tuple[torch.distributed.Store, int]:
    """The launcher's store without what earlier processes have left there, and `count_generations`."""
    store, _, _ = next(torch.distributed.rendezvous("env://", place.rank, place.num_processes, timeout=TIMEOUT))
    store.set_timeout(TIMEOUT)
    generation = count_generations(store, place)
    return torch.distributed.PrefixStore(f"generation{generation}", store), generation


def count_generations(store: torch.distributed.Store, place: Place) -> int:
    """How many times the processes of a run have met at this store: the same number in all that call this at a time.

    torchrun keeps its store when it starts processes anew, so each may find what its peers' predecessors wrote there,
    such as addresses where nobody listens. Its count of restarts does not help: of several machines, only the one that
    lost a process counts. So the first process greets every process that has left its name, until all processes of
    this generation have answered.
    """
    if place.rank > 0:
        name = uuid.uuid4().hex
        store.set(f"caller/{place.rank}", name)
        generation = int(store.get(f"greeting/{name}"))
        store.set(f"answer/{generation}/{place.rank}", "here")
        return generation
    generation = store.add("generations", 1)
    missing = set(range(1, place.num_processes))
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while missing:
        for rank in missing:
            store.set(f"greeting/{peek(store, f'caller/{rank}')}", str(generation))
        missing = {rank for rank in missing if peek(store, f"answer/{generation}/{rank}") == NOBODY}
        if time.monotonic() > deadline:
            raise ConnectionError(f"process {min(missing)} of the run has not come within {TIMEOUT}")
        time.sleep(0.02)
    return generation


def peek(store: torch.distributed.Store, key: str) -> str:
    """The value of a key, or NOBODY, without waiting for one; no other method of torch 2.1 reads without waiting."""
    return store.compare_set(key, "", NOBODY).decode()  # sets it where there is none
