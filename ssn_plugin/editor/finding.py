"""The owner's picture: found in the network as a start for edits, and given back with the edits in it.

The picture comes with each request and is not kept: what a recipe needs of it are the styles that were found, its size
and the part that was looked at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps

from ssn_plugin.editor.threads import use_few_threads
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.paste import paste_change, paste_weight
from ssn_plugin.edits.recipe import Picture, Recipe
from ssn_plugin.edits.resample import render_recipe, to_uint8
from ssn_plugin.edits.session import Session
from ssn_plugin.errors import UserError
from training.data.decoding import open_image, read_picture
from training.images import distances, generation, projection, projection_files

STEPS = 300
SEED = 303               # of the search, and of the draws of later edits
PREVIEW_SECONDS = 1.0
MAX_PICTURE_SIDE = 12_000   # pixels; what is larger would take gigabytes


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where the search is."""

    step: int
    steps: int
    distance: float
    image: np.ndarray   # uint8 [H, W, C]


class Stopped(Exception):
    """Nobody waits for the result any more."""


def find(
    session: Session,
    data: bytes,                            # content of the file
    name: str,                              # of the file, for people
    box: tuple[int, int, int, int] | None = None,   # left, top, right, bottom; None: the middle
    per_layer: bool = True,                 # a style per layer: closer to the picture, harder to edit
    on_step: Callable[[Progress], None] | None = None,
) -> Recipe:
    """The recipe of the image that comes closest to the picture. ValueError or OSError if it is none.

    Between two steps others get their turn with the network.
    """
    network = session.network
    G = network.G
    picture = _read(read_picture, data, name)
    _channels, height, width = generation.image_shape(G)
    box = box or projection_files.choose_box(picture.size, (width, height), None, None)
    described = Picture(name, picture.width, picture.height, box)   # checks the box
    device = next(G.parameters()).device
    target = projection_files.to_tensor(projection_files.fit_to_network(picture, G, box), device)
    label = 0 if G.c_dim else None
    steps, newest = iter(range(1, STEPS + 1)), [target]

    def report(distance: float) -> None:
        network.lock.release()
        time.sleep(0)
        network.lock.acquire()
        if on_step is not None:
            on_step(Progress(next(steps), STEPS, distance, to_uint8(newest[0][0].detach().float().cpu())))

    options = projection.ProjectionOptions(STEPS, w_plus=per_layer, seed=SEED)
    with network.lock:
        found = projection.fit(
            G, target, distances.EdgeDistance(target), options, generation.class_to_label(label, G.c_dim).to(device),
            on_step=report, on_image=lambda img: newest.__setitem__(0, img))
    w = found.ws[-1:] if per_layer else found.ws[-1:, :1]
    return Recipe(network.name, network.sha256, SEED, label, found=Arrays.of({"w": w.cpu().numpy()}),
                  tuned=network.tuned, picture=described, network_path=network.path)


def find_in_background(session: Session, data: bytes, name: str, box: tuple[int, int, int, int] | None,
                       per_layer: bool) -> Iterator[Progress | Recipe]:
    """As `find`: yields where it is, about once a second, and at last the recipe. Closing the iterator stops it."""
    events: queue.Queue[Progress | Recipe | Exception] = queue.Queue()
    stop, last = threading.Event(), [float("-inf")]

    def on_step(progress: Progress) -> None:
        if stop.is_set():
            raise Stopped
        if time.monotonic() - last[0] >= PREVIEW_SECONDS:
            last[0] = time.monotonic()
            events.put(progress)

    def work() -> None:
        try:
            use_few_threads(session)
            events.put(find(session, data, name, box, per_layer, on_step))
        except Exception as err:   # for whoever waits
            events.put(err)

    thread = threading.Thread(target=work, name="search", daemon=True)
    thread.start()
    try:
        while True:
            event = events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Recipe):
                return
    finally:
        stop.set()
        with contextlib.suppress(Stopped):
            thread.join()


def give_back(session: Session, state_id: str, data: bytes, name: str) -> Image.Image:
    """The photograph at its own size with the edits of a state in it. See `paste_change`."""
    recipe, G = session.recipe(state_id), session.network.G
    if recipe.picture is None:
        raise UserError("this image was not found for a picture")
    weight = paste_weight(G, recipe)
    photo = _read(open_photograph, data, name)
    with session.network.lock:
        before, after = (render_recipe(G, one).img for one in (dataclasses.replace(recipe, edits=()), recipe))
    return paste_change(photo, recipe.picture, before, after, weight)


def open_photograph(data: bytes, name: str) -> Image.Image:
    """The picture as it is stored, upright, to be given back bit by bit."""
    image = open_image(data, name)
    if image.info.get("sixteen_bits") or image.mode.startswith(("I", "F")):
        raise UserError(f"{name} must have 8 bits per channel")
    return ImageOps.exif_transpose(image)


def _read(reader: Callable[[bytes, str], Image.Image], data: bytes, name: str) -> Image.Image:
    """The picture in the content of a file. ValueError if it is none, or too large."""
    try:
        picture = reader(data, name)
    except OSError as err:   # what is wrong is the file that was sent, not one of ours
        raise UserError(str(err)) from err
    if max(picture.size) > MAX_PICTURE_SIDE:
        raise UserError(f"{name} is {picture.width}x{picture.height} pixels, at most {MAX_PICTURE_SIDE} are taken")
    return picture


def png_of(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", icc_profile=picture.info.get("icc_profile"), compress_level=3)
    return buffer.getvalue()
