"""Command lines in which exactly one thing is wrong, generated from a seed.

For every command there is a line that works (`WORKING`) and a list of what can be wrong with it (`WRONG`): options
that take another value or are added (None: left out). In texts, IN is the folder of the files that work and OUT a new
one. A value may also be made on the spot, by a function that writes a damaged file. Wrong values of numbers,
choices and switches are added for every option that click knows.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image

Made = Callable[[random.Random, Path, Path], str]  # (rng, folder to write to, folder of good files) -> path
Overrides = dict[str, Any]  # option or argument -> text, made text, or None


@dataclasses.dataclass(frozen=True)
class Case:
    """One command line, and what is wrong with it in words."""

    command: str
    args: list[str]
    what: str


# Files.


def png(rng: random.Random, width: int = 8, height: int = 8, mode: str = "RGB") -> bytes:
    """A noisy image."""
    channels = len(PIL.Image.new(mode, (1, 1)).getbands())
    pixels = np.array([rng.randrange(256) for _ in range(width * height * channels)], dtype=np.uint8)
    shape = [height, width] if channels == 1 else [height, width, channels]
    file = io.BytesIO()
    PIL.Image.fromarray(pixels.reshape(shape), mode).save(file, format="PNG")
    return file.getvalue()


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Data that no reader of the format can accept: nothing, an early end, noise, a text."""
    return rng.choice([
        lambda: b"", lambda: data[: rng.randrange(1, max(len(data) * 9 // 10, 2))],
        lambda: rng.randbytes(rng.randrange(1, 400)), lambda: b"<!DOCTYPE html><title>404 Not Found</title>",
        lambda: b"\0" * 64, lambda: "kein Bild, sondern \N{SNOWMAN}".encode(),
    ])()


def damaged_png(rng: random.Random) -> bytes:
    """A PNG that cannot be decoded: as `damaged`, with a wrong checksum, or with a billion pixels announced."""
    good = png(rng)
    huge = struct.pack(">II5B", 2**20, 2**20, 8, 2, 0, 0, 0)
    return rng.choice([
        lambda: damaged(rng, good), lambda: good[:60] + bytes([good[60] ^ 255]) + good[61:],
        lambda: good[:16] + huge + struct.pack(">I", zlib.crc32(b"IHDR" + huge)) + good[33:],
    ])()


def damaged_json(rng: random.Random, data: bytes) -> bytes:
    """What is no JSON, or JSON of another kind."""
    others = [b"[", b"null", b"[]", b"{}", b"17", b'"text"', b"NaN", b"[" * 100_000, b'{"a": 1', b"\xff\xfe{}"]
    return rng.choice([*others, damaged(rng, data)])


def write(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def missing(rng: random.Random, folder: Path, good: Path) -> str:
    return str(folder / rng.choice(["lost.pkl", "none/lost.zip", "x" * 300, "a b.png"]))


def a_file(rng: random.Random, folder: Path, good: Path) -> str:
    """An ordinary file where a folder is expected."""
    return write(folder, "file.txt", b"notes")


def below_a_file(rng: random.Random, folder: Path, good: Path) -> str:
    return write(folder, "file.txt", b"notes") + "/out"


def empty_folder(rng: random.Random, folder: Path, good: Path) -> str:
    (folder / "empty").mkdir()
    return str(folder / "empty")


# Networks.


def bad_network(rng: random.Random, folder: Path, good: Path) -> str:
    """A file that is no network, under a name that promises one."""
    suffix = rng.choice([".pkl", ".pkl", ".safetensors", ".pt"])
    objects: list[Any] = [{}, [], 17, "text", {"G_ema": None}, {"G": 1, "D": 2, "G_ema": 3}, (1, 2, 3), {1: 2}]
    data = rng.choice([
        lambda: damaged(rng, (good / "plain.pkl").read_bytes()), lambda: pickle.dumps(rng.choice(objects)),
        lambda: pickle.dumps(Harmful()), lambda: (good / "images.zip").read_bytes(), lambda: png(rng),
        lambda: struct.pack("<Q", 2**40) + b"{}", lambda: struct.pack("<Q", 2) + b"{}",
    ])()
    return write(folder, "network" + suffix, data)


class Harmful:
    """Would run a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("harm",)


def swapped_network(rng: random.Random, folder: Path, good: Path) -> str:
    """A good network cut off somewhere."""
    data = (good / "plain.pkl").read_bytes()
    return write(folder, "cut.pkl", data[: rng.randrange(len(data) // 2, len(data) - 1)])


# Images.


def bad_image(rng: random.Random, folder: Path, good: Path) -> str:
    return write(folder, rng.choice(["a.png", "a.jpg", "a.bmp"]), damaged_png(rng))


def image_of_other_proportions(rng: random.Random, folder: Path, good: Path) -> str:
    return write(folder, "size.png", png(rng, rng.randrange(9, 20), rng.randrange(22, 40), "L"))


def black_mask(rng: random.Random, folder: Path, good: Path) -> str:
    file = io.BytesIO()
    PIL.Image.new("L", (8, 8)).save(file, format="PNG")
    return write(folder, "black.png", file.getvalue())


def folder_with(make: Callable[[random.Random], dict[str, bytes]]) -> Made:
    """A folder of images, some of them wrong."""
    def made(rng: random.Random, folder: Path, good: Path) -> str:
        for name, data in make(rng).items():
            write(folder, f"images/{name}", data)
        return str(folder / "images")

    return made


def zip_with(make: Callable[[random.Random], dict[str, bytes]]) -> Made:
    """The same as a zip."""
    def made(rng: random.Random, folder: Path, good: Path) -> str:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in make(rng).items():
                archive.writestr(name, data)
        return write(folder, "images.zip", file.getvalue())

    return made


def only_bad_images(rng: random.Random) -> dict[str, bytes]:
    return {"0.png": damaged_png(rng), "1.png": damaged_png(rng)}


def one_bad_image(rng: random.Random) -> dict[str, bytes]:
    images = {f"{i}.png": png(rng) for i in range(4)}
    return {**images, rng.choice(list(images)): damaged_png(rng)}


def one_other_size(rng: random.Random) -> dict[str, bytes]:
    images = {f"{i}.png": png(rng) for i in range(4)}
    return {**images, "2.png": png(rng, 16, rng.choice([8, 16]))}


def impossible_sizes(rng: random.Random) -> dict[str, bytes]:
    """Sides that no power of two divides."""
    width, height = rng.choice([(7, 7), (9, 8), (31, 5), (24, 24), (6, 10)])
    return {f"{i}.png": png(rng, width, height) for i in range(2)}


def no_images(rng: random.Random) -> dict[str, bytes]:
    return {"readme.txt": b"nothing here", "data.csv": b"1,2"}


def bad_labels(rng: random.Random) -> dict[str, bytes]:
    """Good images with a dataset.json that does not fit them."""
    labels: list[Any] = [
        [["0.png", "cat"], ["1.png", "dog"]], [["0.png", 1], ["1.png", [1.0, 2.0]]],
        [["0.png", -1], ["1.png", 0]], [["0.png", None], ["1.png", 0]], {"0.png": 1}, 17, [[]], ["0.png", 1],
        [["0.png", float("nan")], ["1.png", 1.0]], [["0.png", [1, 2]], ["1.png", [1]]],
        [["0.png", 10**30], ["1.png", 0]], [[0, 1], [1, 1]], [["0.png", 2**16], ["1.png", 0]], [["0.png", []]],
        [["x/0.png", 1], ["x/1.png", 0]], [["0.png", 1], ["./0.png", 2], ["1.png", 0]],
    ]
    texts = [json.dumps(dict(labels=rng.choice(labels))).encode(), damaged_json(rng, b'{"labels": [["0.png", 1]]}')]
    bad = rng.choice(texts)
    if bad in (b"{}", b"null") or b"null" in bad[:20]:  # means that there are no labels, which is fine
        bad = b"["
    return {"0.png": png(rng), "1.png": png(rng), "dataset.json": bad}


def labels_of_some(rng: random.Random) -> dict[str, bytes]:
    """Good images, of which one has no label."""
    labels = rng.choice([[["0.png", 1]], [["lost.png", 1]]])
    return {"0.png": png(rng), "1.png": png(rng), "dataset.json": json.dumps(dict(labels=labels)).encode()}


def bad_zip(rng: random.Random, folder: Path, good: Path) -> str:
    return write(folder, "images.zip", damaged(rng, (good / "images.zip").read_bytes()))


def encrypted_zip(rng: random.Random, folder: Path, good: Path) -> str:
    """The flag of an encrypted file, in its own header and in the directory."""
    data = bytearray((good / "images.zip").read_bytes())
    with zipfile.ZipFile(good / "images.zip") as archive:
        for info in archive.infolist():
            data[info.header_offset + 6] |= 1
        start = archive.start_dir
    while (start := data.find(b"PK\x01\x02", start)) >= 0:
        data[start + 8] |= 1
        start += 4
    return write(folder, "images.zip", bytes(data))


def zip_with_wrong_checksums(rng: random.Random, folder: Path, good: Path) -> str:
    data = bytearray((good / "images.zip").read_bytes())
    with zipfile.ZipFile(good / "images.zip") as archive:
        for info in archive.infolist():
            data[info.header_offset + 30 + len(info.filename) + rng.randrange(40, 60)] ^= 255
    return write(folder, "images.zip", bytes(data))


def bad_archive(name: str) -> Made:
    """A file with the name of a known data set, and another content."""
    def made(rng: random.Random, folder: Path, good: Path) -> str:
        return write(folder, name, damaged(rng, (good / "images.zip").read_bytes()))

    return made


def bad_mnist(rng: random.Random, folder: Path, good: Path) -> str:
    """Images and labels of which one does not hold what its name promises."""
    pixels = bytes(2 * 28 * 28)
    images = struct.pack(">4sIII", b"\0\0\x08\x03", 2, 28, 28) + pixels
    labels = struct.pack(">4sI", b"\0\0\x08\x01", 2) + b"\1\2"
    wrong = rng.choice([
        (images[:-1], labels), (images, labels + b"\3"), (labels, images), (images[:10], labels), (b"", labels),
        (struct.pack(">4sIII", b"\0\0\x08\x03", 2**31, 2**31, 2**31) + pixels, labels), (rng.randbytes(99), labels),
        (struct.pack(">4sIII", b"\0\0\x08\x03", 2, 49, 16) + pixels, labels),
    ])
    write(folder, "train-labels-idx1-ubyte.gz", gzip.compress(wrong[1]))
    return write(folder, "train-images-idx3-ubyte.gz", gzip.compress(wrong[0]))


def bad_cifar10(rng: random.Random, folder: Path, good: Path) -> str:
    """An archive with the right names in it, and other content."""
    objects: list[Any] = [
        [], {}, {"data": 1, "labels": 2}, {"data": np.zeros([2, 9], np.uint8), "labels": [0, 1]}, Harmful(),
        {"data": np.zeros([2, 3072], np.uint8), "labels": [0, 10]}, {"data": np.zeros([2, 3072]), "labels": [0, 1]},
    ]
    batch = rng.choice([damaged(rng, rng.randbytes(500)), pickle.dumps(rng.choice(objects))])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for i in range(1, 1 + rng.choice([0, 4, 5])):
            info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{i}")
            info.size = len(batch)
            archive.addfile(info, io.BytesIO(batch))
    return write(folder, "cifar-10-python.tar.gz", file.getvalue())


def bad_lmdb(rng: random.Random, folder: Path, good: Path) -> str:
    return str(Path(write(folder, "church_lmdb/data.mdb", damaged(rng, rng.randbytes(8192)))).parent)


# Other files.


def bad_latents(rng: random.Random, folder: Path, good: Path) -> str:
    """An npz without usable latents."""
    arrays: dict[str, Any] = rng.choice([
        dict(v=np.zeros([1, 4, 8])), dict(w=np.zeros([8])), dict(w=np.full([1, 4, 8], np.nan)),
        dict(w=np.zeros([1, 4, 9])), dict(w=np.zeros([0, 4, 8])), dict(w=np.array(["a"])), dict(w=np.zeros([1, 99, 8])),
        dict(w=np.array([None, 1], dtype=object)),
    ])
    file = io.BytesIO()
    np.savez(file, **arrays)
    return write(folder, "w.npz", rng.choice([file.getvalue(), damaged(rng, file.getvalue())]))


def bad_recipe(rng: random.Random, folder: Path, good: Path) -> str:
    """A recipe in which a field is missing or of another kind, or a file that is none."""
    recipe = json.loads((good / "recipe.json").read_bytes())
    wrong: list[Any] = [None, -1, 1e99, "text", [], {}, True, [[9, 9]], 2**64]
    if rng.random() < 0.3:
        return write(folder, "recipe.json", damaged_json(rng, (good / "recipe.json").read_bytes()))
    target = rng.choice([recipe, rng.choice(recipe["variants"])])
    field = rng.choice(["format", "seed", "network"] if target is recipe else ["layers", "variant", "blocks"])
    if rng.random() < 0.3:
        del target[field]
    else:
        unlike = [value for value in wrong if type(value) is not type(target[field]) or field == "format"]
        target[field] = rng.choice(unlike)
    return write(folder, "recipe.json", json.dumps(recipe).encode())


def recipe_of_another_network(rng: random.Random, folder: Path, good: Path) -> str:
    recipe = json.loads((good / "recipe.json").read_bytes())
    recipe["network"]["sha256"] = rng.randbytes(32).hex()
    return write(folder, "recipe.json", json.dumps(recipe).encode())


def bad_results(rng: random.Random, folder: Path, good: Path) -> str:
    """A metric-*.jsonl that cannot be compared with another."""
    return write(folder, "metric-x.jsonl", damaged_json(rng, (good / "metric-fid50k.jsonl").read_bytes()) or b"[]")


def text_file(rng: random.Random, folder: Path, good: Path) -> str:
    return write(folder, "notes.pt", b"no TorchScript")


# Commands.

NETWORK: list[Overrides] = [{"--network": made} for made in
                            (missing, bad_network, bad_network, bad_network, bad_network, swapped_network)]
NETWORK += [{"--network": None}, {"--network": ""}, {"--network": "ftp://host/x.pkl"}]
OUTDIR: list[Overrides] = [{"--outdir": made} for made in (a_file, below_a_file)]
IMAGES: list[Made] = [make(images) for images in (only_bad_images, impossible_sizes, no_images)
                      for make in (folder_with, zip_with)]
IMAGES += [missing, a_file, empty_folder, bad_zip, bad_zip, encrypted_zip]
EDITS: list[Overrides] = [
    *({"--seeds": text} for text in ("", "a", "1-", "5-3", "1,,2", "-1", "1.5", "99999999999", "0-9999999")),
    *({"--resample-block": text} for text in ("", "9,9", "x", "4", "-1", "1,2,3", "keep:all", "0,0+9,9", "all+all")),
    *({"--resample-mask": made} for made in (bad_image, image_of_other_proportions, black_mask, missing, a_file)),
    *({"--resample-block": "0,0", "--resample-layers": text} for text in ("", "bottom", "5", "3-1", "0-99", "-1")),
    *({"--seeds": None, "--recipe": made} for made in (bad_recipe,) * 8 + (missing, a_file, recipe_of_another_network)),
    {"--seeds": None, "--recipe": "IN/recipe.json", "--pick": "9"}, {"--seeds": None}, {"--pick": "1"},
    {"--recipe": "IN/recipe.json"}, {"--resample-block": "0,0", "--resample-mask": "IN/mask.png"},
    {"--network": "IN/plain.pkl", "--resample-block": "0,0"}, {"--trunc": "nan"}, {"--trunc": "inf"},
    {"--network": "IN/labelled.pkl"}, {"--network": "IN/labelled.pkl", "--class": "3"}, {"--device": "tpu"},
    {"--device": "cuda:99"}, {"--device": ""},
]  # fmt: skip

WORKING: dict[str, Overrides] = {
    "train": {"--outdir": "OUT/out", "--data": "IN/images", "--metrics": "none", "--gpus": "0", "--dry-run": True},
    "generate": {"--network": "IN/ssn.pkl", "--seeds": "1", "--outdir": "OUT/out"},
    "dataset_tool": {"--source": "IN/images", "--dest": "OUT/out.zip", "--workers": "1"},
    "calc_metrics": {"--network": "IN/ssn.pkl", "--metrics": "ssn_distortion2", "--gpus": "0", "--verbose": "0"},
    "calc_metrics report": {"first": "IN/metric-fid50k.jsonl", "second": "IN/metric-again.jsonl"},
    "legacy": {"--source": "IN/plain.pkl", "--dest": "OUT/out.pkl"},
    "projector": {"--network": "IN/plain.pkl", "--target": "IN/images/0.png", "--outdir": "OUT/out",
                  "--num-steps": "1", "--loss": "mse", "--candidates": "0", "--save-video": "0"},
    "style_mixing": {"--network": "IN/plain.pkl", "--rows": "1", "--cols": "2", "--styles": "0-1",
                     "--outdir": "OUT/out"},
    "plugin transfer": {"source": "IN/plain.pkl", "dest": "OUT/out.pkl", "--blocks": "2x2"},
    "plugin convert": {"source": "IN/plain.pkl", "dest": "OUT/out.safetensors"},
    "plugin export": {"source": "IN/plain.pkl", "outdir": "OUT/out", "--format": "torch"},
    "reference generate": {"--network": "IN/ssn.pkl", "--seeds": "1", "--outdir": "OUT/out"},
    "reference metrics": {"--network": "IN/ssn.pkl", "--metrics": "ssn_distortion2", "--verbose": "0"},
    "reference train": {"--outdir": "OUT/out", "--data": "IN/images", "--metrics": "none", "--dry-run": True},
    "plugin doctor": {"--cfg": "ssn", "--resolution": "8", "--gpus": "0", "--batch": "1", "--outdir": "OUT/out"},
}

TRAIN: list[Overrides] = [
    *({"--data": made} for made in IMAGES),
    *({"--data": make(images), "--cond": "1"} for make in (folder_with, zip_with)
      for images in (labels_of_some, bad_labels, bad_labels, bad_labels)),
    *({"--resume": made, "--dry-run": None} for made in (missing, empty_folder)),
    *({"--cfg": "ssn", "--resume": made} for made in (bad_network, bad_network, swapped_network)),
    *({"--gamma": text} for text in ("nan", "-1", "inf")), *({"--tick": text} for text in ("0", "nan", "-2", "inf")),
    *({option: text} for option in ("--kimg", "--batch", "--snap", "--workers", "--subset") for text in ("0", "-3")),
    {"--gpus": "3"}, {"--gpus": "-1"}, {"--seed": "-1"}, {"--seed": str(2**70)}, {"--freezed": "-1"},
    {"--g-arch": "dense"}, {"--d-arch": "none"},
    {"--subset": "99"},
    {"--metrics": "beauty"}, {"--metrics": "fid50k_full,"}, {"--aug": "fixed"}, {"--aug": "fixed", "--p": "2"},
    {"--aug": "fixed", "--p": "nan"}, {"--p": "0.5"}, {"--aug": "noaug", "--target": "0.5"}, {"--target": "nan"},
    {"--target": "-0.1"}, {"--aug": "noaug", "--augpipe": "bgc"}, {"--augpipe": "bgcf"}, {"--cond": "1"},
    {"--trust-pickle": True}, {"--batch": "7", "--gpus": "2"}, {"--cfg": "cifar", "--batch": "33"},
    {"--outdir": None}, {"--data": None}, {"--data": ""}, {"--lambda": "1"},
    *({"--cfg": "ssn", option: text} for option, text in [
        ("--blocks", "3x3"), ("--blocks", "4"), ("--blocks", "0x0"), ("--blocks", "16x16"), ("--blocks", "-1x4"),
        ("--lambda", "-1"), ("--lambda", "nan"), ("--pl-outside", "-1"), ("--distortion-interval", "0"),
        ("--style-resolution", "3"), ("--style-resolution", "-4"), ("--block-dim", "0"), ("--encoder", "dense"),
        ("--encoder-init", "ones"),
    ]),
]  # fmt: skip

WRONG: dict[str, list[Overrides]] = {
    "train": TRAIN,
    "generate": [
        *NETWORK, *OUTDIR, *EDITS,
        *({"--seeds": None, "--projected-w": made} for made in [bad_latents] * 8 + [missing]),
        {"--seeds": None, "--projected-w": "IN/recipe.json"}, {"--noise-mode": "loud"},
    ],
    "dataset_tool": [
        *({"--source": made} for made in IMAGES),
        *({"--source": make(images)} for images in (one_bad_image, one_other_size, bad_labels)
          for make in (folder_with, zip_with) for _ in range(3)),
        *({"--source": made} for made in (zip_with_wrong_checksums, bad_lmdb, bad_cifar10, bad_cifar10, bad_mnist,
                                          bad_mnist, bad_archive("cifar-10-python.tar.gz"), bad_archive("x.tar"))),
        *({"--source": make(one_bad_image), "--dest": "OUT/out"} for make in (folder_with, zip_with)),
        *({"--dest": made} for made in (a_file, below_a_file)), {"--dest": "IN/images"}, {"--source": None},
        {"--dest": None}, {"--source": ""}, {"--resolution": "0x0"}, {"--resolution": "7x7"},
        {"--resolution": "axb"}, {"--resolution": "8"}, {"--resolution": "8x8", "--width": "8"}, {"--width": "7"},
        {"--transform": "center-crop"}, {"--transform": "center-crop", "--width": "8"}, {"--max-images": "0"},
        {"--source": "castles", "--resolution": "5x5"},
    ],
    "calc_metrics": [
        *NETWORK,
        *({"--metrics": text} for text in ("beauty", "fid", "", "fid50k_ful", "ssn_distortion0", "fid-5", ",")),
        {"--data": missing}, *({"--metrics": "swd4", "--data": made} for made in IMAGES),
        {"--classifiers": missing}, {"--detectors": missing}, {"--detectors": a_file}, {"--outdir": below_a_file},
        {"--network": "IN/plain.pkl"}, {"--metrics": "ls4", "--classifiers": text_file},
        {"--metrics": "ppl4_wend", "--ppl-histogram": True},
    ],
    "calc_metrics report": [
        *({"first": bad_results} for _ in range(4)), {"second": None},
        *({"second": made} for made in (bad_results, missing, empty_folder)),
    ],
    "legacy": [
        *({"--source": made} for made in (missing, *[bad_network] * 8, swapped_network, empty_folder)),
        {"--dest": "OUT/out.onnx"}, {"--dest": "OUT/out"}, {"--dest": ""}, {"--dest": below_a_file},
        {"--source": None}, {"--dest": None}, {"--dest": "OUT/out/none/x.pkl"}, {"--force-fp16": "maybe"},
    ],
    "projector": [
        *NETWORK, *OUTDIR, *({"--target": made} for made in (bad_image, bad_image, bad_image, missing, empty_folder)),
        {"--target": None}, {"--num-steps": "0"}, {"--device": "tpu"},
        {"--network": "IN/labelled.pkl"}, {"--loss": "lpips", "--detectors": missing},
    ],
    "style_mixing": [
        *NETWORK, *OUTDIR,
        *({option: text} for option in ("--rows", "--cols") for text in ("", "a", "3-1", "-1", None)),
        *({"--styles": text} for text in ("", "a", "0-99", "-1", "2-1")), {"--trunc": "nan"}, {"--device": "tpu"},
        {"--network": "IN/labelled.pkl"},
    ],
    "plugin transfer": [
        *({"source": made} for made in (missing, bad_network, bad_network, swapped_network)), {"source": None},
        {"dest": "OUT/out.onnx"}, {"dest": below_a_file}, {"--blocks": "3x3"}, {"--blocks": "16x16"}, {"--blocks": ""},
        {"--style-resolution": "3"}, {"--seed": "-1"}, {"source": "IN/ssn.pkl", "--blocks": "4x4", "dest": "OUT/out"},
    ],
    "plugin convert": [
        *({"source": made} for made in (missing, bad_network, bad_network, bad_network, swapped_network)),
        {"dest": "OUT/out.onnx"}, {"dest": below_a_file}, {"dest": None}, {"dest": ""},
    ],
    "plugin export": [
        *({"source": made} for made in (missing, bad_network, swapped_network)), {"outdir": below_a_file},
        {"outdir": "IN/images"}, {"outdir": None}, {"--format": "coreml"}, {"--dtype": "int8"}, {"--inputs": "pose"},
        {"--inputs": "noise,noise"}, {"--inputs": "mask"}, {"--format": "page"}, {"--runtime": "OUT/none"},
    ],
    "reference generate": [*NETWORK, *OUTDIR, *EDITS],
    "reference metrics": [*NETWORK, {"--metrics": "beauty"}, {"--data": missing}, {"--network": "IN/plain.pkl"}],
    "reference train": [{"--data": missing}, {"--cfg": "ssn", "--blocks": "5x5"}, {"--data": None}, {"--lambda": "2"}],
    "plugin doctor": [{"--cfg": "huge"}, {"--resolution": "7"}, {"--resolution": "x"}, {"--cfg": "ssn", "--gpus": "3"}],
}

NUMBER_OF_CASES = {
    "train": 70, "generate": 55, "dataset_tool": 45, "calc_metrics": 25, "calc_metrics report": 5, "legacy": 20,
    "projector": 18, "style_mixing": 18, "plugin transfer": 10, "plugin convert": 8, "plugin export": 8,
    "reference generate": 12, "reference metrics": 6, "reference train": 4, "plugin doctor": 4,
}  # fmt: skip


def wrong_values(param: click.Parameter, rng: random.Random) -> list[Overrides]:
    """Values that the type of an option excludes."""
    if not isinstance(param, click.Option) or param.nargs != 1:
        return []
    flag = max(param.opts, key=len)
    if param.is_flag:
        return [{f"{flag}=1": True}]
    kind = param.type
    texts = []
    if isinstance(kind, (click.types.IntParamType, click.types.FloatParamType)):
        texts = [rng.choice(["", "x", "1,5", "0x10", "--", "1 2", "\N{SUPERSCRIPT TWO}"])]
    if isinstance(kind, click.IntRange):
        texts += [str(kind.min - 1)] if kind.min is not None else []
        texts += [str(kind.max + 1)] if kind.max is not None else []
    if isinstance(kind, click.Choice):
        texts = [rng.choice(["", "none of them", str(kind.choices[0]) + "x"])]
    if isinstance(kind, click.types.BoolParamType):
        texts = [rng.choice(["maybe", "2", "-"])]
    return [{flag: text} for text in texts]


def make_cases(command: str, params: list[click.Parameter], seed: int) -> list[Overrides]:
    """As many things that can be wrong with a command as it has cases, all of `WRONG` first come, in mixed order."""
    rng = random.Random(f"{seed} {command}")
    by_type = [wrong for param in params for wrong in wrong_values(param, rng)] + [{"--no-such-option": "1"}]
    listed, by_type = rng.sample(WRONG[command], len(WRONG[command])), rng.sample(by_type, len(by_type))
    count = NUMBER_OF_CASES[command]
    num_by_type = min(len(by_type), max(count // 4, count - len(listed)))
    cases = listed[: count - num_by_type] + by_type[:num_by_type]
    return [cases[i % len(cases)] for i in range(count)]


def command_line(command: str, wrong: Overrides, rng: random.Random, folder: Path, good: Path) -> Case:
    """The words of the command with `wrong` in place of what works. Files are written below `folder`."""
    words, what = [], []
    for name, value in {**WORKING[command], **wrong}.items():
        if value is None:
            what.append(f"no {name}")
            continue
        text = value(rng, folder, good) if callable(value) else value
        if isinstance(text, str):
            text = text.replace("IN/", f"{good}/").replace("OUT/", f"{folder}/")
        is_option, is_switch = name.startswith("-"), text is True
        words.append(text if not is_option else name if is_switch else f"{name}={text}")
        if name in wrong:
            what.append(words[-1])
    return Case(command, words, ", ".join(what))
