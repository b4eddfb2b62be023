"""Load networks by path, URL or short name, and convert one format of network files to another."""

from __future__ import annotations

from typing import Any

import dnnlib
from training.formats.card import write_model_card
from training.formats.network_export import check_path, frozen_copy, save_network_snapshot, save_networks
from training.formats.network_names import licence_of, resolve_network
from training.formats.reading import load_network_pkl

__all__ = ["check_path", "convert", "frozen_copy", "load_networks", "save_networks", "save_network_snapshot"]


def load_networks(name: str, trust: bool = False) -> dict[str, Any]:
    """Networks of the file, URL or short name `name`; see `legacy.load_network_pkl` for the dict and the errors."""
    with dnnlib.util.open_url(resolve_network(name)) as file:
        return load_network_pkl(file, trust=trust)


def convert(source: str, dest: str, trust: bool = False, force_fp16: bool = False) -> list[str]:
    """Read the networks of `source` and write them to `dest`, in the format of its suffix, with a model card.

    source: path, URL or short name.  dest: path that ends in .pkl, .safetensors or .pt.
    Returns the paths of the files written and what the format of `dest` does not keep, one line each.
    """
    check_path(dest)
    with dnnlib.util.open_url(resolve_network(source)) as file:
        networks = load_network_pkl(file, force_fp16=force_fp16, trust=trust)
    notes = save_networks(networks, dest)
    card = write_model_card(networks, dest, source, licence_of(source), notes)
    return [f"wrote {dest}", f"wrote {card}", *notes]
