"""Adaptive discriminator augmentation of Karras et al. 2020 (arXiv:2006.06676): the image transforms.

Each group of transforms takes the same steps: draw parameters, turn them into one matrix, filter or mask per image,
apply that once. The source of this file is stored inside snapshots, so it imports nothing but numpy, torch and
torch_utils, and keeps to the syntax of Python 3.8.

Letters in shape comments: N batch, C channels, H W pixels, K taps of the band filters.
"""

from __future__ import annotations

from typing import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from torch_utils import misc, persistence
from torch_utils.ops import conv2d_gradfix, grid_sample_gradfix, upfirdn2d

_GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
_COLOUR = ("brightness", "contrast", "lumaflip", "hue", "saturation")

# Share of each band of the filter bank, lowest first, in the power of a natural image.
_BAND_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


@persistence.persistent_class
class AugmentPipe(torch.nn.Module):
    """Transforms images at random, so that a discriminator cannot memorise a small data set.

    An argument with the bare name of a transform is its probability multiplier: the transform applies to an image with
    probability multiplier * p, independently of all else; 0 switches it off.
    Buffers: `p` [] is the overall strength, which the training loop adapts; `Hz_geom` [12] is the low-pass filter
    around the geometric transforms; `Hz_fbank` [4, K] are the zero-phase filters of the frequency bands.
    Raises ValueError for a negative multiplier and for a number of bands other than four.
    """

    full_margins = False  # extend images as far as any transform can need, so that nothing depends on what was drawn?
    p: torch.Tensor
    Hz_geom: torch.Tensor
    Hz_fbank: torch.Tensor

    def __init__(
        self,
        xflip: float = 0,             # mirror left and right
        rotate90: float = 0,          # turn by a multiple of 90 degrees
        xint: float = 0,              # translate by whole pixels
        xint_max: float = 0.125,      # ... by at most this share of the image side
        scale: float = 0,             # magnify
        rotate: float = 0,            # turn by any angle
        aniso: float = 0,             # stretch one axis and shrink the other
        xfrac: float = 0,             # translate by fractions of a pixel
        scale_std: float = 0.2,       # deviation of log2 of the magnification
        rotate_max: float = 1,        # largest angle, in half turns
        aniso_std: float = 0.2,       # deviation of log2 of the stretch
        xfrac_std: float = 0.125,     # deviation of the translation, as a share of the image side
        brightness: float = 0,        # add an offset to all channels
        contrast: float = 0,          # multiply all channels
        lumaflip: float = 0,          # negate the luma, keep the colours
        hue: float = 0,               # turn the colours around the gray axis
        saturation: float = 0,        # multiply the distance from the gray axis
        brightness_std: float = 0.2,  # deviation of the offset
        contrast_std: float = 0.5,    # deviation of log2 of the factor
        hue_max: float = 1,           # largest angle, in half turns
        saturation_std: float = 1,    # deviation of log2 of the factor
        imgfilter: float = 0,         # amplify or damp frequency bands
        imgfilter_bands: Sequence[float] = (1, 1, 1, 1),  # further multiplier of each band, lowest first
        imgfilter_std: float = 1,     # deviation of log2 of the gain
        noise: float = 0,             # add white noise
        cutout: float = 0,            # set a square to zero
        noise_std: float = 0.1,       # scale of the half-normal noise level
        cutout_size: float = 0.5,     # side of the square, as a share of the image side
    ) -> None:
        super().__init__()
        self.xflip, self.rotate90, self.xint = float(xflip), float(rotate90), float(xint)
        self.xint_max = float(xint_max)
        self.scale, self.rotate, self.aniso, self.xfrac = float(scale), float(rotate), float(aniso), float(xfrac)
        self.scale_std, self.rotate_max = float(scale_std), float(rotate_max)
        self.aniso_std, self.xfrac_std = float(aniso_std), float(xfrac_std)
        self.brightness, self.contrast, self.lumaflip = float(brightness), float(contrast), float(lumaflip)
        self.hue, self.saturation = float(hue), float(saturation)
        self.brightness_std, self.contrast_std = float(brightness_std), float(contrast_std)
        self.hue_max, self.saturation_std = float(hue_max), float(saturation_std)
        self.imgfilter, self.imgfilter_std = float(imgfilter), float(imgfilter_std)
        self.imgfilter_bands = [float(multiplier) for multiplier in imgfilter_bands]
        self.noise, self.cutout = float(noise), float(cutout)
        self.noise_std, self.cutout_size = float(noise_std), float(cutout_size)
        for name in (*_GEOMETRY, *_COLOUR, "imgfilter", "noise", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"augmentation multiplier {name} must be >= 0, got {getattr(self, name)}")
        if len(self.imgfilter_bands) != len(_BAND_POWER):
            raise ValueError(f"imgfilter_bands must hold {len(_BAND_POWER)} numbers, got {self.imgfilter_bands}")
        self.register_buffer("p", torch.ones([]))
        self.register_buffer("Hz_geom", upfirdn2d.setup_filter(wavelets["sym6"]))
        self.register_buffer("Hz_fbank", torch.as_tensor(_band_filters(wavelets["sym2"]), dtype=torch.float32))

    def forward(self, images: torch.Tensor, debug_percentile: float | None = None) -> torch.Tensor:
        """Transform a batch. [N, C, H, W] in -1..1, with C = 1, 3 or 4 if colours change -> same shape, not clamped

        With `debug_percentile` every enabled transform applies and each parameter takes that quantile (0..1) of its
        distribution; only the noise field stays random.
        Raises ValueError for images that an enabled transform cannot take.
        """
        draws = _Draws(len(images), self.p, debug_percentile)
        if any(getattr(self, name) > 0 for name in _GEOMETRY):
            images = _warp(images, self._draw_geometry(draws, images), self.Hz_geom, self.full_margins)
        if any(getattr(self, name) > 0 for name in _COLOUR):
            images = _recolour(images, *self._draw_colour(draws))
        if self.imgfilter > 0:
            images = _filter_separably(images, self._draw_band_gains(draws) @ self.Hz_fbank)
        if self.noise > 0:
            sigma = draws.gate(self.noise) * draws.half_normal() * self.noise_std
            images = images + sigma[:, :, None, None] * torch.randn(images.shape, device=images.device)
        if self.cutout > 0:
            size = draws.gate(self.cutout) * self.cutout_size
            images = _cut_out(images, centre=(draws.uniform(2) + 1) / 2, size=size)
        return images

    def _draw_geometry(self, draws: _Draws, images: torch.Tensor) -> torch.Tensor:
        """Matrices from output to input positions, homogeneous, in pixels from the image centre. [N, 3, 3]"""
        inverse = torch.eye(3, device=images.device)
        for factor in self._inverse_factors(draws, images):
            inverse = inverse @ factor
        return inverse

    def _inverse_factors(self, draws: _Draws, images: torch.Tensor) -> Iterator[torch.Tensor]:
        """The inverse of each enabled geometric transform, in the order of application. [N, 3, 3] each"""
        size = misc.constant([images.shape[3], images.shape[2]], device=images.device)
        if self.xflip > 0:
            mirror = 1 - 2 * draws.gate(self.xflip) * draws.choice(2)
            yield _scaling(mirror, torch.ones_like(mirror))
        if self.rotate90 > 0:
            yield _rotation(draws.gate(self.rotate90) * draws.choice(4) * (np.pi / 2))
        if self.xint > 0:
            yield _translation(-(draws.gate(self.xint) * draws.uniform(2) * self.xint_max * size).round())
        if self.scale > 0:
            shrink = torch.exp2(-draws.gate(self.scale) * draws.normal() * self.scale_std)
            yield _scaling(shrink, shrink)
        # A rotation on either side of the stretch gives it a random axis.
        if self.rotate > 0:
            yield _rotation(draws.gate(self.rotate, either_of=2) * draws.uniform() * (np.pi * self.rotate_max))
        if self.aniso > 0:
            shrink = torch.exp2(-draws.gate(self.aniso) * draws.normal() * self.aniso_std)
            yield _scaling(shrink, 1 / shrink)
        if self.rotate > 0 and draws.quantile is None:
            yield _rotation(draws.gate(self.rotate, either_of=2) * draws.uniform() * (np.pi * self.rotate_max))
        if self.xfrac > 0:
            yield _translation(-draws.gate(self.xfrac) * draws.normal(2) * self.xfrac_std * size)

    def _draw_colour(self, draws: _Draws) -> tuple[torch.Tensor, ...]:
        """Offset, gain of the luma, gain of the chroma and angle of the hue, see `_recolour`. [N, 1] each"""
        offset = draws.gate(self.brightness) * draws.normal() * self.brightness_std
        contrast = torch.exp2(draws.gate(self.contrast) * draws.normal() * self.contrast_std)
        sign = 1 - 2 * draws.gate(self.lumaflip) * draws.choice(2)
        angle = draws.gate(self.hue) * draws.uniform() * (np.pi * self.hue_max)
        saturation = torch.exp2(draws.gate(self.saturation) * draws.normal() * self.saturation_std)
        return offset, contrast * sign, contrast * saturation, angle

    def _draw_band_gains(self, draws: _Draws) -> torch.Tensor:
        """Gains of the frequency bands. [N, 4]

        Each band in turn is amplified or damped; then all are scaled to restore the expected power.
        """
        multipliers = misc.constant([self.imgfilter * band for band in self.imgfilter_bands], device=self.p.device)
        power = misc.constant(_BAND_POWER, device=self.p.device)
        own = torch.exp2(draws.gate(multipliers) * draws.normal(4) * self.imgfilter_std)
        gains = 1 + torch.diag_embed(own - 1)                           # [N, 4 steps, 4 bands]
        gains = gains / (gains.square() * power).sum(dim=2, keepdim=True).sqrt()
        return gains.prod(dim=1)


class _Draws:
    """The random numbers of one batch.

    Zero is the neutral value of every parameter of a transform, so that a closed gate is a factor of zero.
    With a quantile nothing is random: gates are open, and laws return that quantile.
    """

    def __init__(self, num: int, p: torch.Tensor, quantile: float | None) -> None:
        self.num = num
        self.p = p                # [] overall strength; its device is used for all draws
        self.quantile = None if quantile is None else torch.as_tensor(quantile, dtype=torch.float32, device=p.device)

    def gate(self, multiplier: float | torch.Tensor, either_of: int = 1) -> torch.Tensor:
        """1 with probability multiplier * p, else 0. [N, 1], or [N, k] for k multipliers

        It is then the probability that at least one of `either_of` independent gates is 1.
        """
        multiplier = multiplier * torch.ones_like(self.p)
        if self.quantile is not None:
            return (multiplier > 0).float().expand(self.num, -1 if multiplier.ndim else 1)
        prob = 1 - (1 - multiplier * self.p).clamp(0, 1) ** (1 / either_of)
        return (torch.rand([self.num, max(multiplier.numel(), 1)], device=self.p.device) < prob).float()

    def uniform(self, dims: int = 1) -> torch.Tensor:
        """Uniform in -1..1. [N, dims]"""
        if self.quantile is not None:
            return (2 * self.quantile - 1).expand(self.num, dims)
        return torch.rand([self.num, dims], device=self.p.device) * 2 - 1

    def choice(self, options: int) -> torch.Tensor:
        """One of 0 .. options - 1 as a float. [N, 1]"""
        unit = (self.uniform() + 1) / 2
        return (unit * options).floor().clamp(max=options - 1)

    def normal(self, dims: int = 1) -> torch.Tensor:
        """Normal of mean 0. [N, dims]

        Deviation 1 when random; the quantile keeps the convention of StyleGAN2-ADA, of deviation 1 / sqrt(2).
        """
        if self.quantile is not None:
            return torch.erfinv(2 * self.quantile - 1).expand(self.num, dims)
        return torch.randn([self.num, dims], device=self.p.device)

    def half_normal(self) -> torch.Tensor:
        """Magnitude of `normal`. [N, 1]"""
        return self.normal().abs() if self.quantile is None else torch.erfinv(self.quantile).expand(self.num, 1)


def _scaling(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Homogeneous matrices that scale the axes. [N, 1], [N, 1] -> [N, 3, 3]"""
    return torch.diag_embed(torch.cat([x, y, torch.ones_like(x)], dim=1))


def _rotation(angle: torch.Tensor) -> torch.Tensor:
    """Homogeneous matrices that turn x towards y. [N, 1] radians -> [N, 3, 3]"""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.cat([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], dim=1).reshape(-1, 3, 3)


def _translation(shift: torch.Tensor) -> torch.Tensor:
    """Homogeneous matrices that add (x, y). [N, 2] -> [N, 3, 3]"""
    matrix = torch.eye(3, device=shift.device).repeat(len(shift), 1, 1)
    matrix[:, :2, 2] = shift
    return matrix


def _warp(
    images: torch.Tensor,   # [N, C, H, W]
    inverse: torch.Tensor,  # [N, 3, 3]  from output to input position (x, y, 1), in pixels from the image centre
    f: torch.Tensor,        # [taps]  low-pass filter
    full_margins: bool,     # extend by as much as reflection can, needed or not?
) -> torch.Tensor:          # [N, C, H, W]
    """Read images at transformed positions: extend by reflection, sample at twice the resolution, filter, decimate.

    The filter of an orthogonal wavelet makes the detour exact for whole-pixel translations.
    """
    height, width = images.shape[2:]
    reach = len(f) // 4             # pixels on either side that a filter at twice the resolution looks at
    linear, offset = inverse[:, :2, :2], inverse[:, :2, 2]
    if full_margins:
        left = right = width - 1
        top = bottom = height - 1
    else:
        left, right, top, bottom = _margins(linear, offset, width, height, 2 * reach)
    images = F.pad(images, [left, right, top, bottom], mode="reflect")
    images = upfirdn2d.upsample2d(x=images, f=f, up=2)

    # Sample 2i of the output at twice the resolution lies on pixel i - reach, and sample 2i of the input on pixel i.
    x = torch.arange(2 * (width + 2 * reach), device=images.device) / 2 - reach - (width - 1) / 2
    y = torch.arange(2 * (height + 2 * reach), device=images.device) / 2 - reach - (height - 1) / 2
    centre = _pair(left + (width - 1) / 2, top + (height - 1) / 2, images.device)
    size = _pair(images.shape[3], images.shape[2], images.device)
    along_x = x[:, None] * linear[:, None, :, 0]                                                # [N, w, 2]
    along_y = y[:, None] * linear[:, None, :, 1] + (offset + centre)[:, None]                   # [N, h, 2]
    scale, shift = 4 / size, 1 / size - 1           # input pixel -> -1..1 from edge to edge, as grid_sample wants it
    grid = (along_x * scale)[:, None] + (along_y * scale + shift)[:, :, None]                   # [N, h, w, 2]
    images = grid_sample_gradfix.grid_sample(images, grid.to(images.dtype))
    return upfirdn2d.downsample2d(x=images, f=f, down=2, padding=-2 * reach, flip_filter=True)


def _pair(x: float, y: float, device: torch.device) -> torch.Tensor:
    """(x, y) as float32, written by the device itself, which need not wait for the host. [2]"""
    return torch.stack([torch.full([], float(value), device=device) for value in (x, y)])


def _margins(linear: torch.Tensor, offset: torch.Tensor, width: int, height: int, extra: int) -> list[int]:
    """Pixels to add to every image of the batch so that each transformed one is covered: left, right, top, bottom.

    At most one reflection: each margin stays below the image side.
    """
    half = misc.constant([(width - 1) / 2, (height - 1) / 2], device=linear.device)
    corners = half * misc.constant([[-1, -1], [1, -1], [-1, 1], [1, 1]], device=linear.device)  # [4, 2]
    positions = (corners @ linear.transpose(1, 2) + offset[:, None]).flatten(0, 1)              # [N * 4, 2]
    overhang = torch.stack([-positions.amin(dim=0), positions.amax(dim=0)], dim=1) - half[:, None] + extra
    limit = 2 * half[:, None]
    margins = torch.minimum(overhang.clamp(min=0), limit).ceil()               # [2 axes, before and after]
    return [int(margin) for margin in margins.flatten().tolist()]


def _recolour(
    images: torch.Tensor,    # [N, C, H, W], C = 1, 3 or 4, of which the fourth, opacity, stays as it is
    offset: torch.Tensor,    # [N, 1]  added to all channels first
    luma: torch.Tensor,      # [N, 1]  gain of the mean of the channels
    chroma: torch.Tensor,    # [N, 1]  gain of the differences from that mean; unused for C = 1
    angle: torch.Tensor,     # [N, 1]  right-handed turn of those differences around the gray axis; unused for C = 1
) -> torch.Tensor:           # [N, C, H, W]
    """Affine change of colours.

    Contrast, luma flip, hue rotation and saturation all scale or turn the gray axis v and the plane across it. They
    commute, and their product is luma * v v^T + chroma * (cos(angle) * (I - v v^T) + sin(angle) * [v]_x).
    """
    channels = images.shape[1]
    if channels == 4:
        return torch.cat([_recolour(images[:, :3], offset, luma, chroma, angle), images[:, 3:]], dim=1)
    if channels == 1:
        matrix = luma[:, :, None]
    elif channels == 3:
        gray = np.full([3, 3], 1 / 3)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
        basis = misc.constant(np.stack([gray, np.eye(3) - gray, cross]).reshape(3, 9), device=images.device)
        matrix = (torch.cat([luma, chroma * angle.cos(), chroma * angle.sin()], dim=1) @ basis).reshape(-1, 3, 3)
    else:
        raise ValueError(f"colour augmentation needs images of 1, 3 or 4 channels, got {channels}")
    shift = (luma * offset)[:, :, None].expand(-1, channels, 1)
    flat = torch.baddbmm(shift.to(images.dtype), matrix.to(images.dtype), images.flatten(2))
    return flat.reshape(images.shape)


def _band_filters(low_pass: Sequence[float], levels: int = 3) -> np.ndarray:
    """Zero-phase filters of the bands of an orthogonal wavelet decomposition, lowest band first. [levels + 1, K]

    The filters of all bands add up to an impulse.
    """
    low = np.asarray(low_pass)
    high = low * (-1.0) ** np.arange(len(low))
    low_power, high_power = np.convolve(low, low[::-1]) / 2, np.convolve(high, high[::-1]) / 2
    bank = np.eye(levels + 1, 1)
    for level in range(1, levels + 1):
        spread = np.zeros([levels + 1, 2 * bank.shape[1] - 1])
        spread[:, ::2] = bank
        bank = np.stack([np.convolve(row, low_power) for row in spread])
        start = (bank.shape[1] - len(high_power)) // 2
        bank[level, start : start + len(high_power)] += high_power
    return bank


def _filter_separably(images: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Filter the rows, then the columns of each image with its own symmetric taps, reflecting at the borders.

    images: [N, C, H, W].  taps: [N, K], K odd.  Returns [N, C, H, W].
    Raises ValueError if reflection cannot extend the image far enough.
    """
    n, channels, height, width = images.shape
    pad = taps.shape[1] // 2
    if min(height, width) <= pad:
        raise ValueError(f"the image filter needs images larger than {pad} pixels, got {width}x{height}")
    taps = taps.to(images.dtype).repeat_interleave(channels, dim=0)[:, None]                    # [N * C, 1, K]
    x = F.pad(images, [pad] * 4, mode="reflect").reshape(1, n * channels, height + 2 * pad, width + 2 * pad)
    x = conv2d_gradfix.conv2d(input=x, weight=taps[:, :, None, :], groups=n * channels)
    x = conv2d_gradfix.conv2d(input=x, weight=taps[:, :, :, None], groups=n * channels)
    return x.reshape(images.shape)


def _cut_out(images: torch.Tensor, centre: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Set a square of each image to zero. centre: [N, 2] (x, y) and size: [N, 1], as shares of the image side."""
    height, width = images.shape[2:]
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    inside_x = (x - centre[:, :1]).abs() < size / 2                                             # [N, W]
    inside_y = (y - centre[:, 1:]).abs() < size / 2                                             # [N, H]
    return images.masked_fill((inside_x[:, None, None, :] & inside_y[:, None, :, None]), 0)


# Low-pass decomposition filters of the orthogonal wavelets of Daubechies: db* extremal phase, sym* least asymmetric.
wavelets: dict[str, list[float]] = {
    "haar": [0.7071067811865476, 0.7071067811865476],
    "db1": [0.7071067811865476, 0.7071067811865476],
    "db2": [-0.12940952255126037, 0.2241438680420134, 0.8365163037378079, 0.48296291314453416],
    "db3": [
        0.03522629188570953, -0.08544127388202666, -0.13501102001025458, 0.45987750211849154, 0.8068915093110925,
        0.33267055295008263,
    ],
    "db4": [
        -0.010597401785069032, 0.0328830116668852, 0.030841381835560764, -0.18703481171909309, -0.027983769416859854,
        0.6308807679298589, 0.7148465705529157, 0.2303778133088965,
    ],
    "db5": [
        0.0033357252854737712, -0.012580751999081999, -0.006241490212798274, 0.07757149384004572,
        -0.032244869584638375, -0.24229488706638203, 0.13842814590132074, 0.7243085284377729, 0.6038292697971896,
        0.16010239797419293,
    ],
    "db6": [
        -0.0010773010853084796, 0.004777257510945511, 0.0005538422011614961, -0.03158203931748603,
        0.027522865530305727, 0.09750160558732304, -0.12976686756726194, -0.22626469396543983, 0.31525035170919763,
        0.7511339080210954, 0.49462389039845306, 0.11154074335010947,
    ],
    "db7": [
        0.00035371379997452024, -0.0018016407040474908, 0.0004295779729213665, 0.01255099855609984,
        -0.01657454163066688, -0.03802993693501441, 0.08061260915108308, 0.07130921926683026, -0.22403618499387498,
        -0.14390600392856498, 0.4697822874051931, 0.7291320908462351, 0.3965393194819173, 0.07785205408500918,
    ],
    "db8": [
        -0.00011747678412476953, 0.0006754494064505693, -0.00039174037337694705, -0.004870352993451574,
        0.008746094047405777, 0.013981027917398282, -0.044088253930794755, -0.017369301001807547, 0.12874742662047847,
        0.0004724845739132828, -0.2840155429615469, -0.015829105256349306, 0.5853546836542067, 0.6756307362972898,
        0.31287159091429995, 0.05441584224310401,
    ],
    "sym2": [-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025],
    "sym3": [
        0.035226291882100656, -0.08544127388224149, -0.13501102001039084, 0.4598775021193313, 0.8068915093133388,
        0.3326705529509569,
    ],
    "sym4": [
        -0.07576571478927333, -0.02963552764599851, 0.49761866763201545, 0.8037387518059161, 0.29785779560527736,
        -0.09921954357684722, -0.012603967262037833, 0.0322231006040427,
    ],
    "sym5": [
        0.027333068345077982, 0.029519490925774643, -0.039134249302383094, 0.1993975339773936, 0.7234076904024206,
        0.6339789634582119, 0.01660210576452232, -0.17532808990845047, -0.021101834024758855, 0.019538882735286728,
    ],
    "sym6": [
        0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
        0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
        0.0017677118642428036, -0.007800708325034148,
    ],
    "sym7": [
        0.002681814568257878, -0.0010473848886829163, -0.01263630340325193, 0.03051551316596357, 0.0678926935013727,
        -0.049552834937127255, 0.017441255086855827, 0.5361019170917628, 0.767764317003164, 0.2886296317515146,
        -0.14004724044296152, -0.10780823770381774, 0.004010244871533663, 0.010268176708511255,
    ],
    "sym8": [
        -0.0033824159510061256, -0.0005421323317911481, 0.03169508781149298, 0.007607487324917605,
        -0.1432942383508097, -0.061273359067658524, 0.4813596512583722, 0.7771857517005235, 0.3644418948353314,
        -0.05194583810770904, -0.027219029917056003, 0.049137179673607506, 0.003808752013890615,
        -0.01495225833704823, -0.0003029205147213668, 0.0018899503327594609,
    ],
}
