"""Recipes as files: JSON that people can read, by itself or in a text chunk of the PNG that it makes.

Masks and arrays are listed once, whatever uses them. Arrays that are large lie beside the file and are named by their
hash. Reading is strict and bounded: files come from anywhere.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssn_plugin.edits.arrays import MAX_BYTES, Arrays
from ssn_plugin.edits.recipe import Edit, Picture, Recipe, hash_network
from ssn_plugin.errors import UserError
from ssn_plugin.files import open_atomic, save_png

FORMAT_1 = "ssn-recipe 1"      # from a seed alone; edits are numbered instead of having keys
FORMAT = "ssn-recipe 2"
MAX_FILE_BYTES = 64 * 2**20    # a recipe is small; do not read a disk image by mistake
MAX_INLINE_BYTES = 256 * 2**10   # of arrays in a file that other files may lie beside
MAX_CARRIED_BYTES = 16 * 2**20   # of arrays in a file that is passed on by itself, as a PNG is
MAX_NAME = 255                 # characters of a file name
PNG_KEYWORD = "ssn-recipe"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass
class Tables:
    """What recipes share: masks by the name that edits use, arrays by their hash."""

    masks: dict[str, bytes] = dataclasses.field(default_factory=dict)
    arrays: dict[str, Arrays] = dataclasses.field(default_factory=dict)

    def name_of_mask(self, png: bytes) -> str:
        name = next((name for name, mask in self.masks.items() if mask == png), f"mask{len(self.masks) + 1}")
        self.masks[name] = png
        return name

    def name_of_arrays(self, arrays: Arrays | None) -> str | None:
        if arrays is None:
            return None
        self.arrays[arrays.sha256] = arrays
        return arrays.sha256

    def to_json(self, folder: str | os.PathLike | None, max_inline: int | None = None) -> dict[str, Any]:
        """Arrays of more bytes are named by a file, which is written into the folder, where there is one.

        max_inline: None for few where others may lie in the folder, and for more where nobody knows of one.
        """
        if max_inline is None:
            max_inline = MAX_CARRIED_BYTES if folder is None else MAX_INLINE_BYTES

        def place(arrays: Arrays) -> dict[str, str]:
            if len(arrays.data) <= max_inline:
                return {"data": base64.b64encode(arrays.data).decode()}
            name = f"arrays-{arrays.sha256[:16]}.npz"
            if folder is not None and not os.path.exists(path := os.path.join(folder, name)):
                with open_atomic(path) as file:
                    file.write(arrays.data)
            return {"file": name}

        return {
            "masks": {name: base64.b64encode(png).decode() for name, png in self.masks.items()},
            "arrays": {sha256: place(arrays) for sha256, arrays in self.arrays.items()},
        }

    @classmethod
    def from_json(cls, masks: Any, arrays: Any, folder: str | os.PathLike | None) -> Tables:
        """folder: where files may lie; None: arrays in other files are refused."""
        texts = {_name("the name of a mask", name): text for name, text in typed("masks", masks, dict).items()}
        tables = cls({name: _decode_base64(name, text) for name, text in texts.items()})
        for sha256, place in typed("arrays", arrays, dict).items():
            found = _read_arrays(typed("an entry of arrays", place, dict), folder)
            if found.sha256 != sha256:
                raise UserError(f"arrays {sha256[:80]!r} have the hash {found.sha256}")
            tables.arrays[sha256] = found
        return tables

    def mask(self, name: Any) -> bytes:
        if typed("mask", name, str) not in self.masks:
            raise UserError(f"edit names {name[:80]!r}, masks has {', '.join(self.masks)[:80] or 'none'}")
        return self.masks[name]

    def arrays_of(self, sha256: Any) -> Arrays | None:
        if sha256 is not None and typed("the name of arrays", sha256, str) not in self.arrays:
            raise UserError(f"the recipe names the arrays {sha256[:80]!r}, which it has not")
        return None if sha256 is None else self.arrays[sha256]


def write_recipe(recipe: Recipe, path: str | os.PathLike) -> None:
    """Write the recipe, whole or not at all; large arrays before it, beside it."""
    text = recipe_text(recipe, os.path.dirname(path) or ".")
    with open_atomic(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def save_image(image: Image.Image | np.ndarray, path: str | os.PathLike, recipe: Recipe) -> None:
    """Write an image as PNG that carries its recipe. See `save_png` for the image."""
    save_png(image, path, png_text(recipe, os.path.dirname(path) or "."))


def png_text(recipe: Recipe, folder: str | os.PathLike | None = None) -> dict[str, str]:
    """What a PNG carries, by keyword. Images are passed on, so it says nothing of the folders of this machine."""
    if recipe.network_path is not None and not recipe.network_path.startswith("demo:"):
        recipe = dataclasses.replace(recipe, network_path=None)
    return {PNG_KEYWORD: recipe_text(recipe, folder, MAX_CARRIED_BYTES)}


def read_recipe(path: str | os.PathLike) -> Recipe:
    """Read a recipe, or the one that a PNG carries, strictly: unknown keys, wrong types and values out of range fail.

    Raises ValueError with one line that names the file, OSError when it cannot be read.
    """
    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise UserError(f"recipe {path}: {os.path.getsize(path)} bytes, at most {MAX_FILE_BYTES} are read")
    with open(path, "rb") as file:
        text = file.read()
    try:
        return parse_recipe(text, os.path.dirname(path) or ".")
    except (ValueError, OverflowError) as err:
        raise UserError(f"recipe {path}: {err}") from err


def recipe_of_search(
    G: torch.nn.Module,
    network: str,                           # file or short name
    seed: int,                              # that later draws follow from
    label: int | None,
    ws: torch.Tensor,                       # [1, L, w_dim]
    noise: Mapping[str, torch.Tensor],      # fitted maps by name
    deltas: Mapping[str, torch.Tensor] | None,   # what tuning adds to parameters of G
    picture: Picture,
) -> Recipe:
    """The recipe of an image that a search found for a picture."""
    w = ws if (ws != ws[:, :1]).any() else ws[:, :1]   # one style for all layers is stored once
    found = {name: value.cpu().numpy() for name, value in {"w": w, **noise}.items()}
    tuned = None if deltas is None else {name: value.cpu().numpy() for name, value in deltas.items()}
    return found_recipe(G, network, seed, label, found, tuned, picture)


def found_recipe(
    G: torch.nn.Module,
    network: str,                          # file or short name
    seed: int,                             # that later draws follow from
    label: int | None,
    found: dict[str, np.ndarray],          # styles w [1, 1 or L, w_dim], and fitted noise maps by name
    tuned: dict[str, np.ndarray] | None,   # what to add to parameters of G
    picture: Picture,
) -> Recipe:
    """The same from arrays."""
    return Recipe(
        os.path.basename(network), hash_network(G), seed, label, found=Arrays.of(found),
        tuned=None if tuned is None else Arrays.of(tuned), picture=picture, network_path=network)


def open_recipe(
    path: str | os.PathLike, pick: int | None, goes_on: bool, undo: bool = False, drop: int | None = None
) -> Recipe:
    """Read a recipe, reduced to one image where asked: variant `pick`, without the last edit, without edit `drop`.

    goes_on: another edit will follow, so it must describe a single image. ValueError otherwise.
    """
    recipe = read_recipe(path)
    if pick is not None:
        recipe = recipe.pick(pick)
    if undo:
        if not recipe.edits:
            raise UserError(f"recipe {path}: there is no edit to undo")
        recipe = recipe.without(len(recipe.edits))
    if drop is not None:
        recipe = recipe.without(drop)
    if goes_on and recipe.variants:
        raise UserError(f"{path} holds {len(recipe.variants)} variants: name the one to go on from with --pick")
    return recipe


def recipe_text(recipe: Recipe, folder: str | os.PathLike | None = None, max_inline: int | None = None) -> str:
    """The recipe as JSON, one line per edit, so that people can read it and version control can compare it.

    folder: where the text will lie, for the large arrays and for the way to the network; None: nobody knows.
    max_inline: bytes of arrays that are in the text itself, see `Tables.to_json`.
    """
    tables = Tables()
    data = recipe_to_json(recipe, tables, folder)
    edits = {key: data.pop(key) for key in ("edits", "variants")}
    lines = []
    for key, value in (data | tables.to_json(folder, max_inline) | edits).items():
        rows = ",".join(f"\n    {json.dumps(row)}" for row in value) if key in edits else ""
        lines.append(f'  "{key}": [{rows}\n  ]' if rows else f'  "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def parse_recipe(text: bytes, folder: str | os.PathLike | None = None) -> Recipe:
    """The recipe in the content of a JSON or a PNG file. ValueError for what `recipe_text` would not write.

    folder: where the file lies; None: the recipe may not refer to other files.
    """
    if text.startswith(PNG_SIGNATURE):
        text = _text_chunk(text, PNG_KEYWORD)
    data = parse_json(text)
    if isinstance(data, dict) and data.get("format") == FORMAT_1:
        return _from_format_1(data)
    keys = ("format", "network", "seed", "class", "truncation", "noise_mode", "latents", "picture", "masks", "arrays",
            "edits", "variants")
    check_keys("the recipe", data, keys)
    return recipe_from_json(data, Tables.from_json(data.pop("masks"), data.pop("arrays"), folder), folder)


def parse_json(text: bytes) -> Any:
    """Strict JSON: no key twice, no NaN. ValueError for anything else."""
    try:
        return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except UnicodeDecodeError as err:
        raise UserError("not a text file in UTF-8") from err
    except json.JSONDecodeError as err:
        raise UserError(f"not JSON, {err}") from err
    except RecursionError as err:
        raise UserError("nested too deeply") from err


def recipe_to_json(recipe: Recipe, tables: Tables, folder: str | os.PathLike | None = None) -> dict[str, Any]:
    """The recipe as JSON's types, apart from what it puts into the tables."""
    picture = recipe.picture
    return {
        "format": FORMAT,
        "network": {
            "name": recipe.network_name,
            "sha256": recipe.network_sha256,
            "path": _path_from(folder, recipe.network_path),
            "tuned": tables.name_of_arrays(recipe.tuned),
        },
        "seed": recipe.seed,
        "class": recipe.label,
        "truncation": recipe.truncation,
        "noise_mode": recipe.noise_mode,
        "latents": tables.name_of_arrays(recipe.found),
        "picture": None if picture is None else dataclasses.asdict(picture),
        "edits": [_edit_to_json(edit, tables) for edit in recipe.edits],
        "variants": [_edit_to_json(edit, tables) for edit in recipe.variants],
    }


def recipe_from_json(data: Any, tables: Tables, folder: str | os.PathLike | None = None) -> Recipe:
    """Read what `recipe_to_json` made. ValueError for unknown keys, wrong types and values out of range."""
    keys = ("format", "network", "seed", "class", "truncation", "noise_mode", "latents", "picture", "edits", "variants")
    check_keys("the recipe", data, keys)
    if data["format"] != FORMAT:
        raise UserError(f"format must be {FORMAT!r} or {FORMAT_1!r}, got {str(data['format'])[:80]!r}")
    check_keys("network", data["network"], ("name", "sha256", "path", "tuned"))
    path = data["network"]["path"]
    return Recipe(
        **_image_from_json(data),
        edits=tuple(_edit_from_json(edit, tables) for edit in typed("edits", data["edits"], list)),
        variants=tuple(_edit_from_json(edit, tables) for edit in typed("variants", data["variants"], list)),
        found=tables.arrays_of(data["latents"]),
        tuned=tables.arrays_of(data["network"]["tuned"]),
        picture=None if data["picture"] is None else _picture_from_json(data["picture"]),
        network_path=None if path is None else _path_to_network(folder, typed("network path", path, str)),
    )


def _from_format_1(data: dict[str, Any]) -> Recipe:
    """The number of edits before has been the key of an edit from the start: the draws are the same."""
    keys = ("format", "network", "seed", "class", "truncation", "noise_mode", "masks", "edits", "variants")
    check_keys("the recipe", data, keys)
    check_keys("network", data["network"], ("name", "sha256"))
    tables = Tables.from_json(data["masks"], {}, None)
    edits = typed("edits", data["edits"], list)
    variants = typed("variants", data["variants"], list)
    return Recipe(
        **_image_from_json(data),
        edits=tuple(_edit_from_json(edit, tables, key) for key, edit in enumerate(edits)),
        variants=tuple(_edit_from_json(edit, tables, len(edits)) for edit in variants),
    )


def _image_from_json(data: dict[str, Any]) -> dict[str, Any]:
    """What both formats say in the same words."""
    truncation = data["truncation"]
    return dict(
        network_name=_name("network name", data["network"]["name"]),
        network_sha256=_name("network sha256", data["network"]["sha256"]),
        seed=typed("seed", data["seed"], int),
        label=None if data["class"] is None else typed("class", data["class"], int),
        truncation=float(truncation) if type(truncation) is int else typed("truncation", truncation, float),
        noise_mode=typed("noise_mode", data["noise_mode"], str),
    )


def _edit_to_json(edit: Edit, tables: Tables) -> dict[str, Any]:
    data: dict[str, Any] = {"blocks": edit.blocks} if edit.mask is None else {"mask": tables.name_of_mask(edit.mask)}
    if edit.grid is not None:
        data["grid"] = edit.grid
    if edit.feather:
        data["feather"] = edit.feather
    if edit.keep_exact:
        data["keep_exact"] = True
    sources = {"variant": edit.variant, "transplant_from": edit.transplant_from, "from_start": edit.from_start or None}
    source = next(name for name, value in sources.items() if value is not None)
    return data | {"layers": edit.layers, "noise": edit.noise, "key": edit.key, source: getattr(edit, source)}


def _edit_from_json(data: Any, tables: Tables, key: int | None = None) -> Edit:
    """key: in format 1, where the edit itself has none."""
    typed("an edit", data, dict)
    place = "mask" if "mask" in data else "blocks"
    others = ("transplant_from",) if key is not None else ("transplant_from", "from_start")
    source = next((name for name in others if name in data), "variant")
    extra = ("grid",) if key is not None else ("grid", "feather", "keep_exact")
    optional = [name for name in extra if name in data]
    check_keys("an edit", data, (place, *optional, "layers", "noise", *(("key",) if key is None else ()), source))
    blocks = typed("blocks", data["blocks"], list) if place == "blocks" else []
    return Edit(
        blocks=tuple(_int_list("a block", block, 2) for block in blocks),
        grid=_int_list("grid", data["grid"], 2) if "grid" in data else None,
        mask=tables.mask(data["mask"]) if place == "mask" else None,
        feather=typed("feather", data.get("feather", 0), int),
        keep_exact=typed("keep_exact", data.get("keep_exact", False), bool),
        layers=_int_list("layers", data["layers"], 2),
        noise=typed("noise", data["noise"], bool),
        key=typed("key", data["key"], int) if key is None else key,
        **{source: typed(source, data[source], bool if source == "from_start" else int)},
    )


def _picture_from_json(data: Any) -> Picture:
    check_keys("picture", data, ("name", "width", "height", "box"))
    width, height = (typed(name, data[name], int) for name in ("width", "height"))
    return Picture(_name("picture name", data["name"]), width, height, _int_list("box", data["box"], 4))


def _read_arrays(place: dict[str, Any], folder: str | os.PathLike | None) -> Arrays:
    check_keys("an entry of arrays", place, ("data",) if "data" in place else ("file",))
    if "data" in place:
        return Arrays(_decode_base64("arrays", place["data"]))
    name = _name("the file of arrays", place["file"])
    # A file beside the recipe and nothing else: a recipe from elsewhere must not reach into other folders.
    if folder is None or not name.endswith(".npz") or name != os.path.basename(name) or set(name) & set("/\\:"):
        raise UserError(f"arrays must be an npz file beside the recipe, got {name!r}")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise UserError(f"{name}, which belongs to it, is not beside it")
    if os.path.getsize(path) > MAX_BYTES:
        raise UserError(f"{name} has {os.path.getsize(path)} bytes, at most {MAX_BYTES} are read")
    with open(path, "rb") as file:
        return Arrays(file.read())


def _path_from(folder: str | os.PathLike | None, network: str | None) -> str | None:
    """How to find the network from a folder: the short name of a demo, or the way to a file. Others are not noted."""
    if network is None or network.startswith("demo:"):
        return network
    if folder is None or "://" in network:
        return None
    try:
        return os.path.relpath(network, folder).replace(os.sep, "/")
    except ValueError:  # on another drive
        return os.path.abspath(network).replace(os.sep, "/")


def _path_to_network(folder: str | os.PathLike | None, path: str) -> str | None:
    """The way back. A recipe from elsewhere must not make anyone download anything."""
    if path.startswith("demo:"):
        return path
    return None if folder is None or "://" in path else os.path.normpath(os.path.join(folder, path))


def _text_chunk(png: bytes, keyword: str) -> bytes:
    """The text of that keyword in a PNG file. ValueError where there is none.

    Pillow would unpack all chunks of the file to find one.
    """
    for kind, content in _png_chunks(png):
        if kind == b"tEXt" and content.startswith(keyword.encode() + b"\0"):
            return content[len(keyword) + 1:]
    raise UserError("this PNG carries no recipe")


def _png_chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(PNG_SIGNATURE)
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at:at + 4])
        yield png[at + 4:at + 8], png[at + 8:at + 8 + length]
        at += length + 12


def typed(name: str, value: Any, kind: type) -> Any:
    """The value, if it is of this type of JSON. ValueError otherwise."""
    # `type is`, not isinstance: JSON's true must not pass as the number 1.
    if type(value) is not kind:
        raise UserError(f"{name} must be of type {kind.__name__}, got {json.dumps(value)[:80]}")
    return value


def check_keys(name: str, data: Any, keys: Sequence[str]) -> None:
    """ValueError unless the data is a JSON object with exactly these keys."""
    typed(name, data, dict)
    for key in data:
        if key not in keys:
            raise UserError(f"{name} has the unknown key {key[:80]!r}; it takes {', '.join(keys)}")
    for key in keys:
        if key not in data:
            raise UserError(f"{name} lacks the key {key!r}")


def _name(what: str, value: Any) -> str:
    """A name for people: it is printed and drawn, so nothing that a terminal acts on."""
    if len(typed(what, value, str)) > MAX_NAME or not value.isprintable():
        raise UserError(f"{what} must have at most {MAX_NAME} printable characters, got {json.dumps(value)[:80]}")
    return value


def _int_list(name: str, value: Any, length: int) -> tuple[Any, ...]:
    if type(value) is not list or len(value) != length or any(type(x) is not int for x in value):
        count = "two" if length == 2 else str(length)
        raise UserError(f"{name} must be a list of {count} integers, got {json.dumps(value)[:80]}")
    return tuple(value)


def _decode_base64(name: str, text: Any) -> bytes:
    try:
        return base64.b64decode(typed(name, text, str), validate=True)
    except ValueError as err:
        raise UserError(f"{name[:80]} is not base64 ({err})") from err


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise UserError(f"a key occurs twice among {', '.join(key for key, _ in pairs)!r}"[:200])
    return data


def _no_constant(text: str) -> None:
    raise UserError(f"{text} is not a number")
