"""Reading images and labels from folders and zips."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dnnlib.util import UserError
from training.data.image_files import ImageArchive
from training.dataset import Dataset, ImageFolderDataset

ROOT = Path(__file__).resolve().parent.parent


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def pattern(i: int, shape=(4, 4, 3)) -> np.ndarray:
    return ((np.arange(np.prod(shape)) * (i + 1)) % 251).astype(np.uint8).reshape(shape)


def write_zip(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def write_folder(path: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)


def images(count: int = 3) -> dict[str, bytes]:
    return {f"00000/img{i:08d}.png": png(pattern(i)) for i in range(count)}


def labelled(labels, count: int = 3) -> dict[str, bytes]:
    files = images(count)
    entries = None if labels is None else [[name, label] for name, label in zip(files, labels)]
    return {**files, "dataset.json": json.dumps({"labels": entries}).encode()}


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_images_come_sorted_by_path_as_channels_first(tmp_path, write):
    files = {"b.png": png(pattern(2)), "a/z.png": png(pattern(1)), "a/B.PNG": png(pattern(0)), "notes.txt": b"no"}
    dataset = ImageFolderDataset(write(tmp_path / "set.zip", files))
    assert len(dataset) == 3 and dataset.image_shape == [3, 4, 4] and dataset.resolution == 4
    for i in range(3):
        image, label = dataset[i]
        np.testing.assert_array_equal(image, pattern(i).transpose(2, 0, 1))
        assert image.dtype == np.uint8 and label.shape == (0,) and label.dtype == np.float32


def test_name_is_that_of_the_file_without_extension(tmp_path):
    assert ImageFolderDataset(write_zip(tmp_path / "my.set.ZIP", images())).name == "my.set"
    assert ImageFolderDataset(write_folder(tmp_path / "cats", images()) + "/").name == "cats"


def test_gray_images_have_one_channel(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "g.zip", {"a.png": png(pattern(0, (4, 4)))}))
    assert dataset.image_shape == [1, 4, 4] and dataset.num_channels == 1


def test_items_are_copies(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", labelled([[1.0], [2.0], [3.0]])), use_labels=True)
    image, label = dataset[1]
    image[:], label[:] = 0, 0
    assert dataset[1][0].any() and dataset[1][1] == 2


def test_integer_labels_become_one_hot_over_all_classes_of_the_file(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", labelled([0, 4, 1])), use_labels=True, max_size=1)
    assert dataset.label_shape == [5] and dataset.label_dim == 5 and dataset.has_labels and dataset.has_onehot_labels
    raw_idx = dataset.get_details(0).raw_idx
    np.testing.assert_array_equal(dataset.get_label(0), np.eye(5, dtype=np.float32)[[0, 4, 1][raw_idx]])
    assert dataset.get_details(0).raw_label == [0, 4, 1][raw_idx]


def test_vector_labels_are_used_as_they_are(tmp_path):
    vectors = [[0.5, 1], [2, -3], [0, 0]]
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", labelled(vectors)), use_labels=True)
    np.testing.assert_array_equal([dataset[i][1] for i in range(3)], vectors)
    assert dataset.label_dim == 2 and not dataset.has_onehot_labels


@pytest.mark.parametrize("files", [labelled(None), images(), labelled([])])
def test_a_set_without_labels_says_so(tmp_path, files):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", files), use_labels=True)
    assert not dataset.has_labels and dataset.label_dim == 0


def test_labels_are_not_read_unless_asked_for(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", {**images(), "dataset.json": b"broken"}))
    assert not dataset.has_labels


def test_labels_are_read_once_when_first_asked_for():
    reads = []

    class Labelled(Dataset):
        def _load_raw_labels(self):
            reads.append(True)
            return np.array([0, 6, 2], dtype=np.int64)

    dataset = Labelled("toy", [3, 3, 4, 4], use_labels=True)
    assert not reads
    for i in range(3):
        np.testing.assert_array_equal(dataset.get_label(i), np.eye(7)[[0, 6, 2][i]])
    assert dataset.label_shape == [7] and len(reads) == 1


@pytest.mark.parametrize("labels", [np.zeros([2], np.int64), np.zeros([3], np.float32), np.zeros([3, 1], np.int64)])
def test_labels_of_a_subclass_are_checked(labels):
    class Wrong(Dataset):
        def _load_raw_labels(self):
            return labels

    with pytest.raises(ValueError, match=r"toy: labels must be int64 \[3\] or float32 \[3, width\], got"):
        _ = Wrong("toy", [3, 3, 4, 4], use_labels=True).label_dim


def test_subset_is_random_sorted_and_reproducible(tmp_path):
    path = write_zip(tmp_path / "s.zip", images(20))

    def chosen(seed):
        dataset = ImageFolderDataset(path, max_size=8, random_seed=seed)
        return [dataset.get_details(i).raw_idx for i in range(len(dataset))]

    order = np.arange(20)
    np.random.RandomState(5).shuffle(order)
    assert chosen(5) == sorted(order[:8])
    assert chosen(5) != chosen(6)


def test_xflip_appends_a_mirrored_copy_of_the_subset(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", images(5)), max_size=3, xflip=True)
    assert len(dataset) == 6
    for i in range(3):
        np.testing.assert_array_equal(dataset[i + 3][0], dataset[i][0][:, :, ::-1])
        assert dataset.get_details(i).xflip is False and dataset.get_details(i + 3).xflip is True


def test_a_pickled_copy_reads_the_same_and_carries_no_open_file(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", labelled([0, 1, 2])), use_labels=True)
    before = dataset[2]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._archive._zip is None and "_labels" not in vars(copy)
    np.testing.assert_array_equal(copy[2][0], before[0])
    np.testing.assert_array_equal(copy[2][1], before[1])


def test_closing_is_temporary(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", images()))
    dataset.close()
    np.testing.assert_array_equal(dataset[0][0], pattern(0).transpose(2, 0, 1))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the system cannot fork")
def test_a_forked_process_reads_through_its_own_handle(tmp_path):
    # In a process of its own: forking one that runs threads, as the test process may, is unsafe.
    write_zip(tmp_path / "s.zip", images(3))
    code = (
        "import os, sys\n"
        "from training.data.image_files import ImageArchive\n"
        "archive = ImageArchive(sys.argv[1]); archive.read(archive.image_names[0]); parent = archive._zip\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    archive.read(archive.image_names[0]); os._exit(0 if archive._zip is not parent else 1)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "archive.read(archive.image_names[1]); assert archive._zip is parent\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.zip")], check=True, cwd=ROOT)


def test_shapes_of_a_subclass_are_checked():
    class Wrong(Dataset):
        def _load_raw_image(self, raw_idx):
            return np.zeros([3, 4, 5], dtype=np.uint8)

    with pytest.raises(ValueError, match=r"toy: image 0 must be uint8 of shape \[3, 4, 4\], got .*\[3, 4, 5\]"):
        Wrong("toy", [1, 3, 4, 4])[0]


def test_a_missing_path_an_empty_folder_and_a_text_file_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "fake.zip").write_text("hello")
    (tmp_path / "empty").mkdir()
    for path, message in [("gone.zip", "no such folder or zip"), ("notes.txt", "folder or a .zip"),
                          ("fake.zip", "not a readable zip"), ("empty", "contains no image")]:
        with pytest.raises(OSError, match=message) as caught:
            ImageFolderDataset(str(tmp_path / path))
        assert path in str(caught.value) and "\n" not in str(caught.value)


def test_another_resolution_than_asked_is_refused(tmp_path):
    with pytest.raises(OSError, match="must be 8x8, 00000/img00000000.png is 4x4 RGB"):
        ImageFolderDataset(write_zip(tmp_path / "s.zip", images()), resolution=8)


def test_resolution_of_images_that_are_not_square_is_refused(tmp_path):
    dataset = ImageFolderDataset(write_zip(tmp_path / "wide.zip", {"a.png": png(pattern(0, (4, 6, 3)))}))
    with pytest.raises(ValueError, match="wide: images must be square, they are 6x4"):
        _ = dataset.resolution


@pytest.mark.parametrize("pixels, found", [
    (pattern(1, (8, 8, 3)), "8x8 RGB"), (pattern(1, (4, 4)), "4x4 gray"), (pattern(1, (4, 4, 4)), "4x4 RGBA"),
])
def test_an_image_unlike_the_first_is_named(tmp_path, pixels, found):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", {**images(), "00000/odd.png": png(pixels)}))
    with pytest.raises(ValueError, match=f"s.zip: all images must be alike, 00000/odd.png is {found} and .* 4x4 RGB"):
        dataset[3]


def test_a_palette_image_is_read_in_its_colours(tmp_path):
    buffer, image = io.BytesIO(), PIL.Image.fromarray(pattern(0)).convert("P")
    image.save(buffer, format="png")
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", {"a.png": buffer.getvalue()}))
    np.testing.assert_array_equal(dataset[0][0], np.asarray(image.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"text"])
@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_a_damaged_image_is_named(tmp_path, write, damage):
    files = images(4)
    files["00000/img00000002.png"] = damage(png(pattern(2, (64, 64, 3))))
    dataset = ImageFolderDataset(write(tmp_path / "s.zip", files))
    with pytest.raises(OSError, match="s.zip: cannot read 00000/img00000002.png: ") as caught:
        dataset[2]
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


def test_a_flipped_byte_in_a_zip_is_named(tmp_path):
    path = tmp_path / "s.zip"
    data = bytearray(Path(write_zip(path, images())).read_bytes())
    data[data.index(b"IDAT") + 8] ^= 255
    path.write_bytes(data)
    with pytest.raises(OSError, match="cannot read 00000/img00000000.png: Bad CRC"):
        ImageFolderDataset(str(path))


def test_a_file_that_unpacks_to_too_much_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.image_files.MAX_FILE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    with pytest.raises(OSError, match="a.png: unpacks to 1000000 bytes, the limit is 1000"):
        ImageFolderDataset(str(tmp_path / "bomb.zip"))


@pytest.mark.parametrize("content, message", [
    (b"{", "is not valid JSON"),
    (b"[" * 100_000, "is not valid JSON"),
    (b"\xff\xfe{}", "is not valid JSON"),
    (b"{}", 'must be an object with "labels": a list or null'),
    (b"[]", 'must be an object with "labels": a list or null'),
    (b'{"labels": {"a": 1}}', 'must be an object with "labels": a list or null'),
    (b'{"labels": [1]}', r"entry 0 must be \[file name, label\], got 1"),
    (b'{"labels": [["a.png", 1, 2]]}', "entry 0 must be"),
    (b'{"labels": [[3, 1]]}', "entry 0 must be"),
    (b'{"labels": [["a.png", "cat"]]}', 'the label of a.png must be an integer .* got "cat"'),
    (b'{"labels": [["a.png", -1]]}', "got -1"),
    (b'{"labels": [["a.png", 1.5]]}', "got 1.5"),
    (b'{"labels": [["a.png", true]]}', "got true"),
    (b'{"labels": [["a.png", 1e400]]}', "got Infinity"),
    (b'{"labels": [["a.png", 10000000000]]}', "got 10000000000"),
    (b'{"labels": [["a.png", [1, NaN]]]}', r"got \[1, NaN\]"),
    (b'{"labels": [["a.png", [[1]]]]}', r"got \[\[1\]\]"),
    (b'{"labels": [["a.png", 1], ["b.png", [1]]]}', r"all labels must be .* b.png has \[1\] and a.png has 1"),
    (b'{"labels": [["a.png", [1]], ["b.png", [1, 2]]]}', "all labels must be .* b.png"),
    (b'{"labels": [["a.png", 1]]}', r"must label every image, 00000/img00000000.png has no label \(3 of 3 images\)"),
])
def test_a_broken_label_file_gets_one_line_with_entry_rule_and_value(tmp_path, content, message):
    dataset = ImageFolderDataset(write_zip(tmp_path / "s.zip", {**images(), "dataset.json": content}), use_labels=True)
    with pytest.raises(ValueError, match=message) as caught:
        _ = dataset.label_dim
    line = str(caught.value)
    assert "s.zip: " in line and "dataset.json" in line and "\n" not in line and len(line) < 400


def test_max_size_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_size must be at least 1, got 0"):
        ImageFolderDataset(write_zip(tmp_path / "s.zip", images()), max_size=0)


@pytest.mark.parametrize("arguments, message", [
    (dict(shuffle=True), 'a data set of images has no argument "shuffle"; it has path, resolution, max_size,'),
    (dict(max_size="x"), 'max_size must be at least 1, got "x"'),
    (dict(max_size=1.5), "max_size must be at least 1, got 1.5"),
    (dict(xflip="no"), 'xflip must be true or false, got "no"'),
    (dict(use_labels=[1]), r"use_labels must be true or false, got \[1\]"),
    (dict(random_seed=-1), r"random_seed must be in 0..4294967295, got -1"),
    (dict(random_seed=None), "random_seed must be in .* got null"),
    (dict(resolution="4"), r'resolution must be a side in pixels, or \[height, width\], got "4"'),
    (dict(resolution=[4, 4, 4]), r"resolution must be .* got \[4, 4, 4\]"),
])
def test_arguments_from_a_file_are_checked(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        ImageFolderDataset(write_zip(tmp_path / "s.zip", images()), **arguments)


def test_what_macos_puts_beside_images_is_no_image(tmp_path):
    path = write_zip(tmp_path / "s.zip", {**images(), "__MACOSX/00000/._img00000000.png": b"\0\5\x16\7"})
    assert len(ImageArchive(path).image_names) == 3
