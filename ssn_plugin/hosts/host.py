"""Which StyleGAN2-ADA code the plugin runs in, and what it may ask of it.

There are two adapters: `ours` for the code of this project, `reference` for any other, by the names alone that all
hosts share. Both are modules with the functions of `Host`. Code that works in every host imports by name and needs
neither.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import click

from ssn_plugin.errors import UserError

# What the commands need of a host, by module.
MODULES = ("dnnlib.util", "legacy", "torch_utils.persistence", "torch_utils.misc", "training.networks")
TRAIN_MODULES = ("train", "torch_utils.training_stats", "training.loss", "training.training_loop")
METRICS_MODULES = ("metrics.metric_main", "metrics.metric_utils")


class Host(Protocol):
    """The functions of an adapter."""

    DESCRIPTION: str  # for people
    TAKES_CFGS: bool  # does its train.py take further values of --cfg?

    def missing(self, *modules: str) -> list[str]:
        """Those of the modules that the host should have and that cannot be found."""

    def script(self, name: str) -> click.Command | None:
        """The script behind a command such as `generate`; None where the plugin brings the command itself."""

    def name_scripts(self, ctx: click.Context, program: str) -> None:
        """Let the scripts know that they are commands of this program: they print commands to go on with."""

    def one_line_errors(self) -> AbstractContextManager[None]:
        """A context that turns what a user can get wrong into one line and exit code 2."""

    def keep_freed_memory(self) -> None:
        """Let the process reuse the memory that it frees, which is faster."""

    def resolve_network(self, name: str) -> str:
        """Path or URL of the network that is called `name`. Raises ValueError if there is none."""

    def network_help(self) -> str:
        """The short names of networks, for people."""

    def load_networks(self, name: str, trust: bool = False) -> dict[str, Any]:
        """Content of a network file: `G`, `D`, `G_ema`, `augment_pipe`, `training_set_kwargs`; modules on the CPU.

        name: as in `resolve_network`.  trust: run code that the file carries.
        Raises ValueError or OSError, one line, for a file that holds no networks.
        """

    def check_output(self, path: str) -> None:
        """Raise ValueError unless networks can be written in the format that the name asks for."""

    def save_networks(self, networks: Mapping[str, Any], path: str) -> list[str]:
        """Write networks; the file appears whole or not at all. Returns what its format drops, a sentence each."""

    def convert(self, source: str, dest: str, trust: bool) -> list[str]:
        """Convert a network file between formats; returns what was done, a line each."""

    def find_detector(self, url: str) -> str | None:
        """Path of a feature detector's file on this machine; None if it would have to be downloaded."""

    def detector_advice(self) -> str:
        """What to do where detectors are missing."""

    # Of metrics. opts: the host's options of a metric.

    def seed_of(self, opts: Any) -> int:
        """The seed of latents, noise and labels."""

    def batch_size_of(self, opts: Any) -> int | None:
        """Images at a time; None: the metric's choice."""

    def outdir_of(self, opts: Any) -> str | None:
        """The folder for files that a metric makes; None: no files."""

    def note(self, opts: Any, **facts: Any) -> None:
        """Let the result line say what the numbers depend on, where the host keeps such notes."""

    def checked_detector(self, opts: Any, detector: Callable[..., Any], url: str) -> Callable[..., Any]:
        """The detector with the host's checks of its file and output."""

    def register_families(self, families: Mapping[str, Callable[..., Any]], detectors: Mapping[str, str]) -> None:
        """Offer metrics for any number of samples, where the host's registry knows patterns.

        families: by the start of the name, `compute(opts, name, count)`.  detectors: URL by the start of the name.
        """


@functools.cache
def current() -> Host:
    """The adapter for the host that Python's path leads to."""
    if importlib.util.find_spec("training") is None or importlib.util.find_spec("training.network_files") is None:
        from ssn_plugin.hosts import reference

        return reference
    from ssn_plugin.hosts import ours

    return ours


def missing(*modules: str) -> list[str]:
    """What cannot be found of these modules and of those that every command needs."""
    return current().missing(*MODULES, *modules)


def require(*modules: str) -> Host:
    """The current host. Raises ValueError, which lists what is missing, unless it has the modules."""
    lacking = missing(*modules)
    if lacking:
        raise UserError(
            "ssn_plugin works inside a StyleGAN2-ADA checkout: change to the folder that holds train.py and legacy.py; "
            f"not found from {os.getcwd()}: {', '.join(lacking)}"
        )
    return current()
