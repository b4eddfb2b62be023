"""Files that appear whole or not at all.

This project's host has both functions as well; they stand here because other hosts do not.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import Image, PngImagePlugin

from ssn_plugin.errors import UserError


@contextlib.contextmanager
def open_atomic(path: str | os.PathLike, mode: str = "wb", **open_kwargs: Any) -> Iterator[IO]:
    """Open a temporary file beside `path` that takes its place when the block ends without an error.

    A failure inside the block, a full disk or a kill leaves the previous file (or none) as it was.
    mode: "wb" or "w".  Raises OSError, which names `path`, when the file cannot be written.
    """
    final = os.path.realpath(path)  # write through a symbolic link instead of replacing it
    temporary = os.path.join(os.path.dirname(final), f".tmp-{secrets.token_hex(8)}")
    try:
        # "x" refuses an existing file; unlike tempfile it gives the permissions of an ordinary new file.
        with open(temporary, mode.replace("w", "x"), **open_kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except BaseException as err:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(err, OSError) and err.filename in (None, temporary):
            err.filename, err.filename2 = os.fspath(path), None
        raise


def create_file(path: str | os.PathLike, text: str) -> bool:
    """Write a file that is not there yet, whole or not at all. False if there is one, also by another process."""
    temporary = os.path.join(os.path.dirname(path), f".tmp-{secrets.token_hex(8)}")
    try:
        with open(temporary, "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        try:
            os.link(temporary, path)   # unlike a rename, it never replaces anything
        except FileExistsError:
            return False
        except OSError:                # a file system without links
            with open(path, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
        return True
    except FileExistsError:
        return False
    except OSError as err:
        err.filename, err.filename2 = os.fspath(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def save_png(image: Image.Image | np.ndarray, path: str | os.PathLike, text: dict[str, str] | None = None) -> None:
    """Write a Pillow image, or a uint8 array [H, W, C] of 1 (gray), 3 (RGB) or 4 (RGBA) channels, as PNG.

    text: ASCII that the file carries, by keyword.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.dtype != np.uint8:
            raise UserError(f"a PNG needs uint8 [H, W, 1, 3 or 4], got {image.dtype} {list(image.shape)}")
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    with open_atomic(path) as file:
        image.save(file, format="PNG", pnginfo=chunks)
