"""torch.compile of the networks, in those phases of a training that take first derivatives only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torch_utils.ops import conv2d_gradfix

# Random numbers are those of a run that is not compiled: either kind of run carries on from the other's state.
SETTINGS: Mapping[str, Any] = dict(dynamic=False, options=dict(fallback_random=True))
# Graphs that one piece of code may have before torch runs it as it is. All networks share the code that calls them,
# and each is called with several shapes, with and without gradients.
MAX_GRAPHS = 64


class CompiledNetwork:
    """Calls a network: compiled where the loss needs first derivatives only, elsewhere as it is.

    What torch.compile makes has no second derivatives, which path lengths and R1 take. So the code is compiled only
    within `conv2d_gradfix.first_derivatives_only`, anew for every shape and kind of call. The network itself does not
    change: what is copied or saved of it knows nothing of this.
    """

    def __init__(self, module: torch.nn.Module):
        self.module = module  # under the name that it has in the wrappers of distributed training
        # Of a module itself torch.compile would leave a mark on it, which its copies and pickles have as well.
        self.compiled = torch.compile(lambda *args, **kwargs: module(*args, **kwargs), **SETTINGS)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        net = self.module if conv2d_gradfix.enabled else self.compiled
        return net(*args, **kwargs)


def compile_networks(networks: Mapping[str, torch.nn.Module], device: torch.device, verbose: bool) -> dict[str, Any]:
    """What a loss is to call in the place of its networks, by the names of its arguments.

    The networks themselves where torch.compile does not work, which is said in one line if `verbose`.
    """
    obstacle = find_obstacle(device)
    if obstacle is None:
        return {name: CompiledNetwork(module) for name, module in networks.items()}
    if verbose:
        print(f"torch.compile cannot be used ({obstacle}): training goes on without.")
    return dict(networks)


def find_obstacle(device: torch.device) -> str | None:
    """Why torch.compile fails on this device, for the user; None where it works.

    Compiles one line, which takes seconds, but whether that works depends on more than the presence of a compiler.
    """
    import torch._dynamo.config as dynamo  # takes seconds, which other runs save

    if not hasattr(dynamo, "recompile_limit"):
        return f"torch {torch.__version__} is too old"
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_GRAPHS)
    try:
        torch.compile(lambda x: x.exp() + 1, **SETTINGS)(torch.zeros([2], device=device))
    except Exception as err:  # of many kinds: no compiler, no headers, no Triton, an unsupported GPU or Python
        return (str(err).strip() or type(err).__name__).splitlines()[0]
    return None
