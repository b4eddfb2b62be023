"""Load networks by path, URL or short name, and convert one format of network files to another."""

from __future__ import annotations

from typing import Any

import dnnlib
from dnnlib.util import UserError
from torch_utils.safe_unpickler import RefusedPickle
from training.formats.card import write_model_card
from training.formats.network_export import check_path, frozen_copy, save_network_snapshot, save_networks
from training.formats.network_names import licence_of, resolve_network
from training.formats.reading import load_network_pkl

__all__ = ["check_path", "convert", "frozen_copy", "load_networks", "save_networks", "save_network_snapshot"]


def load_networks(name: str, trust: bool = False, force_fp16: bool = False) -> dict[str, Any]:
    """Networks of the file, URL or short name `name`; see `legacy.load_network_pkl` for the dict and the errors."""
    place = resolve_network(name)
    with dnnlib.util.open_url(place) as file:
        try:
            return load_network_pkl(file, force_fp16=force_fp16, trust=trust)
        except UserError as error:
            if dnnlib.util.is_url(place) and not isinstance(error, RefusedPickle):
                error.args = (f"{error} (a copy of {place}, which is fetched again once this file is deleted)",)
            raise


def convert(source: str, dest: str, trust: bool = False, force_fp16: bool = False) -> list[str]:
    """Read the networks of `source` and write them to `dest`, in the format of its suffix, with a model card.

    source: path, URL or short name.  dest: path that ends in .pkl, .safetensors or .pt.
    Returns the paths of the files written and what the format of `dest` does not keep, one line each.
    """
    check_path(dest)
    networks = load_networks(source, trust=trust, force_fp16=force_fp16)
    notes = save_networks(networks, dest)
    card = write_model_card(networks, dest, source, licence_of(source), notes)
    return [f"wrote {dest}", f"wrote {card}", *notes]
