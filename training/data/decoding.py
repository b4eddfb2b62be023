"""The one reader of pictures: whatever a file holds becomes an upright picture in sRGB with 8 bits per channel.

The results are Pillow's images of mode L, RGB, LA or RGBA. Orientation, colour profile, palettes, printing colours and
more than 8 bits are dealt with here, so that every command sees the same picture in one file. A plain PNG takes a
short path and keeps its bits.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import PIL.ImageOps

from dnnlib.util import UserError
from training.data.messages import one_line

if TYPE_CHECKING:
    from PIL import ImageCms

Image = PIL.Image.Image

READER = 2   # raised when a file may become other pixels than before: cached statistics of images are then made anew
PLAIN_MODES = ("L", "RGB", "RGBA")
# What beside the pixels of a PNG file has a say in the picture. `getexif` of Pillow looks into all but the first two.
METADATA = frozenset({"icc_profile", "transparency", "exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
ORIENTATION = 0x0112   # the EXIF tag
# Formats that Pillow can only name, or reads with a program that it starts: PostScript.
UNREADABLE_FORMATS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
FIRST_FORMATS = ("PNG", "JPEG", "WEBP")   # tried first because most files are of these
HEIF_ENDINGS = frozenset({".heic", ".heif", ".hif"})
SRGB_TOLERANCE = 2   # 8-bit levels; a profile that changes no colour by more is sRGB, rounded

def read_picture(data: bytes, what: str, value_range: tuple[float, float] | None = None) -> Image:
    """The picture in the content of a file. `OSError` or `UserError` that begins with `what`, such as a file name."""
    return to_8_bit_srgb(open_image(data, what), what, value_range)


def open_image(data: bytes, what: str) -> Image:
    """The decoded image as the file stores it; `info["sixteen_bits"]` tells whether channels have 16 bits there.

    `OSError` that begins with `what` if it is not a complete image.
    """
    try:
        image = _open(data)
        deep = ";16" in str(getattr(image, "tile", ""))   # colour: Pillow drops the lower 8 bits while decoding
        image.load()
        if image.mode == "I" and image.format in ("PNG", "PPM"):   # 16-bit gray, widened
            image = image.convert("I;16")
    except PIL.UnidentifiedImageError as err:
        raise OSError(f"{what}: not an image that Pillow knows") from err
    except Exception as err:   # Pillow's decoders raise nearly anything on damaged data
        raise OSError(f"{what}: {one_line(err)}") from err
    if deep:
        image.info["sixteen_bits"] = True
    return image


def _open(data: bytes) -> Image:
    try:
        return PIL.Image.open(io.BytesIO(data), formats=readable_formats())
    except PIL.UnidentifiedImageError:
        if data[4:8] != b"ftyp" or not heif_is_installed():
            raise
    import pillow_heif  # an extra, and slow to import

    pillow_heif.register_heif_opener()
    readable_formats.cache_clear()
    return PIL.Image.open(io.BytesIO(data), formats=readable_formats())


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that it decodes itself."""
    PIL.Image.init()
    return (*FIRST_FORMATS, *(name for name in PIL.Image.OPEN if name not in {*UNREADABLE_FORMATS, *FIRST_FORMATS}))


@functools.cache
def readable_endings() -> frozenset[str]:
    """Endings of file names, such as `.png`, that promise a readable image."""
    formats = {*readable_formats(), "MPO"}   # several JPEG images in one file; opened as JPEG
    endings = {ending for ending, name in PIL.Image.registered_extensions().items() if name in formats}
    return frozenset(endings | HEIF_ENDINGS if heif_is_installed() else endings)


@functools.cache
def heif_is_installed() -> bool:
    return importlib.util.find_spec("pillow_heif") is not None


def to_8_bit_srgb(image: Image, what: str, value_range: tuple[float, float] | None = None) -> Image:
    """The picture that a viewer would show: mode L or RGB, LA or RGBA where there is transparency.

    value_range: values of images with more than 8 bits that become black and white; None takes 0 and 65535 for 16-bit
    images and refuses others.
    Raises `UserError` or `OSError` that begins with `what`.
    """
    if value_range is not None and "sixteen_bits" in image.info and not image.mode.startswith("I;16"):
        raise UserError(f"{what} has 16 bits per channel and colours or transparency; --range is for gray images only, "
                        "convert this one to 8 bits first")
    if image.mode in PLAIN_MODES and image.format == "PNG" and METADATA.isdisjoint(image.info):
        return image
    if not image.width or not image.height:
        raise UserError(f"{what} has no pixels: {image.width}x{image.height}")
    image = turned_upright(image, what)
    profile = image.info.get("icc_profile")
    if profile and image.mode == "CMYK":   # the profile describes the inks, so it must come first
        return converted_to_srgb(image, profile) or with_8_bits(image, what)
    known_colours = image.mode in ("LAB", "YCbCr")   # they become sRGB by definition
    image = with_8_bits(image, what, value_range)
    return converted_to_srgb(image, profile) or image if profile and not known_colours else image


def turned_upright(image: Image, what: str) -> Image:
    """As the orientation in the EXIF data says."""
    try:
        turn = image.getexif().get(ORIENTATION, 1) != 1
        return PIL.ImageOps.exif_transpose(image) if turn else image
    except Exception as err:   # Pillow raises nearly anything on damaged EXIF data
        raise OSError(f"{what} has unreadable EXIF data: {one_line(err)}") from err


def has_transparency(image: Image) -> bool:
    """Whether there is an alpha channel or a transparent colour; both may still be opaque everywhere."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def with_8_bits(image: Image, what: str, value_range: tuple[float, float] | None = None) -> Image:
    """The same picture in mode L or RGB, LA or RGBA where it has transparency."""
    sixteen = image.mode.startswith("I;16")
    if sixteen and not has_transparency(image) or image.mode in ("I", "F") and value_range is not None:
        return scaled_to_8_bits(image, value_range, what)
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB"):
        advice = "" if sixteen else "; --range of dataset_tool.py says which values are black and white"
        raise UserError(f"{what} has Pillow's mode {image.mode}; images must have 8 or 16 bits per channel, and 8 "
                        f"with transparency{advice}")
    if image.mode == "La":   # Pillow has no direct way from here to RGBA
        image = image.convert("LA")
    gray = image.mode in ("1", "L", "LA")
    if has_transparency(image):
        clear = image.convert("RGBA" if image.mode == "1" or not gray else "LA")
        # A transparent colour or palette entry that does not occur is none. An alpha channel is one, if only by name.
        if "transparency" not in image.info or not is_opaque(clear):
            return clear
        image = clear
    return image.convert("L" if gray else "RGB")


def scaled_to_8_bits(image: Image, value_range: tuple[float, float] | None, what: str) -> Image:
    """Gray of more than 8 bits as mode L. Without a range the upper 8 of 16 bits stay."""
    values = np.asarray(image)
    if value_range is None:
        return PIL.Image.fromarray((values >> 8).astype(np.uint8))
    low, high = value_range
    if not np.isfinite(values).all():
        raise UserError(f"{what} has values that are not finite")
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return PIL.Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8))


def converted_to_srgb(image: Image, profile: bytes) -> Image | None:
    """The image with colours of its ICC profile as sRGB; itself if the profile is sRGB, None if it is unusable.

    Browsers, too, ignore a profile that is damaged or belongs to images of another kind.
    """
    colours = image.convert({"LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode))
    try:
        transform = _transform_to_srgb(profile, colours.mode)
        if transform is None:
            return image
        converted = transform.apply(colours)
    except Exception:   # the errors of little CMS come as several types
        return None
    if image.mode in ("L", "LA"):
        converted = converted.convert("L")
    if image.mode in ("LA", "RGBA"):
        converted.putalpha(image.getchannel("A"))
    return converted


@functools.lru_cache(maxsize=16)   # the pictures of a collection come from few cameras and programs
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Little CMS's transform from images of `mode` (L, RGB, CMYK) to RGB; None if it would change nothing."""
    from PIL import ImageCms  # some builds of Pillow lack it; only pictures with profiles need it

    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    levels = np.linspace(0, 255, 18, dtype=np.uint8)   # 0, 15, ... 255
    grid = levels[:, None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    probe = PIL.Image.fromarray(grid)
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return None if abs(change).max() <= SRGB_TOLERANCE else transform


def is_opaque(image: Image) -> bool:
    """Whether the alpha channel of an image of mode LA or RGBA is at its maximum everywhere."""
    return image.getchannel("A").getextrema() == (255, 255)


def on_black(image: Image) -> Image:
    """A picture of any of the four modes without its transparency: what was transparent shows black. Mode L or RGB."""
    if image.mode not in ("LA", "RGBA"):
        return image
    rgba = image.convert("RGBA")
    flat = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, (0, 0, 0, 255)), rgba)
    return flat.convert("L" if image.mode == "LA" else "RGB")
