"""Projecting one's own picture: the part that is looked at, distances, styles that stay near, tuning."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from dnnlib.util import UserError
from metrics.sampling import noise_maps
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.open_network import add_to_parameters
from ssn_plugin.networks import SSNGenerator
from training.images import projection, projection_files, tuning
from training.images.distances import EdgeDistance, PixelDistance
from training.images.generation import synthesize
from training.images.style_prior import style_prior
from training.images.tuning import TuningOptions, add_deltas, neighbour, own_noise_in, tune

LABEL = torch.zeros([1, 0])


@pytest.fixture(scope="module")
def G() -> torch.nn.Module:
    """8x8 pixels, a global code and 2x2 blocks."""
    torch.manual_seed(0)
    G = SSNGenerator(4, 0, 4, 8, 3, block_grid=[[1, 1], [2, 2]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
                     synthesis_kwargs=dict(channel_base=64, channel_max=8))
    return G.eval().requires_grad_(False)


def picture(seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.nn.functional.interpolate(torch.rand([1, 3, 4, 4], generator=gen) * 2 - 1, size=[8, 8])


@pytest.mark.parametrize(("crop", "center", "box"), [
    (None, None, (25, 0, 75, 50)),
    ("10,10,30,50", None, (10, 20, 30, 40)),
    ("0,0,100,10", None, (45, 0, 55, 10)),
    (None, "20,25", (0, 5, 40, 45)),
    (None, "60,20,10", (55, 15, 65, 25)),
    (None, "50,25", (25, 0, 75, 50)),
])
def test_a_part_of_the_picture_is_chosen_by_box_or_center(crop, center, box):
    assert projection_files.choose_box((100, 50), (8, 8), crop, center) == box


def test_the_part_has_the_proportions_of_the_network():
    left, top, right, bottom = projection_files.choose_box((100, 100), (16, 8), None, "50,20")
    assert (right - left, bottom - top) == (80, 40)


@pytest.mark.parametrize(("crop", "center", "message"), [
    ("0,0,10", None, "crop must be 4 numbers with commas, got '0,0,10'"),
    ("0,0,101,50", None, "crop 0,0,101,50 is no part of the picture of 100x50 pixels"),
    ("5,0,5,50", None, "is no part of the picture"),
    ("-1,0,5,50", None, "crop must be 4 numbers"),
    (None, "x,1", "center must be 2 or 3 numbers with commas, got 'x,1'"),
    (None, "101,1", "center 101,1 is outside the picture of 100x50 pixels"),
    (None, "0,25", "leaves no part of that size"),
    (None, "20,25,60", "leaves no part of that size"),
])
def test_no_part_of_the_picture_is_refused(crop, center, message):
    with pytest.raises(UserError, match=message):
        projection_files.choose_box((100, 50), (8, 8), crop, center)


def test_the_chosen_part_becomes_the_target(G):
    pixels = np.random.RandomState(0).randint(0, 256, [20, 30, 3], dtype=np.uint8)
    target = projection_files.fit_to_network(Image.fromarray(pixels), G, (4, 6, 12, 14))
    assert np.array_equal(target, pixels[6:14, 4:12])


def test_edges_count_beside_pixels_on_every_scale():
    """A step of 1 between two halves: one of the 15 differences along a row is 1, and one of 7 at half the size."""
    target = torch.zeros([1, 1, 16, 16])
    img = target.clone()
    img[..., 8:] = 1
    expected = 0.5 + 2 * (1 / 15 + 1 / 7)   # pixels; gradients along the rows at 16 and 8 pixels
    assert float(EdgeDistance(target)(img)) == pytest.approx(expected)
    assert EdgeDistance(img)(img) == 0
    assert EdgeDistance(target)(img + 1).shape == (1,)


def test_a_shift_of_brightness_has_no_edges():
    target = picture()
    assert float(EdgeDistance(target)(target + 0.1)) == pytest.approx(float(PixelDistance(target)(target + 0.1)))


def test_styles_of_samples_lie_one_deviation_from_the_mean(G):
    prior = style_prior(G, LABEL)
    z = torch.from_numpy(np.random.RandomState(5).randn(500, G.z_dim)).float()
    deviations = prior.deviations(G.mapping(z, LABEL.expand(500, -1)))
    assert deviations.shape == (500, G.num_ws)
    assert float(deviations.square().mean()) == pytest.approx(1, abs=0.1)
    assert 0.97 < (deviations[:, 0] < prior.usual).float().mean() < 1
    mean = torch.cat([mean.repeat(count) for mean, count in zip(prior.means, prior.blocks)])
    assert prior.deviations(mean.expand(1, 1, -1)).abs().max() < 1e-4


def test_directions_in_which_styles_hardly_vary_count_by_their_own_deviation(G):
    prior = style_prior(G, LABEL)
    narrow = prior.whiten[1].norm(dim=0).argmax()   # the column of the least variance
    step = torch.linalg.inv(prior.whiten[1])[narrow]   # one deviation along it
    mean = torch.cat([mean.repeat(count) for mean, count in zip(prior.means, prior.blocks)])
    moved = mean.clone()
    moved[4:8] += step
    assert float(prior.deviations(moved.expand(1, 1, -1))) == pytest.approx((1 / len(moved)) ** 0.5, rel=1e-3)


def test_staying_keeps_styles_nearer(G):
    target = picture()
    options = dict(num_steps=40, num_candidates=8, w_avg_samples=200, w_plus=True)
    prior = style_prior(G, LABEL)
    free, near = (
        prior.deviations(projection.fit(
            G, target, PixelDistance(target), projection.ProjectionOptions(**options, stay=stay)).ws[-1:]).mean()
        for stay in (0, 1)
    )
    assert near < 0.5 * free


def test_a_search_shows_its_images(G):
    target, images = picture(), []
    projection.fit(G, target, PixelDistance(target), projection.ProjectionOptions(
        num_steps=3, num_candidates=0, w_avg_samples=100), on_image=images.append)
    assert [image.shape for image in images] == [target.shape] * 3
    assert not any(image.requires_grad for image in images)


def pivot(G: torch.nn.Module) -> torch.Tensor:
    z = torch.from_numpy(np.random.RandomState(1).randn(1, G.z_dim)).float()
    return G.mapping(z, LABEL)


def test_tuning_reaches_a_foreign_picture_and_leaves_the_network_alone(G):
    target, ws, before = picture(), pivot(G), copy.deepcopy(G.state_dict())
    distances = []
    deltas, noise = tune(G, target, PixelDistance(target), ws, {}, LABEL, TuningOptions(40, 0.02), distances.append)
    tuned = add_deltas(G, deltas)
    reached = float(PixelDistance(target)(synthesize(tuned, ws, noise)))
    assert reached < 0.3 * distances[0] and len(distances) == 40
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert all(name.startswith("synthesis.") and delta.dtype == torch.float16 for name, delta in deltas.items())
    again = tune(G, target, PixelDistance(target), ws, {}, LABEL, TuningOptions(40, 0.02))
    assert all(torch.equal(a[name], b[name]) for a, b in zip((deltas, noise), again) for name in a)


def test_the_networks_own_noise_is_put_back_where_an_edit_redraws(G):
    own = noise_maps(G.synthesis)
    region = torch.zeros([8, 8], dtype=torch.bool)
    region[:4] = True
    mixed = own_noise_in(own, {name: torch.full_like(value, 9.0) for name, value in own.items()}, region)
    for name, value in mixed.items():
        half = len(value) // 2
        assert torch.equal(value[:half], own[name][:half]) and (value[half:] == 9).all()


def test_the_own_noise_of_a_tuned_network_has_the_effect_that_it_had(G):
    noisy = copy.deepcopy(G)
    noisy.synthesis.b8.conv1.noise_strength.data.fill_(0.2)
    delta = {"synthesis.b8.conv1.noise_strength": torch.tensor(0.6).half()}
    tuned = add_deltas(noisy, delta)
    images = [net.synthesis(pivot(G), noise_mode="const") for net in (noisy, tuned)]
    assert float(tuned.synthesis.b8.conv1.noise_strength) == pytest.approx(0.8, abs=1e-3)
    torch.testing.assert_close(images[1], images[0])
    plugin = add_to_parameters(noisy, Arrays.of({name: value.numpy() for name, value in delta.items()}))
    torch.testing.assert_close(plugin.synthesis(pivot(G), noise_mode="const"), images[0])


def test_neighbours_are_the_pivot_with_blocks_redrawn(G):
    target, ws = picture(), pivot(G)
    styles, region, expected = neighbour(G, target, ws, LABEL, 0.0, torch.Generator().manual_seed(3))
    changed = (styles != ws).reshape(G.num_ws, 5, 4).any(dim=2)
    assert changed.sum(dim=1).tolist() == [1] * G.num_ws and not changed[:, 0].any(), "one block, not the global code"
    row, col = divmod(int(changed[0].nonzero()) - 1, 2)
    inside = torch.zeros([8, 8], dtype=torch.bool)
    inside[4 * row:4 * row + 4, 4 * col:4 * col + 4] = True
    assert torch.equal(region, inside)
    made = G.synthesis(styles, noise_mode="const")
    assert torch.equal(expected[..., inside], made[..., inside])
    assert torch.equal(expected[..., ~inside], target[..., ~inside])


def test_the_term_for_neighbours_keeps_redrawn_blocks_as_they_were(G):
    target, ws = picture(), pivot(G)
    errors = []
    for weight in (0.0, 5.0):
        deltas, noise = tune(G, target, PixelDistance(target), ws, {}, LABEL, TuningOptions(
            60, 0.02, neighbour_weight=weight))
        tuned, random = add_deltas(G, deltas), torch.Generator().manual_seed(9)
        places = [neighbour(G, target, ws, LABEL, 0.25, random) for _ in range(8)]
        own = noise_maps(tuned.synthesis)
        images = [synthesize(tuned, styles, own_noise_in(own, noise, region)) for styles, region, _ in places]
        errors.append(sum(float((img - made).square().mean()) for img, (_, _, made) in zip(images, places)))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("options", [dict(num_steps=0), dict(learning_rate=-1), dict(neighbour_weight=float("nan"))])
def test_tuning_refuses_what_it_cannot_do(options):
    with pytest.raises(UserError):
        tuning.TuningOptions(**options)
