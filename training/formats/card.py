"""Model cards: what a network file holds, where it came from and what it may be used for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import dnnlib
from training.networks import side_lengths

LIMITS = ("The images follow the data that the network was trained on, with its gaps and its biases; they show nothing "
          "and nobody real.")


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
        *describe_networks(networks), ("Source", source), ("Licence", licence),
        ("SHA-256 of the file", dnnlib.util.hash_file(path)),
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
