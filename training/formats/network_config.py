"""Networks as data: named tensors and a JSON config, without code. What a `.safetensors` file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from torch_utils.pickle_machine import printable
from torch_utils.safe_unpickler import PersistentObject
from training.formats.network_rebuild import MAX_ARGUMENT_INTEGER, build_module, find_class, plain_data, rebuild

FORMAT = "stylegan2-networks"
VERSION = 1
NETWORK_KEYS = ("G", "D", "G_ema", "augment_pipe")


def to_config(networks: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors named `<key>.<name>`, and the config that rebuilds the modules around them.

    networks: as `legacy.load_network_pkl` returns them.  Raises `ValueError` for modules that only code can describe.
    """
    tensors, entries = {}, {}
    for key in NETWORK_KEYS:
        module = networks.get(key)
        if module is None:
            continue
        module = as_native(module, key)
        entries[key] = dict(
            class_name=type(module).__name__, init_args=module.init_args, init_kwargs=module.init_kwargs
        )
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            tensors[f"{key}.{name}"] = value.detach()
    dataset = plain_data(networks.get("training_set_kwargs"), "training_set_kwargs")
    config = dict(format=FORMAT, version=VERSION, networks=entries, training_set_kwargs=dataset)
    return tensors, plain_data(config, "the config of the networks")


def from_config(tensors: Mapping[str, torch.Tensor], config: Any) -> dict[str, Any]:
    """The inverse of `to_config`: modules in eval mode without gradients. Raises `ValueError` for another config."""
    if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != VERSION:
        raise ValueError(f"not the config of a {FORMAT} file of version {VERSION}")
    config = plain_data(config, "the config of the networks")
    entries = config.get("networks")
    if not isinstance(entries, dict) or not set(entries) <= set(NETWORK_KEYS):
        raise ValueError(f"the networks in the config must be a dict with keys among {', '.join(NETWORK_KEYS)}")
    networks: dict[str, Any] = dict(training_set_kwargs=config.get("training_set_kwargs"))
    unused = dict(tensors)
    for key, entry in entries.items():
        own = {name[len(key) + 1 :]: unused.pop(name) for name in tensors if name.startswith(f"{key}.")}
        networks[key] = _build_entry(key, entry, own)
    if unused:
        names = ", ".join(printable(name) for name in list(unused)[:8])
        raise ValueError(f"tensors that belong to no network: {names}")
    return networks


def _build_entry(key: str, entry: Any, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    try:
        class_name, args, kwargs = entry["class_name"], entry["init_args"], entry["init_kwargs"]
    except (KeyError, TypeError):
        raise ValueError(f"{key}: the config must name class_name, init_args and init_kwargs") from None
    if type(class_name) is not str or type(args) is not list or type(kwargs) is not dict:
        raise ValueError(f"{key}: class_name, init_args and init_kwargs must be a string, a list and a dict")
    args, kwargs = plain_data((tuple(args), kwargs), f"{key}: constructor arguments", MAX_ARGUMENT_INTEGER)
    return build_module(find_class(class_name), args, kwargs, tensors, key).eval().requires_grad_(False)


def read_config(text: Any) -> Any:
    """The JSON value of `text` (str or bytes). Raises `ValueError` if it is none."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise ValueError(f"the config of the networks is not JSON: {printable(str(error))}") from None


def as_native(module: torch.nn.Module, what: str) -> torch.nn.Module:
    """`module` itself if it is of this code base, else its weights in our class of the same name.

    A network that was unpickled with trust belongs to the source text of its file, whose defaults may differ from ours.
    """
    cls = find_class(type(module).__name__)
    return module if type(module) is cls else rebuild(_record(module), what)


def _record(module: torch.nn.Module) -> PersistentObject:
    """What safe loading would return for a pickle of `module`."""
    children = {name: None if child is None else _record(child) for name, child in module._modules.items()}
    return PersistentObject(type(module).__name__, {**vars(module), "_modules": children})
