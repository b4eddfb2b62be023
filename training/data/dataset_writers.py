"""Write a data set to a zip or folder that appears only when it is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from typing import Protocol

from dnnlib.util import open_atomic

ZIP_DATE = (1980, 1, 1, 0, 0, 0)   # the earliest that the format knows; equal input must give equal bytes


class Writer(Protocol):
    """Adds a file to the data set under a relative name."""

    def __call__(self, name: str, data: bytes, /) -> None: ...


def open_writer(dest: str) -> contextlib.AbstractContextManager[Writer]:
    """Context that yields the writer; what was written appears at `dest` when the context ends without an error.

    After an error everything is as it was before. Raises `OSError` if `dest` is taken: a zip is replaced, a folder must
    be empty or new.
    """
    if not dest:  # it would name the current folder
        raise OSError("the destination must be a folder or a .zip file, got an empty name")
    is_zip = os.path.splitext(dest)[1].lower() == ".zip"
    if is_zip and os.path.isdir(dest):
        raise OSError(f"destination {dest} must be a file, it is a folder")
    if not is_zip and os.path.exists(dest) and not os.path.isdir(dest):
        raise OSError(f"destination {dest} must be a folder or end in .zip, it is a file")
    if not is_zip and os.path.isdir(dest) and os.listdir(dest):
        raise OSError(f"destination folder {dest} must be empty")
    return zip_writer(dest) if is_zip else folder_writer(dest)


@contextlib.contextmanager
def zip_writer(dest: str) -> Iterator[Writer]:
    with (
        made_folder(os.path.dirname(os.path.realpath(dest))),
        open_atomic(dest) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):

        def write(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(name, date_time=ZIP_DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16   # the same on every system
            archive.writestr(info, data)

        yield write


@contextlib.contextmanager
def folder_writer(dest: str) -> Iterator[Writer]:
    """Writes beside `dest` and moves everything there at the end."""
    final = os.path.realpath(dest)
    partial = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.{uuid.uuid4().hex[:8]}.partial")

    def write(name: str, data: bytes) -> None:
        path = os.path.join(partial, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)

    with made_folder(os.path.dirname(final)):
        try:
            os.mkdir(partial)
        except OSError as err:
            raise type(err)(err.errno, err.strerror, dest) from None   # name the folder that the user knows
        try:
            yield write
            with made_folder(final):
                move_all(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def move_all(source: str, dest: str) -> None:
    """Move the content of a folder into another, empty one; after an error that one is empty again."""
    try:
        for name in sorted(os.listdir(source)):   # dataset.json comes last
            shutil.move(os.path.join(source, name), os.path.join(dest, name))
    except BaseException:
        for name in os.listdir(dest):
            path = os.path.join(dest, name)
            if os.path.isdir(path):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.remove(path)
        raise


@contextlib.contextmanager
def made_folder(path: str) -> Iterator[None]:
    """Context in which a folder exists; what had to be made for it goes away again if the context ends in an error."""
    missing = []
    while not os.path.isdir(path) and path != os.path.dirname(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        if missing:
            os.makedirs(missing[0], exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):   # somebody else has put something there
                os.rmdir(folder)
        raise
