"""CUDA graphs of training phases: what a GPU runs is captured once and then launched with a single call.

A step of a small network is thousands of short operations, and a fast GPU waits for the host to launch each of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from dnnlib.util import UserError
from training.loss import Loss

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # real_img, real_c, gen_z, gen_c


class GraphedLoss(Loss):
    """Runs a loss on a GPU as CUDA graphs, one for each phase, set of shapes, gain and `graph_key` of the loss.

    The first call runs eagerly and serves as warm-up: constants are made, convolutions tuned. The second is captured
    and replayed, later ones are replayed, with the present inputs, weights and random state: with the same seed a
    replay draws what the loss itself would. Calls without a key always run eagerly.
    """

    def __init__(self, loss: Loss, modules: Sequence[torch.nn.Module]):
        self.loss = loss
        self.params = [param for module in modules for param in module.parameters()]
        self.pool = torch.cuda.graph_pool_handle()  # graphs never run at once, so all share their memory
        self.warmed_up: set[Hashable] = set()
        self.captures: dict[Hashable, Capture] = {}

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
        """As that of the loss. Raises ValueError where its operations cannot be captured."""
        inputs = (real_img, real_c, gen_z, gen_c)
        decided = self.loss.graph_key(phase) if isinstance(self.loss, Loss) else None
        key = (phase, gain, decided, *(x.shape for x in inputs))
        if decided is None or key not in self.warmed_up:
            self.loss.accumulate_gradients(phase, real_img, real_c, gen_z, gen_c, sync, gain)
            self.warmed_up.add(key)
            return
        if key in self.captures:
            self.loss.count_part(phase, len(gen_z), sync)
        else:
            self.captures[key] = self._capture(phase, inputs, sync, gain)
        self.captures[key].replay(inputs, is_last=sync)

    def _capture(self, phase: str, inputs: Inputs, sync: bool, gain: float) -> Capture:
        """Capture a call without running it on the GPU; `.grad` is left as it was."""
        earlier = [param.grad for param in self.params]
        for param in self.params:
            param.grad = None  # the backward pass shall make new ones, in the memory of the graph
        graph = torch.cuda.CUDAGraph()
        real_img, real_c, gen_z, gen_c = (x.clone() for x in inputs)
        try:
            # Other threads, which load images and write files, may go on meanwhile.
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                self.loss.accumulate_gradients(phase, real_img, real_c, gen_z, gen_c, sync, gain)
            grads = [(param, param.grad) for param in self.params if param.grad is not None]
        except RuntimeError as err:
            cause = err.__context__ or err  # ending a capture that broke raises an error of its own
            raise UserError(f"phase {phase} cannot be a CUDA graph: {str(cause).splitlines()[0]}") from err
        finally:
            for param, grad in zip(self.params, earlier):
                param.grad = grad
        return Capture(graph, (real_img, real_c, gen_z, gen_c), grads)


class Capture:
    """A graph with its static inputs and the gradients that it writes."""

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
        """Run the graph and add its gradients to `.grad`.

        is_last: no further call before the optimizer steps. Only then may `.grad` be the graph's own memory, which the
        next replay overwrites.
        """
        for static, value in zip(self.inputs, inputs):
            static.copy_(value)
        self.graph.replay()
        for param, grad in self.grads:
            if param.grad is not None:
                param.grad.add_(grad)
            else:
                param.grad = grad if is_last else grad.clone()
