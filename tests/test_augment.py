"""training.augment: closed forms, distributions, gradients, storage."""

from __future__ import annotations

import ast
import pickle
from math import cos, pi, sin, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
import torch.nn.functional as F

from training import augment
from training.augment import AugmentPipe

GEOMETRY = ("xflip", "rotate90", "xint", "scale", "rotate", "aniso", "xfrac")
COLOUR = ("brightness", "contrast", "lumaflip", "hue", "saturation")
OTHERS = ("imgfilter", "noise", "cutout")
BGC = dict.fromkeys(GEOMETRY + COLOUR, 1)
EVERYTHING = dict.fromkeys(GEOMETRY + COLOUR + OTHERS, 1)

# The taps are low-pass filters of 16 decimals stored as float32, and the warp sums 24 products per pixel.
EXACT = dict(rtol=0, atol=1e-5)


def images(n=2, channels=3, height=16, width=16, dtype=torch.float32) -> torch.Tensor:
    return torch.rand([n, channels, height, width], dtype=dtype) * 2 - 1


def strength(pipe: AugmentPipe, p: float) -> AugmentPipe:
    pipe.p.fill_(p)
    return pipe


def normal_quantile(q: float) -> float:
    """Value that `debug_percentile` assigns to a normal parameter of deviation 1."""
    return float(torch.erfinv(torch.tensor(2 * q - 1)))


# Geometry


@pytest.mark.parametrize("channels", [1, 3])
def test_wider_margins_change_nothing(channels):
    pipe, x = AugmentPipe(**dict.fromkeys(GEOMETRY, 1)), images(channels=channels, height=12, width=20)
    torch.manual_seed(1)
    expected = pipe(x)
    pipe.full_margins = True
    torch.manual_seed(1)
    torch.testing.assert_close(pipe(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GEOMETRY)
def test_a_geometric_transform_of_strength_zero_keeps_the_image(name):
    x = images(height=12, width=20)
    torch.testing.assert_close(strength(AugmentPipe(**{name: 1}), 0)(x), x, **EXACT)


def unfiltered(pipe: AugmentPipe) -> AugmentPipe:
    """Replace the low-pass filter by an impulse. It is not quite symmetric, which blurs an image that is turned."""
    pipe.Hz_geom.zero_()[5] = sqrt(1 / 2)
    return pipe


def test_xflip_mirrors_left_and_right():
    x = images(height=16, width=24)
    y = unfiltered(AugmentPipe(xflip=1))(x, debug_percentile=0.9)
    torch.testing.assert_close(y, x.flip(3), **EXACT)


@pytest.mark.parametrize("turns", range(4))
def test_rotate90_turns_the_image_counterclockwise(turns):
    x = images()
    y = unfiltered(AugmentPipe(rotate90=1))(x, debug_percentile=(turns + 0.5) / 4)
    torch.testing.assert_close(y, x.rot90(turns, [2, 3]), **EXACT)


def test_xint_moves_the_image_by_whole_pixels_and_reflects_at_the_border():
    x = images(height=16, width=24)
    y = AugmentPipe(xint=1)(x, debug_percentile=0.9)   # 0.8 * 0.125 of the side: 1.6 -> 2 down, 2.4 -> 2 to the right
    torch.testing.assert_close(y, F.pad(x, [2, 0, 2, 0], mode="reflect")[:, :, :16, :24], **EXACT)


def test_translation_by_a_multiple_of_the_side_follows_the_aspect_ratio():
    x = images(height=8, width=16)
    y = AugmentPipe(xint=1, xint_max=0.5)(x, debug_percentile=0.75)                  # 0.25 of the side: 2 down, 4 right
    torch.testing.assert_close(y[:, :, 2:, 4:], x[:, :, :-2, :-4], **EXACT)


def test_transforms_apply_in_the_order_of_the_paper():
    x = images()
    pipe = unfiltered(AugmentPipe(xflip=1, rotate90=1, xint=1))
    y = pipe(x, debug_percentile=0.95)                                               # mirror, 3 quarter turns, 2 pixels
    expected = F.pad(x.flip(3).rot90(3, [2, 3]), [2, 0, 2, 0], mode="reflect")[:, :, :16, :16]
    torch.testing.assert_close(y, expected, **EXACT)


def source_positions(q: float, name: str, size: int):
    """Where the interior of the output must come from, as functions of the output position (x, y)."""
    s = 2 ** (0.2 * normal_quantile(q))
    angle, shift = (2 * q - 1) * pi, normal_quantile(q) * 0.125 * size
    return {
        "xflip": lambda x, y: (-x if q >= 0.5 else x, y),
        "scale": lambda x, y: (x / s, y / s),
        "aniso": lambda x, y: (x / s, y * s),
        "rotate": lambda x, y: (cos(angle) * x - sin(angle) * y, sin(angle) * x + cos(angle) * y),
        "xfrac": lambda x, y: (x - shift, y - shift),
    }[name]


@pytest.mark.parametrize("name", ["xflip", "scale", "rotate", "aniso", "xfrac"])
@pytest.mark.parametrize("q", [0.2, 0.45, 0.7])
def test_pixels_come_from_the_stated_position(name, q):
    """On a smooth image; the filter moves a turned one by up to a tenth of a pixel, as it is not quite symmetric."""
    size = 48

    def scene(x, y):
        return torch.stack([torch.sin(x / 7), torch.cos(y / 6), torch.sin((x + y) / 9)])[None]

    axis = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    actual = AugmentPipe(**{name: 1})(scene(x, y), debug_percentile=q)
    expected = scene(*source_positions(q, name, size)(x, y))
    inside = (x.square() + y.square() < (size / 3) ** 2).expand_as(actual)           # far from the reflected border
    torch.testing.assert_close(actual[inside], expected[inside], rtol=0, atol=0.02)


@pytest.mark.parametrize("name", ["xflip", "rotate90"])
def test_filters_see_the_reflection_beyond_the_border(name):
    x, pipe = images(), AugmentPipe(**{name: 1})
    larger = pipe(F.pad(x, [10] * 4, mode="reflect"), debug_percentile=0.9)
    torch.testing.assert_close(pipe(x, debug_percentile=0.9), larger[:, :, 10:-10, 10:-10], **EXACT)


def test_one_wide_margin_serves_a_batch_of_extreme_transforms():
    pipe = AugmentPipe(scale=1, aniso=1, rotate=1, xfrac=1, scale_std=3, aniso_std=2, xfrac_std=2)
    x = images(n=32, channels=4, height=6, width=9)
    y = pipe(x)
    assert y.shape == x.shape and y.isfinite().all()


# Colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("q", [0.1, 0.8])
def test_brightness_adds_then_contrast_multiplies(channels, q):
    x = images(channels=channels)
    y = AugmentPipe(brightness=1, contrast=1)(x, debug_percentile=q)
    expected = (x + 0.2 * normal_quantile(q)) * 2 ** (0.5 * normal_quantile(q))
    torch.testing.assert_close(y, expected)


def test_lumaflip_negates_the_mean_and_keeps_the_differences():
    x = images()
    y = AugmentPipe(lumaflip=1)(x, debug_percentile=0.9)
    torch.testing.assert_close(y, x - 2 * x.mean(dim=1, keepdim=True))


def test_lumaflip_negates_gray_images():
    x = images(channels=1)
    torch.testing.assert_close(AugmentPipe(lumaflip=1)(x, debug_percentile=0.9), -x)


@pytest.mark.parametrize("thirds", [-1, 0, 1])
def test_hue_turns_red_into_green_after_a_third_of_a_turn(thirds):
    x = images()
    y = AugmentPipe(hue=1)(x, debug_percentile=0.5 + thirds / 3)
    torch.testing.assert_close(y, x.roll(thirds, dims=1))


def test_saturation_scales_the_distance_from_gray():
    x = images()
    mean = x.mean(dim=1, keepdim=True)
    y = AugmentPipe(saturation=1)(x, debug_percentile=0.8)
    torch.testing.assert_close(y, mean + (x - mean) * 2 ** normal_quantile(0.8))


@pytest.mark.parametrize("name", ["hue", "saturation"])
def test_gray_images_have_no_hue_and_no_saturation(name):
    x = images(channels=1)
    torch.testing.assert_close(AugmentPipe(**{name: 1})(x, debug_percentile=0.8), x)


def test_colour_transforms_refuse_images_that_are_neither_gray_nor_rgb():
    with pytest.raises(ValueError, match="1, 3 or 4 channels, got 2"):
        AugmentPipe(brightness=1)(images(channels=2))


# Image filter, noise, cutout


def test_the_band_filters_share_out_an_impulse():
    bank = AugmentPipe().Hz_fbank
    impulse = torch.zeros(bank.shape[1])
    impulse[bank.shape[1] // 2] = 1
    torch.testing.assert_close(bank.sum(dim=0), impulse, **EXACT)
    torch.testing.assert_close(bank.sum(dim=1), torch.tensor([1.0, 0, 0, 0]), **EXACT)    # only the first passes gray
    torch.testing.assert_close(bank, bank.flip(1), **EXACT)                               # zero phase


@pytest.mark.parametrize("bands", [[1, 1, 1, 1], [0, 1, 0, 1]])
def test_imgfilter_filters_rows_and_columns_with_normalised_band_gains(bands):
    q, power = 0.8, np.array([10, 1, 1, 1]) / 13
    gains = np.ones(4)
    for band in np.flatnonzero(bands):
        own = np.ones(4)
        own[band] = 2 ** normal_quantile(q)
        gains *= own / sqrt((power * own**2).sum())
    pipe = AugmentPipe(imgfilter=1, imgfilter_bands=bands)
    taps = gains @ pipe.Hz_fbank.double().numpy()
    x = images(height=22, width=30)
    expected = x.double().numpy()
    for axis in (2, 3):
        expected = scipy.ndimage.convolve1d(expected, taps, axis=axis, mode="mirror")
    y = pipe(x, debug_percentile=q)
    torch.testing.assert_close(y, torch.from_numpy(expected).float(), rtol=0, atol=1e-5)


def test_imgfilter_refuses_images_that_its_filter_outgrows():
    with pytest.raises(ValueError, match="larger than 21 pixels, got 32x21"):
        AugmentPipe(imgfilter=1)(images(height=21, width=32))


def test_noise_has_the_drawn_level():
    x = torch.zeros([1, 3, 128, 128])
    y = AugmentPipe(noise=1)(x, debug_percentile=0.7)
    level = 0.1 * float(torch.erfinv(torch.tensor(0.7)))
    assert y.mean().abs() < 4 * level / sqrt(y.numel())
    assert float(y.std()) == pytest.approx(level, rel=0.02)


def test_cutout_blanks_a_square_around_its_centre():
    x = torch.ones([1, 3, 16, 16])
    y = AugmentPipe(cutout=1)(x, debug_percentile=0.5)
    expected = torch.ones_like(x)
    expected[:, :, 4:12, 4:12] = 0
    torch.testing.assert_close(y, expected)
    corner = AugmentPipe(cutout=1, cutout_size=0.25)(x, debug_percentile=1e-4)
    assert corner.sum() == 3 * (256 - 4) and corner[:, :, :2, :2].sum() == 0


# Distributions. Samples are the drawn parameters, read off the matrices or off images that reveal them.

NUM = 4000


def matrices(p=1.0, width=16, height=16, **kwargs: Any) -> torch.Tensor:
    """Matrices of the geometric transforms, from output to input. [NUM, 3, 3]"""
    pipe = strength(AugmentPipe(**kwargs), p)
    shape_only = torch.empty([]).expand(NUM, 3, height, width)
    return pipe._draw_geometry(augment._Draws(NUM, pipe.p, None), shape_only)


PROBE = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0]])    # black, gray 1, red


def colours(p=1.0, **kwargs: Any) -> torch.Tensor:
    """What becomes of the colours of PROBE. [NUM, 3 colours, 3 channels]"""
    x = PROBE.t()[None, :, None].repeat(NUM, 1, 1, 1)
    return strength(AugmentPipe(**kwargs), p)(x)[:, :, 0].transpose(1, 2)


def assert_distribution(samples: torch.Tensor, law, *args) -> None:
    """Kolmogorov-Smirnov; the random state is fixed, so this fails for a wrong law and not once in a while."""
    assert scipy.stats.kstest(samples.double().numpy(), law, args).pvalue > 1e-3


def assert_uniform_choice(samples: torch.Tensor, options) -> None:
    values, counts = samples.round(decimals=3).unique(return_counts=True)
    assert values.tolist() == pytest.approx(sorted(options), abs=1e-3)
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def assert_uncorrelated(a: torch.Tensor, b: torch.Tensor) -> None:
    assert abs(np.corrcoef(a.numpy(), b.numpy())[0, 1]) < 4 / sqrt(NUM)


def test_xflip_mirrors_half_of_the_images():
    m = matrices(xflip=1)
    assert_uniform_choice(m[:, 0, 0], [-1, 1])
    assert (m[:, 1, 1] == 1).all()


def test_rotate90_takes_each_quarter_turn_equally_often():
    m = matrices(rotate90=1)
    assert_uniform_choice(m[:, 0, 0] + 2 * m[:, 1, 0], [1, 2, -1, -2])    # cos + 2 sin


def test_xint_translates_uniformly_by_whole_pixels_per_axis():
    m = matrices(xint=1, xint_max=0.24, width=100, height=50)
    dx, dy = m[:, 0, 2], m[:, 1, 2]
    assert (dx == dx.round()).all() and (dy == dy.round()).all()
    assert_distribution(dx + torch.rand(NUM) - 0.5, "uniform", -24, 48)    # rounding undone by noise of a pixel
    assert_distribution(dy + torch.rand(NUM) - 0.5, "uniform", -12, 24)
    assert_uncorrelated(dx, dy)


def test_scale_is_lognormal():
    m = matrices(scale=1, scale_std=0.3)
    assert_distribution(-m[:, 0, 0].log2(), "norm", 0, 0.3)
    torch.testing.assert_close(m[:, 0, 0], m[:, 1, 1])


def test_rotation_is_uniform_and_keeps_lengths():
    m = matrices(rotate=1, rotate_max=1)
    assert_distribution(torch.atan2(m[:, 1, 0], m[:, 0, 0]), "uniform", -pi, 2 * pi)
    torch.testing.assert_close(m @ m.transpose(1, 2), torch.eye(3).expand_as(m), **EXACT)


def test_small_rotations_stay_below_their_limit():
    """Two independent rotations of at most rotate_max half turns, one on either side of the stretch."""
    m = matrices(rotate=1, rotate_max=0.1)
    angle = torch.atan2(m[:, 1, 0], m[:, 0, 0]) / (0.1 * pi)
    assert_distribution(angle, scipy.stats.triang(0.5, -2, 4).cdf)


def test_aniso_is_lognormal_and_keeps_the_area():
    m = matrices(aniso=1)
    assert_distribution(-m[:, 0, 0].log2(), "norm", 0, 0.2)
    torch.testing.assert_close(torch.linalg.det(m), torch.ones(NUM))


def test_rotation_before_the_stretch_turns_its_axis():
    m = matrices(aniso=1, rotate=1)[:, :2, :2]
    u, s, _ = torch.linalg.svd(m)
    assert_distribution(torch.atan(u[:, 1, 0] / u[:, 0, 0]), "uniform", -pi / 2, pi)
    assert_distribution(s[:, 0].log2(), "halfnorm", 0, 0.2)


def test_xfrac_is_normal_per_axis():
    m = matrices(xfrac=1, width=20, height=10)
    assert_distribution(m[:, 0, 2], "norm", 0, 0.125 * 20)
    assert_distribution(m[:, 1, 2], "norm", 0, 0.125 * 10)
    assert_uncorrelated(m[:, 0, 2], m[:, 1, 2])


def test_brightness_is_normal():
    assert_distribution(colours(brightness=1)[:, 0, 0], "norm", 0, 0.2)


def test_contrast_is_lognormal():
    assert_distribution(colours(contrast=1)[:, 1, 0].log2(), "norm", 0, 0.5)


def test_lumaflip_negates_half_of_the_images():
    assert_uniform_choice(colours(lumaflip=1)[:, 1, 0], [-1, 1])


@pytest.mark.parametrize("limit", [1, 0.3])
def test_hue_is_uniform_in_angle(limit):
    red = colours(hue=1, hue_max=limit)[:, 2]
    angle = torch.atan2((red[:, 1] - red[:, 2]) * sqrt(3), 2 * red[:, 0] - red[:, 1] - red[:, 2])
    assert_distribution(angle, "uniform", -pi * limit, 2 * pi * limit)


def test_saturation_is_lognormal():
    red = colours(saturation=1)[:, 2]
    assert_distribution((red[:, 0] - red[:, 1]).log2(), "norm", 0, 1)


def test_band_gains_are_lognormal_and_keep_the_expected_power():
    pipe = AugmentPipe(imgfilter=1, imgfilter_bands=[0, 0, 1, 0], imgfilter_std=0.7)
    gains = pipe._draw_band_gains(augment._Draws(NUM, pipe.p, None))
    assert_distribution((gains[:, 2] / gains[:, 0]).log2(), "norm", 0, 0.7)
    torch.testing.assert_close(gains.square() @ torch.tensor([10.0, 1, 1, 1]) / 13, torch.ones(NUM))


def test_noise_level_is_half_normal():
    y = AugmentPipe(noise=1)(torch.zeros([NUM, 1, 32, 32]))
    assert_distribution(y.std(dim=[1, 2, 3]), "halfnorm", 0, 0.1)    # each level known to 2 %


def test_cutout_centres_are_uniform():
    blank = AugmentPipe(cutout=1, cutout_size=0.5)(torch.ones([NUM, 1, 32, 32]))[:, 0] == 0
    position = (torch.arange(32) + 0.5) / 32
    expected = (position + 0.25).clamp(max=1) - (position - 0.25).clamp(min=0)    # P(|position - centre| < 0.25)
    for axis in (1, 2):
        torch.testing.assert_close(blank.any(dim=axis).float().mean(dim=0), expected, rtol=0, atol=4 * 0.5 / sqrt(NUM))
    top, left = (blank.any(dim=axis).int().argmax(dim=1) for axis in (2, 1))
    assert_uncorrelated(top, left)


# Gates

SHARE = dict(xflip=1 / 2, rotate90=3 / 4, lumaflip=1 / 2)    # of the drawn parameters that are not the neutral one


def altered(name: str, p: float, multiplier: float = 1.0) -> torch.Tensor:
    """Whether a parameter other than the neutral one is in force, [NUM]."""
    kwargs: dict[str, Any] = {name: multiplier}
    if name in GEOMETRY:
        now, neutral = matrices(p, **kwargs, width=10**6, height=10**6), torch.eye(3)
    elif name in COLOUR:
        now, neutral = colours(p, **kwargs), PROBE
    else:
        neutral = torch.ones([NUM, 1, 24, 24])
        now = strength(AugmentPipe(**kwargs), p)(neutral)
    return ((now - neutral).abs() > 1e-5).flatten(1).any(dim=1)


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "imgfilter"])
@pytest.mark.parametrize(("p", "multiplier"), [(0.4, 1.0), (0.9, 0.5), (1.0, 1.0), (0.0, 1.0)])
def test_the_share_of_altered_images_is_the_product_of_strength_and_multiplier(name, p, multiplier):
    expected = p * multiplier * SHARE.get(name, 1)
    share = float(altered(name, p, multiplier).float().mean())
    assert share == pytest.approx(expected, abs=4 * sqrt(expected * (1 - expected) / NUM) + 0.002)


def test_each_band_of_the_image_filter_has_its_own_gate():
    share = float(altered("imgfilter", 0.3).float().mean())
    assert share == pytest.approx(1 - 0.7**4, abs=4 * 0.5 / sqrt(NUM))


def test_gates_of_different_transforms_are_independent():
    m = matrices(0.4, scale=1, xfrac=1)
    scaled, moved = m[:, 0, 0] != 1, m[:, 0, 2] != 0
    assert float((scaled & moved).float().mean()) == pytest.approx(0.16, abs=4 * 0.37 / sqrt(NUM))


def test_images_of_a_batch_are_altered_independently():
    brightness = colours(0.5, brightness=1)[:, 0, 0]
    assert_uncorrelated(brightness[:-1], brightness[1:])
    assert_uncorrelated(brightness[:-1].abs(), brightness[1:].abs())


# Behaviour as a whole


def test_an_empty_pipe_changes_nothing():
    x = images()
    assert torch.equal(AugmentPipe()(x), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_full_pipe_keeps_shape_and_dtype(channels):
    x = images(channels=channels, height=24, width=32)
    y = AugmentPipe(**EVERYTHING)(x)
    assert y.shape == x.shape and y.dtype == x.dtype and y.isfinite().all()


def test_the_random_state_of_torch_decides_the_result():
    x, pipe = images(), AugmentPipe(**BGC)
    torch.manual_seed(5)
    first = pipe(x)
    assert not torch.equal(pipe(x), first)
    torch.manual_seed(5)
    assert torch.equal(pipe(x), first)


def test_a_debug_percentile_overrides_gates_and_chance():
    x, pipe = images(), AugmentPipe(**BGC)
    state = torch.get_rng_state()
    first = pipe(x, debug_percentile=0.3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(strength(pipe, 0)(x, debug_percentile=0.3), first)


def test_transforms_with_multiplier_zero_stay_neutral_under_a_debug_percentile():
    x = images(channels=1)
    y = AugmentPipe(xflip=1, contrast=1)(x, debug_percentile=0.9)
    torch.testing.assert_close(y, AugmentPipe(xflip=1)(x, debug_percentile=0.9) * 2 ** (0.5 * normal_quantile(0.9)))


def test_no_pixel_depends_on_another_image_of_the_batch():
    x = images(n=3, height=24, width=24).requires_grad_()
    y = AugmentPipe(**EVERYTHING)(x)
    (gradient,) = torch.autograd.grad(y[1].square().sum(), x)
    assert gradient[1].abs().sum() > 0
    assert not gradient[[0, 2]].any()


@pytest.mark.parametrize(("kwargs", "channels", "size"), [(BGC, 3, 6), (dict(BGC, imgfilter=1, cutout=1), 1, 22)])
def test_derivatives_of_both_orders_match_finite_differences(kwargs, channels, size):
    pipe = AugmentPipe(**kwargs)
    x = images(n=1, channels=channels, height=size, width=size + 1, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pipe(x, debug_percentile=0.3), [x], fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: pipe(x, debug_percentile=0.3), [x], fast_mode=True)


def test_a_gradient_penalty_on_the_images_before_the_pipe_trains_what_comes_after():
    pipe, x = AugmentPipe(**BGC), images(height=8, width=8).requires_grad_()
    critic = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Softplus(), torch.nn.Conv2d(4, 1, 6))
    (gradient,) = torch.autograd.grad(critic(pipe(x)).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert critic[0].weight.grad.abs().sum() > 0


@pytest.mark.gpu
def test_the_pipe_on_the_gpu_equals_the_one_on_the_cpu():
    names = [name for name in EVERYTHING if name != "noise"]
    x = images(height=32, width=40)
    for q in (0.2, 0.6, 0.85):
        pipe = AugmentPipe(**dict.fromkeys(names, 1))
        expected = pipe(x, debug_percentile=q)
        torch.testing.assert_close(pipe.cuda()(x.cuda(), debug_percentile=q).cpu(), expected, rtol=1e-4, atol=1e-4)
    assert AugmentPipe(**EVERYTHING).cuda()(x.cuda()).isfinite().all()


# Arguments, tables, storage


def test_a_negative_multiplier_is_refused():
    with pytest.raises(ValueError, match="multiplier hue must be >= 0, got -0.5"):
        AugmentPipe(hue=-0.5)


def test_a_wrong_number_of_bands_is_refused():
    with pytest.raises(ValueError, match="must hold 4 numbers"):
        AugmentPipe(imgfilter=1, imgfilter_bands=[1, 1])


def test_the_wavelet_table_holds_the_named_filters():
    names = ["haar", *(f"db{n}" for n in range(1, 9)), *(f"sym{n}" for n in range(2, 9))]
    assert list(augment.wavelets) == names


@pytest.mark.parametrize("name", list(augment.wavelets))
def test_wavelet_taps_are_orthonormal_with_all_the_vanishing_moments_of_their_length(name):
    taps = np.array(augment.wavelets[name])
    order = len(taps) // 2
    assert order == (1 if name == "haar" else int(name.lstrip("dbsym")))
    for shift in range(order):
        assert taps[2 * shift :] @ taps[: len(taps) - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-10)
    assert taps.sum() == pytest.approx(sqrt(2), abs=1e-10)
    for power in range(order):
        position = np.arange(len(taps)) / len(taps)
        assert (taps * (-1.0) ** np.arange(len(taps))) @ position**power == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("order", range(4, 9))
def test_symlets_have_a_more_linear_phase_than_the_filters_of_daubechies(order):
    assert phase_error(f"sym{order}") < phase_error(f"db{order}")


def phase_error(name: str) -> float:
    """Deviation of the phase from a straight line, over the pass band."""
    phase = np.unwrap(np.angle(np.fft.fft(augment.wavelets[name], 1024)[:256]))
    line = np.polyfit(np.arange(256), phase, 1)
    return float(np.abs(phase - np.polyval(line, np.arange(256))).max())


def test_a_pipe_survives_pickling_with_its_strength_and_arguments():
    pipe = strength(AugmentPipe(**BGC, hue_max=0.5), 0.25)
    loaded = pickle.loads(pickle.dumps(pipe))
    assert loaded.p == 0.25 and loaded.hue_max == 0.5
    assert dict(loaded.init_kwargs) == dict(BGC, hue_max=0.5)
    x = images()
    assert torch.equal(loaded(x, debug_percentile=0.4), pipe(x, debug_percentile=0.4))


def test_arguments_are_positional_in_the_order_of_the_host_and_stored_as_plain_numbers():
    """A numpy number would tie the pickle to the version of numpy that wrote it."""
    names = [
        "xflip", "rotate90", "xint", "xint_max",
        "scale", "rotate", "aniso", "xfrac", "scale_std", "rotate_max", "aniso_std", "xfrac_std",
        "brightness", "contrast", "lumaflip", "hue", "saturation",
        "brightness_std", "contrast_std", "hue_max", "saturation_std",
        "imgfilter", "imgfilter_bands", "imgfilter_std",
        "noise", "cutout", "noise_std", "cutout_size",
    ]  # fmt: skip
    values: dict[str, Any] = {name: float(i) for i, name in enumerate(names)}
    values["imgfilter_bands"] = [0.5, 0.6, 0.7, 0.8]
    pipe = AugmentPipe(*(np.array(v) if isinstance(v, list) else np.float64(v) for v in values.values()))
    settings = {name: getattr(pipe, name) for name in names}
    assert settings == values
    assert {type(value) for value in [*settings.values(), *pipe.imgfilter_bands]} == {float, list}


def test_the_source_suits_old_hosts():
    """It is stored in snapshots and runs in hosts of other versions: syntax of Python 3.8 and few imports."""
    tree = ast.parse(Path(augment.__file__).read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported <= {"__future__", "typing", "numpy", "scipy", "torch", "torch_utils"}
