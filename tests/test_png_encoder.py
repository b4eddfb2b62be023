"""The PNG encoder against Pillow and zlib."""

from __future__ import annotations

import io
import zlib

import numpy as np
import PIL.Image
import pytest

from training.png_encoder import encode_png, stored


@pytest.mark.parametrize("shape, mode", [
    ((1, 1), "L"), ((7, 5), "L"), ((7, 5, 1), "L"), ((7, 5, 3), "RGB"), ((5, 7, 4), "RGBA"), ((200, 300, 3), "RGB"),
])
def test_pillow_reads_the_same_pixels(shape, mode):
    pixels = np.random.RandomState(0).randint(256, size=shape).astype(np.uint8)
    data = encode_png(pixels)
    PIL.Image.open(io.BytesIO(data)).verify()   # the checksums
    image = PIL.Image.open(io.BytesIO(data))
    assert (image.format, image.mode) == ("PNG", mode)
    np.testing.assert_array_equal(np.asarray(image).reshape(shape), pixels)


def test_parts_of_a_larger_array_are_encoded_like_copies():
    pixels = np.random.RandomState(0).randint(256, size=[3, 8, 10]).astype(np.uint8)
    view = pixels.transpose(1, 2, 0)[::2]
    assert encode_png(view) == encode_png(view.copy())


@pytest.mark.parametrize("size", [1, 65534, 65535, 65536, 200_000])
def test_zlib_unpacks_what_is_stored(size):
    data = np.random.RandomState(0).bytes(size)
    assert zlib.decompress(stored(data)) == data
    assert len(stored(data)) == size + 6 + 5 * -(-size // 65535)
