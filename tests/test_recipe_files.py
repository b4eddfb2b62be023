"""Recipes of both formats: as JSON, in PNG files, with arrays beside them, and from people who mean no good."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ssn_plugin.edits import recipe_files, resample
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.recipe import Edit, Picture, Recipe, encode_mask
from ssn_plugin.networks import SSNGenerator

NET = '{"name": "net.pkl", "sha256": "%s"}'
# As release 0.1.0 wrote them.
FORMAT_1 = """{
  "format": "ssn-recipe 1",
  "network": %s,
  "seed": 3,
  "class": null,
  "truncation": 0.7,
  "noise_mode": "const",
  "masks": {"mask1": "%s"},
  "edits": [
    {"blocks": [[0, 1]], "layers": [0, 5], "noise": false, "variant": 4},
    {"blocks": [[1, 3], [0, 0]], "layers": [0, 5], "noise": false, "transplant_from": 9},
    {"blocks": [[0, 1]], "layers": [2, 3], "noise": true, "variant": 4}
  ],
  "variants": [
    {"mask": "mask1", "layers": [0, 5], "noise": false, "variant": 1},
    {"mask": "mask1", "layers": [0, 5], "noise": false, "variant": 2}
  ]
}
"""


@pytest.fixture(scope="module")
def network() -> OpenNetwork:
    torch.manual_seed(1)
    G = SSNGenerator(
        4, 0, 4, 16, 3, block_grid=[[2, 4]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
        synthesis_kwargs=dict(channel_base=64, channel_max=8),
    )
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(param, 0.1)
    return OpenNetwork.of(G.eval().requires_grad_(False), "net.pkl")


@pytest.fixture
def recipe(network) -> Recipe:
    return Recipe("net.pkl", network.sha256, 3)


def block(row: int, col: int, **kwargs) -> Edit:
    return Edit(blocks=((row, col),), layers=(0, 5), **{"variant": 1, **kwargs})


def normal(shape, *key: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(list(key)).standard_normal(shape).astype(np.float32))


def test_format_1_draws_what_it_drew(network):
    """An independent account of the rule: latents follow from (1, seed, edits before, block, variant)."""
    G = network.G
    mask = base64.b64encode(encode_mask((np.eye(16) * 255).astype(np.uint8))).decode()
    recipe = recipe_files.parse_recipe((FORMAT_1 % (NET % network.sha256, mask)).encode())
    network.check(recipe)
    c = torch.zeros([1, 0])

    def styles(z):
        return G.mapping(z, c, truncation_psi=0.7).reshape(6, 8, 4)

    z, other = (torch.from_numpy(np.random.RandomState(seed).randn(1, 32)).float() for seed in (3, 9))
    ws = styles(z)
    first = z.clone()
    first[0, 4:8] = normal([4], 1, 3, 0, 1, 4)
    third = z.clone()
    third[0, 4:8] = normal([4], 1, 3, 2, 1, 4)
    ws[:, 1] = styles(first)[:, 1]
    ws[:, [0, 7]] = styles(other)[:, [0, 7]]
    ws[2:4, 1] = styles(third)[2:4, 1]
    latents = resample.make_latents(G, recipe)
    assert torch.equal(latents.ws.reshape(6, 8, 4), ws)
    noise = [b for name, b in G.named_buffers() if name.endswith("noise_const")]
    for i, (old, new) in enumerate(zip(noise, latents.noise)):
        res = len(old)
        expected = old.clone()
        drawn = normal([1, 1, res, res], 2, 3, 3, i, 4)[0, 0]
        expected[:res // 2, res // 4:res // 2] = drawn[:res // 2, res // 4:res // 2]
        assert torch.equal(new[0, 0], expected)
    new = styles(torch.cat([normal([4], 1, 3, 3, b, 2) for b in range(8)])[None])
    blend, = resample.apply_edit(G, recipe, latents, recipe.variants[1]).blends
    assert torch.equal(blend.ws.reshape(6, 8, 4), new)


def test_a_recipe_of_format_1_is_written_in_format_2_and_means_the_same(network, tmp_path):
    mask = base64.b64encode(encode_mask(np.full([16, 16], 255, np.uint8))).decode()
    (tmp_path / "old.json").write_text(FORMAT_1 % (NET % network.sha256, mask))
    recipe = recipe_files.read_recipe(tmp_path / "old.json")
    assert [edit.key for edit in recipe.edits + recipe.variants] == [0, 1, 2, 3, 3]
    recipe_files.write_recipe(recipe, tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text())["format"] == "ssn-recipe 2"
    assert recipe_files.read_recipe(tmp_path / "new.json") == recipe


def test_dropping_an_edit_leaves_the_draws_of_the_others_alone(network, recipe):
    G = network.G
    whole = recipe.edited(block(0, 0)).edited(block(1, 1)).edited(block(0, 3))
    ws = [resample.make_latents(G, each).ws.reshape(6, 8, 4) for each in (recipe, whole, whole.without(1))]
    changed = [(a != b).any(dim=2).any(dim=0).nonzero().flatten().tolist() for a, b in zip(ws[1:], ws)]
    assert changed == [[0, 3, 5], [0]]
    assert torch.equal(ws[2][:, 0], ws[0][:, 0])
    reordered = dataclasses.replace(whole, edits=whole.edits[::-1])
    assert torch.equal(resample.make_latents(G, reordered).ws.reshape(6, 8, 4), ws[1])


def test_an_edit_after_a_dropped_one_is_a_new_draw(recipe):
    whole = recipe.edited(block(0, 0)).edited(block(1, 1))
    assert whole.without(1).edited(block(0, 0)).edits[-1].key == 2
    assert whole.without(2).edited(block(1, 1)) == whole, "taken back and done again, it is the same"


@pytest.mark.parametrize("number", [0, 3, -1])
def test_an_edit_that_is_not_there_cannot_be_dropped(recipe, number):
    with pytest.raises(ValueError, match=rf"the edit to drop must be 1\.\.2, got {number}"):
        recipe.edited(block(0, 0)).edited(block(1, 1)).without(number)


def test_a_png_carries_its_recipe(recipe, tmp_path):
    recipe = recipe.edited(block(0, 0)).with_variants((block(1, 1), block(1, 1, variant=2)))
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    recipe_files.save_image(image, tmp_path / "image.png", recipe)
    assert recipe_files.read_recipe(tmp_path / "image.png") == recipe
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), image)


@pytest.mark.parametrize("size", [8, 20, 33, 40, 100])
def test_a_png_without_a_recipe_or_cut_short_is_refused(recipe, tmp_path, size):
    recipe_files.save_image(np.zeros([4, 4, 3], np.uint8), tmp_path / "image.png", recipe)
    (tmp_path / "cut.png").write_bytes((tmp_path / "image.png").read_bytes()[:size])
    Image.new("L", (4, 4)).save(tmp_path / "plain.png")
    for name, message in (("plain.png", "this PNG carries no recipe"), ("cut.png", "")):
        with pytest.raises(ValueError, match=f"recipe .*{name}: {message}"):
            recipe_files.read_recipe(tmp_path / name)


@pytest.mark.parametrize("layers", [1, 6])
def test_an_image_may_start_from_styles_that_were_found(network, recipe, layers):
    G = network.G
    w = normal([1, layers, G.w_dim], 1).numpy()
    noise = {name: normal(buffer.shape, 2).numpy() for name, buffer in G.synthesis.named_buffers()
             if name == "b16.conv0.noise_const"}
    found = dataclasses.replace(recipe, found=Arrays.of({"w": w, **noise}))
    network.check(found)
    with torch.no_grad():
        expected = torch.func.functional_call(
            G.synthesis, {name: torch.from_numpy(value) for name, value in noise.items()},
            (torch.from_numpy(w).expand(-1, 6, -1),), dict(noise_mode="const"))[0]
    assert noise and torch.equal(resample.resample(G, found).original, expected)
    redrawn = resample.make_latents(G, found.edited(block(0, 1))).ws.reshape(6, 8, 4)
    drawn = resample.make_latents(G, recipe.edited(block(0, 1))).ws.reshape(6, 8, 4)
    assert torch.equal(redrawn[:, 1], drawn[:, 1]), "draws follow from the seed"
    assert torch.equal(redrawn[:, 2], torch.from_numpy(w).expand(-1, 6, -1).reshape(6, 8, 4)[:, 2])


def test_a_redrawn_block_of_a_found_image_has_the_networks_own_noise(network, recipe):
    """Fitted maps hold the detail of the picture, which would show through."""
    own = {name: buffer for name, buffer in network.G.synthesis.named_buffers() if name.endswith("noise_const")}
    fitted = {name: np.full(buffer.shape, 9, np.float32) for name, buffer in own.items()}
    found = Arrays.of({"w": np.zeros([1, 1, network.G.w_dim], np.float32), **fitted})
    noise = resample.make_latents(network.G, dataclasses.replace(recipe, found=found).edited(block(1, 0))).noise
    for old, new in zip(own.values(), noise):
        res = len(old)
        assert torch.equal(new[0, 0, res // 2:, :res // 4], old[res // 2:, :res // 4])
        assert (new[0, 0, :res // 2] == 9).all() and (new[0, 0, :, res // 4:] == 9).all()


@pytest.mark.parametrize(("arrays", "message"), [
    ({}, "the styles w of a found image must be .*, got no array w"),
    ({"w": np.zeros([1, 2, 32], np.float32)}, r"must be \[1, 1 or 6, 32\], got \[1, 2, 32\]"),
    ({"w": np.zeros([1, 1, 32])}, "must hold finite floats of 16 or 32 bits, got float64"),
    ({"w": np.full([1, 1, 32], np.nan, np.float32)}, "must hold finite floats"),
    ({"w": np.zeros([1, 1, 32], np.float32), "b9.noise_const": np.zeros([2], np.float32)}, "'b9.noise_const'"),
    ({"w": np.zeros([1, 1, 32], np.float32), "b4.conv1.noise_const": np.zeros([2], np.float32)},
     r"must be \[4, 4\], got \[2\]"),
])
def test_found_styles_that_do_not_fit_are_refused(network, recipe, arrays, message):
    with pytest.raises(ValueError, match=message):
        network.check(dataclasses.replace(recipe, found=Arrays.of(arrays)))


def test_large_arrays_lie_beside_the_recipe_and_are_checked_by_their_hash(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_files, "MAX_INLINE_BYTES", 10)
    found = Arrays.of({"w": np.zeros([1, 1, 32], np.float32)})
    recipe = dataclasses.replace(recipe, found=found, picture=Picture("me.jpg", 30, 20, (0, 0, 20, 20)))
    recipe_files.write_recipe(recipe, tmp_path / "recipe.json")
    beside = tmp_path / f"arrays-{found.sha256[:16]}.npz"
    assert beside.read_bytes() == found.data
    assert recipe_files.read_recipe(tmp_path / "recipe.json") == recipe
    assert recipe_files.parse_recipe(recipe_files.recipe_text(recipe).encode()) == recipe, "all in one text"
    beside.write_bytes(found.data[:-1] + b"x")
    with pytest.raises(ValueError, match="have the hash"):
        recipe_files.read_recipe(tmp_path / "recipe.json")
    beside.unlink()
    with pytest.raises(ValueError, match="which belongs to it, is not beside it"):
        recipe_files.read_recipe(tmp_path / "recipe.json")


@pytest.mark.parametrize("name", [
    "../secret.npz", "/etc/secret.npz", "..\\secret.npz", "C:secret.npz", "recipe.json", "", "a\n.npz", "a\0.npz",
])
def test_a_recipe_cannot_reach_into_other_folders(recipe, tmp_path, name):
    data = json.loads(recipe_files.recipe_text(recipe))
    data["arrays"] = {"0" * 64: {"file": name}}
    with pytest.raises(ValueError, match="must be an npz file beside the recipe|printable characters"):
        recipe_files.parse_recipe(json.dumps(data).encode(), tmp_path)
    data["arrays"] = {"0" * 64: {"file": "fine.npz"}}
    with pytest.raises(ValueError, match="must be an npz file beside the recipe"):
        recipe_files.parse_recipe(json.dumps(data).encode(), folder=None)


def test_compressed_arrays_are_refused_since_a_small_file_could_fill_the_memory():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, w=np.zeros([1000], np.float32))
    with pytest.raises(ValueError, match="must not be compressed"):
        Arrays(buffer.getvalue()).load()


def test_arrays_that_claim_to_be_larger_than_they_are_are_refused():
    buffer = io.BytesIO()
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + "\n"
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("w.npy", b"\x93NUMPY\x01\x00v\x00" + header.encode())
    for data in (buffer.getvalue(), b"", b"PK\x03\x04", buffer.getvalue()[:100]):
        with pytest.raises(ValueError, match="npz"):
            Arrays(data).load()


def test_the_network_is_remembered_by_the_way_to_it(recipe, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "out").mkdir()
    path = str(tmp_path / "runs" / "net.pkl")
    recipe_files.write_recipe(dataclasses.replace(recipe, network_path=path), tmp_path / "out" / "recipe.json")
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["network"]["path"] == "../runs/net.pkl"
    assert recipe_files.read_recipe(tmp_path / "out" / "recipe.json").network_path == path


@pytest.mark.parametrize(("path", "noted"), [
    ("demo:castles64", "demo:castles64"), ("https://example.com/net.pkl", None), ("file:///net.pkl", None),
    (None, None),
])
def test_demos_are_remembered_by_name_and_urls_not_at_all(recipe, tmp_path, path, noted):
    recipe = dataclasses.replace(recipe, network_path=path)
    data = json.loads(recipe_files.recipe_text(recipe, tmp_path))
    assert data["network"]["path"] == noted
    data["network"]["path"] = path  # as somebody else may write it
    assert recipe_files.parse_recipe(json.dumps(data).encode(), tmp_path).network_path == noted


@pytest.mark.parametrize(("path", "value", "message"), [
    (["network", "name"], "a\x1b[31m", "network name must have at most 255 printable characters"),
    (["network", "name"], "a" * 256, "network name must have at most 255 printable characters"),
    (["picture", "name"], "a\nb", "picture name must have at most 255 printable characters"),
    (["picture", "box"], [0, 0, 31, 20], r"box \[0, 0, 31, 20\] is not within the picture of 30x20 pixels"),
    (["picture", "box"], [5, 0, 5, 20], "is not within the picture"),
    (["picture", "box"], [0, 0, 5], "box must be a list of 4 integers"),
    (["masks"], {"a\nb": ""}, "the name of a mask must have at most 255 printable characters"),
    (["edits", 0, "key"], -1, r"the key of an edit must be in 0\.\.4294967294, got -1"),
    (["edits", 0, "key"], 1, r"every edit needs a key of its own, got \[1, 1\]"),
    (["edits", 0, "feather"], 513, r"the feather must be 0\.\.512 pixels, got 513"),
    (["edits", 0, "feather"], 2, "blocks have a feather only where the rest is kept exactly"),
    (["edits", 0, "keep_exact"], 1, "keep_exact must be of type bool, got 1"),
    (["latents"], "0" * 64, "the recipe names the arrays '0*', which it has not"),
    (["network", "tuned"], 3, "the name of arrays must be of type str, got 3"),
    (["edits"], [{}] * 1001, "an edit lacks the key"),
])
def test_a_wrong_entry_of_format_2_is_named(recipe, path, value, message):
    recipe = dataclasses.replace(recipe, picture=Picture("me.jpg", 30, 20, (0, 0, 20, 20)))
    data = json.loads(recipe_files.recipe_text(recipe.edited(block(0, 0)).edited(block(1, 1))))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message) as error:
        recipe_files.parse_recipe(json.dumps(data).encode())
    assert "\n" not in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 400


def test_a_recipe_has_no_end_of_edits(recipe):
    with pytest.raises(ValueError, match="at most 1000 edits"):
        dataclasses.replace(recipe, edits=tuple(block(0, 0, key=i) for i in range(1001)))


def test_a_tuned_network_is_a_copy_with_the_arrays_added(network, recipe):
    name = "synthesis.b8.conv1.bias"
    tuned = Arrays.of({name: np.full([8], 0.5, np.float16)})
    recipe = dataclasses.replace(recipe, tuned=tuned)
    other = network.tuned_for(recipe)
    old, new = (dict(each.G.named_parameters()) for each in (network, other))
    assert torch.equal(new[name], old[name] + 0.5)
    assert all(torch.equal(new[key], old[key]) for key in old if key != name)
    other.check(recipe)
    assert other.tuned_for(recipe) is other
    with pytest.raises(ValueError, match="tuned to another picture, or to none"):
        network.check(recipe)


@pytest.mark.parametrize(("name", "shape"), [("synthesis.b8.conv1.bias", [7]), ("other", [8])])
def test_a_delta_of_another_network_is_refused(network, recipe, name, shape):
    recipe = dataclasses.replace(recipe, tuned=Arrays.of({name: np.zeros(shape, np.float32)}))
    with pytest.raises(ValueError, match="the tuned network changes"):
        network.tuned_for(recipe)
