"""Parts that the commands which make images have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from dnnlib.terminal import ProgressLine

if TYPE_CHECKING:
    import torch

    from training.images.video import FilmFormat


MAX_TRUNCATION = 1_000_000   # of what is farther out, single precision holds no style any more


def class_option() -> Callable[[Any], Any]:
    """The option `--class`."""
    return click.option("--class", "class_idx", type=int, metavar="INT", help="Class of a conditional network")


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


def usable_class(G: torch.nn.Module, class_idx: int | None) -> int | None:
    """The class to generate; None, with a warning where one was given, for an unconditional network."""
    if G.c_dim == 0:
        if class_idx is not None:
            click.echo("Warning: --class has no effect, the network is unconditional", err=True)
        return None
    if class_idx is None:
        raise click.UsageError(f"the network is conditional: choose one of its classes with --class=0..{G.c_dim - 1}")
    if not 0 <= class_idx < G.c_dim:
        raise click.UsageError(f"--class must be in 0..{G.c_dim - 1} for this network, got {class_idx}")
    return class_idx


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
