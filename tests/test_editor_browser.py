"""The editor's page in a real browser: the whole journey, from a click to an image that generate.py makes again."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from editor_fixtures import small_network
from network_file_helpers import snapshot

from ssn_plugin.editor import finding, launch
from ssn_plugin.edits.recipe_files import parse_recipe
from training.formats import network_export

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing but the page: a browser of its own accord asks for updates and more.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
SECONDS = 90   # until something that takes milliseconds is called missing


def missing(what: str) -> None:
    if os.environ.get("SSN_REQUIRE_BROWSER") == "1":
        pytest.fail(f"SSN_REQUIRE_BROWSER is set, and {what} is missing")
    pytest.skip(f"the tests of the page need {what}")


@pytest.fixture(scope="module")
def browser():
    if not (path := next(filter(None, map(shutil.which, BROWSERS)), None)):
        missing("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the package playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("networks") / "ssn.pkl")
    network_export.save_networks(snapshot(small_network().G), path)
    return path


@pytest.fixture(scope="module")
def editor(network, tmp_path_factory):
    saved = tmp_path_factory.mktemp("edits") / "session.json"
    with launch.open_editor(network, "127.0.0.1", 0, save_path=str(saved)) as editor:
        thread = threading.Thread(target=editor.server.serve, daemon=True)
        thread.start()
        yield editor
        editor.server.stop()
        thread.join(SECONDS)


class User:
    """Someone at the page, who also notes what must not happen."""

    def __init__(self, browser: Any, editor: launch.OpenEditor, **context: Any):
        self.url = editor.server.url
        self.faults: list[str] = []
        self.page = browser.new_page(**({"viewport": {"width": 1280, "height": 800}} | context))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(self.url)
        self.until("document.body.dataset.state !== 'loading'")

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def _note(self, request: Any) -> None:
        own = (self.url.partition("#")[0], "blob:")
        if not request.url.startswith(own):
            self.faults.append(f"request to {request.url}")

    def says(self, expression: str, *arguments: Any) -> Any:
        return self.page.evaluate(expression, *arguments)

    def until(self, expression: str) -> None:
        """Wait until it is true; the policy of the page forbids playwright's own way, which evaluates text in it."""
        end = time.monotonic() + SECONDS
        while not self.says(expression):
            assert time.monotonic() < end, f"not within {SECONDS} s: {expression}; {self.faults}"
            self.page.wait_for_timeout(15)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where an image position is on the screen."""
        return tuple(self.says("""([x, y]) => {
            const box = editor.stage.canvas.getBoundingClientRect(), at = editor.stage.view.toStage(x, y);
            return [box.left + at[0], box.top + at[1]];
        }""", [x, y]))

    def start(self, seed: int) -> None:
        self.page.keyboard.press("Escape")   # the gallery, where nothing was started yet
        self.says(f"editor.start({seed})")
        self.until(f"editor.tree.states.some(s => s.id === editor.tree.current && s.seed === {seed} && !s.parent)")
        self.until("Boolean(editor.stage.image)")

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def paint(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=3)
        self.page.mouse.up()

    def wait_for_variants(self, count: int = 8) -> None:
        self.until(f"editor.variants.items.length === {count} && editor.variants.waiting === 0")

    def keep(self, number: int) -> str:
        before = self.says("editor.tree.current")
        self.page.click(f"#variants [data-number='{number}']")
        self.until(f"editor.tree.current !== {json.dumps(before)}")
        return self.says("editor.tree.current")

    def current(self) -> dict[str, Any]:
        return self.says("editor.tree.states.find(s => s.id === editor.tree.current)")

    def press(self, keys: str, then: str) -> None:
        self.page.keyboard.press(keys)
        self.until(then)

    def save(self, kind: str) -> bytes:
        """Export something; the content of the file."""
        if not self.page.is_visible("#export"):
            self.page.keyboard.press("Control+s")
        with self.page.expect_download() as download:
            self.page.click(f"#export [data-kind='{kind}'] button")
        return Path(download.value.path()).read_bytes()


@pytest.fixture
def user(browser, editor):
    user = User(browser, editor)
    yield user
    user.page.close()
    assert user.faults == []


def test_the_journey(user, editor, network, tmp_path):
    import generate

    if not user.page.is_visible("#gallery"):
        user.page.keyboard.press("g")
    user.page.click("#seeds [data-seed='3']")
    user.until("editor.tree.current !== null && Boolean(editor.stage.image)")
    root = user.current()["id"]

    user.click(6, 2)   # block (0, 1) of the 2x4 grid of a 16x16 image
    user.wait_for_variants()
    assert user.page.inner_text("#variants-title") == "Block (0, 1)"
    first = user.keep(2)
    assert editor.server.editor.studio.session.recipe(first).edits[0].blocks == ((0, 1),)

    # A mask lies where it was painted, zoomed in and moved.
    user.page.keyboard.press("p")
    user.says("editor.stage.setBrush(2)")
    user.says("editor.stage.view.zoomAt(3, 200, 200)")
    user.paint((4, 4), (8, 4))
    user.wait_for_variants()
    second = user.keep(1)
    mask = np.asarray(Image.open(io.BytesIO(editor.server.editor.studio.session.recipe(second).edits[1].mask)))
    rows, cols = np.nonzero(mask > 127)
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (3, 4, 3, 8)
    user.page.keyboard.press("0")

    user.press("Control+z", f"editor.tree.current === '{first}'")
    user.press("Control+Shift+z", f"editor.tree.current === '{second}'")
    user.press("Control+z", f"editor.tree.current === '{first}'")
    user.page.keyboard.press("b")
    user.click(14, 14)
    user.wait_for_variants()
    branch = user.keep(8)
    parents = {state["id"]: state["parent"] for state in user.says("editor.tree.states")}
    assert parents == {root: None, first: root, second: first, branch: first}

    user.page.reload()
    user.until("Boolean(window.editor?.stage.image)")
    assert user.current()["id"] == branch
    assert user.page.locator("#tree [role=treeitem]").count() == 4

    image, recipe = user.save("png"), user.save("recipe")
    (tmp_path / "recipe.json").write_bytes(recipe)
    arguments = [f"--network={network}", f"--recipe={tmp_path / 'recipe.json'}", f"--outdir={tmp_path / 'out'}"]
    generate.main(arguments, standalone_mode=False)
    made = next((tmp_path / "out").glob("*.png"))
    assert np.array_equal(np.asarray(Image.open(made)), np.asarray(Image.open(io.BytesIO(image))))
    assert parse_recipe(made.read_bytes()) == parse_recipe(image) == parse_recipe(recipe)


def test_a_variant_is_shown_in_place_and_comparisons_change_what_is_drawn(user):
    def drawn() -> bytes:
        user.page.wait_for_timeout(60)
        return user.page.locator("#canvas").screenshot()

    user.start(5)
    user.click(6, 2)
    user.wait_for_variants()
    user.page.mouse.move(*user.at(1, 1))
    before = drawn()
    user.page.hover("#variants [data-number='4']")
    assert user.page.inner_text("#badge") == "Variant 4" and drawn() != before
    user.keep(4)
    user.page.mouse.move(5, 400)
    now = drawn()
    pictures = {"now": now}
    for key in ("s", "d"):
        user.page.keyboard.press(key)
        pictures[key] = drawn()
        user.page.keyboard.press(key)
    user.page.keyboard.down("c")
    pictures["held"] = drawn()
    user.page.keyboard.up("c")
    assert len(set(pictures.values())) == 4 and drawn() == now


def test_everything_can_be_done_with_the_keyboard(user):
    user.start(7)
    page = user.page
    page.focus("#canvas")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    user.wait_for_variants()
    assert page.inner_text("#variants-title") == "Block (1, 1)"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+Enter")
    user.until("editor.stage.selection.blocks.size === 2")
    user.wait_for_variants()
    page.keyboard.press("m")
    user.wait_for_variants(16)
    page.keyboard.press("3")
    user.until("editor.tree.states.find(s => s.id === editor.tree.current).parent !== null")
    page.keyboard.press("a")
    assert page.get_attribute("[data-layers=shape]", "aria-pressed") == "true"
    page.keyboard.press("?")
    assert page.is_visible("#help")
    page.click("#help .switch")   # single keys off: only keys with Ctrl work
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    assert not page.is_visible("#gallery")
    page.keyboard.press("Control+z")
    user.until("editor.tree.states.find(s => s.id === editor.tree.current).parent === null")


def test_layers_exact_keeping_and_transplants_reach_the_recipe(user, editor):
    user.start(9)
    page = user.page
    page.click("[data-layers=colour]")
    page.click("label:has(#keep-exact)")
    user.click(6, 2)
    user.wait_for_variants()
    studio = editor.server.editor.studio
    edit = studio.session.recipe(user.keep(1)).edits[-1]
    assert list(edit.layers) == studio.about()["layers"]["colour"] and edit.keep_exact
    page.keyboard.press("t")
    user.until("document.querySelector('#gallery').open")
    page.click("#seeds [data-seed='2']")
    user.wait_for_variants(1)
    assert studio.session.recipe(user.keep(1)).edits[-1].transplant_from == 2


def test_only_variants_that_leak_little_are_shown(user):
    user.start(11)
    user.click(6, 2)
    user.wait_for_variants()
    leaks = sorted(user.says("editor.variants.items.map(item => item.outside)"))
    page = user.page
    page.keyboard.press("q")
    page.keyboard.type(str(leaks[4]))
    page.keyboard.press("Enter")
    user.until("/^8 of [0-9]+ draws$/.test(document.querySelector('#leak-note').textContent)")
    user.wait_for_variants()
    drawn = user.says("editor.variants.drawn")
    assert max(user.says("editor.variants.items.map(item => item.outside)")) < leaks[4] and drawn > 8
    page.keyboard.press("Escape")   # back to the image
    page.keyboard.press("m")
    user.wait_for_variants(16)
    numbers = user.says("editor.variants.items.map(item => item.number)")
    assert numbers == sorted(set(numbers)) and numbers[8] > drawn
    page.keyboard.press("q")
    page.keyboard.press("Delete")
    page.keyboard.press("Enter")
    user.until("editor.variants.items.length === 8 && editor.variants.waiting === 0")
    assert page.inner_text("#leak-note") == ""


def test_an_edit_in_the_middle_is_taken_out_and_moved_with_the_keyboard(user, editor):
    session, page = editor.server.editor.studio.session, user.page
    user.start(12)
    for x, y in ((6, 2), (6, 10), (14, 10)):
        user.click(x, y)
        user.wait_for_variants()
        last = user.keep(1)
    a, b, c = session.recipe(last).edits
    assert page.locator("#edits li").all_inner_texts()[1].split("\n")[:2] == ["2", "Block (1, 1) variant 1"]
    page.keyboard.press("j")   # to the newest
    page.keyboard.press("Alt+ArrowUp")
    user.until("editor.tree.edits[1].place === 'Block (1, 3)'")
    assert session.current.recipe.edits == (a, c, b)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    user.until("editor.tree.edits.length === 2")
    assert session.current.recipe.edits == (a, c)
    page.click("#edits li:first-child [data-deed=down]")
    user.until("editor.tree.edits[0].place === 'Block (1, 3)'")
    assert session.current.recipe.edits == (c, a)
    page.keyboard.press("Control+z")   # each of these is a state of the tree
    user.until("editor.tree.edits.length === 2 && editor.tree.edits[1].place === 'Block (1, 1)'")


def test_a_class_of_a_conditional_network_is_chosen(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional")
    network_export.save_networks(snapshot(small_network(num_classes=3).G), str(folder / "net.pkl"))
    with launch.open_editor(str(folder / "net.pkl"), "127.0.0.1", 0, save_path=str(folder / "s.json")) as editor:
        thread = threading.Thread(target=editor.server.serve, daemon=True)
        thread.start()
        user = User(browser, editor)
        user.until("document.querySelector('#gallery').open")
        user.page.select_option("#gallery-class", "2")
        user.page.click("#seeds [data-seed='4']")
        user.until("editor.tree.current !== null && Boolean(editor.stage.image)")
        assert user.current()["class"] == 2 and user.current()["seed"] == 4
        user.click(6, 2)
        user.wait_for_variants()
        user.page.keyboard.press("t")
        assert not user.page.is_visible("#gallery-class")   # of the class of the image
        user.page.click("#seeds [data-seed='1']")
        user.wait_for_variants(1)
        assert editor.server.editor.studio.session.recipe(user.keep(1)).label == 2
        assert user.faults == []
        user.page.close()
        editor.server.stop()
        thread.join(SECONDS)


@pytest.mark.parametrize("likeness", finding.LIKENESS)
def test_a_photograph_is_found_redrawn_and_given_back(user, editor, tmp_path, monkeypatch, likeness):
    monkeypatch.setattr(finding, "STEPS", 12)
    monkeypatch.setattr(finding, "TUNE_STEPS", 3)
    monkeypatch.setattr(finding, "PREVIEW_SECONDS", 0.0)
    photo = np.random.default_rng(0).integers(0, 256, [60, 90, 3], dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    page, studio = user.page, editor.server.editor.studio
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    page.set_input_files("#picture-file", tmp_path / "photo.png")
    user.until("document.querySelector('#picture').dataset.step === 'frame'")
    for key in ("-", "-", "ArrowLeft"):
        page.keyboard.press(key)
    page.select_option("#likeness", likeness)
    page.click("#picture-find")
    user.until("!document.querySelector('#picture').open")
    recipe = studio.session.recipe(user.current()["id"])
    assert (recipe.tuned is not None) == (likeness == "tuned")
    left, top, right, bottom = recipe.picture.box
    assert (recipe.picture.name, recipe.picture.width, right - left, bottom - top) == ("photo.png", 90, 54, 54)
    assert recipe.found is not None and left < 45 - 27

    user.click(6, 2)
    user.wait_for_variants()
    user.keep(1)
    page.keyboard.press("Control+s")
    with page.expect_download() as download:
        page.click("#photo-row button")
    assert download.value.suggested_filename == "photo-edited.png"
    given = np.asarray(Image.open(download.value.path()))
    changed = (given != photo).any(axis=2)
    rows, cols = np.nonzero(changed)
    assert changed.any() and cols.max() < left + 54 * 0.65 and rows.max() < top + 54 * 0.65   # block (0, 1) of 2x4


def test_a_search_is_cancelled(user, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(finding, "STEPS", 10**6)
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.jpg")
    user.page.keyboard.press("Escape")
    user.page.keyboard.press("o")
    user.page.set_input_files("#picture-file", tmp_path / "red.jpg")
    user.until("document.querySelector('#picture').dataset.step === 'frame'")
    user.page.click("#picture-find")
    user.until("document.querySelector('#search-words').textContent.startsWith('Step')")
    user.page.click("#picture-cancel")
    user.until("document.querySelector('#picture').dataset.step === 'frame'")
    end = time.monotonic() + SECONDS
    while any(thread.name == "search" for thread in threading.enumerate()):
        assert time.monotonic() < end, "the search goes on for nobody"
        time.sleep(0.02)


def test_a_server_that_is_gone_is_said_once(browser, network, tmp_path):
    with launch.open_editor(network, "127.0.0.1", 0, save_path=str(tmp_path / "s.json")) as editor:
        thread = threading.Thread(target=editor.server.serve, daemon=True)
        thread.start()
        user = User(browser, editor)
        user.start(1)
        editor.server.stop()
        thread.join(SECONDS)
    user.click(6, 2)
    user.until("!document.querySelector('#gone').hidden")
    assert "s.json" in user.page.inner_text("#gone")
    user.page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_no_serious_fault_for_people_who_cannot_see_or_point_well(browser, editor, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the package axe-playwright-python")
    user = User(browser, editor, viewport={"width": width, "height": 800}, color_scheme=scheme)
    user.start(3)
    user.click(6, 2)
    user.wait_for_variants()
    user.keep(1)
    faults = serious(axe.Axe().run(user.page))
    for keys in ("g", "Control+s", "?", "o"):
        user.page.keyboard.press(keys)
        faults += serious(axe.Axe().run(user.page, context="dialog[open]"))
        user.page.keyboard.press("Escape")
    assert faults == []
    assert user.says("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    user.page.close()
    assert user.faults == []


def serious(results: Any) -> list[str]:
    found = [fault for fault in results.response["violations"] if fault["impact"] in ("serious", "critical")]
    return [f"{fault['id']}: {node['html'][:150]}" for fault in found for node in fault["nodes"]]
