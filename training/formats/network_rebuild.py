"""Build network modules of this code base around tensors that come from a file.

The class is constructed with blank weights, compared with the tensors by name and shape, and then given those tensors.
Loading draws no random numbers, and a file cannot make the constructor allocate more than the file itself holds.
Records of persistent objects hold the name of a class, its constructor arguments and its state; the source text beside
them is not used, our class of the same name is.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from dnnlib.util import UserError, printable
from torch_utils.safe_unpickler import InertObject, PersistentObject, RefusedPickle
from training import plugins
from training.formats.network_arguments import check_arguments, constructor_names, shown

# Where a class of this name is defined here; `training.plugins` names those of plugins.
KNOWN_CLASSES = {
    "Generator": "training.networks",
    "Discriminator": "training.networks",
    "AugmentPipe": "training.augment",
    "ProjectedDiscriminator": "training.projected",
}

MAX_DEPTH = 16                  # of modules and of plain data
MAX_MODULE_ITEMS = 50_000       # modules, parameters and buffers of one network
MAX_PLAIN_ITEMS = 10_000
MAX_PLAIN_INTEGER = 1 << 40     # dataset sizes and seeds
MAX_ARGUMENT_INTEGER = 1 << 20  # constructor arguments, which become loop counts and lengths of lists
MAX_NAME_LENGTH = 200           # of a module, parameter or buffer
MAX_LISTED_DIFFERENCES = 8
_SPARE_ELEMENTS = 1 << 20       # what constructors may allocate besides the tensors that they register
SPARE_BYTES = 1 << 20          # what tensors on one storage may have in common

ALIAS_FREE = "an alias-free network (StyleGAN3), not supported; StyleGAN2 networks of that code base are"

_W_AVG_BETA = 0.995             # default of the mapping network here

# Attributes that decide what a network computes; they must come out of the constructor as the file has them.
_DECISIVE_ATTRIBUTES = ("activation", "architecture", "conv_clamp", "use_fp16", "use_noise", "w_avg_beta")


def rebuild(record: PersistentObject, what: str) -> torch.nn.Module:
    """Module for `record`, with its tensors and modes; `what` names it in errors.

    Raises `RefusedPickle` for a class that is not known here, `UserError` listing whatever else does not fit.
    """
    cls = find_class(record.class_name)
    captured = _CapturedModule(record.state, what)
    if "synthesis.input" in captured.states:
        raise UserError(f"{what} is {ALIAS_FREE}")
    args = plain_data(record.state.get("_init_args", ()), f"{what}: constructor arguments", MAX_ARGUMENT_INTEGER)
    kwargs = plain_data(record.state.get("_init_kwargs", {}), f"{what}: constructor arguments", MAX_ARGUMENT_INTEGER)
    if type(args) is not tuple or type(kwargs) is not dict:
        raise UserError(f"{what}: constructor arguments must be a tuple and a dict")
    if record.class_name == "Generator":
        _nest_flat_arguments(cls, kwargs, what)
    _spell_out_defaults(record.class_name, captured, kwargs, what)
    module = build_module(cls, args, kwargs, captured.tensors, what)
    _compare_attributes(module, captured, what)
    for path, child in module.named_modules():
        child.training = captured.states.get(path, {}).get("training", True) is True
    return module


def build_module(
    cls: type[torch.nn.Module],
    args: tuple,
    kwargs: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],  # by the names of parameters and buffers; taken over, not copied
    what: str,                            # name in errors
    keep_suffix: str | None = None,       # names with this ending keep what the constructor gave them
) -> torch.nn.Module:
    """`cls(*args, **kwargs)` in training mode, holding `tensors` instead of initial weights."""
    check_arguments(cls, args, kwargs, what)
    _check_sharing(tensors, what)
    blank = _BlankWeights(_SPARE_ELEMENTS + sum(value.numel() for value in tensors.values()))
    try:
        with blank, _limited_parameters(len(tensors)), np.errstate(all="ignore"):
            module = cls(*args, **kwargs)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = printable(" ".join(str(error).split()), 200)
        raise UserError(f"{what}: {cls.__name__} cannot be built from the arguments in the file: {reason}") from error
    if any(parameter.numel() == 0 for parameter in module.parameters()):
        raise UserError(f"{what}: {cls.__name__} has layers without any width")
    _compare_tensors(module, tensors, what, keep_suffix)
    _take_over(module, tensors)
    return module


def find_class(name: str) -> type[torch.nn.Module]:
    """The class of this code base that networks of class `name` are rebuilt with. Raises `RefusedPickle`."""
    module = {**plugins.NETWORK_CLASSES, **KNOWN_CLASSES}.get(name)
    if module is None:
        raise RefusedPickle([f"the embedded class {name}"])
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in (module, module.split(".")[0]):
            raise
        raise RefusedPickle([f"the embedded class {name} ({module} is not installed)"]) from None


def plain_data(value: Any, what: str, max_integer: int = MAX_PLAIN_INTEGER) -> Any:
    """A copy of `value` in plain containers; `UserError` unless it is numbers, strings and containers of them."""
    return _PlainCopier(what, max_integer).copy(value, depth=0)


class _PlainCopier:
    """Copies with a limit on the number of items, because a container may hold another one many times over."""

    def __init__(self, what: str, max_integer: int):
        self.what = what
        self.max_integer = max_integer
        self.items_left = MAX_PLAIN_ITEMS

    def copy(self, value: Any, depth: int) -> Any:
        self.items_left -= len(value) if isinstance(value, (list, tuple, dict)) else 0
        if self.items_left < 0 or depth > MAX_DEPTH:
            raise UserError(f"{self.what} nest deeper than {MAX_DEPTH} or hold over {MAX_PLAIN_ITEMS} items")
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int:
            if abs(value) > self.max_integer:
                raise UserError(f"{self.what} hold an integer beyond {self.max_integer}")
            return value
        if type(value) in (list, tuple):
            return type(value)([self.copy(item, depth + 1) for item in value])
        if isinstance(value, dict) and all(type(key) is str for key in value):
            return {key: self.copy(item, depth + 1) for key, item in value.items()}
        raise UserError(f"{self.what} hold a {type(value).__name__}, which is not plain data")


class _CapturedModule:
    """The states and tensors of a stored module tree, under their dotted names; '' is the root."""

    def __init__(self, state: dict[str, Any], what: str):
        self.what = what
        self.states: dict[str, dict[str, Any]] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self._items_left = MAX_MODULE_ITEMS
        self._walk(state, "", 0)

    def _walk(self, state: dict[str, Any], prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise UserError(f"{self.what}: modules nest deeper than {MAX_DEPTH}")
        self.states[prefix.rstrip(".")] = state
        for kind in ("_parameters", "_buffers"):
            for name, value in self._named_items(state, kind):
                if isinstance(value, torch.Tensor):
                    self.tensors[prefix + name] = value
                elif value is not None:
                    raise UserError(f"{self.what}: {printable(prefix + name)} is no tensor but {type(value).__name__}")
        for name, child in self._named_items(state, "_modules"):
            if isinstance(child, (PersistentObject, InertObject)):
                self._walk(child.state, f"{prefix}{name}.", depth + 1)
            elif child is not None:
                raise UserError(f"{self.what}: {printable(prefix + name)} is no module but {type(child).__name__}")

    def _named_items(self, state: dict[str, Any], key: str) -> list[tuple[str, Any]]:
        items = state.get(key, {})
        self._items_left -= len(items) if isinstance(items, dict) else 0
        if self._items_left < 0:
            raise UserError(f"{self.what}: more than {MAX_MODULE_ITEMS} modules, parameters and buffers")
        if not isinstance(items, dict) or not all(_is_name(name) for name in items):
            raise UserError(f"{self.what}: a module whose {key} is not a dict of names")
        return list(items.items())


def _is_name(value: Any) -> bool:
    return type(value) is str and "." not in value and len(value) <= MAX_NAME_LENGTH


def _check_sharing(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse tensors that overlap: each becomes memory of its own, of which the file holds only one copy."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors.values()}
    claimed = sum(value.numel() * value.element_size() for value in tensors.values())
    if claimed > sum(storages.values()) + SPARE_BYTES:
        raise UserError(f"{what}: its tensors have {claimed} bytes, the file holds {sum(storages.values())} for them")


def _nest_flat_arguments(cls: type, kwargs: dict[str, Any], what: str) -> None:
    """Move the arguments of the synthesis network to where they stand here.

    StyleGAN3's code base hands on all arguments that its generator does not know itself.
    """
    flat = {name: kwargs.pop(name) for name in list(kwargs) if name not in constructor_names(cls)}
    if flat:
        kwargs["synthesis_kwargs"] = {**_dict_of(kwargs, "synthesis_kwargs", what), **flat}


def _dict_of(kwargs: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    value = kwargs.get(name, {})
    if type(value) is not dict:
        raise UserError(f"{what}: {name} must be a dict, got {shown(value)}")
    return value


def _spell_out_defaults(class_name: str, captured: _CapturedModule, kwargs: dict[str, Any], what: str) -> None:
    """Name in `kwargs` what another code base of this layout has by default and this one has not.

    StyleGAN3's StyleGAN2 networks default to four half-precision blocks, a clamp of 256 and a slower average of w, and
    have one argument more, which only chooses between two ways of computing the same image.
    """
    if class_name not in ("Generator", "Discriminator"):
        return
    prefix = "synthesis." if class_name == "Generator" else ""
    layers = _dict_of(kwargs, "synthesis_kwargs", what) if class_name == "Generator" else kwargs
    mapping = _dict_of(kwargs, "mapping_kwargs", what)
    layers.pop("fused_modconv_default", None)
    fp16_blocks = [f"{prefix}b{2**i}" for i in range(2, 21)]
    num_fp16_res = sum(captured.states.get(block, {}).get("use_fp16") is True for block in fp16_blocks)
    if num_fp16_res:
        layers.setdefault("num_fp16_res", num_fp16_res)
    conv_clamp = captured.states.get(f"{prefix}b8.conv1", {}).get("conv_clamp")
    if conv_clamp is not None:
        layers.setdefault("conv_clamp", plain_data(conv_clamp, f"{what}: conv_clamp"))
    if class_name == "Generator" and layers:
        kwargs["synthesis_kwargs"] = layers
    w_avg_beta = captured.states.get("mapping", {}).get("w_avg_beta", _W_AVG_BETA)
    if class_name == "Generator" and plain_data(w_avg_beta, f"{what}: w_avg_beta") != _W_AVG_BETA:
        mapping.setdefault("w_avg_beta", w_avg_beta)
        kwargs["mapping_kwargs"] = mapping


class _BlankWeights(torch.overrides.TorchFunctionMode):
    """Inside, random tensors stay undrawn, and those made from a shape alone may have `budget` elements in total."""

    _FACTORIES = {torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros}

    def __init__(self, budget: int):
        super().__init__()
        self.budget = budget

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self._FACTORIES:
            shape = kwargs.get("size", args[0] if args and isinstance(args[0], (list, tuple)) else args)
            self.budget -= math.prod(shape)
            if self.budget < 0:
                raise UserError("they describe a network with more numbers than the file holds")
            if func in (torch.rand, torch.randn):
                func = torch.empty
        return func(*args, **kwargs)


@contextlib.contextmanager
def _limited_parameters(limit: int) -> Iterator[None]:
    """Stop a constructor that registers more parameters than the file has tensors, such as one told of 10^6 layers."""
    count = 0

    def check(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise UserError(f"they describe a network with more than the {limit} tensors of the file")

    handle = torch.nn.modules.module.register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _compare_tensors(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], what: str, keep_suffix: str | None
) -> None:
    here = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    missing = [name for name in here if name not in tensors and not (keep_suffix and name.endswith(keep_suffix))]
    differences = [f"{name} is missing in the file" for name in missing]
    for name, value in tensors.items():
        if name not in here:
            differences.append(f"{name} is unknown here")
        elif value.shape != here[name].shape:
            differences.append(f"{name} has shape {list(value.shape)} in the file and {list(here[name].shape)} here")
        elif value.is_floating_point() != here[name].is_floating_point():
            differences.append(f"{name} is {value.dtype} in the file and {here[name].dtype} here")
    _raise_differences(differences, type(module).__name__, what)


def _compare_attributes(module: torch.nn.Module, captured: _CapturedModule, what: str) -> None:
    differences = []
    for path, child in module.named_modules():
        stored = captured.states.get(path, {})
        for name in _DECISIVE_ATTRIBUTES:
            if name in stored and hasattr(child, name) and not _is_equal(stored[name], getattr(child, name)):
                here = getattr(child, name)
                differences.append(f"{path}.{name} is {shown(stored[name])} in the file and {shown(here)} here")
    _raise_differences(differences, type(module).__name__, what)


def _is_equal(stored: Any, here: Any) -> bool:
    """Whether an attribute from a file, which may be anything, has the value of ours."""
    return (stored is None or type(stored) in (bool, float, int, str)) and stored == here


def _raise_differences(differences: list[str], class_name: str, what: str) -> None:
    if differences:
        listed = "; ".join(printable(text, 160) for text in differences[:MAX_LISTED_DIFFERENCES])
        more = len(differences) - MAX_LISTED_DIFFERENCES
        raise UserError(
            f"{what}: the file does not fit the {class_name} of this code base: {listed}"
            f"{f'; and {more} more' if more > 0 else ''}"
        )


def _take_over(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    for path, child in module.named_modules():
        prefix = f"{path}." if path else ""
        for name, old in list(child.named_parameters(recurse=False)):
            value = tensors[prefix + name]
            setattr(child, name, torch.nn.Parameter(_owned(value, old.dtype), value.requires_grad))
        for name, old in list(child.named_buffers(recurse=False)):
            if prefix + name in tensors:
                setattr(child, name, _owned(tensors[prefix + name], old.dtype))


def _owned(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`value` as `dtype` with memory of its own; a dense tensor that is all of its storage is taken as it is."""
    value = value.detach().to(dtype)
    dense = value.is_contiguous() or (value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last))
    alone = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if dense and alone else value.clone(memory_format=torch.contiguous_format)
