"""What the editor's page can ask for: an editing session in JSON's types, with images as PNG.

One thread works with the network, whichever requests come in at once, and the session is saved after every change:
a server that is killed loses at most what it was doing. Nothing that grows with the number of requests is kept: states
are recipes, images a cache of bounded size.
"""

from __future__ import annotations

import base64
import collections
import dataclasses
import importlib.util
import io
import math
import os
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from PIL import Image, PngImagePlugin

from ssn_plugin.editor.threads import use_few_threads
from ssn_plugin.edits.edit_options import EditRequest, Mask, load_mask, parse_layers
from ssn_plugin.edits.recipe import Edit, Recipe
from ssn_plugin.edits.recipe_files import check_keys, typed
from ssn_plugin.edits.resample import Resampling, Variant, resample, to_uint8
from ssn_plugin.edits.session import MAX_DRAWS, Session, State, stays_below
from ssn_plugin.errors import UserError

MAX_VARIANTS = 64                  # of one request; more come with another
MAX_MASK_SIDE = 4096               # pixels
CACHE_BYTES = 32 * 2**20           # of images as PNG
REQUEST_KEYS = ("layers", "noise", "keep_exact", "feather", "transplant_from")

T = TypeVar("T")


class Studio:
    """One session and the thread that makes its images."""

    def __init__(self, session: Session, save_path: str | None = None, network: str | None = None,
                 class_names: Sequence[str] = ()):
        """network: how the command line names it; save_path: where to save after each change, None for nowhere.

        class_names: what the classes of a conditional network are called, where that is known.
        """
        self.session = session
        self.class_names = list(class_names) or [str(number) for number in range(session.network.G.c_dim)]
        self.network = network or session.network.name
        self.save_path = save_path
        self._pngs = PngCache(CACHE_BYTES)
        self._save_lock = threading.Lock()
        # All of torch on one thread: each further thread that computes would get threads of its own from OpenMP.
        self._worker = ThreadPoolExecutor(1, "network", initializer=use_few_threads, initargs=(session,))

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    def about(self) -> dict[str, Any]:
        """What the page must know of the network."""
        about = self.session.describe()
        num_layers = about["num_layers"]
        shape_end = parse_layers("coarse", num_layers)[1]
        return about | {
            "layers": {"all": [0, num_layers - 1], "shape": [0, shape_end], "colour": [shape_end + 1, num_layers - 1]},
            "class_names": self.class_names,
            "exports": ["png", "sheet", "recipe", "film", "command"],
            "can_find": importlib.util.find_spec("training.images.distances") is not None,
            "can_paint": True,
            "can_restore": True,
            "file": self.save_path,
            "resume": f"python edit.py --network={self.network} --load={self.save_path}",
        }

    def tree(self) -> dict[str, Any]:
        """All states, and where the user is."""
        states, current = self.session.states, self.session.current
        return {
            "states": [describe_state(state) for state in states.values()],
            "current": None if current is None else current.id,
            "edits": [] if current is None else [self._describe_edit(edit) for edit in current.recipe.edits],
            "favourites": list(self.session.favourites),
        }

    # Changes of the session. Each returns the tree.

    def start(self, seed: int, class_: int | None = None) -> dict[str, Any]:
        return self._change(lambda: self.session.start(seed, class_=class_))

    def keep(self, state_id: str, request: dict[str, Any], number: int) -> dict[str, Any]:
        edit = self._read_request(request)
        return self._change(lambda: self.session.keep(state_id, edit, number))

    def restore(self, state_id: str, mask: str) -> dict[str, Any]:
        painted = _read_mask(mask)
        return self._change(lambda: self.session.restore(state_id, painted))

    def drop(self, state_id: str, number: int) -> dict[str, Any]:
        return self._change(lambda: self.session.drop(state_id, number))

    def move(self, state_id: str, number: int, to: int) -> dict[str, Any]:
        return self._change(lambda: self.session.move(state_id, number, to))

    def undo(self) -> dict[str, Any]:
        return self._change(self.session.undo)

    def redo(self) -> dict[str, Any]:
        return self._change(self.session.redo)

    def go(self, state_id: str) -> dict[str, Any]:
        return self._change(lambda: self.session.go_to(state_id))

    def set_favourites(self, seeds: Sequence[int]) -> dict[str, Any]:
        chosen = [typed("a seed", seed, int) for seed in seeds]
        return self._change(lambda: self.session.set_favourites(chosen))

    def _change(self, change: Callable[[], Any]) -> dict[str, Any]:
        self._run(change)
        if self.save_path is not None:
            with self._save_lock:   # the later of two changes is also written later
                os.makedirs(os.path.dirname(self.save_path) or ".", exist_ok=True)
                self.session.save(self.save_path)
        return self.tree()

    # Images.

    def image(self, state_id: str) -> bytes:
        """PNG of a state."""
        return self._png(self.session.recipe(state_id))

    def seed_image(self, seed: int, class_: int | None = None) -> bytes:
        """PNG of the image of a seed, which need not be part of the session."""
        return self._png(self._of_seed(seed, class_))

    def _of_seed(self, seed: int, class_: int | None) -> Recipe:
        """ValueError where the network has no such class."""
        network = self.session.network
        recipe = Recipe(network.name, network.sha256, seed, class_, tuned=network.tuned)
        network.check(recipe)
        return recipe

    def variants(self, state_id: str, request: dict[str, Any], first: int, count: int
                 ) -> Generator[dict[str, Any], None, None]:
        """Variants first, first + 1, ... one by one; between two of them others get their turn."""
        if not 1 <= count <= MAX_VARIANTS:
            raise UserError(f"count must be in 1..{MAX_VARIANTS}, got {count}")
        edit = self._read_request(request)
        draws = self.session.variants(state_id, edit, count, first)
        while True:
            answer = self._run(lambda: next((describe_variant(variant) for variant in draws), None))
            if answer is None:
                return
            yield answer

    def best(self, state_id: str, request: dict[str, Any], first: int, count: int, max_outside: float
             ) -> Generator[dict[str, Any], None, None]:
        """As `variants`, of those from the first on that change the outside by less than `max_outside`.

        After each draw comes a line that says how many were drawn; the search ends after MAX_DRAWS.
        """
        if not 1 <= count <= MAX_VARIANTS:
            raise UserError(f"count must be in 1..{MAX_VARIANTS}, got {count}")
        if not 0 <= max_outside < math.inf:
            raise UserError(f"the largest leak must be a number from 0 on, got {max_outside}")
        draws = self.session.variants(state_id, self._read_request(request), MAX_DRAWS, first)

        def draw() -> tuple[Variant, dict[str, Any] | None] | None:
            variant = next(draws, None)
            if variant is None:
                return None
            return variant, describe_variant(variant) if stays_below(variant, max_outside) else None

        found, drawn = 0, 0
        while found < count and (made := self._run(draw)) is not None:
            drawn += 1
            if made[1] is not None:
                found += 1
                yield made[1]
            yield {"drawn": drawn}

    def resampling(self, state_id: str, request: dict[str, Any], numbers: Sequence[int]) -> Resampling:
        """A state and some of its variants, as a contact sheet shows them."""
        if not 1 <= len(numbers) <= MAX_VARIANTS:
            raise UserError(f"a sheet shows 1..{MAX_VARIANTS} variants, got {len(numbers)}")
        edit = dataclasses.replace(self._read_request(request), num_variants=1)

        def make() -> Resampling:
            recipe = self.session.recipe(state_id)
            G, name = self.session.network_of(recipe).G, self.session.network.name
            edits = [dataclasses.replace(edit, skip=number - 1).add_to([recipe], G, name)[0].variants[0]
                     for number in numbers]
            return resample(G, dataclasses.replace(recipe, variants=tuple(edits)))

        return self._run(make)

    def find(self, data: bytes, name: str, box: tuple[int, int, int, int], likeness: str = "layers",
             class_: int | None = None) -> Generator[dict[str, Any], None, None]:
        """Search for a picture in the network; the last answer has the tree with the image that was found."""
        from ssn_plugin.editor import finding  # needs the projection of this host

        wish = finding.Wish(data, name, box, likeness, class_)
        self._of_seed(finding.SEED, class_)   # has the network this class?
        for event in finding.find_in_background(self.session, wish):
            if isinstance(event, Recipe):
                yield {"tree": self.start_from(event)}
            else:
                image = base64.b64encode(encode_png(event.image, fast=True)).decode()
                yield {"step": event.step, "steps": event.steps, "distance": event.distance, "image": image}

    def start_from(self, recipe: Recipe) -> dict[str, Any]:
        return self._change(lambda: self.session.start(recipe=recipe))

    def photograph(self, state_id: str, data: bytes, name: str) -> bytes:
        """PNG of the owner's photograph with the edits of a state in it."""
        from ssn_plugin.editor import finding

        return finding.png_of(self._run(lambda: finding.give_back(self.session, state_id, data, name)))

    def _png(self, recipe: Recipe) -> bytes:
        png = self._pngs.get(recipe)
        if png is None:
            png = encode_png(self._run(lambda: self.session.render_recipe(recipe)))
            self._pngs.put(recipe, png)
        return png

    def _run(self, work: Callable[[], T]) -> T:
        return self._worker.submit(work).result()

    def _describe_edit(self, edit: Edit) -> dict[str, str]:
        """An edit in words: where, and what came there."""
        G = self.session.network.G
        rows, cols = edit.grid or G.block_grid[-1]
        if edit.mask is not None:
            place = "Painted place"
        elif len(edit.blocks) == rows * cols:
            place = "Whole image"
        else:
            place = "Block ({}, {})".format(*edit.blocks[0]) if len(edit.blocks) == 1 else f"{len(edit.blocks)} blocks"
        layers = [name for name, span in self.about()["layers"].items() if list(edit.layers) == span]
        part = "" if layers == ["all"] else f", {layers[0]}" if layers else ", layers {}-{}".format(*edit.layers)
        if edit.from_start:
            return {"place": place, "source": "brought back"}
        source = f"variant {edit.variant}" if edit.transplant_from is None else f"from seed {edit.transplant_from}"
        return {"place": place, "source": source + part}

    def _read_request(self, request: dict[str, Any]) -> EditRequest:
        """An edit as the page sends it. ValueError for anything else."""
        place = "mask" if "mask" in typed("request", request, dict) else "blocks"
        check_keys("the request", request, ((place,) if place == "mask" else ("blocks", "grid")) + REQUEST_KEYS)
        first, last = (typed("a layer", layer, int) for layer in _of_length("layers", request["layers"], 2))
        source = request["transplant_from"]
        return EditRequest(
            blocks=None if place == "mask" else _blocks_text(request["blocks"], request["grid"]),
            mask=_read_mask(request["mask"]) if place == "mask" else None,
            layers=f"{first}-{last}",
            noise=typed("noise", request["noise"], bool),
            keep_exact=typed("keep_exact", request["keep_exact"], bool),
            feather=typed("feather", request["feather"], int),
            transplant_from=None if source is None else typed("transplant_from", source, int),
        )


class PngCache:
    """The images asked for last, within a number of bytes. Any thread may use it."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: collections.OrderedDict[Any, bytes] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> bytes | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Any, png: bytes) -> None:
        with self._lock:
            self.num_bytes += len(png) - len(self._entries.pop(key, b""))
            self._entries[key] = png
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= len(self._entries.popitem(last=False)[1])


def describe_state(state: State) -> dict[str, Any]:
    """A state for the tree of the page."""
    number = len(state.recipe.edits)
    title = state.label if not number else f"Edit {number}: {state.label}"
    picture = state.recipe.picture
    return {
        "id": state.id, "parent": state.parent, "title": title, "short": state.label, "seed": state.recipe.seed,
        "class": state.recipe.label, "picture": None if picture is None else picture.name,
    }


def describe_variant(variant: Variant) -> dict[str, Any]:
    """A variant with its image. A change that has no place (nothing lies outside) is None: JSON has no NaN."""
    inside, outside = (None if math.isnan(value) else value for value in (variant.inside, variant.outside))
    png = encode_png(to_uint8(variant.img), fast=True)
    return {
        "number": variant.edit.number, "inside": inside, "outside": outside,
        "image": base64.b64encode(png).decode(),
    }


def encode_png(image: np.ndarray, fast: bool = False, text: dict[str, str] | None = None) -> bytes:
    """uint8 [H, W, C] as PNG, to the byte what `save_png` writes; `fast` trades size for time."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_text(keyword, value)
    picture.save(buffer, format="PNG", pnginfo=chunks, **({"compress_level": 1} if fast else {}))
    return buffer.getvalue()


def from_base64(name: str, text: Any) -> bytes:
    try:
        return base64.b64decode(typed(name, text, str), validate=True)
    except ValueError as err:
        raise UserError(f"{name} is not base64 ({err})") from err


def _read_mask(text: Any) -> Mask:
    """A PNG in base64, white where painted."""
    png = from_base64("mask", text)
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:   # reads no pixels yet
            width, height = image.size
    except (ValueError, OSError, SyntaxError) as err:
        raise UserError("the mask is not a PNG") from err
    if max(width, height) > MAX_MASK_SIDE:
        raise UserError(f"a mask has sides of at most {MAX_MASK_SIDE} pixels, got {width}x{height}")
    return load_mask(io.BytesIO(png), "of the page")


def _blocks_text(blocks: Any, grid: Any) -> str:
    """Blocks in the words of the command line: `4x4:1,2+1,3`."""
    rows, cols = (typed("a side of the grid", side, int) for side in _of_length("grid", grid, 2))
    if not typed("blocks", blocks, list):
        raise UserError("nothing is selected")
    pairs = [[typed("a coordinate", value, int) for value in _of_length("a block", block, 2)] for block in blocks]
    return f"{rows}x{cols}:" + "+".join(f"{row},{col}" for row, col in pairs)


def _of_length(name: str, value: Any, length: int) -> list[Any]:
    if len(typed(name, value, list)) != length:
        raise UserError(f"{name} must have {length} entries, got {len(value)}")
    return value
