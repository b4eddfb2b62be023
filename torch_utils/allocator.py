"""Make the C library keep freed memory.

By default glibc returns every large block to the system at once and fetches fresh, zeroed pages for the next one. For
activations of tens of megabytes those page faults cost several times the arithmetic of an element-wise operation.
"""

from __future__ import annotations

import ctypes

# Parameter numbers of mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let the process reuse its own memory; returns False where the C library has no such setting.

    Affects the whole process, so only entry scripts call it. Freed memory goes back to the system only when the
    process ends, and fragmentation can make a process that does many different things grow.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
