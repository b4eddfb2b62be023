"""The pictures of docs/editing.md: screenshots of the editor's page and a short film, from a real browser.

    python benchmarks/editor_film.py --outdir=docs/images

Needs chromium and the package playwright. The pointer is drawn in, since screenshots have none.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.editor import launch
from training.cli import Command

WIDTH, HEIGHT = 1280, 800
FILM_WIDTH = 880
SECONDS = 120      # until something is called missing
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
POINTER = [(0, 0), (0, 19), (5, 15), (8, 22), (11, 21), (8, 14), (14, 14)]


class Camera:
    """A page, a pointer, and the frames that were taken of them."""

    def __init__(self, page: Any):
        self.page = page
        self.pointer = (640.0, 400.0)
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []

    def until(self, expression: str) -> None:
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(expression):
            if time.monotonic() > end:
                raise click.ClickException(f"the page did not get to: {expression}")
            self.page.wait_for_timeout(20)

    def move(self, x: float, y: float) -> None:
        self.page.mouse.move(x, y, steps=4)
        self.pointer = (x, y)

    def over(self, selector: str) -> None:
        box = self.page.locator(selector).bounding_box()
        self.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def on_image(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is on the screen."""
        left, top = self.page.evaluate("""([x, y]) => {
            const box = editor.stage.canvas.getBoundingClientRect(), at = editor.stage.view.toStage(x, y);
            return [box.left + at[0], box.top + at[1]];
        }""", [x, y])
        return left, top

    def shoot(self, milliseconds: int) -> Image.Image:
        self.page.wait_for_timeout(120)
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        frame = picture.copy()
        draw = ImageDraw.Draw(frame)
        draw.polygon([(self.pointer[0] + dx, self.pointer[1] + dy) for dx, dy in POINTER], "white", "black", 1)
        height = round(FILM_WIDTH * HEIGHT / WIDTH)
        self.frames.append(frame.resize((FILM_WIDTH, height), Image.Resampling.LANCZOS))
        self.durations.append(milliseconds)
        return picture

    def wait_for_variants(self) -> None:
        self.until("editor.variants.items.length === 8 && editor.variants.waiting === 0")

    def keep(self, number: int) -> None:
        before = self.page.evaluate("editor.tree.current")
        self.over(f"#variants [data-number='{number}']")
        self.shoot(900)
        self.page.mouse.click(*self.pointer)
        self.until(f"editor.tree.current !== '{before}'")

    def save_film(self, path: Path) -> None:
        self.frames[0].save(path, save_all=True, append_images=self.frames[1:], duration=self.durations, loop=0,
                            quality=72, method=6)


def act(camera: Camera, seed: int) -> dict[str, Image.Image]:
    """A tower is clicked and chosen, the ground is painted, the two are compared. Returns screenshots by name."""
    page = camera.page
    shots = {}
    camera.until("document.body.dataset.state !== 'loading'")
    page.keyboard.press("Escape")
    page.evaluate(f"editor.start({seed})")
    camera.until("Boolean(editor.stage.image)")
    camera.move(*camera.on_image(40, 24))
    camera.shoot(1200)
    page.mouse.click(*camera.pointer)
    camera.wait_for_variants()
    shots["block"] = camera.shoot(1000)
    for number in (2, 6):
        camera.over(f"#variants [data-number='{number}']")
        camera.shoot(700)
    camera.keep(7)
    camera.move(*camera.on_image(60, 60))
    camera.shoot(900)

    page.keyboard.press("p")
    camera.move(*camera.on_image(8, 12))
    page.mouse.down()
    for x, y in ((16, 9), (26, 10), (34, 8)):
        camera.move(*camera.on_image(x, y))
        camera.shoot(160)
    page.mouse.up()
    camera.wait_for_variants()
    shots["mask"] = camera.shoot(900)
    camera.keep(2)
    page.keyboard.press("b")
    page.keyboard.press("f")
    page.keyboard.press("s")
    camera.move(*camera.on_image(56, 58))
    shots["slider"] = camera.shoot(1300)
    page.keyboard.press("d")
    shots["difference"] = camera.shoot(1500)
    page.keyboard.press("d")
    page.keyboard.press("Control+z")
    camera.until("!document.querySelector('#redo').disabled")
    camera.move(*camera.on_image(56, 40))
    page.mouse.click(*camera.pointer)
    camera.wait_for_variants()
    camera.keep(5)
    camera.move(*camera.on_image(62, 62))
    shots["branches"] = camera.shoot(1800)
    return shots


@click.command(cls=Command)
@click.option("--network", default="demo:castles64", show_default=True)
@click.option("--seed", default=4, show_default=True)
@click.option("--outdir", required=True, metavar="DIR", help="Where to write editor.webp and editor-*.webp")
def main(network: str, seed: int, outdir: str) -> None:
    """Take screenshots and a film of the editor."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("chromium is not installed")
    with (tempfile.TemporaryDirectory() as folder,
          launch.open_editor(network, "127.0.0.1", 0, save_path=f"{folder}/session.json") as editor,
          sync_playwright() as playwright):
        threading.Thread(target=editor.server.serve, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(editor.server.url)
        camera = Camera(page)
        shots = act(camera, seed)
        browser.close()
        editor.server.stop()
    target = Path(outdir)
    target.mkdir(parents=True, exist_ok=True)
    camera.save_film(target / "editor.webp")
    for name, shot in shots.items():
        shot.save(target / f"editor-{name}.webp", quality=80, method=6)
    click.echo(f"{target}/editor.webp  {(target / 'editor.webp').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
