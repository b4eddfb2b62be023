"""The drawings of resampling show the right pixels, colours and scale."""

from __future__ import annotations

import numpy as np
import pytest

from ssn_plugin import page as plugin_page
from ssn_plugin.edits import contact_sheet
from ssn_plugin.page import ACCENT, MARGIN, colormap, nice_scale, tile_size
from training.images import pictures


def noise_image(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, [height, width, channels], dtype=np.uint8)


def cell(height: int, width: int) -> np.ndarray:
    """The block (1, 2) of a 4x4 grid."""
    region = np.zeros([height, width], dtype=bool)
    region[height // 4:height // 2, width // 2:width * 3 // 4] = True
    return region


def sheet_of(original: np.ndarray, variants: list[np.ndarray], region: np.ndarray) -> np.ndarray:
    names = [f"v{i:02d}" for i in range(1, len(variants) + 1)]
    sheet = contact_sheet.draw_contact_sheet(original, variants, region, names, names, "Title", "subtitle", "footer")
    return np.asarray(sheet)


def contains(page: np.ndarray, tile: np.ndarray) -> bool:
    """Does the picture occur somewhere on the page, pixel by pixel?"""
    corners = np.argwhere((page == tile[0, 0]).all(axis=2))
    h, w = tile.shape[:2]
    return any(np.array_equal(page[y:y + h, x:x + w], tile) for y, x in corners)


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


@pytest.mark.parametrize("num", [1, 3, 8, 20])
def test_a_sheet_shows_every_variant_with_its_own_pixels(num):
    variants = [noise_image(16, 16, seed=i) for i in range(num)]
    page = sheet_of(noise_image(16, 16, seed=99), variants, cell(16, 16))
    for variant in variants:
        assert contains(page, enlarged(variant, 10))  # 160 pixels


def test_the_original_is_shown_twice_as_large_beside_rows_of_variants():
    original = noise_image(16, 16)
    page = sheet_of(original, [original] * 8, np.zeros([16, 16], dtype=bool))
    assert contains(page, enlarged(original, 20))


def test_the_region_is_outlined_on_the_original():
    gray = np.full([16, 16, 3], 128, dtype=np.uint8)
    page = sheet_of(gray, [gray] * 8, cell(16, 16))
    rows, columns = np.nonzero((page == ACCENT).all(axis=2))
    x, y = MARGIN, int(np.argwhere((page == 128).all(axis=2))[0][0])  # corner of the original
    on_original = columns < x + 320
    # The line covers one pixel on either side of the border of the block, which is enlarged 20 times.
    assert (columns[on_original].min() - x, columns[on_original].max() - x) == (8 * 20 - 1, 12 * 20)
    assert (rows[on_original].min() - y, rows[on_original].max() - y) == (4 * 20 - 1, 8 * 20)


def test_an_outline_at_the_edge_of_the_image_stays_visible():
    gray = np.full([16, 16, 3], 128, dtype=np.uint8)
    page = sheet_of(gray, [gray], np.ones([16, 16], dtype=bool))
    assert (page == ACCENT).all(axis=2).sum() > 4 * 160


@pytest.mark.parametrize(("shape", "size"), [
    ((8, 8), (160, 160)),
    ((100, 100), (200, 200)),
    ((160, 160), (160, 160)),
    ((256, 256), (256, 256)),
    ((1024, 1024), (256, 256)),
    ((16, 32), (160, 80)),
    ((512, 1024), (256, 128)),
])
def test_tiles_are_whole_multiples_of_small_images_and_of_bounded_size(shape, size):
    assert tile_size(shape) == size


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_transparent_images_can_be_drawn(channels):
    image = noise_image(16, 16, channels)
    image[..., -1:] |= 255 if channels == 4 else 0
    page = sheet_of(image, [image], cell(16, 16))
    rgb = np.broadcast_to(image[..., :3 if channels == 4 else 1], [16, 16, 3])
    assert contains(page, enlarged(rgb, 10))


def test_a_long_title_widens_the_page():
    image = noise_image(8, 8)
    region = np.ones([8, 8], dtype=bool)
    short, long = (
        contact_sheet.draw_contact_sheet(image, [image], region, ["v01"], [""], title, "", "")
        for title in ("a", "word " * 40)
    )
    assert long.width > short.width


def test_each_variant_needs_a_label():
    image = noise_image(8, 8)
    with pytest.raises(ValueError, match="a label and a note for each variant, got 2, 1, 2"):
        contact_sheet.draw_contact_sheet(image, [image] * 2, cell(8, 8), ["v01"], ["", ""], "", "", "")


def test_the_change_map_colours_each_pixel_by_its_change():
    change = np.linspace(0, 0.6, 64).reshape(8, 8)
    page = contact_sheet.draw_change_map(noise_image(8, 8), change, np.zeros([8, 8], dtype=bool), "", "", "")
    colors = colormap()[(change / 0.6 * 255).round().astype(int)]
    assert contains(np.asarray(page), enlarged(colors, 40))


def test_a_map_without_any_change_is_blank():
    region = np.zeros([8, 8], dtype=bool)
    page = contact_sheet.draw_change_map(noise_image(8, 8), np.zeros([8, 8]), region, "", "", "")
    lightest = np.broadcast_to(colormap()[0], [320, 320, 3])
    assert contains(np.asarray(page), lightest)


def test_colours_run_from_light_to_dark_evenly():
    rgb = colormap() / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16  # CIE L*, but for the darkest 1 %
    assert lightness[0] > 95
    assert lightness[-1] < 15
    steps = -np.diff(lightness[:241:16])  # 16 colours at a time, since 8 bits make single steps uneven
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.min()  # Oklab's lightness, which falls evenly, and CIE's agree roughly only


@pytest.mark.parametrize(("largest", "scale"), [
    (0.55, (0.6, 0.1)),
    (0.6, (0.6, 0.1)),
    (0.003, (0.003, 0.0005)),
    (1.0, (1.0, 0.2)),
    (0.0, (0.01, 0.002)),
    (float("nan"), (0.01, 0.002)),
])
def test_the_scale_ends_at_a_round_number_above_the_largest_value(largest, scale):
    assert nice_scale(largest) == pytest.approx(scale)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_host_and_the_plugin_put_images_on_a_page_alike(channels):
    """Neither can import the other's function: the host works without the plugin, the plugin in other hosts."""
    image = noise_image(8, 8, channels)
    np.testing.assert_array_equal(np.asarray(plugin_page.to_rgb(image)), np.asarray(pictures.to_rgb(image)))
