"""Read network files of every supported format, without running code that they carry."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import pickle
import zlib
from typing import Any

import torch

import dnnlib
from dnnlib.util import UserError, is_lack_of_memory, printable
from torch_utils import safe_unpickler
from torch_utils.safe_unpickler import InertObject, PersistentObject, RefusedPickle
from training.formats import network_config, rosinality, state_dicts
from training.formats.network_rebuild import ALIAS_FREE, build_module, plain_data, rebuild
from training.formats.tf_conversion import convert_tf_discriminator, convert_tf_generator

MAX_FILE_BYTES = 8 << 30  # a 1024x1024 snapshot has 0.4 GB

# What the many shapes of a damaged file set off in the libraries that read it. The system's errors are not among them.
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, zlib.error)

_TF_NETWORK = "dnnlib.tflib.network.Network"


def load_network_pkl(f: Any, force_fp16: bool = False, trust: bool = False) -> dict[str, Any]:
    """Read networks from the binary stream `f` -> dict of `training_set_kwargs`, `G`, `D`, `G_ema`, `augment_pipe`.

    Nothing in the file is executed: networks are rebuilt with the classes of this code base.  Modules keep their modes
    and lie on the CPU.  `D` is None where the file has none; a missing `G` is a copy of `G_ema`.
    force_fp16: rebuild the networks so that they compute their four highest resolutions in half precision.
    trust: unpickle in the ordinary way, which executes whatever the file says. For files of known origin only.
    Raises `UserError` that names the file and what is wrong with it; `RefusedPickle` lists the names it asked for.
    """
    path = f.name if isinstance(getattr(f, "name", None), str) else None
    named = f"{path}: " if path else ""
    try:
        networks = _complete(_read_networks(_read_all(f), trust, path))
    except RefusedPickle as error:
        error.args = (f"{named}{error}",)
        raise
    except ValueError as error:
        raise UserError(f"{named}{error}") from error
    except _DAMAGE as error:
        if trust or (isinstance(error, RuntimeError) and is_lack_of_memory(error)):  # trust: the file's own error
            raise
        reason = printable(" ".join(f"{type(error).__name__}: {error}".split()), 200)
        raise UserError(f"{named}not a readable network file: {reason}") from error
    return with_fp16(networks) if force_fp16 else networks


def _read_all(f: Any) -> bytes:
    data = dnnlib.util.read_at_most(f, MAX_FILE_BYTES)
    if data is None:
        raise UserError(f"the network file is larger than {MAX_FILE_BYTES >> 30} GiB")
    if not data:
        raise UserError("the network file is empty")
    return data


def _read_networks(data: bytes, trust: bool, path: str | None) -> dict[Any, Any]:
    """Networks in the format that the first bytes of `data` show."""
    if network_config.looks_like_safetensors(data):
        return _read_safetensors(data, path)
    if data.startswith(b"PK") or safe_unpickler.is_legacy_checkpoint(data):
        checkpoint = safe_unpickler.load_checkpoint(data)
        for layout in (rosinality, state_dicts):
            if layout.is_checkpoint(checkpoint):
                return layout.read_networks(checkpoint)
        raise UserError("not a network file: a torch checkpoint without a StyleGAN2 generator")
    if data[:1] not in (b"\x80", b"(", b"c"):
        raise UserError("not a network file: neither a pickle, a torch checkpoint nor safetensors")
    content = _unpickle_trusting(data) if trust else _revived(safe_unpickler.load_pickle(data))
    if isinstance(content, tuple) and len(content) == 3 and all(isinstance(net, TFNetworkStub) for net in content):
        tf_G, tf_D, tf_Gs = content
        return dict(G=convert_tf_generator(tf_G), D=convert_tf_discriminator(tf_D), G_ema=convert_tf_generator(tf_Gs))
    if not isinstance(content, dict):
        raise UserError(f"not a network file: it holds {_describe(content)}, not a dict with G, D and G_ema")
    return content


def _read_safetensors(data: bytes, path: str | None) -> dict[str, Any]:
    """The config is in the header; a file whose header lost it takes the `config.json` beside it."""
    text: str | bytes | None
    tensors, text = network_config.read_safetensors(data)
    beside = os.path.join(os.path.dirname(path), "config.json") if path else ""
    if text is None and os.path.isfile(beside):
        with open(beside, "rb") as file:
            text = file.read(network_config.MAX_HEADER_BYTES)
    if text is None:
        raise UserError("a safetensors file without the config of its networks, in its header or as config.json")
    return network_config.from_config(tensors, network_config.read_config(text))


def _complete(content: dict[Any, Any]) -> dict[str, Any]:
    """`content` with all keys of a snapshot, in their order. Raises `UserError` unless they hold what they should."""
    networks = dict(training_set_kwargs=content.get("training_set_kwargs"))
    networks.update({key: content.get(key) for key in network_config.NETWORK_KEYS})
    if networks["G"] is None and isinstance(networks["G_ema"], torch.nn.Module):
        networks["G"] = copy.deepcopy(networks["G_ema"])
    for key in network_config.NETWORK_KEYS:
        optional = key in ("D", "augment_pipe") and networks[key] is None
        if not optional and not isinstance(networks[key], torch.nn.Module):
            raise UserError(f"not a network file: {key} is {_describe(networks[key])}")
        if hasattr(getattr(networks[key], "synthesis", None), "input"):
            raise UserError(f"{key} is {ALIAS_FREE}")
    if not isinstance(networks["training_set_kwargs"], (dict, type(None))):
        raise UserError(f"not a network file: training_set_kwargs is {_describe(networks['training_set_kwargs'])}")
    return {**networks, **{key: value for key, value in content.items() if key not in networks}}


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"an object of type {type(value).__name__}"


def with_fp16(networks: dict[str, Any]) -> dict[str, Any]:
    """The networks with four half-precision resolutions and a clamp of 256, rebuilt where that is a change."""
    for key in ("G", "D", "G_ema"):
        old = networks[key]
        if old is None:
            continue
        with contextlib.suppress(RefusedPickle):  # of another code base, with another place for these arguments
            old = network_config.as_native(old, key)
        kwargs = copy.deepcopy(dict(old.init_kwargs))
        layers = kwargs.setdefault("synthesis_kwargs", {}) if key.startswith("G") else kwargs
        layers.update(num_fp16_res=4, conv_clamp=256)
        if kwargs != old.init_kwargs:
            tensors = {**dict(old.named_parameters()), **dict(old.named_buffers())}
            networks[key] = build_module(type(old), old.init_args, kwargs, tensors, key).train(old.training)
    return networks


# Pickles.


class TFNetworkStub(dnnlib.EasyDict):
    """Stands in for the network class of the TensorFlow host: whatever its pickle stores becomes attributes."""


def _revived(content: Any) -> Any:
    """The records that safe loading returned, turned into modules, TensorFlow stubs and plain data.

    What else a snapshot holds is left out: nothing here needs it, and each entry costs time.
    """
    if isinstance(content, tuple) and content and all(_is_tf_network(item) for item in content):
        return tuple(_tf_stub(item) for item in content)
    if not isinstance(content, dict):
        return content
    networks: dict[int, torch.nn.Module] = {}  # by the identity of their record, which may stand under several keys
    result = {}
    for key in ("training_set_kwargs", *network_config.NETWORK_KEYS):
        value = content.get(key)
        if isinstance(value, PersistentObject):
            if id(value) not in networks:
                networks[id(value)] = rebuild(value, key)
            result[key] = networks[id(value)]
        else:
            result[key] = plain_data(value, key)
    return result


def _is_tf_network(value: Any) -> bool:
    return isinstance(value, InertObject) and value.name == _TF_NETWORK


def _tf_stub(record: InertObject, depth: int = 0) -> TFNetworkStub:
    components = record.state.get("components")
    if not isinstance(components, dict) or not all(_is_tf_network(component) for component in components.values()):
        raise UserError("not a TensorFlow network file: its components are not a dict of networks")
    if depth > 2 or len(components) > 8:
        raise UserError("not a TensorFlow network file: its components nest too deep or are too many")
    stub = TFNetworkStub(record.state)
    stub.components = {name: _tf_stub(component, depth + 1) for name, component in components.items()}
    return stub


def _unpickle_trusting(data: bytes) -> Any:
    """Ordinary unpickling. Errors of the file's own code pass unchanged."""
    try:
        return _TrustingUnpickler(io.BytesIO(data)).load()
    except (AttributeError, EOFError, ImportError, IndexError, pickle.UnpicklingError) as error:
        if isinstance(error, ImportError) and "filtered_lrelu" in str(error):  # an operation of StyleGAN3
            raise UserError(f"it holds {ALIAS_FREE}") from error
        raise UserError(f"cannot be unpickled: {printable(str(error), 200)}") from error


class _TrustingUnpickler(pickle.Unpickler):
    """The standard unpickler, which knows the TensorFlow host's class and both names of numpy's core."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" == _TF_NETWORK:
            return TFNetworkStub
        try:
            return super().find_class(module, name)
        except ModuleNotFoundError:
            old, new = "numpy.core", "numpy._core"
            other = module.replace(new, old) if module.startswith(new) else module.replace(old, new)
            return super().find_class(other, name)
