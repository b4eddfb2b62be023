"""Fingerprints of what a result depends on: files, data sets and networks, by content and never by name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import torch

import dnnlib
from training.data.image_files import ImageArchive

CHUNK = 1 << 20   # bytes


def hash_state(network: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of all parameters and buffers, as result lines state it.

    Recipes have another one (`hash_network` of `ssn_plugin/edits/recipe.py`), which covers the block grid as well. Both
    stand in files that exist, so neither can take the other's value.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def hash_dataset(path: str) -> str:
    """SHA-256 over name, length and CRC-32 of every image and of the labels.

    A folder and a zip of the same files have the same hash. A zip keeps the checksums in its directory (and Python
    verifies them whenever an image is read), so it is not read through. A folder is, unless the inode, length and times
    of all its files are those of an earlier call: its hash is then taken from the cache.
    """
    archive = ImageArchive(path)
    names = [*archive.image_names, *filter(None, [archive.label_file])]
    if not os.path.isdir(path):
        checksums = archive.checksums()
        archive.close()
        return _hash_entries([(name, *checksums[name]) for name in names])

    identity = _hash_entries([(name, *_file_identity(os.path.join(path, name))) for name in names])
    memo_path = dnnlib.make_cache_dir_path("gan-metrics", f"folder-{identity}.json")
    unreadable = (OSError, ValueError, KeyError, TypeError, RecursionError)
    with contextlib.suppress(*unreadable), open(memo_path, encoding="utf-8") as file:
        return str(json.load(file)["content"])
    content = _hash_entries([(name, *_length_and_crc(os.path.join(path, name))) for name in names])
    with contextlib.suppress(OSError):   # it only saves reading the folder again
        os.makedirs(os.path.dirname(memo_path), exist_ok=True)
        with dnnlib.util.open_atomic(memo_path, "w", encoding="utf-8") as file:
            json.dump(dict(folder=os.path.abspath(path), content=content), file)
    return content


def _hash_entries(entries: list[tuple[Any, ...]]) -> str:
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


def _file_identity(path: str) -> tuple[int, ...]:
    """Changes with every write: the inode's change time cannot be set back by a program."""
    info = os.stat(path)
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _length_and_crc(path: str) -> tuple[int, int]:
    length = crc = 0
    for chunk in _chunks(path):
        length += len(chunk)
        crc = zlib.crc32(chunk, crc)
    return length, crc


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
