"""Block resampling and edit recipes: what changes, what stays, and that it can be made again."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssn_plugin.edits import edit_options, recipe_files, resample, resample_report
from ssn_plugin.edits import recipe as recipes
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.files import open_atomic, save_png
from ssn_plugin.networks import SSNGenerator

GRID = (2, 4)
BLOCKS = [(row, col) for row in range(2) for col in range(4)]


def make_generator(c_dim: int = 0, block_grid=(GRID,)) -> torch.nn.Module:
    """16x16 pixels, grid 2x4, 6 layers, with noise that matters."""
    torch.manual_seed(1)
    G = SSNGenerator(
        4, c_dim, 4, 16, 3, block_grid=[list(grid) for grid in block_grid],
        mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
        synthesis_kwargs=dict(channel_base=64, channel_max=8),
    )
    for name, param in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(param, 0.1)
    return G.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def G() -> torch.nn.Module:
    return make_generator()


@pytest.fixture(scope="module")
def two_grids() -> torch.nn.Module:
    return make_generator(block_grid=((1, 1), GRID))


def start(G: torch.nn.Module, seed: int = 3, noise_mode: str = "const") -> recipes.Recipe:
    return resample.start_recipes(G, "net.pkl", [seed], noise_mode=noise_mode)[0]


def edited(recipe: recipes.Recipe, *edits: recipes.Edit) -> recipes.Recipe:
    for edit in edits:
        recipe = recipe.edited(edit)
    return recipe


def edit_of(*blocks: tuple[int, int], layers=(0, 5), variant=1, **kwargs) -> recipes.Edit:
    return recipes.Edit(blocks=blocks, layers=layers, variant=variant, **kwargs)


def mask_png(weights: np.ndarray) -> bytes:
    return recipes.encode_mask((weights * 255).astype(np.uint8))


@pytest.mark.parametrize(("text", "blocks"), [
    ("1,2", ((1, 2),)),
    ("6", ((1, 2),)),
    (" 0 , 1 + 7", ((0, 1), (1, 3))),
    ("6+1,2", ((1, 2),)),
    ("all", tuple(BLOCKS)),
    ("keep:0+1,3", tuple(BLOCKS[1:7])),
])
def test_blocks_are_named_by_position_or_index(text, blocks):
    assert edit_options.parse_blocks(text, GRID) == blocks


JOINED = "; join several with '+', put another grid in front as in 1x1:0"


@pytest.mark.parametrize(("text", "message"), [
    ("2,0", "block (2, 0) is outside the 2x4 latent grid"),
    ("0,-1", "block (0, -1) is outside the 2x4 latent grid"),
    ("8", "block 8 is outside the 2x4 latent grid"),
    ("-1", "block -1 is outside the 2x4 latent grid"),
    ("1;2", "block '1;2' must be ROW,COL or an index or 'all'" + JOINED),
    ("", "block '' must be ROW,COL or an index or 'all'" + JOINED),
    ("1,2,3", "block '1,2,3' must be ROW,COL or an index or 'all'" + JOINED),
    ("keep:0+1+2+3+4+5+6+7", "'keep:0+1+2+3+4+5+6+7' keeps all blocks of the 2x4 latent grid, so nothing would be "
                             "redrawn"),
])
def test_a_wrong_block_is_refused_by_name(text, message):
    with pytest.raises(ValueError) as error:
        edit_options.parse_blocks(text, GRID)
    assert str(error.value) == message


@pytest.mark.parametrize(("text", "num_ws", "layers"), [
    (None, 18, (0, 17)),
    ("coarse", 18, (0, 3)),
    ("middle", 18, (4, 7)),
    ("fine", 18, (8, 17)),
    ("coarse", 6, (0, 1)),
    ("middle", 6, (2, 3)),
    ("fine", 6, (4, 5)),
    ("2-4", 6, (2, 4)),
    ("5", 6, (5, 5)),
])
def test_layers_are_split_as_in_stylegan_or_into_thirds(text, num_ws, layers):
    assert edit_options.parse_layers(text, num_ws) == layers


@pytest.mark.parametrize("text", ["6", "0-6", "4-2", "middling", "", "-1", "middle"])
def test_layers_that_a_network_lacks_are_refused(text):
    num_ws = 2 if text == "middle" else 6
    with pytest.raises(ValueError, match="layers"):
        edit_options.parse_layers(text, num_ws)


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 7)), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_blocks_that_are_not_redrawn_keep_their_latents_bit_by_bit(blocks, seed, variant):
    z = resample.sample_z(seed, 8 * 4)
    new = resample.redraw_blocks(z, sorted(blocks), 4, seed, 0, variant)
    kept = [block for block in range(8) if block not in blocks]
    assert torch.equal(new.reshape(8, 4)[kept], z.reshape(8, 4)[kept])


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(8)))
def test_redrawing_all_blocks_in_any_order_leaves_none_of_the_old_latents(order):
    old = new = resample.sample_z(0, 8 * 4)
    for step, block in enumerate(order):
        new = resample.redraw_blocks(new, [block], 4, 0, step, 1)
    assert not np.intersect1d(old.numpy(), new.numpy()).size


def test_redrawn_latents_are_independent_unit_normals():
    old, new, again, together = [], [], [], []
    for seed in range(256):
        z = resample.sample_z(seed, 8 * 4)
        old.append(z)
        redrawn = z
        for step, block in enumerate([3, 0, 7, 1, 2, 6, 5, 4]):
            redrawn = resample.redraw_blocks(redrawn, [block], 4, seed, step, 1)
        new.append(redrawn)
        again.append(resample.redraw_blocks(redrawn, range(8), 4, seed, 8, 1))
        together.append(resample.redraw_blocks(redrawn, range(8), 4, seed, 8, 2))
    sets = [torch.cat(images).numpy() for images in (old, new, again, together)]
    for values in sets:
        assert scipy.stats.kstest(values.ravel(), "norm").pvalue > 1e-3
        # The covariance of the 32 numbers of an image is the identity; 5 standard errors of 256 samples.
        assert np.abs(values.T @ values / 256 - np.eye(32)).max() < 5 * 2**0.5 / 16
    for a, b in itertools.combinations(sets, 2):
        assert np.abs(a.T @ b / 256).max() < 5 / 16


@pytest.mark.parametrize(("text", "place"), [
    ("1,2", (None, ((1, 2),))),
    ("2x4:1,2", (None, ((1, 2),))),
    ("1x1:0", ((1, 1), ((0, 0),))),
    ("1x2:all", ((1, 2), ((0, 0), (0, 1)))),
])
def test_a_place_names_its_grid_unless_it_is_the_finest(text, place):
    assert edit_options.parse_place(text, [[1, 1], [1, 2], [2, 4]]) == place


def test_a_grid_that_the_network_lacks_is_refused():
    with pytest.raises(ValueError, match=r"grid 2x2 is not among those of the network: 1x1, 2x4"):
        edit_options.parse_place("2x2:0", [[1, 1], [2, 4]])


def styles_by_block(G, recipe):
    """[L, B, bw]"""
    return resample.make_latents(G, recipe).ws.reshape(G.num_ws, -1, 4)


def test_a_redraw_of_the_global_code_keeps_all_blocks_and_those_of_blocks_keep_it(two_grids):
    recipe = start(two_grids)
    before = styles_by_block(two_grids, recipe)
    for edit, changed in [(edit_of((0, 0), grid=(1, 1)), [0]), (edit_of((0, 0)), [1]), (edit_of((1, 3)), [8])]:
        after = styles_by_block(two_grids, edited(recipe, edit))
        assert (before != after).any(dim=2).any(dim=0).nonzero().flatten().tolist() == changed


def test_the_global_code_of_another_seed_can_be_transplanted(two_grids):
    edit = edit_of((0, 0), grid=(1, 1), variant=None, transplant_from=9)
    here, there = (styles_by_block(two_grids, start(two_grids, seed=seed)) for seed in (3, 9))
    actual = styles_by_block(two_grids, edited(start(two_grids, seed=3), edit))
    assert torch.equal(actual[:, 0], there[:, 0]) and torch.equal(actual[:, 1:], here[:, 1:])


def test_the_global_code_may_change_the_whole_image(two_grids):
    recipe = dataclasses.replace(start(two_grids), variants=(edit_of((0, 0), grid=(1, 1)),))
    result = resample.resample(two_grids, recipe)
    assert result.region.all() and result.variants[0].summary == f"change {result.variants[0].inside:.4g}"
    assert resample_report.describe_edit(recipe) == "Global code redrawn"


def test_an_edit_changes_the_named_layers_of_the_named_blocks_only(G):
    recipe = start(G)
    before = resample.make_latents(G, recipe)
    after = resample.make_latents(G, edited(recipe, edit_of((0, 1), (1, 3), layers=(2, 3))))
    changed = (before.ws != after.ws).reshape(6, 8, 4).all(dim=2)
    same = (before.ws == after.ws).reshape(6, 8, 4).all(dim=2)
    expected = torch.zeros([6, 8], dtype=torch.bool)
    expected[2:4, [1, 7]] = True
    assert torch.equal(changed, expected)
    assert torch.equal(same, ~expected)


def test_the_same_variant_of_a_later_edit_is_a_new_draw(G):
    recipe = start(G)
    once = resample.make_latents(G, edited(recipe, edit_of((0, 1))))
    twice = resample.make_latents(G, edited(recipe, edit_of((0, 1)), edit_of((0, 1))))
    assert not (once.ws == twice.ws).reshape(6, 8, 4)[:, 1].any()


def test_layers_of_one_variant_come_from_one_draw(G):
    recipe = start(G)
    whole = resample.make_latents(G, edited(recipe, edit_of((0, 1)))).ws
    fine = resample.make_latents(G, edited(recipe, edit_of((0, 1), layers=(4, 5)))).ws
    assert torch.equal(whole[:, 4:], fine[:, 4:])


def test_a_variant_does_not_depend_on_the_others(G):
    recipe = start(G)
    edits = tuple(edit_of((1, 0), variant=i) for i in (1, 2, 3))
    many = resample.resample(G, dataclasses.replace(recipe, variants=edits))
    one = resample.resample(G, dataclasses.replace(recipe, variants=edits[2:]))
    assert torch.equal(many.original, one.original)
    assert torch.equal(many.variants[2].img, one.variants[0].img)
    assert not torch.equal(many.variants[0].img, many.variants[1].img)


def test_going_on_from_a_variant_starts_with_its_image(G):
    first = dataclasses.replace(start(G), variants=tuple(edit_of((1, 0), variant=i) for i in (1, 2)))
    then = first.pick(2).with_variants((edit_of((0, 3)),))
    assert torch.equal(resample.resample(G, first).variants[1].img, resample.resample(G, then).original)


def test_the_image_of_a_recipe_without_edits_is_that_of_the_seed(G):
    img = resample.resample(G, start(G, seed=5)).original
    z = torch.from_numpy(np.random.RandomState(5).randn(1, G.z_dim))
    assert torch.equal(img, G(z, None, noise_mode="const")[0])


def test_transplanting_every_block_gives_the_image_of_the_other_seed(G):
    edit = edit_of(*BLOCKS, variant=None, transplant_from=9)
    actual = resample.resample(G, edited(start(G, seed=3), edit)).original
    assert torch.equal(actual, resample.resample(G, start(G, seed=9)).original)


def test_a_transplant_takes_the_named_block_and_keeps_the_rest(G):
    edit = edit_of((1, 1), variant=None, transplant_from=9)
    here, there = (resample.make_latents(G, start(G, seed=seed)).ws.reshape(6, 8, 4) for seed in (3, 9))
    actual = resample.make_latents(G, edited(start(G, seed=3), edit)).ws.reshape(6, 8, 4)
    assert torch.equal(actual[:, 5], there[:, 5])
    assert torch.equal(actual[:, [0, 1, 2, 3, 4, 6, 7]], here[:, [0, 1, 2, 3, 4, 6, 7]])


@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_noise_is_redrawn_inside_the_block_only(G, noise_mode):
    recipe = start(G, noise_mode=noise_mode)
    before = resample.make_latents(G, recipe).noise
    if noise_mode == "const":
        assert before is None
        before = tuple(b[None, None] for name, b in G.named_buffers() if name.endswith("noise_const"))
    after = resample.make_latents(G, edited(recipe, edit_of((1, 2), noise=True))).noise
    assert [len(noise[0, 0]) for noise in after] == G.synthesis.noise_resolutions
    for old, new in zip(before, after):
        res = old.shape[-1]
        inside = torch.zeros([res, res], dtype=torch.bool)
        inside[res // 2:, res // 2:res * 3 // 4] = True
        assert torch.equal((old != new)[0, 0], inside)


def test_noise_maps_stay_unless_asked(G):
    assert resample.make_latents(G, edited(start(G), edit_of((1, 2)))).noise is None


def test_noise_mode_random_is_the_same_for_an_image_and_its_variants(G):
    recipe = start(G, noise_mode="random")
    for old, new in zip(resample.make_latents(G, recipe).noise,
                        resample.make_latents(G, edited(recipe, edit_of((1, 2)))).noise):
        assert torch.equal(old, new)


def test_a_white_mask_is_a_redraw_of_all_blocks(G):
    white = recipes.Edit(mask=mask_png(np.ones([16, 16])), layers=(0, 5), variant=4)
    actual = resample.resample(G, edited(start(G), white)).original
    expected = resample.resample(G, edited(start(G), edit_of(*BLOCKS, variant=4))).original
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)  # the mixing rounds differently


def test_a_mask_changes_its_side_of_the_image_more_than_the_other(G):
    left = np.zeros([16, 16])
    left[:, :8] = 1
    recipe = dataclasses.replace(start(G), variants=(recipes.Edit(mask=mask_png(left), layers=(0, 5), variant=1),))
    result = resample.resample(G, recipe)
    assert torch.equal(result.region, torch.from_numpy(left > 0))
    assert result.variants[0].inside > 2 * result.variants[0].outside > 0


def test_a_block_redrawn_after_a_mask_is_new_under_the_mask_too(G):
    mask = recipes.Edit(mask=mask_png(np.eye(16)), layers=(0, 5), variant=1)
    latents = resample.make_latents(G, edited(start(G), mask, edit_of(*BLOCKS)))
    assert torch.equal(latents.ws, latents.blends[0].ws)


def test_the_masked_region_can_be_redrawn_again(G):
    mask = mask_png(np.eye(16))
    first, second = (recipes.Edit(mask=mask, layers=layers, variant=1) for layers in ((0, 5), (4, 5)))
    once = resample.make_latents(G, edited(start(G), first))
    twice = resample.make_latents(G, edited(start(G), first, second))
    assert torch.equal(once.ws, twice.ws)
    assert torch.equal(once.blends[0].ws[:, :4], twice.blends[0].ws[:, :4])
    assert not (once.blends[0].ws[:, 4:] == twice.blends[0].ws[:, 4:]).any()


def test_a_block_owns_its_cell_of_the_image(G):
    weight = resample.region_weight(G, edit_of((1, 2), (0, 0)))
    expected = torch.zeros([16, 16])
    expected[8:16, 8:12] = 1
    expected[0:8, 0:4] = 1
    assert torch.equal(weight, expected)


def test_change_is_the_mean_square_on_each_side_of_the_border():
    before = torch.zeros([2, 2, 2])
    after = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [0.0, 0.0]]])
    region = torch.tensor([[True, False], [False, False]])
    assert resample.change(before, after, region) == pytest.approx(((1 + 9) / 2, (4 / 2) / 3))


def test_a_conditional_network_keeps_its_class(tmp_path):
    G = make_generator(c_dim=3)
    recipe = resample.start_recipes(G, "net.pkl", [0], label=2)[0]
    resample.check_recipe(recipe, G, "net.pkl")
    z = torch.from_numpy(np.random.RandomState(0).randn(1, G.z_dim))
    assert torch.equal(resample.resample(G, recipe).original, G(z, torch.eye(3)[2:], noise_mode="const")[0])
    for label in (None, 3):
        with pytest.raises(ValueError, match=r"the class must be 0\.\.2 for net.pkl"):
            resample.check_recipe(dataclasses.replace(recipe, label=label), G, "net.pkl")


@pytest.mark.parametrize(("edits", "message"), [
    ([edit_of((2, 0))], r"block \(2, 0\) is outside the 2x4 latent grid"),
    ([edit_of((0, 0), grid=(1, 1))], "grid 1x1 is not among those of the network: 2x4"),
    ([edit_of((0, 0), layers=(0, 6))], "layers .* outside the layers 0-5"),
    ([recipes.Edit(mask=mask_png(np.ones([8, 16])), variant=1)], "the mask is 16x8, the image 16x16"),
    ([recipes.Edit(mask=b"\x89PNG", variant=1)], "not a readable PNG"),
])
def test_a_recipe_that_does_not_fit_the_network_is_refused(G, edits, message):
    with pytest.raises(ValueError, match=message):
        resample.check_recipe(edited(start(G), *edits), G, "net.pkl")


def test_noise_cannot_be_redrawn_without_noise(G):
    with pytest.raises(ValueError, match="without noise"):
        resample.check_recipe(edited(start(G, noise_mode="none"), edit_of((0, 0), noise=True)), G, "net.pkl")


def test_a_network_without_a_grid_is_refused_by_name():
    with pytest.raises(ValueError, match="plain.pkl has no block grid"):
        resample.start_recipes(torch.nn.Linear(1, 1), "plain.pkl", [0])


def test_a_recipe_of_another_network_is_refused_with_both_hashes(G):
    other = make_generator()
    other.synthesis.b4.const[0, 0, 0] += 1
    recipe = start(G)
    with pytest.raises(ValueError) as error:
        resample.check_recipe(recipe, other, "other.pkl")
    assert recipe.network_sha256 in str(error.value)
    assert recipes.hash_network(other) in str(error.value)


def test_the_hash_of_a_network_survives_pickling(G):
    assert recipes.hash_network(pickle.loads(pickle.dumps(G))) == recipes.hash_network(G)


def test_the_hash_depends_on_the_content_and_not_on_the_order():
    class Net(torch.nn.Module):
        def __init__(self, order: str, grid: tuple[int, int] = (1, 1), value: float = 0.0):
            super().__init__()
            self.block_grid = [grid]
            for name in order:
                self.register_parameter(name, torch.nn.Parameter(torch.full([2], float(ord(name) + value))))

    assert recipes.hash_network(Net("ab")) == recipes.hash_network(Net("ba"))
    different = [Net("ab"), Net("ac"), Net("ab", grid=(2, 1)), Net("ab", value=1)]
    assert len({recipes.hash_network(net) for net in different}) == 4


def full_recipe(G: torch.nn.Module) -> recipes.Recipe:
    """One that uses everything a recipe can hold."""
    mask = mask_png(np.eye(16))
    return dataclasses.replace(
        edited(start(G), edit_of((0, 0), (1, 3), noise=True), edit_of((0, 1), variant=None, transplant_from=7),
               edit_of((0, 0), grid=(1, 1))),
        truncation=0.7,
        found=Arrays.of({"w": np.zeros([1, 1, G.w_dim], dtype=np.float32)}),
        picture=recipes.Picture("me.jpg", 30, 20, (5, 0, 25, 20)),
    ).with_variants(tuple(
        recipes.Edit(mask=mask, layers=(1, 4), variant=i, feather=2, keep_exact=True) for i in (5, 6)
    ))


def test_a_recipe_is_read_back_as_it_was_written(G, tmp_path):
    recipe = full_recipe(G)
    recipe_files.write_recipe(recipe, tmp_path / "recipe.json")
    assert recipe_files.read_recipe(tmp_path / "recipe.json") == recipe


def test_a_mask_is_stored_once_for_all_variants(G, tmp_path):
    recipe_files.write_recipe(full_recipe(G), tmp_path / "recipe.json")
    assert list(json.loads((tmp_path / "recipe.json").read_text())["masks"]) == ["mask1"]


@pytest.mark.parametrize(("path", "value", "message"), [
    (["seed"], True, "seed must be of type int, got true"),
    (["seed"], -1, "seed must be in 0..4294967295, got -1"),
    (["seed"], 1.5, "seed must be of type int, got 1.5"),
    (["truncation"], "x", "truncation must be of type float, got \"x\""),
    (["truncation"], 10**400, "int too large to convert to float"),
    (["noise_mode"], "loud", "noise_mode must be one of const, random, none, got 'loud'"),
    (["format"], "ssn-recipe 3", "format must be 'ssn-recipe 2' or 'ssn-recipe 1', got 'ssn-recipe 3'"),
    (["network"], [], "network must be of type dict, got []"),
    (["class"], "cat", "class must be of type int, got \"cat\""),
    (["surprise"], 1, "the recipe has the unknown key 'surprise'; it takes "),
    (["edits", 0, "surprise"], 1, "an edit has the unknown key 'surprise'; it takes "),
    (["edits", 0, "blocks"], [], "an edit has either blocks or a mask"),
    (["edits", 0, "blocks"], [[0, 0], [0, 0]], "an edit names a block twice: [[0, 0], [0, 0]]"),
    (["edits", 0, "blocks"], [[0, "0"]], "a block must be a list of two integers, got [0, \"0\"]"),
    (["edits", 0, "layers"], [3, 2], "layers must be first <= last, both >= 0, got [3, 2]"),
    (["edits", 0, "noise"], 1, "noise must be of type bool, got 1"),
    (["edits", 0], 5, "an edit must be of type dict, got 5"),
    (["edits", 2, "grid"], [1], "grid must be a list of two integers, got [1]"),
    (["variants", 0, "grid"], [2, 4], "an edit with a mask redraws the finest grid, got grid [2, 4]"),
    (["edits", 1, "noise"], True, "a transplant keeps the noise maps, so noise must be false"),
    (["variants", 0, "mask"], "mask2", "edit names 'mask2', masks has mask1"),
    (["variants", 0, "variant"], 6, "the variants must have different numbers, got [6, 6]"),
    (["masks", "mask1"], "!", "mask1 is not base64"),
])
def test_a_wrong_entry_of_a_recipe_is_named(G, tmp_path, path, value, message):
    file = tmp_path / "recipe.json"
    recipe_files.write_recipe(full_recipe(G), file)
    data = json.loads(file.read_text())
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError) as error:
        recipe_files.read_recipe(file)
    assert str(error.value).startswith(f"recipe {file}: {message}")


@pytest.mark.parametrize("key", ["seed", "network", "edits", "masks"])
def test_a_missing_entry_of_a_recipe_is_named(G, tmp_path, key):
    file = tmp_path / "recipe.json"
    recipe_files.write_recipe(full_recipe(G), file)
    data = json.loads(file.read_text())
    del data[key]
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"the recipe lacks the key '{key}'"):
        recipe_files.read_recipe(file)


@pytest.mark.parametrize("text", [
    b"", b"[1", b"\xff\xfe", b"[" * 100_000, b'{"seed": 1, "seed": 2}', b'{"a": NaN}', b"3",
])
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "recipe.json"
    file.write_bytes(text)
    with pytest.raises(ValueError, match="^recipe .*recipe.json: [^\n]+$"):
        recipe_files.read_recipe(file)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_recipe_never_fails_in_another_way(G, tmp_path_factory, data):
    file = tmp_path_factory.mktemp("damaged") / "recipe.json"
    recipe_files.write_recipe(full_recipe(G), file)
    text = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at:at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    file.write_bytes(text)
    try:
        resample.check_recipe(recipe_files.read_recipe(file), G, "net.pkl")
    except ValueError as err:
        assert "\n" not in str(err)


def variants_of(recipe: recipes.Recipe, *edits: recipes.Edit) -> recipes.Recipe:
    return recipe.with_variants(edits)


def test_variants_of_one_edit_are_joined_in_the_order_of_their_numbers(G):
    one, three, four = (edit_of((0, 1), variant=i) for i in (1, 3, 4))
    joined = variants_of(start(G), three, four).joined(variants_of(start(G), one, four))
    assert joined == variants_of(start(G), one, three, four)


def test_a_renamed_network_is_still_the_same(G):
    recipe = variants_of(start(G), edit_of((0, 1)))
    assert recipe.joined(dataclasses.replace(recipe, network_name="other.pkl")) == recipe


@pytest.mark.parametrize("changes", [
    dict(seed=4), dict(network_sha256=""), dict(truncation=0.5), dict(noise_mode="none"), dict(label=1),
    dict(edits=(edit_of((0, 0), key=5),)),
    dict(variants=(edit_of((0, 2), variant=2),)),
    dict(variants=(edit_of((0, 1), layers=(0, 1), variant=2),)),
    dict(variants=(edit_of((0, 1), variant=2, noise=True),)),
    dict(variants=(edit_of((0, 1), variant=None, transplant_from=9),)),
], ids=str)
def test_variants_of_different_edits_are_not_joined(G, changes):
    recipe = variants_of(start(G), edit_of((0, 1)))
    assert recipe.joined(dataclasses.replace(recipe, **changes)) is None


def test_transplants_from_two_seeds_are_different_edits(G):
    here, there = (variants_of(start(G), edit_of((0, 1), variant=None, transplant_from=seed)) for seed in (5, 6))
    assert here.joined(there) is None


def test_saving_an_image_alone_keeps_the_variants_in_its_recipe(G, tmp_path):
    recipe = variants_of(start(G), edit_of((0, 1)))
    for each in (recipe, recipe.pick(0)):
        path, _ = resample_report.redraw(OpenNetwork.of(G, "net.pkl"), each, tmp_path)
        assert path == str(tmp_path / "seed0003")
    assert recipe_files.read_recipe(tmp_path / "seed0003-recipe.json") == recipe


def test_a_file_that_is_no_recipe_is_not_overwritten(G, tmp_path):
    (tmp_path / "seed0003-recipe.json").write_text("mine")
    path, _ = resample_report.redraw(OpenNetwork.of(G, "net.pkl"), start(G), tmp_path)
    assert path == str(tmp_path / "seed0003-2")
    assert (tmp_path / "seed0003-recipe.json").read_text() == "mine"


def test_two_edits_at_once_take_two_names_and_a_failed_one_gives_its_name_back(G, tmp_path):
    first, second = (variants_of(start(G), edit_of(block)) for block in ((0, 1), (1, 0)))
    with resample_report.claimed(first, tmp_path) as (path, _):
        with pytest.raises(RuntimeError, match="halfway"), resample_report.claimed(second, tmp_path) as (other, _):
            assert [path, other] == [str(tmp_path / "seed0003"), str(tmp_path / "seed0003-2")]
            raise RuntimeError("halfway")
        assert [file.name for file in tmp_path.iterdir()] == ["seed0003-recipe.json"]
    assert recipe_files.read_recipe(f"{path}-recipe.json") == first


def test_variants_that_another_process_drew_meanwhile_stay_in_the_recipe(G, tmp_path, monkeypatch):
    recipe = variants_of(start(G), edit_of((0, 1), variant=1), edit_of((0, 1), variant=2))
    mine, others = (dataclasses.replace(recipe, variants=(edit,)) for edit in recipe.variants)
    save = resample_report.save_resampling

    def save_late(result, path, *rest):
        recipe_files.write_recipe(others, f"{path}-recipe.json")
        save(result, path, *rest)

    monkeypatch.setattr(resample_report, "save_resampling", save_late)
    path, _ = resample_report.redraw(OpenNetwork.of(G, "net.pkl"), mine, tmp_path)
    assert recipe_files.read_recipe(f"{path}-recipe.json") == recipe


def test_a_variant_that_a_recipe_lacks_cannot_be_picked(G):
    with pytest.raises(ValueError, match="the recipe has no variant 1; it has 5, 6, and 0 for the image before"):
        full_recipe(G).pick(1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_mask_may_come_in_any_8_bit_mode(tmp_path, mode):
    white = Image.new("L", (6, 4), 0)
    white.paste(255, (1, 0, 3, 2))
    white.convert(mode).save(tmp_path / "mask.png")
    assert np.array_equal(edit_options.load_mask(tmp_path / "mask.png").weights, np.asarray(white))


def test_a_mask_is_turned_upright_and_may_have_16_bits(tmp_path):
    weights = np.zeros([4, 6], dtype=np.uint8)
    weights[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6   # turn by 90 degrees clockwise to view
    Image.fromarray(weights).save(tmp_path / "mask.png", exif=exif)
    assert np.array_equal(edit_options.load_mask(tmp_path / "mask.png").weights, np.rot90(weights, -1))
    Image.fromarray(weights.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(edit_options.load_mask(tmp_path / "deep.png").weights, weights)


def test_transparent_parts_of_a_mask_are_kept(tmp_path):
    image = Image.new("RGBA", (2, 1), (255, 255, 255, 0))
    image.putpixel((1, 0), (255, 255, 255, 255))
    image.save(tmp_path / "mask.png")
    assert edit_options.load_mask(tmp_path / "mask.png").weights.tolist() == [[0, 255]]


def test_a_mask_that_redraws_nothing_is_refused(tmp_path):
    Image.new("L", (4, 4), 100).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="no pixel brighter than mid gray"):
        edit_options.load_mask(tmp_path / "mask.png")


def test_a_mask_of_another_size_than_the_image_is_refused_by_its_name(G, tmp_path):
    Image.new("L", (8, 16), 255).save(tmp_path / "mask.png")
    request = edit_options.EditRequest(mask=edit_options.load_mask(tmp_path / "mask.png"))
    with pytest.raises(ValueError, match=r"mask .*mask.png is 8x16, the image 16x16"):
        request.add_to([start(G)], G, "net.pkl")


def test_a_truncated_mask_is_refused(tmp_path):
    Image.effect_noise((64, 64), 90).save(tmp_path / "mask.png")
    whole = (tmp_path / "mask.png").read_bytes()
    (tmp_path / "mask.png").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match="mask .*mask.png"):
        edit_options.load_mask(tmp_path / "mask.png")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), open_atomic(file) as stream:
        stream.write(b"new")
        raise RuntimeError("halfway")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_finished_write_replaces_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")
    with open_atomic(tmp_path / "file", "w", encoding="utf-8") as stream:
        stream.write("new")
        assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_cannot_start_names_the_file(tmp_path):
    with pytest.raises(OSError) as error, open_atomic(tmp_path / "missing" / "file"):
        pass
    assert error.value.filename == str(tmp_path / "missing" / "file")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_png_holds_the_pixels_it_was_given(tmp_path, channels):
    image = np.random.RandomState(0).randint(0, 256, [4, 5, channels], dtype=np.uint8)
    save_png(image, tmp_path / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")).reshape(image.shape), image)
