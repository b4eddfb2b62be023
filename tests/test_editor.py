"""The editor's calls: what the page gets for them, what is kept and what is not."""

from __future__ import annotations

import base64
import io
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from editor_fixtures import REQUEST, Page, mask_png, pixels, small_network
from network_file_helpers import snapshot

from ssn_plugin.editor import finding, launch
from ssn_plugin.editor import studio as studio_module
from ssn_plugin.editor.studio import PngCache, Studio
from ssn_plugin.edits import recipe_files, resample
from ssn_plugin.edits.edit_options import EditRequest
from ssn_plugin.edits.recipe_files import parse_recipe
from ssn_plugin.edits.session import Session
from training.formats import network_export


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture
def studio(network, tmp_path):
    studio = Studio(Session(network), str(tmp_path / "edits" / "session.json"))
    yield studio
    studio.close()


@pytest.fixture
def page(studio) -> Page:
    return Page(studio)


def start(page: Page, seed: int = 3) -> str:
    return page.post("/api/start", {"seed": seed, "class": None}).json["current"]


def keep(page: Page, state: str, number: int, **changed) -> str:
    return page.post("/api/keep", {"state": state, "request": REQUEST | changed, "number": number}).json["current"]


PICTURE = {"name": "C:\\me\\photo.png", "box": [5, 0, 45, 40], "likeness": "layers", "class": None}


def photo_png(width: int = 60, height: int = 40) -> str:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, [height, width, 3], np.uint8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_page_learns_what_the_network_is(page):
    about = page.get("/api/session").json["about"]
    assert (about["width"], about["height"], about["grids"]) == (16, 16, [[1, 1], [2, 4]])
    assert about["layers"]["shape"][1] + 1 == about["layers"]["colour"][0]


def test_variants_are_those_of_the_session_with_their_changes(page, studio):
    state = start(page)
    found = page.variants(state, REQUEST, first=2, count=3)
    expected = list(studio.session.variants(state, EditRequest("2x4:0,1", layers="0-5"), 3, 2))
    assert [one["number"] for one in found] == [2, 3, 4]
    for one, variant in zip(found, expected):
        assert np.array_equal(pixels(base64.b64decode(one["image"])), variant.image)
        assert (one["inside"], one["outside"]) == (variant.inside, variant.outside)


def test_where_nothing_lies_outside_there_is_no_number(page):
    request = REQUEST | {"blocks": [[r, c] for r in range(2) for c in range(4)]}
    assert page.variants(start(page), request, count=1)[0]["outside"] is None


def test_a_kept_variant_is_the_next_state_with_the_image_that_was_shown(page):
    state = start(page)
    shown = page.variants(state, REQUEST, count=2)[1]
    kept = keep(page, state, 2)
    assert np.array_equal(pixels(page.get(f"/api/image/{kept}").data), pixels(base64.b64decode(shown["image"])))


def test_undo_redo_and_branches(page):
    first = start(page)
    second = keep(page, first, 1)
    assert page.post("/api/undo", {}).json["current"] == first
    assert page.post("/api/redo", {}).json["current"] == second
    page.post("/api/go", {"state": first})
    third = keep(page, first, 2)
    tree = page.get("/api/session").json["tree"]
    assert [(state["id"], state["parent"]) for state in tree["states"]] == [
        (first, None), (second, first), (third, first)]


def test_a_mask_is_redrawn_where_it_is_painted(page, studio):
    weights = np.zeros([16, 16], np.uint8)
    weights[4:8, 2:6] = 255
    request = {key: value for key, value in REQUEST.items() if key not in ("blocks", "grid")}
    request |= {"mask": mask_png(weights), "keep_exact": True}
    state = start(page)
    before, after = page.get(f"/api/image/{state}"), page.variants(state, request, count=1)[0]["image"]
    changed = (pixels(before.data) != pixels(base64.b64decode(after))).any(axis=2)
    assert changed[4:8, 2:6].any() and not changed[weights == 0].any()


@pytest.mark.parametrize("likeness", [None, "tuned"])
def test_the_first_image_comes_back_where_it_is_brushed_and_nowhere_else(page, studio, monkeypatch, likeness):
    monkeypatch.setattr(finding, "STEPS", 1)
    monkeypatch.setattr(finding, "TUNE_STEPS", 2)
    if likeness is None:
        first = start(page)
    else:
        found = page.post("/api/picture", PICTURE | {"data": photo_png(), "likeness": likeness}).text
        first = json.loads(found.splitlines()[-1])["tree"]["current"]
    edited = keep(page, first, 1, blocks=[[r, c] for r in range(2) for c in range(4)])
    weights = np.zeros([16, 16], np.uint8)
    weights[:, :8] = 255
    tree = page.post("/api/restore", {"state": edited, "mask": mask_png(weights)}).json
    restored = tree["current"]
    before, now, old = (pixels(page.get(f"/api/image/{state}").data).astype(int) for state in (first, restored, edited))
    assert np.array_equal(now[:, 9:], old[:, 9:])
    near = np.abs(now[:, :6] - before[:, :6]).mean()
    assert near < 0.5 * np.abs(old[:, :6] - before[:, :6]).mean()
    assert tree["edits"][-1] == {"place": "Painted place", "source": "brought back"}
    again = Session.load(studio.save_path, studio.session.network)
    assert np.array_equal(again.render(restored), now)


@pytest.mark.parametrize("text", ["", "!", base64.b64encode(b"GIF89a").decode(),
                                  mask_png(np.zeros([16, 16], np.uint8)), mask_png(np.full([8, 16], 255, np.uint8)),
                                  mask_png(np.full([5000, 8], 255, np.uint8))])
def test_a_mask_that_is_none_is_one_line(page, text):
    request = {key: value for key, value in REQUEST.items() if key not in ("blocks", "grid")} | {"mask": text}
    answer = page.post("/api/variants", {"state": start(page), "request": request, "first": 1, "count": 1})
    assert answer.status_code == 400 and "\n" not in answer.json["error"]


def test_variants_arrive_one_by_one_and_others_get_their_turn(studio):
    state = studio.start(3)["current"]
    variants = studio.variants(state, REQUEST, 1, 8)
    assert next(variants)["number"] == 1
    assert studio.image(state)   # while they are drawn
    assert next(variants)["number"] == 2
    variants.close()             # the page went on to another place


def test_every_change_is_on_disk_when_it_is_answered_and_load_goes_on(page, studio, network):
    state = keep(page, start(page), 2)
    page.post("/api/favourites", {"seeds": [5, 7]})
    again = Session.load(studio.save_path, network)   # nothing was closed: the server may be killed at any moment
    assert again.current.id == state and again.favourites == (5, 7)
    assert np.array_equal(again.render(state), studio.session.render(state))


def test_a_session_that_cannot_be_saved_says_so(page, studio, tmp_path):
    (tmp_path / "file").write_text("")
    studio.save_path = str(tmp_path / "file" / "session.json")
    answer = page.post("/api/start", {"seed": 1, "class": None})
    assert answer.status_code == 500 and "file" in answer.json["error"]


def test_the_session_file_is_whole_at_every_moment(page, studio):
    state, stop, faults = start(page), threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                json.loads(Path(studio.save_path).read_text())
            except ValueError as err:
                faults.append(err)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 20):
        keep(page, state, number)
    stop.set()
    reader.join()
    assert not faults


def test_many_requests_leave_memory_where_it_was(page, studio):
    state = start(page)
    studio._pngs.max_bytes = 5_000
    for seed in range(40):
        page.get(f"/api/seed/{seed}")
    page.variants(state, REQUEST, first=1, count=20)
    assert studio._pngs.num_bytes <= 5_000
    assert len(studio._pngs._entries) < 10 and len(studio.session.states) == 1


def test_the_cache_forgets_what_was_not_asked_for_longest():
    cache = PngCache(10)
    for key, png in (("a", b"1234"), ("b", b"1234"), ("a", b"1234")):
        cache.put(key, png)
    cache.get("a")
    cache.put("c", b"12345")
    assert (cache.get("a"), cache.get("b"), cache.num_bytes) == (b"1234", None, 9)


def test_requests_at_the_same_time_get_the_images_they_would_get_alone(studio):
    state = studio.start(3)["current"]
    alone = [one["image"] for one in studio.variants(state, REQUEST, 1, 6)]
    found: dict[int, list[str]] = {}
    threads = [threading.Thread(target=lambda i=i: found.update(
        {i: [one["image"] for one in studio.variants(state, REQUEST, 1, 6)]})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(images == alone for images in found.values()) and len(found) == 4


def test_a_picture_is_found_with_previews_and_becomes_a_state(page, studio, monkeypatch):
    monkeypatch.setattr(finding, "STEPS", 5)
    monkeypatch.setattr(finding, "PREVIEW_SECONDS", 0.0)
    *previews, last = map(json.loads, page.post("/api/picture", PICTURE | {"data": photo_png()}).text.splitlines())
    assert [one["step"] for one in previews] == [1, 2, 3, 4, 5] and previews[0]["steps"] == 5
    assert pixels(base64.b64decode(previews[0]["image"])).shape == (16, 16, 3)
    state = last["tree"]["current"]
    picture = studio.session.recipe(state).picture
    assert (picture.name, picture.box, picture.width, picture.height) == ("photo.png", (5, 0, 45, 40), 60, 40)
    assert last["tree"]["states"][-1]["picture"] == "photo.png"
    assert Session.load(studio.save_path, studio.session.network).current.id == state

    edited = keep(page, state, 1, blocks=[[0, 0]])
    given = pixels(page.post("/api/photo", {"state": edited, "name": "photo.png", "data": photo_png()}).data)
    changed = (given != pixels(base64.b64decode(photo_png()))).any(axis=2)
    assert changed[:15, 5:13].any()
    assert not changed[28:].any() and not changed[:, :5].any() and not changed[:, 22:].any()
    assert "--recipe=" in export(page, state, "command").json["text"]


@pytest.mark.parametrize("wrong", [
    {"data": "!"}, {"data": ""}, {"data": base64.b64encode(b"<svg/>").decode()}, {"box": [0, 0, 99, 99]},
    {"box": [5, 0, 5, 40]}, {"box": [1, 2, 3]}, {"box": [0.5, 0, 4, 4]}, {"name": 5}, {"likeness": 1},
    {"likeness": "twin"}, {"class": 1}, {"path": "x"},
])
def test_a_picture_that_is_none_is_one_line(page, studio, wrong):
    answer = page.post("/api/picture", PICTURE | {"data": photo_png()} | wrong)
    assert answer.status_code == 400 and "\n" not in answer.json["error"] and answer.json["error"]
    assert not studio.session.states


def test_the_network_is_tuned_to_a_picture_beside_the_other_images(page, studio, network, monkeypatch):
    monkeypatch.setattr(finding, "STEPS", 2)
    monkeypatch.setattr(finding, "TUNE_STEPS", 3)
    monkeypatch.setattr(finding, "PREVIEW_SECONDS", 0.0)
    other = keep(page, start(page), 1)
    before = page.get(f"/api/image/{other}").data
    answer = page.post("/api/picture", PICTURE | {"data": photo_png(), "likeness": "tuned"})
    *previews, last = map(json.loads, answer.text.splitlines())
    assert [(one["step"], one["steps"]) for one in previews] == [(i, 5) for i in range(1, 6)]
    state = last["tree"]["current"]
    recipe = studio.session.recipe(state)
    assert recipe.tuned is not None and studio.session.network is network
    made = resample.render_recipe(network.tuned_for(recipe).G, recipe)
    assert np.array_equal(pixels(page.get(f"/api/image/{state}").data), resample.to_uint8(made.img))

    edited = keep(page, state, 1, blocks=[[0, 0]])
    assert page.post("/api/photo", {"state": edited, "name": "photo.png", "data": photo_png()}).status_code == 200
    assert export(page, state, "sheet", request=REQUEST, numbers=[1]).status_code == 200
    again = Studio(Session.load(studio.save_path, network))   # the server may be killed at any moment
    assert again.image(edited) == page.get(f"/api/image/{edited}").data and again.image(other) == before
    again.close()


def test_a_class_is_chosen_and_stays_with_the_image(tmp_path):
    studio = Studio(Session(small_network(num_classes=3)), str(tmp_path / "s.json"), class_names=["cat", "dog", "owl"])
    page = Page(studio)
    assert page.get("/api/session").json["about"]["class_names"] == ["cat", "dog", "owl"]
    tree = page.post("/api/start", {"seed": 3, "class": 2}).json
    assert tree["states"][0]["class"] == 2
    shown = [page.get(f"/api/seed/3/{number}").data for number in range(3)]
    assert page.get("/api/image/s1").data == shown[2] and len(set(shown)) == 3
    assert studio.session.recipe(keep(page, "s1", 1)).label == 2
    assert "--seeds=3 --class=2" in export(page, "s1", "command").json["text"]
    for path, body in (("/api/seed/3", None), ("/api/seed/3/7", None), ("/api/start", {"seed": 1, "class": None}),
                       ("/api/start", {"seed": 1, "class": 3})):
        answer = page.get(path) if body is None else page.post(path, body)
        assert answer.status_code == 400 and "the class must be 0..2" in answer.json["error"]
    studio.close()


def best(page: Page, state: str, limit: float, count: int = 2, first: int = 1) -> list[dict]:
    body = {"state": state, "request": REQUEST, "first": first, "count": count, "max_outside": limit}
    return [json.loads(line) for line in page.post("/api/best", body).text.splitlines()]


def test_only_variants_below_a_leak_are_shown_and_how_many_were_drawn_for_them(page):
    state = start(page)
    drawn = page.variants(state, REQUEST, count=8)
    limit = sorted(one["outside"] for one in drawn)[3]
    expected = [one for one in drawn if one["outside"] < limit][:2]
    lines = best(page, state, limit)
    assert [one for one in lines if "image" in one] == expected
    assert [one["drawn"] for one in lines if "drawn" in one] == list(range(1, expected[-1]["number"] + 1))


def test_the_search_for_variants_below_a_leak_ends(page, monkeypatch):
    monkeypatch.setattr(studio_module, "MAX_DRAWS", 5)
    assert best(page, start(page), 0.0) == [{"drawn": number} for number in range(1, 6)]
    for limit in ("1", -1, True, None):
        assert "error" in best(page, start(page), limit)[0]


def test_the_edits_of_an_image_are_named_taken_out_and_moved(page, studio):
    first = start(page)
    second = keep(page, first, 2)
    whole = [[r, c] for r in range(2) for c in range(4)]
    third = keep(page, second, 1, blocks=whole, layers=studio.about()["layers"]["shape"])
    fourth = keep(page, third, 1, blocks=[[1, 1], [1, 2]], transplant_from=9, layers=[1, 2])
    edits = page.get("/api/session").json["tree"]["edits"]
    assert [f"{edit['place']}, {edit['source']}" for edit in edits] == [
        "Block (0, 1), variant 2", "Whole image, variant 1, shape", "2 blocks, from seed 9, layers 1-2"]
    dropped = page.post("/api/drop", {"state": fourth, "number": 2}).json
    assert [edit["place"] for edit in dropped["edits"]] == ["Block (0, 1)", "2 blocks"]
    moved = page.post("/api/move", {"state": fourth, "number": 3, "to": 1}).json
    assert [edit["place"] for edit in moved["edits"]] == ["2 blocks", "Block (0, 1)", "Whole image"]
    assert {state["parent"] for state in moved["states"][-2:]} == {third}
    for path, body in (("drop", {"number": 4}), ("move", {"number": 0, "to": 1}), ("move", {"number": 1, "to": 4})):
        assert page.post(f"/api/{path}", {"state": fourth} | body).status_code == 400


@pytest.mark.parametrize("data", [photo_png(50, 50), "", base64.b64encode(b"x").decode()])
def test_a_photograph_that_does_not_fit_is_one_line(page, data, monkeypatch):
    monkeypatch.setattr(finding, "STEPS", 1)
    found = page.post("/api/picture", PICTURE | {"data": photo_png()}).text.splitlines()[-1]
    edited = keep(page, json.loads(found)["tree"]["current"], 1)
    assert page.post("/api/photo", {"state": edited, "name": "x", "data": data}).status_code == 400
    assert page.post("/api/photo", {"state": start(page), "name": "x", "data": photo_png()}).status_code == 400


def test_a_search_that_nobody_waits_for_stops_and_others_get_their_turn_meanwhile(studio, monkeypatch):
    monkeypatch.setattr(finding, "STEPS", 10**6)
    monkeypatch.setattr(finding, "PREVIEW_SECONDS", 0.0)
    state = studio.start(1)["current"]
    search = studio.find(base64.b64decode(photo_png()), "photo.png", (5, 0, 45, 40), "style")
    assert next(search)["step"] == 1
    assert next(studio.variants(state, REQUEST, 1, 1))["number"] == 1
    search.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "search"]


def export(page: Page, state: str, kind: str, **options):
    return page.post("/api/export", {"state": state, "kind": kind, "options": options})


def test_an_exported_image_carries_its_recipe(page, studio):
    state = keep(page, start(page), 2)
    answer = export(page, state, "png", scale=1)
    assert 'filename="seed0003-edit1-s2.png"' in answer.headers["Content-Disposition"]
    assert np.array_equal(pixels(answer.data), studio.session.render(state))
    assert parse_recipe(answer.data) == studio.session.recipe(state)
    assert pixels(export(page, state, "png", scale=4).data).shape == (64, 64, 3)


@pytest.mark.parametrize("likeness", [None, "layers", "tuned"])
def test_an_exported_image_is_made_again_to_the_byte(tmp_path, monkeypatch, likeness):
    import generate

    monkeypatch.setattr(finding, "STEPS", 2)
    monkeypatch.setattr(finding, "TUNE_STEPS", 2)
    monkeypatch.setattr(recipe_files, "MAX_INLINE_BYTES", 10)   # as if the tuned network were a large one
    network = str(tmp_path / "ssn.pkl")
    network_export.save_networks(snapshot(small_network().G), network)
    studio = Studio(Session.open(network), str(tmp_path / "session.json"), network)
    page = Page(studio)
    if likeness is None:
        state = start(page)
    else:
        answer = page.post("/api/picture", PICTURE | {"data": photo_png(), "likeness": likeness})
        state = json.loads(answer.text.splitlines()[-1])["tree"]["current"]
    for exported in (state, keep(page, keep(page, state, 2), 1, blocks=[[1, 1]], keep_exact=True, feather=2)):
        recipe = tmp_path / f"{exported}.json"
        recipe.write_bytes(export(page, exported, "recipe").data)
        for scale in (1, 4):
            png, out = export(page, exported, "png", scale=scale).data, tmp_path / f"out-{exported}-{scale}"
            for source in (recipe, tmp_path / f"{exported}.png"):
                (tmp_path / f"{exported}.png").write_bytes(png)
                generate.main([f"--network={network}", f"--recipe={source}", f"--outdir={out}", f"--scale={scale}",
                               *(["--scale-filter=lanczos"] if scale > 1 else [])], standalone_mode=False)
                (made,) = out.glob("*.png")
                assert made.read_bytes() == png
    studio.close()


def test_arrays_that_no_png_can_carry_lie_beside_the_session(page, studio, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "STEPS", 1)
    monkeypatch.setattr(recipe_files, "MAX_INLINE_BYTES", 10)
    monkeypatch.setattr(recipe_files, "MAX_CARRIED_BYTES", 10)
    answer = page.post("/api/picture", PICTURE | {"data": photo_png()})
    state = json.loads(answer.text.splitlines()[-1])["tree"]["current"]
    beside = Path(studio.save_path).parent / "castle.png"
    beside.write_bytes(export(page, state, "png", scale=1).data)
    assert recipe_files.read_recipe(beside) == studio.session.recipe(state)
    (tmp_path / "castle.png").write_bytes(beside.read_bytes())
    with pytest.raises(ValueError, match="which belongs to it, is not beside it"):
        recipe_files.read_recipe(tmp_path / "castle.png")


def test_an_exported_recipe_is_that_of_the_image(page, studio):
    state = keep(page, start(page), 2)
    assert parse_recipe(export(page, state, "recipe").data) == studio.session.recipe(state)


def test_a_sheet_shows_the_variants_that_the_page_shows(page):
    answer = export(page, start(page), "sheet", request=REQUEST, numbers=[1, 3])
    assert answer.mimetype == "image/png" and min(pixels(answer.data).shape[:2]) > 200


def test_a_film_goes_from_the_first_image_to_this_one(page):
    state = keep(page, keep(page, start(page), 2), 1, blocks=[[1, 1]])
    film = Image.open(io.BytesIO(export(page, state, "film").data))
    assert film.format == "WEBP" and film.n_frames == 3 + 2 * 6


def test_the_command_makes_the_image(page):
    first = start(page)
    assert export(page, first, "command").json["text"] == "python generate.py --network=net.pkl --seeds=3 --outdir=out"
    assert "--recipe=seed0003-edit1-s2-recipe.json" in export(page, keep(page, first, 1), "command").json["text"]


@pytest.mark.parametrize("kind, options", [("zip", {}), ("png", {"scale": 0}), ("png", {"scale": 99}), ("png", {}),
                                           ("sheet", {"request": REQUEST, "numbers": []}), ("recipe", {"x": 1})])
def test_an_export_that_is_none_is_one_line(page, kind, options):
    answer = export(page, start(page), kind, **options)
    assert answer.status_code == 400 and "\n" not in answer.json["error"]


def test_a_bug_is_reported_without_its_inside(page, studio, monkeypatch, capsys):
    monkeypatch.setattr(studio, "about", lambda: 1 / 0)
    answer = page.get("/api/session")
    assert answer.status_code == 500 and "ZeroDivision" not in answer.text
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_sessions_are_saved_in_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert launch.free_path("demo:castles64") == "edits/castles64-1.json"
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "castles64-1.json").write_text("")
    assert launch.free_path("demo:castles64") == "edits/castles64-2.json"
    assert launch.free_path("a b/../net work.pkl") == "edits/net-work-1.json"


def test_the_server_answers_over_a_socket(studio):
    import urllib.request

    from ssn_plugin.editor.server import EditorServer

    server = EditorServer(studio)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        url = server.url.partition("#")[0]
        request = urllib.request.Request(f"{url}api/session", headers={"X-SSN-Token": server.token})
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert json.load(answer)["about"]["network"] == "net.pkl"
            assert answer.headers["Server"] == "editor"
    finally:
        server.stop()
        thread.join(20)
        server.close()
