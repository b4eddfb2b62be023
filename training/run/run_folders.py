"""Run folders: making one, the options written down in it, and whether a process works there."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import dnnlib
from dnnlib import EasyDict
from dnnlib.util import UserError, printable
from training.run import cfgs
from training.run.run_options import RunOptions

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


def recorded_args(run_dir: str, trust: bool = False) -> EasyDict:
    """Arguments of the training loop that the run in this folder was started with.

    A folder may come from anybody. So the classes that it names must be among those that this host and its plugins
    build runs of, and it cannot say that a pickle is to be trusted.
    trust: let it name any class or function, which is called.
    Raises UserError, one line, for a folder or a file that cannot be used.
    """
    path = os.path.join(run_dir, OPTIONS_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            args = json.load(file, object_hook=EasyDict)
    except FileNotFoundError as err:
        raise UserError(f"--outdir must be the folder of a run, {run_dir} holds no {OPTIONS_FILE}") from err
    except (ValueError, RecursionError) as err:
        raise UserError(f"{path} is damaged: {err}") from err
    if not isinstance(args, EasyDict) or not {"training_set_kwargs", "num_gpus"} <= args.keys():
        raise UserError(f"{path} does not hold the options of a run")
    unknown = sorted(args.keys() - {field.name for field in dataclasses.fields(RunOptions) if field.init})
    if unknown:
        raise UserError(f"{path} holds an option that no run has: {printable(unknown[0])}")
    args.pop("trust_pickle", None)
    if not trust:
        check_names(args, path)
    for name, value in args.items():
        if isinstance(value, dict) and "class_name" in value:
            check_arguments(value, f"{path}: {name}")
    return args


def check_names(args: Mapping[str, Any], path: str) -> None:
    """Raise UserError if the options of a run name anything to be called that is not among the known classes."""
    known = cfgs.known_classes()
    for place, name in names_to_call(args):
        if not isinstance(name, str) or name not in known:
            raise UserError(f"{path} names {printable(str(name))} as {printable(place)}, which is none of the classes "
                            "of this host and its plugins; --trust-run lets it be called")


def names_to_call(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Place and value of each name of a class or function in nested containers."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            is_name = key in ("class_name", "func_name") or key.endswith("_function")
            if is_name and value is not None:
                yield place + key, value
            yield from names_to_call(value, f"{place}{key}.")
    elif isinstance(tree, list):
        for value in tree:
            yield from names_to_call(value, place)


def check_arguments(kwargs: Mapping[str, Any], place: str) -> None:
    """Raise UserError for an argument that a class, named with its arguments, does not take."""
    try:
        known = argument_names(dnnlib.util.get_obj_by_name(kwargs["class_name"]))
    except (ImportError, AttributeError) as err:
        raise UserError(f"{place} cannot be had: {err}") from err
    unknown = sorted(kwargs.keys() - known - {"class_name"}) if known is not None else []
    if unknown:
        raise UserError(f"{place}: {kwargs['class_name']} has no argument {printable(unknown[0])}")


def argument_names(cls: Any) -> set[str] | None:
    """Arguments of a class, those that it hands on to its base classes among them; None if there is no telling."""
    names: set[str] = set()
    for base in inspect.getmro(cls) if inspect.isclass(cls) else ():
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
            names |= {param.name for param in parameters}
            if not any(param.kind == param.VAR_KEYWORD for param in parameters):
                return names
    return None


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
