"""Converting image collections into data sets, as a library and as a command."""

from __future__ import annotations

import errno
import functools
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import psutil
import pytest
from click.testing import CliRunner

import dataset_tool
from dataset_tool import main
from training.data import dataset_conversion, dataset_writers
from training.data.castles import draw_castle
from training.data.dataset_conversion import ConversionOptions, convert_dataset
from training.data.dataset_writers import open_writer
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).resolve().parent.parent


def encode(image: PIL.Image.Image, kind: str = "png", **params) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **params)
    return buffer.getvalue()


def noise(width: int = 8, height: int = 8, mode: str = "RGB", seed: int = 0) -> PIL.Image.Image:
    shape = [height, width, 3] if mode == "RGB" else [height, width]
    return PIL.Image.fromarray(np.random.RandomState(seed).randint(256, size=shape).astype(np.uint8))


def folder(path: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)


def photos(count: int = 3, **size) -> dict[str, bytes]:
    return {f"{i}.png": encode(noise(seed=i, **size)) for i in range(count)}


def converted(tmp_path: Path, files: dict[str, bytes], **options) -> list[np.ndarray]:
    """The images [H, W, C] of the data set made from `files`."""
    dest = str(tmp_path / "out.zip")
    convert_dataset(folder(tmp_path / "in", files), dest, ConversionOptions(**options))
    dataset = ImageFolderDataset(dest)
    return [dataset[i][0].transpose(1, 2, 0) for i in range(len(dataset))]


def run(*args: str):
    return CliRunner().invoke(main, list(args))


def refused(result, *words: str) -> None:
    """The command ended with exit code 2 and one line that has all the words."""
    assert result.exit_code == 2, result.output
    lines = result.output.splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_images_keep_their_pixels_and_get_numbered_in_path_order(tmp_path):
    files = {"b/0.png": encode(noise(seed=2)), "a.png": encode(noise(seed=1)), "read.me": b"no image"}
    images = converted(tmp_path, files)
    np.testing.assert_array_equal(images, [np.asarray(noise(seed=1)), np.asarray(noise(seed=2))])
    assert zipfile.ZipFile(tmp_path / "out.zip").namelist() == [
        "00000/img00000000.png", "00000/img00000001.png", "dataset.json"]


def test_zip_and_folder_destinations_hold_the_same_files(tmp_path):
    source = folder(tmp_path / "in", photos())
    convert_dataset(source, str(tmp_path / "out.zip"))
    convert_dataset(source, str(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        for name in archive.namelist():
            assert (tmp_path / "out" / name).read_bytes() == archive.read(name)
    files = [name for _, _, names in os.walk(tmp_path / "out") for name in names]
    assert len(files) == len(archive.namelist())


def test_folder_number_is_the_index_in_thousands(tmp_path):
    data = encode(noise(1, 1))
    convert_dataset(folder(tmp_path / "in", {f"{i:04d}.png": data for i in range(1001)}), str(tmp_path / "out.zip"))
    assert zipfile.ZipFile(tmp_path / "out.zip").namelist()[-2] == "00001/img00001000.png"


def test_files_are_stored_without_compression(tmp_path):
    converted(tmp_path, photos())
    for info in zipfile.ZipFile(tmp_path / "out.zip").infolist():
        assert info.compress_type == zipfile.ZIP_STORED
        assert info.filename == "dataset.json" or info.file_size > 8 * 8 * 3


def test_written_images_hold_uncompressed_pixels_and_nothing_else(tmp_path):
    profile = {"icc_profile": b"colours", "exif": PIL.Image.Exif(), "dpi": (300, 300)}
    convert_dataset(folder(tmp_path / "a", {"0.png": encode(noise(), **profile)}), str(tmp_path / "a.zip"))
    convert_dataset(folder(tmp_path / "b", {"0.png": encode(noise())}), str(tmp_path / "b.zip"))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    black = PIL.Image.new("RGB", (64, 64))   # compresses well
    convert_dataset(folder(tmp_path / "c", {"0.png": encode(black)}), str(tmp_path / "c.zip"))
    assert zipfile.ZipFile(tmp_path / "c.zip").infolist()[0].file_size > 64 * 64 * 3


def test_equal_input_gives_equal_bytes(tmp_path):
    source = folder(tmp_path / "in", photos())
    convert_dataset(source, str(tmp_path / "a.zip"))
    for i in (2, 0, 1):   # other file times, other order of creation
        (tmp_path / "in" / f"{i}.png").unlink()
        (tmp_path / "in" / f"{i}.png").write_bytes(photos()[f"{i}.png"])
        os.utime(tmp_path / "in" / f"{i}.png", (1e9 + i, 1e9 + i))
    convert_dataset(source, str(tmp_path / "b.zip"))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    source = folder(tmp_path / "in", {**photos(40, width=12, height=10), "30.png": b"broken", "31.png": b""})
    results = []
    for workers in (1, 3):
        dest = tmp_path / f"{workers}.zip"
        options = ConversionOptions(
            workers=workers, skip_bad=True, transform="center-crop-wide", width=8, height=4, force_channels=1
        )
        results.append((convert_dataset(source, str(dest), options).skipped, dest.read_bytes()))
    assert results[0] == results[1] and len(results[0][0]) == 2


def test_drawn_images_do_not_depend_on_the_number_of_processes(tmp_path):
    for workers in (1, 2):
        options = ConversionOptions(workers=workers, width=16, height=16, max_images=20)
        convert_dataset("castles", str(tmp_path / f"{workers}.zip"), options)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@pytest.mark.parametrize("seconds, processors, expected", [(5.9, 8, 0), (6, 8, 2), (10**6, 8, 8), (10**6, 1, 0)])
def test_little_work_is_not_worth_more_processes(monkeypatch, seconds, processors, expected):
    monkeypatch.setattr(dataset_conversion, "available_processors", lambda: processors)
    assert dataset_conversion.worthwhile_workers(seconds) == expected


def test_processes_that_join_later_change_no_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_conversion, "TRIAL_SECONDS", 1e-9)
    monkeypatch.setattr(dataset_conversion, "worthwhile_workers", lambda seconds: 2)
    for name, workers in (("a", None), ("b", 1)):
        options = ConversionOptions(workers=workers, width=16, height=16, max_images=5)
        convert_dataset("castles", str(tmp_path / f"{name}.zip"), options)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_zip_is_a_source_like_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name, data in {**photos(), "dataset.json": b'{"labels": null}'}.items():
            archive.writestr(name, data)
    convert_dataset(folder(tmp_path / "in", photos()), str(tmp_path / "a.zip"))
    convert_dataset(str(tmp_path / "in.zip"), str(tmp_path / "b.zip"))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_paths_that_climb_out_of_a_zip_write_nothing_outside(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        for name in ("../../up.png", "/abs.png", "a/../b.png", "..\\win.png"):
            archive.writestr(name, encode(noise()))
    (tmp_path / "work").mkdir()
    summary = convert_dataset(str(tmp_path / "evil.zip"), str(tmp_path / "work" / "out"))
    assert summary.num_images == 4
    assert sorted(os.listdir(tmp_path)) == ["evil.zip", "work"] and os.listdir(tmp_path / "work") == ["out"]
    assert sorted(os.listdir(tmp_path / "work" / "out")) == ["00000", "dataset.json"]


@pytest.mark.parametrize("labels", [[2, 0, 1], [[0.5, 1], [2, 3], [4, 5]]])
def test_labels_go_along(tmp_path, labels):
    entries = [[f"{i}.png", label] for i, label in enumerate(labels)]
    files = {**photos(), "dataset.json": json.dumps({"labels": entries[::-1]}).encode()}
    converted(tmp_path, files)
    dataset = ImageFolderDataset(str(tmp_path / "out.zip"), use_labels=True)
    for i in range(3):
        np.testing.assert_array_equal(dataset.get_details(i).raw_label, labels[i])


def test_labels_are_null_unless_every_image_has_one(tmp_path):
    files = {**photos(), "dataset.json": b'{"labels": [["0.png", 1], ["2.png", 0]]}'}
    summary = convert_dataset(folder(tmp_path / "in", files), str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == {"labels": None}
    assert summary.label_text == "labels left out: 1 images have none"


def test_max_images_takes_the_first(tmp_path):
    images = converted(tmp_path, photos(5), max_images=2)
    np.testing.assert_array_equal(images, [np.asarray(noise(seed=i)) for i in range(2)])


def test_box_filter_averages(tmp_path):
    image, = converted(tmp_path, photos(1), width=4, height=4, resize_filter="box")
    expected = np.asarray(noise()).astype(float).reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image, expected, atol=1)   # Pillow rounds after each axis


def test_lanczos_is_sharper_than_box(tmp_path):
    step = np.zeros([16, 16], dtype=np.uint8)
    step[:, 7:] = 255
    files = {"a.png": encode(PIL.Image.fromarray(step))}
    box, = converted(tmp_path / "box", files, width=4, height=4, resize_filter="box")
    lanczos, = converted(tmp_path / "lanczos", files, width=4, height=4)
    assert box[0, 1, 0] == 64 and lanczos[0, 1, 0] < 64


def test_width_alone_resizes_only_the_width(tmp_path):
    image, = converted(tmp_path, {"a.png": encode(noise(16, 8))}, width=8, resize_filter="box")
    expected = np.asarray(noise(16, 8)).astype(float).reshape(8, 8, 2, 3).mean(axis=2)
    np.testing.assert_allclose(image, expected, atol=0.51)


@pytest.mark.parametrize("size, target, box", [
    ((12, 8), (8, 8), (2, 0, 10, 8)), ((8, 14), (8, 8), (0, 3, 8, 11)), ((11, 8), (8, 8), (1, 0, 9, 8)),
    ((16, 12), (16, 8), (0, 2, 16, 10)), ((16, 16), (8, 16), (4, 0, 12, 16)), ((20, 16), (16, 12), (0, 0, 20, 15)),
])
def test_center_crop_takes_the_largest_part_in_the_middle_with_the_proportions_asked_for(tmp_path, size, target, box):
    image, = converted(tmp_path, {"a.png": encode(noise(*size))}, transform="center-crop", resize_filter="box",
                       width=target[0], height=target[1])
    expected = noise(*size).crop(box).resize(target, PIL.Image.Resampling.BOX)
    np.testing.assert_array_equal(image, np.asarray(expected))


def test_center_crop_wide_keeps_the_width_on_a_black_square(tmp_path):
    image, = converted(
        tmp_path, {"a.png": encode(noise(16, 14))}, transform="center-crop-wide", width=16, height=10,
    )
    np.testing.assert_array_equal(image[3:13], np.asarray(noise(16, 14))[2:12])
    assert image.shape == (16, 16, 3) and not image[:3].any() and not image[13:].any()


def test_center_crop_wide_crops_before_it_resizes(tmp_path):
    image, = converted(
        tmp_path, {"a.png": encode(noise(16, 14))}, transform="center-crop-wide", width=8, height=4, resize_filter="box"
    )
    expected = np.asarray(noise(16, 14))[3:11].astype(float).reshape(4, 2, 8, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image[2:6], expected, atol=1)


def test_center_crop_wide_works_on_gray_images(tmp_path):
    image, = converted(
        tmp_path, {"a.png": encode(noise(8, 8, "L"))}, transform="center-crop-wide", width=8, height=4
    )
    np.testing.assert_array_equal(image[2:6, :, 0], np.asarray(noise(8, 8, "L"))[2:6])


def test_rectangles_stay_rectangles(tmp_path):
    images = converted(tmp_path, photos(2, width=24, height=16))
    np.testing.assert_array_equal(images, [np.asarray(noise(24, 16, seed=i)) for i in range(2)])


def test_images_become_the_rectangles_asked_for(tmp_path):
    source, dest = folder(tmp_path / "in", photos(2, width=96, height=32)), str(tmp_path / "out.zip")
    result = run(f"--source={source}", f"--dest={dest}", "--resolution=48x16", "--resize-filter=box")
    assert result.output.startswith("2 images (48x16 RGB, ")
    expected = np.asarray(noise(96, 32)).astype(float).reshape(16, 2, 48, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(ImageFolderDataset(dest)[0][0].transpose(1, 2, 0), expected, atol=1)


def test_dropped_images_keep_their_number(tmp_path):
    files = {"0.png": encode(noise(4, 8)), "1.png": encode(noise(8, 3)), "2.png": encode(noise(8, 8))}
    options = ConversionOptions(transform="center-crop-wide", width=8, height=4)
    summary = convert_dataset(folder(tmp_path / "in", files), str(tmp_path / "out.zip"), options)
    assert zipfile.ZipFile(tmp_path / "out.zip").namelist() == ["00000/img00000002.png", "dataset.json"]
    assert (summary.num_images, summary.num_dropped) == (1, 2)


def test_jpeg_is_turned_upright_as_its_exif_data_says(tmp_path):
    image = PIL.Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))   # bright upper half as stored
    exif = PIL.Image.Exif()
    exif[0x0112] = 6                             # turn by 90 degrees clockwise to view
    upright, = converted(tmp_path, {"a.jpg": encode(image, "jpeg", exif=exif, quality=100)})
    assert upright[:, 4:].mean() > 250 and upright[:, :4].mean() < 5


@pytest.mark.parametrize("name, data, expected", [
    ("palette.png", encode(noise().quantize(16)), np.asarray(noise().quantize(16).convert("RGB"))),
    ("bits.png", encode(noise(mode="L").convert("1")), np.asarray(noise(mode="L").convert("1"))[..., None] * 255),
    ("deep.png", encode(PIL.Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024)),
     (np.arange(64).reshape(8, 8, 1) * 4)),
    ("print.tif", encode(PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "tiff"), np.full([8, 8, 3], [255, 0, 0])),
    ("moving.gif", encode(noise(mode="L"), "gif", save_all=True, append_images=[noise(mode="L", seed=1)]),
     np.asarray(noise(mode="L").convert("RGB"))),
    ("a.bmp", encode(noise(), "bmp"), np.asarray(noise())),
])
def test_other_formats_and_modes_are_converted(tmp_path, name, data, expected):
    image, = converted(tmp_path, {name: data})
    np.testing.assert_array_equal(image, expected)


TRANSPARENT = noise().convert("RGBA")
TRANSPARENT.putalpha(noise(mode="L", seed=1))


@pytest.mark.parametrize("image, channels, expected", [
    (noise(), 1, np.asarray(noise().convert("L"))[..., None]),
    (noise(), 4, np.concatenate([np.asarray(noise()), np.full([8, 8, 1], 255)], axis=2)),
    (noise(mode="L"), 3, np.repeat(np.asarray(noise(mode="L"))[..., None], 3, axis=2)),
    (noise(mode="L"), 4, np.stack([np.asarray(noise(mode="L"))] * 3 + [np.full([8, 8], 255)], axis=2)),
    (TRANSPARENT, 4, np.asarray(TRANSPARENT)),
    (TRANSPARENT, 3, np.asarray(noise()) * (np.asarray(noise(mode="L", seed=1))[..., None] / 255)),
    (noise().quantize(16), 1, np.asarray(noise().quantize(16).convert("RGB").convert("L"))[..., None]),
])
def test_channels_are_those_asked_for_and_transparency_lies_on_black(tmp_path, image, channels, expected):
    result, = converted(tmp_path, {"a.png": encode(image)}, force_channels=channels)
    np.testing.assert_allclose(result, expected, atol=1)   # of rounding


def test_every_kind_of_transparency_is_understood(tmp_path):
    gray = PIL.Image.merge("LA", [noise(mode="L"), noise(mode="L", seed=1)])
    flat = PIL.Image.fromarray(np.zeros([8, 8], dtype=np.uint8))
    files = {"0.png": encode(gray), "1.png": encode(flat.convert("P"), transparency=0),
             "2.png": encode(flat, transparency=0), "3.png": encode(flat.convert("RGB"), transparency=(0, 0, 0))}
    images = converted(tmp_path, files, force_channels=4)
    np.testing.assert_array_equal(images[0], np.asarray(gray.convert("RGBA")))
    assert all(not image[..., 3].any() for image in images[1:])


def test_gray_and_colour_images_mix_once_channels_are_forced(tmp_path):
    files = {"a.png": encode(noise()), "b.png": encode(noise(mode="L")), "c.png": encode(TRANSPARENT)}
    result = run(f"--source={folder(tmp_path / 'in', files)}", f"--dest={tmp_path / 'out'}", "--force-channels=3")
    assert result.output.startswith("3 images (8x8 RGB, ")


def test_metadata_of_the_source_is_left_behind(tmp_path):
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("Comment", "private")
    converted(tmp_path, {"a.png": encode(noise(), pnginfo=info, icc_profile=b"private", dpi=(72, 72))})
    data = zipfile.ZipFile(tmp_path / "out.zip").read("00000/img00000000.png")
    assert not any(chunk in data for chunk in (b"tEXt", b"iCCP", b"pHYs", b"eXIf", b"private"))


@pytest.mark.parametrize("odd, words", [
    ({"9.png": encode(noise(4, 4))}, ["all images must be alike, 9.png is 4x4 RGB and 0.png is 8x8 RGB"]),
    ({"9.png": encode(noise(mode="L"))}, ["9.png is 8x8 gray"]),
    ({"9.png": encode(TRANSPARENT)}, ["9.png has transparency", "RGBA", "--force-channels"]),
    ({"9.png": encode(TRANSPARENT.convert("LA"))}, ["9.png has transparency", "LA"]),
    ({"9.png": encode(noise().quantize(4), transparency=0)}, ["9.png has transparency"]),
    ({"9.tif": encode(PIL.Image.fromarray(np.ones([8, 8], dtype=np.float32)), "tiff")}, ["9.tif", "mode F"]),
    ({"9.png": encode(noise())[:100]}, ["cannot read 9.png"]),
    ({"9.png": b""}, ["cannot read 9.png"]),
    ({"9.ppm": b"P6 0 0 255\n"}, ["9.ppm"]),
    ({"9.jpg": b"this is text"}, ["cannot read 9.jpg", "not an image"]),
    ({"dataset.json": b"{]"}, ["dataset.json is not valid JSON"]),
])
@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_a_bad_file_is_named_and_nothing_is_left_behind(tmp_path, odd, words, dest):
    source = folder(tmp_path / "in", {**photos(), **odd})
    refused(run(f"--source={source}", f"--dest={tmp_path / dest}"), *words)
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("size, rule", [
    ((6, 6), "must be a power of two, got 6x6; 8x8 is near and possible"),
    ((100, 60), "a power of two of at least 4 times whole numbers up to 16"),
    ((100, 60), "got 100x60; 96x64 is near and possible"),
])
def test_a_size_that_networks_cannot_use_is_refused(tmp_path, size, rule):
    source = folder(tmp_path / "in", {"a.png": encode(noise(*size))})
    refused(run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}"), "a.png", rule)


def test_bad_images_are_skipped_and_each_is_reported_with_its_reason(tmp_path):
    files = {
        "0.png": encode(noise(9, 9)), "1.png": encode(noise()), "2.png": encode(noise())[:100],
        "3.png": encode(noise()), "4.png": encode(noise(4, 4)), "5.png": encode(noise(mode="L")), "6.jpg": b"text",
        "7.png": encode(TRANSPARENT),
    }
    dest = tmp_path / "out.zip"
    result = run(f"--source={folder(tmp_path / 'in', files)}", f"--dest={dest}", "--skip-bad")
    first, *lines = result.output.splitlines()
    assert first.startswith("2 images (8x8 RGB, no labels, 6 bad ones skipped)")
    reasons = ["0.png", "2.png", "4.png is 4x4 RGB and 1.png is 8x8", "5.png is 8x8 gray", "6.jpg: not an image",
               "7.png has transparency"]
    assert len(lines) == 6 and all(reason in line for reason, line in zip(reasons, lines))
    assert zipfile.ZipFile(dest).namelist()[:2] == ["00000/img00000001.png", "00000/img00000003.png"]
    assert sorted(os.listdir(tmp_path)) == ["in", "out.zip"]


@pytest.mark.parametrize("dest", ["out.zip", "out"])
def test_skipping_bad_images_keeps_the_most_common_shape_not_that_of_the_first(tmp_path, dest):
    files = {"0.png": encode(noise(16, 16)), **{f"{i}.png": encode(noise(seed=i)) for i in (1, 2, 3)},
             "4.png": encode(noise(16, 16))}
    result = run(f"--source={folder(tmp_path / 'in', files)}", f"--dest={tmp_path / dest}", "--skip-bad")
    first, *lines = result.output.splitlines()
    assert first.startswith("3 images (8x8 RGB, no labels, 2 bad ones skipped)")
    assert "0.png is 16x16 RGB and most are 8x8 RGB" in lines[0] and "4.png is 16x16" in lines[1]
    dataset = ImageFolderDataset(str(tmp_path / dest))
    np.testing.assert_array_equal(dataset[0][0].transpose(1, 2, 0), np.asarray(noise(seed=1)))
    assert len(dataset) == 3 and sorted(os.listdir(tmp_path)) == ["in", dest]


def test_a_range_and_its_warning_on_the_command_line(tmp_path):
    dark = PIL.Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 65)
    args = [f"--source={folder(tmp_path / 'in', {'a.png': encode(dark)})}", f"--dest={tmp_path / 'out.zip'}"]
    assert run(*args).stderr.startswith("Warning: the images with 16 bits per channel (1) are dark")
    for text in ("0-4095", "4095", "0,4095"):
        assert run(*args, f"--range={text}").stderr == ""
        assert ImageFolderDataset(str(tmp_path / "out.zip"))[0][0].max() == 255
    refused(run(*args, "--range=low"), "must be LOW-HIGH such as 0-4095, got low")
    refused(run(*args, "--range=5-5"), "black below white, got 5 and 5")


@pytest.mark.parametrize("dest", ["out.zip", "out", "out/."])
def test_a_long_report_goes_to_a_file_beside_the_data_set(tmp_path, dest):
    files = {**photos(2), **{f"bad{i:02}.png": b"x" for i in range(15)}}
    result = run(f"--source={folder(tmp_path / 'in', files)}", f"--dest={tmp_path / dest}", "--skip-bad")
    report = tmp_path / "out.skipped.txt"
    assert [f"bad{i:02}.png" in line for i, line in enumerate(report.read_text().splitlines())] == [True] * 15
    assert result.output.splitlines()[-1] == f"  ... and 5 more: {report}"
    assert len(result.output.splitlines()) == 1 + 10 + 1


def test_names_that_cannot_be_printed_are_escaped(tmp_path):
    names = ["a\nb.png", "c\x1b[2J.png", os.fsdecode(b"d\xff.png")]
    files = {"class\x1b/0.png": encode(noise()), **{f"other/{name}": b"x" for name in names}}
    source = folder(tmp_path / "in", files)
    result = run(f"--source={source}", f"--dest={tmp_path / 'out'}", "--skip-bad", "--subfolders-as-labels")
    lines = result.output.splitlines()[1:]
    assert [line.split(" (")[0] for line in lines[:2]] == ["  class 0: class\\x1b", "  class 1: other"]
    escaped = ["a\\nb.png", "c\\x1b[2J.png", "d\\udcff.png"]
    assert [name in line for name, line in zip(escaped, lines[2:])] == [True] * 3


def test_labels_of_skipped_images_are_not_missed(tmp_path):
    labels = json.dumps({"labels": [["0.png", 1], ["2.png", 0]]}).encode()
    files = {**photos(), "1.png": b"bad", "dataset.json": labels}
    converted(tmp_path, files, skip_bad=True)
    dataset = ImageFolderDataset(str(tmp_path / "out.zip"), use_labels=True)
    assert [int(dataset.get_details(i).raw_label) for i in range(2)] == [1, 0]


def test_a_source_of_bad_images_only_is_refused(tmp_path):
    source = folder(tmp_path / "in", {"0.png": b"x", "1.png": b"y"})
    refused(run(f"--source={source}", f"--dest={tmp_path / 'out'}", "--skip-bad"), "all 2 images are bad", "0.png")
    assert os.listdir(tmp_path) == ["in"]


def test_first_folders_are_classes_in_the_order_of_their_names(tmp_path):
    files = {"dog/a.png": encode(noise(seed=0)), "cat/deep/b.png": encode(noise(seed=1)),
             "dog/c.png": encode(noise(seed=2)), "dataset.json": b'{"labels": [["dog/a.png", 7]]}'}
    dest = tmp_path / "out.zip"
    result = run(f"--source={folder(tmp_path / 'in', files)}", f"--dest={dest}", "--subfolders-as-labels")
    assert result.output.splitlines()[0].startswith("3 images (8x8 RGB, labels of 2 classes)")
    assert result.output.splitlines()[1:] == ["  class 0: cat (1 images)", "  class 1: dog (2 images)"]
    dataset = ImageFolderDataset(str(dest), use_labels=True)
    assert [int(dataset.get_details(i).raw_label) for i in range(3)] == [0, 1, 1]
    assert json.loads(zipfile.ZipFile(dest).read("dataset.json"))["class_names"] == ["cat", "dog"]


def test_classes_keep_their_numbers_when_only_some_images_are_taken(tmp_path):
    files = {f"{name}/{i}.png": encode(noise()) for name in "abc" for i in range(2)}
    options = ConversionOptions(subfolders_as_labels=True, max_images=3)
    summary = convert_dataset(folder(tmp_path / "in", files), str(tmp_path / "out"), options)
    assert summary.classes == [("a", 2), ("b", 1), ("c", 0)]


@pytest.mark.parametrize("names, words", [
    (["a/0.png", "1.png"], ["every image in a folder", "1.png is in none"]),
    (["all/a/0.png", "all/b/1.png"], ["several folders", "all images are in all"]),
])
def test_folders_that_cannot_be_classes_are_refused(tmp_path, names, words):
    source = folder(tmp_path / "in", {name: encode(noise()) for name in names})
    refused(run(f"--source={source}", f"--dest={tmp_path / 'out'}", "--subfolders-as-labels"), *words)


@pytest.mark.parametrize("args, words", [
    (["--source=gone"], ["no such source", "gone"]),
    (["--source=gone.zip"], ["no such source", "gone.zip"]),
    (["--source=notes.txt"], ["notes.txt", "a source is one of"]),
    (["--source=fake.zip"], ["fake.zip", "not a readable zip"]),
    (["--source=empty.zip"], ["empty.zip", "contains no image"]),
    (["--source=void"], ["void", "contains no image"]),
    (["--source=castles"], ["castles", "resolution"]),
    (["--source=castles", "--resolution=32x32"], ["castles", "max-images"]),
    (["--source=castles", "--resolution=32", "--max-images=2"], ["resolution", "64x64", "got 32"]),
    (["--source=castles", "--resolution=32x16", "--max-images=2"], ["square", "32x16"]),
    (["--source=castles", "--resolution=48x48", "--max-images=2"], ["power of two", "48x48"]),
    (["--source=castles", "--resolution=0x0", "--max-images=2"], ["width must be at least 1, got 0"]),
    (["--source=castles", "--resolution=8192x8192", "--max-images=2"], ["4096", "8192"]),
    (["--source=castles", "--resolution=32x32", "--max-images=0"], ["max-images", "0"]),
    (["--source=castles", "--resolution=32x32", "--max-images=2", "--transform=center-crop"], ["transform"]),
    (["--source=castles:fog", "--resolution=32x32", "--max-images=2"], ["spring", "castles:fog"]),
    (["--source=in", "--resolution=8x8", "--width=8"], ["--resolution", "--width"]),
    (["--source=in", "--transform=center-crop"], ["center-crop needs both width and height"]),
    (["--source=in", "--transform=center-crop-wide", "--resolution=4x8"], ["center-crop-wide", "4x8"]),
    (["--source=in", "--transform=center-crop-wide", "--resolution=16x8"], ["drops all 3 images", "16x8"]),
    (["--source=in", "--transform=round"], ["transform", "round"]),
    (["--source=in", "--resize-filter=nearest"], ["resize-filter", "nearest"]),
    (["--source=in", "--resolution=1280x720"], ["1280x720; 1280x768 is near and possible"]),
    (["--source=in", "--force-channels=2"], ["force-channels", "2"]),
    (["--source=in", "--workers=0"], ["workers", "0"]),
    (["--source=castles", "--resolution=32x32", "--max-images=2", "--subfolders-as-labels"],
     ["subfolders-as-labels needs a folder or .zip", "castles"]),
])
def test_a_bad_request_is_refused_in_one_line_and_writes_nothing(tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "void").mkdir()
    folder(tmp_path / "in", photos())
    folder(tmp_path, {"notes.txt": b"hello", "fake.zip": b"hello"})
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    before = sorted(os.listdir(tmp_path))
    refused(run(*args, "--dest=out.zip"), *words)
    refused(run(*args, "--dest=out"), *words)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_destination_that_is_taken_is_refused_untouched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "in", photos())
    folder(tmp_path, {"full/mine.txt": b"mine", "file": b"mine", "dir.zip/mine.txt": b"mine"})
    refused(run("--source=in", "--dest=full"), "full must be empty")
    refused(run("--source=in", "--dest="), "got an empty name")
    refused(run("--source=in", "--dest=file"), "file must be a folder or end in .zip")
    refused(run("--source=in", "--dest=dir.zip"), "dir.zip must be a file")
    refused(run("--source=in", "--dest=file/out.zip"), "file")
    refused(run("--source=in", "--dest=in"), "must not be the source")
    assert sorted(os.listdir(tmp_path)) == ["dir.zip", "file", "full", "in"]
    assert os.listdir("full") == ["mine.txt"] and sorted(os.listdir("in")) == ["0.png", "1.png", "2.png"]


def test_a_zip_is_replaced_only_by_a_complete_one(tmp_path):
    dest = tmp_path / "out.zip"
    convert_dataset(folder(tmp_path / "in", photos()), str(dest))
    before = dest.read_bytes()
    with pytest.raises(OSError, match="1.png"):
        convert_dataset(folder(tmp_path / "bad", {**photos(), "1.png": b"x"}), str(dest))
    assert dest.read_bytes() == before and sorted(os.listdir(tmp_path)) == ["bad", "in", "out.zip"]
    convert_dataset(folder(tmp_path / "one", photos(1)), str(dest))
    assert len(ImageFolderDataset(str(dest))) == 1


def test_an_empty_folder_is_filled_and_new_ones_are_made(tmp_path):
    (tmp_path / "out").mkdir()
    source = folder(tmp_path / "in", photos())
    for dest in (tmp_path / "out", tmp_path / "deep" / "er", tmp_path / "deeper" / "set.zip"):
        convert_dataset(source, str(dest))
        assert len(ImageFolderDataset(str(dest))) == 3


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    source = folder(tmp_path / "in", photos())
    monkeypatch.setattr(dataset_conversion, "encode_png", interrupt)
    for dest in ("out", "out.zip"):
        with pytest.raises(KeyboardInterrupt):
            convert_dataset(source, str(tmp_path / dest))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("dest, signal_number, to_group", [
    ("new/out.zip", signal.SIGINT, True), ("new/out", signal.SIGTERM, False), ("new/out.zip", signal.SIGHUP, True),
])
def test_a_signal_ends_all_processes_and_leaves_nothing(tmp_path, dest, signal_number, to_group):
    args = ["--source=castles", f"--dest={tmp_path / dest}", "--resolution=16x16", "--max-images=100000", "--workers=2"]
    heed = functools.partial(signal.signal, signal_number, signal.SIG_DFL)   # which the shell may have it ignore
    tool = subprocess.Popen([sys.executable, str(ROOT / "dataset_tool.py"), *args], start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    wait_until(lambda: any(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()))
    family = [psutil.Process(tool.pid), *psutil.Process(tool.pid).children(recursive=True)]
    (os.killpg if to_group else os.kill)(tool.pid, signal_number)   # the terminal sends Ctrl-C to the whole group
    output, errors = tool.communicate(timeout=30)
    assert (tool.returncode, output, errors.strip()) == (130, "", "Aborted")
    assert len(family) >= 3 and not psutil.wait_procs(family, timeout=30)[1]
    assert os.listdir(tmp_path) == []


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with dataset_tool.interrupted_when_terminated():
            os.kill(os.getpid(), signal.SIGHUP)   # as under nohup
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_full_disk_ends_the_workers_too(tmp_path, monkeypatch):
    def write(*args):
        raise OSError("no space left")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", write)
    options = ConversionOptions(width=8, height=8, max_images=10**6, workers=2)
    with pytest.raises(OSError, match="no space left"):
        convert_dataset("castles", str(tmp_path / "out.zip"), options)
    assert os.listdir(tmp_path) == [] and multiprocessing.active_children() == []


@pytest.mark.parametrize("dest", ["deep/er/out", "deep/er/out.zip"])
def test_a_failed_run_makes_no_folders(tmp_path, dest):
    with pytest.raises(OSError):
        convert_dataset(folder(tmp_path / "in", {"0.png": b"x"}), str(tmp_path / dest))
    assert os.listdir(tmp_path) == ["in"]


def test_the_root_of_a_file_system_that_cannot_be_filled_stays_empty(tmp_path, monkeypatch):
    def move_one(source, dest):
        if os.listdir(os.path.dirname(dest)):
            raise OSError("no space left")
        os.replace(source, dest)

    def rename(source, dest):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr("shutil.move", move_one)
    monkeypatch.setattr(os, "rename", rename)
    (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="no space left"):
        convert_dataset(folder(tmp_path / "in", photos()), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["in", "out"] and os.listdir(tmp_path / "out") == []


def test_the_root_of_a_file_system_is_filled_in_place(tmp_path, monkeypatch):
    def rename(source, dest):
        raise OSError(errno.EBUSY, "Device or resource busy")

    (tmp_path / "out").mkdir()
    source = folder(tmp_path / "in", photos())
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        patch.setattr("shutil.move", os.replace)
        convert_dataset(source, str(tmp_path / "out"))
    assert len(ImageFolderDataset(str(tmp_path / "out"))) == 3 and sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_the_folder_in_which_one_stands_is_filled_in_place(tmp_path, monkeypatch):
    source = folder(tmp_path / "in", photos())
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    convert_dataset(source, ".")
    assert sorted(os.listdir(".")) == ["00000", "dataset.json"] and sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_a_second_process_that_writes_to_one_folder_is_refused_at_once(tmp_path):
    dest = str(tmp_path / "out")
    with open_writer(dest) as write:
        write("a.png", b"first")
        with pytest.raises(OSError, match="destination folder .*out is in use"), open_writer(dest):
            pass
    assert (tmp_path / "out" / "a.png").read_bytes() == b"first" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("without_locks", [False, True])
def test_of_two_processes_that_finish_one_folder_the_second_is_refused(tmp_path, monkeypatch, without_locks):
    if without_locks:
        monkeypatch.setattr(dataset_writers, "fcntl", None)
    taken = pytest.raises(OSError, match="out must be empty, another process has filled it")
    with taken, open_writer(str(tmp_path / "out")) as write:
        write("a.png", b"second")
        folder(tmp_path / "out", {"a.png": b"first"})
    assert (tmp_path / "out" / "a.png").read_bytes() == b"first" and os.listdir(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    folder(tmp_path / ".out.partial", {"00000/old.png": b"left", "x": b"left"})
    convert_dataset(folder(tmp_path / "in", photos()), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert sorted(os.listdir(tmp_path / "out" / "00000")) == [f"img{i:08}.png" for i in range(3)]


@pytest.mark.parametrize("dest", ["out", "out.zip"])
def test_a_full_disk_names_the_destination(tmp_path, monkeypatch, dest):
    def write(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "writestr", write)
    monkeypatch.setattr(dataset_writers, "open", write, raising=False)
    result = run(f"--source={folder(tmp_path / 'in', photos())}", f"--dest={tmp_path / dest}")
    refused(result, f"{tmp_path / dest}: No space left on device")
    assert os.listdir(tmp_path) == ["in"]


def test_closed_streams_do_no_harm(tmp_path, monkeypatch):
    source = folder(tmp_path / "in", photos())
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    main([f"--source={source}", f"--dest={tmp_path / 'out.zip'}"], standalone_mode=False)
    monkeypatch.undo()
    assert len(ImageFolderDataset(str(tmp_path / "out.zip"))) == 3


def test_progress_counts_up_to_the_total(tmp_path):
    calls = []
    source = folder(tmp_path / "in", photos())
    convert_dataset(source, str(tmp_path / "out.zip"), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_castles_are_those_of_the_seed(tmp_path):
    dest = str(tmp_path / "castles.zip")
    result = run("--source=castles", f"--dest={dest}", "--resolution=32x32", "--max-images=3", "--seed=7")
    assert result.exit_code == 0 and result.output.startswith("3 images (32x32 RGB, no labels), ")
    dataset = ImageFolderDataset(dest)
    for i in range(3):
        np.testing.assert_array_equal(dataset[i][0].transpose(1, 2, 0), np.asarray(draw_castle(7, 32, i)))


def test_help_ends_with_two_commands_that_run(tmp_path):
    commands = [line.split() for line in run("--help").output.rstrip().splitlines()[-2:]]
    assert all(words[:2] == ["python", "dataset_tool.py"] for words in commands)
    folder(tmp_path / "photos", {"a/1.jpg": encode(noise(300, 200), "jpeg"), "2.png": encode(noise(257, 300))})
    (tmp_path / "datasets").mkdir()
    for words in commands:
        script = [sys.executable, str(ROOT / "dataset_tool.py"), *words[2:], "--max-images=2"]   # instead of 20,000
        subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    assert ImageFolderDataset(str(tmp_path / "datasets" / "castles64.zip")).image_shape == [3, 64, 64]
    assert ImageFolderDataset(str(tmp_path / "datasets" / "photos256.zip")).image_shape == [3, 256, 256]


def test_the_command_starts_without_torch():
    code = "import dataset_tool, sys; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_real_photographs_convert_and_read_back(tmp_path, shared):
    dest = str(tmp_path / "cars.zip")
    summary = convert_dataset(
        str(shared / "data" / "cifar10-automobile-jpg.zip"), dest, ConversionOptions(max_images=50)
    )
    dataset = ImageFolderDataset(dest, resolution=32)
    assert summary.num_images == len(dataset) == 50
    assert all(dataset[i][0].std() > 5 for i in range(50))
