"""What the user takes away: the image, a sheet, the recipe, a film of the edits, the command that makes the image."""

from __future__ import annotations

import dataclasses
import io
import shlex
from typing import Any

import numpy as np
from PIL import Image

from ssn_plugin.editor.studio import Studio, encode_png
from ssn_plugin.edits.recipe_files import check_keys, png_text, recipe_text, typed
from ssn_plugin.edits.resample import Resampling
from ssn_plugin.edits.resample_report import draw_sheet, stem_of
from ssn_plugin.edits.session import State
from ssn_plugin.errors import UserError

MAX_SCALE = 16
FILM_SIDE = 384          # least width and height of a film, pixels
FADE_FRAMES = 6          # between two states
FRAME_MS, HOLD_MS, END_MS = 45, 700, 1600


@dataclasses.dataclass(frozen=True)
class Export:
    """A file for the user, or text to copy."""

    name: str | None   # None: text
    content: bytes
    content_type: str = "application/octet-stream"


def export(studio: Studio, state_id: str, kind: str, options: dict[str, Any]) -> Export:
    """Make what the page asks for. ValueError for a kind that is not there."""
    state = studio.session.state(state_id)
    if kind not in KINDS:
        raise UserError(f"export must be one of {', '.join(KINDS)}, got {kind[:40]!r}")
    return KINDS[kind](studio, state, options)


def export_png(studio: Studio, state: State, options: dict[str, Any]) -> Export:
    check_keys("the options", options, ("scale",))
    scale = typed("scale", options["scale"], int)
    if not 1 <= scale <= MAX_SCALE:
        raise UserError(f"scale must be in 1..{MAX_SCALE}, got {scale}")
    image: Image.Image = Image.open(io.BytesIO(studio.image(state.id)))
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    png = encode_png(_pixels(image), text=png_text(state.recipe))
    return Export(f"{stem(state)}{f'-x{scale}' if scale > 1 else ''}.png", png, "image/png")


def export_recipe(studio: Studio, state: State, options: dict[str, Any]) -> Export:
    check_keys("the options", options, ())
    return Export(f"{stem(state)}-recipe.json", recipe_text(state.recipe).encode(), "application/json")


def export_sheet(studio: Studio, state: State, options: dict[str, Any]) -> Export:
    """The contact sheet of variants of this state, as generate.py draws it."""
    check_keys("the options", options, ("request", "numbers"))
    numbers = [typed("a number", number, int) for number in typed("numbers", options["numbers"], list)]
    result: Resampling = studio.resampling(state.id, options["request"], numbers)
    buffer = io.BytesIO()
    draw_sheet(result).save(buffer, format="PNG")
    return Export(f"{stem(state)}-sheet.png", buffer.getvalue(), "image/png")


def export_film(studio: Studio, state: State, options: dict[str, Any]) -> Export:
    """From the first image to this one, edit by edit, as an animated WebP."""
    check_keys("the options", options, ())
    images = [np.asarray(Image.open(io.BytesIO(studio.image(step.id))).convert("RGB"), dtype=np.float32)
              for step in line_of(studio, state)]
    frames: list[np.ndarray] = [images[0]]
    durations = [HOLD_MS]
    shares = np.linspace(0, 1, FADE_FRAMES + 2, dtype=np.float32)[1:-1]
    for before, after in zip(images, images[1:]):
        fades = [before + (after - before) * share for share in shares]
        frames += [*fades, after]
        durations += [FRAME_MS] * FADE_FRAMES + [HOLD_MS]
    durations[-1] = END_MS
    height, width = images[0].shape[:2]
    scale = max(1, -(-FILM_SIDE // max(height, width)))
    pictures = [Image.fromarray(frame.round().astype(np.uint8)).resize((width * scale, height * scale),
                                                                      Image.Resampling.LANCZOS) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(buffer, format="WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0,
                     quality=85)
    return Export(f"{stem(state)}-film.webp", buffer.getvalue(), "image/webp")


def export_command(studio: Studio, state: State, options: dict[str, Any]) -> Export:
    """The command line that makes the image, given the recipe beside it where there are edits."""
    check_keys("the options", options, ())
    command = ["python", "generate.py", f"--network={studio.network}"]
    if state.recipe.edits or state.recipe.found is not None:
        command += [f"--recipe={stem(state)}-recipe.json", "--outdir=out"]
    else:
        label = state.recipe.label
        command += [f"--seeds={state.recipe.seed}", *([] if label is None else [f"--class={label}"]), "--outdir=out"]
    return Export(None, shlex.join(command).encode())


def line_of(studio: Studio, state: State) -> list[State]:
    """The states from the first image to this one."""
    line = [state]
    while line[0].parent is not None:
        line.insert(0, studio.session.state(line[0].parent))
    return line


def stem(state: State) -> str:
    """What the names of its files start with, as those of generate.py."""
    recipe = state.recipe
    return stem_of(recipe) + (f"-edit{len(recipe.edits)}-{state.id}" if recipe.edits else "")


def _pixels(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


KINDS = {
    "png": export_png, "sheet": export_sheet, "recipe": export_recipe, "film": export_film, "command": export_command,
}
