"""Compare the memory that `python -m ssn_plugin doctor` estimates for training with what a training process takes.

    python benchmarks/training_memory.py [CFG RESOLUTION BATCH]...

Each size runs in a process of its own, for one step with all phases on the CPU. Prints a row of a Markdown table per
size.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]   # children start there, so that they find the packages
sys.path.insert(0, str(ROOT))

SIZES = [("ssn", 32, 16), ("ssn", 128, 8), ("auto", 32, 4), ("auto", 64, 4)]  # (cfg, pixels, batch)


def main() -> None:
    words = sys.argv[1:]
    sizes = [(words[i], int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 3)] or SIZES
    print("| cfg | pixels | batch | estimated, MiB | measured, MiB | difference |\n|---|---|---|---|---|---|")
    for cfg, resolution, batch in sizes:
        program = f"from benchmarks import training_memory as m; m.report({cfg!r}, {resolution}, {batch})"
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def report(cfg: str, resolution: int, batch: int) -> None:
    """Print the row of one size; the process must be a fresh one."""
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(cfg, resolution, batch, folder)
        expected = estimate(args, resolution)
        take_one_step(args, folder)
    measured = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(f"| {cfg} | {resolution} | {batch} | {expected:.0f} | {measured:.0f} | {expected / measured - 1:+.0%} |")


def training_arguments(cfg: str, resolution: int, batch: int, folder: str) -> dict[str, Any]:
    """What train.py hands to the training loop, for black images."""
    from PIL import Image

    from ssn_plugin.hosts import launch

    for i in range(2 * batch):
        Image.new("RGB", (resolution, resolution)).save(f"{folder}/{i}.png")
    options = dict(data=folder, cfg=cfg, batch=batch, gpus=0, metrics=[], aug="noaug", workers=1)
    return launch.training_arguments(options)


def estimate(args: dict[str, Any], resolution: int) -> float:
    """The estimate in MiB. The networks are built in another process, whose memory does not count."""
    program = "from benchmarks import training_memory as m; print(m.compute_estimate(" \
              f"{dict(G=dict(args['G_kwargs']), D=dict(args['D_kwargs']))!r}, {args['batch_gpu']}, {resolution}))"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(process.stdout) / 2**20


def compute_estimate(kwargs: dict[str, Any], batch: int, resolution: int) -> int:
    import dnnlib
    from ssn_plugin.hosts import memory

    shape: dict[str, Any] = dict(c_dim=0, img_resolution=resolution, img_channels=3)
    G, D = (dnnlib.util.construct_class_by_name(**kwargs[name], **shape) for name in "GD")
    return memory.estimate_memory(G, D, resolution**2, on_gpu=False).of_batch(batch)


def take_one_step(args: dict[str, Any], folder: str) -> None:
    """The first step, in which all phases are due. What the loop prints goes nowhere."""
    from torch_utils.allocator import keep_freed_memory
    from training import training_loop

    keep_freed_memory()  # as train.py does
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        training_loop.training_loop(
            **{**args, "run_dir": folder, "image_snapshot_ticks": None, "network_snapshot_ticks": None},
            abort_fn=lambda: True)


if __name__ == "__main__":
    main()
