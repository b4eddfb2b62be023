"""Sources that other projects publish: LSUN, CIFAR-10 and MNIST, in good and in bad condition."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from dataset_tool import main
from training.data.array_sources import CIFAR10_CLASSES
from training.data.dataset_conversion import ConversionOptions, convert_dataset
from training.dataset import ImageFolderDataset

NUM = 4   # images of a batch


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(256, size=shape).astype(np.uint8)


def refused(source: Path, *words: str, options: tuple[str, ...] = ()) -> None:
    """The command ends with exit code 2 and one line that has all the words, and writes nothing."""
    dest = source.parent / "out.zip"
    result = CliRunner().invoke(main, [f"--source={source}", f"--dest={dest}", *options])
    lines = result.output.splitlines()
    assert result.exit_code == 2 and len(lines) == 1 and lines[0].startswith("Error: "), result.output
    assert all(word in lines[0] for word in words), lines[0]
    assert not dest.exists() and not any(name.startswith(".") for name in os.listdir(source.parent))


# CIFAR-10


def python2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 pickled it: short and long byte strings, an array whose content is such a string."""
    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + integer(0) + b"\x85" + string(b"b") + b"\x87R("
        + integer(1) + integer(len(data)) + integer(3072) + b"\x86"
        + b"cnumpy\ndtype\n" + string(b"u1") + integer(0) + integer(1) + b"\x87R(" + integer(3) + string(b"|") + b"NNN"
        + integer(-1) + integer(-1) + integer(0) + b"tb\x89" + string(data.tobytes()) + b"tb"
    )
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return (b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"training batch 1 of 5") + string(b"labels") + listed
            + string(b"data") + array + string(b"filenames") + b"](" + string(b"a.png") + b"eu.")


def cifar_tar(folder: Path, batches: list[bytes], name: str = "cifar-10-python.tar.gz") -> Path:
    with tarfile.open(folder / name, "w:gz") as archive:
        for number, data in enumerate(batches[::-1]):   # the order in the archive does not matter
            info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{len(batches) - number}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return folder / name


def good_batches() -> list[bytes]:
    return [python2_pickle(pixels(NUM, 3072, seed=i), [i, 9, 0, i]) for i in range(5)]


def test_the_batches_of_this_test_are_what_pickle_reads():
    batch = pickle.loads(good_batches()[1], encoding="latin1")
    np.testing.assert_array_equal(batch["data"], pixels(NUM, 3072, seed=1))
    assert batch["labels"] == [1, 9, 0, 1] and list(batch) == ["batch_label", "labels", "data", "filenames"]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar10_gives_the_training_images_in_order_with_labels(tmp_path, protocol):
    batches = good_batches()
    batches[3:] = [pickle.dumps({"data": pixels(NUM, 3072, seed=i), "labels": [i, 9, 0, i]}, protocol) for i in (3, 4)]
    dest = str(tmp_path / "out.zip")
    summary = convert_dataset(str(cifar_tar(tmp_path, batches)), dest)
    dataset = ImageFolderDataset(dest, use_labels=True)
    assert len(dataset) == summary.num_images == 5 * NUM
    for i in range(5 * NUM):
        planes = pixels(NUM, 3072, seed=i // NUM)[i % NUM].reshape(3, 32, 32)   # red, green, blue
        np.testing.assert_array_equal(dataset[i][0], planes)
        assert dataset.get_details(i).raw_label == [i // NUM, 9, 0, i // NUM][i % NUM]


def test_cifar10_says_what_its_classes_are(tmp_path):
    result = CliRunner().invoke(main, [f"--source={cifar_tar(tmp_path, good_batches())}", f"--dest={tmp_path / 'out'}"])
    assert result.output.splitlines()[0].startswith("20 images (32x32 RGB, labels of 10 classes, 4 empty)")
    assert result.output.splitlines()[1] == "  class 0: airplane (7 images)"
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["class_names"] == list(CIFAR10_CLASSES)


def test_options_apply_to_cifar10_too(tmp_path):
    options = ConversionOptions(max_images=6, width=16, height=16, resize_filter="box", force_channels=1, workers=2)
    convert_dataset(str(cifar_tar(tmp_path, good_batches())), str(tmp_path / "out.zip"), options)
    dataset = ImageFolderDataset(str(tmp_path / "out.zip"), use_labels=True)
    assert len(dataset) == 6 and dataset.image_shape == [1, 16, 16]
    planes = pixels(NUM, 3072, seed=1)[1].reshape(3, 16, 2, 16, 2).astype(float).mean(axis=(2, 4))
    luma = np.tensordot([0.299, 0.587, 0.114], planes, axes=1)
    np.testing.assert_allclose(dataset[5][0][0], luma, atol=2)   # rounded twice


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("batch, words", [
    (pickle.dumps(Bomb()), ["asks for posix.system"]),
    (pickle.dumps({"data": Bomb(), "labels": []}), ["asks for posix.system"]),
    (b"", ["not a batch"]),
    (b"\x80\x02}.", ["rows of 3072 bytes"]),
    (pickle.dumps([1, 2], 2), ["rows of 3072 bytes"]),
    (good_batches()[0][:5000], ["not a readable pickle"]),
    (pickle.dumps({"data": pixels(4, 100), "labels": [0] * 4}, 2), ["rows of 3072 bytes"]),
    (pickle.dumps({"data": pixels(4, 3072).astype(float), "labels": [0] * 4}, 2), ["rows of 3072 bytes"]),
    (python2_pickle(pixels(4, 3072), [0, 1]), ["a label for each of its 4 images"]),
    (python2_pickle(pixels(4, 3072), [0, 1, 2, 10]), ["labels must be integers in 0..9, got 10"]),
    (python2_pickle(pixels(4, 3072), [0, 1, 2, -1]), ["labels must be integers in 0..9, got -1"]),
])
def test_bad_batches_are_refused_in_one_line(tmp_path, monkeypatch, batch, words):
    monkeypatch.chdir(tmp_path)
    source = cifar_tar(tmp_path, [*good_batches()[:2], batch, *good_batches()[3:]])
    refused(source, "cifar-10-python.tar.gz: cifar-10-batches-py/data_batch_3", *words)
    assert not (tmp_path / "exploded").exists()


def tar_header(kind: bytes) -> bytes:
    """A header that describes the member after it."""
    info = tarfile.TarInfo("x")
    info.type = kind
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize("data, words", [
    (b"", ["is not a readable tar archive"]),
    (b"text", ["is not a readable gzip file"]),
    (gzip.compress(b"text" * 500), ["is not a readable tar archive"]),
    (gzip.compress(tar_header(b"x") * 5000 + bytes(1024)), ["is not a readable tar archive", "recursion"]),
    (gzip.compress(bytes(10240)), ["has no cifar-10-batches-py/data_batch_1", "only cifar-10-python.tar.gz"]),
], ids=["empty", "text", "zipped text", "endless headers", "no batches"])
def test_other_archives_are_refused(tmp_path, data, words):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(data)
    refused(path, *words)


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.array_sources.MAX_BYTES", 10**5)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(gzip.compress(bytes(10**6)))
    refused(path, "unpacks to more than 100000 bytes")


def test_damaged_cifar10_files_give_wrong_images_or_one_line(tmp_path):
    source = cifar_tar(tmp_path, good_batches())
    tar, rng = gzip.decompress(source.read_bytes()), random.Random(0)
    codes = []
    for i in range(60):
        damaged = bytearray(tar)
        for _ in range(rng.choice([1, 10, 100])):   # in the headers and the first bytes of the members
            damaged[rng.randrange(len(tar) // 512) * 512 + rng.randrange(512 if i % 2 else 60)] = rng.randrange(256)
        source.write_bytes(gzip.compress(bytes(damaged), 1)[: None if i % 10 else rng.randrange(1000)])
        result = CliRunner().invoke(main, [f"--source={source}", f"--dest={tmp_path / 'out.zip'}"])
        codes.append(result.exit_code)
        assert result.exit_code == 0 or len(result.output.splitlines()) == 1, result.output
    assert set(codes) == {0, 2}


# MNIST


def write_mnist(folder: Path, images: np.ndarray, labels: list[int]) -> Path:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, *images.shape) + images.tobytes()))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(struct.pack(">II", 0x801, len(labels)) + bytes(labels)))
    return path


def test_mnist_gives_padded_gray_images_with_labels(tmp_path):
    source = write_mnist(tmp_path, pixels(5, 28, 28), [5, 0, 4, 1, 9])
    convert_dataset(str(source), str(tmp_path / "out.zip"))
    dataset = ImageFolderDataset(str(tmp_path / "out.zip"), use_labels=True)
    assert [int(dataset.get_details(i).raw_label) for i in range(5)] == [5, 0, 4, 1, 9]
    for i in range(5):
        image, = dataset[i][0]
        np.testing.assert_array_equal(image[2:30, 2:30], pixels(5, 28, 28)[i])
        assert image.shape == (32, 32) and image.astype(int).sum() == pixels(5, 28, 28)[i].astype(int).sum()


def test_mnist_without_its_labels_is_refused(tmp_path):
    source = write_mnist(tmp_path, pixels(2, 28, 28), [0, 1])
    os.remove(tmp_path / "train-labels-idx1-ubyte.gz")
    refused(source, "no such file", "train-labels-idx1-ubyte.gz")


@pytest.mark.parametrize("images, labels, words", [
    (pixels(3, 28, 28), [0, 1], ["labels-idx1-ubyte.gz has 2 labels", "has 3 images"]),
    (pixels(2, 20, 28), [0, 1], ["images must be 28x28, they are 28x20"]),
    (pixels(0, 28, 28), [], ["contains no image"]),
])
def test_mnist_files_that_do_not_fit_are_refused(tmp_path, images, labels, words):
    refused(write_mnist(tmp_path, images, labels), *words)


@pytest.mark.parametrize("data, words", [
    (b"text", ["is not a readable gzip file"]),
    (gzip.compress(b"text"), ["must begin with the bytes 00000803", "got 74657874"]),
    (gzip.compress(struct.pack(">I", 0x803)), ["must begin"]),
    (gzip.compress(struct.pack(">IIII", 0x803, 2, 28, 28)), ["must hold 2x28x28 bytes", "it holds 0"]),
    (gzip.compress(struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)), ["must hold 4294967295x"]),
    (gzip.compress(struct.pack(">IIII", 0x803, 1, 28, 28) + bytes(785)), ["it holds 785"]),
    (gzip.compress(struct.pack(">IIII", 0x803, 1, 28, 28) + bytes(784))[:-9], ["is not a readable gzip file"]),
], ids=["text", "zipped text", "no sizes", "no pixels", "huge", "a byte more", "cut short"])
def test_bad_idx_files_are_refused(tmp_path, data, words):
    source = write_mnist(tmp_path, pixels(1, 28, 28), [0])
    source.write_bytes(data)
    refused(source, "train-images-idx3-ubyte.gz", *words)


# LSUN


def write_lsun(folder: Path, values: dict[bytes, bytes]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(folder), map_size=2**24) as env, env.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return folder


def encoded(image: np.ndarray, kind: str = "png", **params) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, kind, **params)
    return buffer.getvalue()


def test_lsun_gives_its_images_in_the_order_of_their_keys(tmp_path):
    images = {b"%02x" % i: pixels(40, 60, 3, seed=i) for i in (7, 1, 4)}
    source = write_lsun(tmp_path / "church_lmdb", {
        key: encoded(image, kind, **params) for (key, image), (kind, params) in
        zip(images.items(), [("png", {}), ("webp", {"lossless": True}), ("bmp", {})])
    })
    for workers, path in ((1, str(source)), (2, f"{source}/")):
        dest = str(tmp_path / f"{workers}.zip")
        convert_dataset(path, dest, ConversionOptions(transform="center-crop", width=32, height=32, workers=workers))
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    dataset = ImageFolderDataset(str(tmp_path / "1.zip"))
    for i, key in enumerate(sorted(images)):
        square = PIL.Image.fromarray(images[key]).crop((10, 0, 50, 40)).resize((32, 32), PIL.Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(dataset[i][0], np.asarray(square).transpose(2, 0, 1))


def test_broken_images_of_lsun_are_named_by_their_keys(tmp_path):
    source = write_lsun(tmp_path / "church_lmdb", {b"a0": encoded(pixels(8, 8)), b"b1": b"text", b"c2": b""})
    refused(source, "church_lmdb", "cannot read b1: not an image")
    result = CliRunner().invoke(main, [f"--source={source}", f"--dest={tmp_path / 'out.zip'}", "--skip-bad"])
    assert result.output.startswith("1 images (8x8 gray, no labels, 2 bad ones skipped)")
    assert "b1" in result.output.splitlines()[1] and "c2" in result.output.splitlines()[2]


@pytest.fixture
def church(tmp_path) -> Path:
    """An LSUN folder whose images are longer than a page and differ in length."""
    images = {b"church%02d" % i: encoded(pixels(64, 64, 3, seed=i), "bmp") + bytes(50 * i) for i in range(20)}
    return write_lsun(tmp_path / "church_lmdb", images)


def test_lsun_files_that_are_cut_short_are_refused(church):
    path = church / "data.mdb"
    size = path.stat().st_size
    for missing in (1, size // 2, size - 9000):
        os.truncate(path, size - missing)
        refused(church, f"data.mdb is cut short: it has {size - missing} bytes, its pages take {size}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_lsun_file_that_kills_its_readers_is_one_line(church, workers):
    path = church / "data.mdb"
    data = bytearray(path.read_bytes())
    length_of_value = data.index(b"church11") - 8
    struct.pack_into("<HH", data, length_of_value, 0xFFFF, 0x0FFF)   # the lower half first: far beyond the end
    path.write_bytes(data)
    refused(church, "church_lmdb: a worker process died: memory ran out", "or a damaged file crashed its reader",
            options=("--skip-bad", f"--workers={workers}"))


@pytest.mark.parametrize("page_size", [0, 2**20, 2**31])
def test_a_damaged_page_size_of_an_lsun_file_is_one_line(church, page_size):
    data = bytearray((church / "data.mdb").read_bytes())
    for meta_page in (0, 4096):
        struct.pack_into("<I", data, meta_page + 40, page_size)   # some versions of the library divide by it
    (church / "data.mdb").write_bytes(data)
    refused(church, "data.mdb is")


def test_damaged_lsun_files_give_a_data_set_or_one_line(church):
    path, dest = church / "data.mdb", church.parent / "out.zip"
    data, rng, codes = path.read_bytes(), random.Random(0), set()
    for _ in range(8):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 20, 200])):   # in the headers of pages and the first entries of their tables
            damaged[rng.randrange(len(data) // 4096) * 4096 + rng.randrange(64)] = rng.randrange(256)
        path.write_bytes(damaged)
        result = CliRunner().invoke(main, [f"--source={church}", f"--dest={dest}"])
        codes.add(result.exit_code)
        assert len(result.output.splitlines()) == 1 and result.exit_code in (0, 2), result.output
        assert result.exit_code == 0 or "church_lmdb" in result.output
    assert codes == {0, 2}


def test_lsun_without_its_library_is_one_line(church, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    refused(church, "LSUN needs the package lmdb")


def test_lsun_folders_without_a_database_or_with_another_file_are_refused(tmp_path):
    (tmp_path / "void_lmdb").mkdir()
    refused(tmp_path / "void_lmdb", "data.mdb", "No such file")
    (tmp_path / "void_lmdb" / "data.mdb").write_bytes(b"text" * 100)
    refused(tmp_path / "void_lmdb", "data.mdb is not a readable LMDB file")


@pytest.mark.parametrize("make", [
    lambda path: write_lsun(path / "church_lmdb", {b"a": encoded(pixels(8, 8))}),
    lambda path: cifar_tar(path, good_batches()),
    lambda path: write_mnist(path, pixels(1, 28, 28), [0]),
])
def test_only_image_files_have_subfolders(tmp_path, make):
    refused(make(tmp_path), "subfolders-as-labels needs a folder or .zip", options=("--subfolders-as-labels",))
