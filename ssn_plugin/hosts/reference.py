"""The adapter for any other StyleGAN2-ADA checkout, see `ssn_plugin.hosts.host.Host`.

Uses only modules and names that all hosts share. What these lack is written here, however much it resembles this
project's own host.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import click

from ssn_plugin.errors import UserError
from ssn_plugin.files import open_atomic
from ssn_plugin.hosts.errors import one_line_errors as one_line_errors

DESCRIPTION = "another StyleGAN2-ADA host"
TAKES_CFGS = False
NETWORK_KEYS = ("G", "D", "G_ema", "augment_pipe")  # in the order of a snapshot


def missing(*modules: str) -> list[str]:
    return [name for name in modules if not _exists(name)]


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # a package above it is missing, or is no package
        return False


def script(name: str) -> click.Command | None:
    return None


def name_scripts(ctx: click.Context, program: str) -> None:
    """Nothing: this host's scripts are no commands of ours."""


def keep_freed_memory() -> None:
    """Nothing: the host takes memory as Python's allocator gives it."""


def resolve_network(name: str) -> str:
    return name


def network_help() -> str:
    return "This host lists no short names of networks: give the path or URL of a network file."


def load_networks(name: str, trust: bool = False) -> dict[str, Any]:
    """trust: without effect, since this host runs the code in every file."""
    import dnnlib
    import legacy

    try:
        with dnnlib.util.open_url(name) as file:
            return legacy.load_network_pkl(file)
    except (AssertionError, AttributeError, EOFError, ImportError, pickle.UnpicklingError) as err:
        raise UserError(f"{name} is no network file of this host: {err or type(err).__name__}") from err


def check_output(path: str) -> None:
    if not path.endswith(".pkl"):
        raise UserError(f"this host writes .pkl files only, got {path}")


def save_networks(networks: Mapping[str, Any], path: str) -> list[str]:
    check_output(path)
    if networks.get("D") is None:
        raise UserError(f"{path} would hold no discriminator, and this host reads no such file")
    snapshot: dict[str, Any] = dict(training_set_kwargs=networks.get("training_set_kwargs"))
    for key in NETWORK_KEYS:
        module = networks.get(key)
        snapshot[key] = None if module is None else copy.deepcopy(module).eval().requires_grad_(False).cpu()
    with open_atomic(path) as file:
        pickle.dump(snapshot, file, protocol=4)
    return []


def convert(source: str, dest: str, trust: bool) -> list[str]:
    raise UserError("convert works in the host of this project only: other hosts know one format of network files")


def find_detector(url: str) -> str | None:
    import dnnlib

    folder = dnnlib.make_cache_dir_path("downloads")
    prefix = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() + "_"  # the naming rule of `open_url`
    names = [name for name in os.listdir(folder) if name.startswith(prefix)] if os.path.isdir(folder) else []
    return os.path.join(folder, names[0]) if len(names) == 1 else None


def detector_advice() -> str:
    return "downloaded at the first use"


def seed_of(opts: Any) -> int:
    return 0


def batch_size_of(opts: Any) -> int | None:
    return None


def outdir_of(opts: Any) -> str | None:
    return None


def note(opts: Any, **facts: Any) -> None:
    """Nothing: this host keeps no notes."""


def checked_detector(opts: Any, detector: Callable[..., Any], url: str) -> Callable[..., Any]:
    return detector


def register_families(families: Mapping[str, Callable[..., Any]], detectors: Mapping[str, str]) -> None:
    """Nothing: this host knows a metric by its full name."""
