"""Writing and converting network files: pickles, safetensors, rosinality checkpoints; short names; model cards."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm_python
from network_file_helpers import (
    assert_same_networks,
    assert_same_tensors,
    generator,
    image_of,
    load,
    logits_of,
    moved,
    snapshot,
)

import dnnlib
import legacy
from ssn_plugin.networks import SSNGenerator
from training import network_files
from training.formats import network_config, network_export, network_names, rosinality
from training.networks import Discriminator, Generator


def ssn_generator() -> Any:
    return moved(SSNGenerator(
        block_z_dim=4, c_dim=0, block_w_dim=6, img_resolution=16, img_channels=3, block_grid=[[2, 4]],
        mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=64, channel_max=8),
    ))  # fmt: skip


def read(path: str | os.PathLike) -> dict[str, Any]:
    with open(path, "rb") as file:
        return legacy.load_network_pkl(file)


# Pickles and safetensors.


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
@pytest.mark.parametrize("make", [generator, lambda: generator("resnet", c_dim=3), ssn_generator])
def test_written_networks_are_read_again(make, suffix, tmp_path):
    networks = snapshot(make())
    path = tmp_path / f"network{suffix}"
    assert network_export.save_networks(networks, path) == []
    loaded = read(path)
    assert_same_networks(loaded, networks)
    for key in ("G", "D", "G_ema", "augment_pipe"):
        assert loaded[key].init_kwargs == networks[key].init_kwargs
        assert not any(p.requires_grad for p in loaded[key].parameters())


def test_a_conversion_there_and_back_changes_nothing(tmp_path):
    networks = snapshot(generator(num_fp16_res=1, conv_clamp=256))
    first, second, third = (str(tmp_path / name) for name in ("a.pkl", "b.safetensors", "c.pkl"))
    network_export.save_networks(networks, first)
    network_files.convert(first, second)
    network_files.convert(second, third)
    assert_same_networks(read(third), networks)


def test_a_network_from_foreign_source_text_is_written_with_our_class(tmp_path):
    networks = load(snapshot(), trust=True)
    foreign = copy.deepcopy(networks)
    source = type(networks["G_ema"])._orig_module_src.encode()
    data = pickle.dumps(foreign["G_ema"]).replace(source, source[:-1] + b" ")
    foreign["G_ema"] = pickle.loads(data)
    assert type(foreign["G_ema"]) is not Generator
    network_export.save_networks(foreign, tmp_path / "native.pkl")
    with open(tmp_path / "native.pkl", "rb") as file:
        assert type(pickle.load(file)["G_ema"]) is Generator
    network_export.save_networks(foreign, tmp_path / "native.safetensors")
    assert_same_tensors(read(tmp_path / "native.safetensors")["G_ema"], networks["G_ema"])


def test_the_config_is_readable_and_holds_no_code(tmp_path):
    network_export.save_networks(snapshot(), tmp_path / "network.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["weights"] == "network.safetensors"
    assert config["networks"]["G_ema"]["class_name"] == "Generator"
    assert config["networks"]["G_ema"]["init_kwargs"]["img_resolution"] == 8
    assert b"import torch" not in (tmp_path / "network.safetensors").read_bytes()


def test_weights_whose_header_lost_the_config_take_the_file_beside_them(tmp_path):
    networks = snapshot()
    path = tmp_path / "network.safetensors"
    network_export.save_networks(networks, path)
    library = pytest.importorskip("safetensors.torch")
    library.save_file(library.load_file(path), path)
    assert_same_networks(read(path), networks)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="without the config of its networks"):
        read(path)


def test_a_second_file_of_weights_does_not_take_over_the_config_of_the_first(tmp_path):
    network_export.save_networks(snapshot(), tmp_path / "first.safetensors")
    network_export.save_networks(snapshot(), tmp_path / "first.safetensors")
    with pytest.raises(ValueError, match="belongs to first.safetensors: give second.safetensors a folder of its own"):
        network_export.save_networks(snapshot(), tmp_path / "second.safetensors")
    assert not (tmp_path / "second.safetensors").exists()


def test_a_generator_alone_becomes_a_complete_snapshot_with_a_note(tmp_path):
    networks = {**snapshot(), "D": None}
    assert network_export.save_networks(networks, tmp_path / "out.safetensors") == []
    assert read(tmp_path / "out.safetensors")["D"] is None
    torch.manual_seed(3)
    state = torch.get_rng_state()
    notes = network_export.save_networks(networks, tmp_path / "out.pkl")
    assert torch.equal(torch.get_rng_state(), state)
    assert len(notes) == 1 and notes[0].startswith("D is untrained")
    assert logits_of(read(tmp_path / "out.pkl")["D"]).shape == (2, 1)


def test_an_unknown_suffix_or_folder_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"must end in .pkl, .safetensors, .pt, got .*out.onnx"):
        network_files.convert("does-not-exist.pkl", str(tmp_path / "out.onnx"))
    with pytest.raises(ValueError, match=r"the folder of the network file to write must exist, got .*new.out.pkl"):
        network_files.convert("does-not-exist.pkl", str(tmp_path / "new" / "out.pkl"))


# The safetensors format itself.


def test_the_same_networks_give_the_same_bytes(tmp_path):
    files, networks = [], snapshot()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        network_export.save_networks(networks, tmp_path / name / "network.safetensors")
        files.append((tmp_path / name / "network.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_module_under_two_keys_is_written(tmp_path):
    networks = snapshot()
    networks["G"] = networks["G_ema"]
    network_export.save_networks(networks, tmp_path / "network.safetensors")
    assert_same_networks(read(tmp_path / "network.safetensors"), networks)


def test_without_the_library_one_line_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    network_export.save_networks(snapshot(), path)
    before = path.read_bytes()
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: read(path), lambda: network_export.save_networks(snapshot(), path)):
        with pytest.raises(ValueError, match=r"pip install 'ssn-plugin\[safetensors\]'$"):
            call()
    assert path.read_bytes() == before
    network_export.save_networks(snapshot(), tmp_path / "network.pkl")


def _safetensors(entries: dict[str, Any], payload: bytes = bytes(8), length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        _safetensors({"a": _ENTRY}, payload=bytes(7)),
        _safetensors({"a": _ENTRY}, payload=bytes(9)),
        _safetensors({"a": _ENTRY, "b": _ENTRY}),
        _safetensors({"a": {**_ENTRY, "shape": [2**50]}}),
        _safetensors({"a": {**_ENTRY, "shape": [-1, -2]}}),
        _safetensors({"a": {**_ENTRY, "shape": "2"}}),
        _safetensors({"a": {**_ENTRY, "shape": [2, *[1] * 1000]}}),
        _safetensors({"a": {**_ENTRY, "dtype": "PICKLE"}}),
        _safetensors({"a": {**_ENTRY, "dtype": "F4", "shape": [16]}}),
        _safetensors({"a": {**_ENTRY, "data_offsets": [0, 8, 9]}}),
        _safetensors({"a": [1]}),
        _safetensors({"__metadata__": {"a": 1}, "a": _ENTRY}),
        (50_000).to_bytes(8, "little") + b"[" * 50_000,
        (70_006).to_bytes(8, "little") + b'{"a":' + b"9" * 70_000 + b"}",
    ],
)  # fmt: skip
def test_a_damaged_safetensors_file_is_refused(data):
    with pytest.raises(ValueError, match="damaged safetensors file"):
        network_config.read_safetensors(data)


@pytest.mark.parametrize("length", [2**40, 4 * 2**20 + 1])
def test_a_large_header_is_refused_before_it_is_parsed(length, monkeypatch):
    monkeypatch.setattr(network_config, "import_safetensors", None)
    with pytest.raises(ValueError, match="header of .* bytes is truncated or larger than"):
        network_config.read_safetensors(_safetensors({"a": _ENTRY}, length=length, payload=bytes(length % 2**30)))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(format="other"), "not the config of a stylegan2-networks file"),
        (dict(networks=[1]), "must be a dict with keys among"),
        (dict(networks={"evil": {}}), "must be a dict with keys among"),
        (dict(networks={}), "tensors that belong to no network: D.b4.conv.bias"),
        (dict(networks={"G": {"class_name": "Generator"}}), "must name class_name, init_args and init_kwargs"),
        (dict(networks={"G": dict(class_name="os.system", init_args=[], init_kwargs={})}), "embedded class os.system"),
        (dict(networks={"G": dict(class_name="Generator", init_args=[1], init_kwargs={})}), "cannot be built"),
        (dict(networks={"G": dict(class_name="Generator", init_args=[], init_kwargs={"z": 2**40})}), "integer beyond"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change, message, tmp_path):
    path = tmp_path / "network.safetensors"
    network_export.save_networks(snapshot(), path)
    tensors, text = network_config.read_safetensors(path.read_bytes())
    out = io.BytesIO()
    network_config.save_safetensors(out, tensors, json.dumps({**json.loads(text), **change}))
    with pytest.raises(ValueError, match=message):
        load(out.getvalue())


def test_a_damaged_download_says_what_to_delete(tmp_path, monkeypatch):
    monkeypatch.setattr(dnnlib.util, "make_cache_dir_path", lambda *parts: str(tmp_path))
    url = "https://example.com/net.pkl"
    copy_path = tmp_path / f"{hashlib.md5(url.encode()).hexdigest()}_net.pkl"
    copy_path.write_bytes(pickle.dumps(snapshot())[:1000])
    with pytest.raises(ValueError, match=rf"^{copy_path}: .* .a copy of {url}, which is fetched again once"):
        network_files.load_networks(url)


# Rosinality checkpoints.


@pytest.fixture(scope="module")
def wide_networks() -> dict[str, Any]:
    """Networks of the widths that rosinality's code has, at the smallest size."""
    G = moved(Generator(
        z_dim=16, c_dim=0, w_dim=16, img_resolution=8, img_channels=3, mapping_kwargs=dict(num_layers=2),
        synthesis_kwargs=dict(channel_base=16384, channel_max=512),
    ))  # fmt: skip
    D = moved(Discriminator(
        c_dim=0, img_resolution=8, img_channels=3, channel_base=16384, channel_max=512,
        epilogue_kwargs=dict(mbstd_group_size=4),
    ))  # fmt: skip
    return {**snapshot(G, D), "training_set_kwargs": None, "augment_pipe": None}


# Every entry of the generator's state dict there for 8 pixels, style width 16, two mapping layers.
_THEIR_GENERATOR = {
    "style.1.weight": (16, 16), "style.1.bias": (16,), "style.2.weight": (16, 16), "style.2.bias": (16,),
    "input.input": (1, 512, 4, 4),
    "conv1.conv.weight": (1, 512, 512, 3, 3), "conv1.noise.weight": (1,), "conv1.activate.bias": (512,),
    "conv1.conv.modulation.weight": (512, 16), "conv1.conv.modulation.bias": (512,),
    "to_rgb1.bias": (1, 3, 1, 1), "to_rgb1.conv.weight": (1, 3, 512, 1, 1),
    "to_rgb1.conv.modulation.weight": (512, 16), "to_rgb1.conv.modulation.bias": (512,),
    "convs.0.conv.weight": (1, 512, 512, 3, 3), "convs.0.noise.weight": (1,), "convs.0.activate.bias": (512,),
    "convs.0.conv.modulation.weight": (512, 16), "convs.0.conv.modulation.bias": (512,),
    "convs.0.conv.blur.kernel": (4, 4),
    "convs.1.conv.weight": (1, 512, 512, 3, 3), "convs.1.noise.weight": (1,), "convs.1.activate.bias": (512,),
    "convs.1.conv.modulation.weight": (512, 16), "convs.1.conv.modulation.bias": (512,),
    "to_rgbs.0.bias": (1, 3, 1, 1), "to_rgbs.0.upsample.kernel": (4, 4), "to_rgbs.0.conv.weight": (1, 3, 512, 1, 1),
    "to_rgbs.0.conv.modulation.weight": (512, 16), "to_rgbs.0.conv.modulation.bias": (512,),
    "noises.noise_0": (1, 1, 4, 4), "noises.noise_1": (1, 1, 8, 8), "noises.noise_2": (1, 1, 8, 8),
}  # fmt: skip
_THEIR_DISCRIMINATOR = {
    "convs.0.0.weight": (512, 3, 1, 1), "convs.0.1.bias": (512,),
    "convs.1.conv1.0.weight": (512, 512, 3, 3), "convs.1.conv1.1.bias": (512,),
    "convs.1.conv2.0.kernel": (4, 4), "convs.1.conv2.1.weight": (512, 512, 3, 3), "convs.1.conv2.2.bias": (512,),
    "convs.1.skip.0.kernel": (4, 4), "convs.1.skip.1.weight": (512, 512, 1, 1),
    "final_conv.0.weight": (512, 513, 3, 3), "final_conv.1.bias": (512,),
    "final_linear.0.weight": (512, 8192), "final_linear.0.bias": (512,),
    "final_linear.1.weight": (1, 512), "final_linear.1.bias": (1,),
}  # fmt: skip


def test_a_rosinality_checkpoint_has_their_keys_and_shapes(wide_networks):
    checkpoint = rosinality.write_checkpoint(wide_networks)
    for key, expected in [("g", _THEIR_GENERATOR), ("g_ema", _THEIR_GENERATOR), ("d", _THEIR_DISCRIMINATOR)]:
        assert {name: tuple(value.shape) for name, value in checkpoint[key].items()} == expected
    assert checkpoint["latent_avg"].shape == (16,)
    assert checkpoint["g_ema"]["to_rgbs.0.upsample.kernel"].sum() == pytest.approx(4)
    assert checkpoint["d"]["convs.1.skip.0.kernel"].sum() == pytest.approx(1)


def test_a_rosinality_checkpoint_is_read_again(wide_networks, tmp_path):
    assert network_export.save_networks(wide_networks, tmp_path / "network.pt") == []
    assert torch.load(tmp_path / "network.pt", weights_only=True).keys() == {"g", "g_ema", "latent_avg", "d"}
    loaded = read(tmp_path / "network.pt")
    for key in ("G", "D", "G_ema"):
        assert_same_tensors(loaded[key], wide_networks[key])
    torch.testing.assert_close(image_of(loaded["G_ema"]), image_of(wide_networks["G_ema"]), rtol=0, atol=0)
    torch.testing.assert_close(logits_of(loaded["D"]), logits_of(wide_networks["D"]), rtol=0, atol=0)


def test_a_training_checkpoint_without_average_or_discriminator_is_read(wide_networks):
    """As their training script and older versions of torch write it: arguments and optimiser beside the weights."""
    import argparse

    checkpoint = rosinality.write_checkpoint(wide_networks)
    del checkpoint["latent_avg"], checkpoint["d"], checkpoint["g"]
    checkpoint["args"] = argparse.Namespace(size=8, lr=0.002)
    checkpoint["g_optim"] = {"state": {0: {"step": 1, "exp_avg": torch.zeros([3])}}, "param_groups": [{"lr": 0.1}]}
    out = io.BytesIO()
    torch.save(checkpoint, out, _use_new_zipfile_serialization=False)
    loaded = load(out.getvalue())
    assert loaded["D"] is None
    assert_same_tensors(loaded["G"], loaded["G_ema"])
    z = torch.randn([20_000, 16], generator=torch.Generator().manual_seed(9))
    ws = loaded["G_ema"].mapping(z, None)[:, 0]
    # 10,000 and 20,000 independent samples of one mean: six standard errors.
    error = 6 * ws.std(dim=0) * (1 / 10_000 + 1 / 20_000) ** 0.5
    assert ((loaded["G_ema"].mapping.w_avg - ws.mean(dim=0)).abs() < error).all()


@pytest.fixture(scope="module")
def their_generator() -> dict[str, torch.Tensor]:
    """A narrow generator in their layout, which reading takes at any width."""
    return rosinality._write_generator(generator())


def saved(checkpoint: Any) -> bytes:
    out = io.BytesIO()
    torch.save(checkpoint, out)
    return out.getvalue()


@pytest.mark.parametrize("wrap", [
    lambda state, average: dict(g_ema=state, latent_avg=average),
    lambda state, average: dict(g_ema=state, latent_avg=average[None]),
    lambda state, average: dict(g_ema={f"module.{name}": value for name, value in state.items()}, latent_avg=average),
])
def test_variants_of_a_rosinality_checkpoint_are_the_same_network(wrap, their_generator):
    average = torch.arange(8.0)
    loaded = load(saved(wrap(their_generator, average)))["G_ema"]
    state = {**rosinality._write_generator(loaded), "latent_avg": loaded.mapping.w_avg}
    assert state.keys() == {*their_generator, "latent_avg"}
    assert all(torch.equal(value, {**their_generator, "latent_avg": average}[name]) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_bare_state_of_a_rosinality_generator_is_read(prefix, their_generator):
    loaded = load(saved({prefix + name: value for name, value in their_generator.items()}))
    again = rosinality._write_generator(loaded["G_ema"])
    assert all(torch.equal(again[name], value) for name, value in their_generator.items())
    assert loaded["D"] is None and loaded["G_ema"].mapping.w_avg.abs().sum() > 0


@pytest.mark.parametrize("architecture, c_dim, options", [
    ("skip", 0, {}), ("resnet", 3, {}), ("orig", 0, dict(use_noise=False)), ("skip", 0, dict(channel_max=64)),
])
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: dict(
    step=7, G_ema={f"module.{name}": value for name, value in state.items()})])
def test_the_bare_state_of_a_generator_of_ours_is_read(wrap, architecture, c_dim, options):
    G = generator(architecture, c_dim, resolution=16, **options).eval()
    with pytest.warns(UserWarning, match="its architecture was told from their shapes"):
        loaded = load(saved(wrap(G.state_dict())))
    assert_same_tensors(loaded["G_ema"], G)
    torch.testing.assert_close(image_of(loaded["G_ema"]), image_of(G), rtol=0, atol=0)


@pytest.mark.parametrize("change", [
    lambda state: state.pop("mapping.fc0.weight"), lambda state: state.pop("synthesis.b8.torgb.weight"),
    lambda state: state.update({"synthesis.b4.const": torch.zeros([8, 4, 6])}),
    lambda state: state.update({"synthesis.b4.const": torch.zeros([0])}),
    lambda state: state.update({"synthesis.b9.conv1.bias": torch.zeros([8])}),
    lambda state: state.update({"mapping.embed.weight": torch.zeros([8])}),
    lambda state: state.update({"encoder.conv4.weight": torch.zeros([8])}),
])
def test_a_bare_state_that_is_no_stylegan2_is_refused(change):
    state = dict(generator().state_dict())
    change(state)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="G_ema"):
        warnings.simplefilter("ignore")
        load(saved(state))


def test_missing_noise_maps_are_drawn_from_a_seed(their_generator):
    old = {name: value for name, value in their_generator.items() if not name.startswith("noises.")}
    maps = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="the file has no noise maps; they are drawn from seed 0"):
            G = load(saved(dict(g_ema=old)))["G_ema"]
        maps.append([G.synthesis.b4.conv1.noise_const, G.synthesis.b8.conv0.noise_const])
    assert all(torch.equal(a, b) for a, b in zip(*maps)) and maps[0][1].shape == (8, 8) and maps[0][1].std() > 0.5


def test_an_export_of_a_conditional_network_is_refused(their_generator):
    half = torch.zeros([8, 16])
    with pytest.raises(ValueError, match="made from a conditional network .its first mapping layer is 8x16"):
        load(saved(dict(g_ema={**their_generator, "style.1.weight": half})))


def test_what_a_rosinality_checkpoint_cannot_hold_is_listed(tmp_path):
    with pytest.raises(ValueError, match="c_dim is 3, not 0; generator architecture is resnet.*generator widths are"):
        network_export.save_networks(snapshot(generator("resnet", c_dim=3)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="it is a SSNGenerator, not a StyleGAN2 generator"):
        network_export.save_networks(snapshot(ssn_generator()), tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_what_a_rosinality_checkpoint_drops_is_said(wide_networks, tmp_path):
    networks = dict(wide_networks, training_set_kwargs={"path": "x"})
    networks["D"] = moved(Discriminator(
        c_dim=0, img_resolution=8, img_channels=3, channel_base=16384, conv_clamp=256,
        epilogue_kwargs=dict(mbstd_group_size=8),
    ))  # fmt: skip
    notes = network_export.save_networks(networks, tmp_path / "x.pt")
    assert notes == [
        "D: no clamp of activations at 256 and no half precision any more",
        "D: the group of the minibatch deviation becomes 4, was 8",
        "training_set_kwargs is left out",
    ]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["g_ema"].pop("conv1.noise.weight"), "conv1.noise.weight is missing"),
        (lambda c: c["g_ema"].update(extra=torch.zeros([1])), "extra is unknown"),
        (lambda c: c["g_ema"].update({"input.input": torch.zeros([2, 512, 4, 4])}), r"input.input has shape \[2, 512"),
        (lambda c: c["g_ema"].update({"conv1.activate.bias": "x"}), "conv1.activate.bias is a str, not a tensor"),
        (lambda c: c["g_ema"].update({"conv1.activate.bias": torch.zeros([7])}), "b4.conv1.bias has shape"),
        (lambda c: c.update(latent_avg=torch.zeros([3])), "mapping.w_avg has shape"),
        (lambda c: c.pop("g_ema"), "torch checkpoint without a StyleGAN2 generator"),
    ],
)
def test_a_damaged_rosinality_checkpoint_is_refused(change, message, wide_networks):
    checkpoint = rosinality.write_checkpoint({"G": wide_networks["G"], "G_ema": wide_networks["G_ema"]})
    del checkpoint["g"]
    change(checkpoint)
    out = io.BytesIO()
    torch.save(checkpoint, out)
    with pytest.raises(ValueError, match=message):
        load(out.getvalue())


def test_a_reference_rosinality_network_is_reproduced(shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "golden"))
    from seeded_weights import seeded_state

    archive = np.load(shared / "golden" / "rosinality_16.npz")
    checkpoint: dict[str, Any] = dict(latent_avg=torch.from_numpy(archive["latent_avg"]))
    for key, name in (("g_ema", "g_ema_keys"), ("d", "d_keys")):
        state = seeded_state(json.loads(str(archive[name])))
        checkpoint[key] = {entry: torch.from_numpy(value) for entry, value in state.items()}
    out = io.BytesIO()
    torch.save(checkpoint, out)
    loaded = load(out.getvalue())
    z = torch.from_numpy(archive["z"])
    for psi, name in ((1, "image"), (0.5, "image_psi05")):
        expected = torch.from_numpy(archive[name])
        actual = loaded["G_ema"](z, None, truncation_psi=psi, noise_mode="const")
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * float(expected.max() - expected.min()))
    logits = loaded["D"](torch.from_numpy(archive["d_images"]), None)
    torch.testing.assert_close(logits, torch.from_numpy(archive["logits"]), rtol=1e-4, atol=1e-4)


# Names, cards, and writes that are interrupted.


def test_short_names_resolve_to_the_published_files():
    base = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets/"
    assert network_names.resolve_network("ffhq512") == base + "ffhq-res512-mirror-stylegan2-noaug.pkl"
    assert network_names.resolve_network("lsundog256") == base + "lsundog-res256-paper256-kimg100000-noaug.pkl"
    assert network_names.resolve_network("https://example.com/a.pkl") == "https://example.com/a.pkl"
    with pytest.raises(ValueError, match="network nowhere.pkl is not an existing file, a URL or one of ffhq256"):
        network_names.resolve_network("nowhere.pkl")


def test_the_list_of_short_names_says_resolution_source_and_licence():
    text = network_names.network_help()
    for name, resolution in [("ffhq256", 256), ("ffhq512", 512), ("ffhq1024", 1024), ("celebahq256", 256)]:
        line = next(line for line in text.splitlines() if name in line)
        assert f"{resolution} px" in line and "NVIDIA" in line
    assert "non-commercial" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_a_conversion_writes_a_card_that_says_what_the_file_is(tmp_path):
    source, dest = tmp_path / "source.pkl", tmp_path / "out.safetensors"
    network_export.save_networks(snapshot(ssn_generator()), source)
    lines = network_files.convert(str(source), str(dest))
    card = (tmp_path / "out-card.md").read_text()
    assert lines == [f"wrote {dest}", f"wrote {tmp_path / 'out-card.md'}"]
    for words in ("16x16, 3 channels", "| Latent grid | 2x4 |", "SSNGenerator", str(source), "not stated"):
        assert words in card
    assert network_names.licence_of("ffhq256") == network_names.NVIDIA_LICENCE


@pytest.mark.parametrize("name", ["network.pkl", "network.safetensors"])
def test_a_failed_write_leaves_the_previous_file(name, tmp_path, monkeypatch):
    path = tmp_path / name
    network_export.save_networks(snapshot(), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        network_export.save_networks(snapshot(generator("resnet")), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


_KILLED_WRITER = """
    import os, pickle, random, signal, sys, time
    from pathlib import Path
    import legacy
    from training.network_files import save_network_snapshot

    folder, rng = Path(sys.argv[1]), random.Random(0)
    with open(sys.argv[2], 'rb') as file:
        networks = legacy.load_network_pkl(file)
    start = time.monotonic()
    for i in range(5):
        save_network_snapshot(networks, str(folder / 'network-snapshot-000000.pkl'))
    seconds_per_write = (time.monotonic() - start) / 5
    for attempt in range(1, 51):
        child = os.fork()
        if child == 0:
            for i in range(1000):
                save_network_snapshot(networks, str(folder / f'network-snapshot-{attempt:03d}{i:03d}.pkl'))
        time.sleep(rng.uniform(0, 3 * seconds_per_write))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        complete = sorted(folder.glob('network-snapshot-*.pkl'))
        with open(complete[-1], 'rb') as file:
            legacy.load_network_pkl(file)
    print(len(complete), len(list(folder.glob('.tmp-*'))))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_kills_during_writes_leave_only_whole_snapshots(tmp_path):
    source, folder = tmp_path / "source.pkl", tmp_path / "run"
    network_export.save_networks(snapshot(), source)
    folder.mkdir()
    repository = Path(legacy.__file__).parent
    env = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    result = warm_python.run(["-c", textwrap.dedent(_KILLED_WRITER), folder, source], env=env, check=True)
    num_complete, num_interrupted = map(int, result.stdout.split())
    # How many writes a kill hits and how many finish is up to the scheduler; without either, nothing was tried.
    assert num_complete > 0 and num_complete + num_interrupted > 1
