"""The parts of a generator as modules with plain tensor inputs, traced for any batch.

Letters in shapes: N batch, L layers, B blocks of all grids, bw style numbers per block, r rows and columns of a layer.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ssn_plugin.errors import UserError
from ssn_plugin.exporting.operations import exportable

INPUTS = ("noise", "mask")  # what synthesis may take beside ws
BATCH = "batch"             # the name of the axis whose length is free


class Mapping(torch.nn.Module):
    """z [N, z_dim], labels c [N, c_dim] where the network has classes, truncation [] -> ws [N, L, w_dim]"""

    def __init__(self, G: torch.nn.Module):
        super().__init__()
        self.mapping = G.mapping
        self.c_dim = G.c_dim
        self.truncates = getattr(G.mapping, "w_avg", None) is not None

    @property
    def input_names(self) -> list[str]:
        return ["z", *(["c"] if self.c_dim else []), *(["truncation"] if self.truncates else [])]

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        random = torch.Generator().manual_seed(batch)
        label = [torch.eye(self.c_dim)[torch.arange(batch) % self.c_dim]] if self.c_dim else []
        psi = [torch.tensor(0.7)] if self.truncates else []
        return torch.randn([batch, self.mapping.z_dim], generator=random), *label, *psi

    def forward(self, z: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        c = others[0] if self.c_dim else z.new_zeros([z.shape[0], 0])
        ws = self.mapping(z, c)
        if not self.truncates:
            return ws
        return self.mapping.w_avg + (ws - self.mapping.w_avg) * others[-1]


class Synthesis(torch.nn.Module):
    """ws [N, L, w_dim] -> images [N, C, H, W], nominally in -1..1

    With "mask": other_ws [N, L, w_dim] and mask [N, L, B] bool; where it is true the styles are those of other_ws, as
    in an edit. With "noise": unit normal maps [N, 1, r, r], one for each convolution that has noise; without it, those
    that the network keeps.
    """

    def __init__(self, G: torch.nn.Module, inputs: Sequence[str] = ()):
        super().__init__()
        self.synthesis = G.synthesis
        self.num_ws, self.w_dim = G.num_ws, G.w_dim
        self.takes_mask = "mask" in inputs
        self.num_blocks = sum(rows * cols for rows, cols in getattr(G, "block_grid", []))
        maps = {name: buffer for name, buffer in G.synthesis.named_buffers() if name.endswith(".noise_const")}
        self.noise_names = list(maps) if "noise" in inputs else []
        self.noise_shapes = [list(maps[name].shape) for name in self.noise_names]

    @property
    def input_names(self) -> list[str]:
        noise = [f"noise.{name.removesuffix('.noise_const')}" for name in self.noise_names]
        return ["ws", *(["other_ws", "mask"] if self.takes_mask else []), *noise]

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        random = torch.Generator().manual_seed(batch)
        ws = torch.randn([2, batch, self.num_ws, self.w_dim], generator=random)
        mask = torch.rand([batch, self.num_ws, self.num_blocks], generator=random) > 0.5
        noise = [torch.randn([batch, 1, *shape], generator=random) for shape in self.noise_shapes]
        return ws[0], *((ws[1], mask) if self.takes_mask else ()), *noise

    def forward(self, ws: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        if self.takes_mask:
            chosen = others[1].repeat_interleave(self.w_dim // self.num_blocks, dim=2)
            ws = torch.where(chosen, others[0], ws)
        maps = dict(zip(self.noise_names, others[2 if self.takes_mask else 0:]))
        # As buffers, since a StyleGAN2 takes no maps. Scaled activations, not a kernel for each image.
        return torch.func.functional_call(
            self.synthesis, maps, (ws,), dict(noise_mode="const", fused_modconv=False))


Part = Mapping | Synthesis


@dataclasses.dataclass(frozen=True)
class Program:
    """A part of a generator, traced."""

    name: str                                  # mapping or synthesis
    part: Part
    traced: torch.export.ExportedProgram
    output_name: str


def check_inputs(inputs: Sequence[str], G: torch.nn.Module, name: str) -> None:
    """Raise ValueError for inputs of synthesis that are not there, or not with this network."""
    for value in inputs:
        if value not in INPUTS or inputs.count(value) > 1:
            raise UserError(f"--inputs must be different ones of {', '.join(INPUTS)}, got {','.join(inputs)}")
    if "mask" in inputs and not hasattr(G, "block_grid"):
        raise UserError(f"--inputs=mask needs a network with a block grid, {name} has none")


def trace(G: torch.nn.Module, name: str, inputs: Sequence[str] = (), dtype: torch.dtype = torch.float32
          ) -> list[Program]:
    """Both parts of a generator. dtype: of activations; the mapping and the styles stay in float32.

    name: of the network, for messages.  Raises ValueError, which names the operator, for what cannot be traced.
    """
    check_inputs(inputs, G, name)
    for needed in ("mapping", "synthesis", "num_ws", "w_dim"):
        if not hasattr(G, needed):
            raise UserError(f"{name} cannot be exported: its generator has no {needed}")
    G = G.eval().requires_grad_(False).cpu()
    parts: list[tuple[str, Part, str]] = [("mapping", Mapping(G), "ws"), ("synthesis", Synthesis(G, inputs), "image")]
    with quiet(), exportable(G.synthesis, dtype), translated_errors(name):
        return [Program(title, part, trace_part(part), output) for title, part, output in parts]


def trace_part(part: Part) -> torch.export.ExportedProgram:
    """Traced with a batch of two: torch takes the lengths 0 and 1 for constants."""
    first, *others = part.example(2)
    batch = torch.export.Dim(BATCH, min=1)
    free = [{0: batch} if tensor.ndim else {} for tensor in (first, *others)]
    shapes = (free[0], tuple(free[1:])) if others else (free[0],)  # forward has one named argument and the rest
    return torch.export.export(part.eval(), (first, *others), dynamic_shapes=shapes, strict=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say about themselves. Preparing it takes them longer than their work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def translated_errors(name: str) -> Iterator[None]:
    """Say in one line what torch's exporters say in many."""
    try:
        yield
    except UserError:
        raise
    except Exception as err:   # of any class, from many places
        raise UserError(f"{name} cannot be exported: {reason_of(err)}") from err


def reason_of(err: BaseException) -> str:
    """The operator that could not be exported, where the error or one of its causes names it; else its first line."""
    chain: list[BaseException] = [err]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 8:
        chain.append(cause)
    for link in chain:
        match = re.search(r"op='([\w.:]+)'|(aten[.:]+\w+)|operator '?([\w.]+::\w+)", str(link))
        if match:
            return f"operator {next(filter(None, match.groups())).replace('::', '.')} is not supported"
    if "data-dependent" in str(err):
        return "operator aten._local_scalar_dense is not supported: a size or a choice depends on values of tensors"
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:300]
