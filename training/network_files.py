"""Find network files by path, URL or short name, load them, and convert one format to another."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import dnnlib
import legacy
from training.config import RESUME_FILES, TRANSFER_URL
from training.network_export import check_path, save_networks, write_model_card

NVIDIA_LICENCE = "NVIDIA Source Code License: non-commercial use only (research or evaluation)"
UNKNOWN_LICENCE = "not stated in the file; the terms of its source apply"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published network that has a short name."""

    name: str
    resolution: int
    source: str  # data set, and where the network comes from

    @property
    def url(self) -> str:
        return f"{TRANSFER_URL}/{RESUME_FILES[self.name]}"


PRETRAINED = {
    network.name: network
    for network in (
        Pretrained("ffhq256", 256, "FFHQ, NVIDIA StyleGAN2-ADA (paper256, no augmentation)"),
        Pretrained("ffhq512", 512, "FFHQ, NVIDIA StyleGAN2-ADA (stylegan2, no augmentation)"),
        Pretrained("ffhq1024", 1024, "FFHQ, NVIDIA StyleGAN2-ADA (stylegan2, no augmentation)"),
        Pretrained("celebahq256", 256, "CelebA-HQ, NVIDIA StyleGAN2-ADA (paper256, ADA)"),
        Pretrained("lsundog256", 256, "LSUN Dog, NVIDIA StyleGAN2-ADA (paper256, no augmentation)"),
    )
}


def network_help() -> str:
    """What `--network=help` prints: every short name with its resolution, source and licence."""
    lines = ["Networks with a short name (downloaded on first use):", ""]
    lines += [f"  {net.name:12s} {net.resolution:5d} px  {net.source}" for net in PRETRAINED.values()]
    lines += ["", f"Licence of all of them: {NVIDIA_LICENCE}.", ""]
    lines += [
        "Any other value is a path or a URL of a network file: snapshots of StyleGAN2-ADA's PyTorch hosts (.pkl), "
        "TensorFlow",
        "StyleGAN2 pickles (.pkl), rosinality checkpoints (.pt), and .safetensors. Source code inside a file is not "
        "executed",
        "unless --trust-pickle is given.",
    ]
    return "\n".join(lines)


def resolve_network(name: str) -> str:
    """Path or URL for `name`, which may be a short name. Raises `ValueError` if there is no such file."""
    if name in PRETRAINED:
        return PRETRAINED[name].url
    if not dnnlib.util.is_url(name, allow_file_urls=True) and not os.path.isfile(name):
        raise ValueError(f"network {name} is not an existing file, a URL or one of {', '.join(PRETRAINED)}")
    return name


def load_networks(name: str, trust: bool = False) -> dict[str, Any]:
    """Networks of the file, URL or short name `name`; see `legacy.load_network_pkl` for the dict and the errors."""
    with dnnlib.util.open_url(resolve_network(name)) as file:
        return legacy.load_network_pkl(file, trust=trust)


def licence_of(name: str) -> str:
    """The licence of a network as far as its name tells."""
    return NVIDIA_LICENCE if name in PRETRAINED or "nvlabs-fi-cdn.nvidia.com" in name else UNKNOWN_LICENCE


def convert(source: str, dest: str, trust: bool = False, force_fp16: bool = False) -> list[str]:
    """Read the networks of `source` and write them to `dest`, in the format of its suffix, with a model card.

    source: path, URL or short name.  dest: path that ends in .pkl, .safetensors or .pt.
    Returns the paths of the files written and what the format of `dest` does not keep, one line each.
    """
    check_path(dest)
    with dnnlib.util.open_url(resolve_network(source)) as file:
        networks = legacy.load_network_pkl(file, force_fp16=force_fp16, trust=trust)
    notes = save_networks(networks, dest)
    card = write_model_card(networks, dest, source, licence_of(source), notes)
    return [f"wrote {dest}", f"wrote {card}", *notes]
