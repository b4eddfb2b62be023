"""Which sizes networks can make."""

from __future__ import annotations

import pytest

from training.data.image_size import check_image_size, is_possible_size, nearest_possible_size


@pytest.mark.parametrize("size, possible", [
    ((64, 64), True), ((1, 1), True), ((48, 48), False), ((96, 96), False),   # squares grow from one cell
    ((96, 64), True), ((64, 32), True), ((8, 4), True), ((1024, 576), True), ((1920, 1024), True),
    ((6, 4), False), ((2, 1), False),            # no room to double twice
    ((1280, 720), False), ((640, 360), False),   # 80 cells of 16 or 8 pixels
    ((1088, 64), False),                         # 17 cells
])
def test_sizes_are_powers_of_two_or_small_multiples_of_one(size, possible):
    width, height = size
    assert is_possible_size(width, height) == is_possible_size(height, width) == possible


@pytest.mark.parametrize("size, nearest", [
    ((1280, 720), (1280, 768)), ((720, 1280), (768, 1280)), ((100, 60), (96, 64)), ((100, 100), (128, 128)),
    ((95, 95), (64, 64)), ((101, 103), (128, 128)), ((5000, 8), (5120, 512)),
])
def test_the_proposed_size_is_near(size, nearest):
    assert nearest_possible_size(*size) == nearest


def test_every_proposed_size_is_possible_and_possible_sizes_are_their_own_proposal():
    for width in range(1, 200):
        for height in range(1, 200, 7):
            assert is_possible_size(*nearest_possible_size(width, height))
    assert nearest_possible_size(64, 64) == (64, 64) and nearest_possible_size(96, 64) == (96, 64)


def test_the_message_names_the_thing_the_rule_and_the_value():
    with pytest.raises(ValueError, match=r"^photos: .* must be a power of two .*, got 100x60; 96x64 is near"):
        check_image_size(100, 60, "photos")
