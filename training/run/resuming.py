"""Starting a run from the networks of a file: what fits by name and shape, and what does not."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from dnnlib.util import UserError
from torch_utils import misc
from training.network_files import load_networks
from training.run import cfgs, growing

# Parts of a network that depend on whether there are labels, and on how many classes.
LABEL_PARTS = {"G": re.compile(r"mapping\.(embed\..*|fc0\.weight)"), "D": re.compile(r"mapping\..*|b4\.out\..*")}
# Attributes of layers that change what their weights do.
SETTINGS = {"activation": "activation", "up": "upsampling", "down": "downsampling", "bias_gain": "learning rate"}

Say = Callable[[str], object]


@torch.no_grad()
def resume_networks(
    resume_pkl: str,                            # path or URL
    networks: Mapping[str, torch.nn.Module],    # of the run, by the names in the file: `G`, `D`, `G_ema`
    trust: bool = False,                        # allow a pickle to run the code it brings along
    partial: bool = False,                      # take what fits, and leave the rest as it is
    say: Say = print,
) -> None:
    """Copy parameters and buffers from a network file.

    Where the networks of the file are of another kind, the cfg that the run belongs to takes over what it can; what
    it cannot is printed, tensor by tensor. Otherwise everything must fit but for the parts that depend on the labels,
    which start anew where the labels are others, and are printed.
    Networks of a lower resolution grow: the levels that they lack are printed and start so that nothing changes.
    Raises UserError, which names what differs and the option that would fit, or the network that the file lacks.
    """
    snapshot = load_networks(resume_pkl, trust=trust)
    file = os.path.basename(resume_pkl)
    for name in networks:
        if snapshot[name] is None:
            raise UserError(f"{file} cannot be trained further: it holds no {name}")
        if not partial:
            check_architecture(snapshot[name], networks[name], name, file)
    levels = {name: growing.new_levels(snapshot[name], network) for name, network in networks.items()}
    notes = cfgs.take_over(snapshot, networks)
    if notes is not None:
        growing.start_unchanged(snapshot, networks, levels)
        tell(say, f"Transferred from {resume_pkl}; {len(notes)} tensors differ:", notes)
        return
    differences, labels, grown = [], [], []
    for name, network in networks.items():
        others, own_labels = compare(snapshot[name], network, name)
        grown += [line for line in others if growing.is_growth(line, name, levels[name])]
        differences += [line for line in others if not growing.is_growth(line, name, levels[name])]
        labels += own_labels
    if differences and not partial:
        more = f" and {len(differences) - 1} more differences" if len(differences) > 1 else ""
        raise UserError(f"{file} does not fit this run: {differences[0]}{more}{hint(snapshot, networks)}; "
                        "--resume-partial takes what fits")
    for name, network in networks.items():
        copy_what_fits(snapshot[name], network)
    if grown:
        growing.start_unchanged(snapshot, networks, levels)
        tell(say, f"Grown from {resume_pkl}; these parts start so that they change nothing yet:", grown)
    if differences:
        tell(say, f"Took from {resume_pkl} what fits; {len(differences)} differences:", differences)
    if labels:
        tell(say, "The labels are others, so these parts start anew:", labels)


def tell(say: Say, heading: str, lines: Sequence[str]) -> None:
    say(heading)
    for line in lines:
        say(f"  {line}")


def network_architecture(network: torch.nn.Module) -> str | None:
    """How a generator or discriminator of any host joins resolutions: orig, skip or resnet; None where it is unsaid."""
    return next((module.architecture for module in network.modules() if hasattr(module, "architecture")), None)


def check_architecture(source: torch.nn.Module, network: torch.nn.Module, name: str, file: str) -> None:
    """Many tensors of another architecture would fit by name and shape, but they have learned to work with others."""
    theirs, ours = network_architecture(source), network_architecture(network)
    if None not in (theirs, ours) and theirs != ours:
        raise UserError(f"{file} does not fit this run: {name} must have the architecture {ours}, it has {theirs}; "
                        f"--{name[0].lower()}-arch={theirs} goes with it")


def compare(source: torch.nn.Module, network: torch.nn.Module, key: str) -> tuple[list[str], list[str]]:
    """What differs between a network of a file and that of a run, and names of the parts that other labels change."""
    theirs, ours = (dict(misc.named_params_and_buffers(module)) for module in (source, network))
    other_labels = getattr(source, "c_dim", None) != getattr(network, "c_dim", None)
    differences, labels = [], []
    for name in sorted(theirs.keys() | ours.keys()):
        if name in theirs and name in ours and theirs[name].shape == ours[name].shape:
            continue
        if other_labels and LABEL_PARTS[key[0]].fullmatch(name):
            labels += [f"{key}.{name}"] if name in ours else []
        elif name not in ours:
            differences.append(f"only the file has {key}.{name}")
        elif name not in theirs:
            differences.append(f"the file lacks {key}.{name}")
        else:
            differences.append(f"{key}.{name} has shape {list(theirs[name].shape)} in the file and "
                               f"{list(ours[name].shape)} here")
    return differences + compare_settings(source, network, key), labels


def compare_settings(source: torch.nn.Module, network: torch.nn.Module, key: str) -> list[str]:
    """Layers of the same name that do something else with their weights."""
    theirs = dict(source.named_modules())
    return [
        f"{key}.{name} has {SETTINGS[attribute]} {there} in the file and {here} here"
        for name, module in network.named_modules() for attribute in SETTINGS
        if (here := getattr(module, attribute, None)) is not None
        and (there := getattr(theirs.get(name), attribute, None)) is not None and there != here
    ]


def hint(snapshot: Mapping[str, Any], networks: Mapping[str, Any]) -> str:
    """The option with which the generator of the file would fit, as far as there is one."""
    theirs, ours = snapshot.get("G"), networks.get("G")
    if theirs is None or ours is None:
        return ""
    if theirs.img_resolution != ours.img_resolution or theirs.img_channels != ours.img_channels:
        return (f"; --data must hold images of {size(theirs.img_resolution)} and {theirs.img_channels} channels, it "
                f"has {size(ours.img_resolution)} and {ours.img_channels}")
    layers, here = (getattr(getattr(G, "mapping", None), "num_layers", None) for G in (theirs, ours))
    fitting = [cfg for cfg, spec in cfgs.CFG_TABLE.items() if spec.mapping_layers == layers]
    if layers != here and fitting:
        return f"; its mapping network has {layers} layers, as with --cfg={'|'.join(fitting)}, not {here}"
    return ""


def size(resolution: int | Sequence[int]) -> str:
    """32 -> `32x32`; [height, width] -> `WxH`."""
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    return f"{width}x{height}"


def copy_what_fits(source: torch.nn.Module, network: torch.nn.Module) -> None:
    """Copy tensors of equal name and shape; where labels come or go, also those first weights that see the latent."""
    theirs, ours = (dict(misc.named_params_and_buffers(module)) for module in (source, network))
    for name, tensor in ours.items():
        if name in theirs and theirs[name].shape == tensor.shape:
            tensor.copy_(theirs[name])
    first, z_dim = "mapping.fc0.weight", getattr(network, "z_dim", 0)
    if not {first} <= theirs.keys() & ours.keys() or getattr(source, "z_dim", None) != z_dim:
        return
    there, here = theirs[first], ours[first]   # [w_dim, z_dim + width of the label's embedding]
    if there.shape[0] == here.shape[0] and there.shape[1] != here.shape[1]:
        # The layer divides by the root of its number of inputs, which has changed.
        here[:, :z_dim] = there[:, :z_dim] * math.sqrt(here.shape[1] / there.shape[1])
