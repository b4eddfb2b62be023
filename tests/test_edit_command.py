"""generate.py as an editor: undo and drop, masks, exact keeping, photographs, pictures of the grid, enlargements."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
from metric_fixtures import write_snapshot
from PIL import Image

import generate
from ssn_plugin import page
from ssn_plugin.edits import edit_options, recipe_files, resample
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.paste import paste_change
from ssn_plugin.edits.recipe import Edit, Picture, Recipe, encode_mask, hash_network
from ssn_plugin.networks import SSNGenerator
from training.images import pictures


@pytest.fixture(scope="module")
def G() -> torch.nn.Module:
    """16x16 pixels in 2x2 blocks."""
    torch.manual_seed(1)
    G = SSNGenerator(4, 0, 4, 16, 3, block_grid=[[2, 2]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                     synthesis_kwargs=dict(channel_base=64, channel_max=8))
    return G.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def networks(G, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_snapshot(folder / "ssn.pkl", G, data=None)
    return folder


def run(*args: object) -> click.testing.Result:
    return click.testing.CliRunner().invoke(generate.main, [str(arg) for arg in args])


def run_ok(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result.output


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def out(networks, tmp_path) -> Path:
    """A folder with two edits of seed 3, each with two variants."""
    network = f"--network={networks / 'ssn.pkl'}"
    run_ok(network, "--seeds=3", "--resample-block=0,1", "--variants=2", f"--outdir={tmp_path}")
    run_ok(f"--recipe={tmp_path}/seed0003-recipe.json", "--pick=2", "--resample-block=1,0", "--variants=2")
    return tmp_path


def test_a_recipe_alone_knows_its_network_and_its_folder(out):
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "seed0003-edit1-v02.png" in before
    (out / "seed0003-v01.png").unlink()
    run_ok(f"--recipe={out}/seed0003-recipe.json")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_png_can_be_gone_on_from(networks, out, tmp_path):
    run_ok(f"--network={networks / 'ssn.pkl'}", f"--recipe={out}/seed0003-edit1-v01.png", f"--outdir={tmp_path}/new")
    assert np.array_equal(pixels(tmp_path / "new" / "seed0003-edit2.png"), pixels(out / "seed0003-edit1-v01.png"))


def test_the_image_of_a_seed_can_be_gone_on_from(networks, out, tmp_path):
    network = f"--network={networks / 'ssn.pkl'}"
    run_ok(network, "--seeds=3", f"--outdir={tmp_path}/plain")
    run_ok(network, f"--recipe={tmp_path}/plain/seed0003.png", "--resample-block=0,1", "--variants=2")
    assert np.array_equal(pixels(tmp_path / "plain" / "seed0003-v02.png"), pixels(out / "seed0003-v02.png"))


def test_a_png_that_left_its_machine_says_nothing_of_its_folders(out):
    assert str(out).encode() not in (out / "seed0003.png").read_bytes()
    result = run(f"--recipe={out}/seed0003.png")
    assert result.exit_code == 2
    assert "does not say where its network ssn.pkl is: name it with --network" in result.output


def test_undo_takes_back_the_last_edit(out, tmp_path):
    run_ok(f"--recipe={out}/seed0003-edit1-recipe.json", "--pick=1", "--undo", f"--outdir={tmp_path}/undone")
    assert np.array_equal(pixels(tmp_path / "undone" / "seed0003-edit1.png"), pixels(out / "seed0003-v02.png"))


def test_dropping_an_edit_keeps_the_draw_of_the_other(G, out, tmp_path):
    run_ok(f"--recipe={out}/seed0003-edit1-recipe.json", "--pick=1", "--drop=1", f"--outdir={tmp_path}/dropped")
    recipe = recipe_files.read_recipe(tmp_path / "dropped" / "seed0003-edit1-recipe.json")
    z = resample.sample_z(3, 16)
    drawn = np.random.RandomState([1, 3, 1, 2, 1]).standard_normal(4).astype(np.float32)  # block 2, of the second edit
    z[0, 8:12] = torch.from_numpy(drawn)
    expected = G.mapping(z, torch.zeros([1, 0]))
    assert torch.equal(resample.make_latents(G, recipe).ws, expected)


@pytest.mark.parametrize(("options", "message"), [
    (["--recipe={out}/seed0003-recipe.json", "--pick=0", "--undo"], "there is no edit to undo"),
    (["--recipe={out}/seed0003-edit1-recipe.json", "--drop=2"], "the edit to drop must be 1..1, got 2"),
    (["--recipe={out}/seed0003-edit1-recipe.json", "--drop=1", "--undo"], "--undo cannot be combined with --drop"),
    (["--recipe={out}/seed0003-recipe.json", "--paste-into={out}/seed0003.png"], "was not made for a picture"),
    (["--seeds=1", "--outdir=x"], "Missing option '--network'"),
    (["--network=x", "--seeds=1"], "Missing option '--outdir'"),
    (["--network=x", "--outdir=x", "--seeds=1", "--feather=2"], "--feather needs --resample-block or --resample-mask"),
    (["--recipe={out}/seed0003-recipe.json", "--pick=1", "--resample-block=0", "--feather=2"],
     "blocks have a feather only where the rest is kept exactly"),
])
def test_what_makes_no_sense_is_refused_in_one_line(out, options, message):
    before = sorted(out.iterdir())
    result = run(*(option.format(out=out) for option in options))
    assert result.exit_code == 2
    assert message in result.output and len(result.output.splitlines()) == 1
    assert sorted(out.iterdir()) == before


def test_a_moved_network_is_asked_for(out):
    path = out / "seed0003-recipe.json"
    data = json.loads(path.read_text())
    data["network"]["path"] = "gone.pkl"
    path.write_text(json.dumps(data))
    result = run(f"--recipe={path}")
    assert result.exit_code == 2 and "is not there: name it with --network" in result.output


def test_keep_exact_leaves_the_outside_bit_by_bit(networks, tmp_path):
    run_ok(f"--network={networks / 'ssn.pkl'}", "--seeds=3", "--resample-block=0,1", "--variants=2", "--keep-exact",
           "--feather=2", f"--outdir={tmp_path}")
    before, after = pixels(tmp_path / "seed0003.png"), pixels(tmp_path / "seed0003-v02.png")
    y, x = np.mgrid[:16, :16]
    distance = np.hypot(np.maximum(y - 7, 0), np.maximum(8 - x, 0))  # of each pixel to the block
    assert np.array_equal(before[distance > 2], after[distance > 2])
    assert (before != after)[distance == 0].any()


def test_edits_after_an_exact_one_keep_what_it_kept(G):
    """The image outside is the one before plus what the second edit changes there, not what the first would have."""
    exact = Edit(blocks=((0, 0),), layers=(0, 5), variant=1, keep_exact=True)
    other = Edit(blocks=((1, 1),), layers=(0, 5), variant=1)
    start = Recipe("ssn.pkl", hash_network(G), 3)
    images = [resample.render_recipe(G, recipe) for recipe in (
        start, start.edited(exact), start.edited(exact).edited(other))]
    network = [resample.render(G, start, each.latents) for each in images]
    assert torch.equal(images[1].img[:, 8:], images[0].img[:, 8:])
    torch.testing.assert_close(images[2].img, images[1].img + network[2] - network[1])
    assert not torch.equal(network[1][:, 8:], network[0][:, 8:]), "the network alone leaks"
    twice = resample.render_recipe(G, start.edited(exact).edited(dataclasses.replace(other, keep_exact=True))).img
    assert torch.equal(twice[:, :8], images[1].img[:, :8])


def test_a_feather_fades_from_the_place_outwards():
    weights = np.zeros([9, 9], np.uint8)
    weights[4, 4] = 255
    soft = resample.feathered(weights, 2)
    assert soft[4].tolist() == [0, 0, 64, 191, 255, 191, 64, 0, 0]
    assert resample.feathered(weights, 0) is weights


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (31, 31), (16, 16)])
def test_a_mask_may_have_any_size_of_the_same_proportions(tmp_path, size):
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    assert (edit_options.load_mask(tmp_path / "mask.png").resized(16, 16).weights == 255).all()


@pytest.mark.parametrize("size", [(20, 16), (16, 8)])
def test_a_mask_of_other_proportions_is_refused(tmp_path, size):
    Image.new("L", size, 255).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match="the proportions differ"):
        edit_options.load_mask(tmp_path / "mask.png").resized(16, 16)


def test_a_mask_of_a_wide_image_may_be_rounded(tmp_path):
    Image.new("L", (100, 33), 255).save(tmp_path / "mask.png")
    assert edit_options.load_mask(tmp_path / "mask.png").resized(16, 48).weights.shape == (16, 48)


@pytest.mark.parametrize(("paint", "ground", "mode"), [
    ((255, 255, 255, 255), (0, 0, 0, 255), "RGBA"),
    ((255, 0, 0, 255), (0, 0, 0, 255), "RGBA"),
    ((0, 0, 200, 255), (0, 0, 0, 0), "RGBA"),
    ((0, 0, 0, 255), (0, 0, 0, 0), "RGBA"),
    ((0, 0, 0, 255), (255, 255, 255, 0), "RGBA"),
    ((30, 90, 10, 255), (0, 0, 0, 0), "RGBA"),
    ((0, 255, 0), (0, 0, 0), "RGB"),
])
def test_whatever_is_painted_is_redrawn_in_any_colour(tmp_path, paint, ground, mode):
    image = Image.new(mode, (4, 4), ground)
    image.putpixel((1, 2), paint)
    image.save(tmp_path / "mask.png")
    mask = edit_options.load_mask(tmp_path / "mask.png")
    assert np.argwhere(mask.weights).tolist() == [[2, 1]] and mask.weights[2, 1] == 255
    assert mask.painted == 1 / 16


def test_half_transparent_paint_mixes(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 255))
    image.putpixel((0, 0), (255, 255, 255, 102))
    image.save(tmp_path / "mask.png")
    assert edit_options.load_mask(tmp_path / "mask.png").weights[0, 0] == 102


def test_several_masks_redraw_whatever_one_of_them_redraws():
    small, large = np.zeros([2, 2], np.uint8), np.zeros([4, 4], np.uint8)
    small[0, 0], large[3, 3] = 255, 255
    joined = edit_options.join_masks([edit_options.Mask("a", small), edit_options.Mask("b", large)])
    assert joined.weights.shape == (4, 4) and joined.weights[3, 3] == 255 and joined.weights[0, 0] == 255
    assert joined.weights[3, 0] == 0 and joined.path == "a, b"


def test_masks_say_how_much_they_cover(networks, tmp_path):
    for name, column in (("a.png", 0), ("b.png", 15)):
        image = Image.new("L", (16, 16))
        image.paste(255, (column, 0, column + 1, 16))
        image.save(tmp_path / name)
    output = run_ok(f"--network={networks / 'ssn.pkl'}", "--seeds=3", f"--resample-mask={tmp_path}/a.png",
                    f"--resample-mask={tmp_path}/b.png", "--variants=1", "--feather=1", f"--outdir={tmp_path}/out")
    assert f"{tmp_path}/a.png: 6.2% of the image is painted, which is redrawn" in output
    edit = recipe_files.read_recipe(tmp_path / "out" / "seed0003-recipe.json").variants[0]
    assert edit.feather == 1
    assert np.argwhere(np.asarray(resample.decode_mask(edit.mask)).any(axis=0)).flatten().tolist() == [0, 15]


def test_more_change_outside_than_inside_is_a_warning(networks, tmp_path, monkeypatch):
    monkeypatch.setattr(resample, "change", lambda before, after, region: (0.1, 0.2))
    output = run_ok(f"--network={networks / 'ssn.pkl'}", "--seeds=3", "--resample-block=0", "--variants=2",
                    f"--outdir={tmp_path}")
    assert "Warning: v01, v02 changed more outside than inside" in output


def test_help_for_blocks_is_a_picture_of_the_grid(networks, tmp_path):
    output = run_ok(f"--network={networks / 'ssn.pkl'}", "--seeds=3", "--resample-block=help", f"--outdir={tmp_path}")
    assert output == f"{tmp_path}/seed0003-blocks.png\n"
    assert [path.name for path in tmp_path.iterdir()] == ["seed0003-blocks.png"]
    assert min(Image.open(tmp_path / "seed0003-blocks.png").size) > 400


@pytest.mark.parametrize("options", [[], ["--resample-block=0", "--variants=1"]])
def test_finals_may_be_enlarged(networks, tmp_path, options):
    common = [f"--network={networks / 'ssn.pkl'}", "--seeds=3", *options]
    run_ok(*common, f"--outdir={tmp_path}/small")
    run_ok(*common, "--scale=3", f"--outdir={tmp_path}/large")
    run_ok(*common, "--scale=3", "--scale-filter=lanczos", f"--outdir={tmp_path}/smooth")
    small, large, smooth = (pixels(tmp_path / name / "seed0003.png") for name in ("small", "large", "smooth"))
    assert np.array_equal(large, small.repeat(3, axis=0).repeat(3, axis=1))
    assert smooth.shape == large.shape and not np.array_equal(smooth, large)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("smooth", [False, True])
def test_host_and_plugin_enlarge_alike(channels, smooth):
    image = np.random.RandomState(0).randint(0, 256, [4, 6, channels], dtype=np.uint8)
    assert np.array_equal(pictures.scale_up(image, 3, smooth), page.scale_up(image, 3, smooth))
    assert page.scale_up(image, 3, smooth).shape == (12, 18, channels)


def test_sheets_may_be_pdf(networks, tmp_path):
    run_ok(f"--network={networks / 'ssn.pkl'}", "--seeds=3", "--resample-block=0", "--variants=1", "--sheet=pdf",
           f"--outdir={tmp_path}")
    assert (tmp_path / "seed0003-sheet.pdf").read_bytes().startswith(b"%PDF-")
    assert not (tmp_path / "seed0003-sheet.png").exists()


PHOTO = Picture("me.jpg", 50, 40, (5, 0, 45, 40))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_photograph_takes_the_change_alone(mode, factor):
    rgb = np.random.RandomState(0).randint(0, 256, [40 * factor, 50 * factor, 3], dtype=np.uint8)
    photo = Image.fromarray(rgb).convert(mode)
    before = torch.zeros([3, 16, 16])
    after, weight = before.clone(), torch.zeros([16, 16])
    after[0, :, :] = 0.4
    weight[4:8, 4:8] = 1
    result = paste_change(photo, PHOTO, before, after, weight)
    assert result.size == photo.size and result.mode == ("RGBA" if mode == "RGBA" else "RGB")
    old, new = (np.asarray(image.convert("RGB")).astype(int) for image in (photo, result))
    cell = 40 * factor / 16
    columns = slice(int(5 * factor + 5 * cell), int(5 * factor + 7 * cell))
    inside = (slice(int(5 * cell), int(7 * cell)), columns)
    assert np.array_equal(new[inside], np.clip(old[inside] + [51, 0, 0], 0, 255))
    beyond = np.ones(old.shape[:2], bool)
    beyond[int(3 * cell):int(9 * cell) + 1, int(5 * factor + 3 * cell):int(5 * factor + 9 * cell) + 1] = False
    assert np.array_equal(new[beyond], old[beyond])


def test_a_photograph_of_other_proportions_is_refused():
    zero = torch.zeros([3, 16, 16])
    with pytest.raises(ValueError, match=r"the photograph is 40x50, the recipe was made for me.jpg of 50x40"):
        paste_change(Image.new("RGB", (40, 50)), PHOTO, zero, zero, zero[0])


@pytest.mark.parametrize("orientation", [1, 6])
def test_edits_of_a_found_image_come_back_to_the_photograph(G, networks, tmp_path, orientation):
    """The recipe counts in upright pixels, whichever way the camera was held."""
    rgb = np.random.RandomState(0).randint(0, 256, [40, 50, 3], dtype=np.uint8)
    upright = Image.fromarray(rgb)
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "me.png", exif=exif)
    found = Arrays.of({"w": G.mapping(resample.sample_z(3, 16), torch.zeros([1, 0]))[:, :1].numpy()})
    recipe = Recipe("ssn.pkl", hash_network(G), 303, found=found, picture=PHOTO,
                    network_path=str(networks / "ssn.pkl"))
    recipe_files.write_recipe(recipe, tmp_path / "proj-recipe.json")
    run_ok(f"--recipe={tmp_path}/proj-recipe.json", "--resample-block=0,0", "--variants=2",
           f"--paste-into={tmp_path}/me.png")
    photo = pixels(tmp_path / "proj-v02-photo.png")
    assert photo.shape == rgb.shape
    assert (photo != rgb)[:20, 5:25].any()
    assert np.array_equal(photo[25:], rgb[25:]) and np.array_equal(photo[:, :5], rgb[:, :5])
    assert np.array_equal(photo[:, 30:], rgb[:, 30:])


def test_an_image_may_have_several_masks_one_over_the_other(G):
    start = Recipe("ssn.pkl", hash_network(G), 3)
    left, right, all_ = np.zeros([16, 16], np.uint8), np.zeros([16, 16], np.uint8), np.full([16, 16], 255, np.uint8)
    left[:, :8], right[:, 8:] = 255, 255
    edits = [Edit(mask=encode_mask(mask), layers=(0, 5), variant=1) for mask in (left, right, all_)]
    recipe = start.edited(edits[0]).edited(edits[1])
    resample.check_recipe(recipe, G, "ssn.pkl")
    images = [resample.render_recipe(G, each).img for each in (start, start.edited(edits[0]), recipe)]
    first, second = (b.sub(a).square().mean(dim=0) for a, b in zip(images, images[1:]))
    assert first[:, :8].mean() > first[:, 8:].mean() and second[:, 8:].mean() > second[:, :8].mean()
    covered = resample.render_recipe(G, recipe.edited(edits[2])).img
    alone = resample.render_recipe(G, dataclasses.replace(recipe.edited(edits[2]), edits=(
        recipe.edited(edits[2]).edits[2],))).img
    torch.testing.assert_close(covered, alone, rtol=1e-4, atol=1e-4)


def test_layers_that_a_mask_leaves_alone_come_from_what_lies_under_most_of_it(G):
    start = Recipe("ssn.pkl", hash_network(G), 3)
    left, part = np.zeros([16, 16], np.uint8), np.zeros([16, 16], np.uint8)
    left[:, :8], part[:4, :6] = 255, 255
    below = start.edited(Edit(mask=encode_mask(left), layers=(0, 5), variant=1))
    latents = resample.make_latents(G, below.edited(Edit(mask=encode_mask(part), layers=(4, 5), variant=1)))
    assert torch.equal(latents.blends[1].ws[:, :4], latents.blends[0].ws[:, :4])
    assert not torch.equal(latents.blends[1].ws[:, 4:], latents.blends[0].ws[:, 4:])
