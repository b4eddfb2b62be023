"""The safetensors file format: named tensors behind a JSON header, and nothing that could be executed.

Layout (https://github.com/huggingface/safetensors): 8 bytes little-endian header length, the header
`{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets": [start, stop]}}`, then the data without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import torch

from torch_utils.pickle_machine import printable

MAX_HEADER_BYTES = 4 << 20  # about 30,000 tensors
MAX_RANK = 8

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def looks_like_safetensors(data: bytes) -> bool:
    """Does the buffer begin with a header length and a JSON object?"""
    return data[8:9] == b"{" and 2 <= int.from_bytes(data[:8], "little") <= max(len(data), MAX_HEADER_BYTES)


def read(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of the file content `data`. Raises `ValueError` unless it is whole and consistent."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES or 8 + length > len(data):
        raise ValueError(f"safetensors header of {length} bytes is truncated or larger than {MAX_HEADER_BYTES}")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"))
    except (RecursionError, ValueError):
        raise ValueError("safetensors header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("safetensors header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(not isinstance(value, str) for value in metadata.values()):
        raise ValueError("safetensors metadata is not a dict of strings")
    payload = memoryview(data)[8 + length :]
    tensors, position = {}, 0
    for name, dtype, shape, start, stop in sorted((_entry(*item) for item in header.items()), key=lambda e: e[3:]):
        if start != position or stop > len(payload):
            raise ValueError(f"safetensors tensor {printable(name)} overlaps, leaves a gap or is truncated")
        tensors[name] = torch.empty(shape, dtype=dtype)
        if stop > start:
            tensors[name].view(-1).view(torch.uint8).numpy()[:] = np.frombuffer(payload[start:stop], dtype=np.uint8)
        position = stop
    if position != len(payload):
        raise ValueError(f"safetensors file has {len(payload) - position} bytes too many")
    return {name: tensors[name] for name in header}, metadata


def _entry(name: str, entry: Any) -> tuple[str, torch.dtype, list[int], int, int]:
    """Name, type, shape, start and stop of one header entry, checked against each other."""
    try:
        dtype, shape, (start, stop) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        consistent = (
            all(type(n) is int and n >= 0 for n in [*shape, start, stop])
            and len(shape) <= MAX_RANK
            and math.prod(shape) * dtype.itemsize == stop - start
        )
    except (KeyError, TypeError, ValueError):
        consistent = False
    if not consistent:
        raise ValueError(f"safetensors tensor {printable(name)} has an unknown type or a size unlike its shape")
    return name, dtype, shape, start, stop


def write(file: IO[bytes], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write `tensors` to the binary `file`, in their order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    position = 0
    for name, value in tensors.items():
        stop = position + value.numel() * value.element_size()
        header[name] = dict(dtype=_DTYPE_NAMES[value.dtype], shape=list(value.shape), data_offsets=[position, stop])
        position = stop
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8 bytes, so that readers may map it
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for value in tensors.values():
        file.write(_raw(value))


def _raw(value: torch.Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
