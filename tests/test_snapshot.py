"""training.run.snapshot: preview grids, network pickles, and taking up a pickle again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import warm_python

from training.augment import AugmentPipe
from training.dataset import Dataset
from training.network_files import save_network_snapshot
from training.networks import Discriminator, Generator
from training.run import snapshot
from training.run.snapshot import (
    PreviewGrid,
    crop_grid,
    network_snapshot,
    save_image_grid,
    setup_snapshot_image_grid,
)

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


class Constant(Dataset):
    """Item i is an image of the value i % 256; its class is i % num_classes."""

    def __init__(self, num, size=8, num_classes=0, vector_labels=False):
        self._num_classes = num_classes
        self._vector_labels = vector_labels
        super().__init__("constant", [num, 3, size, size], use_labels=num_classes > 0)

    def _load_raw_image(self, raw_idx):
        return np.full(self.image_shape, raw_idx % 256, dtype=np.uint8)

    def _load_raw_labels(self):
        classes = np.arange(self.num_raw, dtype=np.int64) % self._num_classes
        return np.eye(self._num_classes, dtype=np.float32)[classes] if self._vector_labels else classes


def tiny_G(seed=0, w_dim=8):
    torch.manual_seed(seed)
    return Generator(4, 0, w_dim, 8, 3, mapping_kwargs=dict(num_layers=2),
                     synthesis_kwargs=dict(channel_max=8))


def tiny_D(seed=0):
    torch.manual_seed(seed)
    return Discriminator(0, 8, 3, channel_max=8)


# Preview grid


@pytest.mark.parametrize("size, columns, rows", [(8, 32, 32), (256, 30, 16), (512, 15, 8), (1024, 7, 4)])
def test_the_grid_fills_8k_pixels_within_limits(size, columns, rows):
    grid_size, images, labels = setup_snapshot_image_grid(Constant(2, size))
    assert grid_size == (columns, rows)
    assert images.shape == (columns * rows, 3, size, size) and labels.shape == (columns * rows, 0)


def test_without_labels_every_image_returns_only_when_all_were_shown():
    _, images, _ = setup_snapshot_image_grid(Constant(100))
    numbers = images[:, 0, 0, 0]
    assert sorted(numbers[:100]) == list(range(100))
    assert np.array_equal(numbers[100:200], numbers[:100])


@pytest.mark.parametrize("vector_labels", [False, True])
def test_with_labels_every_row_shows_one_class_and_goes_through_its_items(vector_labels):
    training_set = Constant(210, num_classes=3, vector_labels=vector_labels)
    (columns, rows), images, labels = setup_snapshot_image_grid(training_set)
    numbers = images[:, 0, 0, 0].reshape(rows, columns).astype(int)
    classes = labels.argmax(axis=1).reshape(rows, columns)
    assert (classes == numbers % 3).all() and (classes == classes[:, :1]).all()
    # Reversed one-hot vectors sort like the classes.
    assert classes[:6, 0].tolist() == [0, 1, 2, 0, 1, 2]
    first_class = numbers[classes[:, 0] == 0].ravel()      # 70 items
    assert len(set(first_class[:70])) == 70
    assert np.array_equal(first_class[70:140], first_class[:70])


def test_the_grid_depends_on_its_seed_only():
    grids = [setup_snapshot_image_grid(Constant(200), random_seed=seed)[1] for seed in (5, 5, 6)]
    assert np.array_equal(grids[0], grids[1]) and not np.array_equal(grids[0], grids[2])


def test_an_image_grid_is_read_back_pixel_by_pixel(tmp_path):
    images = np.random.RandomState(0).randint(256, size=[6, 3, 4, 5])
    save_image_grid(images, str(tmp_path / "grid.png"), drange=(0, 255), grid_size=(3, 2))
    grid = np.asarray(PIL.Image.open(tmp_path / "grid.png"))
    assert grid.shape == (8, 15, 3)
    for i, image in enumerate(images):
        row, column = divmod(i, 3)
        assert np.array_equal(grid[row * 4:row * 4 + 4, column * 5:column * 5 + 5], image.transpose(1, 2, 0))


def test_values_are_scaled_rounded_and_clipped(tmp_path):
    values = np.array([-1.5, -1.0, 0.0, 1 / 127.5, 1.0, 7.0], dtype=np.float32)
    save_image_grid(values.reshape(1, 1, 1, 6), str(tmp_path / "grid.png"), drange=(-1, 1), grid_size=(1, 1))
    image = PIL.Image.open(tmp_path / "grid.png")
    assert image.mode == "L" and np.asarray(image).tolist() == [[0, 0, 128, 128, 255, 255]]


def test_a_grid_of_another_size_than_its_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"grid of 2x2 needs 4 images .* got shape \[3, 3, 4, 4\]"):
        save_image_grid(np.zeros([3, 3, 4, 4]), str(tmp_path / "grid.png"), drange=(0, 1), grid_size=(2, 2))
    assert os.listdir(tmp_path) == []


def test_a_smaller_preview_is_the_upper_left_part():
    grid_size, kept = crop_grid((4, 3), np.arange(12), (2, 9))
    assert grid_size == (2, 3) and kept.tolist() == [0, 1, 4, 5, 8, 9]
    with pytest.raises(ValueError, match="got 0x3"):
        crop_grid((4, 3), np.arange(12), (0, 3))


def test_the_preview_shows_the_same_latents_whatever_the_batch_size_and_random_state(tmp_path):
    G = tiny_G().eval()
    grids = []
    for batch_size in (4, 3):
        torch.rand(1)
        preview = PreviewGrid(Constant(10), G.z_dim, CPU, batch_size, random_seed=2, largest_grid=(4, 2))
        preview.save_fakes(G, str(tmp_path / "fakes.png"))
        grids.append(np.asarray(PIL.Image.open(tmp_path / "fakes.png")).astype(int))
    assert grids[0].shape == (16, 32, 3)
    assert np.abs(grids[0] - grids[1]).max() <= 1   # convolutions of another batch size may round differently
    preview.save_reals(str(tmp_path / "reals.png"))
    assert PIL.Image.open(tmp_path / "reals.png").size == (32, 16)


# Network pickles


def test_a_snapshot_holds_frozen_copies_in_the_order_of_the_format():
    G, D, G_ema, pipe = tiny_G().train(), tiny_D().train(), tiny_G().eval(), AugmentPipe(xflip=1)
    pipe.p.fill_(0.25)
    data = network_snapshot(G, D, G_ema, pipe, dict(path="x.zip"))
    assert list(data) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    assert data["training_set_kwargs"] == dict(path="x.zip")
    before = data["G"].mapping.fc0.weight.clone()
    with torch.no_grad():
        G.mapping.fc0.weight.add_(1)
    assert torch.equal(data["G"].mapping.fc0.weight, before)
    assert float(data["augment_pipe"].p) == 0.25
    for name in ("G", "D", "G_ema"):
        assert not data[name].training and not any(param.requires_grad for param in data[name].parameters())
    assert G.training and G.mapping.fc0.weight.requires_grad


def test_without_augmentation_the_snapshot_says_none():
    assert network_snapshot(tiny_G(), tiny_D(), tiny_G(), None, {})["augment_pipe"] is None


def test_a_saved_snapshot_opens_in_a_fresh_process(tmp_path):
    G_ema = tiny_G().eval()
    fname = str(tmp_path / "network.pkl")
    save_network_snapshot(network_snapshot(tiny_G(), tiny_D(), G_ema, None, dict(path="x.zip")), fname)
    z = torch.randn([2, 4])
    torch.save(z, tmp_path / "z.pt")
    code = """
import pickle, sys, torch
data = pickle.load(open(sys.argv[1] + "/network.pkl", "rb"))
img = data["G_ema"](torch.load(sys.argv[1] + "/z.pt"), None, noise_mode="const")
assert data["D"](img, None).shape == (2, 1) and data["training_set_kwargs"] == {"path": "x.zip"}
torch.save(img, sys.argv[1] + "/img.pt")
"""
    warm_python.run(["-c", code, tmp_path], cwd=ROOT, check=True)
    img = torch.load(tmp_path / "img.pt", weights_only=True)
    torch.testing.assert_close(img, G_ema(z, None, noise_mode="const").detach())


def test_an_interrupted_write_leaves_the_previous_file(tmp_path):
    fname = str(tmp_path / "network.pkl")
    save_network_snapshot({"old": 1}, fname)
    old = Path(fname).read_bytes()
    with pytest.raises((TypeError, AttributeError)):
        save_network_snapshot({"G": [0] * 1000, "lock": lambda: None}, fname)
    assert Path(fname).read_bytes() == old and os.listdir(tmp_path) == ["network.pkl"]


# Resuming


@pytest.fixture
def saved(tmp_path):
    fname = str(tmp_path / "old.pkl")
    save_network_snapshot(network_snapshot(tiny_G(1), tiny_D(1), tiny_G(2), None, {}), fname)
    return fname


def test_the_loop_offers_the_grid_functions_under_the_names_of_the_host():
    from training import training_loop

    assert training_loop.setup_snapshot_image_grid is snapshot.setup_snapshot_image_grid
    assert training_loop.save_image_grid is snapshot.save_image_grid
