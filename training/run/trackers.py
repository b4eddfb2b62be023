"""Where the statistics of a run go besides `stats.jsonl`: TensorBoard's event files and Weights & Biases."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

import dnnlib
from dnnlib.util import UserError
from training.run.run_folders import OPTIONS_FILE

REQUESTED = ("wandb",)  # values of --log; TensorBoard is used without being asked for, as in StyleGAN2-ADA
WANDB_RUN_FILE = "wandb-run.txt"


class Tracker(Protocol):
    """Takes the statistics of every tick."""

    def log(self, scalars: Mapping[str, float], nimg: int, seconds: float) -> None:
        """Record statistic -> value, after `nimg` real images and `seconds` of training."""

    def log_image(self, name: str, image: np.ndarray, nimg: int) -> None:
        """Record a picture, uint8 [H, W, C]."""

    def close(self) -> None:
        """Nothing more will come."""


class TensorBoardTracker:
    """Writes `events.out.tfevents.*` with the thousands of images as the step."""

    def __init__(self, run_dir: str):
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import, if it is there at all

        self._open_writer = functools.partial(SummaryWriter, run_dir)
        self._writer: Any = None

    def _open(self, step: int) -> None:
        if self._writer is None:
            # Hide what a resumed run had written after the state from which it carries on.
            self._writer = self._open_writer(purge_step=step)

    def log_image(self, name: str, image: np.ndarray, nimg: int) -> None:
        self._open(nimg // 1000)
        self._writer.add_image(name, image, global_step=nimg // 1000, dataformats="HWC")

    def log(self, scalars: Mapping[str, float], nimg: int, seconds: float) -> None:
        step = nimg // 1000
        self._open(step)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, global_step=step, walltime=seconds)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbTracker:
    """Sends the statistics to Weights & Biases, under the name of the run folder.

    wandb's own settings hold, such as WANDB_PROJECT and WANDB_MODE=offline. The identifier of the run is kept in the
    run folder, so that a resumed run continues its curves there too.
    """

    def __init__(self, run_dir: str):
        import wandb

        options: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError), open(os.path.join(run_dir, OPTIONS_FILE)) as file:
            options = json.load(file)
        name = os.path.basename(os.path.abspath(run_dir))
        try:
            self._run: Any = wandb.init(
                name=name, dir=run_dir, id=wandb_run_id(run_dir), resume="allow", config=options)
        except wandb.Error as err:  # no key, no network, a project that may not be written
            reason = " ".join(str(err).split()).rstrip(".")
            raise UserError(f"--log=wandb: {reason}; WANDB_MODE=offline needs no account") from err
        self._run.define_metric("*", step_metric="Progress/kimg")

    def log(self, scalars: Mapping[str, float], nimg: int, seconds: float) -> None:
        self._run.log({**scalars, "Progress/kimg": nimg / 1000}, step=nimg)

    def log_image(self, name: str, image: np.ndarray, nimg: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(image), "Progress/kimg": nimg / 1000}, step=nimg)

    def close(self) -> None:
        self._run.finish()


def wandb_run_id(run_dir: str) -> str:
    """The identifier of the run at Weights & Biases: drawn at the first start, later the same."""
    path = os.path.join(run_dir, WANDB_RUN_FILE)
    if os.path.isfile(path):
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    run_id = secrets.token_hex(8)
    with dnnlib.util.open_atomic(path, "w", encoding="ascii") as file:
        file.write(run_id + "\n")
    return run_id


def check_trackers(names: Iterable[str]) -> None:
    """Raise UserError for a value of --log that is unknown or whose library is missing, before a run folder exists."""
    for name in names:
        if name not in REQUESTED:
            raise UserError(f"--log must be one of {', '.join(REQUESTED)}, got {name}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--log={name} needs the package {name}, which is not installed: pip install {name}")


def open_trackers(run_dir: str, names: Iterable[str] = ()) -> list[Tracker]:
    """The trackers of a run: TensorBoard where it is installed, and those named (see `check_trackers`).

    The caller closes each. Raises ValueError in one line for a tracker that was asked for and cannot be had.
    """
    names = list(names)
    check_trackers(names)
    trackers: list[Tracker] = []
    try:
        trackers.append(TensorBoardTracker(run_dir))
    except ImportError:
        print("TensorBoard is not installed: no event files are written.")
    if "wandb" in names:
        try:
            trackers.append(WandbTracker(run_dir))
        except BaseException:
            close_trackers(trackers)
            raise
    return trackers


def close_trackers(trackers: list[Tracker]) -> None:
    """Close and forget them all, so that a second call does nothing."""
    while trackers:
        trackers.pop().close()
