"""Read pickles and torch checkpoints as plain data: tensors, arrays, containers and inert records of objects.

The allow-list below is everything that a StyleGAN2 network file needs. Persistent modules (`torch_utils.persistence`)
come back as `PersistentObject` records, whose embedded source text is never executed; torch containers, TensorFlow
networks and argument namespaces come back as `InertObject`. Tensor storages are read here too, in all three places
where torch puts them, because a file's claim about their size must be checked before memory is allocated for it.
"""

from __future__ import annotations

import dataclasses
import io
import math
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import torch

import dnnlib
from dnnlib.util import UserError, is_lack_of_memory, printable
from torch_utils.pickle_machine import Budget, Callee, PickleMachine, RefusedPickle

__all__ = [
    "InertObject", "PersistentObject", "RefusedPickle", "load_checkpoint", "load_checkpoint_file", "load_pickle",
]

PERSISTENCE_VERSION = 6
MAX_TENSOR_RANK = 8
MAX_ZIP_ENTRIES = 20_000

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the stream that torch wrote before 1.6; storages still use it
_LEGACY_VERSION = 1001

_STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}
_INERT_CLASSES = {
    "argparse.Namespace",
    "dnnlib.tflib.network.Network",
    "torch.nn.modules.container.ModuleDict",
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.container.ParameterList",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
}
_TORCH_CONSTANTS = (
    "float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 bool "
    "strided contiguous_format channels_last preserve_format"
)


@dataclasses.dataclass
class PersistentObject:
    """An instance of a persistent class: the name of its class and its attributes, as stored."""

    class_name: str
    state: dict[str, Any]


@dataclasses.dataclass
class InertObject:
    """An instance of a class that is only looked at: `name` is the dotted global, `state` its attributes."""

    name: str
    state: dict[str, Any] = dataclasses.field(default_factory=dict)


def load_pickle(data: Any) -> Any:
    """Value of the first pickle in the buffer `data`, by the allow-list. Raises `RefusedPickle` or `UserError`."""
    return _SafeUnpickler(data).load()


def load_checkpoint(data: Any) -> Any:
    """Value of a `torch.save` file, zip archive or older stream, in the buffer `data`. Raises as `load_pickle`."""
    if bytes(data[:2]) == b"PK":
        return load_checkpoint_file(io.BytesIO(data))
    return _load_legacy_checkpoint(data, Budget(len(data)))


def load_checkpoint_file(file: IO[bytes]) -> Any:
    """Value of a zip archive that `torch.save` wrote, read member by member. Raises as `load_pickle`."""
    if _count_entries(file) > MAX_ZIP_ENTRIES:
        raise UserError(f"the archive has more than {MAX_ZIP_ENTRIES} entries")
    budget = Budget(file.seek(0, io.SEEK_END))
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_zip_members(archive, budget)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        if isinstance(error, RuntimeError) and is_lack_of_memory(error):
            raise
        raise UserError(f"not a readable torch archive: {printable(str(error))}") from None


def _count_entries(file: IO[bytes]) -> int:
    """An upper bound, from the marks of the entries in the directory of a zip archive."""
    count, end = 0, b""
    file.seek(0)
    while piece := file.read(1 << 20):
        count += (end + piece).count(b"PK\x01\x02")
        end = piece[-3:]
    return count


def is_legacy_checkpoint(data: Any) -> bool:
    """Does the buffer start with the magic number of the older `torch.save` format?"""
    try:
        return PickleMachine(data[:64]).load() == _LEGACY_MAGIC
    except ValueError:
        return False


class _Dtype:
    """A numpy element type under construction."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


@dataclasses.dataclass
class _Storage:
    """The flat memory that tensors are views of."""

    flat: torch.Tensor  # [numel]


@dataclasses.dataclass(frozen=True)
class _StorageClass:
    """A global such as `torch.FloatStorage`."""

    dtype: torch.dtype


_StorageSource = Callable[[str, torch.dtype, int], _Storage]  # name, element type, number of elements


class _SafeUnpickler(PickleMachine):
    """The machine with the allow-list of this file. `storages` resolves the persistent ids of torch checkpoints."""

    def __init__(self, data: Any, budget: Budget | None = None, storages: _StorageSource | None = None):
        super().__init__(data, budget)
        self._storages = storages
        self._callees: dict[str, Callable[..., Any]] = {
            "builtins.bytes": lambda: b"",  # how protocol 2 spells an empty one; see `_encode` for the others
            "builtins.set": self._set,
            "_codecs.encode": self._encode,
            "collections.OrderedDict": self._ordered_dict,
            "dnnlib.util.EasyDict": lambda: dnnlib.EasyDict(),
            "numpy.dtype": _dtype,
            "numpy.core.multiarray._reconstruct": _empty_array,
            "numpy.core.multiarray.scalar": _scalar,
            "torch.Size": _size,
            "torch.device": _device,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch.storage._load_from_bytes": self._load_from_bytes,
            "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        }

    def find_global(self, name: str) -> Any:
        name = name.replace("__builtin__.", "builtins.").replace("numpy._core.", "numpy.core.")
        if name in self._callees:
            return Callee(self._callees[name])
        if name in _INERT_CLASSES:
            return Callee(lambda: InertObject(name))
        if name == "numpy.ndarray":
            return np.ndarray  # only ever an argument of _reconstruct
        return _TORCH_GLOBALS[name]

    def build(self, target: Any, state: Any) -> None:
        if isinstance(target, InertObject) and type(state) is dict:
            self.budget.spend_steps(len(state))
            target.state.update(state)
        elif isinstance(target, _Dtype):
            target.dtype = target.dtype.newbyteorder(_expect(state[1], str)) if state[1] in ("<", ">") else target.dtype
        elif type(target) is np.ndarray:
            _fill_array(target, state, self.budget)
        elif type(target) is not OrderedDict:  # torch hangs version numbers on state dicts; nothing here needs them
            super().build(target, state)

    def persistent_load(self, key: Any) -> _Storage:
        if self._storages is None or type(key) is not tuple or len(key) < 5 or key[0] != "storage":
            raise KeyError("a persistent id")
        _, storage_class, name, _, numel = key[:5]  # the fourth is the device that it was saved from
        if not isinstance(storage_class, _StorageClass):
            raise UserError("a storage without a known element type")
        return self._storages(_expect(name, str), storage_class.dtype, _expect_count(numel))

    def _set(self, items: Any = ()) -> set[Any]:
        members: set[Any] = set()
        self.budget.spend_steps(len(_expect(items, (list, tuple))))
        self._extend(members, items)
        return members

    def _ordered_dict(self, items: Any = ()) -> OrderedDict[Any, Any]:
        result: OrderedDict[Any, Any] = OrderedDict()
        self.budget.spend_steps(len(_expect(items, (list, tuple))))
        for key, value in items:
            self._set_items(result, [key, value])
        return result

    def _encode(self, text: str, encoding: str) -> bytes:
        """How protocol 2 spells a byte string."""
        if encoding not in ("latin1", "latin-1"):
            raise UserError("a byte string in an unknown encoding")
        self.budget.spend_bytes(len(_expect(text, str)))
        return text.encode("latin-1")

    def _load_from_bytes(self, data: Any) -> Any:
        return _load_legacy_checkpoint(_expect(data, (bytes, bytearray, memoryview)), self.budget)


def _torch_globals() -> dict[str, Any]:
    table: dict[str, Any] = {f"torch.{name}": _StorageClass(dtype) for name, dtype in _STORAGE_DTYPES.items()}
    for name in _TORCH_CONSTANTS.split():
        table[f"torch.{name}"] = table[f"torch.torch.{name}"] = getattr(torch, name)
    return table


_TORCH_GLOBALS = _torch_globals()


# Torch checkpoints: an object pickle beside raw storages.


def _load_legacy_checkpoint(data: Any, budget: Budget) -> Any:
    """Stream of pickles (magic, version, system, object, storage names), then per storage its length and its bytes."""
    storages: dict[str, _Storage] = {}

    def allocate(name: str, dtype: torch.dtype, numel: int) -> _Storage:
        if name not in storages:
            budget.spend_bytes(numel * dtype.itemsize)
            storages[name] = _Storage(torch.empty([numel], dtype=dtype))
        return _same_kind(storages[name], dtype, numel)

    machine = _SafeUnpickler(data, budget, allocate)
    header = [machine.load(), machine.load()]
    little_endian = _expect(machine.load(), dict).get("little_endian")
    if header != [_LEGACY_MAGIC, _LEGACY_VERSION] or little_endian is not True:
        raise UserError("not a torch checkpoint of a little-endian machine")
    value, names = machine.load(), machine.load()
    view, position = memoryview(data), machine.position
    if not all(type(name) is str for name in _expect(names, list)) or sorted(names) != sorted(storages):
        raise UserError("the storages of a torch checkpoint do not match its list of them")
    for name in names:
        flat = storages[name].flat
        stop = position + 8 + flat.numel() * flat.element_size()
        if int.from_bytes(view[position : position + 8], "little") != flat.numel() or stop > len(view):
            raise UserError(f"storage {printable(name)} is truncated or of another length than claimed")
        _fill_storage(flat, view[position + 8 : stop])
        position = stop
    return value


def _read_zip_members(archive: zipfile.ZipFile, budget: Budget) -> Any:
    """Members `<top>/data.pkl` and, uncompressed, `<top>/data/<name>` for each storage."""
    members = {info.filename: info for info in archive.infolist()}
    if any(info.compress_type or info.file_size != info.compress_size for info in members.values()):
        raise UserError("the archive has compressed members, which torch never writes")
    pickles = [name for name in members if re.fullmatch(r"[^/\\]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise UserError("the archive has no single data.pkl: it is not a torch checkpoint")
    folder = pickles[0].split("/")[0]
    if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
        raise UserError("the checkpoint was written on a big-endian machine")
    storages: dict[str, _Storage] = {}

    def read(name: str, dtype: torch.dtype, numel: int) -> _Storage:
        if name not in storages:
            member = members.get(f"{folder}/data/{name}")
            if member is None or member.file_size != numel * dtype.itemsize:
                raise UserError(f"storage {printable(name)} is missing or of another length than claimed")
            budget.spend_bytes(member.file_size)
            storages[name] = _Storage(torch.empty([numel], dtype=dtype))
            _fill_storage(storages[name].flat, archive.read(member))
        return _same_kind(storages[name], dtype, numel)

    budget.spend_bytes(members[pickles[0]].file_size)
    return _SafeUnpickler(archive.read(pickles[0]), budget, read).load()


def _same_kind(storage: _Storage, dtype: torch.dtype, numel: int) -> _Storage:
    if storage.flat.dtype != dtype or storage.flat.numel() != numel:
        raise UserError("one storage is claimed with two types or lengths")
    return storage


def _fill_storage(flat: torch.Tensor, raw: Any) -> None:
    if flat.numel():
        flat.view(torch.uint8).numpy()[:] = np.frombuffer(raw, dtype=np.uint8)


# The callables of the allow-list.


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise UserError(f"an object of type {type(value).__name__} where the format has another type")
    return value


def _expect_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise UserError("a size that is not a reasonable integer")
    return value


def _size(shape: Any = ()) -> torch.Size:
    shape = tuple(_expect_count(n) for n in _expect(shape, (list, tuple))[: MAX_TENSOR_RANK + 1])
    if len(shape) > MAX_TENSOR_RANK:
        raise UserError(f"a tensor of more than {MAX_TENSOR_RANK} axes")
    return torch.Size(shape)


def _device(kind: str, index: int = 0) -> torch.device:
    """Everything is read to the CPU, whatever device the file names."""
    return torch.device("cpu")


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, *hooks_and_metadata: Any
) -> torch.Tensor:
    """A view of `storage`. No element may lie outside it, nor may the view be larger than it (as with stride 0)."""
    shape, strides, flat = _size(size), _size(stride), _expect(storage, _Storage).flat
    numel = math.prod(shape)
    last = _expect_count(offset) + sum((n - 1) * s for n, s in zip(shape, strides))
    if len(shape) != len(strides) or numel > flat.numel() or (numel > 0 and last >= flat.numel()):
        raise UserError(f"a tensor of shape {list(shape)} does not fit its storage of {flat.numel()} elements")
    view = flat.as_strided(shape, strides, offset if numel else 0)
    return view.requires_grad_(bool(requires_grad) and view.is_floating_point())


def _parameter(data: Any, requires_grad: Any, hooks: Any = None) -> torch.nn.Parameter:
    return torch.nn.Parameter(_expect(data, torch.Tensor).detach(), requires_grad=_expect(requires_grad, bool))


def _persistent_object(meta: Any) -> PersistentObject:
    meta = _expect(meta, dict)
    if meta.get("type") != "class" or meta.get("version") != PERSISTENCE_VERSION:
        raise UserError(f"a persistent object of another kind or version than {PERSISTENCE_VERSION}")
    return PersistentObject(_expect(meta.get("class_name"), str), _expect(meta.get("state"), dict))


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _Dtype:
    if type(code) is not str or not re.fullmatch(r"[<>|=]?([biuf](1|2|4|8|16)|\?)", code):
        raise UserError("an array element type that is not a plain number")
    return _Dtype(np.dtype(code))


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not np.ndarray:
        raise UserError("an array of an unknown class")
    return np.zeros([0], dtype=np.uint8)  # resized by `_fill_array`


def _fill_array(array: np.ndarray, state: Any, budget: Budget) -> None:
    _, shape, dtype, fortran, raw = _expect(state, tuple)
    element, raw = _expect(dtype, _Dtype).dtype, _expect(raw, (bytes, bytearray, memoryview, str))
    raw = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
    if math.prod(_size(shape)) * element.itemsize != len(raw):
        raise UserError(f"an array of shape {list(_size(shape))} does not fit its {len(raw)} bytes")
    budget.spend_bytes(len(raw))
    array.__setstate__((1, tuple(shape), element, bool(fortran), raw))  # type: ignore[arg-type]


def _scalar(dtype: Any, raw: Any) -> Any:
    """A numpy number as the Python number of the same value."""
    element = _expect(dtype, _Dtype).dtype
    if len(_expect(raw, (bytes, bytearray, str))) != element.itemsize:
        raise UserError("a number of another length than its type")
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    return np.frombuffer(raw, dtype=element)[0].item()
