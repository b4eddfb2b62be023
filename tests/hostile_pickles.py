"""Load 400 hostile network files and print a JSON report; run by test_safe_unpickler.py in a process of its own.

Every payload would create a file `ran-*` in the working directory. An audit hook also records what Python does while a
file is loaded: imports, compilations, executions, processes and files.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import sys
import time
import types
import warnings
from collections.abc import Iterator
from typing import Any

import network_file_helpers as helpers
import numpy as np
import torch
from peak_memory import STATUS, peak_memory

import legacy
import ssn_plugin.networks
from training.formats import rosinality

SEED = 1
NUM_FUZZED = 110
FORBIDDEN_EVENTS = {"exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "open"}

NAMES = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "getattr"), ("builtins", "__import__"), ("builtins", "open"), ("subprocess", "Popen"),
    ("subprocess", "check_output"), ("shutil", "rmtree"), ("runpy", "_run_code"), ("importlib", "import_module"),
    ("operator", "methodcaller"), ("functools", "partial"), ("pickle", "loads"), ("torch", "load"), ("torch", "save"),
    ("torch.hub", "load"), ("numpy", "load"), ("types", "FunctionType"), ("dnnlib.util", "call_func_by_name"),
    ("dnnlib.util", "open_url"), ("torch_utils.persistence", "_src_to_module"), ("collections", "OrderedDict.update"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("copyreg", "_reconstructor"), ("webbrowser", "open"),
]  # fmt: skip


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def calls() -> Iterator[tuple[str, bytes]]:
    """Each name called in each of the ways that the format has."""
    argument = text("touch ran-call || __import__('pathlib').Path('ran-call').touch()")
    for module, name in NAMES:
        global_old, global_new = f"c{module}\n{name}\n".encode(), text(module) + text(name) + b"\x93"
        yield f"reduce {name}", b"\x80\x02" + global_old + b"(" + argument + b"tR."
        yield f"new {name}", b"\x80\x04" + global_new + argument + b"\x85\x81."
    first = f"{NAMES[0][0]}\n{NAMES[0][1]}\n".encode()
    yield "inst", b"(" + argument + b"i" + first + b"."
    yield "obj", b"(c" + first + argument + b"o."
    yield "newobj_ex", b"\x80\x04c" + first + argument + b"\x85}\x92."
    yield "build", b"\x80\x02c" + first + b"}" + text("__setstate__") + b"c" + first + b"sb."
    yield "ext", b"\x80\x02\x82\x01."
    yield "persistent id", b"\x80\x02" + argument + b"Q."
    yield "in a snapshot", b"\x80\x02}" + text("G_ema") + b"c" + first + b"(" + argument + b"tRs."


def record(class_name: str, state: Any) -> Any:
    """A value that pickles as a persistent object, with source text that must not run."""

    class Record:
        def __reduce__(self):
            from torch_utils.persistence import _reconstruct_persistent_obj

            src = "open('ran-source', 'w').close()"
            meta = dict(type="class", version=6, module_src=src, class_name=class_name, state=state)
            return _reconstruct_persistent_obj, (meta,)

    return Record()


def doubled(value: Any, times: int, kind: type = list) -> Any:
    for _ in range(times):
        value = kind([value, value])
    return value


def structures() -> Iterator[tuple[str, Any]]:
    """Well-formed programs whose values are wrong, endless or enormous."""
    G = helpers.generator()
    kwargs: dict[str, Any] = dict(G.init_kwargs)
    state = dict(vars(G))
    strange = helpers.generator()
    vars(strange.mapping).update(w_avg_beta=doubled("x", 60), training=doubled("x", 60))
    vars(strange.mapping.fc0)["activation"] = doubled("x", 60)

    def with_kwargs(**changes: Any) -> Any:
        return record("Generator", {**state, "_init_kwargs": {**kwargs, **changes}})

    bomb = doubled("x", 60)
    networks = {
        "unknown class": record("Backdoor", {}),
        "no state": record("Generator", {}),
        "state of strings": record("Generator", {"_parameters": "x", "_buffers": "y", "_modules": "z"}),
        "parameter bomb": record("Generator", {"_parameters": {"w": bomb}}),
        "module bomb": record("Generator", {"_modules": doubled_modules(40)}),
        "attribute bomb": strange,
        "argument bomb": with_kwargs(z_dim=bomb),
        "argument of tensors": with_kwargs(z_dim=torch.zeros([3])),
        "wide": with_kwargs(z_dim=2**20, w_dim=2**20),
        "wider": with_kwargs(z_dim=2**60),
        "deep": with_kwargs(mapping_kwargs=dict(num_layers=2**20)),
        "thin and deep": with_kwargs(mapping_kwargs=dict(num_layers=2**20, layer_features=0)),
        "large": with_kwargs(img_resolution=2**20),
        "odd": with_kwargs(img_resolution=12, img_channels="three"),
        "not kwargs": with_kwargs(synthesis_kwargs=[1], mapping_kwargs="x"),
        "class in kwargs": with_kwargs(class_name="os.system"),
        "infinite": with_kwargs(z_dim=float("inf"), w_dim=float("nan")),
        "negative": with_kwargs(z_dim=-5),
        "grid": record("SSNGenerator", {**state, "_init_kwargs": {**kwargs, "block_grid": [[2**20, 2**20]]}}),
        "augment": record("AugmentPipe", {"_init_kwargs": dict(xflip="1", imgfilter_bands=[1] * 9999)}),
    }
    yield from ((name, dict(G_ema=network, G=network, D=network)) for name, network in networks.items())
    yield "number", 7
    yield "tensor", torch.zeros([3])
    yield "empty dict", {}
    yield "plain bomb", dict(G_ema=None, training_set_kwargs=bomb)
    yield "dict bomb", dict(training_set_kwargs={"a": doubled_dicts(60)})


def doubled_modules(times: int) -> dict[str, Any]:
    modules: dict[str, Any] = {}
    for _ in range(times):
        child = record("Generator", {"_modules": modules})
        modules = {"a": child, "b": child}
    return modules


def doubled_dicts(times: int) -> Any:
    value: Any = "x"
    for _ in range(times):
        value = {"a": value, "b": value}
    return value


def programs() -> Iterator[tuple[str, bytes]]:
    """Programs that no pickler writes: bombs for the machine itself."""
    many = 600_000
    yield "nothing", b""
    yield "one byte", b"\x80"
    yield "deep list", b"\x80\x02" + b"]" * 95_000 + b"a" * 94_999 + b"."
    yield "deep tuple", b"\x80\x02N" + b"\x85" * 150_000 + b"."
    yield "deep tuple as key", b"\x80\x02}N" + b"\x85" * 150_000 + b"Ns."
    yield "deep tuple in EasyDict", b"\x80\x02cdnnlib.util\nEasyDict\n(]N" + b"\x85" * 150_000 + b"N\x86atR."
    yield "colliding keys", b"\x80\x02}(" + b"".join(b"\x8a\x09" + i.to_bytes(9, "little") + b"N" for i in
                                                  range(2**61 - 1, 2**61 - 1 + 50_000 * 7, 7)) + b"u."
    yield "many sets", b"\x80\x04" + b"\x8f" * many + b"."
    yield "many dicts", b"\x80\x04" + b"}\x94" * many + b"."
    yield "many marks", b"\x80\x04" + b"(" * many + b"."
    yield "far memo", b"\x80\x02Nr\xff\xff\xff\xff0."
    yield "unset memo", b"\x80\x02h\x05."
    yield "huge bytes", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc."
    yield "huge text", b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc."
    yield "huge bytearray", b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc."
    yield "huge frame", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N."
    yield "huge number", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01."
    yield "long decimal", b"\x80\x02L" + b"9" * 60_000 + b"L\n."
    copy = b"h\x00h\x01\x85R"
    yield "repeated dict", (b"\x80\x02ccollections\nOrderedDict\nq\x00](" + (text("k") + b"N\x86") * 1000 + b"eq\x01"
                            + copy * 50_000 + b".")
    yield "repeated storage", repeated_storage()
    yield "long name", b"\x80\x04" + text("m" * 5_000_000) + b"\x94" + b"h\x00h\x00\x930" * 30_000 + b"."
    yield "repeated state", (b"\x80\x02cargparse\nNamespace\nq\x00}q\x01("
                             + b"".join(text(f"k{i}") + b"N" for i in range(20_000)) + b"u0"
                             + b"h\x00)\x81h\x01b0" * 20_000 + b"N.")
    yield "storage of tuples", b"\x80\x02ctorch.storage\n_load_from_bytes\n(B\x06\x00\x00\x00abcdef\x85tR."


def repeated_storage() -> bytes:
    """One storage of a megabyte, read a thousand times."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # typed storages are deprecated, and what tensors are pickled with
        torch.save(torch.zeros([250_000]).storage(), file, _use_new_zipfile_serialization=False)
    blob = b"B" + struct.pack("<I", len(file.getvalue())) + file.getvalue()
    return b"\x80\x02ctorch.storage\n_load_from_bytes\nq\x00" + blob + b"q\x010" + b"h\x00h\x01\x85R" * 1000 + b"."


def fuzzed() -> Iterator[tuple[str, bytes]]:
    """A good snapshot with random damage outside the embedded source texts, or cut off."""
    rng = random.Random(SEED)
    good = pickle.dumps(helpers.snapshot())
    code = [(good.index(src), good.index(src) + len(src)) for src in {
        type(module)._orig_module_src.encode() for module in helpers.snapshot().values() if hasattr(module, "init_args")
    }]  # fmt: skip
    positions = sorted(set(range(len(good))) - {i for start, stop in code for i in range(start, stop)})
    for i in range(NUM_FUZZED):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 3, 30])):
            position = min(rng.choice(positions), len(data) - 1)
            kind = rng.randrange(4)
            if kind == 0:
                data[position] = rng.randrange(256)
            elif kind == 1:
                data[position] = rng.choice(b"cRi\x81\x93b(.0ueastlh\x85\x94\x8f}])")
            elif kind == 2:
                del data[position : position + rng.randrange(1, 20)]
            else:
                source = rng.choice(positions)
                data[position:position] = data[source : source + rng.randrange(1, 40)]
        yield f"fuzz {i}", bytes(data[: rng.choice(positions)] if i % 5 == 4 else data)


def stumbling() -> Iterator[tuple[str, bytes]]:
    """Snapshots and checkpoints with values of another kind than a number, a name or a shape."""
    odd = [torch.zeros([2]), np.zeros(3), "x", {}, [0, 2**70], float("nan"), -1, {1: 2}]
    attributes = [("mapping", "w_avg_beta"), ("synthesis.b8", "use_fp16"), ("synthesis.b8.conv1", "conv_clamp"),
                  ("synthesis.b8", "architecture"), ("synthesis.b8.conv1", "activation")]
    name: Any
    for i, value in enumerate(odd):
        for path, name in attributes:
            G = helpers.generator()
            vars(G.get_submodule(path))[name] = value
            yield f"{path}.{name} {i}", pickle.dumps(dict(G_ema=G))
        for name in ("z_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs", 7):
            G = helpers.generator()
            G._init_kwargs[name] = value
            yield f"argument {name} {i}", pickle.dumps(dict(G_ema=G))
        for name in ("num_layers", "w_avg_beta", "lr_multiplier"):
            G = helpers.generator()
            G._init_kwargs["mapping_kwargs"] = {name: value}
            yield f"mapping argument {name} {i}", pickle.dumps(dict(G_ema=G))
        for name in ("conv_clamp", "channel_base", "resample_filter", "architecture", "use_noise"):
            G = helpers.generator()
            G._init_kwargs["synthesis_kwargs"] = {**helpers.NARROW, name: value}
            yield f"synthesis argument {name} {i}", pickle.dumps(dict(G_ema=G))
        state = their_state()
        for key in ("latent_avg", "g", "d", 5):
            yield f"checkpoint {key} {i}", saved(dict(g_ema=state) | {key: value})
        yield f"checkpoint of one {i}", saved({**state, 3: value})
        yield f"checkpoint style {i}", saved({**state, "style.1.weight": value})
    plain = bytearray(saved(dict(g_ema=their_state())))
    for marker, offset in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)]:  # says that the members are encrypted
        encrypted, start = bytearray(plain), 0
        while (start := encrypted.find(marker, start) + 1) > 0:
            encrypted[start - 1 + offset] |= 1
        yield f"encrypted {offset}", bytes(encrypted)


def their_state() -> dict[str, torch.Tensor]:
    return rosinality._write_generator(helpers.generator())


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def costly() -> Iterator[tuple[str, bytes]]:
    """Files that would cost far more than they hold."""
    G = helpers.generator()
    state = their_state()
    wide = {**state, "style.1.weight": torch.zeros([1, 16_000]), "style.1.bias": torch.zeros([1])}
    wide = {name: value for name, value in wide.items() if not name.startswith("style.2")}
    wide |= {name: torch.zeros([len(value), 1]) for name, value in wide.items() if name.endswith("modulation.weight")}
    yield "mean of wide styles", saved(dict(g_ema=wide))
    yield "mean of very wide styles", saved(dict(g_ema=wide | {"style.1.weight": torch.zeros([1, 250_000])}))
    shared = torch.zeros([500, 500])
    for count in (60, 2000):
        layers = {f"style.{i}.weight": shared for i in range(1, count)}
        layers |= {f"style.{i}.bias": shared[0] for i in range(1, count)}
        yield f"{count} layers on one storage", saved(dict(g_ema={**state, **layers}, g={**state, **layers}))
    yield "many keys, one network", pickle.dumps({f"k{i}": G for i in range(20_000)} | dict(G_ema=G, D=G, G=G))
    yield "many keys, one list", pickle.dumps(many_keys([1] * 9000))
    yield "many keys, one dict", pickle.dumps(many_keys({f"x{i}": i for i in range(9000)}))
    for size in (16384, [16384, 12288], 8192):
        kwargs = dict(G.init_kwargs, img_resolution=size,
                      synthesis_kwargs=dict(channel_base=1, channel_max=1, use_noise=False))
        yield f"enormous {size}", pickle.dumps(dict(G_ema=record("Generator", {**vars(G), "_init_kwargs": kwargs})))
    name = "n" * 1_000_000
    inner = record("Generator", {"_parameters": {f"p{i}": None for i in range(20_000)}})
    yield "long names", pickle.dumps(dict(G_ema=record("Generator", {"_modules": {name: inner}})))
    filters = {"_init_kwargs": dict(G.init_kwargs, synthesis_kwargs=dict(helpers.NARROW, resample_filter=[1] * 9000))}
    yield "long filter", pickle.dumps(dict(G_ema=record("Generator", {**vars(G), **filters})))
    blocks = dict(block_z_dim=16384, c_dim=0, block_w_dim=1, img_resolution=4096, img_channels=3,
                  block_grid=[[1024, 1024]])
    yield "many blocks", pickle.dumps(dict(G_ema=record("SSNGenerator", {**vars(G), "_init_kwargs": blocks})))
    yield "one variable many times", tensorflow(np.zeros([512, 512], np.float32), 4000)


def many_keys(value: Any) -> dict[str, Any]:
    return dict.fromkeys((f"k{i}" for i in range(20_000)), value) | dict(G=value, training_set_kwargs=value)


def tensorflow(array: np.ndarray, times: int) -> bytes:
    """A TensorFlow network with `times` variables that are one array."""
    module, network = types.ModuleType("dnnlib.tflib.network"), type("Network", (), {})
    network.__module__, network.__qualname__ = module.__name__, "Network"
    module.Network = network  # type: ignore[attr-defined]
    stub: Any = network()
    stub.version, stub.static_kwargs, stub.components = 4, dict(resolution=8), {}
    stub.variables = [(f"mapping/Dense{i}/weight", array) for i in range(times)]
    sys.modules.update({"dnnlib.tflib": module, "dnnlib.tflib.network": module})
    try:
        return pickle.dumps((stub, stub, stub), protocol=4)
    finally:
        del sys.modules["dnnlib.tflib"], sys.modules["dnnlib.tflib.network"]


def all_files() -> list[tuple[str, bytes]]:
    files = [*calls(), *programs(), *fuzzed(), *stumbling(), *costly()]
    files += [(name, pickle.dumps(value)) for name, value in structures()]
    return files


def main() -> None:
    files = all_files()
    helpers.load(helpers.snapshot())  # imports what loading imports
    "".encode("raw_unicode_escape")
    assert ssn_plugin.networks
    baseline = peak_memory() if STATUS.exists() else 0
    executed, not_one_line, seconds, current = [], [], [], ""
    watching = False

    def watch(event: str, args: tuple) -> None:
        if watching and event in FORBIDDEN_EVENTS:
            executed.append(f"{current}: {event} {str(args)[:80]}")

    sys.addaudithook(watch)
    for current, data in files:
        start = time.process_time()
        try:
            watching = True
            legacy.load_network_pkl(io.BytesIO(data))
            outcome = "loaded"
        except ValueError as error:
            outcome = str(error)
        finally:
            watching = False
        seconds.append([round(time.process_time() - start, 2), current])
        if not outcome or "\n" in outcome or len(outcome) > 2000:
            not_one_line.append(f"{current}: {outcome[:200]!r}")
        if "-v" in sys.argv:
            print(f"{seconds[-1][0]:6.2f} {current:24s} {outcome[:150]}", file=sys.stderr)
    peak = peak_memory() if STATUS.exists() else 0
    slowest = max(seconds)
    report = dict(files=len(files), executed=executed, not_one_line=not_one_line, slowest_cpu_seconds=slowest)
    print(json.dumps({**report, "peak_extra_mb": (peak - baseline) / 1024}))


if __name__ == "__main__":
    main()
