"""Where a process stands among those of its run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from dnnlib.util import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """The only process of a run, unless said otherwise."""

    rank: int = 0
    num_processes: int = 1
    local_rank: int = 0   # among those of this machine
    local_size: int = 1   # number of those
    restarts: int = 0     # how often the launcher has started them again after one was lost

    def __post_init__(self) -> None:
        for name, value, limit in [("RANK", self.rank, self.num_processes),
                                   ("LOCAL_RANK", self.local_rank, self.local_size)]:
            if not 0 <= value < limit:
                raise UserError(f"{name} in the environment must be from 0 to {limit - 1}, got {value}")


def launched_place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """Where a launcher such as torchrun has put this process; None if none has started it."""
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    names = dict(rank="RANK", num_processes="WORLD_SIZE", local_rank="LOCAL_RANK", local_size="LOCAL_WORLD_SIZE",
                 restarts="TORCHELASTIC_RESTART_COUNT")
    try:
        given = {field: int(environ[name]) for field, name in names.items() if name in environ}
    except ValueError as err:
        raise UserError(f"{', '.join(names.values())} in the environment must be whole numbers: {err}") from err
    given.setdefault("local_size", given.get("local_rank", 0) + 1)
    return Place(**given)
