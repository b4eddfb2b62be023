"""ssn_plugin.loss: what the distortion term computes, when, and what it leaves to StyleGAN2's loss.

The networks are fakes whose images can be worked out by hand: every latent number is painted over its block.
"""

import pytest
import torch

from ssn_plugin.distortion import LOG_FLOOR, block_mask
from ssn_plugin.loss import DistortionLoss
from torch_utils import training_stats

GRID = [2, 2]
RESOLUTION = 4
WEIGHT = 10.0


class Mapping(torch.nn.Module):
    block_grid = [GRID]

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, z, c, skip_w_avg_update=False):
        self.calls.append((z, c, skip_w_avg_update))
        return z[:, None]  # [N, 1, B]


class Synthesis(torch.nn.Module):
    """Each block of the last grid shows its own number plus `leak` times the mean of all, plus the noise map."""

    block_grid = [GRID]
    noise_resolutions = [RESOLUTION]

    def __init__(self, leak=0.0):
        super().__init__()
        self.leak = torch.nn.Parameter(torch.tensor(leak))
        self.images = []

    def forward(self, ws, noise=None):
        shown = ws[:, 0, -4:] + self.leak * ws[:, 0].mean(dim=1, keepdim=True)  # [N, 4]
        img = shown.reshape(-1, 1, *GRID).repeat_interleave(2, 2).repeat_interleave(2, 3)
        if noise is None:
            noise = [torch.randn_like(img)]
        img = (img + noise[0]).expand(-1, 3, -1, -1)
        if img.requires_grad:
            img.retain_grad()
        self.images.append(img)
        return img


class Indifferent(torch.nn.Module):
    """A discriminator that sends no gradient to the generator, so that all of it comes from the distortion."""

    def forward(self, img, c):
        return img.new_zeros([len(img), 1], requires_grad=True)


class Wrapper(torch.nn.Module):
    """Hides the attributes of a module, as distributed training does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


class SyncRecorder(DistortionLoss):
    """Notes which passes were allowed to synchronise."""

    def run_G(self, z, c, sync):
        self.syncs = [*getattr(self, "syncs", []), ("host", sync)]
        return super().run_G(z, c, sync)

    def synthesize_pairs(self, *args):
        self.syncs = [*getattr(self, "syncs", []), ("distortion", args[-1])]
        return super().synthesize_pairs(*args)


@pytest.fixture
def one_block(monkeypatch):
    """Lets one latent number, times `leak`, fill the whole image."""
    monkeypatch.setattr(Synthesis, "block_grid", [[1, 1]])
    paint = lambda self, ws, noise=None: self.leak * ws[:, :, None].expand(-1, 3, 4, 4)  # noqa: E731
    monkeypatch.setattr(Synthesis, "forward", paint)


def make_loss(leak=0.5, wrap=lambda module: module, cls=DistortionLoss, **kwargs):
    networks = dict(G_mapping=wrap(Mapping()), G_synthesis=wrap(Synthesis(leak)), D=Indifferent())
    kwargs = dict(distortion_weight=WEIGHT, distortion_batch_shrink=1, style_mixing_prob=0, pl_weight=0) | kwargs
    return cls(device=torch.device("cpu"), **networks, **kwargs)


def run_phase(loss, phase="Gmain", num=6, sync=True, gain=1.0):
    """One accumulation round on fresh latents; returns the reported distortion and diversity."""
    z_dim = sum(rows * cols for rows, cols in Synthesis.block_grid)
    collector = training_stats.Collector(regex="Loss/ssn/.*", keep_previous=False)
    z, c, img = torch.randn(num, z_dim), torch.eye(num)[:, :3], torch.randn(num, 3, RESOLUTION, RESOLUTION)
    loss.accumulate_gradients(phase, real_img=img, real_c=c, gen_z=z, gen_c=c, sync=sync, gain=gain)
    collector.update()
    return {name.split("/")[-1]: collector.mean(name) for name in collector.names() if collector.num(name)}


def test_in_warm_up_the_weight_grows_with_the_images_seen():
    loss = make_loss(leak=0.5, distortion_warmup=0.02)  # 20 images
    shares = []
    for phase, num, sync in [("Gmain", 5, True), ("Dmain", 5, True), ("Gboth", 5, False), ("Gmain", 15, True),
                             ("Gmain", 5, True)]:
        loss.G_synthesis.leak.grad = None
        stats = run_phase(loss, phase, num, sync)
        if stats:
            shares.append(loss.G_synthesis.leak.grad.item() / (WEIGHT * 2 / 0.5 * stats["distortion"]))
    assert shares == pytest.approx([0, 0.25, 0.5, 1], rel=1e-5)


def test_both_images_show_the_same_noise():
    stats = run_phase(make_loss(leak=0.0))  # noise is all that could differ outside the block
    assert stats["distortion"] == 0
    assert stats["diversity"] > 0.1


def test_the_reported_numbers_are_the_change_outside_and_inside_the_redrawn_block():
    loss = make_loss(leak=0.8)
    stats = run_phase(loss, num=5)
    before, after = loss.G_synthesis.images[-1].detach().chunk(2)
    z = loss.G_mapping.calls[-1][0]
    redrawn = (z[:5] != z[5:]).nonzero()[:, 1]
    change = (after - before).square().mean(dim=1)
    masks = block_mask(redrawn, GRID, RESOLUTION, RESOLUTION)
    outside = torch.stack([change[n][~masks[n]].mean() for n in range(5)])
    inside = torch.stack([change[n][masks[n]].mean() for n in range(5)])
    assert stats["distortion"] == pytest.approx(outside.mean().item())
    assert stats["diversity"] == pytest.approx(inside.mean().item())


def test_the_pair_holds_the_host_latents_and_a_copy_with_exactly_one_block_redrawn_and_the_same_labels():
    loss = make_loss()
    run_phase(loss)
    (host_z, host_c, _), (pair_z, pair_c, skip_w_avg_update) = loss.G_mapping.calls
    assert torch.equal(pair_z[:6], host_z)
    assert ((pair_z[:6] != pair_z[6:]).sum(dim=1) == 1).all()
    assert torch.equal(pair_c, torch.cat([host_c, host_c]))
    assert skip_w_avg_update, "the mean style would count every latent three times"


def test_the_block_is_drawn_uniformly_for_every_sample():
    loss = make_loss()
    run_phase(loss, num=2000)
    z = loss.G_mapping.calls[-1][0]
    counts = (z[:2000] != z[2000:]).sum(dim=0)
    assert (counts - 500).abs().max() < 4 * (2000 * 0.25 * 0.75) ** 0.5  # four standard deviations


def test_the_gradient_is_that_of_weight_times_mean_distortion_times_gain():
    loss = make_loss(leak=0.5)
    stats = run_phase(loss, gain=3.0)
    # The change outside is (leak * x)^2, so its derivative by the leak is 2 / leak times the distortion.
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(3.0 * WEIGHT * 2 / 0.5 * stats["distortion"], rel=1e-5)


def test_gradients_flow_to_both_images():
    loss = make_loss()
    run_phase(loss)
    before, after = loss.G_synthesis.images[-1].grad.chunk(2)
    assert (before.abs().amax(dim=[1, 2, 3]) > 0).all()
    assert torch.equal(before, -after)


def test_without_a_reward_the_reported_diversity_takes_no_part_in_the_gradients():
    loss = make_loss()
    outside, inside = loss.change_of_redrawn_blocks(torch.randn(4, 4), torch.zeros(4, 0), sync=True)
    assert outside.requires_grad and not inside.requires_grad


def reward_gradient(loss, cap, slope=lambda share: 1):
    """d mean(R(D_in)) / d leak of the last round: D_in = ((1 + leak / 4) * x)^2, x the change of a latent.

    slope: of R below the cap, as a function of D_in / cap.
    """
    z = loss.G_mapping.calls[-1][0]
    step = (z[len(z) // 2:] - z[:len(z) // 2]).sum(dim=1)  # of the one block that differs
    reach = 1 + loss.G_synthesis.leak.item() / 4
    earns = (reach * step).square() < cap
    assert earns.any() and not earns.all()
    return (earns * 2 * reach * step.square() / 4 * slope((reach * step).square() / cap)).mean().item()


@pytest.mark.parametrize("interval", [1, 4])
def test_the_reward_pulls_at_the_pairs_below_the_cap_and_at_no_others(interval):
    loss = make_loss(distortion_weight=0, diversity_weight=2.0, diversity_cap=1.0, distortion_interval=interval)
    run_phase(loss, num=50, gain=3.0)
    expected = -3.0 * 2.0 * interval * reward_gradient(loss, cap=1.0)
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(expected, rel=1e-4)


def test_the_logarithmic_reward_pulls_the_harder_the_less_a_block_does():
    loss = make_loss(distortion_weight=0, diversity_weight=2.0, diversity_cap=1.0, diversity_reward="log")
    run_phase(loss, num=50)
    expected = -2.0 * reward_gradient(loss, cap=1.0, slope=lambda share: 1 / (share + LOG_FLOOR))
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(expected, rel=1e-4)


def test_distortion_and_reward_add_up():
    loss = make_loss(leak=0.5, diversity_weight=2.0, diversity_cap=1.0)
    stats = run_phase(loss, num=50)
    expected = WEIGHT * 2 / 0.5 * stats["distortion"] - 2.0 * reward_gradient(loss, cap=1.0)
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(expected, rel=1e-4)


def test_the_reported_diversity_is_not_capped():
    assert run_phase(make_loss(diversity_weight=1.0, diversity_cap=0.01), num=50)["diversity"] > 0.5


def test_a_single_block_can_be_rewarded(one_block):
    loss = make_loss(diversity_weight=1.0, diversity_cap=100.0)
    assert run_phase(loss)["diversity"] > 0
    assert loss.G_synthesis.leak.grad < 0


def test_of_several_grids_the_blocks_of_the_finest_are_redrawn(monkeypatch):
    monkeypatch.setattr(Synthesis, "block_grid", [[1, 1], GRID])
    loss = make_loss(leak=0.0)
    stats = run_phase(loss, num=200)
    z = loss.G_mapping.calls[-1][0]
    redrawn = (z[:200] != z[200:]).sum(dim=0)
    assert z.shape == (400, 5) and redrawn[0] == 0 and redrawn[1:].min() > 20 and redrawn.sum() == 200
    # Only the mask of the right block leaves no change outside.
    assert stats["distortion"] == 0 and stats["diversity"] > 0.1


def test_sum_reduction_counts_every_outside_block():
    loss_mean, loss_sum = make_loss(), make_loss(distortion_reduction="sum")
    torch.manual_seed(1)
    mean = run_phase(loss_mean)["distortion"]
    torch.manual_seed(1)
    assert run_phase(loss_sum)["distortion"] == pytest.approx(3 * mean, rel=1e-5)


@pytest.mark.parametrize(("setting", "message"), [
    (dict(distortion_reduction="max"), "must be 'mean' or 'sum', got 'max'"),
    (dict(diversity_reward="root"), "must be 'linear' or 'log', got 'root'"),
    (dict(distortion_redraws=0), "redraws must be at least 1, got 0"),
])
def test_a_wrong_setting_is_refused_at_the_start(setting, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**setting)


def largest_outside_change(before, after, outside):
    """Another D, as users write it: the largest absolute change of a pixel that should stay."""
    return ((after - before).abs().amax(dim=1) * outside).amax(dim=[1, 2])


def one_number(before, after, outside):
    return (after - before).square().mean()


def test_a_function_named_by_its_dotted_name_replaces_the_change_outside():
    loss = make_loss(leak=0.5, distortion_function=f"{__name__}.largest_outside_change")
    stats = run_phase(loss)
    z = loss.G_mapping.calls[-1][0]
    # Every pixel outside changes by leak times the change of the mean of all four latents.
    expected = 0.5 * (z[6:] - z[:6]).mean(dim=1).abs().mean()
    assert stats["distortion"] == pytest.approx(expected.item(), rel=1e-5)
    # The change is proportional to the leak, which gives its derivative.
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(WEIGHT * stats["distortion"] / 0.5, rel=1e-5)


@pytest.mark.parametrize(("name", "message"), [
    ("no_such_module.f", "distortion function no_such_module.f cannot be imported"),
    ("torch.no_such_function", "distortion function torch.no_such_function cannot be imported"),
    ("math.pi", "distortion function math.pi must be a function, got float"),
])
def test_a_distortion_function_that_cannot_be_called_is_refused_at_the_start(name, message):
    with pytest.raises(ValueError, match=message):
        make_loss(distortion_function=name)


def test_a_distortion_function_must_keep_the_images_apart():
    loss = make_loss(distortion_function=f"{__name__}.one_number")
    with pytest.raises(ValueError, match=r"one_number must return one number per image \[6\], got \[\]"):
        run_phase(loss)


@pytest.mark.parametrize("phase", ["Greg", "Dmain", "Dreg", "Dboth"])
def test_other_phases_leave_the_term_out(phase):
    loss = make_loss(r1_gamma=0)
    assert run_phase(loss, phase) == {}
    assert loss.main_steps == 0


def test_gboth_includes_the_term():
    assert run_phase(make_loss(), "Gboth")["distortion"] > 0


def test_weight_zero_costs_nothing():
    loss = make_loss(distortion_weight=0)
    assert run_phase(loss) == {}
    assert len(loss.G_synthesis.images) == len(loss.G_mapping.calls) == 1


def test_a_single_block_has_no_outside_to_distort(one_block):
    assert run_phase(make_loss()) == {}


def test_the_interval_counts_optimiser_steps_and_not_accumulation_rounds():
    loss = make_loss(distortion_interval=3)
    due = [[bool(run_phase(loss, sync=sync)) for sync in (False, False, True)] for _step in range(7)]
    assert due == [[step % 3 == 0] * 3 for step in range(7)]


def test_a_lazy_term_has_k_times_the_weight():
    loss = make_loss(distortion_interval=4)
    stats = run_phase(loss)
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(4 * WEIGHT * 2 / 0.5 * stats["distortion"], rel=1e-5)


def test_batch_shrink_uses_a_part_of_the_batch_and_at_least_one_sample():
    for num, shrink, expected in [(6, 2, 3), (6, 4, 1), (2, 4, 1)]:
        loss = make_loss(distortion_batch_shrink=shrink)
        run_phase(loss, num=num)
        assert len(loss.G_synthesis.images[-1]) == 2 * expected


def test_half_the_batch_estimates_the_term_by_default():
    loss = DistortionLoss(torch.device("cpu"), Mapping(), Synthesis(), Indifferent(), style_mixing_prob=0)
    run_phase(loss, num=6)
    (host_z, host_c, _), (pair_z, pair_c, _) = loss.G_mapping.calls
    assert len(pair_z) == len(pair_c) == 2 * 3
    assert torch.equal(pair_z[:3], host_z[:3]) and torch.equal(pair_c[:3], host_c[:3])


def test_redraws_of_one_image_share_it_with_its_label_and_noise():
    loss = make_loss(leak=0.0, distortion_redraws=2)
    assert run_phase(loss, num=5)["distortion"] == 0, "neither noise nor another image differs outside the block"
    z, c, _ = loss.G_mapping.calls[-1]
    origin = [0, 0, 1, 1, 2]
    assert len(z) == len(loss.G_synthesis.images[-1]) == 3 + 5
    assert ((z[3:] != z[origin]).sum(dim=1) == 1).all() and torch.equal(c[3:], c[origin])
    assert (z[3] != z[4]).any() and (z[5] != z[6]).any()


def test_the_gradient_of_a_shared_image_is_the_sum_over_its_pairs():
    loss = make_loss(leak=0.5, distortion_redraws=2)
    stats = run_phase(loss, num=4)
    images = loss.G_synthesis.images[-1].grad
    assert torch.allclose(images[:2], -images[2:].reshape(2, 2, *images.shape[1:]).sum(dim=1))
    assert loss.G_synthesis.leak.grad.item() == pytest.approx(WEIGHT * 2 / 0.5 * stats["distortion"], rel=1e-5)


def test_only_the_last_backward_pass_of_a_phase_synchronises():
    loss = make_loss(cls=SyncRecorder, distortion_interval=2)
    run_phase(loss, sync=False)
    run_phase(loss, sync=True)
    run_phase(loss, sync=True)  # second step: no distortion, so the host's pass is the last
    assert loss.syncs == [("host", False), ("distortion", False), ("host", False), ("distortion", True), ("host", True)]


def test_wrapped_networks_work():
    loss = make_loss(wrap=Wrapper)
    assert run_phase(loss)["distortion"] > 0
    assert loss.G_synthesis.module.leak.grad != 0


def test_without_the_term_the_loss_is_stylegan2s():
    # Same random state, same draws: the term takes its own only after the host's pass.
    torch.manual_seed(3)
    with_term = make_loss()
    run_phase(with_term)
    torch.manual_seed(3)
    without = make_loss(distortion_weight=0)
    run_phase(without)
    assert torch.equal(with_term.G_synthesis.images[0], without.G_synthesis.images[0])
