"""Promises of torch_utils.persistence: what is in a pickle, and what loading it gives."""

from __future__ import annotations

import copy
import importlib
import io
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import warm_python

import dnnlib
from torch_utils import persistence

ROOT = Path(__file__).resolve().parent.parent

NET_SOURCE = '''
import torch
from torch_utils import persistence

# the marker of this file

@persistence.persistent_class
class Layer(torch.nn.Module):
    def __init__(self, size, scale=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(float(size)))
        self.scale = scale

    def forward(self, x):
        return x * self.weight * self.scale


@persistence.persistent_class
class Net(torch.nn.Module):
    def __init__(self, sizes, **layer_kwargs):
        super().__init__()
        self.layers = torch.nn.ModuleList([Layer(size, **layer_kwargs) for size in sizes])
        self.register_buffer("offset", torch.tensor(0.5))
        sizes.clear()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x + self.offset
'''


def import_file(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> ModuleType:
    (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module


@pytest.fixture
def net_module(tmp_path, monkeypatch) -> ModuleType:
    # The text is made unique per test: modules are shared by text for the whole life of the process.
    return import_file(tmp_path, monkeypatch, "net_file", NET_SOURCE + f"# {tmp_path}\n")


@pytest.fixture
def no_hooks(monkeypatch) -> None:
    monkeypatch.setattr(persistence, "_import_hooks", [])


def edited(data: bytes) -> bytes:
    """The same pickle with another source text of the same length."""
    assert data.count(b"the marker of this file") == 1
    return data.replace(b"the marker of this file", b"the marker of that file")


def test_decorated_class_keeps_its_name_and_tells_where_it_comes_from(net_module):
    assert net_module.Net.__name__ == "Net"
    assert net_module.Net.__module__ == "torch_utils.persistence"
    assert net_module.Net._orig_class_name == "Net"
    assert "the marker of this file" in net_module.Net._orig_module_src


def test_decorating_twice_changes_nothing(net_module):
    assert persistence.persistent_class(net_module.Net) is net_module.Net


def test_is_persistent_holds_for_decorated_classes_and_their_direct_instances_only(net_module):
    class Derived(net_module.Layer):
        pass

    assert persistence.is_persistent(net_module.Layer)
    assert persistence.is_persistent(net_module.Layer(2))
    assert not persistence.is_persistent(Derived)
    assert not persistence.is_persistent(Derived(2))
    assert not persistence.is_persistent(torch.nn.Linear(1, 1))


def test_reduced_form_is_the_documented_tuple(net_module):
    net = net_module.Net([2])
    function, (meta,), state = net.__reduce__()
    assert function is persistence._reconstruct_persistent_obj
    assert state is None
    assert type(meta) is dict
    assert list(meta) == ["type", "version", "module_src", "class_name", "state"]
    assert (meta["type"], meta["version"], meta["class_name"]) == ("class", 6, "Net")
    assert meta["state"] == net.__dict__


def test_constructor_arguments_are_remembered_as_they_were_given(net_module):
    net = net_module.Net([2, 2], scale=3.0)  # the constructor empties the list
    assert net.init_args == ([2, 2],)
    assert net.init_kwargs == {"scale": 3.0}
    assert isinstance(net.init_kwargs, dnnlib.EasyDict)
    net.init_args[0].append(7)
    assert net.init_args == ([2, 2],)
    again = type(net)(*net.init_args, **net.init_kwargs)
    assert torch.equal(again(torch.ones(2)), net(torch.ones(2)))


def test_a_derived_persistent_class_records_the_arguments_of_its_own_constructor(net_module):
    class Derived(net_module.Layer):
        def __init__(self, name):
            super().__init__(len(name), scale=2.0)

    persistent = persistence.persistent_class(Derived)
    assert persistent("abc").init_args == ("abc",)
    assert persistent("abc").init_kwargs == {}


def test_an_undecorated_subclass_refuses_to_be_pickled_as_its_parent(net_module):
    class Derived(net_module.Layer):
        pass

    with pytest.raises(pickle.PicklingError, match="Derived is derived from Layer"):
        pickle.dumps(Derived(2))


def test_source_text_appears_once_per_pickle(net_module):
    assert pickle.dumps([net_module.Net([3, 3, 3]), net_module.Net([3])]).count(b"the marker of this file") == 1


def test_source_text_of_a_loaded_network_appears_once_in_its_next_pickle(net_module):
    data = edited(pickle.dumps(net_module.Net([3, 3])))
    both = [pickle.loads(data), pickle.loads(data)]
    assert pickle.dumps(both).count(b"the marker of that file") == 1


def test_a_fresh_process_loads_the_network_from_the_embedded_source_alone(net_module, tmp_path):
    net = net_module.Net([4, 4], scale=0.5)
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(net))
    code = (
        "import pickle, sys, torch; net = pickle.load(open('net.pkl', 'rb')); "
        "print(type(net).__name__, 'net_file' in sys.modules, net(torch.ones(4)).tolist())"
    )
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "net.pkl").rename(folder / "net.pkl")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::DeprecationWarning,error::FutureWarning"}
    result = warm_python.run(["-c", code], cwd=folder, env=env)
    assert result.stdout == f"Net False {net(torch.ones(4)).tolist()}\n", result.stderr


def test_unchanged_text_gives_the_live_class(net_module):
    assert type(pickle.loads(pickle.dumps(net_module.Net([2])))) is net_module.Net


def test_changed_text_gives_a_class_of_its_own_that_is_shared_by_later_loads(net_module):
    data = edited(pickle.dumps(net_module.Net([2])))
    first, second = pickle.loads(data), pickle.loads(data)
    assert type(first) is not net_module.Net
    assert type(first) is type(second)
    assert type(first).__name__ == "Net"
    assert type(first).__mro__[1].__module__.startswith("_imported_module_")
    assert torch.equal(first(torch.ones(2)), net_module.Net([2])(torch.ones(2)))


def test_deep_copy_is_independent_and_stays_tied_to_the_embedded_text(net_module):
    loaded = pickle.loads(edited(pickle.dumps(net_module.Net([2]))))
    copied = copy.deepcopy(loaded)
    assert type(copied) is type(loaded)
    with torch.no_grad():
        copied.layers[0].weight.add_(1)
    assert not torch.equal(copied.layers[0].weight, loaded.layers[0].weight)


def test_state_that_cannot_be_pickled_raises_in_the_constructor(tmp_path, monkeypatch):
    source = (
        "from torch_utils import persistence\n"
        "@persistence.persistent_class\n"
        "class Bad:\n"
        "    def __init__(self):\n"
        "        self.function = lambda x: x\n"
    )
    module = import_file(tmp_path, monkeypatch, "bad_file", source)
    with pytest.raises(pickle.PicklingError, match="state of Bad must be pickleable"):
        module.Bad()


def test_construction_check_does_not_serialise_tensors(net_module, monkeypatch):
    def fail(*args):
        raise AssertionError("a tensor was pickled")

    monkeypatch.setattr(torch.Tensor, "__reduce_ex__", fail)
    net_module.Net([2, 2])


def test_plain_classes_get_their_attributes_back(tmp_path, monkeypatch):
    source = (
        "from torch_utils import persistence\n"
        "@persistence.persistent_class\n"
        "class Plain:\n"
        "    def __init__(self, value):\n"
        "        self.value = [value]\n"
    )
    plain = import_file(tmp_path, monkeypatch, "plain_file", source).Plain(3)
    loaded = pickle.loads(pickle.dumps(plain))
    assert loaded.value == [3]
    assert loaded.init_args == (3,)


def test_modules_from_an_older_torch_get_the_attributes_that_it_lacked(net_module):
    net = net_module.Net([2])
    function, (meta,), _ = net.__reduce__()
    newer = ["_backward_pre_hooks", "_forward_hooks_with_kwargs", "_non_persistent_buffers_set"]
    state = {key: value for key, value in meta["state"].items() if key not in newer}
    assert len(state) == len(meta["state"]) - len(newer)
    loaded = function({**meta, "state": state})
    assert torch.equal(loaded(torch.ones(2)), net(torch.ones(2)))


def test_hooks_run_in_order_for_every_object_and_may_edit_the_source(net_module, no_hooks):
    calls = []

    @persistence.import_hook
    def double(meta):
        calls.append(("double", meta.class_name))
        assert isinstance(meta.state, dnnlib.EasyDict)
        meta.module_src = meta.module_src.replace("return x + self.offset", "return 2 * (x + self.offset)")
        return meta

    @persistence.import_hook
    def look(meta):
        calls.append(("look", meta.class_name))
        assert "2 * (x + self.offset)" in meta.module_src
        return meta

    net = net_module.Net([2])
    loaded = pickle.loads(pickle.dumps(net))
    assert calls == [("double", "Layer"), ("look", "Layer"), ("double", "Net"), ("look", "Net")]
    assert torch.equal(loaded(torch.ones(2)), 2 * net(torch.ones(2)))


def test_hooks_also_run_for_deep_copies(net_module, no_hooks):
    seen = []
    persistence.import_hook(lambda meta: seen.append(meta.class_name) or meta)
    copy.deepcopy(net_module.Net([2]))
    assert seen == ["Layer", "Net"]


def test_a_hook_that_returns_nothing_is_an_error(net_module, no_hooks):
    @persistence.import_hook
    def forgetful(meta):
        pass

    with pytest.raises(ValueError, match="import hook forgetful must return meta"):
        copy.deepcopy(net_module.Layer(2))


def test_another_version_of_the_format_is_refused(net_module):
    function, (meta,), _ = net_module.Layer(2).__reduce__()
    with pytest.raises(ValueError, match="version 6, got 'class', 7"):
        function({**meta, "version": 7})


def test_a_source_that_fails_leaves_no_half_finished_module_behind(net_module, monkeypatch):
    function, (meta,), _ = net_module.Layer(2).__reduce__()
    meta["module_src"] = f"import not_yet_importable_{os.getpid()}\n" + meta["module_src"]
    before = set(sys.modules)
    with pytest.raises(ModuleNotFoundError):
        function(meta)
    assert set(sys.modules) == before
    monkeypatch.setitem(sys.modules, f"not_yet_importable_{os.getpid()}", ModuleType("stub"))
    assert type(function(meta)).__name__ == "Layer"


def test_traceback_through_a_loaded_network_shows_its_source(net_module):
    loaded = pickle.loads(edited(pickle.dumps(net_module.Net([2]))))
    with pytest.raises(TypeError) as info:
        loaded(None)
    assert any("x * self.weight" in str(entry) for entry in info.traceback)


def test_torch_save_round_trip_keeps_parameters(net_module):
    file = io.BytesIO()
    torch.save(net_module.Net([3]), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded.layers[0].weight, torch.arange(3.0))
    assert isinstance(loaded.layers[0].weight, torch.nn.Parameter)
