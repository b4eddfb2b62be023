"""The allow-listed unpickler: what it reads, what it refuses, and what a hostile file can make it do (nothing)."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_python

import dnnlib
from torch_utils.pickle_machine import PickleMachine
from torch_utils.safe_unpickler import RefusedPickle, load_checkpoint, load_pickle

PLAIN_VALUES = [
    None, True, False, 0, -1, 255, 65536, 2**40, -(2**70), 1.5, float("inf"), "", "text", "\u00fc\u4e16\U0001f3f0",
    b"", b"bytes\x00\xff" * 50, [], [1, [2, [3]]], (), (1,), (1, 2), (1, 2, 3), tuple(range(9)), {}, {"a": 1, 2: "b"},
    {1, 2, "x"}, frozenset([1, 2]), {"deep": [{"list": ({"x": [None]},)}]},
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_as_the_standard_library_has_them(protocol):
    values = [value for value in PLAIN_VALUES if protocol >= 4 or not isinstance(value, frozenset)]
    if protocol < 2:  # where byte strings, sets and the like are spelled as calls of further globals
        values = [value for value in values if not isinstance(value, (bytes, set))]
    assert load_pickle(pickle.dumps(values, protocol=protocol)) == values


def test_a_text_with_a_broken_escape_is_read_as_pickle_reads_it():
    data = b"S'a\\q'\n."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pickle.loads(data)
    assert load_pickle(data) == expected == "a\\q"


def test_shared_and_cyclic_references_stay_what_they_are():
    shared = [1]
    cyclic = {"shared": shared, "again": shared}
    cyclic["self"] = cyclic
    loaded = load_pickle(pickle.dumps(cyclic))
    assert loaded["shared"] is loaded["again"]
    assert loaded["self"] is loaded


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_tensors_and_dicts_of_the_network_formats_are_read(protocol):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = collections.OrderedDict(
        array=matrix,
        transposed=np.asfortranarray(matrix),
        big_endian=matrix.astype(">i4"),
        number=np.float64(0.5),
        easy=dnnlib.EasyDict(a=1),
        tensor=torch.from_numpy(matrix),
        view=torch.from_numpy(matrix).t()[1:],
        parameter=torch.nn.Parameter(torch.ones([2])),
        scalar=torch.tensor(3.0),
        empty=torch.zeros([0, 4]),
        half=torch.ones([3], dtype=torch.bfloat16),
        dtype=torch.float16,
        shape=torch.Size([2, 3]),
    )
    loaded = load_pickle(pickle.dumps(value, protocol=protocol))
    assert type(loaded) is collections.OrderedDict
    assert type(loaded["easy"]) is dnnlib.EasyDict
    assert type(loaded["parameter"]) is torch.nn.Parameter
    assert list(loaded) == list(value)
    for name, expected in value.items():
        if isinstance(expected, torch.Tensor):
            assert loaded[name].dtype == expected.dtype
            assert torch.equal(loaded[name], expected), name
        else:
            assert np.array_equal(loaded[name], expected), name


def test_numpy_1_names_of_the_array_functions_are_known():
    data = pickle.dumps(np.arange(3), protocol=2)
    data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert np.array_equal(load_pickle(data), np.arange(3))


@pytest.mark.parametrize("zip_format", [True, False])
def test_torch_checkpoints_equal_what_torch_reads(zip_format):
    weight = torch.randn([4, 3])
    value = {"state": collections.OrderedDict(weight=weight, tied=weight[:2], half=weight.half()), "step": 3}
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zip_format)
    loaded = load_checkpoint(file.getvalue())
    expected = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert loaded["step"] == 3
    for name, tensor in expected["state"].items():
        assert torch.equal(loaded["state"][name], tensor)
    loaded["state"]["weight"][0] = 7
    assert (loaded["state"]["tied"][0] == 7).all()  # views of one storage still share it


def test_a_refused_file_lists_every_name_that_it_asked_for():
    class Evil:
        def __reduce__(self):
            return eval, ("1",)

    data = pickle.dumps([Evil(), os.system, {"x": Evil()}, subprocess.Popen])
    with pytest.raises(RefusedPickle, match=r"builtins\.eval, posix\.system|builtins\.eval, nt\.system") as caught:
        load_pickle(data)
    assert caught.value.names == ["builtins.eval", f"{os.system.__module__}.system", "subprocess.Popen"]
    assert "--trust-pickle" in str(caught.value)


def test_only_the_first_names_are_quoted_and_none_can_break_the_line():
    program = b"\x80\x04" + b"".join(b"cmod\x1b[2J\nname%d\n0" % i for i in range(50)) + b"N."
    with pytest.raises(RefusedPickle, match="and 38 more") as caught:
        load_pickle(program)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


class _Recorder(PickleMachine):
    """Claims to know every name, so that a call of anything would show."""

    def find_global(self, name):
        return name


def test_only_callees_can_be_called():
    with pytest.raises(ValueError, match="calls a str"):
        _Recorder(pickle.dumps(os.system) [:-1] + b"(tR.").load()


def _storage_bytes(numel_claimed: int, numel: int) -> bytes:
    """The bytes of a float storage of `numel` elements that claims `numel_claimed`."""
    file = io.BytesIO()
    torch.save(torch.ones([numel]).storage(), file, _use_new_zipfile_serialization=False)
    data = file.getvalue()
    small = b"M" + struct.pack("<H", numel)
    assert data.count(small) == 1
    return data.replace(small, b"\x8a\x08" + struct.pack("<q", numel_claimed))


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_storage_that_claims_more_than_the_file_is_refused_before_memory_is_asked_for():
    with pytest.raises(ValueError, match="claims more bytes"):
        load_checkpoint(_storage_bytes(2**40, numel=1000))


@pytest.mark.parametrize(
    "size, stride, offset",
    [([10**9], [0], 0), ([5], [1], 0), ([4], [1], 1), ([2, 2], [4, 1], 0), ([-1], [1], 0), ([1] * 9, [1] * 9, 0)],
)
def test_a_tensor_outside_its_storage_is_refused(size, stride, offset):
    tensor = torch.arange(4.0)

    class Claim:
        def __reduce__(self):
            storage = tensor.untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, offset, tuple(size), tuple(stride), False, {})

    with pytest.raises(ValueError, match="storage|size|axes"):
        load_pickle(pickle.dumps(Claim()))


def test_an_array_that_claims_another_size_is_refused():
    data = pickle.dumps(np.zeros([3], np.float32), protocol=4)
    with pytest.raises(ValueError, match="does not fit its 12 bytes"):
        load_pickle(data.replace(b"K\x03\x85", b"K\xff\x85"))


def _rewritten_zip(data: bytes, **changes: object) -> bytes:
    """The torch archive `data` with members compressed, renamed or replaced."""
    out = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if changes.get("deflate") else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data/0"):
                content = content[: changes.get("keep_bytes", len(content))]  # type: ignore[index]
            new.writestr(str(changes.get("prefix", "")) + name, content)
    return out.getvalue()


def test_zip_bombs_and_path_tricks_in_checkpoints_are_refused():
    file = io.BytesIO()
    torch.save({"w": torch.zeros([1000])}, file)
    data = file.getvalue()
    assert torch.equal(load_checkpoint(_rewritten_zip(data))["w"], torch.zeros([1000]))
    for changes, message in [
        (dict(deflate=True), "compressed"),
        (dict(keep_bytes=16), "another length than claimed"),
        (dict(prefix="../../"), "no single data.pkl"),
        (dict(prefix="/etc/"), "no single data.pkl"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_checkpoint(_rewritten_zip(data, **changes))
    for cut in (30, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="archive"):
            load_checkpoint(data[:cut])


def test_no_hostile_file_runs_code_or_takes_long_or_takes_memory(tmp_path):
    """400 generated files, in a process that watches itself for calls, time and memory."""
    script = Path(__file__).with_name("hostile_pickles.py")
    env = {**os.environ, "PYTHONPATH": str(script.parent.parent), "OMP_NUM_THREADS": "1"}
    result = warm_python.run(["-W", "error", script], cwd=tmp_path, env=env, check=True)
    report = json.loads(result.stdout)
    assert report["files"] >= 400
    assert report["executed"] == []
    assert report["not_one_line"] == []
    assert report["slowest_cpu_seconds"][0] < 2, report["slowest_cpu_seconds"]
    assert report["peak_extra_mb"] < 500
    assert list(tmp_path.iterdir()) == []
