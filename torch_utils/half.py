"""bfloat16 on processors: may networks use it, and does this processor have the instructions?

Blocks of a network that ask for half precision get float16 on a GPU. On a processor they compute in float32, unless
`use_bf16` has allowed bfloat16, which pays where AMX or AVX512-BF16 multiply such numbers.
"""

from __future__ import annotations

import functools
import os

import torch

FORCE = "DNNLIB_FORCE_BF16"  # 1 in the environment: bfloat16 on any processor, to try it out; it is slow there

on_processors = False        # do blocks that ask for half precision get bfloat16 on a processor?


def use_bf16(wanted: bool, device: torch.device) -> str | None:
    """Choose the format of such blocks on processors, for the whole process; GPUs use float16 in any case.

    Returns one sentence for the user where bfloat16 is wanted and cannot be had, otherwise None.
    """
    global on_processors
    on_processors = wanted and device.type == "cpu" and has_bf16()
    if not wanted or on_processors:
        return None
    if device.type != "cpu":
        return "bfloat16 is for processors; on a GPU the same layers use float16."
    return "This processor has neither AMX nor AVX512-BF16, so everything is computed in float32."


def has_bf16() -> bool:
    """Does this processor multiply bfloat16 fast, or does the environment force its use?"""
    return bool(bf16_instructions()) or os.environ.get(FORCE) == "1"


def bf16_instructions() -> list[str]:
    """Those instruction sets of this processor that multiply bfloat16, by the names their makers use."""
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
    return [name for flag, name in names.items() if flag in cpu_flags()]


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Features of the processor by their names in Linux; empty where the system does not list them."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return frozenset(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()
