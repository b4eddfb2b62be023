"""Promises of ssn_plugin.redraw_sheet."""

from __future__ import annotations

import numpy as np
import torch

from ssn_plugin.networks import SSNGenerator
from ssn_plugin.redraw_sheet import GAP, RedrawSheet, frame, spread


def make_generator(c_dim: int = 0) -> SSNGenerator:
    torch.manual_seed(0)
    return SSNGenerator(
        c_dim=c_dim, img_resolution=16, img_channels=3, block_grid=[[1, 1], [4, 4]], block_z_dim=4, block_w_dim=4,
        mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=128, channel_max=8)).eval()


def test_a_sheet_has_a_row_per_image_and_is_the_same_every_time():
    G = make_generator()
    sheet = RedrawSheet(rows=2, columns=3)
    first = sheet.draw(G)
    assert first.shape == (2 * 16 + GAP, 3 * 16 + 2 * GAP, 3) and first.dtype == np.uint8
    assert np.array_equal(first, sheet.draw(G))


def test_a_redrawn_block_changes_the_image_and_rows_have_other_images():
    image = RedrawSheet(rows=2, columns=2).draw(make_generator())
    cells = image[:16, :16], image[:16, 16 + GAP:], image[16 + GAP:, :16]
    assert not np.array_equal(cells[0], cells[1]) and not np.array_equal(cells[0], cells[2])


def test_conditional_networks_have_sheets():
    assert RedrawSheet(rows=3, columns=2).draw(make_generator(c_dim=2)).shape[2] == 3


def test_blocks_are_spread_over_the_grid():
    assert spread(16, 4, shift=0) == [0, 4, 8, 12]
    assert spread(4, 7, shift=1) == [1, 1, 2, 2, 3, 3, 0]


def test_a_frame_lies_on_the_edge_of_its_block():
    image = np.zeros([8, 8, 1], dtype=np.uint8)
    frame(image, 1, (2, 2), (8, 8))
    expected = np.zeros([8, 8], dtype=np.uint8)
    expected[0:4, 4:8] = 255
    expected[1:3, 5:7] = 0
    assert np.array_equal(image[:, :, 0], expected)
