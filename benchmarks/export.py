"""Time of exported networks in onnxruntime against torch, on one thread, and how far their images are apart.

CPU time of single images, torch and onnxruntime in turns in one process; a ratio is the median over the turns.

    python benchmarks/export.py --networks=demo:castles64,ssn:128,stylegan2:256
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssn_plugin.exporting.files import check_onnx, to_onnx  # noqa: E402
from ssn_plugin.exporting.programs import trace  # noqa: E402
from ssn_plugin.networks import SSNGenerator  # noqa: E402
from training.cli import Command  # noqa: E402
from training.network_files import load_networks  # noqa: E402
from training.networks import Generator  # noqa: E402

WIDTHS = dict(channel_base=4096, channel_max=64)   # of fresh networks


def make(name: str) -> torch.nn.Module:
    """A network file, or a fresh network such as ssn:128, ssn-plus:64 (two grids) or stylegan2:256."""
    kind, _, size = name.partition(":")
    torch.manual_seed(0)
    if kind in ("ssn", "ssn-plus"):
        grids = [[1, 1], [4, 4]] if kind == "ssn-plus" else [[4, 4]]
        return SSNGenerator(64, 0, 64, int(size), 3, block_grid=grids, synthesis_kwargs=WIDTHS)
    if kind == "stylegan2":
        return Generator(64, 0, 64, int(size), 3, synthesis_kwargs=WIDTHS)
    return load_networks(name)["G_ema"]


def cpu_time(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of one call."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats * 1000


def measure(name: str, turns: int, repeats: int) -> str:
    """A row of the table."""
    import onnxruntime

    G = make(name).eval().requires_grad_(False)
    program = trace(G, name)[1]
    data = to_onnx(program, {}, name)
    difference = check_onnx(program, data, 1.0, name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    (ws,) = program.part.example(1)
    feed = dict(ws=ws.numpy())

    @torch.inference_mode()
    def with_torch() -> object:
        return G.synthesis(ws, noise_mode="const")

    def with_onnx() -> object:
        return session.run(None, feed)

    cpu_time(with_torch, 2), cpu_time(with_onnx, 2)
    pairs = [(cpu_time(with_torch, repeats), cpu_time(with_onnx, repeats)) for _ in range(turns)]
    ratio = statistics.median(a / b for a, b in pairs)
    torch_ms, onnx_ms = (statistics.median(column) for column in zip(*pairs))
    return f"| {name} | {len(data) / 1e6:.1f} | {torch_ms:.1f} | {onnx_ms:.1f} | {ratio:.1f} | {difference:.1g} |"


@click.command(cls=Command)
@click.option("--networks", default="demo:castles64,ssn-plus:64,ssn:128,stylegan2:64,stylegan2:256", show_default=True,
              help="Files, short names, or fresh networks by kind and size")
@click.option("--turns", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Images in a turn")
def main(networks: str, turns: int, repeats: int) -> None:
    """Compare exported networks with torch."""
    torch.set_num_threads(1)
    click.echo("| network | MB | torch, ms | onnxruntime, ms | times as fast | largest difference |")
    click.echo("|---|---|---|---|---|---|")
    for name in networks.split(","):
        click.echo(measure(name, turns, repeats))


if __name__ == "__main__":
    main()
