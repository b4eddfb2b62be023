"""Write networks to files: snapshots for any host, code-free safetensors, rosinality checkpoints, model cards."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import dnnlib
from torch_utils.safe_unpickler import RefusedPickle
from training.formats import rosinality, safetensors_io
from training.formats.network_config import NETWORK_KEYS, as_native, to_config
from training.networks import Discriminator, side_lengths

SUFFIXES = (".pkl", ".safetensors", ".pt")
CONFIG_NAME = "config.json"
LIMITS = ("The images follow the data that the network was trained on, with its gaps and its biases; they show nothing "
          "and nobody real.")
PROTOCOL = 4  # of pickle: what every supported Python reads, and the same bytes with all of them


def save_networks(networks: Mapping[str, Any], path: str | os.PathLike) -> list[str]:
    """Write `networks` in the format of the suffix of `path`; the file appears whole or not at all.

    networks: as `legacy.load_network_pkl` returns them.  Beside `.safetensors` a `config.json` appears.
    Returns what the format does not keep, one sentence each.  Raises `ValueError` for what it cannot express at all.
    """
    writers = {".pkl": _save_pickle, ".safetensors": _save_safetensors, ".pt": _save_rosinality}
    check_path(path)
    return writers[Path(path).suffix](networks, Path(path))


def check_path(path: str | os.PathLike) -> None:
    """Raise `ValueError` unless `path` ends like a format that can be written, and lies in an existing folder."""
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"network file to write must end in {', '.join(SUFFIXES)}, got {path}")
    if not Path(path).parent.is_dir():
        raise ValueError(f"the folder of the network file to write must exist, got {path}")


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
    with dnnlib.util.open_atomic(path) as file:
        pickle.dump(snapshot, file, protocol=PROTOCOL)
    return notes


def _for_snapshot(module: torch.nn.Module | None, key: str) -> torch.nn.Module | None:
    if module is None:
        return None
    with contextlib.suppress(RefusedPickle):  # a class that only its own source text knows keeps that text
        module = as_native(module, key)
    return copy.deepcopy(module).eval().requires_grad_(False).cpu()


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
        raise ValueError(f"{config_path} belongs to {owner}: give {path.name} a folder of its own")
    with dnnlib.util.open_atomic(path) as file:
        safetensors_io.write(file, tensors, dict(format="pt", config=json.dumps(config, allow_nan=False)))
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


def write_model_card(
    networks: Mapping[str, Any],
    path: str | os.PathLike,  # the network file that the card describes, already written
    source: str,              # where the networks came from: path or URL
    licence: str,
    notes: list[str],         # what the conversion changed, one sentence each
) -> Path:
    """Write `<stem>-card.md` beside `path` and return its path."""
    path = Path(path)
    card_path = path.with_name(f"{path.stem}-card.md")
    with dnnlib.util.open_atomic(card_path, "w", encoding="utf-8") as file:
        file.write(model_card(networks, path, source, licence, notes))
    return card_path


def model_card(
    networks: Mapping[str, Any], path: str | os.PathLike, source: str, licence: str, notes: list[str]
) -> str:
    """Markdown text that says what a network file holds, where it came from and what it may be used for."""
    path = Path(path)
    rows = [
        *describe_networks(networks), ("Source", source), ("Licence", licence), ("SHA-256 of the file", sha256(path)),
    ]
    lines = [f"# {path.name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows), ""]
    lines += ["## Use", "", "```", f"python generate.py --network={path.name} --seeds=0-3 --outdir=out", "```", ""]
    lines += ["## Conversion", "", *(f"- {note}" for note in notes or ["All networks were kept as they are."]), ""]
    lines += ["## Limits", "", f"{LIMITS} Converting a file changes neither its quality nor the terms under which it "
              "may be used.", ""]
    return "\n".join(lines)


def describe_networks(networks: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the networks are, as rows of a model card."""
    G = networks["G_ema"]
    height, width = side_lengths(G.img_resolution)
    rows = [
        ("Images", f"{width}x{height}, {G.img_channels} channels"),
        ("Generator", f"{type(G).__name__}, {_num_parameters(G):,} parameters"),
        ("Latents", f"z {G.z_dim}, w {G.w_dim}, {G.num_ws} styles per image"),
        ("Classes", str(G.c_dim) if G.c_dim else "none (unconditional)"),
    ]
    if hasattr(G, "block_grid"):
        rows.insert(2, ("Latent grid", " + ".join(f"{rows}x{columns}" for rows, columns in G.block_grid)))
    if networks.get("D") is not None:
        rows.append(("Discriminator", f"{type(networks['D']).__name__}, {_num_parameters(networks['D']):,} parameters"))
    return rows


def _num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal text."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
