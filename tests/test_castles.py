"""The drawn data set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import PIL.ImageDraw
import pytest

from training.data.castles import LIGHTS, SEASONS, draw_castle, sample_scene
from training.data.castles import Random as CastleRandom


def pixels(seed: int, resolution: int, index: int = 0) -> np.ndarray:
    return np.asarray(draw_castle(seed, resolution, index)).astype(np.float64)


@pytest.mark.parametrize("resolution", [1, 4, 32, 64, 100, 256])
def test_a_castle_has_the_asked_size_and_is_rgb(resolution):
    image = draw_castle(0, resolution)
    assert image.size == (resolution, resolution) and image.mode == "RGB"


def test_a_castle_depends_on_seed_and_index_only():
    first = pixels(3, 32, 7)
    pixels(4, 64, 1)
    np.testing.assert_array_equal(pixels(3, 32, 7), first)
    assert np.abs(pixels(3, 32, 8) - first).mean() > 5
    assert np.abs(pixels(4, 32, 7) - first).mean() > 5
    assert np.abs(pixels(-3, 32, 7) - first).mean() > 5


@pytest.mark.parametrize("index", range(6))
def test_a_castle_is_the_same_at_every_resolution(index):
    """Averaged down to 32 pixels, a 128-pixel drawing differs by the rounding of edges only."""
    small, large = pixels(0, 32, index), pixels(0, 128, index)
    averaged = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert np.abs(averaged - small).mean() < 5
    assert np.abs(averaged - pixels(0, 32, index + 1)).mean() > 10


def test_a_season_covers_every_castle_and_leaves_the_rest_as_it_was():
    for i in range(30):
        scene, winter = (sample_scene(CastleRandom(f"castle 0 {i}"), season) for season in (None, "winter"))
        assert winter.season is SEASONS["winter"]
        assert (winter.light, winter.towers[0].x, winter.wall) == (scene.light, scene.towers[0].x, scene.wall)


def test_castles_vary():
    """No pixel of the castle's region is alike in many pictures, and all times of day occur."""
    batch = np.stack([pixels(0, 32, i) for i in range(60)])
    assert (batch.std(axis=0)[8:28].mean(axis=-1) > 15).all()
    assert len(np.unique(batch.reshape(60, -1), axis=0)) == 60
    lights = {id(sample_scene(CastleRandom(f"castle 0 {i}")).light) for i in range(60)}
    assert lights == {id(light) for light in LIGHTS.values()}


def test_towers_stand_in_the_four_columns_inside_the_picture():
    for i in range(200):
        scene = sample_scene(CastleRandom(f"castle 0 {i}"))
        assert 2 <= len(scene.towers) <= 4
        columns = [int(tower.x * 4) for tower in scene.towers]
        assert columns == sorted(set(columns)) and {1, 2} <= set(columns)
        for tower in (*scene.towers, *scene.behind):
            assert tower.top - tower.roof_height > 0 and tower.top < tower.base


def test_the_lit_side_of_the_towers_faces_the_sun():
    """Inner towers of pictures with the sun far left are brighter on their left half, and the other way round."""
    agreeing = total = 0
    for i in range(60):
        scene = sample_scene(CastleRandom(f"castle 0 {i}"))
        image = pixels(0, 128, i).mean(axis=-1)
        for tower in scene.towers:
            rows = slice(int((tower.top + 0.08) * 128), int((tower.top + 0.16) * 128))
            middle, quarter = tower.x * 128, tower.width * 32
            left = image[rows, int(middle - 2 * quarter) + 1 : int(middle - quarter)].mean()
            right = image[rows, int(middle + quarter) + 1 : int(middle + 2 * quarter)].mean()
            agreeing += (left > right) == (scene.sun[0] < 0.5)
            total += 1
    assert agreeing / total > 0.95   # trees may stand before a tower


def test_drawing_stays_cheap_enough_to_serve_as_a_data_set(monkeypatch):
    """The target is 200 castles a second at 32 pixels. Time goes with the shapes drawn, which can be counted."""
    shapes = Counter()
    for name in ("polygon", "rectangle", "ellipse", "line"):
        draw = getattr(PIL.ImageDraw.ImageDraw, name)

        def count(*args, _draw=draw, _name=name, **kwargs):
            shapes[_name] += 1
            return _draw(*args, **kwargs)

        monkeypatch.setattr(PIL.ImageDraw.ImageDraw, name, count)
    for i in range(20):
        draw_castle(1, 32, i)
    assert 0 < shapes.total() < 20 * 500   # 330 each


@pytest.mark.parametrize("resolution", [0, -1, 100_000])
def test_a_senseless_resolution_is_refused(resolution):
    with pytest.raises(ValueError, match=f"castles are drawn at 1 to 4096 pixels, got {resolution}"):
        draw_castle(0, resolution)
