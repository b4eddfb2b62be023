"""What the tensors of a training phase or of a pass without gradients take at most, for any size, without computing.

    python benchmarks/tensor_memory.py [--resolutions=256,1024] [--batch=4] [--cfgs=stylegan2,ssn-plus]

The operations of a processor are traced with tensors that have a shape, but no content, and what is alive at each
moment is added up: of activations, gradients and buffers of operations, not of parameters, optimizers and data. It
agrees with a run on real tensors to a thousandth. What allocators keep beyond that, and the workspaces of convolutions
on a GPU, are not in it. Half precision is bfloat16 here, which is as large as float16. Prints a Markdown table.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import click
import PIL.Image
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import dnnlib
from torch_utils import half
from training.cli import Command
from training.run.recomputation import recomputing, resolution_blocks

MIB = 2**20
PHASES = dict(Gmain="G", Greg="G", Dmain="D", Dreg="D")
FORMATS = dict(float32=False, half=True)
CHANNELS_MAX = 512    # those of `--cfg=auto` on a GPU
CHANNELS_BASE = (16384, 32768)  # channels times resolution, below 512 pixels and from there on
THREADS = 64          # strips are cut for so many: fewer operations to trace


class LiveTensors(TorchDispatchMode):
    """Adds up the storages of results of operations within the context for as long as they are alive.

    `peak` is the largest sum so far in bytes. Storages that were there before are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        given = set(storages([args, kwargs]))
        for storage in storages(results):
            if storage not in given and storage not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return results

    def _free(self, count: int) -> None:
        self.now -= count


def storages(tree: Any) -> list[torch.UntypedStorage]:
    """Of the tensors in nested containers."""
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Traced:
    """Networks and loss of a cfg and further options of train.py.

    Tensors have no content unless `mode` is another context than that of fake tensors.
    """

    def __init__(self, cfg: str, resolution: int, batch: int, in_half: bool = False,
                 mode: contextlib.AbstractContextManager | None = None, **options: Any):
        self.mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
        half.on_processors = in_half  # for the whole process
        args = training_arguments(resolution, dict(options, cfg=cfg, batch=batch, bf16=in_half))
        shape: dict[str, Any] = dict(c_dim=0, img_resolution=resolution, img_channels=3)
        with self.mode:
            self.G, self.D = (
                dnnlib.util.construct_class_by_name(**kwargs, **shape).requires_grad_(False)
                for kwargs in (args.G_kwargs, args.D_kwargs))
            self.loss = dnnlib.util.construct_class_by_name(
                device=torch.device("cpu"), G_mapping=self.G.mapping, G_synthesis=self.G.synthesis, D=self.D,
                **args.loss_kwargs)
            self.loss.draws_on_device = True  # decides nothing by the content of a tensor
            self.real = torch.zeros([batch, 3, resolution, resolution])
            self.z, self.c = torch.zeros([batch, self.G.z_dim]), torch.zeros([batch, 0])

    def peak_of_phase(self, phase: str, recompute: bool) -> int:
        """In bytes."""
        module = getattr(self, PHASES[phase]).train().requires_grad_(True)
        blocks = resolution_blocks(self.G.synthesis, self.D) if recompute else []
        with self.mode, recomputing(blocks), LiveTensors() as live:
            self.loss.accumulate_gradients(phase, self.real, self.c, self.z, self.c, sync=True, gain=1)
        module.requires_grad_(False).zero_grad(set_to_none=True)
        return live.peak

    @torch.no_grad()
    def peak_of_sampling(self, num: int) -> int:
        """In bytes, for `num` images at a time."""
        self.G.eval()
        with self.mode, LiveTensors() as live:
            self.G(self.z[:1].repeat(num, 1), self.c[:1].repeat(num, 1))
        return live.peak


def training_arguments(resolution: int, options: dict[str, Any]) -> Any:
    """What train.py makes of its options for images of this size."""
    import train

    with tempfile.TemporaryDirectory() as folder:
        PIL.Image.new("RGB", (resolution, resolution)).save(f"{folder}/0.png")
        return train.setup_training_loop_kwargs(data=folder, gpus=0, aug="noaug", metrics=[], **options)[1]


@click.command(cls=Command)
@click.option("--resolutions", default="256,1024", show_default=True, help="In pixels")
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Images of a training step")
@click.option("--cfgs", default="ssn-baseline,ssn-plus", show_default=True, help="Networks with block grid or without")
def main(resolutions: str, batch: int, cfgs: str) -> None:
    """Largest sum of the tensors that are alive, in MiB."""
    torch.set_num_threads(THREADS)
    columns = ["pixels", "cfg", "format", *PHASES, "largest, recomputed", "sampling 1", "sampling 4"]
    click.echo(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for resolution in map(int, resolutions.split(",")):
        for cfg in cfgs.split(","):
            for name, in_half in FORMATS.items():
                traced = Traced(cfg, resolution, batch, in_half, channels_max=CHANNELS_MAX,
                                channels=CHANNELS_BASE[resolution >= 512] // resolution)
                plain = [traced.peak_of_phase(phase, recompute=False) for phase in PHASES]
                again = max(traced.peak_of_phase(phase, recompute=True) for phase in PHASES)
                sampling = [traced.peak_of_sampling(num) for num in (1, 4)]
                cells = [*plain, again, *sampling]
                click.echo(f"| {resolution} | {cfg} | {name} | " + " | ".join(f"{n / MIB:.0f}" for n in cells) + " |")


if __name__ == "__main__":
    main()
