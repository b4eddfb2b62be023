"""From an image of any kind to one of the data set: colours, then size.

Images are Pillow's; the results have mode L, RGB or RGBA.
"""

from __future__ import annotations

import numpy as np
import PIL.Image
import PIL.ImageOps

from training.data.conversion_options import RESIZE_FILTERS, ConversionOptions
from training.data.image_files import one_line

Image = PIL.Image.Image


def transform_image(image: Image, options: ConversionOptions, what: str) -> Image | None:
    """The image as the data set holds it; None if the transform drops it. `ValueError`s begin with `what`."""
    return fit_size(fit_channels(image, options.force_channels, what), options)


def fit_channels(image: Image, channels: int | None, what: str) -> Image:
    """Upright 8-bit image with 1 channel (gray), 3 (RGB) or 4 (RGBA); None keeps gray or RGB.

    The orientation in the EXIF data is applied. Palette, CMYK, YCbCr and LAB images become RGB, bilevel and 16-bit gray
    ones 8-bit gray (of 16 bits the upper 8 stay). Of an animation the first frame counts. Where 1 or 3 channels are
    asked for, transparent images are put on black; where nothing is asked for, they raise `ValueError`: what to do
    with them is for the user to say. So do gray values without a defined range.
    """
    if not image.width or not image.height:
        raise ValueError(f"{what} has no pixels: {image.width}x{image.height}")
    if has_transparency(image) and channels is None:
        raise ValueError(f"{what} has transparency (Pillow's mode {image.mode}); --force-channels=3 puts it on black, "
                         "--force-channels=4 keeps it")
    try:
        image = PIL.ImageOps.exif_transpose(image)
    except Exception as err:   # Pillow raises nearly anything on damaged EXIF data
        raise OSError(f"{what} has unreadable EXIF data: {one_line(err)}") from err
    image = with_8_bits(image, what)
    if channels is None:
        return image
    if channels == 4:
        return image.convert("RGBA")
    if image.mode == "RGBA":
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def has_transparency(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def with_8_bits(image: Image, what: str) -> Image:
    """The same picture in mode L, RGB, or RGBA if it has transparency."""
    if image.mode.startswith("I;16") and not has_transparency(image):
        return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB"):
        raise ValueError(f"{what} has Pillow's mode {image.mode}; images must have 8 or 16 bits per channel, and 8 "
                         "with transparency")
    if image.mode == "La":   # Pillow has no direct way from here to RGBA
        image = image.convert("LA")
    if has_transparency(image):
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def fit_size(image: Image, options: ConversionOptions) -> Image | None:
    """The image cropped and resized; None if it is too small for the transform."""
    width, height = options.width or image.width, options.height or image.height
    resample = RESIZE_FILTERS[options.resize_filter]
    if options.transform == "center-crop":
        return center_crop(image, width, height, resample)
    if options.transform == "center-crop-wide":
        return center_crop_wide(image, width, height, resample)
    return image if image.size == (width, height) else image.resize((width, height), resample)


def center_crop(image: Image, width: int, height: int, resample: PIL.Image.Resampling) -> Image:
    """The largest part in the middle that has the proportions of width x height, resized to it."""
    crop_width = max(1, min(image.width, round(image.height * width / height)))
    crop_height = max(1, min(image.height, round(image.width * height / width)))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height)).resize((width, height), resample)


def center_crop_wide(image: Image, width: int, height: int, resample: PIL.Image.Resampling) -> Image | None:
    """Full width and a middle part of the height, resized to width x height on a black square of side `width`.

    None if the image would have to be enlarged, or is not high enough for its width.
    """
    crop_height = round(image.width * height / width)
    if image.width < width or crop_height < height or image.height < crop_height:
        return None
    top = (image.height - crop_height) // 2
    strip = image.crop((0, top, image.width, top + crop_height)).resize((width, height), resample)
    canvas = PIL.Image.new(image.mode, (width, width))
    canvas.paste(strip, (0, (width - height) // 2))
    return canvas
