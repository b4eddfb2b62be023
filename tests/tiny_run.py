"""A training run of a second: what several test files start from."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

ADAM = dict(class_name="torch.optim.Adam", lr=0.002, betas=[0, 0.99], eps=1e-8)
FROM_THE_CLOCK = ("Timing/", "Resources/")  # statistics that depend on the machine


def write_zip(path: Path, num: int = 20, size: int = 8, channels: int = 3, num_classes: int = 0) -> None:
    """Random images, labelled in turn if there are classes."""
    rnd = np.random.RandomState(0)
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"{i:04d}.png" for i in range(num)]
        for name in names:
            buffer = io.BytesIO()
            pixels = rnd.randint(256, size=[size, size, channels], dtype=np.uint8)
            PIL.Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(buffer, format="PNG")
            archive.writestr(name, buffer.getvalue())
        labels = [[name, i % num_classes] for i, name in enumerate(names)] if num_classes else None
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


def loop_kwargs(run_dir: Path, zip_path: Path, use_labels: bool = False) -> dict[str, Any]:
    """Arguments of the training loop: six steps of four images, a tick after the first and after every second."""
    size = dict(channel_base=64, channel_max=8)
    return dict(
        run_dir=str(run_dir),
        training_set_kwargs=dict(class_name="training.dataset.ImageFolderDataset", path=str(zip_path),
                                 use_labels=use_labels),
        data_loader_kwargs=dict(pin_memory=True, num_workers=3, prefetch_factor=2),
        G_kwargs=dict(class_name="training.networks.Generator", z_dim=8, w_dim=8,
                      mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(size)),
        D_kwargs=dict(class_name="training.networks.Discriminator", **size),
        G_opt_kwargs=ADAM, D_opt_kwargs=ADAM,
        loss_kwargs=dict(class_name="training.loss.StyleGAN2Loss", r1_gamma=0.1),
        batch_size=4, batch_gpu=4, total_kimg=0.024, kimg_per_tick=0.008,
        image_snapshot_ticks=1, network_snapshot_ticks=1, preview_size=(4, 2), device="cpu",
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def computed_stats(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of stats.jsonl without what depends on the clock and the machine."""
    return [
        {name: value for name, value in line.items() if not name.startswith(FROM_THE_CLOCK) and name != "timestamp"}
        for line in read_lines(run_dir / "stats.jsonl")
    ]


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """Places where two trees of containers, numbers and tensors are not exactly equal."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [path]
    if isinstance(first, dict) and isinstance(second, dict):
        keys = sorted(first.keys() ^ second.keys(), key=str)
        return [f"{path}.{key}" for key in keys] + [
            place for key in first if key in second for place in differences(first[key], second[key], f"{path}.{key}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        return [place for i, pair in enumerate(zip(first, second)) for place in differences(*pair, f"{path}.{i}")]
    return [] if first == second or (first != first and second != second) else [path]
