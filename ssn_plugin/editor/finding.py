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
import torch
from PIL import Image, ImageOps

from ssn_plugin.editor.threads import use_few_threads
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.paste import paste_change, paste_weight
from ssn_plugin.edits.recipe import Picture, Recipe
from ssn_plugin.edits.resample import render_recipe, to_uint8
from ssn_plugin.edits.session import Session
from ssn_plugin.errors import UserError
from training.data.decoding import open_image, read_picture
from training.images import distances, generation, projection, projection_files, tuning

STEPS = 300              # of the search
TUNE_STEPS = 300         # of the tuning after it
LIKENESS = ("style", "layers", "tuned")   # one style for all layers, one for each, or a network tuned to the picture
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


@dataclasses.dataclass(frozen=True)
class Wish:
    """What to look for, and how closely."""

    data: bytes                                     # content of the file
    name: str                                       # of the file, for people
    box: tuple[int, int, int, int] | None = None    # left, top, right, bottom; None: the middle
    likeness: str = "layers"                        # see LIKENESS; the further on, the closer
    label: int | None = None                        # class of a conditional network

    def __post_init__(self) -> None:
        if self.likeness not in LIKENESS:
            raise UserError(f"likeness must be one of {', '.join(LIKENESS)}, got {self.likeness[:40]!r}")

    @property
    def steps(self) -> int:
        return STEPS + (TUNE_STEPS if self.likeness == "tuned" else 0)


def find(session: Session, wish: Wish, on_step: Callable[[Progress], None] | None = None) -> Recipe:
    """The recipe of the image that comes closest to the picture. ValueError or OSError if it is none.

    Between two steps others get their turn with the network.
    """
    network = session.network
    G = network.G
    picture = _read(read_picture, wish.data, wish.name)
    _channels, height, width = generation.image_shape(G)
    box = wish.box or projection_files.choose_box(picture.size, (width, height), None, None)
    described = Picture(wish.name, picture.width, picture.height, box)   # checks the box
    device = next(G.parameters()).device
    target = projection_files.to_tensor(projection_files.fit_to_network(picture, G, box), device)
    steps, newest = iter(range(1, wish.steps + 1)), [target]

    def report(distance: float) -> None:
        network.lock.release()
        time.sleep(0)
        network.lock.acquire()
        if on_step is not None:
            on_step(Progress(next(steps), wish.steps, distance, to_uint8(newest[0][0].detach().float().cpu())))

    def look(img: torch.Tensor) -> None:
        newest[0] = img

    distance, label = distances.EdgeDistance(target), generation.class_to_label(wish.label, G.c_dim).to(device)
    per_layer = wish.likeness == "layers"
    options = projection.ProjectionOptions(STEPS, w_plus=per_layer, seed=SEED)
    with network.lock:
        found = projection.fit(G, target, distance, options, label, report, look)
        w, noise, deltas = found.ws[-1:].to(device), found.noise, None
        if wish.likeness == "tuned":
            deltas, noise = tuning.tune(
                G, target, distance, w, noise, label, tuning.TuningOptions(TUNE_STEPS, seed=SEED), report, look)
    return Recipe(
        network.name, network.sha256, SEED, wish.label, found=_arrays({"w": w if per_layer else w[:, :1], **noise}),
        tuned=network.tuned if deltas is None else _arrays(deltas), picture=described, network_path=network.path)


def _arrays(tensors: dict[str, torch.Tensor]) -> Arrays:
    return Arrays.of({name: value.cpu().numpy() for name, value in tensors.items()})


def find_in_background(session: Session, wish: Wish) -> Iterator[Progress | Recipe]:
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
            events.put(find(session, wish, on_step))
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
    recipe = session.recipe(state_id)
    if recipe.picture is None:
        raise UserError("this image was not found for a picture")
    G = session.network_of(recipe).G
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
