"""What `dataset_tool.py` makes of the images of a source."""

from __future__ import annotations

from dataclasses import dataclass

import PIL.Image

from dnnlib.util import UserError
from training.data.image_size import check_image_size

RESIZE_FILTERS = {"box": PIL.Image.Resampling.BOX, "lanczos": PIL.Image.Resampling.LANCZOS}
TRANSFORMS = ("center-crop", "center-crop-wide")
CHANNELS = (1, 3, 4)   # gray, RGB, RGB with transparency


@dataclass(frozen=True)
class ConversionOptions:
    """Choice and treatment of the images; `UserError` names the option that makes no sense."""

    max_images: int | None = None        # take only the first images of the source
    transform: str | None = None         # one of TRANSFORMS; None resizes where a width or height is given
    resize_filter: str = "lanczos"       # one of RESIZE_FILTERS
    width: int | None = None             # pixels; None keeps that of the image
    height: int | None = None
    force_channels: int | None = None    # one of CHANNELS; None keeps gray or RGB and refuses transparency
    value_range: tuple[float, float] | None = None   # black and white of images with more than 8 bits; None: all of 16
    subfolders_as_labels: bool = False   # the first folder of an image's path is its class
    skip_bad: bool = False               # leave out what cannot be used, instead of giving up
    workers: int | None = 1              # processes; None takes up to one per processor where that saves time
    seed: int = 0                        # another seed draws other images

    def __post_init__(self) -> None:
        counts = {"max-images": self.max_images, "width": self.width, "height": self.height, "workers": self.workers}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UserError(f"{name} must be at least 1, got {count}")
        if self.resize_filter not in RESIZE_FILTERS:
            raise UserError(f"resize filter must be one of {', '.join(RESIZE_FILTERS)}, got {self.resize_filter}")
        if self.force_channels not in (None, *CHANNELS):
            raise UserError(f"force-channels must be one of 1, 3, 4, got {self.force_channels}")
        if self.transform not in (None, *TRANSFORMS):
            raise UserError(f"transform must be one of {', '.join(TRANSFORMS)}, got {self.transform}")
        if self.transform is not None and (self.width is None or self.height is None):
            raise UserError(f"transform {self.transform} needs both width and height")
        if self.value_range is not None and not -1e38 < self.value_range[0] < self.value_range[1] < 1e38:
            low, high = self.value_range
            raise UserError(f"range must be two finite numbers, black below white, got {low:g} and {high:g}")
        if self.width is not None and self.height is not None:
            self._check_size(self.width, self.height)

    def _check_size(self, width: int, height: int) -> None:
        if self.transform == "center-crop-wide":   # gives squares
            if height > width:
                raise UserError(f"center-crop-wide needs a height up to the width, got {width}x{height}")
            height = width
        check_image_size(width, height, "the data set")
