"""Data sets that are published as arrays of pixels: CIFAR-10 and those in the format of MNIST.

The files come from the net: sizes are checked before memory is taken, and pickles are read as data only.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zlib

import numpy as np

from dnnlib.util import read_at_most
from training.data.messages import one_line

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_BATCHES = tuple(f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6))
IMAGE_MAGIC, LABEL_MAGIC = b"\0\0\x08\x03", b"\0\0\x08\x01"   # unsigned bytes with three axes, with one
MNIST_SIDE, MNIST_PADDING = 28, 2
MAX_BYTES = 2**30   # unpacked; CIFAR-10 has 186 MB, the largest data set in the format of MNIST 547 MB


def read_cifar10(path: str) -> tuple[np.ndarray, list[int]]:
    """Training images uint8 `[N, 32, 32, 3]` and classes of `cifar-10-python.tar.gz`.

    Raises `OSError` with one line that names file, batch and reason.
    """
    tar = read_gzip(path, MAX_BYTES)
    batches = []
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            members = {member.name: member for member in archive if member.isreg()}
            for name in CIFAR10_BATCHES:
                if name not in members:
                    raise OSError(f"{path} has no {name}; of .tar.gz files only cifar-10-python.tar.gz is a source")
                start = members[name].offset_data
                batches.append(parse_cifar10_batch(tar[start : start + members[name].size], f"{path}: {name}"))
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as err:   # tarfile recurses over headers
        raise OSError(f"{path} is not a readable tar archive: {one_line(err)}") from err
    return np.concatenate([images for images, _ in batches]), [label for _, labels in batches for label in labels]


def parse_cifar10_batch(data: bytes, what: str) -> tuple[np.ndarray, list[int]]:
    """Images uint8 `[N, 32, 32, 3]` and classes of a pickle `{"data": uint8 [N, 3*32*32], "labels": list, ...}`."""
    from torch_utils.safe_unpickler import RefusedPickle, load_pickle  # imports torch

    try:
        batch = load_pickle(data)
    except RefusedPickle as err:
        raise OSError(f"{what} is not a batch of CIFAR-10: it asks for {', '.join(err.names)[:200]}") from err
    except ValueError as err:
        raise OSError(f"{what} is not a batch of CIFAR-10: {one_line(err)}") from err
    pixels, labels = (batch.get("data"), batch.get("labels")) if isinstance(batch, dict) else (None, None)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
        raise OSError(f"{what} is not a batch of CIFAR-10: its data must be rows of {3 * 32 * 32} bytes")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise OSError(f"{what} is not a batch of CIFAR-10: it must have a label for each of its {len(pixels)} images")
    wrong = [label for label in labels if type(label) is not int or not 0 <= label < len(CIFAR10_CLASSES)]
    if wrong:
        raise OSError(f"{what}: labels must be integers in 0..{len(CIFAR10_CLASSES) - 1}, got {wrong[0]!r:.40}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def read_mnist(path: str) -> tuple[np.ndarray, list[int]]:
    """Images uint8 `[N, 32, 32]`, padded with zeros, of `*-images-idx3-ubyte.gz`; classes of the label file beside it.

    Raises `OSError` with one line that names the file and the reason.
    """
    labels_path = mnist_label_path(path)
    if not os.path.isfile(labels_path):
        raise FileNotFoundError(f"no such file: {labels_path}, the labels of {path}")
    images, labels = read_idx(path, IMAGE_MAGIC), read_idx(labels_path, LABEL_MAGIC)
    if images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        raise OSError(f"{path}: images must be {MNIST_SIDE}x{MNIST_SIDE}, they are {images.shape[2]}x{images.shape[1]}")
    if len(labels) != len(images):
        raise OSError(f"{labels_path} has {len(labels)} labels, {path} has {len(images)} images")
    border = (MNIST_PADDING, MNIST_PADDING)
    return np.pad(images, [(0, 0), border, border]), labels.tolist()


def mnist_label_path(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, re.sub(r"-images-idx3-", "-labels-idx1-", name, flags=re.IGNORECASE))


def read_idx(path: str, magic: bytes) -> np.ndarray:
    """Array of unsigned bytes in a gzipped IDX file: magic number with the number of axes, their lengths, the bytes."""
    num_axes = magic[3]
    header = 4 + 4 * num_axes
    data = read_gzip(path, MAX_BYTES)
    if data[:4] != magic or len(data) < header:
        raise OSError(f"{path} must begin with the bytes {magic.hex()}, the mark of its format, got {data[:4].hex()}")
    shape = [int(size) for size in np.frombuffer(data, dtype=">u4", count=num_axes, offset=4)]
    if len(data) != header + int(np.prod(shape, dtype=object)):
        raise OSError(f"{path} must hold {'x'.join(map(str, shape))} bytes after its header of {header} bytes, "
                      f"it holds {len(data) - header}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def read_gzip(path: str, max_bytes: int) -> bytes:
    """Unpacked content of a gzip file. `OSError` if it is damaged, cut short, or longer than `max_bytes`."""
    try:
        with gzip.open(path) as file:
            data = read_at_most(file, max_bytes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as err:
        raise OSError(f"{path} is not a readable gzip file: {one_line(err)}") from err
    if data is None:
        raise OSError(f"{path} unpacks to more than {max_bytes} bytes")
    return data
