"""Inference as CUDA graphs: one function through which finished networks are called.

A pass of a small network is hundreds of short operations, which a fast GPU runs sooner than the host can launch them. A
graph is captured once for each network, shapes and arguments, and then launched with a single call. `training.run.
cuda_graphs` does the same for the phases of a training.

Off unless `DNNLIB_CUDA_GRAPHS=1` is in the environment. On a processor every call is the plain one in any case.
"""

from __future__ import annotations

import collections
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch

SWITCH = "DNNLIB_CUDA_GRAPHS"  # 1 in the environment: networks on a GPU are captured
MAX_GRAPHS = 8                 # of all networks together; each holds the activations of its largest layer
MAX_SEEN = 64                  # calls that are remembered, to be captured when they come again

Replay = Callable[[], None]
Key = tuple[Any, ...]          # begins with what stands for the network


def call(net: torch.nn.Module, *args: Any, tensors: dict[str, torch.Tensor] | None = None, **kwargs: Any) -> Any:
    """`net(*args, **kwargs)`, with `tensors` in the place of its parameters and buffers of these names.

    The network itself is left as it was. See `GraphCache.call` for what is captured.
    """
    return CACHE.call(net, args, kwargs, tensors or {})


def call_plainly(net: torch.nn.Module, args: tuple, kwargs: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Any:
    """The call itself, without a graph."""
    return torch.func.functional_call(net, tensors, args, kwargs) if tensors else net(*args, **kwargs)


class GraphCache:
    """Keeps the graphs that were used last, and forgets those of a network with the network.

    A call is captured when it comes for the second time; the first is the warm-up. Replays read the present values of
    parameters, buffers and inputs, so that a network may change in place; where its tensors are moved or exchanged, it
    is captured anew. What a Python attribute decides (a layer's format, its filters) is as it was in the capture.
    """

    def __init__(
        self,
        capture: Callable[[Callable[[], Any]], tuple[Replay, Any]],  # function -> how to run it again, its result
        is_possible: Callable[[torch.nn.Module], bool],
        max_graphs: int = MAX_GRAPHS,
    ):
        self.capture = capture
        self.is_possible = is_possible
        self.max_graphs = max_graphs
        self.graphs: collections.OrderedDict[Key, Graph] = collections.OrderedDict()  # the oldest use comes first
        self.seen: collections.OrderedDict[Key, bool] = collections.OrderedDict()     # is it worth a capture?
        self.lock = threading.RLock()  # the editor calls from several threads
        self.names: weakref.WeakKeyDictionary[torch.nn.Module, object] = weakref.WeakKeyDictionary()

    def call(
        self, net: torch.nn.Module, args: tuple, kwargs: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> Any:
        """The result of the call, in memory of its own. Plain with gradients, hooks or arguments that have no hash."""
        if torch.is_grad_enabled() or not self.is_possible(net):
            return call_plainly(net, args, kwargs, tensors)
        given = (args, kwargs, tensors)
        with self.lock:
            try:
                key = (self._name(net), describe(given), settings(),
                       *(tensor.data_ptr() for tensor in (*net.parameters(), *net.buffers())))
            except TypeError:
                return call_plainly(net, args, kwargs, tensors)
            if key not in self.graphs and not self._add(key, net, given):
                return call_plainly(net, args, kwargs, tensors)
            self.graphs.move_to_end(key)
            return self.graphs[key].run(given)

    def _add(self, key: Key, net: torch.nn.Module, given: Any) -> bool:
        """Capture a call that was seen before. False where it is new, or cannot be captured."""
        worth = self.seen.pop(key, None)
        self.seen[key] = True if worth is None else worth
        while len(self.seen) > MAX_SEEN:
            self.seen.popitem(last=False)
        if not worth:
            return False
        while len(self.graphs) >= self.max_graphs:  # before the capture: its memory is needed
            self.graphs.popitem(last=False)
        static = map_tensors(torch.clone, given)
        try:
            replay, result = self.capture(lambda: call_plainly(net, *static))
        except RuntimeError:  # an operation that waits for the GPU
            self.seen[key] = False
            return False
        if not isinstance(result, torch.Tensor):
            self.seen[key] = False
            return False
        self.graphs[key] = Graph(replay, static, result)
        return True

    def _name(self, net: torch.nn.Module) -> object:
        """What stands for a network in keys: unlike its address, no later network has the same."""
        if net not in self.names:
            name = self.names[net] = object()
            weakref.finalize(net, self._forget, name)
        return self.names[net]

    def _forget(self, name: object) -> None:
        with self.lock:
            for key in [key for key in list(self.graphs) if key[0] is name]:
                del self.graphs[key]
            for key in [key for key in list(self.seen) if key[0] is name]:
                del self.seen[key]


class Graph:
    """A captured call with its inputs and its result, which the next replay overwrites."""

    def __init__(self, replay: Replay, static: Any, result: torch.Tensor):
        self.replay = replay
        self.static = list_tensors(static)
        self.result = result

    def run(self, given: Any) -> torch.Tensor:
        for static, value in zip(self.static, list_tensors(given), strict=True):
            static.copy_(value)
        self.replay()
        return self.result.clone()


def map_tensors(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """A copy of nested lists, tuples and dicts with every tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: map_tensors(function, part) for name, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map_tensors(function, part) for part in value)
    return value


def list_tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of nested lists, tuples and dicts, in order."""
    found: list[torch.Tensor] = []
    map_tensors(found.append, value)
    return found


def describe(value: Any) -> Hashable:
    """Everything about arguments but the numbers in tensors. TypeError for what has no hash."""
    if isinstance(value, torch.Tensor):
        return "tensor", value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return "dict", tuple((name, describe(part)) for name, part in value.items())
    if type(value) in (list, tuple):
        return type(value), tuple(describe(part) for part in value)
    hash(value)
    return type(value), value  # 1 equals True, but need not mean the same


def settings() -> Hashable:
    """What else decides which kernels run."""
    cudnn = torch.backends.cudnn
    return (torch.is_inference_mode_enabled(), cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
            cudnn.benchmark, cudnn.deterministic, torch.is_autocast_enabled())


def is_possible_on_gpu(net: torch.nn.Module) -> bool:
    """Is this a finished network on a GPU, and are graphs wanted? Hooks would be left out of replays."""
    if os.environ.get(SWITCH) != "1" or not isinstance(net, torch.nn.Module) or net.training:
        return False
    first = next(net.parameters(), None)
    if first is None or first.device.type != "cuda" or first.device.index != torch.cuda.current_device():
        return False
    if torch.cuda.is_current_stream_capturing():
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


class GpuCapture:
    """Captures a function on the current GPU. The graphs never run at once, so all share their memory."""

    def __init__(self) -> None:
        self.pools: dict[int, Any] = {}  # by number of the GPU

    def __call__(self, function: Callable[[], Any]) -> tuple[Replay, Any]:
        device = torch.cuda.current_device()
        if device not in self.pools:
            self.pools[device] = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Other threads, which load images and write files, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self.pools[device], capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result


CACHE = GraphCache(GpuCapture(), is_possible_on_gpu)
