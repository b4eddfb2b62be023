"""Exported networks make the images of the network itself, for any batch, and nothing half-written is left behind."""

from __future__ import annotations

import copy
import errno
import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from network_file_helpers import generator, moved, snapshot

import ssn_plugin
from ssn_plugin import cli
from ssn_plugin.edits.edit_options import EditRequest
from ssn_plugin.edits.recipe import hash_network
from ssn_plugin.edits.resample import make_latents, render_recipe, start_recipes
from ssn_plugin.errors import UserError
from ssn_plugin.exporting import files, operations, programs
from ssn_plugin.networks import SSNGenerator
from torch_utils.ops import spread
from training.formats import network_export

if tuple(map(int, torch.__version__.split(".")[:2])) < files.MIN_TORCH:
    pytest.skip("exporting needs a newer torch", allow_module_level=True)


def small_ssn(**synthesis_kwargs: Any) -> Any:
    """Two grids and classes."""
    kwargs = dict(channel_base=64, channel_max=8, **synthesis_kwargs)
    G = SSNGenerator(4, 3, 4, 16, 3, block_grid=[[1, 1], [2, 4]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                     synthesis_kwargs=kwargs)
    return moved(G).eval().requires_grad_(False)


def exported(G: Any, folder: Path, **options: Any) -> Path:
    files.export_network(G, folder, **options)
    return folder


def session(folder: Path, part: str) -> Any:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    return onnxruntime.InferenceSession(folder / f"{part}.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def ssn() -> Any:
    return small_ssn()


@pytest.fixture(scope="module")
def ssn_onnx(ssn, tmp_path_factory) -> Path:
    """With all inputs."""
    pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    pytest.importorskip("onnxscript", reason="needs the extra [export]")
    folder = tmp_path_factory.mktemp("exports") / "ssn"
    return exported(ssn, folder, inputs=["noise", "mask"], name="small.pkl", licence="MIT")


@pytest.mark.parametrize("batch", [1, 5])
def test_onnx_files_of_an_ssn_make_its_images(ssn, ssn_onnx, batch):
    z, c, ws = torch.randn([batch, ssn.z_dim]), torch.eye(3)[torch.arange(batch) % 3], None
    with torch.no_grad():
        ws = ssn.mapping(z, c, truncation_psi=0.6)
    feed = dict(z=z.numpy(), c=c.numpy(), truncation=np.array(0.6, dtype=np.float32))
    (made,) = session(ssn_onnx, "mapping").run(None, feed)
    np.testing.assert_allclose(made, ws.numpy(), atol=1e-5)

    other, chosen = ws.flip(0) + 1, torch.rand([batch, ssn.num_ws, 9]) > 0.5
    shapes = [list(buffer.shape) for name, buffer in ssn.synthesis.named_buffers() if name.endswith("noise_const")]
    noise = [torch.randn([batch, 1, *shape]) for shape in shapes]
    with torch.no_grad():
        mixed = torch.where(chosen[..., None], other.unflatten(2, (9, -1)), ws.unflatten(2, (9, -1))).flatten(2)
        expected = ssn.synthesis(mixed, noise=noise)
    synthesis = session(ssn_onnx, "synthesis")
    names = [value.name for value in synthesis.get_inputs()]
    (made,) = synthesis.run(None, dict(zip(names, [x.numpy() for x in (ws, other, chosen, *noise)], strict=True)))
    np.testing.assert_allclose(made, expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_the_mask_redraws_a_block_as_a_recipe_does(tmp_path):
    G = SSNGenerator(4, 0, 4, 16, 3, block_grid=[[1, 1], [2, 4]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                     synthesis_kwargs=dict(channel_base=64, channel_max=8)).eval().requires_grad_(False)
    (recipe,) = start_recipes(G, "net.pkl", [7])
    (wanted,) = EditRequest(blocks="0,1", layers="2-4", num_variants=1).add_to([recipe], G, "net.pkl")
    wanted = wanted.pick(1)
    part = programs.Synthesis(G, ["mask"])
    mask = torch.zeros([1, G.num_ws, 9], dtype=torch.bool)
    mask[:, 2:5, 1 + 1] = True   # the code of the whole image comes first
    other = make_latents(G, wanted).ws + torch.where(mask.repeat_interleave(4, dim=2), 0, 99)
    made = part(make_latents(G, recipe).ws, other, mask)[0]
    torch.testing.assert_close(made, render_recipe(G, wanted).img)


def test_the_notes_say_what_a_program_must_know(ssn, ssn_onnx):
    info = json.loads((ssn_onnx / "network.json").read_text())
    assert info["sha256"] == hash_network(ssn) and info["grids"] == [[1, 1], [2, 4]] and info["licence"] == "MIT"
    assert (info["height"], info["width"], info["channels"], info["num_classes"]) == (16, 16, 3, 3)
    assert info["files"] == dict(mapping="mapping.onnx", synthesis="synthesis.onnx")
    for part in ("mapping", "synthesis"):
        opened = session(ssn_onnx, part)
        notes = opened.get_modelmeta().custom_metadata_map
        assert {**notes, "grids": json.loads(notes["grids"])}.items() >= dict(
            name="small.pkl", licence="MIT", sha256=info["sha256"], grids=info["grids"], num_ws="6").items()
        assert {value.name: value.shape for value in opened.get_inputs()} == info["inputs"][part]
    text = (ssn_onnx / "synthesis.onnx").read_bytes()
    assert str(Path(__file__).parent.parent).encode() not in text, "paths of this machine"


def test_a_stylegan2_is_exported_with_one_kernel_for_all_images(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra [export]")
    pytest.importorskip("onnxruntime")
    G = generator("resnet").eval().requires_grad_(False)
    folder = exported(G, tmp_path / "out", dtype="float16")
    model = onnx.load(folder / "synthesis.onnx")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kernels = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert kernels and all(name in constants for name in kernels)
    assert sum(constants[name].data_type == onnx.TensorProto.FLOAT16 for name in kernels) > len(kernels) / 2
    assert {node.domain for node in model.graph.node} == {""}, "operators of the standard alone"
    for batch in (1, 5):
        with torch.no_grad():
            ws = G.mapping(torch.randn([batch, 8]), torch.zeros([batch, 0]))
            expected = G.synthesis(ws, noise_mode="const").numpy()
        (made,) = session(folder, "synthesis").run(None, dict(ws=ws.numpy()))
        np.testing.assert_allclose(made, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("network", [
    lambda: small_ssn(encoder="none", style_resolution=0, architecture="resnet"),
    lambda: generator("orig", c_dim=2, resample_filter=[1, 2, 3, 4, 4, 3, 2, 1]),
])  # fmt: skip
def test_torch_programs_make_the_images_of_every_kind_of_network(network, tmp_path):
    G = network().eval().requires_grad_(False)
    folder = exported(G, tmp_path / "out", format="torch", inputs=["noise"])
    extra = {"network.json": ""}
    program = torch.export.load(folder / "synthesis.pt2", extra_files=extra)
    assert json.loads(extra["network.json"])["sha256"] == json.loads((folder / "network.json").read_text())["sha256"]
    part = programs.Synthesis(G, ["noise"])
    for batch in (1, 5):
        example = part.example(batch)
        expected = part(*example)
        tolerance = 1e-4 * float(expected.abs().max())
        torch.testing.assert_close(program.module()(*example), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("side", "size"), [((8, 8), (4, 4)), ((6, 9), (4, 4)), ((4, 4), (16, 8)), ((8, 2), (4, 6))])
def test_style_maps_are_resized_as_in_the_networks(side, size):
    x = torch.randn([2, 3, *side])
    torch.testing.assert_close(operations.resize(x, size), spread.resize(x, size))


def test_masks_lie_one_over_the_other_as_in_the_networks(ssn):
    gen = torch.Generator().manual_seed(0)
    ws = torch.randn([3, ssn.num_ws, ssn.w_dim], generator=gen)
    blend = (ws[1:], torch.rand([1, 2, 16, 16], generator=gen))
    expected = ssn.synthesis(ws[:1], blend=blend, noise_mode="const")
    with operations.exportable(ssn.synthesis, torch.float32):
        made = ssn.synthesis(ws[:1], blend=blend, noise_mode="const")
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(ssn.synthesis(ws[:1], blend=blend, noise_mode="const"), expected), "the operations are back"


class Bessel(torch.nn.Module):
    """An operation that ONNX does not have."""

    def forward(self, ws: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.special.bessel_j0(ws)


class Counting(torch.nn.Module):
    """The shape of the result depends on the values."""

    def forward(self, ws: torch.Tensor, **_: Any) -> torch.Tensor:
        return ws[: int(ws.abs().sum())]


@pytest.mark.parametrize(("module", "format", "operator"), [
    (Bessel, "onnx", "prims.bessel_j0"), (Counting, "torch", "aten._local_scalar_dense"),
])  # fmt: skip
def test_what_cannot_be_exported_is_named_and_leaves_nothing(ssn, tmp_path, module, format, operator):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    G = copy.deepcopy(ssn)
    G.synthesis = module()
    with pytest.raises(UserError) as caught:
        files.export_network(G, tmp_path / "out", format, name="odd.pkl")
    assert str(caught.value).startswith("odd.pkl cannot be exported: ") and operator in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    network_export.save_networks(snapshot(generator(resolution=8)), tmp_path / "net.pkl")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    arguments = ["export", str(tmp_path / "net.pkl"), str(tmp_path / "out"), "--format=torch"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2 and result.output.count("\n") == 1
    assert str(tmp_path / "out") in result.output and "No space left on device" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["net.pkl"]


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    def gone(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(UserError, match=r"needs the package onnx: pip install 'ssn-plugin\[export\]'"):
        files.check(tmp_path / "out", "onnx", "float32")


def test_an_empty_folder_is_filled_and_another_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    assert sorted(path.name for path in exported(generator(), tmp_path / "empty", format="torch").iterdir()) == [
        "mapping.pt2", "network.json", "synthesis.pt2"]
    with pytest.raises(UserError, match="must be a new or an empty folder"):
        ssn_plugin.export("demo:castles64", tmp_path / "empty", format="torch")


def test_the_licence_of_a_demo_is_that_of_its_card():
    from training.formats.network_names import stated_licence

    assert stated_licence("demo:castles64") == "Apache-2.0"
    assert "non-commercial" in stated_licence("ffhq256") and "not stated" in stated_licence("no-card.pkl")
