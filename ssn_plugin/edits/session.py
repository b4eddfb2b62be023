"""The editing session: a network, and a tree of images that came from one another by edits.

Plain Python without a web page in it; the editor's page, notebooks and scripts are faces of it. A script says

    session = ssn_plugin.open("demo:castles64")
    image = session.image(seed=4)
    image.redraw("1,2").pick(3).save("castle.png")

A state is a recipe and its place in the tree. Images are not part of it: they are kept in a cache of bounded size and
made again when they are gone, bit by bit the same. Every method may be called from any thread; one lock per network
lets one image be made at a time.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ssn_plugin.block_grid import block_grid_of, image_size
from ssn_plugin.edits.edit_options import EditRequest, Mask, load_mask
from ssn_plugin.edits.recipe import (
    MAX_FILE_BYTES,
    Edit,
    Recipe,
    check_keys,
    hash_network,
    parse_json,
    recipe_from_json,
    recipe_to_json,
    typed,
)
from ssn_plugin.edits.resample import (
    Latents,
    Variant,
    apply_edit,
    change,
    check_recipe,
    make_latents,
    region_weight,
    render,
    to_uint8,
)
from ssn_plugin.files import open_atomic, save_png

FORMAT = "ssn-session 1"
MAX_STATES = 10_000
MAX_LABEL = 200            # characters
CACHE_BYTES = 256 * 2**20
MAX_DRAWS = 256            # of a search for variants that leave the outside alone


@dataclasses.dataclass(frozen=True)
class OpenNetwork:
    """A generator in memory, with what would be slow to find out again. Sessions may share one."""

    G: torch.nn.Module
    name: str        # file name or short name, for people
    sha256: str      # see `hash_network`
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock, compare=False)

    @classmethod
    def load(cls, network: str, device: str | None = None, trust: bool = False) -> OpenNetwork:
        """Read a network file, URL or short name as `generate.py` does. ValueError or OSError if that fails.

        trust: execute source code that the file carries.
        """
        from training.images.generation import load_generator, pick_device  # only needed where a file is named

        return cls.of(load_generator(network, pick_device(device), trust), os.path.basename(network))

    @classmethod
    def of(cls, G: torch.nn.Module, name: str) -> OpenNetwork:
        """A generator that is in memory already. ValueError unless it has a block grid."""
        block_grid_of(G, name)
        return cls(G, name, hash_network(G))


@dataclasses.dataclass(frozen=True)
class State:
    """A node of the tree of edits."""

    id: str                  # s1, s2, ... in the order of their making
    parent: str | None       # None: an image that was started, not edited
    recipe: Recipe           # without variants
    label: str               # what was done to get here, for people
    favourite: bool = False


@dataclasses.dataclass
class _Made:
    """What it took time to make of a recipe."""

    latents: Latents
    img: torch.Tensor | None = None  # [C, H, W], on the CPU

    @property
    def num_bytes(self) -> int:
        tensors = [self.latents.ws, *(self.latents.noise or ()), *(self.latents.blend or ())]
        return sum(t.numel() * t.element_size() for t in [*tensors, *([] if self.img is None else [self.img])])


class _Cache:
    """What was made last, within a number of bytes; the newest entry is kept whatever its size."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.entries: collections.OrderedDict[Recipe, _Made] = collections.OrderedDict()

    def get(self, recipe: Recipe) -> _Made | None:
        if recipe in self.entries:
            self.entries.move_to_end(recipe)
        return self.entries.get(recipe)

    def put(self, recipe: Recipe, made: _Made) -> None:
        self.entries[recipe] = made
        self.entries.move_to_end(recipe)
        total = sum(entry.num_bytes for entry in self.entries.values())
        while total > self.max_bytes and len(self.entries) > 1:
            total -= self.entries.popitem(last=False)[1].num_bytes


class Session:
    """Images of one network, edited step by step, with a way back to every step."""

    def __init__(self, network: OpenNetwork, cache_bytes: int = CACHE_BYTES):
        self.network = network
        self._lock = network.lock
        self._cache = _Cache(cache_bytes)
        self._states: dict[str, State] = {}
        self._current: str | None = None
        self._last_child: dict[str, str] = {}  # where redo goes from a state

    @classmethod
    def open(cls, network: str, device: str | None = None, trust: bool = False) -> Session:
        """A new session with a network file, URL or short name. See `OpenNetwork.load`."""
        return cls(OpenNetwork.load(network, device, trust))

    def describe(self) -> dict[str, Any]:
        """What a user may want to know of the network, in JSON's types."""
        G = self.network.G
        height, width = image_size(G)
        return {
            "network": self.network.name,
            "sha256": self.network.sha256,
            "height": height,
            "width": width,
            "channels": G.img_channels,
            "grids": [list(grid) for grid in G.block_grid],  # the last is the finest
            "num_layers": G.num_ws,
            "num_classes": G.c_dim,                          # 0: no classes
        }

    # The tree.

    @property
    def current(self) -> State | None:
        """The state that the user looks at; None before the first image."""
        return None if self._current is None else self._states[self._current]

    @property
    def states(self) -> dict[str, State]:
        """All states by id, oldest first."""
        with self._lock:
            return dict(self._states)

    def state(self, state_id: str) -> State:
        """ValueError for an id that is not there."""
        with self._lock:
            if state_id not in self._states:
                raise ValueError(f"the session has no state {str(state_id)[:40]!r}")
            return self._states[state_id]

    def recipe(self, state_id: str) -> Recipe:
        return self.state(state_id).recipe

    def start(
        self, seed: int | None = None, truncation: float = 1.0, class_: int | None = None, noise_mode: str = "const",
        recipe: Recipe | None = None,
    ) -> State:
        """Start an image, from a seed or from a recipe, and go to it. One that is there already is not added twice."""
        network = self.network
        if (seed is None) == (recipe is None):
            raise ValueError("an image starts from either a seed or a recipe")
        with self._lock:
            if recipe is None:
                new = Recipe(network.name, network.sha256, seed, class_, float(truncation), noise_mode)
            else:
                new = recipe.pick(0)
            check_recipe(new, network.G, network.name, network.sha256)
            return self._go(self._add(None, new, f"seed {new.seed}"))

    def keep(self, state_id: str, request: EditRequest, number: int) -> State:
        """Make the variant of this number the next state, and go to it. Kept before, it is the same state again."""
        with self._lock:
            edit = self._edit(request, number)
            recipe = self._edited(self.recipe(state_id), edit)
            return self._go(self._add(state_id, recipe, describe_edit(edit)))

    def undo(self) -> State | None:
        """Go to the state before; the start of an image has none and stays."""
        with self._lock:
            state = self.current
            return state if state is None or state.parent is None else self._go(self._states[state.parent])

    def redo(self) -> State | None:
        """Go to the state after: the one visited last, where there are several. The newest has none and stays."""
        with self._lock:
            after = self._last_child.get(self._current or "")
            return self.current if after is None else self._go(self._states[after])

    def go_to(self, state_id: str) -> State:
        with self._lock:
            return self._go(self.state(state_id))

    def mark(self, state_id: str, favourite: bool | None = None, label: str | None = None) -> State:
        """Change what people note about a state."""
        with self._lock:
            state = self.state(state_id)
            if favourite is not None:
                state = dataclasses.replace(state, favourite=bool(favourite))
            if label is not None:
                state = dataclasses.replace(state, label=label[:MAX_LABEL])
            self._states[state_id] = state
            return state

    def _add(self, parent: str | None, recipe: Recipe, label: str) -> State:
        for state in self._states.values():
            if state.parent == parent and state.recipe == recipe:
                return state
        if len(self._states) >= MAX_STATES:
            raise ValueError(f"a session holds at most {MAX_STATES} states")
        state = State(f"s{len(self._states) + 1}", parent, recipe, label)
        self._states[state.id] = state
        return state

    def _go(self, state: State) -> State:
        self._current = state.id
        child = state
        while child.parent is not None:  # redo leads back here from every state before
            self._last_child[child.parent] = child.id
            child = self._states[child.parent]
        return state

    # Images.

    def render(self, state_id: str) -> np.ndarray:
        """The image of a state. uint8 [H, W, C]"""
        return self.render_recipe(self.recipe(state_id))

    def render_recipe(self, recipe: Recipe) -> np.ndarray:
        """The image of any recipe without variants that fits the network. uint8 [H, W, C]"""
        return to_uint8(self._image(recipe))

    def variants(self, state_id: str, request: EditRequest, count: int | None = None, first: int = 1
                 ) -> Iterator[Variant]:
        """Draw the variants first, first + 1, ... of an edit, each when it is asked for.

        count: how many; None: as many as the request says. A transplant is one.
        What cannot be drawn is refused with the first one. The state is not changed: see `keep`.
        """
        count = request.num_variants if count is None else count
        for number in range(first, first + (count if request.transplant_from is None else 1)):
            yield self.variant(state_id, request, number)

    def variant(self, state_id: str, request: EditRequest, number: int) -> Variant:
        """One alternative for the next state."""
        with self._lock:
            base = self.recipe(state_id)
            edit = self._edit(request, number)
            before = self._image(base)
            after = self._image(self._edited(base, edit))
            region = region_weight(self.network.G, edit) > 0.5
            return Variant(edit, after, *change(before, after, region))

    def best(self, state_id: str, request: EditRequest, count: int, max_outside: float, first: int = 1,
             max_draws: int = MAX_DRAWS) -> Iterator[Variant]:
        """Draw until `count` variants changed the outside by less than `max_outside` (mean square, images in -1..1).

        Yields those, in the order of their numbers; fewer where `max_draws` did not hold enough of them.
        """
        found = 0
        for variant in self.variants(state_id, request, max_draws, first):
            if not variant.outside >= max_outside:  # NaN, where there is no outside, is no leak
                found += 1
                yield variant
            if found == count:
                return

    def _edit(self, request: EditRequest, number: int) -> Edit:
        edit = request.first_edit(self.network.G, self.network.name)
        return edit if edit.variant is None else dataclasses.replace(edit, variant=number)

    def _edited(self, recipe: Recipe, edit: Edit) -> Recipe:
        edited = dataclasses.replace(recipe, edits=(*recipe.edits, edit))
        if self._cache.get(edited) is None:
            check_recipe(edited, self.network.G, self.network.name, self.network.sha256)
        return edited

    def _latents(self, recipe: Recipe) -> _Made:
        made = self._cache.get(recipe)
        if made is None:
            if recipe.edits:
                before = dataclasses.replace(recipe, edits=recipe.edits[:-1])
                latents = apply_edit(self.network.G, before, self._latents(before).latents, recipe.edits[-1],
                                     len(before.edits))
            else:
                latents = make_latents(self.network.G, recipe)
            made = _Made(latents)
            self._cache.put(recipe, made)
        return made

    def _image(self, recipe: Recipe) -> torch.Tensor:
        with self._lock:
            made = self._latents(recipe)
            if made.img is None:
                made.img = render(self.network.G, recipe, made.latents)
                self._cache.put(recipe, made)  # it has become larger
            return made.img

    # Files.

    def save(self, path: str | os.PathLike) -> None:
        """Write the tree as JSON, whole or not at all. Images are left out: they are made again."""
        with self._lock:
            states = [
                {"id": s.id, "parent": s.parent, "label": s.label, "favourite": s.favourite,
                 "recipe": recipe_to_json(s.recipe)}
                for s in self._states.values()
            ]
            head = {"format": FORMAT, "network": self.network.name, "sha256": self.network.sha256,
                    "current": self._current}
        lines = [f'  "{key}": {json.dumps(value)},' for key, value in head.items()]
        rows = ",".join(f"\n    {json.dumps(state)}" for state in states)
        with open_atomic(path, "w", encoding="utf-8", newline="\n") as file:
            file.write("{\n" + "\n".join(lines) + f'\n  "states": [{rows}\n  ]\n' + "}\n")

    @classmethod
    def load(cls, path: str | os.PathLike, network: str | OpenNetwork, **options: Any) -> Session:
        """Go on with a session that was saved, with the same network: a name as for `open`, or one that is open.

        Read strictly: ValueError, with one line that names the file, for anything that `save` would not write.
        options: of `OpenNetwork.load`.
        """
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise ValueError(f"session {path}: {os.path.getsize(path)} bytes, at most {MAX_FILE_BYTES} are read")
        with open(path, "rb") as file:
            text = file.read()
        network = network if isinstance(network, OpenNetwork) else OpenNetwork.load(network, **options)
        session = cls(network)
        try:
            session._take(parse_json(text))
        except (ValueError, OverflowError) as err:
            raise ValueError(f"session {path}: {err}") from err
        return session

    def _take(self, data: Any) -> None:
        check_keys("the session", data, ("format", "network", "sha256", "current", "states"))
        if data["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT!r}, got {str(data['format'])[:80]!r}")
        rows = typed("states", data["states"], list)
        if len(rows) > MAX_STATES:
            raise ValueError(f"a session holds at most {MAX_STATES} states, got {len(rows)}")
        for i, row in enumerate(rows, 1):
            check_keys("a state", row, ("id", "parent", "label", "favourite", "recipe"))
            recipe = recipe_from_json(row["recipe"])
            check_recipe(recipe, self.network.G, self.network.name, self.network.sha256)
            if row["id"] != f"s{i}":
                raise ValueError(f"states must be called s1, s2, ... in order, got {str(row['id'])[:40]!r}")
            if row["parent"] is not None and typed("parent", row["parent"], str) not in self._states:
                raise ValueError(f"state s{i} comes from {row['parent'][:40]!r}, which is not before it")
            label = typed("label", row["label"], str)[:MAX_LABEL]
            state = State(f"s{i}", row["parent"], recipe, label, typed("favourite", row["favourite"], bool))
            self._states[state.id] = state
            self._go(state)
        if rows or data["current"] is not None:
            self._go(self.state(typed("current", data["current"], str)))

    # For scripts and notebooks.

    def image(self, seed: int, truncation: float = 1.0, class_: int | None = None) -> EditedImage:
        """The image of a seed, to be edited."""
        return EditedImage(self, self.start(seed, truncation, class_))


@dataclasses.dataclass(frozen=True)
class EditedImage:
    """A state with a session around it. Edits give new ones; this one stays."""

    session: Session
    state: State

    @property
    def pixels(self) -> np.ndarray:
        """uint8 [H, W, C]"""
        return self.session.render(self.state.id)

    @property
    def recipe(self) -> Recipe:
        return self.state.recipe

    def redraw(
        self,
        blocks: str | None = None,                 # as for --resample-block
        mask: str | os.PathLike | Mask | None = None,
        layers: str | None = None,                 # as for --resample-layers
        noise: bool = False,
        variants: int = 8,
    ) -> Variants:
        """Alternatives for a part of the image; none is drawn before it is asked for."""
        mask = mask if mask is None or isinstance(mask, Mask) else load_mask(mask)
        return Variants(self, EditRequest(blocks, mask, layers, noise, variants))

    def transplant(self, blocks: str, seed: int, layers: str | None = None) -> EditedImage:
        """Take the latents of some blocks from the image of another seed."""
        return Variants(self, EditRequest(blocks, layers=layers, transplant_from=seed)).pick(1)

    def save(self, path: str | os.PathLike) -> None:
        """Write the image as PNG."""
        save_png(self.pixels, path)


@dataclasses.dataclass(frozen=True)
class Variants:
    """Alternatives for one edit of an image. Iterating draws them one by one."""

    image: EditedImage
    request: EditRequest

    def __iter__(self) -> Iterator[Variant]:
        return self.image.session.variants(self.image.state.id, self.request)

    def pick(self, number: int) -> EditedImage:
        """The image with this variant, numbered from 1."""
        session = self.image.session
        return EditedImage(session, session.keep(self.image.state.id, self.request, number))

    def best(self, count: int, max_outside: float) -> list[Variant]:
        """See `Session.best`."""
        return list(self.image.session.best(self.image.state.id, self.request, count, max_outside))


def describe_edit(edit: Edit) -> str:
    """What an edit did, in a few words: `1,2+1,3 v05`."""
    place = "mask" if edit.mask is not None else "+".join(f"{row},{col}" for row, col in edit.blocks)
    if edit.grid is not None:
        place = f"{edit.grid[0]}x{edit.grid[1]}:{place}"
    source = f"v{edit.number:02d}" if edit.transplant_from is None else f"from seed {edit.transplant_from}"
    return f"{place if len(place) <= 40 else f'{len(edit.blocks)} blocks'} {source}"
