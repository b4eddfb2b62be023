"""From an upright sRGB image to one of the data set: channels, then size.

Images are Pillow's; the results have mode L, RGB or RGBA.
"""

from __future__ import annotations

import PIL.Image

from dnnlib.util import UserError
from training.data.conversion_options import RESIZE_FILTERS, ConversionOptions
from training.data.decoding import is_opaque, on_black

Image = PIL.Image.Image


def transform_image(image: Image, options: ConversionOptions, what: str) -> Image | None:
    """The image as the data set holds it; None if the transform drops it. `UserError`s begin with `what`.

    image: of mode L, RGB, LA or RGBA.
    """
    return fit_size(fit_channels(image, options.force_channels, what), options)


def fit_channels(image: Image, channels: int | None, what: str) -> Image:
    """An image of mode L, RGB, LA or RGBA with 1 channel (gray), 3 (RGB) or 4 (RGBA); None keeps gray or RGB.

    Where 1 or 3 channels are asked for, transparent images are put on black; where nothing is asked for, they raise
    `UserError`: what to do with them is for the user to say. An alpha channel that is opaque everywhere is dropped.
    """
    if channels == 4:
        return image.convert("RGBA")
    if image.mode in ("LA", "RGBA"):
        if is_opaque(image):
            image = image.convert("L" if image.mode == "LA" else "RGB")
        elif channels is None:
            raise UserError(f"{what} has transparency (Pillow's mode {image.mode}); --force-channels=3 puts it on "
                            "black, --force-channels=4 keeps it")
    return image if channels is None else on_black(image).convert("L" if channels == 1 else "RGB")


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
