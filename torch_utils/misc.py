"""Helpers around tensors and modules: cached constants, shape checks, parameter copies, distributed checks."""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from dnnlib.util import UserError

F = TypeVar("F", bound=Callable[..., Any])

# Does torch.compile trace this call? torch 2.1 has no such function.
is_compiling: Callable[[], bool] = getattr(torch.compiler, "is_dynamo_compiling", lambda: False)

nan_to_num = torch.nan_to_num
symbolic_assert = torch._assert


def constant(
    value: Any,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    """A constant tensor, made and sent to the device only the first time. Callers share it: never write to it.

    value: number, list, array or CPU tensor.  shape: broadcast to this shape.
    dtype: default is torch's default float type, also for integers.
    """
    array = np.asarray(value)
    return _cached_constant(
        array.tobytes(),
        array.dtype.str,
        array.shape,
        tuple(shape) if shape is not None else None,
        dtype if dtype is not None else torch.get_default_dtype(),
        torch.device(device if device is not None else "cpu"),
        memory_format if memory_format is not None else torch.contiguous_format,
    )


@functools.cache  # for good: a CUDA graph goes on reading from where a constant was
def _cached_constant(
    data: bytes,
    array_dtype: str,
    array_shape: tuple[int, ...],
    shape: tuple[int, ...] | None,
    dtype: torch.dtype,
    device: torch.device,
    memory_format: torch.memory_format,
) -> torch.Tensor:
    array = np.frombuffer(data, dtype=array_dtype).reshape(array_shape)
    with torch.inference_mode(False):  # later users may need gradients, whoever asks first
        tensor = torch.tensor(array.tolist(), dtype=dtype, device=device)
        return tensor.broadcast_to(shape if shape is not None else array_shape).contiguous(memory_format=memory_format)


class suppress_tracer_warnings(warnings.catch_warnings):
    """Context manager that ignores `torch.jit.TracerWarning`."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        return result


def assert_shape(tensor: torch.Tensor, ref_shape: Sequence[Any]) -> None:
    """Raise AssertionError unless the tensor has this shape; None in `ref_shape` stands for any size."""
    # While tracing, sizes are tensors and comparing them warns.
    with suppress_tracer_warnings() if torch.jit.is_tracing() else contextlib.nullcontext():
        matches = tensor.ndim == len(ref_shape) and all(
            ref is None or bool(size == ref) for size, ref in zip(tensor.shape, ref_shape)
        )
    if not matches:
        expected = ", ".join("any" if ref is None else str(int(ref)) for ref in ref_shape)
        raise AssertionError(f"tensor must have shape [{expected}], got {[int(size) for size in tensor.shape]}")


def profiled_function(fn: F) -> F:
    """Decorator: calls appear under the name of the function in torch's profiler."""

    @functools.wraps(fn)
    def profiled(*args: Any, **kwargs: Any) -> Any:
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return profiled  # type: ignore[return-value]


class InfiniteSampler(torch.utils.data.Sampler):
    """Endless stream of data set indices for one of several replicas.

    The indices are shuffled once; afterwards each one that was emitted may swap places with one of those emitted
    shortly before, so that no two passes are the same. All replicas run the same stream and each takes every
    `num_replicas`-th index of it, starting with its rank.

    window_size: how far back to swap, as a fraction of the data set.
    """

    def __init__(
        self,
        dataset: Sized,
        rank: int = 0,
        num_replicas: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        window_size: float = 0.5,
    ):
        if len(dataset) < 1:
            raise UserError("the data set to sample from must not be empty")
        if num_replicas < 1 or not 0 <= rank < num_replicas:
            raise UserError(f"rank must be in 0..num_replicas-1, got rank {rank} of {num_replicas}")
        if not 0 <= window_size <= 1:
            raise UserError(f"window_size must be in 0..1, got {window_size}")
        super().__init__()
        self.dataset = dataset
        self.rank = rank
        self.num_replicas = num_replicas
        self.shuffle = shuffle
        self.seed = seed
        self.window_size = window_size

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._shared_stream(), self.rank, None, self.num_replicas)

    def _shared_stream(self) -> Iterator[int]:
        """The indices that all replicas draw together."""
        size = len(self.dataset)
        rnd = np.random.RandomState(self.seed)
        order: list[int] = (rnd.permutation(size) if self.shuffle else np.arange(size)).tolist()
        window = round(size * self.window_size) if self.shuffle else 0
        while True:
            # Lists, with the numbers of a whole pass: a resumed run goes through millions of indices to find its place.
            back = rnd.randint(window, size=size).tolist() if window >= 2 else None
            for here in range(size):
                yield order[here]
                if back is not None:
                    there = here - back[here]  # below zero it counts from the end: those of the last pass
                    order[here], order[there] = order[there], order[here]


def params_and_buffers(module: torch.nn.Module) -> list[torch.Tensor]:
    """All parameters, then all buffers."""
    return [tensor for _, tensor in named_params_and_buffers(module)]


def named_params_and_buffers(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """All parameters, then all buffers, with their names."""
    return [*module.named_parameters(), *module.named_buffers()]


@torch.no_grad()
def copy_params_and_buffers(
    src_module: torch.nn.Module, dst_module: torch.nn.Module, require_all: bool = False
) -> None:
    """Copy the values of equally named parameters and buffers in place.

    Names that only the source has are ignored; those that only the destination has keep their value, or raise
    ValueError with `require_all`. Different shapes raise ValueError.
    """
    src_tensors = dict(named_params_and_buffers(src_module))
    for name, tensor in named_params_and_buffers(dst_module):
        if name not in src_tensors:
            if require_all:
                raise UserError(f"the source must have all tensors of the destination, {name} is missing")
            continue
        src = src_tensors[name]
        if src.shape != tensor.shape:
            raise UserError(f"{name} must have shape {list(tensor.shape)}, the source has {list(src.shape)}")
        tensor.copy_(src)


def ddp_sync(module: torch.nn.Module, sync: bool) -> contextlib.AbstractContextManager[None]:
    """Let backward passes inside synchronise the gradients of a DistributedDataParallel module only if `sync`."""
    postpones = isinstance(module, torch.nn.parallel.DistributedDataParallel) and not sync
    return module.no_sync() if postpones else contextlib.nullcontext()


def check_ddp_consistency(module: torch.nn.Module, ignore_regex: str | None = None) -> None:
    """Raise AssertionError unless all ranks hold the values of rank 0. Every rank must call it.

    ignore_regex: tensors whose full name (class name, dot, tensor name) matches entirely are left out.
    NaNs and infinities are compared as the numbers that `nan_to_num` turns them into.
    """
    prefix = type(module).__name__
    tensors = {f"{prefix}.{name}": tensor for name, tensor in named_params_and_buffers(module)}
    if ignore_regex is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(ignore_regex, name)}
    # All are compared before any error: a rank that stopped early would leave the others waiting in a broadcast.
    different = [name for name, tensor in tensors.items() if not _equals_first_rank(tensor)]
    if different:
        raise AssertionError(f"all ranks must hold the same values, these differ: {', '.join(different)}")


def _equals_first_rank(tensor: torch.Tensor) -> bool:
    """Whether this rank's tensor equals that of rank 0; a collective call."""
    own = nan_to_num(tensor.detach()).contiguous()
    received = own.clone()
    torch.distributed.broadcast(received, src=0)
    return torch.equal(received, own)


def print_module_summary(
    module: torch.nn.Module, inputs: Sequence[Any], max_nesting: int = 3, skip_redundant: bool = True
) -> Any:
    """Run `module(*inputs)`, print a table of its sub-modules and return what it returned.

    max_nesting: depth of calls down to which sub-modules get a row.
    skip_redundant: leave out rows that show neither tensors nor outputs of their own.
    """
    calls: list[_Call] = []
    with _recorded_calls(module, max_nesting, calls):
        outputs = module(*inputs)
    print(f"\n{_summary_table(module, calls, skip_redundant)}\n")
    return outputs


class _Call(NamedTuple):
    """One run of a sub-module."""

    module: torch.nn.Module
    outputs: list[torch.Tensor]


@contextlib.contextmanager
def _recorded_calls(root: torch.nn.Module, max_nesting: int, calls: list[_Call]) -> Iterator[None]:
    """Append every call inside `root`, down to `max_nesting`, to `calls` when it returns: inner ones come first."""
    running: list[torch.nn.Module] = []

    def enter(module: torch.nn.Module, _inputs: Any) -> None:
        running.append(module)

    def leave(module: torch.nn.Module, _inputs: Any, result: Any) -> None:
        running.pop()
        if len(running) <= max_nesting:
            results = result if isinstance(result, (tuple, list)) else [result]
            calls.append(_Call(module, [r for r in results if isinstance(r, torch.Tensor)]))

    with contextlib.ExitStack() as hooks:
        for module in root.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield


def _summary_table(root: torch.nn.Module, calls: Sequence[_Call], skip_redundant: bool) -> str:
    """One line per call with the tensors that no earlier line has counted, between a heading and the totals."""
    names = {module: name or type(root).__name__ for name, module in root.named_modules()}
    counted: set[torch.Tensor] = set()  # tensors hash by identity
    lines: list[tuple[str, ...]] = []
    totals = [0, 0]
    for call in calls:
        kinds = [set(tensors) - counted for tensors in (call.module.parameters(), call.module.buffers(), call.outputs)]
        counted.update(*kinds)
        sizes = [sum(tensor.numel() for tensor in tensors) for tensors in kinds[:2]]
        totals = [total + size for total, size in zip(totals, sizes)]
        if any(kinds) or call.module is root or not skip_redundant:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in call.outputs)
            dtypes = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in call.outputs}))
            lines.append((names[call.module], *(f"{size:,}" if size else "" for size in sizes), shapes, dtypes))
    heading = ("layer", "parameters", "buffers", "output", "dtype")
    total = ("total", *(f"{size:,}" for size in totals), "", "")
    wide = [max(map(len, column)) for column in zip(heading, *lines, total)]
    rule = "-" * (sum(wide) + 2 * len(wide) - 2)

    def format_line(line: Sequence[str]) -> str:
        name, num_params, num_buffers, shapes, dtypes = line
        return (f"{name:<{wide[0]}}  {num_params:>{wide[1]}}  {num_buffers:>{wide[2]}}  "
                f"{shapes:<{wide[3]}}  {dtypes}").rstrip()

    return "\n".join([format_line(heading), rule, *map(format_line, lines), rule, format_line(total)])
