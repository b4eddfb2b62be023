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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ssn_plugin.block_grid import image_size
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.edit_options import EditRequest, Mask, load_mask
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.recipe import Edit, Recipe, check_seed
from ssn_plugin.edits.recipe_files import (
    MAX_FILE_BYTES,
    Tables,
    check_keys,
    parse_json,
    read_recipe,
    recipe_from_json,
    recipe_to_json,
    save_image,
    typed,
)
from ssn_plugin.edits.resample import (
    Latents,
    Rendering,
    Variant,
    apply_edit,
    change,
    check_edit,
    region_weight,
    render,
    render_edit,
    start_latents,
    to_uint8,
)
from ssn_plugin.errors import UserError
from ssn_plugin.files import open_atomic

FORMAT = "ssn-session 1"
MAX_STATES = 10_000
MAX_LABEL = 200            # characters
MAX_FAVOURITES = 1000
CACHE_BYTES = 256 * 2**20
MAX_DRAWS = 256            # of a search for variants that leave the outside alone
MAX_TUNED = 2              # networks in memory that were tuned to pictures; others are made again


@dataclasses.dataclass(frozen=True)
class State:
    """A node of the tree of edits."""

    id: str                  # s1, s2, ... in the order of their making
    parent: str | None       # None: an image that was started, not edited
    recipe: Recipe           # without variants
    label: str               # what was done to get here, for people
    favourite: bool = False


class _Cache:
    """What was made last, within a number of bytes; the newest entry is kept whatever its size."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.total = 0
        self.entries: collections.OrderedDict[Recipe, tuple[Latents | Rendering, int]] = collections.OrderedDict()

    def get(self, recipe: Recipe) -> Latents | Rendering | None:
        """The image of a recipe, or at least its latents."""
        if recipe not in self.entries:
            return None
        self.entries.move_to_end(recipe)
        return self.entries[recipe][0]

    def put(self, recipe: Recipe, made: Latents | Rendering) -> None:
        self.total -= self.entries.pop(recipe, (made, 0))[1]
        self.entries[recipe] = made, _num_bytes(made)
        self.total += self.entries[recipe][1]
        while self.total > self.max_bytes and len(self.entries) > 1:
            self.total -= self.entries.popitem(last=False)[1][1]


def _num_bytes(made: Latents | Rendering) -> int:
    latents = made.latents if isinstance(made, Rendering) else made
    images = (made.img, made.held) if isinstance(made, Rendering) else ()
    blends = [tensor for blend in latents.blends for tensor in (blend.ws, blend.weight)]
    tensors = [latents.ws, *(latents.noise or ()), *blends, *images]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


class Session:
    """Images of one network, edited step by step, with a way back to every step."""

    def __init__(self, network: OpenNetwork, cache_bytes: int = CACHE_BYTES):
        self.network = network
        self._lock = network.lock
        self._cache = _Cache(cache_bytes)
        self._tuned: collections.OrderedDict[Arrays | None, OpenNetwork] = collections.OrderedDict()
        self._states: dict[str, State] = {}
        self._current: str | None = None
        self._last_child: dict[str, str] = {}  # where redo goes from a state
        self._favourites: tuple[int, ...] = ()

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

    def network_of(self, recipe: Recipe) -> OpenNetwork:
        """The network that makes the image of a recipe: the session's, or that as it was tuned to a picture."""
        if recipe.tuned == self.network.tuned:
            return self.network
        with self._lock:
            network = self._tuned.pop(recipe.tuned, None) or self.network.tuned_for(recipe)
            self._tuned[recipe.tuned] = network
            while len(self._tuned) > MAX_TUNED:
                self._tuned.popitem(last=False)
            return network

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
                raise UserError(f"the session has no state {str(state_id)[:40]!r}")
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
            raise UserError("an image starts from either a seed or a recipe")
        with self._lock:
            if seed is not None:
                new = Recipe(network.name, network.sha256, seed, class_, float(truncation), noise_mode,
                             tuned=network.tuned, network_path=network.path)
            else:
                assert recipe is not None
                new = dataclasses.replace(recipe.pick(0), network_path=network.path)
            self.network_of(new).check(new)
            return self._go(self._add(None, new, new.picture.name if new.picture else f"seed {new.seed}"))

    def keep(self, state_id: str, request: EditRequest, number: int) -> State:
        """Make the variant of this number the next state, and go to it. Kept before, it is the same state again."""
        with self._lock:
            recipe = _numbered(self._edited(self.recipe(state_id), request), number)
            return self._go(self._add(state_id, recipe, describe_edit(recipe.edits[-1])))

    def restore(self, state_id: str, mask: Mask) -> State:
        """Bring the first image back under a mask: its latents are taken there, and all around stays exactly."""
        with self._lock:
            recipe = self.recipe(state_id)
            request = EditRequest(mask=mask, keep_exact=True, feather=1)
            edit = request.first_edit(self.network.G, self.network.name)
            recipe = recipe.edited(dataclasses.replace(edit, variant=None, from_start=True))
            return self._go(self._add(state_id, recipe, describe_edit(recipe.edits[-1])))

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

    def drop(self, state_id: str, number: int) -> State:
        """Take an earlier edit out, counted from 1: a state beside this one, whose other edits are what they were."""
        with self._lock:
            state = self.state(state_id)
            recipe = state.recipe.without(number)
            return self._go(self._add(state.parent, recipe, f"without {describe_edit(state.recipe.edits[number - 1])}"))

    def move(self, state_id: str, number: int, to: int) -> State:
        """Let an edit act earlier or later, both counted from 1: a state beside this one, with the same draws."""
        with self._lock:
            state = self.state(state_id)
            recipe = state.recipe.moved(number, to)
            return self._go(self._add(state.parent, recipe, f"{describe_edit(recipe.edits[to - 1])} as edit {to}"))

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

    @property
    def favourites(self) -> tuple[int, ...]:
        """Seeds that the user likes, whether or not an image was started from them."""
        return self._favourites

    def set_favourites(self, seeds: Sequence[int]) -> None:
        if len(seeds) > MAX_FAVOURITES:
            raise UserError(f"a session holds at most {MAX_FAVOURITES} favourites, got {len(seeds)}")
        for seed in seeds:
            check_seed("a favourite", seed)
        self._favourites = tuple(dict.fromkeys(seeds))

    def _add(self, parent: str | None, recipe: Recipe, label: str) -> State:
        for state in self._states.values():
            if recipe == state.recipe and (state.parent == parent or state.id == parent):
                return state
        if len(self._states) >= MAX_STATES:
            raise UserError(f"a session holds at most {MAX_STATES} states")
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
        return to_uint8(self._rendering(recipe).img)

    def variants(self, state_id: str, request: EditRequest, count: int | None = None, first: int = 1
                 ) -> Iterator[Variant]:
        """Draw the variants first, first + 1, ... of an edit, each when it is asked for.

        count: how many; None: as many as the request says. A transplant is one.
        What cannot be drawn is refused with the first one. The state is not changed: see `keep`.
        """
        count = request.num_variants if count is None else count
        with self._lock:
            one = self._edited(self.recipe(state_id), request)
        for number in range(first, first + (count if request.transplant_from is None else 1)):
            yield self._variant(one, number)

    def variant(self, state_id: str, request: EditRequest, number: int) -> Variant:
        """One alternative for the next state."""
        with self._lock:
            return self._variant(self._edited(self.recipe(state_id), request), number)

    def _variant(self, one: Recipe, number: int) -> Variant:
        with self._lock:
            recipe = _numbered(one, number)
            edit = recipe.edits[-1]
            before, after = self._rendering(_before(recipe)).img, self._rendering(recipe).img
            return Variant(edit, after, *change(before, after, region_weight(self.network.G, edit) > 0.5))

    def best(self, state_id: str, request: EditRequest, count: int, max_outside: float, first: int = 1,
             max_draws: int = MAX_DRAWS) -> Iterator[Variant]:
        """Draw until `count` variants changed the outside by less than `max_outside` (mean square, images in -1..1).

        Yields those, in the order of their numbers; fewer where `max_draws` did not hold enough of them.
        """
        found = 0
        for variant in self.variants(state_id, request, max_draws, first):
            if stays_below(variant, max_outside):
                found += 1
                yield variant
            if found == count:
                return

    def _edited(self, recipe: Recipe, request: EditRequest) -> Recipe:
        """With the first variant of the request as one more edit. ValueError if that does not fit."""
        edited = recipe.edited(request.first_edit(self.network.G, self.network.name))
        check_edit(edited, edited.edits[-1], self.network.G, self.network.name)
        return edited

    def _latents(self, recipe: Recipe) -> Latents:
        made = self._cache.get(recipe)
        if made is not None:
            return made.latents if isinstance(made, Rendering) else made
        G = self.network_of(recipe).G
        if recipe.edits:
            latents = apply_edit(G, recipe, self._latents(_before(recipe)), recipe.edits[-1])
        else:
            latents = start_latents(G, recipe)
        self._cache.put(recipe, latents)
        return latents

    def _rendering(self, recipe: Recipe) -> Rendering:
        with self._lock:
            made = self._cache.get(recipe)
            if isinstance(made, Rendering):
                return made
            G = self.network_of(recipe).G
            if any(edit.keep_exact for edit in recipe.edits):
                before = self._rendering(_before(recipe))
                made = render_edit(G, recipe, before, recipe.edits[-1])
            else:
                latents = self._latents(recipe)
                made = Rendering(latents, render(G, recipe, latents))
            self._cache.put(recipe, made)
            return made

    # Files.

    def save(self, path: str | os.PathLike) -> None:
        """Write the tree as JSON, whole or not at all. Images are left out: they are made again."""
        with self._lock:
            tables = Tables()
            states = [
                {"id": s.id, "parent": s.parent, "label": s.label, "favourite": s.favourite,
                 "recipe": recipe_to_json(s.recipe, tables)}
                for s in self._states.values()
            ]
            head = {"format": FORMAT, "network": self.network.name, "sha256": self.network.sha256,
                    "current": self._current, "favourites": self._favourites,
                    **tables.to_json(os.path.dirname(path) or ".")}
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
            raise UserError(f"session {path}: {os.path.getsize(path)} bytes, at most {MAX_FILE_BYTES} are read")
        with open(path, "rb") as file:
            text = file.read()
        network = network if isinstance(network, OpenNetwork) else OpenNetwork.load(network, **options)
        session = cls(network)
        try:
            session._take(parse_json(text), os.path.dirname(path) or ".")
        except (ValueError, OverflowError) as err:
            raise UserError(f"session {path}: {err}") from err
        return session

    def _take(self, data: Any, folder: str) -> None:
        keys = ("format", "network", "sha256", "current", "favourites", "masks", "arrays", "states")
        check_keys("the session", data, keys)
        if data["format"] != FORMAT:
            raise UserError(f"format must be {FORMAT!r}, got {str(data['format'])[:80]!r}")
        self.set_favourites([typed("a favourite", seed, int) for seed in typed("favourites", data["favourites"], list)])
        tables = Tables.from_json(data["masks"], data["arrays"], folder)
        rows = typed("states", data["states"], list)
        if len(rows) > MAX_STATES:
            raise UserError(f"a session holds at most {MAX_STATES} states, got {len(rows)}")
        for i, row in enumerate(rows, 1):
            check_keys("a state", row, ("id", "parent", "label", "favourite", "recipe"))
            recipe = dataclasses.replace(recipe_from_json(row["recipe"], tables), network_path=self.network.path)
            self.network_of(recipe).check(recipe)
            if row["id"] != f"s{i}":
                raise UserError(f"states must be called s1, s2, ... in order, got {str(row['id'])[:40]!r}")
            if row["parent"] is not None and typed("parent", row["parent"], str) not in self._states:
                raise UserError(f"state s{i} comes from {row['parent'][:40]!r}, which is not before it")
            label = typed("label", row["label"], str)[:MAX_LABEL]
            state = State(f"s{i}", row["parent"], recipe, label, typed("favourite", row["favourite"], bool))
            self._states[state.id] = state
            self._go(state)
        if rows or data["current"] is not None:
            self._go(self.state(typed("current", data["current"], str)))

    # For scripts and notebooks.

    def open_image(self, path: str | os.PathLike) -> EditedImage:
        """The image of a recipe, or of a PNG that carries one, to be edited further: of projector.py, say."""
        recipe = read_recipe(path)
        if recipe.variants:
            raise ValueError(f"{path} holds {len(recipe.variants)} variants: pick one, or open its image")
        return EditedImage(self, self.start(recipe=recipe))

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
        feather: int = 0,
        keep_exact: bool = False,
    ) -> Variants:
        """Alternatives for a part of the image; none is drawn before it is asked for."""
        mask = mask if mask is None or isinstance(mask, Mask) else load_mask(mask)
        request = EditRequest(blocks, mask, layers, noise, variants, feather=feather, keep_exact=keep_exact)
        return Variants(self, request)

    def transplant(self, blocks: str, seed: int, layers: str | None = None) -> EditedImage:
        """Take the latents of some blocks from the image of another seed."""
        return Variants(self, EditRequest(blocks, layers=layers, transplant_from=seed)).pick(1)

    def save(self, path: str | os.PathLike) -> None:
        """Write the image as PNG that carries its recipe, for `generate.py --recipe`."""
        save_image(self.pixels, path, self.recipe)


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


def stays_below(variant: Variant, max_outside: float) -> bool:
    """Did the outside change by less? NaN, where there is no outside, is no leak."""
    return not variant.outside >= max_outside


def describe_edit(edit: Edit) -> str:
    """What an edit did, in a few words: `1,2+1,3 v05`."""
    place = "mask" if edit.mask is not None else "+".join(f"{row},{col}" for row, col in edit.blocks)
    if edit.grid is not None:
        place = f"{edit.grid[0]}x{edit.grid[1]}:{place}"
    source = f"v{edit.number:02d}" if edit.transplant_from is None else f"from seed {edit.transplant_from}"
    if edit.from_start:
        source = "brought back"
    return f"{place if len(place) <= 40 else f'{len(edit.blocks)} blocks'} {source}"


def _before(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, edits=recipe.edits[:-1])


def _numbered(recipe: Recipe, number: int) -> Recipe:
    """With another draw for the last edit. A transplant has one, and stays."""
    edit = recipe.edits[-1]
    return recipe if edit.variant is None else _before(recipe).edited(dataclasses.replace(edit, variant=number))
