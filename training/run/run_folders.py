"""Run folders: making one, the options written down in it, and whether a process works there."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator

import dnnlib
from dnnlib import EasyDict
from dnnlib.util import UserError

try:
    import fcntl
except ModuleNotFoundError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

OPTIONS_FILE = "training_options.json"


def make_run_dir(outdir: str, desc: str) -> str:
    """Create `<outdir>/<id>-<desc>`, where id is one above the highest that starts a name there."""
    os.makedirs(outdir, exist_ok=True)
    while True:
        ids = [int(m[0]) for name in os.listdir(outdir) if (m := re.match(r"\d+", name))]
        run_dir = os.path.join(outdir, f"{max(ids, default=-1) + 1:05d}-{desc}")
        try:
            os.mkdir(run_dir)
        except FileExistsError:  # another run that starts now was faster
            continue
        return run_dir


def record(args: EasyDict, run_dir: str) -> EasyDict:
    """The arguments with their folder, in which they are written down."""
    args = EasyDict(args, run_dir=run_dir)
    path = os.path.join(run_dir, OPTIONS_FILE)
    with dnnlib.util.naming(path), dnnlib.util.open_atomic(path, "w", encoding="utf-8") as file:
        json.dump(args, file, indent=2)
    return args


def recorded_args(run_dir: str) -> EasyDict:
    """Arguments of the training loop that the run in this folder was started with."""
    path = os.path.join(run_dir, OPTIONS_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            args = json.load(file, object_hook=EasyDict)
    except FileNotFoundError as err:
        raise UserError(f"--outdir must be the folder of a run, {run_dir} holds no {OPTIONS_FILE}") from err
    except ValueError as err:
        raise UserError(f"{path} is damaged: {err}") from err
    if not isinstance(args, EasyDict) or not {"training_set_kwargs", "num_gpus"} <= args.keys():
        raise UserError(f"{path} does not hold the options of a run")
    return args


@contextlib.contextmanager
def sole_use(run_dir: str) -> Iterator[None]:
    """Keep other processes from running in this folder. Raises UserError if one does. A killed process frees it.

    The folder itself is locked, so that no file in it can be deleted or replaced to defeat the lock.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise UserError(f"{run_dir} is in use: another process trains there") from err
        except OSError:  # file systems over a network may lock no folders
            with file_lock(os.path.join(run_dir, "log.txt"), run_dir):
                yield
            return
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def file_lock(path: str, run_dir: str) -> Iterator[None]:
    """The same by a lock of a file in the folder."""
    with open(path, "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as err:
            raise UserError(f"{run_dir} is in use: another process trains there") from err
        yield


def is_in_use(run_dir: str) -> bool:
    """Does another process train there?"""
    try:
        with sole_use(run_dir):
            return False
    except UserError:
        return True
