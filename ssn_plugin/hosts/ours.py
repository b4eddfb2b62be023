"""The adapter for this project's own StyleGAN2-ADA code, see `ssn_plugin.hosts.host.Host`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from torch_utils import allocator
from training import plugins
from training.cli import COMMANDS
from training.cli import one_line_errors as one_line_errors
from training.formats.network_names import network_help as network_help
from training.formats.network_names import resolve_network as resolve_network

DESCRIPTION = "the host of this project"
TAKES_CFGS = True
SCRIPTS = {
    "train": "train", "generate": "generate", "project": "projector", "mix": "style_mixing", "metrics": "calc_metrics",
    "dataset": "dataset_tool", "edit": "edit",
}

# A copy of this host that does not mention the plugin learns of it here. Its `generate.py` cannot redraw blocks, and
# the processes of its `calc_metrics.py` do not know the plugin's metrics.
KNOWS_THE_PLUGIN = "ssn_plugin" in plugins.PLUGINS
if not KNOWS_THE_PLUGIN:
    SCRIPTS = {name: script for name, script in SCRIPTS.items() if name not in ("generate", "metrics")}
    plugins.PLUGINS += ("ssn_plugin",)
    plugins.NETWORK_CLASSES["SSNGenerator"] = "ssn_plugin.networks"


def missing(*modules: str) -> list[str]:
    return []


def name_scripts(ctx: click.Context, program: str) -> None:
    ctx.meta[COMMANDS] = {script: [*program.split(), name] for name, script in SCRIPTS.items()}


def keep_freed_memory() -> None:
    allocator.keep_freed_memory()


def script(name: str) -> click.Command | None:
    return importlib.import_module(SCRIPTS[name]).main if name in SCRIPTS else None


def load_networks(name: str, trust: bool = False) -> dict[str, Any]:
    from training import network_files  # imports torch

    return network_files.load_networks(name, trust=trust)


def check_output(path: str) -> None:
    from training import network_files  # imports torch

    network_files.check_path(path)


def save_networks(networks: Mapping[str, Any], path: str) -> list[str]:
    from training import network_files  # imports torch

    return network_files.save_networks(networks, path)


def convert(source: str, dest: str, trust: bool) -> list[str]:
    from training import network_files  # imports torch

    return network_files.convert(source, dest, trust=trust)


def find_detector(url: str) -> str | None:
    from metrics import detectors  # imports torch

    return detectors.find_local(url)


def detector_advice() -> str:
    return "downloaded at the first use; without a network put them into a folder and name it in DNNLIB_DETECTORS, " \
           "or use metrics that need none: rfid5k_full, rkid5k_full, swd5k_full"


def seed_of(opts: Any) -> int:
    return opts.seed or 0


def batch_size_of(opts: Any) -> int | None:
    return opts.batch_size


def outdir_of(opts: Any) -> str | None:
    return opts.outdir


def note(opts: Any, **facts: Any) -> None:
    opts.provenance.update(facts)


def checked_detector(opts: Any, detector: Callable[..., Any], url: str) -> Callable[..., Any]:
    from metrics import detectors  # imports torch

    if opts.rank == 0:
        note(opts, detector=detectors.get_hash(url))
    return functools.partial(detectors.run, detector, url)


def register_families(families: Mapping[str, Callable[..., Any]], detectors: Mapping[str, str]) -> None:
    from metrics import metric_main  # imports torch

    for prefix, compute in families.items():
        metric_main.register_family(prefix + metric_main.COUNT)(compute)
    for prefix, url in detectors.items():
        metric_main.register_detector(prefix + r"\d.*", url)
