"""One reader of pictures: orientation, colour profiles, depth and transparency, the same in every command."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from picture_helpers import ADOBE_GAMMA, ADOBE_RGB, encode, icc_profile, noise, sixteen_bit_png, write_files
from PIL import ImageCms

from dnnlib.util import UserError
from training.data import decoding
from training.data.dataset_conversion import ConversionOptions, convert_dataset
from training.data.decoding import on_black, read_picture
from training.dataset import ImageFolderDataset
from training.images.projection_files import open_target

ADOBE = icc_profile(ADOBE_GAMMA, ADOBE_RGB)
IN_ADOBE, IN_SRGB = (117, 199, 75), (40, 200, 60)   # one colour


def exif(orientation: int) -> PIL.Image.Exif:
    data = PIL.Image.Exif()
    data[0x0112] = orientation
    return data


def test_colours_of_a_profile_become_srgb():
    image = PIL.Image.new("RGB", (8, 8), IN_ADOBE)
    assert read_picture(encode(image, icc_profile=ADOBE), "a.png").getpixel((0, 0)) == IN_SRGB
    image.putalpha(99)
    assert read_picture(encode(image, icc_profile=ADOBE), "a.png").getpixel((0, 0)) == (*IN_SRGB, 99)
    palette = PIL.Image.new("RGB", (8, 8), IN_ADOBE).quantize(2)
    assert read_picture(encode(palette, icc_profile=ADOBE), "a.png").getpixel((0, 0)) == IN_SRGB


def test_gray_of_a_profile_becomes_the_gray_of_srgb():
    linear = PIL.Image.new("L", (8, 8), 55)
    srgb = 255 * (1.055 * (55 / 255) ** (1 / 2.4) - 0.055)
    result = read_picture(encode(linear, icc_profile=icc_profile(1.0)), "a.png")
    assert result.mode == "L" and abs(result.getpixel((0, 0)) - srgb) <= 1
    deep = np.full([8, 8], 55 * 257, dtype=np.uint16)
    stored = PIL.Image.fromarray(deep)
    assert abs(read_picture(encode(stored, "tiff", icc_profile=icc_profile(1.0)), "a").getpixel((0, 0)) - srgb) <= 1


@pytest.mark.parametrize("profile", [
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), b"damaged", ADOBE[:200], icc_profile(1.0),
], ids=["sRGB itself", "no profile", "cut short", "for gray images"])
def test_a_profile_that_says_nothing_changes_no_bit(profile):
    result = read_picture(encode(noise(), icc_profile=profile), "a.png")
    np.testing.assert_array_equal(np.asarray(result), np.asarray(noise()))


@pytest.mark.parametrize("kind, params", [("jpeg", dict(quality=95)), ("tiff", {})])
def test_inks_without_a_profile_become_rgb_as_pillow_does(kind, params):
    data = encode(noise(mode="CMYK"), kind, **params)
    expected = decoding.open_image(data, "a").convert("RGB")
    np.testing.assert_array_equal(np.asarray(read_picture(data, "a")), np.asarray(expected))


def test_inks_are_converted_with_their_profile(monkeypatch):
    """Little CMS can make no CMYK profile, so the transform is taken as given: it must get the inks, not RGB."""
    class Transform:
        def apply(self, image):
            return PIL.Image.merge("RGB", image.split()[:3])

    modes = []
    monkeypatch.setattr(decoding, "_transform_to_srgb", lambda profile, mode: modes.append(mode) or Transform())
    data = encode(noise(mode="CMYK"), "tiff", icc_profile=b"inks")
    np.testing.assert_array_equal(np.asarray(read_picture(data, "a.tif")), np.asarray(noise(mode="CMYK"))[:, :, :3])
    assert modes == ["CMYK"]


@pytest.mark.parametrize("kind, params", [("png", {}), ("webp", dict(lossless=True)), ("tiff", {})])
def test_every_command_turns_a_picture_upright(tmp_path, kind, params):
    data = encode(noise(16, 8), kind, exif=exif(6), **params)
    upright = np.rot90(np.asarray(noise(16, 8)), -1)
    source = write_files(tmp_path / "in", {f"a.{kind}": data})
    convert_dataset(source, str(tmp_path / "out.zip"))
    for dataset in (ImageFolderDataset(source), ImageFolderDataset(str(tmp_path / "out.zip"))):
        np.testing.assert_array_equal(dataset[0][0].transpose(1, 2, 0), upright)
    np.testing.assert_array_equal(np.asarray(open_target(f"{source}/a.{kind}")), upright)


def test_every_command_sees_the_same_colours(tmp_path):
    data = encode(PIL.Image.new("RGB", (8, 8), IN_ADOBE), icc_profile=ADOBE)
    source = write_files(tmp_path / "in", {"a.png": data})
    convert_dataset(source, str(tmp_path / "out.zip"))
    for dataset in (ImageFolderDataset(source), ImageFolderDataset(str(tmp_path / "out.zip"))):
        assert tuple(dataset[0][0][:, 0, 0]) == IN_SRGB
    assert open_target(f"{source}/a.png").getpixel((0, 0)) == IN_SRGB


def test_a_plain_png_is_handed_on_as_pillow_decodes_it(monkeypatch):
    monkeypatch.setattr(decoding, "turned_upright", None)   # the long way would call it
    for mode in ("L", "RGB", "RGBA"):
        image = noise(mode=mode)
        np.testing.assert_array_equal(np.asarray(read_picture(encode(image), "a")), np.asarray(image))


def test_values_of_a_range_fill_the_8_bits():
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    for data in (sixteen_bit_png(values), encode(PIL.Image.fromarray(values.astype(np.int32)), "tiff"),
                 encode(PIL.Image.fromarray(values.astype(np.float32)), "tiff")):
        result = read_picture(data, "a", value_range=(0, 4095))
        np.testing.assert_array_equal(np.asarray(result), np.rint(values * (255 / 4095)))
    clipped = np.asarray(read_picture(sixteen_bit_png(values), "a", value_range=(1000, 2000)))
    assert clipped.min() == 0 and clipped.max() == 255


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_16_bits_that_hold_12_are_warned_of(tmp_path, shape):
    values = np.random.RandomState(0).randint(4096, size=shape)
    source = write_files(tmp_path / "in", {"a.png": sixteen_bit_png(values)})
    summary = convert_dataset(source, str(tmp_path / "out.zip"))
    assert "0..4095 were stored as 0..15" in summary.warning and "--range=0-4095" in summary.warning
    write_files(tmp_path / "in", {"b.png": sixteen_bit_png(values * 16)})
    assert convert_dataset(source, str(tmp_path / "out.zip")).warning == ""


def test_a_range_takes_away_the_warning(tmp_path):
    source = write_files(tmp_path / "in", {"a.png": sixteen_bit_png(np.full([8, 8], 4095))})
    summary = convert_dataset(source, str(tmp_path / "out.zip"), ConversionOptions(value_range=(0, 4095)))
    assert summary.warning == "" and ImageFolderDataset(str(tmp_path / "out.zip"))[0][0].min() == 255


def test_a_range_for_colours_of_16_bits_is_refused_rather_than_ignored():
    with pytest.raises(UserError, match="a.png has 16 bits per channel and colours .* --range is for gray images only"):
        read_picture(sixteen_bit_png(np.zeros([8, 8, 3])), "a.png", value_range=(0, 4095))


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path):
    files = {"0.png": encode(noise()), "1.png": encode(noise().convert("RGBA"))}
    assert convert_dataset(write_files(tmp_path / "in", files), str(tmp_path / "a.zip")).image_shape == (3, 8, 8)
    gray = {"0.png": encode(noise(mode="L").convert("LA"))}
    assert convert_dataset(write_files(tmp_path / "gray", gray), str(tmp_path / "b.zip")).image_shape == (1, 8, 8)


def test_targets_and_training_data_put_transparency_on_the_same_ground(tmp_path):
    image = noise(mode="RGBA")
    source = write_files(tmp_path / "in", {"a.png": encode(image)})
    convert_dataset(source, str(tmp_path / "out.zip"), ConversionOptions(force_channels=3))
    stored = ImageFolderDataset(str(tmp_path / "out.zip"))[0][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(on_black(open_target(f"{source}/a.png"))), stored)


@pytest.mark.parametrize("data", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\x89HDF\r\n\x1a\n" + bytes(99),
])
def test_content_that_would_start_a_program_or_has_no_decoder_is_no_image(data):
    with pytest.raises(OSError, match="a.png: not an image that Pillow knows"):
        read_picture(data, "a.png")


def test_heic_is_read_where_its_package_is_installed():
    buffer = io.BytesIO()
    pytest.importorskip("pillow_heif").from_pillow(PIL.Image.new("RGB", (64, 64), (200, 100, 50))).save(buffer)
    picture = read_picture(buffer.getvalue(), "a.heic")
    np.testing.assert_allclose(picture.getpixel((9, 9)), (200, 100, 50), atol=4)   # it is lossy


def test_a_transparent_colour_that_does_not_occur_is_none(tmp_path):
    image = noise(mode="L").point(lambda value: value // 2)
    for mode, colour in (("L", 255), ("RGB", (255, 0, 0)), ("P", 255)):
        stored = image.convert(mode)
        dataset = ImageFolderDataset(write_files(tmp_path / mode, {"a.png": encode(stored, transparency=colour)}))
        plain = np.atleast_3d(np.asarray(stored.convert("RGB") if mode == "P" else stored))
        np.testing.assert_array_equal(dataset[0][0].transpose(1, 2, 0), plain)
