"""Pickling of objects together with the source text of their class.

A snapshot then opens in a checkout whose classes have changed, or are missing, since it was written. Each instance of
a class decorated with `persistent_class` reduces to a call of `_reconstruct_persistent_obj` with a plain dict: the text
of the defining file, the name of the class in it, and the state of the instance. Loading such a pickle executes the
embedded text, so load only files that you trust.
"""

from __future__ import annotations

import copy
import inspect
import io
import linecache
import pickle
import sys
import types
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

import dnnlib
from dnnlib.util import UserError

_VERSION = 6  # layout of the meta dict; older and newer pickles are refused

T = TypeVar("T", bound=type)
Hook = Callable[[dnnlib.EasyDict], dnnlib.EasyDict]

_import_hooks: list[Hook] = []
_decorated: dict[type, type] = {}  # original class -> persistent class
# One string object per file: the pickler writes the text once for all the instances that refer to it.
_module_to_src: dict[types.ModuleType, str] = {}
_src_to_module: dict[str, types.ModuleType] = {}


def persistent_class(cls: T) -> T:
    """Class decorator: instances carry the source text of the file of `cls` in their pickles.

    Instances also remember the arguments of their constructor (`init_args`, `init_kwargs`), so that another one can be
    built by `type(obj)(*obj.init_args, **obj.init_kwargs)`. Everything that the class needs must be in its file or be
    importable wherever the pickle is loaded; state that cannot be pickled raises in the constructor.
    """
    if is_persistent(cls):
        return cls
    if cls in _decorated:
        return _decorated[cls]  # type: ignore[return-value]

    class Persistent(cls):  # type: ignore[misc, valid-type]
        __doc__ = cls.__doc__
        _orig_module_src = _get_module_src(sys.modules[cls.__module__])
        _orig_class_name = cls.__name__

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            init_args, init_kwargs = copy.deepcopy(args), copy.deepcopy(kwargs)  # before the constructor alters them
            super().__init__(*args, **kwargs)
            self._init_args = init_args  # replaces what the constructor of a persistent parent has recorded
            self._init_kwargs = init_kwargs
            _refuse_unpicklable_state(self)

        @property
        def init_args(self) -> tuple:
            return copy.deepcopy(self._init_args)

        @property
        def init_kwargs(self) -> dnnlib.EasyDict:
            return dnnlib.EasyDict(copy.deepcopy(self._init_kwargs))

        def __reduce__(self) -> tuple:
            if not is_persistent(self):
                name, base = type(self).__name__, self._orig_class_name
                raise pickle.PicklingError(f"{name} is derived from {base}: decorate it with persistent_class too")
            return _reconstruct_persistent_obj, (_make_meta(self),), None

    Persistent.__name__ = Persistent.__qualname__ = cls.__name__
    _decorated[cls] = Persistent
    return Persistent  # type: ignore[return-value]


def is_persistent(obj: Any) -> bool:
    """Whether `obj` is a class decorated with `persistent_class` or a direct instance of one."""
    cls = obj if isinstance(obj, type) else type(obj)
    return "_orig_module_src" in vars(cls)


def import_hook(hook: Hook) -> Hook:
    """Register `hook(meta) -> meta`, called for every object that is reconstructed, e.g. to repair an old source text.

    `meta` is an EasyDict with the keys `type`, `version`, `module_src`, `class_name` and `state` (an EasyDict). Hooks
    run in the order of registration. Usable as a decorator.
    """
    if not callable(hook):
        raise UserError(f"an import hook must be callable, got {type(hook).__name__}")
    _import_hooks.append(hook)
    return hook


def _make_meta(obj: Any) -> dict[str, Any]:
    return {
        "type": "class",
        "version": _VERSION,
        "module_src": obj._orig_module_src,
        "class_name": obj._orig_class_name,
        "state": obj.__dict__,
    }


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    """Rebuild an object; pickles call this function by its name."""
    meta = dnnlib.EasyDict(meta)
    meta.state = dnnlib.EasyDict(meta.state)
    for hook in _import_hooks:
        meta = hook(meta)
        if meta is None:
            raise UserError(f"import hook {getattr(hook, '__name__', hook)} must return meta, got None")
    if meta.type != "class" or meta.version != _VERSION:
        raise UserError(
            f"persistent object must be of type 'class' and version {_VERSION}, got {meta.type!r}, {meta.version}"
        )
    module = _get_module_from_src(meta.module_src)
    if not hasattr(module, meta.class_name):
        raise UserError(f"embedded source text must define class {meta.class_name}, it does not")

    cls = persistent_class(getattr(module, meta.class_name))
    obj = cls.__new__(cls)
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(meta.state)  # torch modules fill in attributes that older versions of torch did not have
    else:
        obj.__dict__.update(meta.state)
    return obj


def _get_module_src(module: types.ModuleType) -> str:
    """Text of an imported file; always the same string object for the same module."""
    src = _module_to_src.get(module)
    if src is None:
        try:
            src = inspect.getsource(module)
        except (OSError, TypeError) as err:
            raise OSError(f"persistent classes must be defined in a source file, {module.__name__} has none") from err
        _module_to_src[module] = src
        _src_to_module[src] = module
    return src


def _get_module_from_src(src: str) -> types.ModuleType:
    """The module with exactly this text: an imported file, one made earlier, or a new one that executes the text."""
    if src in _src_to_module:
        return _src_to_module[src]
    name = f"_imported_module_{uuid.uuid4().hex}"
    filename = f"<{name}>"
    module = types.ModuleType(name)
    # Entered before execution: the decorators in the text ask for the text of the module they are in.
    sys.modules[name] = module
    _module_to_src[module] = src
    _src_to_module[src] = module
    linecache.cache[filename] = (len(src), None, src.splitlines(keepends=True), filename)  # for tracebacks
    try:
        exec(compile(src, filename, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name], _module_to_src[module], _src_to_module[src]
        raise
    return module


class _CheckingPickler(pickle.Pickler):
    """Pickles nothing that is known to work: what remains is small and shows whether the rest can be pickled."""

    _PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, np.ndarray)

    def persistent_id(self, obj: Any) -> str | None:
        is_checked_child = is_persistent(obj) and not isinstance(obj, type)
        return "skipped" if is_checked_child or isinstance(obj, self._PLAIN) else None


def _refuse_unpicklable_state(obj: Any) -> None:
    """Raise PicklingError now instead of hours later, when the first snapshot is written."""
    try:
        _CheckingPickler(io.BytesIO(), protocol=pickle.HIGHEST_PROTOCOL).dump(_make_meta(obj))
    except Exception as err:
        raise pickle.PicklingError(f"state of {type(obj).__name__} must be pickleable: {err}") from err
