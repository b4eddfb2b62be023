"""A network in memory, ready for editing: as it is in its file, or tuned to one picture."""

from __future__ import annotations

import copy
import dataclasses
import os
import threading

import torch

from ssn_plugin.block_grid import block_grid_of
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.recipe import Recipe, hash_network
from ssn_plugin.edits.resample import check_recipe
from ssn_plugin.errors import UserError


@dataclasses.dataclass(frozen=True)
class OpenNetwork:
    """A generator, with what would be slow to find out again. Sessions may share one."""

    G: torch.nn.Module
    name: str                    # file name or short name, for people
    sha256: str                  # see `hash_network`; of the network before it was tuned
    path: str | None = None      # how it was called
    tuned: Arrays | None = None  # what was added to its parameters
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock, compare=False, repr=False)

    @classmethod
    def load(cls, network: str, device: str | None = None, trust: bool = False) -> OpenNetwork:
        """Read a network file, URL or short name as `generate.py` does. ValueError or OSError if that fails.

        trust: execute source code that the file carries.
        """
        from torch_utils.devices import choose_device  # other hosts have other readers
        from training.images.generation import load_generator

        return cls.of(load_generator(network, choose_device(device), trust), os.path.basename(network), network)

    @classmethod
    def of(cls, G: torch.nn.Module, name: str, path: str | None = None) -> OpenNetwork:
        """A generator that is in memory already. ValueError unless it has a block grid."""
        block_grid_of(G, name)
        return cls(G, name, hash_network(G), path)

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless the recipe belongs to this network, tuned as it is, and fits it."""
        check_recipe(recipe, self.G, self.name, self.sha256)
        if recipe.tuned != self.tuned:
            raise UserError("the recipe belongs to a network that was tuned to another picture, or to none")

    def tuned_for(self, recipe: Recipe) -> OpenNetwork:
        """The network as the recipe wants it: this one, or a copy of it with other parameters."""
        if recipe.tuned == self.tuned:
            return self
        if self.tuned is not None:
            raise UserError("a network that was tuned cannot be tuned to another picture")
        if recipe.network_sha256 != self.sha256:
            check_recipe(recipe, self.G, self.name, self.sha256)  # says so
        assert recipe.tuned is not None
        tuned = add_to_parameters(self.G, recipe.tuned)
        return OpenNetwork(tuned, self.name, self.sha256, self.path, recipe.tuned, self.lock)


@torch.no_grad()
def add_to_parameters(G: torch.nn.Module, tuned: Arrays) -> torch.nn.Module:
    """A copy of the network with the arrays added to parameters of these names. ValueError if they do not fit.

    Where strengths of noise change, the fixed noise maps are scaled to have the same effect as before.
    """
    G = copy.deepcopy(G)
    parameters = dict(G.named_parameters())
    for name, delta in tuned.load().items():
        if name not in parameters or list(parameters[name].shape) != list(delta.shape):
            shape = list(parameters[name].shape) if name in parameters else "no such parameter"
            raise UserError(f"the tuned network changes {name[:80]!r} by {list(delta.shape)}, this one has {shape}")
        before = parameters[name].clone()
        parameters[name].add_(torch.from_numpy(delta).to(parameters[name]))
        if name.endswith(".noise_strength"):  # the network's own noise keeps its effect
            old, new = float(before), float(parameters[name].detach())
            G.get_buffer(name.removesuffix("noise_strength") + "noise_const").mul_(old / new if new else 0.0)
    return G
