"""Write a data set to a zip or folder that appears only when it is complete."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import zipfile
from collections.abc import Iterator
from typing import Protocol

from dnnlib.util import naming, open_atomic

try:
    import fcntl
except ImportError:   # Windows
    fcntl = None  # type: ignore[assignment]

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
    with made_folder(os.path.dirname(os.path.realpath(dest))), open_atomic(dest) as file:
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)

        def write(name: str, data: bytes) -> None:
            info = zipfile.ZipInfo(name, date_time=ZIP_DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16   # the same on every system
            with naming(dest):
                archive.writestr(info, data)

        try:
            yield write
        except BaseException:
            with contextlib.suppress(OSError):
                archive.close()   # otherwise it tries when it is collected, and complains
            raise
        with naming(dest):
            archive.close()


@contextlib.contextmanager
def folder_writer(dest: str) -> Iterator[Writer]:
    """Writes beside `dest` and gives the folder that name at the end: of two processes, one finds it taken."""
    final = os.path.realpath(dest)
    partial = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.partial")

    def write(name: str, data: bytes) -> None:
        path = os.path.join(partial, *name.split("/"))
        with naming(dest):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)

    with made_folder(os.path.dirname(final)), own_folder(partial, dest):
        yield write
        if os.path.isdir(final) and os.path.samefile(final, os.curdir):
            move_all(partial, final)   # a shell in that folder would stay in one without a name
        else:
            rename_folder(partial, final, dest)


def rename_folder(partial: str, final: str, dest: str) -> None:
    """Give a folder the name of an empty one, or of none."""
    try:
        if os.path.isdir(final):
            shutil.copymode(final, partial)
        os.rename(partial, final)
    except OSError as err:
        if err.errno in (errno.EBUSY, errno.EXDEV):   # it is the root of a file system
            move_all(partial, final)
        elif err.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise OSError(f"destination folder {dest} must be empty, another process has filled it") from err
        else:
            raise type(err)(err.errno, err.strerror, dest) from err


@contextlib.contextmanager
def own_folder(path: str, dest: str) -> Iterator[None]:
    """Context with an empty folder that no other process uses; it goes away if the context ends in an error.

    What a killed process left there is removed. `OSError` that names `dest` if a living one uses the folder.
    """
    try:
        os.mkdir(path)
        is_new = True
    except FileExistsError:
        is_new = False
    except OSError as err:
        raise type(err)(err.errno, err.strerror, dest) from None   # name the folder that the user knows
    with locked(path) as is_ours:
        if not (is_ours or is_ours is None and is_new):
            raise OSError(f"destination folder {dest} is in use: another process writes there, by way of {path}")
        try:
            if not is_new:
                remove_content(path)
            yield
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked(path: str) -> Iterator[bool | None]:
    """Context that yields whether this process alone has the folder, None where the system or its disk has no locks."""
    if fcntl is None:
        yield None
        return
    try:
        folder = os.open(path, os.O_RDONLY)
    except FileNotFoundError:   # the other process has finished
        yield False
        return
    try:
        yield _try_to_lock(folder, path)
    finally:
        os.close(folder)   # and unlock


def _try_to_lock(folder: int, path: str) -> bool | None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(folder), os.stat(path))   # the other process may just have renamed it
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:
        return None


def move_all(source: str, dest: str) -> None:
    """Move the content of a folder into another, empty one; after an error that one is empty again."""
    if os.listdir(dest):
        raise OSError(f"destination folder {dest} must be empty, another process has filled it")
    try:
        for name in sorted(os.listdir(source)):   # dataset.json comes last
            shutil.move(os.path.join(source, name), os.path.join(dest, name))
        os.rmdir(source)
    except BaseException:
        remove_content(dest)
        raise


def remove_content(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.remove(path)


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
