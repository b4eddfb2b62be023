"""Helpers around tensors and modules: cached constants, shape checks, parameter copies, distributed checks."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import torch

F = TypeVar("F", bound=Callable[..., Any])

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


@functools.lru_cache(maxsize=1024)
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
            raise ValueError("the data set to sample from must not be empty")
        if num_replicas < 1 or not 0 <= rank < num_replicas:
            raise ValueError(f"rank must be in 0..num_replicas-1, got rank {rank} of {num_replicas}")
        if not 0 <= window_size <= 1:
            raise ValueError(f"window_size must be in 0..1, got {window_size}")
        super().__init__()
        self.dataset = dataset
        self.rank = rank
        self.num_replicas = num_replicas
        self.shuffle = shuffle
        self.seed = seed
        self.window_size = window_size

    def __iter__(self) -> Iterator[int]:
        order = np.arange(len(self.dataset))
        rnd = np.random.RandomState(self.seed)
        window = 0
        if self.shuffle:
            rnd.shuffle(order)
            window = int(np.rint(order.size * self.window_size))

        step = 0
        while True:
            i = step % order.size
            if step % self.num_replicas == self.rank:
                yield int(order[i])
            if window >= 2:
                j = (i - rnd.randint(window)) % order.size
                order[i], order[j] = order[j], order[i]
            step += 1


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
                raise ValueError(f"the source must have all tensors of the destination, {name} is missing")
            continue
        src = src_tensors[name]
        if src.shape != tensor.shape:
            raise ValueError(f"{name} must have shape {list(tensor.shape)}, the source has {list(src.shape)}")
        tensor.copy_(src)


@contextlib.contextmanager
def ddp_sync(module: torch.nn.Module, sync: bool) -> Iterator[None]:
    """Let backward passes inside synchronise the gradients of a DistributedDataParallel module only if `sync`."""
    if sync or not isinstance(module, torch.nn.parallel.DistributedDataParallel):
        yield
    else:
        with module.no_sync():
            yield


def check_ddp_consistency(module: torch.nn.Module, ignore_regex: str | None = None) -> None:
    """Raise AssertionError unless all ranks hold the values of rank 0. Every rank must call it.

    ignore_regex: tensors whose full name (class name, dot, tensor name) matches entirely are left out.
    NaNs and infinities are compared as the numbers that `nan_to_num` turns them into.
    """
    different = []
    for name, tensor in named_params_and_buffers(module):
        full_name = f"{type(module).__name__}.{name}"
        if ignore_regex is not None and re.fullmatch(ignore_regex, full_name):
            continue
        mine = tensor.detach().contiguous()
        if mine.is_floating_point():
            mine = nan_to_num(mine)
        first = mine.clone()
        torch.distributed.broadcast(tensor=first, src=0)
        if not torch.equal(mine, first):
            different.append(full_name)
    # Only now: a rank that stopped early would leave the others waiting in the next broadcast.
    if different:
        raise AssertionError(f"all ranks must hold the same values, these differ: {', '.join(different)}")


def print_module_summary(
    module: torch.nn.Module, inputs: Sequence[Any], max_nesting: int = 3, skip_redundant: bool = True
) -> Any:
    """Run `module(*inputs)`, print a table of its sub-modules and return what it returned.

    max_nesting: depth of calls down to which sub-modules get a row.
    skip_redundant: leave out rows that show neither tensors nor outputs of their own.
    """
    outputs, calls = _record_calls(module, inputs, max_nesting)
    names = {sub: name for name, sub in module.named_modules()}
    names[module] = f"{type(module).__name__} <top-level>"

    seen: set[int] = set()  # ids of the tensors that an earlier row has counted or shown

    def take_new(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        new = {id(t): t for t in tensors if id(t) not in seen}
        seen.update(new)
        return list(new.values())

    rows = [["Module", "Parameters", "Buffers", "Output shape", "Datatype"], ["---"] * 5]
    total_params = total_buffers = 0
    for sub, results in calls:
        num_params = sum(t.numel() for t in take_new(sub.parameters()))
        num_buffers = sum(t.numel() for t in take_new(sub.buffers()))
        total_params += num_params
        total_buffers += num_buffers
        has_new = bool(take_new(results)) or num_params + num_buffers > 0
        if has_new or sub is module or not skip_redundant:
            shapes = [[str(list(t.shape)), str(t.dtype).split(".")[-1]] for t in results] or [["-", "-"]]
            rows.append([names[sub], str(num_params or "-"), str(num_buffers or "-"), *shapes[0]])
            rows += [[f"{names[sub]}:{i}", "-", "-", *shape] for i, shape in enumerate(shapes[1:], start=1)]
    rows += [["---"] * 5, ["Total", str(total_params), str(total_buffers), "-", "-"]]
    _print_table(rows)
    return outputs


def _record_calls(
    module: torch.nn.Module, inputs: Sequence[Any], max_nesting: int
) -> tuple[Any, list[tuple[torch.nn.Module, list[torch.Tensor]]]]:
    """Run a module; also returns each call down to `max_nesting`, inner calls first, with its output tensors."""
    calls: list[tuple[torch.nn.Module, list[torch.Tensor]]] = []
    depth = 0

    def enter(_module: torch.nn.Module, _inputs: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(sub: torch.nn.Module, _inputs: Any, result: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth <= max_nesting:
            results = result if isinstance(result, (tuple, list)) else [result]
            calls.append((sub, [r for r in results if isinstance(r, torch.Tensor)]))

    hooks = []
    for sub in module.modules():
        hooks += [sub.register_forward_pre_hook(enter), sub.register_forward_hook(leave)]
    try:
        return module(*inputs), calls
    finally:
        for hook in hooks:
            hook.remove()


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    print()
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print()
