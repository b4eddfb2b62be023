"""Which sizes of images the networks can make: small grids that are doubled again and again.

A square grows from a single cell, so its side is a power of two. A rectangle grows from a grid of a few cells:
96x64 is 3x2 cells doubled five times.
"""

from __future__ import annotations

from dnnlib.util import UserError

MAX_BASE_CELLS = 16   # along the longer side of that grid; the last layer of the discriminator grows with its square
MIN_UNIT = 4          # pixels of a cell of a rectangle along each side: two doublings at least


def common_power_of_two(width: int, height: int) -> int:
    """The largest power of two that divides both sides: what a cell of the smallest grid has grown to."""
    return (width | height) & -(width | height)


def is_possible_size(width: int, height: int) -> bool:
    """Whether a network can make images of `width` x `height` pixels."""
    unit = common_power_of_two(width, height)
    if width == height:
        return unit == width
    return unit >= MIN_UNIT and max(width, height) <= MAX_BASE_CELLS * unit


def check_image_size(width: int, height: int, what: str) -> None:
    """Raise `UserError` unless the size is possible: `what`, the rule, the size and the nearest possible one."""
    if is_possible_size(width, height):
        return
    if width == height:
        rule = "the side of square images must be a power of two"
    else:
        rule = f"width and height must be a power of two of at least {MIN_UNIT} times whole numbers " \
               f"up to {MAX_BASE_CELLS}, such as 96x64 (32 times 3 and 2)"
    nearest_width, nearest_height = nearest_possible_size(width, height)
    raise UserError(f"{what}: {rule}, got {width}x{height}; {nearest_width}x{nearest_height} is near and possible")


def nearest_possible_size(width: int, height: int) -> tuple[int, int]:
    """A possible size close to this one: on the finest raster that rectangles allow, or the nearest power of two."""
    unit = MIN_UNIT
    while unit * MAX_BASE_CELLS < max(width, height):
        unit *= 2
    near = max(1, round(width / unit)) * unit, max(1, round(height / unit)) * unit
    if width == height or near[0] == near[1]:
        side = 2 ** (max(width, height) - 1).bit_length()
        near = (side, side) if side * 3 // 4 <= max(width, height) else (side // 2, side // 2)
    return near
