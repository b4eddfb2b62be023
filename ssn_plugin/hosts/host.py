"""The StyleGAN2-ADA checkout that the plugin runs in: that of this project, the reference, or one like it.

The only file that knows which one it is. What every host has is imported by name everywhere else.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import os
import pickle
from collections.abc import Mapping
from typing import Any

import click

from ssn_plugin.files import open_atomic

MODULES = ("dnnlib.util", "legacy", "torch_utils.persistence", "torch_utils.misc", "training.networks")
TRAIN_MODULES = ("train", "torch_utils.training_stats", "training.loss", "training.training_loop")
METRICS_MODULES = ("metrics.metric_main", "metrics.metric_utils")
NETWORK_KEYS = ("G", "D", "G_ema", "augment_pipe")


def require(*modules: str) -> None:
    """Raise ValueError, which lists what is missing, unless the host's modules can be found."""
    lacking = missing(*modules)
    if lacking:
        raise ValueError(
            "ssn_plugin works inside a StyleGAN2-ADA checkout: change to the folder that holds train.py and legacy.py; "
            f"not found from {os.getcwd()}: {', '.join(lacking)}"
        )


def missing(*modules: str) -> list[str]:
    """Modules that cannot be found, of those and of the ones that everything needs."""
    return [name for name in (*MODULES, *modules) if not _exists(name)]


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # a package above it is missing, or is no package
        return False


def knows_plugins() -> bool:
    """Is this the host of this project, whose train.py takes further cfgs and whose loader takes further formats?"""
    return _exists("training.config") and hasattr(importlib.import_module("training.config"), "register_cfg")


def register() -> None:
    """Tell the host of the plugin's cfg, metrics and generator class. Each process does this once or more."""
    _register_generator()
    if _exists("metrics.metric_main"):
        importlib.import_module("ssn_plugin.metrics")
    if knows_plugins():
        from ssn_plugin import config

        config.register()


def _register_generator() -> None:
    if _exists("training.formats.network_rebuild"):  # safe loading: the classes that networks are rebuilt with, by name
        rebuild: Any = importlib.import_module("training.formats.network_rebuild")
        rebuild.KNOWN_CLASSES["SSNGenerator"] = "ssn_plugin.networks"


def resolve_network(name: str) -> str:
    """Path or URL for `name`, which in the host of this project may be a short name. ValueError for an unknown one."""
    return _network_names().resolve_network(name) if _exists("training.formats.network_names") else name


def network_help() -> str:
    """The short names of networks in this host, for people."""
    if not _exists("training.formats.network_names"):
        return "This host lists no short names of networks: give the path or URL of a network file."
    return _network_names().network_help()


def _network_names() -> Any:
    return importlib.import_module("training.formats.network_names")


def load_networks(name: str, trust: bool = False) -> dict[str, Any]:
    """Content of a network file: `G`, `D`, `G_ema`, `augment_pipe`, `training_set_kwargs`; modules on the CPU.

    name: path or URL; in the host of this project also a short name.
    trust: run code that the file carries. The reference host always does.
    """
    _register_generator()
    if _exists("training.network_files"):
        files: Any = importlib.import_module("training.network_files")
        return files.load_networks(name, trust=trust)
    import dnnlib
    import legacy

    try:
        with dnnlib.util.open_url(name) as file:
            return legacy.load_network_pkl(file)
    except (AssertionError, AttributeError, EOFError, ImportError, pickle.UnpicklingError) as err:
        raise ValueError(f"{name} is no network file of this host: {err or type(err).__name__}") from err


def check_output(path: str) -> None:
    """Raise ValueError unless networks can be written in the format that the name asks for."""
    if _exists("training.formats.network_export"):
        export: Any = importlib.import_module("training.formats.network_export")
        export.check_path(path)
    elif not path.endswith(".pkl"):
        raise ValueError(f"this host writes .pkl files only, got {path}")


def save_networks(networks: Mapping[str, Any], path: str) -> list[str]:
    """Write networks as this host reads them; the file appears whole or not at all.

    Returns what the format does not keep, one sentence each.
    """
    check_output(path)
    if _exists("training.formats.network_export"):
        export: Any = importlib.import_module("training.formats.network_export")
        return export.save_networks(networks, path)
    if networks.get("D") is None:
        raise ValueError(f"{path} would hold no discriminator, and this host reads no such file")
    snapshot: dict[str, Any] = dict(training_set_kwargs=networks.get("training_set_kwargs"))
    for key in NETWORK_KEYS:
        module = networks.get(key)
        snapshot[key] = None if module is None else copy.deepcopy(module).eval().requires_grad_(False).cpu()
    with open_atomic(path) as file:
        pickle.dump(snapshot, file, protocol=4)
    return []


def convert(source: str, dest: str, trust: bool) -> list[str]:
    """Convert a network file between formats; returns what was done, a line each."""
    if not _exists("training.network_files"):
        raise ValueError("convert needs training/network_files.py, which the host of this project has and this one not")
    _register_generator()
    files: Any = importlib.import_module("training.network_files")
    return files.convert(source, dest, trust=trust)


def train_command() -> click.Command:
    """The host's train command with `--cfg=ssn`."""
    require(*TRAIN_MODULES)
    register()
    train: Any = importlib.import_module("train")
    if knows_plugins():
        return train.main
    from ssn_plugin.hosts import launch

    return launch.extended_command(train)


def training_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What the host's train.py makes of its options, by keyword: the arguments of the training loop.

    Raises ValueError for options that cannot be honoured.
    """
    require(*TRAIN_MODULES)
    register()
    train: Any = importlib.import_module("train")
    if knows_plugins():
        return train.setup_training_loop_kwargs(**options)[1]
    from ssn_plugin.hosts import launch

    return launch.plan(train, options, given={})[1]


def find_detector(url: str) -> str | None:
    """Path of a feature detector's file on this machine, or None if it would have to be fetched."""
    if _exists("metrics.detectors"):
        detectors: Any = importlib.import_module("metrics.detectors")
        return detectors.find_local(url)
    import dnnlib

    folder = dnnlib.make_cache_dir_path("downloads")
    prefix = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest() + "_"  # the naming rule of `open_url`
    names = [name for name in os.listdir(folder) if name.startswith(prefix)] if os.path.isdir(folder) else []
    return os.path.join(folder, names[0]) if len(names) == 1 else None
