"""Networks as data: named tensors and a JSON config, without code. What a `.safetensors` file holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import torch

from dnnlib.util import UserError, printable
from torch_utils.safe_unpickler import MAX_TENSOR_RANK, PersistentObject
from training.formats.network_rebuild import MAX_ARGUMENT_INTEGER, build_module, find_class, plain_data, rebuild

FORMAT = "stylegan2-networks"
VERSION = 1
NETWORK_KEYS = ("G", "D", "G_ema", "augment_pipe")
MAX_HEADER_BYTES = 4 << 20  # of a safetensors file: about 30,000 tensors


def import_safetensors() -> Any:
    """The module `safetensors.torch`. Raises `UserError` that names the extra where it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(
            "safetensors files need a package that is not installed: pip install 'ssn-plugin[safetensors]'"
        ) from None
    return safetensors


def looks_like_safetensors(data: bytes) -> bool:
    """Does the buffer begin with a header length and a JSON object?"""
    return data[8:9] == b"{" and 2 <= int.from_bytes(data[:8], "little") <= max(len(data), MAX_HEADER_BYTES)


def read_safetensors(data: bytes) -> tuple[dict[str, torch.Tensor], str | None]:
    """Tensors of the file content `data`, and the config from its header. Raises `UserError` for a damaged file."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES or 8 + length > len(data):
        raise UserError(f"safetensors header of {length} bytes is truncated or larger than {MAX_HEADER_BYTES}")
    safetensors = import_safetensors()
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + length])  # the library gives the metadata of files on disk only
    except (safetensors.SafetensorError, KeyError, OverflowError, RecursionError, RuntimeError, ValueError) as error:
        raise UserError(f"damaged safetensors file: {printable(str(error), 200)}") from None
    if any(value.ndim > MAX_TENSOR_RANK for value in tensors.values()):
        raise UserError(f"damaged safetensors file: a tensor of more than {MAX_TENSOR_RANK} axes")
    return dict(sorted(tensors.items())), (header.get("__metadata__") or {}).get("config")


def save_safetensors(file: IO[bytes], tensors: Mapping[str, torch.Tensor], config: str) -> None:
    """Write `tensors` and the config; the same input gives the same bytes."""
    # Copies, because the library refuses tensors that share memory, as those of a network under two keys do.
    dense = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    # One entry only: the library writes the entries of the metadata in random order.
    file.write(import_safetensors().torch.save(dense, dict(config=config)))


def to_config(networks: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors named `<key>.<name>`, and the config that rebuilds the modules around them.

    networks: as `legacy.load_network_pkl` returns them.  Raises `UserError` for modules that only code can describe.
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
    """The inverse of `to_config`: modules in eval mode without gradients. Raises `UserError` for another config."""
    if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != VERSION:
        raise UserError(f"not the config of a {FORMAT} file of version {VERSION}")
    config = plain_data(config, "the config of the networks")
    entries = config.get("networks")
    if not isinstance(entries, dict) or not set(entries) <= set(NETWORK_KEYS):
        raise UserError(f"the networks in the config must be a dict with keys among {', '.join(NETWORK_KEYS)}")
    networks: dict[str, Any] = dict(training_set_kwargs=config.get("training_set_kwargs"))
    unused = dict(tensors)
    for key, entry in entries.items():
        own = {name[len(key) + 1 :]: unused.pop(name) for name in tensors if name.startswith(f"{key}.")}
        networks[key] = _build_entry(key, entry, own)
    if unused:
        names = ", ".join(printable(name) for name in list(unused)[:8])
        raise UserError(f"tensors that belong to no network: {names}")
    return networks


def _build_entry(key: str, entry: Any, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    try:
        class_name, args, kwargs = entry["class_name"], entry["init_args"], entry["init_kwargs"]
    except (KeyError, TypeError):
        raise UserError(f"{key}: the config must name class_name, init_args and init_kwargs") from None
    if type(class_name) is not str or type(args) is not list or type(kwargs) is not dict:
        raise UserError(f"{key}: class_name, init_args and init_kwargs must be a string, a list and a dict")
    args, kwargs = plain_data((tuple(args), kwargs), f"{key}: constructor arguments", MAX_ARGUMENT_INTEGER)
    return build_module(find_class(class_name), args, kwargs, tensors, key).eval().requires_grad_(False)


def read_config(text: Any) -> Any:
    """The JSON value of `text` (str or bytes). Raises `UserError` if it is none."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise UserError(f"the config of the networks is not JSON: {printable(str(error))}") from None


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
