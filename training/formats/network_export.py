"""Write networks to files: snapshots for any host, code-free safetensors, rosinality checkpoints."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import dnnlib
from dnnlib.util import UserError
from torch_utils import misc
from torch_utils.safe_unpickler import RefusedPickle
from training.formats import rosinality
from training.formats.network_config import NETWORK_KEYS, as_native, import_safetensors, save_safetensors, to_config
from training.networks import Discriminator

SUFFIXES = (".pkl", ".safetensors", ".pt")
CONFIG_NAME = "config.json"
PROTOCOL = 4  # of pickle: what every supported Python reads, and the same bytes with all of them


def save_networks(networks: Mapping[str, Any], path: str | os.PathLike) -> list[str]:
    """Write `networks` in the format of the suffix of `path`; the file appears whole or not at all.

    networks: as `legacy.load_network_pkl` returns them.  Beside `.safetensors` a `config.json` appears.
    Returns what the format does not keep, one sentence each.  Raises `UserError` for what it cannot express at all.
    """
    writers = {".pkl": _save_pickle, ".safetensors": _save_safetensors, ".pt": _save_rosinality}
    check_path(path)
    return writers[Path(path).suffix](networks, Path(path))


def check_path(path: str | os.PathLike) -> None:
    """Raise `UserError` unless `path` ends like a format that can be written, and lies in an existing folder."""
    if Path(path).suffix not in SUFFIXES:
        raise UserError(f"network file to write must end in {', '.join(SUFFIXES)}, got {path}")
    if not Path(path).parent.is_dir():
        raise UserError(f"the folder of the network file to write must exist, got {path}")
    if Path(path).suffix == ".safetensors":
        import_safetensors()


def _save_pickle(networks: Mapping[str, Any], path: Path) -> list[str]:
    """The snapshot of the PyTorch hosts: each network with its source text, on the CPU, for inference."""
    notes = []
    snapshot: dict[str, Any] = dict(training_set_kwargs=networks.get("training_set_kwargs"))
    copies = {id(networks.get(key)): _for_snapshot(networks.get(key), key) for key in NETWORK_KEYS}
    for key in NETWORK_KEYS:
        snapshot[key] = copies[id(networks.get(key))]  # a module under two keys is stored once
    if snapshot["D"] is None:
        snapshot["D"] = _untrained_discriminator(snapshot["G_ema"])
        notes.append("D is untrained: the source has none, and the hosts that read this format insist on one")
    save_network_snapshot(snapshot, path)
    return notes


def save_network_snapshot(snapshot: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Pickle the dict that a network file holds; an interrupted write leaves nothing under this name."""
    with dnnlib.util.open_atomic(path) as file:
        pickle.dump(dict(snapshot), file, protocol=PROTOCOL)


def frozen_copy(module: torch.nn.Module | None) -> torch.nn.Module | None:
    """A copy as a network file holds it: in eval mode, without gradients, on the CPU."""
    if module is None:
        return None
    copied = copy.deepcopy(module).eval().requires_grad_(False).cpu()
    for tensor in misc.params_and_buffers(copied):
        vars(tensor).clear()  # torch.compile leaves marks on tensors, and a pickle of them is not one of plain tensors
    return copied


def _for_snapshot(module: torch.nn.Module | None, key: str) -> torch.nn.Module | None:
    if module is None:
        return None
    with contextlib.suppress(RefusedPickle):  # a class that only its own source text knows keeps that text
        module = as_native(module, key)
    return frozen_copy(module)


def _untrained_discriminator(G: Any) -> torch.nn.Module:
    """A discriminator for the images of `G`, as wide as `G`, with the same random weights every time."""
    synthesis_kwargs = G.init_kwargs.get("synthesis_kwargs", {})
    widths = {name: synthesis_kwargs[name] for name in ("channel_base", "channel_max") if name in synthesis_kwargs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        D = Discriminator(c_dim=G.c_dim, img_resolution=G.img_resolution, img_channels=G.img_channels, **widths)
    return D.eval().requires_grad_(False)


def _save_safetensors(networks: Mapping[str, Any], path: Path) -> list[str]:
    """Tensors with the config in their header, and a readable copy of the config as `config.json` beside them.

    The copy names its file: two files of weights in one folder would claim the same name, so that is refused.
    """
    tensors, config = to_config(networks)
    config_path = path.with_name(CONFIG_NAME)
    owner = _config_owner(config_path)
    if owner not in (None, path.name):
        raise UserError(f"{config_path} belongs to {owner}: give {path.name} a folder of its own")
    with dnnlib.util.open_atomic(path) as file:
        save_safetensors(file, tensors, json.dumps(config, allow_nan=False))
    with dnnlib.util.open_atomic(config_path, "w", encoding="utf-8") as file:
        json.dump(dict(weights=path.name, **config), file, indent=2, allow_nan=False)
    return []


def _config_owner(config_path: Path) -> str | None:
    """Name of the weights that an existing config describes; None if there is no such file."""
    if not config_path.exists():
        return None
    try:
        return str(json.loads(config_path.read_text(encoding="utf-8"))["weights"])
    except (KeyError, TypeError, ValueError):
        return "something else"


def _save_rosinality(networks: Mapping[str, Any], path: Path) -> list[str]:
    stylegan2 = {key: as_native(networks[key], key) for key in ("G", "D", "G_ema") if networks.get(key) is not None}
    checkpoint = rosinality.write_checkpoint(stylegan2)
    with dnnlib.util.open_atomic(path) as file:
        torch.save(checkpoint, file)
    dropped = [key for key in ("training_set_kwargs", "augment_pipe") if networks.get(key) is not None]
    return [*rosinality.what_is_lost(stylegan2), *(f"{key} is left out" for key in dropped)]
