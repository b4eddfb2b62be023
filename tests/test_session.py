"""The editing session: a tree of states, images that can be made again, files that can be gone on from."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import ssn_plugin
from ssn_plugin.edits import recipe_files, resample
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.edit_options import EditRequest
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.recipe import Recipe
from ssn_plugin.edits.session import Session
from ssn_plugin.networks import SSNGenerator

BLOCK = EditRequest("0,1")
OTHER = EditRequest("1,3")


@pytest.fixture(scope="module")
def network() -> OpenNetwork:
    torch.manual_seed(1)
    G = SSNGenerator(
        4, 0, 4, 16, 3, block_grid=[[1, 1], [2, 4]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
        synthesis_kwargs=dict(channel_base=64, channel_max=8),
    )
    return OpenNetwork.of(G.eval().requires_grad_(False), "net.pkl")


@pytest.fixture
def session(network) -> Session:
    return Session(network)


def test_the_description_is_json_and_names_the_grids(session):
    described = json.loads(json.dumps(session.describe()))
    assert described["grids"] == [[1, 1], [2, 4]]
    assert (described["height"], described["width"], described["channels"]) == (16, 16, 3)
    assert described["network"] == "net.pkl" and described["sha256"] == session.network.sha256


def test_variants_are_those_of_the_command_line(session, network):
    state = session.start(seed=3)
    recipe = EditRequest("0,1", num_variants=2).add_to([state.recipe], network.G, "net.pkl")[0]
    expected = resample.resample(network.G, recipe)
    found = list(session.variants(state.id, BLOCK, 2))
    assert [v.number for v in found] == [1, 2]
    assert all(torch.equal(a.img, b.img) for a, b in zip(found, expected.variants))
    assert [(v.inside, v.outside) for v in found] == [(v.inside, v.outside) for v in expected.variants]
    assert np.array_equal(session.render(state.id), resample.to_uint8(expected.original))


def test_variants_arrive_one_by_one_and_leave_the_state_alone(session, monkeypatch):
    drawn = []
    monkeypatch.setattr(resample, "keyed_normal", lambda shape, *key: (drawn.append(key), torch.zeros(shape))[1])
    state = session.start(seed=3)
    variants = session.variants(state.id, BLOCK, 5, first=7)
    assert not drawn
    assert next(variants).number == 7
    assert len(drawn) == 1
    assert session.current == state


def test_a_kept_variant_is_the_image_that_was_shown(session):
    state = session.start(seed=3)
    shown = list(session.variants(state.id, BLOCK, 3))[2]
    kept = session.keep(state.id, BLOCK, 3)
    assert session.current == kept and kept.parent == state.id
    assert np.array_equal(session.render(kept.id), shown.image)
    assert np.array_equal(Session(session.network).render_recipe(kept.recipe), shown.image), "made without the cache"


def test_undo_and_redo_walk_the_branch_that_was_visited_last(session):
    start = session.start(seed=3)
    first = session.keep(start.id, BLOCK, 1)
    session.undo()
    second = session.keep(start.id, BLOCK, 2)
    third = session.keep(second.id, OTHER, 1)
    assert [session.undo(), session.undo(), session.undo()] == [second, start, start]
    assert [session.redo(), session.redo(), session.redo()] == [second, third, third]
    session.go_to(first.id)
    session.undo()
    assert session.redo() == first
    assert list(session.states) == ["s1", "s2", "s3", "s4"]


def test_what_is_there_already_is_not_added_again(session):
    start = session.start(seed=3)
    kept = session.keep(start.id, BLOCK, 1)
    assert session.start(seed=3) == start
    assert session.keep(start.id, BLOCK, 1) == kept
    assert len(session.states) == 2


def test_the_cache_is_bounded_and_images_come_back_the_same(network):
    session = Session(network, cache_bytes=1)
    start = session.start(seed=3)
    before = session.render(start.id)
    list(session.variants(start.id, BLOCK, 5))
    assert len(session._cache.entries) == 1
    assert np.array_equal(session.render(start.id), before)


def test_best_draws_until_enough_variants_leave_the_outside_alone(session):
    state = session.start(seed=3)
    outside = [variant.outside for variant in session.variants(state.id, BLOCK, 8)]
    limit = sorted(outside)[3]
    good = [i + 1 for i, value in enumerate(outside) if value < limit]
    assert [v.number for v in session.best(state.id, BLOCK, 2, limit)] == good[:2]
    assert [v.number for v in session.best(state.id, BLOCK, 9, limit, max_draws=8)] == good
    everything = next(session.best(state.id, EditRequest("all"), 1, 0))
    assert math.isnan(everything.outside)


def test_a_saved_session_goes_on_where_it_was(session, network, tmp_path):
    start = session.start(seed=3)
    kept = session.keep(start.id, BLOCK, 2)
    session.keep(kept.id, OTHER, 1)
    session.mark(kept.id, favourite=True, label="the tower")
    session.go_to(kept.id)
    session.save(tmp_path / "session.json")
    loaded = Session.load(tmp_path / "session.json", network)
    assert loaded.states == session.states
    assert loaded.current == session.current
    assert loaded.states[kept.id].favourite and loaded.states[kept.id].label == "the tower"
    assert np.array_equal(loaded.render(kept.id), session.render(kept.id))


def tuned_recipe(network: OpenNetwork, bias: float) -> Recipe:
    """As of a picture that the network was tuned to."""
    styles = Arrays.of({"w": np.zeros([1, 1, network.G.w_dim], np.float32)})
    tuned = Arrays.of({"synthesis.b8.conv1.bias": np.full([8], bias, np.float16)})
    return Recipe("net.pkl", network.sha256, 303, found=styles, tuned=tuned)


def test_a_picture_that_the_network_was_tuned_to_can_be_edited_saved_and_gone_on_from(network, tmp_path):
    recipe = tuned_recipe(network, 0.5)
    recipe_files.write_recipe(recipe, tmp_path / "me.json")
    session = Session(network)
    image = session.open_image(tmp_path / "me.json").redraw("0,1").pick(2)
    expected = resample.render_recipe(network.tuned_for(recipe).G, image.recipe)
    assert np.array_equal(image.pixels, resample.to_uint8(expected.img))
    image.save(tmp_path / "me.png")
    assert np.array_equal(Session(network).open_image(tmp_path / "me.png").pixels, image.pixels)
    session.save(tmp_path / "session.json")
    loaded = Session.load(tmp_path / "session.json", network)
    assert np.array_equal(loaded.render("s2"), image.pixels)


def test_images_of_the_network_and_of_networks_tuned_to_pictures_lie_in_one_session(network):
    def session_of(*biases: float) -> dict[float, np.ndarray]:
        session = Session(network, cache_bytes=1)
        seed = session.start(seed=3)
        states = {bias: session.start(recipe=tuned_recipe(network, bias)) for bias in biases}
        images = {bias: session.render(states[bias].id) for bias in (*biases, *biases)}   # the cache holds one
        assert len(session._tuned) <= 2 and session.network is network
        return images | {0: session.render(seed.id)}

    together = session_of(0.25, 0.5, 0.75)
    for bias in (0.25, 0.5, 0.75):
        assert np.array_equal(together[bias], session_of(bias)[bias])
    assert np.array_equal(together[0], Session(network).image(seed=3).pixels)
    assert len({image.tobytes() for image in together.values()}) == 4


def test_an_edit_in_the_middle_is_taken_out_or_moved_and_the_others_stay(session):
    image = session.image(seed=3).redraw("0,1").pick(2).redraw("0,1", layers="0-2").pick(1).redraw("1,3").pick(4)
    a, b, c = image.recipe.edits
    dropped = session.drop(image.state.id, 2)
    assert dropped.recipe.edits == (a, c) and dropped.parent == image.state.parent
    moved = session.move(image.state.id, 2, 1)
    assert moved.recipe.edits == (b, a, c) and session.current == moved
    assert (session.render(moved.id) != image.pixels).any(), "the later of two edits of a place hides the other"
    assert session.move(moved.id, 1, 2).recipe == image.recipe
    for number, to in ((0, 1), (1, 4)):
        with pytest.raises(ValueError, match="an edit to move must be 1..3"):
            session.move(image.state.id, number, to)


def test_an_image_with_variants_is_not_one_image(session, tmp_path):
    recipe = EditRequest("0,1", num_variants=2).add_to([session.start(seed=3).recipe], session.network.G, "net.pkl")[0]
    recipe_files.write_recipe(recipe, tmp_path / "many.json")
    with pytest.raises(ValueError, match="holds 2 variants"):
        session.open_image(tmp_path / "many.json")


def test_an_empty_session_can_be_saved(session, network, tmp_path):
    session.save(tmp_path / "session.json")
    assert Session.load(tmp_path / "session.json", network).current is None


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data.update(format="ssn-session 9"), "format must be 'ssn-session 1', got 'ssn-session 9'"),
    (lambda data: data.update(extra=1), "the session has the unknown key 'extra'"),
    (lambda data: data.update(current="s9"), "the session has no state 's9'"),
    (lambda data: data.update(current=None), "current must be of type str, got null"),
    (lambda data: data["states"][1].update(parent="s2"), "state s2 comes from 's2', which is not before it"),
    (lambda data: data["states"][1].update(id="x"), "states must be called s1, s2, ... in order, got 'x'"),
    (lambda data: data["states"][1].update(favourite=1), "favourite must be of type bool, got 1"),
    (lambda data: data["states"][0]["recipe"]["network"].update(sha256="0"), "the recipe belongs to net.pkl"),
])
def test_a_file_that_no_session_wrote_is_refused(session, network, tmp_path, change, message):
    start = session.start(seed=3)
    session.keep(start.id, BLOCK, 2)
    path = tmp_path / "session.json"
    session.save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=f"session .*: {message}") as error:
        Session.load(path, network)
    assert "\n" not in str(error.value)


def test_what_the_network_has_not_is_refused_and_changes_nothing(session):
    state = session.start(seed=3)
    with pytest.raises(ValueError, match="block 9,9 is outside|outside the 2x4"):
        session.keep(state.id, EditRequest("9,9"), 1)
    with pytest.raises(ValueError, match="the session has no state 's7'"):
        session.render("s7")
    with pytest.raises(ValueError, match="either a seed or a recipe"):
        session.start()
    assert list(session.states) == [state.id]


def test_threads_share_a_network(session):
    state = session.start(seed=3)
    expected = [v.image for v in session.variants(state.id, BLOCK, 4)]
    found: dict[int, list] = {}

    def draw(index: int) -> None:
        own = Session(session.network)
        found[index] = [v.image for v in own.variants(own.start(seed=3).id, BLOCK, 4)]

    threads = [threading.Thread(target=draw, args=[i]) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(a, b) for images in found.values() for a, b in zip(images, expected))
    assert len(found) == 3


def test_a_script_needs_three_lines(tmp_path):
    session = ssn_plugin.open("demo:castles64")
    image = session.image(seed=4)
    image.redraw("1,2").pick(3).save(tmp_path / "castle.png")
    shown = list(image.redraw("1,2", variants=3))[2].image
    assert np.array_equal(np.asarray(Image.open(tmp_path / "castle.png")), shown)
