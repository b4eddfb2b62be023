"""ssn_plugin.path_length: path lengths of single blocks, and the term of the loss that is made of them."""

import math

import pytest
import torch

from ssn_plugin.config import SSNConfig
from ssn_plugin.distortion import block_mask
from ssn_plugin.loss import DistortionLoss
from ssn_plugin.networks import SSNGenerator
from ssn_plugin.path_length import random_block_path_lengths
from torch_utils import training_stats
from training.loss import StyleGAN2Loss, path_lengths

LAYERS, BLOCK_DIM, CHANNELS, HEIGHT, WIDTH = 3, 2, 3, 4, 8


def linear_images(block_grids, num, seed=0):
    """Styles [N, L, B*bw], images [N, C, H, W] that are a linear map of them, and that map [C, H, W, L, B, bw]."""
    gen = torch.Generator().manual_seed(seed)
    num_blocks = sum(map(math.prod, block_grids))
    jacobian = torch.randn([CHANNELS, HEIGHT, WIDTH, LAYERS, num_blocks, BLOCK_DIM], generator=gen)
    ws = torch.randn([num, LAYERS, num_blocks * BLOCK_DIM], generator=gen).requires_grad_()
    return ws, torch.einsum("chwlbd,nlbd->nchw", jacobian, ws.unflatten(2, [num_blocks, BLOCK_DIM])), jacobian


def expected_mean_square(jacobian, block_grids, outside_weight):
    """Mean over y ~ N(0, I) of |J_b^T (m_b . y)|^2, summed over blocks, per layer and pixel."""
    masks = torch.cat([
        block_mask(torch.arange(math.prod(grid)), grid, HEIGHT, WIDTH) for grid in block_grids
    ])  # [B, H, W]
    weights = torch.where(masks, 1.0, outside_weight)
    energy = jacobian.square().sum(dim=[0, 3, 5])  # [H, W, B]
    return (energy * weights.permute(1, 2, 0).square()).sum() / (LAYERS * HEIGHT * WIDTH)


def mean_square_of_draws(block_grids, outside_weight, num=4000, draws=30):
    torch.manual_seed(0)
    ws, img, jacobian = linear_images(block_grids, num)
    lengths = [random_block_path_lengths(img, ws, block_grids, outside_weight) for _ in range(draws)]
    return torch.cat(lengths).square().mean().item(), jacobian


@pytest.mark.parametrize("outside_weight", [0.0, 1.0, 3.0])
def test_the_mean_square_is_that_of_the_jacobian_with_the_pixels_outside_weighted(outside_weight):
    grids = [[2, 4]]
    actual, jacobian = mean_square_of_draws(grids, outside_weight, draws=5)
    assert actual == pytest.approx(expected_mean_square(jacobian, grids, outside_weight).item(), rel=0.03)


def test_the_mean_square_of_several_grids_is_that_of_all_their_blocks():
    grids = [[1, 1], [2, 2]]
    actual, jacobian = mean_square_of_draws(grids, 3.0, num=50, draws=1200)
    assert actual == pytest.approx(expected_mean_square(jacobian, grids, 3.0).item(), rel=0.15)  # a grid per draw


def test_with_weight_1_the_mean_square_is_that_of_stylegan2():
    grids = [[2, 2]]
    actual, _ = mean_square_of_draws(grids, 1.0, draws=5)
    ws, img, _ = linear_images(grids, 4000)
    assert actual == pytest.approx(path_lengths(img, ws).square().mean().item(), rel=0.03)


def test_a_single_block_has_the_path_length_of_stylegan2_whatever_the_weight():
    ws, img, _ = linear_images([[1, 1]], 5)
    torch.manual_seed(1)
    actual = random_block_path_lengths(img, ws, [[1, 1]], outside_weight=7.0)
    torch.manual_seed(1)
    torch.randint(1, []), torch.randint(1, [5])  # the draws of grid and block
    torch.testing.assert_close(actual, path_lengths(img, ws))


def test_a_block_that_does_nothing_has_length_and_gradient_0():
    ws = torch.randn(3, LAYERS, 4 * BLOCK_DIM, requires_grad=True)
    strength = torch.zeros([], requires_grad=True)
    img = (strength * ws.sum(dim=[1, 2]))[:, None, None, None].expand(-1, CHANNELS, HEIGHT, WIDTH)
    lengths = random_block_path_lengths(img, ws, [[2, 2]], 2.0)
    lengths.square().sum().backward()
    assert torch.equal(lengths, torch.zeros(3)) and strength.grad == 0


# The loss


class Painter(torch.nn.Module):
    """Every block's first number times `strength` over its quarter of the image, and times `leak` over the others."""

    block_grid = [[2, 2]]
    noise_resolutions: list[int] = []

    def __init__(self, strength=1.0, leak=0.5):
        super().__init__()
        self.strength, self.leak = (torch.nn.Parameter(torch.tensor(value)) for value in (strength, leak))

    def forward(self, ws, noise=None):
        inside = block_mask(torch.arange(4), [2, 2], HEIGHT, WIDTH)
        effect = torch.where(inside, self.strength, self.leak)  # [B, H, W]
        return torch.einsum("bhw,nb->nhw", effect, ws[:, 0])[:, None].expand(-1, CHANNELS, -1, -1)


class Mapping(torch.nn.Module):
    def forward(self, z, c, skip_w_avg_update=False):
        return z[:, None].clone().requires_grad_()


class Judge(torch.nn.Module):
    """A discriminator without an opinion."""

    def forward(self, img, c):
        return img.mean(dim=[1, 2, 3])[:, None] * 0


def painter_loss(cls=DistortionLoss, **kwargs):
    networks = dict(G_mapping=Mapping(), G_synthesis=Painter(), D=Judge())
    if issubclass(cls, DistortionLoss):
        kwargs = SSNConfig().kwargs("loss") | dict(style_mixing_prob=0) | kwargs
    return cls(device=torch.device("cpu"), **networks, **dict(style_mixing_prob=0, pl_batch_shrink=1) | kwargs)


def run_phase(loss, phase="Greg", num=64, gain=1.0, sync=True, z_dim=4):
    collector = training_stats.Collector(regex="Loss/(pl_penalty|G/reg)", keep_previous=False)
    z, c = torch.randn(num, z_dim), torch.zeros(num, 0)
    loss.accumulate_gradients(phase, real_img=None, real_c=None, gen_z=z, gen_c=c, sync=sync, gain=gain)
    collector.update()
    return {name: collector.mean(name) for name in collector.names() if collector.num(name)}


def test_with_weight_1_the_term_is_the_hosts_bit_for_bit(monkeypatch):
    monkeypatch.setattr("ssn_plugin.loss.random_block_path_lengths", None)  # nothing of it is called
    results = []
    for cls, kwargs in [(StyleGAN2Loss, {}), (DistortionLoss, dict(pl_outside_weight=1, distortion_weight=0))]:
        loss = painter_loss(cls, **kwargs)
        torch.manual_seed(2)
        stats = [run_phase(loss) for _ in range(3)]
        results.append((stats, loss.pl_mean, loss.G_synthesis.leak.grad))
    assert results[0] == results[1]


def test_penalty_and_running_mean_are_the_hosts_with_the_lengths_of_blocks():
    loss = painter_loss(pl_outside_weight=3.0, pl_weight=5.0, pl_decay=0.25)
    torch.manual_seed(4)
    stats = run_phase(loss)
    torch.manual_seed(4)
    ws = torch.randn(64, 1, 4, requires_grad=True)
    lengths = random_block_path_lengths(loss.G_synthesis(ws), ws, [[2, 2]], 3.0)
    assert loss.pl_mean.item() == pytest.approx(0.25 * lengths.mean().item())
    penalty = (lengths - 0.25 * lengths.mean()).square().mean().item()
    assert stats["Loss/pl_penalty"] == pytest.approx(penalty, rel=1e-5)
    assert stats["Loss/G/reg"] == pytest.approx(5 * penalty, rel=1e-5)


def test_the_gradient_is_that_of_the_weighted_penalty_times_gain():
    """All lengths are proportional to the strengths inside and outside, and the penalty to their square (Euler)."""
    loss = painter_loss(pl_outside_weight=3.0, pl_weight=5.0)
    penalty = run_phase(loss, gain=4.0)["Loss/pl_penalty"]
    painter = loss.G_synthesis
    actual = painter.strength * painter.strength.grad + painter.leak * painter.leak.grad
    assert actual.item() == pytest.approx(2 * 4 * 5 * penalty, rel=1e-4)


def test_more_weight_outside_pulls_harder_at_what_leaks_out_of_a_block():
    pulls = []
    for weight in [0.0, 0.5, 2.0, 4.0]:
        loss = painter_loss(pl_outside_weight=weight)
        torch.manual_seed(5)
        run_phase(loss, num=2000)
        pulls.append((loss.G_synthesis.leak.grad / loss.G_synthesis.strength.grad).item())
    # Squared lengths are strength^2 + 3 (weight * leak)^2 in the mean: of the quarters, three lie outside.
    assert pulls == pytest.approx([3 * weight**2 * 0.5 for weight in [0.0, 0.5, 2.0, 4.0]], rel=0.2)


@pytest.mark.parametrize("kwargs", [dict(pl_weight=0), dict(pl_weight=0, pl_outside_weight=2.0)])
def test_a_weight_of_0_switches_the_term_off(kwargs):
    assert run_phase(painter_loss(**kwargs)) == {}


@pytest.mark.parametrize("phase", ["Gmain", "Dreg"])
def test_other_phases_leave_it_out(phase):
    loss = painter_loss(pl_outside_weight=2.0, distortion_weight=0, r1_gamma=0)
    assert run_phase(loss, phase) == {} and loss.pl_mean == 0


@pytest.mark.parametrize("block_grids", [[[2, 2]], [[1, 1], [2, 4]]])
@pytest.mark.parametrize("phase", ["Greg", "Gboth"])
def test_every_parameter_of_a_real_generator_gets_a_finite_gradient(block_grids, phase):
    G = SSNGenerator(4, 0, 4, 16, 3, block_grid=block_grids, mapping_kwargs=dict(num_layers=2),
                     synthesis_kwargs=dict(channel_base=64, channel_max=8))  # fmt: skip
    settings = SSNConfig(pl_outside_weight=4.0).kwargs("loss")
    loss = DistortionLoss(torch.device("cpu"), G.mapping, G.synthesis, Judge(), **settings)
    torch.manual_seed(6)
    stats = run_phase(loss, phase, num=4, z_dim=G.z_dim)
    assert stats["Loss/pl_penalty"] > 0 and loss.pl_mean > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in G.parameters())
    assert G.synthesis.b8.conv0.weight.grad.abs().max() > 0


class SyncRecorder(DistortionLoss):
    """Notes which passes may synchronise."""

    def run_G(self, z, c, sync):
        self.syncs = [*getattr(self, "syncs", []), sync]
        return super().run_G(z, c, sync)

    def run_G_with_redraws(self, z, c, sync):
        self.syncs = [*getattr(self, "syncs", []), sync]
        return super().run_G_with_redraws(z, c, sync)


def test_only_the_last_backward_pass_of_a_phase_synchronises():
    expected = {
        ("Greg", 100): [True], ("Gboth", 100): [False, True], ("Gboth", 0): [False, True], ("Gmain", 100): [True],
    }
    for (phase, weight), syncs in expected.items():
        loss = painter_loss(SyncRecorder, pl_outside_weight=2.0, distortion_weight=weight)
        run_phase(loss, phase, num=4)
        assert loss.syncs == syncs


@pytest.mark.parametrize("pl_outside_weight", [1.0, 2.0])
def test_images_with_redrawn_blocks_join_the_main_pass_and_not_that_of_path_lengths(pl_outside_weight):
    loss = painter_loss(pl_outside_weight=pl_outside_weight, distortion_batch_shrink=2)
    sizes = []
    loss.G_synthesis.register_forward_hook(lambda module, args, img: sizes.append(len(img)))
    run_phase(loss, "Gboth", num=8)
    assert sizes == [8 + 4, 8]
