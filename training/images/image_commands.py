"""Parts that the commands which make images have in common."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dnnlib.terminal import ProgressLine
from dnnlib.util import UserError, printable

if TYPE_CHECKING:
    import torch

    from training.images.video import FilmFormat


MAX_TRUNCATION = 1_000_000   # of what is farther out, single precision holds no style any more

MAX_CLASS = 1_000_000


def class_option(more: str = "") -> Callable[[Any], Any]:
    """The option `--class`."""
    return click.option("--class", "class_text", metavar="CLASS",
                        help=f"Class of a conditional network: its number, or its name in the training data{more}")


def trunc_option() -> Callable[[Any], Any]:
    """The option `--trunc`."""
    return click.option("--trunc", type=float, default=1, show_default=True, callback=check_truncation,
                        help="Truncation psi")


def check_truncation(_ctx: click.Context, _param: click.Parameter, psi: float) -> float:
    """Callback of `--trunc`."""
    if not math.isfinite(psi):
        raise click.UsageError(f"--trunc must be finite, got {psi}")
    if abs(psi) > MAX_TRUNCATION:
        raise click.UsageError(f"--trunc must be within -{MAX_TRUNCATION}..{MAX_TRUNCATION}, got {psi:g}")
    return psi


def device_option() -> Callable[[Any], Any]:
    """The option `--device`."""
    return click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N  [default: a GPU if there is one]")


def usable_class(G: torch.nn.Module, text: str | None, network: str, trust: bool = False) -> int | None:
    """The one class to generate; None, with a warning where one was given, for an unconditional network.

    network: its file, for the names of classes.
    """
    classes = usable_classes(G, text, network, trust)
    if classes is not None and len(classes) > 1:
        raise click.UsageError(f"--class must be one class here, got {text}")
    return None if classes is None else classes[0]


def usable_classes(G: torch.nn.Module, text: str | None, network: str, trust: bool = False) -> list[int] | None:
    """The classes of `3`, `0,2,5-7`, `all`, or of names. As above for an unconditional network."""
    if G.c_dim == 0:
        if text is not None:
            click.echo("Warning: --class has no effect, the network is unconditional", err=True)
        return None
    if text is None:
        raise click.UsageError(f"the network is conditional: choose one of its classes with --class=0..{G.c_dim - 1}")
    if text == "all":
        return list(range(G.c_dim))
    if re.fullmatch(r"-?\d+(-\d+)?(,\d+(-\d+)?)*", text):
        classes = [number for part in text.split(",") for number in _numbers(part)]
    else:
        names = class_names(network, trust)
        wanted = [text] if text in names else text.split(",")
        unknown = [name for name in wanted if name not in names]
        if unknown:
            listed = ", ".join(printable(name, 40) for name in names[:20]) + (", ..." if len(names) > 20 else "")
            raise click.UsageError(f"--class must be in 0..{G.c_dim - 1} or one of {listed}, got {unknown[0]}")
        classes = [names.index(name) for name in wanted]
    for number in classes:
        if not 0 <= number < G.c_dim:
            raise click.UsageError(f"--class must be in 0..{G.c_dim - 1} for this network, got {number}")
    return list(dict.fromkeys(classes))


def _numbers(part: str) -> range:
    first, _, last = part.rpartition("-") if not part.startswith("-") else ("", "", part)
    return range(int(first or last), min(int(last), MAX_CLASS) + 1)


def class_names(network: str, trust: bool = False) -> list[str]:
    """What the classes 0, 1, ... are called in the data set that a network was trained on. UserError if unknown."""
    from training.data.image_files import ImageArchive
    from training.data.labels import read_class_names
    from training.network_files import load_networks

    path = (load_networks(network, trust=trust).get("training_set_kwargs") or {}).get("path")
    if not isinstance(path, str) or not os.path.exists(path):
        where = "which it does not name" if path is None else f"and {printable(str(path), 100)} is not there"
        raise UserError(f"the names of classes are those of the data set that the network was trained on, {where}: "
                        f"give --class as a number")
    with contextlib.closing(ImageArchive(path)) as archive:
        names = read_class_names(archive)
    if not names:
        raise UserError(f"data set {printable(path, 100)} has no names of classes: give --class as a number")
    return names


def parse_label(text: str, c_dim: int) -> tuple[float, ...]:
    """The label vector of `--label`: `c_dim` finite numbers."""
    if c_dim == 0:
        raise click.UsageError("--label is for conditional networks, and this one is unconditional")
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != c_dim or not all(abs(value) < 3e38 for value in values):
        raise click.UsageError(f"--label must be {c_dim} numbers for this network, as 0,0.5,1, got {text}")
    return values


def choose_film_format() -> FilmFormat:
    """How a film will be written. A second choice is announced now, when something can still be done about it."""
    from training.images import video

    film_format = video.choose_format()
    if film_format.note:
        click.echo(f"Note: {film_format.note}", err=True)
    return film_format


def progress_bar(label: str, length: int, unit: str = "frames") -> ProgressLine:
    """A line on the terminal to `step`; elsewhere the label alone is printed."""
    line = ProgressLine(label, length, unit)
    if not line.is_live:
        click.echo(label, err=True)
    return line
