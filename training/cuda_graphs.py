"""Phases as CUDA graphs: their operations are recorded once and then launched together.

A step of a small network is thousands of short operations, and a fast GPU waits for the host to launch each of them.
A graph repeats what was recorded with the present inputs and weights, and with random numbers that follow from the seed
as without graphs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from training.loss import Loss

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # real_img, real_c, gen_z, gen_c


class GraphedLoss(Loss):
    """Takes the place of a loss on a GPU. The second part of every kind is recorded, those after it are replayed.

    The first runs as without graphs, so that constants are made, and convolutions tuned, before anything is recorded.
    A kind is a phase, its shapes, and what else the loss names in `graph_key`; where that is None, nothing is recorded.
    """

    def __init__(self, loss: Loss, modules: Sequence[torch.nn.Module]):
        self.loss = loss
        self.params = [param for module in modules for param in module.parameters()]
        self.pool = torch.cuda.graph_pool_handle()  # graphs never run at once, so all share their memory
        self.has_run: set[Hashable] = set()
        self.recordings: dict[Hashable, Recording] = {}

    def accumulate_gradients(
        self,
        phase: str,
        real_img: torch.Tensor,
        real_c: torch.Tensor,
        gen_z: torch.Tensor,
        gen_c: torch.Tensor,
        sync: bool,
        gain: float,
    ) -> None:
        """As that of the loss. Raises ValueError where its operations cannot be recorded."""
        inputs = (real_img, real_c, gen_z, gen_c)
        decided = self.loss.graph_key(phase)
        key = (phase, gain, decided, *(x.shape for x in inputs))
        if decided is None or key not in self.has_run:
            self.loss.accumulate_gradients(phase, real_img, real_c, gen_z, gen_c, sync, gain)
            self.has_run.add(key)
            return
        if key in self.recordings:
            self.loss.count_part(phase, len(gen_z), sync)
        else:
            self.recordings[key] = self._record(phase, inputs, sync, gain)
        self.recordings[key].replay(inputs, is_last=sync)

    def _record(self, phase: str, inputs: Inputs, sync: bool, gain: float) -> Recording:
        """The operations of a part of the batch; its gradients are not added to those there are. Nothing runs yet."""
        earlier = [param.grad for param in self.params]
        for param in self.params:
            param.grad = None  # backward passes shall make new ones, in the memory of the graph
        graph = torch.cuda.CUDAGraph()
        real_img, real_c, gen_z, gen_c = (x.clone() for x in inputs)
        try:
            # Other threads, which load images and write files, may go on meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                self.loss.accumulate_gradients(phase, real_img, real_c, gen_z, gen_c, sync, gain)
        except RuntimeError as err:
            reason = str(err).splitlines()[0]
            raise ValueError(f"phase {phase} cannot be recorded as a CUDA graph: {reason}") from err
        grads = [(param, param.grad) for param in self.params if param.grad is not None]
        for param, grad in zip(self.params, earlier):
            param.grad = grad
        return Recording(graph, (real_img, real_c, gen_z, gen_c), grads)


class Recording:
    """A graph with the memory that it reads inputs from and writes gradients to."""

    def __init__(
        self,
        graph: torch.cuda.CUDAGraph,
        inputs: Inputs,
        grads: Sequence[tuple[torch.nn.Parameter, torch.Tensor]],
    ):
        self.graph = graph
        self.inputs = inputs
        self.grads = grads

    def replay(self, inputs: Inputs, is_last: bool) -> None:
        """Run the graph and add its gradients to `.grad`. Its own memory may stay there after the last part only."""
        for static, value in zip(self.inputs, inputs):
            static.copy_(value)
        self.graph.replay()
        for param, grad in self.grads:
            if param.grad is not None:
                param.grad.add_(grad)
            else:
                param.grad = grad if is_last else grad.clone()
