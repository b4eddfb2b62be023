"""Castles, drawn: an endless data set of small pictures that belongs to nobody.

A picture is a `Scene` (numbers only, drawn from a seed) that the paint functions put on a canvas, back to front: sky,
far hills, keep, wall, towers, gate, meadow, trees. One light, one stone and one roof colour serve the whole picture and
the front towers stand roughly in four columns, so that a tower that does not belong is seen at once.

Coordinates run over the unit square, x to the right and y down. Colours are (red, green, blue) in 0..255, as floats.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import PIL.Image
import PIL.ImageDraw

from dnnlib.util import UserError

Colour = tuple[float, float, float]
Point = tuple[float, float]
Bricks = tuple[tuple[float, float, float], ...]   # each: place across and down its wall in 0..1, brightness

SMALL_SUPERSAMPLING = 4    # canvas pixels per image pixel and axis
LARGE_SUPERSAMPLING = 2    # the same for images of LARGE pixels and more, where edges are a smaller part
LARGE = 256
MAX_RESOLUTION = 4096
COLUMNS = (0.125, 0.375, 0.625, 0.875)   # where the front towers stand, up to some jitter
MERLON = 0.032                           # width of the teeth on walls and towers: one pixel of a 32-pixel image
WHITE: Colour = (255, 255, 255)
WINDOW_DARK: Colour = (52, 46, 62)
WINDOW_LIT: Colour = (255, 206, 92)


@dataclass(frozen=True)
class Light:
    """Time of day: sky colours from the zenith to the horizon, and what the light does to everything under it."""

    weight: int             # how often it occurs, relative to the others
    sky: tuple[Colour, Colour, Colour]
    tint: Colour            # factor on all colours, 1 is neutral
    ambient: float          # brightness of a surface that turns away from the sun
    diffuse: float          # what is added where it faces the sun
    sun: Colour
    sun_height: tuple[float, float]
    stars: int = 0
    lit_windows: float = 0  # probability that a window is lit


LIGHTS = {
    "day": Light(
        weight=5, sky=((62, 124, 205), (126, 184, 236), (214, 234, 246)),
        tint=(1.04, 1.02, 0.98), ambient=0.60, diffuse=0.52,
        sun=(255, 250, 222), sun_height=(0.08, 0.30),
    ),
    "morning": Light(
        weight=2, sky=((112, 156, 214), (196, 206, 222), (255, 226, 184)),
        tint=(1.08, 0.98, 0.88), ambient=0.56, diffuse=0.56,
        sun=(255, 244, 200), sun_height=(0.25, 0.50),
    ),
    "dusk": Light(
        weight=3, sky=((58, 52, 118), (186, 92, 126), (255, 178, 96)),
        tint=(0.98, 0.74, 0.66), ambient=0.50, diffuse=0.66,
        sun=(255, 232, 170), sun_height=(0.32, 0.56), stars=6, lit_windows=0.6,
    ),
    "night": Light(
        weight=2, sky=((8, 12, 38), (22, 34, 80), (62, 80, 128)),
        tint=(0.48, 0.55, 0.78), ambient=0.56, diffuse=0.66,
        sun=(244, 244, 228), sun_height=(0.08, 0.28), stars=45, lit_windows=0.85,
    ),
}


@dataclass(frozen=True)
class Season:
    weight: int
    grass: Colour
    leaves: tuple[Colour, ...]
    snow: float = 0   # share of white on roofs, battlements and firs


SEASONS = {
    "summer": Season(5, (112, 164, 72), ((74, 132, 62), (92, 148, 66), (44, 96, 64))),
    "spring": Season(3, (150, 184, 84), ((122, 168, 74), (232, 176, 190), (60, 116, 70))),
    "autumn": Season(3, (176, 156, 80), ((206, 122, 44), (192, 78, 46), (216, 166, 60))),
    "winter": Season(2, (228, 236, 244), ((70, 104, 96), (58, 90, 88)), snow=0.75),
}
STONES: tuple[Colour, ...] = (
    (226, 202, 158), (184, 184, 184), (220, 178, 160), (240, 234, 222), (150, 158, 176), (210, 172, 118),
)
ROOFS: tuple[Colour, ...] = (
    (66, 92, 160), (196, 84, 58), (84, 154, 130), (128, 80, 150), (84, 86, 104), (170, 48, 64), (178, 124, 58),
)
FLAGS: tuple[Colour, ...] = (
    (222, 44, 52), (250, 202, 44), (52, 96, 208), (245, 245, 245), (64, 168, 88), (168, 64, 184),
)
ROOF_PROFILES: dict[str, tuple[Point, ...]] = {   # from the peak (0) to the eaves (1): height and share of the width
    "cone": ((0, 0), (0.55, 0.46), (0.86, 0.80), (1, 1)),
    "dome": ((0, 0.02), (0.16, 0.06), (0.28, 0.24), (0.42, 0.58), (0.58, 0.86), (0.74, 0.96), (0.88, 0.92), (1, 0.80)),
    "pyramid": ((0, 0.45), (1, 1)),
}


@dataclass(frozen=True)
class Style:
    """What all towers of a castle share."""

    stone: Colour
    roof: Colour
    flag: Colour
    lit_windows: float   # probability that a window is lit
    foot: float          # where the castle stands


@dataclass(frozen=True)
class Tower:
    x: float            # centre
    width: float
    base: float
    top: float          # where the shaft ends and the roof begins
    roof: str           # a key of ROOF_PROFILES, or teeth: none, an open top with merlons
    roof_height: float
    roof_colour: Colour
    stone: Colour
    round: bool
    windows: tuple[tuple[float, float, bool], ...]   # x, y of the sill, lit
    flag: Colour | None
    bricks: Bricks


@dataclass(frozen=True)
class Wall:
    left: float
    right: float
    base: float
    top: float
    stone: Colour
    bricks: Bricks


@dataclass(frozen=True)
class Gate:
    x: float
    width: float
    height: float
    door: Colour


@dataclass(frozen=True)
class Tree:
    x: float
    base: float
    height: float
    fir: bool
    leaves: Colour


@dataclass(frozen=True)
class Scene:
    light: Light
    season: Season
    sun: Point
    sun_radius: float
    moon: bool
    stars: tuple[tuple[float, float, float], ...]             # x, y, brightness
    clouds: tuple[tuple[tuple[float, float, float], ...], ...]   # the half discs of each: x, y of the base, radius
    hills: tuple[tuple[Colour, tuple[float, ...]], ...]       # colour and heights along x, far to near
    behind: tuple[Tower, ...]
    wall: Wall
    towers: tuple[Tower, ...]
    gate: Gate
    ground: tuple[float, ...]                                 # height of the meadow's edge along x
    path: tuple[float, ...]                                   # x of the path from the gate to the lower border
    trees: tuple[Tree, ...]
    flowers: tuple[tuple[float, float, Colour], ...]
    wind: int                                                 # side to which flags blow: 1 right, -1 left


def draw_castle(seed: int, resolution: int, index: int = 0, season: str | None = None) -> PIL.Image.Image:
    """Castle `index` of the endless series `seed`, an RGB image of `resolution` x `resolution` pixels.

    The castle depends on (seed, index) only: at another resolution it is the same castle. `season`, a key of SEASONS,
    is that of every castle; without it each has its own.
    """
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise UserError(f"castles are drawn at 1 to {MAX_RESOLUTION} pixels, got {resolution}")
    scene = sample_scene(Random(f"castle {seed} {index}"), season)
    factor = SMALL_SUPERSAMPLING if resolution < LARGE else LARGE_SUPERSAMPLING
    canvas = Canvas(resolution * factor, scene)
    paint_sky(canvas)
    paint_hills(canvas)
    for tower in scene.behind:
        paint_tower(canvas, tower)
    paint_wall(canvas, scene.wall)
    for tower in scene.towers:
        paint_shadow(canvas, tower)
    for tower in scene.towers:
        paint_tower(canvas, tower)
    paint_gate(canvas)
    paint_meadow(canvas)
    for tree in scene.trees:
        paint_tree(canvas, tree)
    return canvas.image.reduce(factor)


def sample_scene(rng: Random, season_name: str | None = None) -> Scene:
    """All that varies between castles. A changed order of the draws changes every castle of every seed."""
    light = rng.choices(list(LIGHTS.values()), weights=[light.weight for light in LIGHTS.values()])[0]
    drawn = rng.choices(list(SEASONS), weights=[season.weight for season in SEASONS.values()])[0]
    season = SEASONS[season_name or drawn]
    sun_x = rng.choice((rng.uniform(0.08, 0.30), rng.uniform(0.70, 0.92)))
    foot = rng.uniform(0.78, 0.82)
    style = Style(vary(rng, rng.choice(STONES), 8), vary(rng, rng.choice(ROOFS), 10), rng.choice(FLAGS),
                  light.lit_windows, foot)
    ground = tuple(foot + 0.07 * ((x - 0.5) * 2) ** 2 + rng.uniform(-0.006, 0.006) for x in steps(9))
    towers = sample_towers(rng, style)
    wall_top = foot - rng.uniform(0.15, 0.22)
    wall = Wall(towers[0].x, towers[-1].x, foot + 0.1, wall_top, style.stone, sample_bricks(rng, 14))
    gate_x = rng.choice((0.5, 0.5, 0.5, 0.25, 0.75) if len(towers) == 4 else (0.5,)) + rng.uniform(-0.015, 0.015)
    gate = Gate(gate_x, rng.uniform(0.085, 0.11), rng.uniform(0.11, 0.14),
                rng.choice(((98, 62, 40), (74, 52, 44), (58, 44, 48))))
    path_end = gate.x + rng.uniform(-0.25, 0.25)
    return Scene(
        light=light, season=season, sun=(sun_x, rng.uniform(*light.sun_height)), sun_radius=rng.uniform(0.045, 0.07),
        moon=light is LIGHTS["night"],
        stars=tuple((rng.random(), rng.random() ** 1.5 * 0.6, rng.uniform(0.3, 1)) for _ in range(light.stars)),
        clouds=sample_clouds(rng), hills=sample_hills(rng, light, season, foot),
        behind=sample_keep(rng, style, light.sky[2]), wall=wall, towers=towers, gate=gate, ground=ground,
        path=tuple(gate.x + (path_end - gate.x) * t * t for t in steps(7)),
        trees=sample_trees(rng, season, foot), flowers=sample_flowers(rng, season, foot), wind=rng.choice((-1, 1)),
    )


def sample_towers(rng: Random, style: Style) -> tuple[Tower, ...]:
    """The front row: a tower in each of the inner columns, and mostly in the outer ones."""
    main_roof = rng.choice(("cone", "cone", "cone", "teeth", "dome"))
    height = rng.uniform(0.28, 0.42)
    is_built = (rng.random() < 0.7, True, True, rng.random() < 0.7)
    towers = []
    for x, built in zip(COLUMNS, is_built, strict=True):
        roof = main_roof if rng.random() < 0.75 else rng.choice(("cone", "teeth", "dome"))
        tower = sample_tower(
            rng, style, roof, x=x + rng.uniform(-0.018, 0.018), width=rng.uniform(0.115, 0.165),
            top=style.foot - height + rng.uniform(-0.07, 0.07), base=style.foot + 0.1, last_sill=style.foot - 0.03,
        )
        if built:
            towers.append(tower)
    return tuple(towers)


def sample_keep(rng: Random, style: Style, air: Colour) -> tuple[Tower, ...]:
    """What rises behind the wall: a broad keep, two slender towers, or both, slightly faded into the `air`."""
    style = dataclasses.replace(style, stone=mix(style.stone, air, 0.16), roof=mix(style.roof, air, 0.16))
    kind = rng.choice(("keep", "spires", "both", "both"))
    behind = []
    if kind != "keep":
        for x in (0.5 - rng.uniform(0.10, 0.16), 0.5 + rng.uniform(0.10, 0.16)):
            behind.append(sample_tower(
                rng, style, "cone", x=x, width=rng.uniform(0.065, 0.085), top=rng.uniform(0.26, 0.38),
                base=style.foot, last_sill=style.foot - 0.23,
            ))
    if kind != "spires":
        behind.append(sample_tower(
            rng, style, rng.choice(("teeth", "pyramid", "cone")), x=rng.uniform(0.44, 0.56),
            width=rng.uniform(0.18, 0.24), top=rng.uniform(0.32, 0.42), base=style.foot, last_sill=style.foot - 0.23,
        ))
    return tuple(behind)


def sample_tower(
    rng: Random, style: Style, roof: str, x: float, width: float, top: float, base: float, last_sill: float
) -> Tower:
    """One tower, with windows down to `last_sill`; it is made lower where roof and flag would leave the picture."""
    steepness = {"cone": (1.2, 1.7), "dome": (0.8, 1.0), "pyramid": (0.65, 0.95), "teeth": (0.0, 0.0)}[roof]
    roof_height = rng.uniform(*steepness) * min(width, 0.19)
    has_flag = rng.random() < 0.45
    top = max(top, roof_height + (0.10 if has_flag else 0.02))
    columns = (-0.22, 0.22) if width > 0.17 else (0.0,)   # a broad tower has two windows side by side
    first, spacing = top + rng.uniform(0.09, 0.11), rng.uniform(0.10, 0.13)
    rows = min(max(int((last_sill - first) / spacing) + 1, 1), 3)
    windows = tuple(
        (x + column * width, first + row * spacing, rng.random() < style.lit_windows)
        for row in range(rows) for column in columns
    )
    return Tower(
        x=x, width=width, base=base, top=top, roof=roof, roof_height=roof_height,
        roof_colour=vary(rng, style.roof, 6), stone=vary(rng, style.stone, 4), round=roof != "pyramid",
        windows=windows, flag=style.flag if has_flag else None, bricks=sample_bricks(rng, 9),
    )


def sample_bricks(rng: Random, count: int) -> Bricks:
    return tuple((rng.random(), rng.random(), rng.choice((0.88, 0.92, 1.07))) for _ in range(count))


def sample_clouds(rng: Random) -> tuple[tuple[tuple[float, float, float], ...], ...]:
    clouds = []
    for _ in range(rng.choice((0, 1, 2, 3))):
        x, y, size = rng.uniform(0.0, 1.0), rng.uniform(0.08, 0.40), rng.uniform(0.055, 0.085)
        clouds.append(tuple(
            (x + place * size, y, size * (1.0 - 0.45 * abs(place)) * rng.uniform(0.8, 1.1))
            for place in (-1.3, -0.6, 0.1, 0.8, 1.4)
        ))
    return tuple(clouds)


def sample_hills(
    rng: Random, light: Light, season: Season, foot: float
) -> tuple[tuple[Colour, tuple[float, ...]], ...]:
    """Two ridges that lose their colour to the horizon."""
    ridges = []
    for height, rough, fog in ((0.14, 0.07, 0.62), (0.05, 0.03, 0.34)):
        waves = [(rng.uniform(1, 3), rng.uniform(0, 6.3)), (rng.uniform(4, 7), rng.uniform(0, 6.3))]
        line = tuple(
            foot - height - rough * sum(math.sin(k * x * 3.1 + phase) / (n + 1) for n, (k, phase) in enumerate(waves))
            for x in steps(17)
        )
        colour = mix(mix(season.grass, (84, 112, 150), 0.5), light.sky[2], fog)
        ridges.append((colour, line))
    return tuple(ridges)


def sample_trees(rng: Random, season: Season, foot: float) -> tuple[Tree, ...]:
    """Trees at both sides of the meadow, far ones first."""
    trees = []
    for _ in range(rng.choice((2, 3, 4, 5))):
        x = rng.choice((rng.uniform(0.0, 0.2), rng.uniform(0.8, 1.0)))
        base = foot + rng.uniform(0.05, 0.17)
        trees.append(Tree(x, base, (0.6 + 2.6 * (base - foot)) * rng.uniform(0.13, 0.17), rng.random() < 0.5,
                          vary(rng, rng.choice(season.leaves), 10)))
    return tuple(sorted(trees, key=lambda tree: tree.base))


def sample_flowers(rng: Random, season: Season, foot: float) -> tuple[tuple[float, float, Colour], ...]:
    if season.snow or rng.random() < 0.5:
        return ()
    colour = rng.choice(((250, 240, 120), (250, 250, 245), (240, 110, 120), (190, 130, 220)))
    return tuple((rng.random(), rng.uniform(foot + 0.09, 1), colour) for _ in range(14))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def vary(rng: Random, colour: Colour, amount: float) -> Colour:
    """Shift of all channels together and a smaller one of each."""
    shift = rng.uniform(-amount, amount)
    red, green, blue = (value + shift + rng.uniform(-0.4, 0.4) * amount for value in colour)
    return (red, green, blue)


def steps(count: int) -> list[float]:
    return [i / (count - 1) for i in range(count)]


def curve(heights: Sequence[float], x: float) -> float:
    """Height at x of the polyline whose points are spread evenly over 0..1."""
    place = min(max(x, 0.0), 1.0) * (len(heights) - 1)
    i = min(int(place), len(heights) - 2)
    return heights[i] + (heights[i + 1] - heights[i]) * (place - i)


class Canvas:
    """An image under a scene's light, painted on in unit coordinates."""

    def __init__(self, size: int, scene: Scene):
        self.size = size
        self.scene = scene
        self.image = PIL.Image.new("RGB", (size, size))
        self.draw = PIL.ImageDraw.Draw(self.image)
        # Direction of the light around a vertical axis, -1 from the left and 1 from the right, never head-on.
        side = (scene.sun[0] - 0.5) * 2
        self.sun_angle = math.copysign(0.45 + 0.6 * abs(side), side)

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.size, y * self.size) for x, y in points]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self.draw.polygon(self.pixels(points), fill=rounded(colour))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        size = self.size
        x0, y0 = round(left * size), round(top * size)
        x1, y1 = max(round(right * size) - 1, x0), max(round(bottom * size) - 1, y0)
        self.draw.rectangle((x0, y0, x1, y1), fill=rounded(colour))

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour) -> None:
        size = self.size
        self.draw.ellipse(((x - radius_x) * size, (y - radius_y) * size, (x + radius_x) * size, (y + radius_y) * size),
                          fill=rounded(colour))

    def half_disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Upper half of a disc with its flat side at y."""
        size = self.size
        bounds = ((x - radius) * size, (y - radius) * size, (x + radius) * size, (y + radius) * size)
        self.draw.chord(bounds, 180, 360, fill=rounded(colour))

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        self.draw.line(self.pixels(points), fill=rounded(colour), width=max(1, round(width * self.size)))

    def paste(self, colour: Colour, mask: PIL.Image.Image, x: float, y: float) -> None:
        """Blend a colour in where `mask` (mode L) is bright; (x, y) is the centre of the mask."""
        corner = (round(x * self.size - mask.width / 2), round(y * self.size - mask.height / 2))
        self.image.paste(rounded(colour), corner, mask)

    def lit(self, colour: Colour, shade: float = 1.0) -> Colour:
        """A surface of this colour under the scene's light."""
        tint = self.scene.light.tint
        return (colour[0] * tint[0] * shade, colour[1] * tint[1] * shade, colour[2] * tint[2] * shade)

    def shade(self, across: float) -> float:
        """Brightness of an upright cylinder at -1 (its left edge) .. 1 (its right edge)."""
        angle = math.asin(max(-1.0, min(1.0, across)))
        light = self.scene.light
        return light.ambient + light.diffuse * max(0.0, math.cos(angle - self.sun_angle))

    def revolve(self, x: float, profile: Sequence[tuple[float, float]], colour: Colour, flat: bool = False) -> None:
        """A body of revolution seen from the side, in vertical strips; `profile` lists (y, half width) downwards.

        `flat` paints a box with that outline instead: the same light all over.
        """
        widest = max(half for _, half in profile) * self.size
        count = 1 if flat else max(5, min(24, round(widest / 2)))
        for k in range(count):
            left, right = 2 * k / count - 1, 2 * (k + 1) / count - 1
            outline = [(x + left * half, y) for y, half in profile]
            outline += [(x + right * half, y) for y, half in reversed(profile)]
            self.polygon(outline, self.lit(colour, self.shade((left + right) / 2) if not flat else self.flat_shade))

    @functools.cached_property
    def flat_shade(self) -> float:
        return 0.94 * self.shade(0.0)


def rounded(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = (max(0, min(255, round(value))) for value in colour)
    return (red, green, blue)


def paint_sky(canvas: Canvas) -> None:
    scene, light = canvas.scene, canvas.scene.light
    zenith, middle, horizon = light.sky
    rows = [rounded(mix(zenith, middle, t / 16) if t < 16 else mix(middle, horizon, (t - 16) / 10)) for t in range(27)]
    gradient = PIL.Image.new("RGB", (1, len(rows)))
    gradient.putdata(rows)
    horizon_y = round(0.8 * canvas.size)
    canvas.image.paste(gradient.resize((canvas.size, horizon_y), PIL.Image.Resampling.BILINEAR), (0, 0))
    x, y = scene.sun
    for star_x, star_y, brightness in scene.stars:
        sky = mix(zenith, middle, star_y)
        canvas.ellipse(star_x, star_y, 0.004, 0.004, mix(sky, (255, 255, 240), brightness))
    glow_size = max(round(7 * scene.sun_radius * canvas.size), 2)
    canvas.paste(light.sun, glow().resize((glow_size, glow_size), PIL.Image.Resampling.BILINEAR), x, y)
    canvas.ellipse(x, y, scene.sun_radius, scene.sun_radius, light.sun)
    if scene.moon:
        for dx, dy, radius in ((-0.3, -0.2, 0.22), (0.25, 0.3, 0.28), (0.3, -0.35, 0.14)):
            r = scene.sun_radius
            canvas.ellipse(x + dx * r, y + dy * r, radius * r, radius * r, mix(light.sun, middle, 0.18))
    paint_clouds(canvas)


@functools.cache
def glow() -> PIL.Image.Image:
    """Soft disc as a mask, brightest in the middle."""
    return PIL.Image.radial_gradient("L").point([round(150 * max(0.0, 1 - i / 181) ** 2) for i in range(256)])


def paint_clouds(canvas: Canvas) -> None:
    """Heaps of half discs on a flat base, dark below: the same shape once in shadow and, a little higher, in light."""
    zenith, middle, horizon = canvas.scene.light.sky
    bright = mix(horizon, mix(canvas.scene.light.sun, WHITE, 0.5), 0.75)
    dark = mix(horizon, middle, 0.4)
    if canvas.scene.moon:
        bright, dark = mix(horizon, middle, 0.35), mix(horizon, middle, 0.75)
    for cloud in canvas.scene.clouds:
        for x, y, radius in cloud:
            canvas.half_disc(x, y, radius, dark)
        for x, y, radius in cloud:
            canvas.half_disc(x, y - 0.012, radius * 0.96, bright)


def paint_hills(canvas: Canvas) -> None:
    for colour, line in canvas.scene.hills:
        points = [(i / (len(line) - 1), y) for i, y in enumerate(line)]
        canvas.polygon([*points, (1, 1), (0, 1)], canvas.lit(colour, 0.95))


def paint_teeth(
    canvas: Canvas, left: float, right: float, top: float, height: float, colour: Colour, is_round: bool = False
) -> None:
    """Merlons along the upper edge of a wall or, shaded like it, of a round tower."""
    count = max(2, round(((right - left) / MERLON + 1) / 2))
    width = (right - left) / (2 * count - 1)
    snow = canvas.scene.season.snow
    for i in range(count):
        x = left + 2 * i * width
        across = ((x + width / 2 - left) / (right - left) * 2 - 1) * 0.95
        shade = canvas.shade(across) if is_round else canvas.flat_shade
        canvas.box(x, top - height, x + width, top + 0.002, canvas.lit(colour, shade))
        if snow:
            canvas.box(x, top - height, x + width, top - height * 0.65, canvas.lit(mix(colour, WHITE, snow), shade))


def paint_bricks(
    canvas: Canvas, bricks: Bricks, left: float, right: float, top: float, bottom: float, colour: Colour,
    is_round: bool = False,
) -> None:
    width, height, course = 0.028, 0.013, 0.02
    for across, along, brightness in bricks:
        x = left + across * (right - left - width)
        y = top + round(along * (bottom - top) / course) * course
        shade = canvas.shade((x + width / 2 - left) / (right - left) * 2 - 1) if is_round else canvas.flat_shade
        canvas.box(x, y, x + width, y + height, canvas.lit(colour, shade * brightness))


def paint_wall(canvas: Canvas, wall: Wall) -> None:
    shade = canvas.flat_shade
    canvas.box(wall.left, wall.top, wall.right, wall.base, canvas.lit(wall.stone, shade))
    paint_teeth(canvas, wall.left, wall.right, wall.top, 0.035, wall.stone)
    paint_bricks(canvas, wall.bricks, wall.left, wall.right, wall.top + 0.04, wall.base - 0.1, wall.stone)
    canvas.box(wall.left, wall.top + 0.012, wall.right, wall.top + 0.022, canvas.lit(wall.stone, 0.8 * shade))


def paint_shadow(canvas: Canvas, tower: Tower) -> None:
    """Shadow of a front tower on the wall beside it, away from the sun."""
    wall, side = canvas.scene.wall, -math.copysign(1, canvas.sun_angle)
    ends = sorted((tower.x, tower.x + side * (tower.width / 2 + 0.035)))
    left, right = max(ends[0], wall.left), min(ends[1], wall.right)
    if left < right:
        canvas.box(left, wall.top, right, wall.base, canvas.lit(wall.stone, 0.74 * canvas.flat_shade))


def paint_tower(canvas: Canvas, tower: Tower) -> None:
    x, half, top, stone = tower.x, tower.width / 2, tower.top, tower.stone
    flat = not tower.round
    canvas.revolve(x, [(top, half), (tower.base - 0.16, half), (tower.base, half * 1.15)], stone, flat)
    paint_bricks(canvas, tower.bricks, x - half, x + half, top + 0.05, tower.base - 0.1, stone, tower.round)
    for window_x, sill, is_lit in tower.windows:
        paint_window(canvas, window_x, sill, is_lit)
    # The parapet stands out from the shaft and throws a shadow on it.
    canvas.revolve(x, [(top + 0.03, half), (top + 0.042, half)], mix(stone, (40, 36, 60), 0.35), flat)
    wide = half * 1.16
    canvas.revolve(x, [(top, wide), (top + 0.022, wide), (top + 0.032, half)], stone, flat)
    peak = top
    if tower.roof == "teeth":
        paint_teeth(canvas, x - wide, x + wide, top, 0.032, stone, tower.round)
        peak = top - 0.02
    else:
        peak = top - tower.roof_height
        paint_roof(canvas, tower, wide * 1.08)
    if tower.flag is not None:
        paint_flag(canvas, x, peak, tower.flag)


def paint_roof(canvas: Canvas, tower: Tower, eaves: float) -> None:
    top, height = tower.top + 0.006, tower.roof_height
    outline = [(top - height * (1 - y), eaves * width) for y, width in ROOF_PROFILES[tower.roof]]
    snow = canvas.scene.season.snow
    colour = mix(tower.roof_colour, WHITE, 0.45 * snow)
    gutter = [(top - 0.01, eaves), (top + 0.004, eaves)]
    canvas.revolve(tower.x, outline, colour, flat=not tower.round)
    canvas.revolve(tower.x, gutter, mix(colour, (30, 26, 46), 0.35), flat=not tower.round)


def paint_window(canvas: Canvas, x: float, sill: float, is_lit: bool) -> None:
    half, height = 0.0155, 0.05
    colour = WINDOW_LIT if is_lit else canvas.lit(WINDOW_DARK)
    canvas.box(x - half, sill - height + half, x + half, sill, colour)
    canvas.ellipse(x, sill - height + half, half, half, colour)


def paint_flag(canvas: Canvas, x: float, foot: float, colour: Colour) -> None:
    top = foot - 0.085
    canvas.line([(x, foot + 0.01), (x, top)], 0.007, canvas.lit((92, 84, 84)))
    wind = canvas.scene.wind
    canvas.polygon([(x, top), (x + wind * 0.045, top + 0.008), (x + wind * 0.085, top + 0.022),
                    (x + wind * 0.04, top + 0.036), (x, top + 0.046)], mix(canvas.lit(colour), colour, 0.4))


def paint_gate(canvas: Canvas) -> None:
    scene, gate = canvas.scene, canvas.scene.gate
    foot = curve(scene.ground, gate.x) + 0.01
    half, wall = gate.width / 2, scene.wall
    left, right, top = gate.x - half * 1.75, gate.x + half * 1.75, foot - gate.height - 0.075
    canvas.box(left, top, right, foot + 0.03, canvas.lit(wall.stone, 1.05 * canvas.flat_shade))
    paint_teeth(canvas, left, right, top, 0.03, wall.stone)
    arch_y = foot - gate.height + half
    frame = canvas.lit(wall.stone, 0.78 * canvas.flat_shade)
    canvas.ellipse(gate.x, arch_y, half * 1.22, half * 1.22, frame)
    canvas.box(gate.x - half * 1.22, arch_y, gate.x + half * 1.22, foot + 0.03, frame)
    door = canvas.lit(gate.door, 0.8)
    canvas.ellipse(gate.x, arch_y, half, half, door)
    canvas.box(gate.x - half, arch_y, gate.x + half, foot + 0.03, door)
    for place in (-0.5, 0.0, 0.5):
        canvas.line([(gate.x + place * half, arch_y - half * 0.8), (gate.x + place * half, foot + 0.03)], 0.006,
                    canvas.lit(gate.door, 0.5))


def paint_meadow(canvas: Canvas) -> None:
    scene = canvas.scene
    grass, layers = scene.season.grass, 7
    for layer in range(layers):
        line = [(x, curve(scene.ground, x) + layer * 0.03) for x in steps(9)]
        canvas.polygon([*line, (1, 1), (0, 1)], canvas.lit(grass, 1.02 - 0.05 * layer))
    top = curve(scene.ground, scene.gate.x)
    left, right = [], []
    for t, x in zip(steps(len(scene.path)), scene.path, strict=True):
        half = scene.gate.width / 2 * (0.9 + 1.6 * t)
        left.append((x - half, top + (1.01 - top) * t))
        right.append((x + half, top + (1.01 - top) * t))
    canvas.polygon(left + right[::-1], canvas.lit(mix((214, 186, 140), scene.season.grass, 0.25)))
    for x, y, colour in scene.flowers:
        canvas.ellipse(x, y, 0.007, 0.007, canvas.lit(colour))


def paint_tree(canvas: Canvas, tree: Tree) -> None:
    x, base, height = tree.x, tree.base, tree.height
    canvas.box(x - 0.01, base - height * 0.3, x + 0.01, base, canvas.lit((96, 68, 48), 0.8))
    if tree.fir:
        leaves = mix(tree.leaves, (40, 84, 62), 0.5)
        for low, high, half in ((0.12, 0.55, 0.30), (0.36, 0.78, 0.24), (0.60, 1.05, 0.17)):
            canvas.revolve(x, [(base - height * high, 0.0), (base - height * low, height * half)], leaves)
            if canvas.scene.season.snow:
                tip = [(base - height * high, 0.0), (base - height * (high - 0.16), height * half * 0.38)]
                canvas.revolve(x, tip, WHITE)
    else:
        side = math.copysign(1, canvas.sun_angle)
        for dx, dy, radius, shade in ((0, 0.62, 0.34, 0.72), (0.10, 0.66, 0.28, 0.92), (0.16, 0.74, 0.17, 1.12)):
            canvas.ellipse(x + side * dx * height, base - dy * height, radius * height, radius * height,
                           canvas.lit(tree.leaves, shade))
