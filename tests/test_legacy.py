"""legacy.py: snapshots with and without trust, TensorFlow pickles, half precision, and what is said of bad files."""

from __future__ import annotations

import ast
import json
import os
import pickle
import sys
import textwrap
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm_python
from click.testing import CliRunner
from network_file_helpers import (
    NARROW,
    assert_same_networks,
    assert_same_tensors,
    discriminator,
    generator,
    image_of,
    load,
    logits_of,
    moved,
    snapshot,
)

import legacy
from ssn_plugin.networks import SSNGenerator
from torch_utils import persistence
from torch_utils.safe_unpickler import RefusedPickle
from training.formats import reading
from training.networks import Generator

# Snapshots.


def ssn_generator(c_dim: int = 0) -> Any:
    kwargs = dict(channel_base=64, channel_max=8, num_fp16_res=1, conv_clamp=256)
    G = SSNGenerator(
        block_z_dim=4, c_dim=c_dim, block_w_dim=6, img_resolution=16, img_channels=3, block_grid=[[2, 4]],
        mapping_kwargs=dict(num_layers=2), synthesis_kwargs=kwargs,
    )  # fmt: skip
    return moved(G)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("architecture, c_dim", [("skip", 0), ("resnet", 0), ("orig", 3)])
def test_a_snapshot_comes_back_whole(architecture, c_dim, trust):
    saved = snapshot(generator(architecture, c_dim), discriminator(architecture, c_dim))
    loaded = load(saved, trust=trust)
    assert list(loaded) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    assert_same_networks(loaded, saved)
    assert type(loaded["G"]) is Generator
    assert loaded["G_ema"].init_kwargs == saved["G_ema"].init_kwargs
    assert_same_networks(load(loaded), saved)


@pytest.mark.parametrize("trust", [False, True])
def test_an_ssn_snapshot_comes_back_whole(trust):
    saved = snapshot(ssn_generator(c_dim=2))
    assert_same_networks(load(saved, trust=trust), saved)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_snapshot_of_any_protocol_is_read(protocol):
    saved = snapshot()
    assert_same_networks(load(pickle.dumps(saved, protocol=protocol)), saved)


def test_modes_gradients_and_frozen_layers_are_kept():
    G, D = generator(), discriminator(block_kwargs=dict(freeze_layers=2))
    G.mapping.eval()
    G.synthesis.b4.requires_grad_(False)
    loaded = load(dict(G=G, D=D, G_ema=G))
    for (path, actual), expected in zip(loaded["G"].named_modules(), G.modules()):
        assert actual.training == expected.training, path
    for (name, actual), expected in zip(loaded["G"].named_parameters(), G.parameters()):
        assert actual.requires_grad == expected.requires_grad, name
    assert [n for n, _ in loaded["D"].named_parameters()] == [n for n, _ in D.named_parameters()]
    assert loaded["training_set_kwargs"] is None
    assert loaded["augment_pipe"] is None


def test_loading_draws_no_random_numbers():
    data = pickle.dumps(snapshot())
    before = torch.get_rng_state()
    load(data)
    assert torch.equal(torch.get_rng_state(), before)


def test_loaded_networks_own_their_memory():
    loaded = load(snapshot())
    loaded["G"].mapping.fc0.weight.add_(1)
    assert not torch.equal(loaded["G"].mapping.fc0.weight, loaded["G_ema"].mapping.fc0.weight)


def _with_source(data: bytes, class_: type, replacement: str) -> bytes:
    """The pickle `data` with the embedded source text of `class_` replaced by one of at most the same length."""
    old = class_._orig_module_src.encode()  # type: ignore[attr-defined]
    assert data.count(old) == 1 and len(replacement) <= len(old)
    return data.replace(old, replacement.encode().ljust(len(old)))


def test_embedded_source_runs_only_with_trust(tmp_path):
    marker = tmp_path / "ran"
    source = textwrap.dedent(f"""
        open({str(marker)!r}, 'w').close()
        import torch
        class Generator(torch.nn.Module): pass
        class SynthesisNetwork(Generator): pass
        class SynthesisBlock(Generator): pass
        class SynthesisLayer(Generator): pass
        class MappingNetwork(Generator): pass
        class FullyConnectedLayer(Generator): pass
        class ToRGBLayer(Generator): pass
        class Conv2dLayer(Generator): pass
    """)
    G = generator()
    data = _with_source(pickle.dumps(dict(G=G, D=G, G_ema=G)), Generator, source)
    loaded = load(data)
    assert not marker.exists()
    torch.testing.assert_close(image_of(loaded["G"]), image_of(G), rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(data, trust=True)
    assert marker.exists()


def test_a_class_that_is_not_ours_needs_trust(tmp_path, monkeypatch):
    source = tmp_path / "foreign_networks.py"
    source.write_text(textwrap.dedent("""
        import torch
        from torch_utils import persistence

        @persistence.persistent_class
        class ForeignGenerator(torch.nn.Module):
            pass
    """))
    monkeypatch.syspath_prepend(str(tmp_path))
    import foreign_networks

    data = pickle.dumps({**snapshot(), "G_ema": foreign_networks.ForeignGenerator()})
    with pytest.raises(RefusedPickle, match="the embedded class ForeignGenerator.*--trust-pickle"):
        load(data)
    assert type(load(data, trust=True)["G_ema"]).__name__ == "ForeignGenerator"


def test_an_ssn_snapshot_without_the_plugin_needs_trust(monkeypatch):
    saved = snapshot(ssn_generator())
    data = pickle.dumps(saved)
    for name in ("ssn_plugin", "ssn_plugin.networks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RefusedPickle, match="SSNGenerator .ssn_plugin.networks is not installed.*--trust-pickle"):
        load(data)
    assert_same_networks(load(data, trust=True), saved)


# StyleGAN3's code base: StyleGAN2 networks whose generator is
# Generator(z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs={}, **synthesis_kwargs).


def _written_there(network: Any, **kwargs: Any) -> Any:
    """`network` with the constructor arguments `kwargs` in its record."""
    network._init_args, network._init_kwargs = (), kwargs
    return network


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_stylegan2_networks_of_stylegan3_give_the_same_images(c_dim, architecture):
    G = generator(architecture, c_dim, num_fp16_res=2, conv_clamp=64, use_noise=False).eval()
    D = discriminator(c_dim=c_dim, num_fp16_res=2, conv_clamp=64)
    sizes = dict(c_dim=c_dim, img_resolution=8, img_channels=3)
    flat = dict(NARROW, architecture=architecture, use_noise=False, num_fp16_res=2, conv_clamp=64)
    _written_there(G, z_dim=8, w_dim=8, **sizes, mapping_kwargs=dict(num_layers=2),
                   fused_modconv_default="inference_only", **flat)
    _written_there(D, **sizes, **NARROW, num_fp16_res=2, conv_clamp=64, block_kwargs={}, mapping_kwargs={},
                   epilogue_kwargs={})
    loaded = load(dict(G=G, D=D, G_ema=G, augment_pipe=None, training_set_kwargs={}))
    torch.testing.assert_close(image_of(loaded["G_ema"]), image_of(G), rtol=0, atol=0)
    torch.testing.assert_close(logits_of(loaded["D"]), logits_of(D), rtol=0, atol=0)


def test_trusted_networks_of_stylegan3_can_be_rebuilt_in_half_precision():
    G = generator().eval()
    _written_there(G, z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, mapping_kwargs=dict(num_layers=2),
                   **NARROW)
    source = Generator._orig_module_src
    data = _with_source(pickle.dumps(dict(G=G, D=discriminator(), G_ema=G)), Generator, source[:-1] + " ")
    loaded = load(data, trust=True, force_fp16=True)["G_ema"]
    assert loaded.synthesis.b8.use_fp16
    assert_same_tensors(loaded, G)


def test_stylegan3_defaults_are_spelled_out():
    """There, half precision, the clamp and the average's rate are defaults, so the snapshot does not name them."""
    G = generator(num_fp16_res=2, conv_clamp=256, resolution=16)
    G.mapping.w_avg_beta = 0.998
    D = discriminator(resolution=16, num_fp16_res=2, conv_clamp=256)
    sizes = dict(c_dim=0, img_resolution=16, img_channels=3)
    _written_there(G, z_dim=8, w_dim=8, **sizes, mapping_kwargs=dict(num_layers=2), **NARROW)
    _written_there(D, **sizes, **NARROW)
    loaded = load(dict(G=G, D=D, G_ema=G))
    assert loaded["G"].mapping.w_avg_beta == 0.998
    assert [loaded["G"].get_submodule(f"synthesis.b{r}").use_fp16 for r in (4, 8, 16)] == [False, True, True]
    assert loaded["G"].synthesis.b16.conv1.conv_clamp == loaded["D"].b8.conv0.conv_clamp == 256
    assert loaded["D"].b16.use_fp16
    torch.testing.assert_close(image_of(loaded["G"].eval()), image_of(G.eval()), rtol=0, atol=0)


@pytest.mark.parametrize("first_line", ["", "from torch_utils.ops import filtered_lrelu"])
@pytest.mark.parametrize("trust", [False, True])
def test_alias_free_networks_are_refused_by_name(trust, first_line, tmp_path, monkeypatch):
    (tmp_path / "alias_free.py").write_text(textwrap.dedent(f"""
        import torch
        from torch_utils import persistence
        try:
            {first_line or "pass"}
        except ImportError:
            if __name__ != "alias_free":
                raise

        @persistence.persistent_class
        class SynthesisInput(torch.nn.Module):
            pass

        @persistence.persistent_class
        class SynthesisNetwork(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.input = SynthesisInput()

        @persistence.persistent_class
        class Generator(torch.nn.Module):
            def __init__(self, **kwargs):
                super().__init__()
                self.synthesis = SynthesisNetwork()
    """))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "alias_free", raising=False)
    import alias_free

    G = alias_free.Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, magnitude_ema_beta=0.999)
    data = pickle.dumps(dict(G=G, D=discriminator(), G_ema=G))
    # As in another process, where the source text in the file is all there is.
    monkeypatch.setattr(persistence, "_src_to_module", {})
    with pytest.raises(ValueError, match="alias-free network .StyleGAN3., not supported"):
        load(data, trust=trust)


def test_what_does_not_fit_is_listed_by_name():
    G = generator()
    del G.synthesis.b4._parameters["const"]
    G.mapping.fc0.weight.data = torch.zeros([8, 9])
    G.mapping.register_buffer("extra", torch.zeros([1]))
    with pytest.raises(ValueError) as caught:
        load(dict(G=G, D=discriminator(), G_ema=G))
    text = str(caught.value)
    assert text.startswith("G: the file does not fit the Generator of this code base")
    assert "synthesis.b4.const is missing in the file" in text
    assert "mapping.fc0.weight has shape [8, 9] in the file and [8, 8] here" in text
    assert "mapping.extra is unknown here" in text
    changed = generator()
    changed.synthesis.b8.conv0.conv_clamp = 5
    with pytest.raises(ValueError, match="synthesis.b8.conv0.conv_clamp is 5 in the file and None here"):
        load(dict(G=changed, D=discriminator(), G_ema=changed))


# A minimal foreign host: nothing but what the snapshot format promises to its readers.

_MINIMAL_HOST = {
    "dnnlib/__init__.py": "from . import util\nfrom .util import EasyDict\n",
    "dnnlib/util.py": """
        class EasyDict(dict):
            def __getattr__(self, name):
                try:
                    return self[name]
                except KeyError:
                    raise AttributeError(name)
            def __setattr__(self, name, value):
                self[name] = value
        class UserError(ValueError):  # not part of the promise: this repository's torch_utils, lent below, wants it
            pass
    """,
    "torch_utils/__init__.py": "",
    "torch_utils/persistence.py": """
        import sys, types
        _src_of, _modules = {}, {}
        def persistent_class(cls):
            return cls
        def _reconstruct_persistent_obj(meta):
            assert set(meta) == {'type', 'version', 'module_src', 'class_name', 'state'}
            assert meta['type'] == 'class' and meta['version'] == 6
            src = meta['module_src']
            if src not in _modules:
                module = types.ModuleType('embedded_%d' % len(_modules))
                sys.modules[module.__name__] = module
                _modules[src] = module
                exec(compile(src, module.__name__, 'exec'), module.__dict__)
            cls = getattr(_modules[src], meta['class_name'])
            obj = cls.__new__(cls)
            obj.__setstate__(meta['state'])
            return obj
    """,
}
_OPEN_SNAPSHOT = """
    import pickle, sys, torch
    import dnnlib
    networks = pickle.load(open('snapshot.pkl', 'rb'))
    G, D, pipe = networks['G_ema'], networks['D'], networks['augment_pipe']
    z = torch.randn([2, G.z_dim], generator=torch.Generator().manual_seed(0))
    c = torch.eye(G.c_dim)[:2] if G.c_dim else torch.zeros([2, 0])
    with torch.no_grad():
        img = G(z=z, c=c, truncation_psi=0.7, noise_mode='const')
        ws = G.mapping(z, c, truncation_psi=0.7, truncation_cutoff=None, skip_w_avg_update=True)
        same = G.synthesis(ws, noise_mode='const', force_fp32=True)
        logits = D(pipe(img), c)
    names = [n for n, _ in G.named_buffers() if n.endswith('.noise_const')]
    assert len(names) == G.num_ws - 1, names
    assert 'training.networks' not in sys.modules and 'ssn_plugin' not in sys.modules
    torch.save([img, same, logits], 'out.pt')
"""


def _write_minimal_host(folder: Path, repository: Path) -> None:
    """The stand-ins above, and of this repository only the modules that embedded sources may import."""
    for name, text in _MINIMAL_HOST.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    (folder / "torch_utils" / "misc.py").write_text((repository / "torch_utils" / "misc.py").read_text())
    (folder / "torch_utils" / "ops").mkdir()
    ops = ["bias_act", "conv2d_gradfix", "conv2d_resample", "fma", "grid_sample_gradfix", "upfirdn2d"]
    for name in ["__init__", *ops]:
        text = (repository / "torch_utils" / "ops" / f"{name}.py").read_text()
        (folder / "torch_utils" / "ops" / f"{name}.py").write_text(text)


@pytest.mark.parametrize("make", [generator, ssn_generator], ids=["stylegan2", "ssn"])
def test_a_snapshot_opens_in_a_host_that_has_none_of_our_classes(make, tmp_path):
    networks = snapshot(make())
    _write_minimal_host(tmp_path, Path(legacy.__file__).parent)
    (tmp_path / "snapshot.pkl").write_bytes(pickle.dumps(networks))
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    warm_python.run(["-c", textwrap.dedent(_OPEN_SNAPSHOT)], cwd=tmp_path, env=env, check=True)
    img, same, logits = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(img, image_of(networks["G_ema"]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(same, img, rtol=1e-5, atol=1e-5)
    assert logits.shape == (2, 1)


def test_embedded_sources_import_nothing_of_ours_and_parse_on_python_3_8():
    for module in snapshot(ssn_generator()).values():
        if not hasattr(module, "init_args"):
            continue
        tree = ast.parse(type(module)._orig_module_src, feature_version=(3, 8))
        imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert all(getattr(node, "level", 0) == 0 for node in imports)
        roots = {name.split(".")[0] for node in imports for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )}  # fmt: skip
        assert roots <= {"__future__", "math", "numpy", "scipy", "sys", "torch", "torch_utils", "typing"}


# TensorFlow pickles, built by the reverse of the contract's table.


def _tf_generator_variables(G: Any) -> Iterator[tuple[str, np.ndarray]]:
    state = {name: value.numpy() for name, value in G.state_dict().items()}
    yield "dlatent_avg", state["mapping.w_avg"]
    if G.c_dim:
        yield "mapping/LabelEmbed/weight", state["mapping.embed.weight"].T
        yield "mapping/LabelEmbed/bias", state["mapping.embed.bias"]
    for i in range(G.mapping.num_layers):
        yield f"mapping/Dense{i}/weight", state[f"mapping.fc{i}.weight"].T
        yield f"mapping/Dense{i}/bias", state[f"mapping.fc{i}.bias"]
    yield "synthesis/4x4/Const/const", state["synthesis.b4.const"][np.newaxis]
    noises = []
    for r in G.synthesis.block_resolutions:
        here, there = f"synthesis.b{r}", f"synthesis/{r}x{r}"
        layers = [("conv1", "Conv")] if r == 4 else [("conv0", "Conv0_up"), ("conv1", "Conv1")]
        noises += [state[f"{here}.{torch_layer}.noise_const"] for torch_layer, _ in layers]
        for torch_layer, tf_layer in [*layers, ("torgb", "ToRGB")]:
            if f"{here}.{torch_layer}.weight" not in state:
                continue
            weight = state[f"{here}.{torch_layer}.weight"].transpose(2, 3, 1, 0)
            yield f"{there}/{tf_layer}/weight", weight[::-1, ::-1] if tf_layer == "Conv0_up" else weight
            yield f"{there}/{tf_layer}/bias", state[f"{here}.{torch_layer}.bias"]
            yield f"{there}/{tf_layer}/mod_weight", state[f"{here}.{torch_layer}.affine.weight"].T
            yield f"{there}/{tf_layer}/mod_bias", state[f"{here}.{torch_layer}.affine.bias"] - 1
            if torch_layer != "torgb":
                yield f"{there}/{tf_layer}/noise_strength", state[f"{here}.{torch_layer}.noise_strength"]
        if f"{here}.skip.weight" in state:
            yield f"{there}/Skip/weight", state[f"{here}.skip.weight"].transpose(2, 3, 1, 0)[::-1, ::-1]
    for k, noise in enumerate(noises):
        yield f"synthesis/noise{k}", noise[np.newaxis, np.newaxis]


def _tf_discriminator_variables(D: Any) -> Iterator[tuple[str, np.ndarray]]:
    names = {"mapping.embed": "LabelEmbed", "b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output"}
    names.update({f"mapping.fc{i}": f"Mapping{i}" for i in range(8)})
    for r in [4, *D.block_resolutions]:
        names.update({f"b{r}.fromrgb": f"{r}x{r}/FromRGB", f"b{r}.skip": f"{r}x{r}/Skip"})
        if r > 4:
            names.update({f"b{r}.conv0": f"{r}x{r}/Conv0", f"b{r}.conv1": f"{r}x{r}/Conv1_down"})
    for name, value in D.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        if leaf != "resample_filter":
            array = value.numpy()
            yield f"{names[layer]}/{leaf}", array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _tf_stub(network: type, variables: list[tuple[str, np.ndarray]], static_kwargs: dict, version: int = 4) -> Any:
    """A TensorFlow network object with its mapping and synthesis parts as components."""
    parts = [part for part in ("mapping", "synthesis") if any(name.startswith(f"{part}/") for name, _ in variables)]
    stub = network()
    stub.__dict__.update(version=version, static_kwargs=static_kwargs, build_module_src="raise SystemExit")
    stub.variables = [(name, value) for name, value in variables if name.split("/")[0] not in parts]
    inner = {p: [(n[len(p) + 1 :], v) for n, v in variables if n.startswith(f"{p}/")] for p in parts}
    stub.components = {part: _tf_stub(network, part_variables, {}) for part, part_variables in inner.items()}
    return stub


def tf_pickle(G: Any, D: Any, G_kwargs: dict, D_kwargs: dict, rename: Any = str, version: int = 4) -> bytes:
    """The pickle of the TensorFlow host for networks that have these weights."""
    modules = {name: types.ModuleType(name) for name in ("dnnlib.tflib", "dnnlib.tflib.network")}
    network = type("Network", (), {"__module__": "dnnlib.tflib.network"})
    modules["dnnlib.tflib.network"].Network = network  # type: ignore[attr-defined]
    g_variables = [(rename(name), np.array(value)) for name, value in _tf_generator_variables(G)]
    d_variables = [(rename(name), np.array(value)) for name, value in _tf_discriminator_variables(D)]
    tf_G = _tf_stub(network, g_variables, G_kwargs, version)
    sys.modules.update(modules)
    try:
        return pickle.dumps((tf_G, _tf_stub(network, d_variables, D_kwargs, version), tf_G), protocol=4)
    finally:
        for name in modules:
            del sys.modules[name]


def _tf_kwargs(architecture: str, D_architecture: str, c_dim: int) -> tuple[dict, dict]:
    common = dict(label_size=c_dim, resolution=8, num_channels=3, fmap_base=32, fmap_max=8)
    G_kwargs = dict(common, latent_size=8, dlatent_size=8, mapping_layers=2, architecture=architecture)
    return dict(G_kwargs, truncation_psi=0.5), dict(common, architecture=D_architecture, mbstd_group_size=4)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "architecture, D_architecture, c_dim", [("skip", "resnet", 0), ("resnet", "skip", 3), ("orig", "orig", 0)]
)
def test_tensorflow_networks_come_back_as_ours(architecture, D_architecture, c_dim, trust):
    G = generator(architecture, c_dim).eval().requires_grad_(False)
    D = discriminator(D_architecture, c_dim, mapping_kwargs=dict(num_layers=0)).requires_grad_(False)
    data = tf_pickle(G, D, *_tf_kwargs(architecture, D_architecture, c_dim))
    loaded = load(data, trust=trust)
    for key, expected in [("G", G), ("G_ema", G), ("D", D)]:
        state = loaded[key].state_dict()
        assert list(state) == list(expected.state_dict())
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-6)
        assert not loaded[key].training
        assert not any(p.requires_grad for p in loaded[key].parameters())
    torch.testing.assert_close(image_of(loaded["G_ema"]), image_of(G), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(loaded["D"]), logits_of(D), rtol=1e-5, atol=1e-5)
    assert loaded["augment_pipe"] is None


def test_arguments_that_change_no_tensorflow_network_are_accepted():
    G, D = generator().eval(), discriminator()
    harmless = dict(resolution_w=8, resolution_h=8, randomize_noise=False, fused_modconv=True, conditioning=None)
    G_kwargs, D_kwargs = _tf_kwargs("skip", "resnet", 0)
    loaded = load(tf_pickle(G, D, {**G_kwargs, **harmless}, {**D_kwargs, **harmless}))
    torch.testing.assert_close(image_of(loaded["G_ema"]), image_of(G), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="TensorFlow network has resolution_w 16 and resolution 8"):
        load(tf_pickle(G, D, {**G_kwargs, "resolution_w": 16}, D_kwargs))


def test_rgb_layers_of_progressive_growing_are_found():
    def rename(name: str) -> str:
        return name.replace("8x8/FromRGB", "FromRGB_lod0").replace("synthesis/8x8/ToRGB", "synthesis/ToRGB_lod0")

    G, D = generator("orig").eval(), discriminator("orig")
    G_kwargs, D_kwargs = _tf_kwargs("skip", "resnet", 0)  # which the names of the variables overrule
    loaded = load(tf_pickle(G, D, G_kwargs, D_kwargs, rename=rename))
    assert loaded["D"].init_kwargs["architecture"] == "orig"
    torch.testing.assert_close(image_of(loaded["G"]), image_of(G), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(loaded["D"]), logits_of(D), rtol=1e-5, atol=1e-5)


def test_tensorflow_networks_that_are_not_stylegan2_are_refused():
    G, D = generator(), discriminator()
    G_kwargs, D_kwargs = _tf_kwargs("skip", "resnet", 0)
    with pytest.raises(ValueError, match="version 3"):
        load(tf_pickle(G, D, G_kwargs, D_kwargs, version=3))
    with pytest.raises(ValueError, match="unknown arguments: use_wscale"):
        load(tf_pickle(G, D, dict(G_kwargs, use_wscale=True), D_kwargs))
    with pytest.raises(ValueError, match="mapping.fc1.bias is missing in the file"):
        load(tf_pickle(G, D, G_kwargs, D_kwargs, rename=lambda name: name.replace("Dense1/bias", "Dense1/lod")))
    with pytest.warns(UserWarning, match="left out: mapping/Dense7x/bias"):
        try:
            load(tf_pickle(G, D, G_kwargs, D_kwargs, rename=lambda name: name.replace("Dense1/bias", "Dense7x/bias")))
        except ValueError as error:
            assert "mapping.fc1.bias is missing" in str(error)


def test_arguments_that_a_tensorflow_pickle_leaves_out_have_their_defaults_there():
    G = Generator(z_dim=512, c_dim=0, w_dim=512, img_resolution=8, img_channels=3)
    stub = legacy.TFNetworkStub()
    variables = list(_tf_generator_variables(G.requires_grad_(False)))
    stub.__dict__.update(version=4, static_kwargs=dict(resolution=8, w_avg_beta=None), variables=variables)
    stub.components = {}
    converted = legacy.convert_tf_generator(stub)
    assert converted.init_kwargs["mapping_kwargs"]["w_avg_beta"] == 1  # None: the average does not move
    assert converted.init_kwargs["synthesis_kwargs"]["channel_base"] == 32768
    torch.testing.assert_close(image_of(converted), image_of(G.eval()), rtol=1e-5, atol=1e-5)


# Half precision.


def test_force_fp16_rebuilds_the_networks_with_the_same_weights():
    saved = snapshot(generator(resolution=16))
    loaded = load(saved, force_fp16=True)
    assert loaded["G_ema"].init_kwargs["synthesis_kwargs"]["num_fp16_res"] == 4
    assert loaded["D"].init_kwargs["conv_clamp"] == 256
    assert loaded["G"].synthesis.b8.use_fp16 and not loaded["G"].synthesis.b4.use_fp16
    for key in ("G", "D", "G_ema"):
        assert_same_tensors(loaded[key], saved[key])
    assert load(loaded, force_fp16=True)["G"].init_kwargs == loaded["G"].init_kwargs


# Bad files, and the command.


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the network file is empty"),
        (b"\x89PNG\r\n\x1a\n", "neither a pickle, a torch checkpoint nor safetensors"),
        (b"\x80\x04hello", "not a readable pickle"),
        (pickle.dumps([1, 2]), "it holds an object of type list, not a dict with G, D and G_ema"),
        (pickle.dumps({"G": None}), "G is nothing"),
        (pickle.dumps(snapshot())[:20_000], "not a readable pickle: expected"),
        (b"PK\x03\x04 not a zip", "not a readable torch archive"),
        ((64).to_bytes(8, "little") + b'{"a": 1', "safetensors header of 64 bytes is truncated"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_line_that_names_it(content, message, tmp_path):
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with open(path, "rb") as file, pytest.raises(ValueError, match=message) as caught:
        legacy.load_network_pkl(file)
    assert str(caught.value).startswith(str(path))
    result = CliRunner().invoke(legacy.main, [f"--source={path}", f"--dest={tmp_path}/out.pkl"])
    assert result.exit_code == 2
    assert result.output.count("\n") == 1 and message.split(":")[0] in result.output
    assert not (tmp_path / "out.pkl").exists()


def test_an_oversized_file_is_refused_before_it_is_read_further(monkeypatch):
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than"):
        load(bytes(2000))


def test_the_command_converts_a_tensorflow_pickle(tmp_path):
    G, D = generator().eval(), discriminator()
    source, dest = tmp_path / "tf.pkl", tmp_path / "torch.pkl"
    source.write_bytes(tf_pickle(G, D, *_tf_kwargs("skip", "resnet", 0)))
    result = CliRunner().invoke(legacy.main, [f"--source={source}", f"--dest={dest}", "--force-fp16=true"])
    assert result.exit_code == 0, result.output
    with open(dest, "rb") as file:
        loaded = legacy.load_network_pkl(file)
    assert loaded["G_ema"].init_kwargs["synthesis_kwargs"]["num_fp16_res"] == 4
    for actual, expected in zip(loaded["G"].parameters(), G.parameters()):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, check_stride=False)


def test_the_command_explains_itself():
    result = CliRunner().invoke(legacy.main, ["--source=help"])
    assert result.exit_code == 0
    assert "ffhq1024" in result.output
    result = CliRunner().invoke(legacy.main, ["--source=missing.pkl", "--dest=out.pkl"])
    assert result.exit_code == 2
    assert "missing.pkl is not an existing file, a URL or one of ffhq256" in result.output


# Reference numbers.


def test_a_reference_tensorflow_conversion_is_reproduced(shared):
    archive = np.load(shared / "golden" / "legacy_tf.npz")
    stubs = []
    for prefix in ("G", "D"):
        stub = legacy.TFNetworkStub()
        variables = [(name[4:], archive[name]) for name in archive.files if name.startswith(f"tf{prefix}/")]
        kwargs = json.loads(str(archive[f"{prefix}_static_kwargs"]))
        stub.__dict__.update(version=4, static_kwargs=kwargs, variables=variables, components={})
        stubs.append(stub)
    G, D = legacy.convert_tf_generator(stubs[0]), legacy.convert_tf_discriminator(stubs[1])
    for prefix, network in (("G", G), ("D", D)):
        assert network.init_kwargs == json.loads(str(archive[f"{prefix}_init_kwargs"]))
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, torch.from_numpy(archive[f"{prefix}/{name}"]), rtol=1e-6, atol=1e-6)
    z, c, img = (torch.from_numpy(archive[name]) for name in ("z", "c", "img_const"))
    torch.testing.assert_close(G(z, c, noise_mode="const"), img, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(D(img, c), torch.from_numpy(archive["logits"]), rtol=1e-4, atol=2e-4)
