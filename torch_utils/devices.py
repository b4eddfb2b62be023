"""Which device work is done on."""

from __future__ import annotations

import torch

from dnnlib.util import UserError


def choose_device(
    name: torch.device | str | None = None,   # cpu, cuda or cuda:N; None: a GPU where there is one, else the CPU
    index: int | None = None,                 # number of the GPU where the name has none; None: torch's current one
    on_cpu: bool = False,                     # without a name: the CPU although there is a GPU
) -> torch.device:
    """The device to use. ValueError if it is of another kind or not there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise UserError(f"device must be cpu, cuda or cuda:N, got {name!r}") from err
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be cpu, cuda or cuda:N, got {str(name)!r}")
    if device.type == "cuda" and device.index is None and index is not None:
        device = torch.device("cuda", index)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device} is not there, found {torch.cuda.device_count()} CUDA devices")
    return device
