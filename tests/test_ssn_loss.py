"""ssn_plugin.loss: what the distortion term computes, when, and what it leaves to StyleGAN2's loss.

The networks are fakes whose images can be worked out by hand: every latent number is painted over its block.
"""

import pytest
import torch

from ssn_plugin.config import SSNConfig
from ssn_plugin.distortion import LOG_FLOOR, block_mask
from ssn_plugin.hosts.stylegan2_loss import ReferenceLoss
from ssn_plugin.loss import DistortionLoss
from torch_utils import training_stats
from training.loss import StyleGAN2Loss

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
    """A discriminator that sends the generator a gradient of zero, so that all of it comes from the distortion."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros([]))

    def forward(self, img, c):
        return img.mean(dim=[1, 2, 3])[:, None] * self.gain


class Wrapper(torch.nn.Module):
    """Hides the attributes of a module, as distributed training does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.fixture
def one_block(monkeypatch):
    """Lets one latent number, times `leak`, fill the whole image."""
    monkeypatch.setattr(Synthesis, "block_grid", [[1, 1]])
    paint = lambda self, ws, noise=None: self.leak * ws[:, :, None].expand(-1, 3, 4, 4)  # noqa: E731
    monkeypatch.setattr(Synthesis, "forward", paint)


def make_loss(leak=0.5, wrap=lambda module: module, cls=DistortionLoss, **kwargs):
    networks = dict(G_mapping=wrap(Mapping()), G_synthesis=wrap(Synthesis(leak)), D=Indifferent())
    settings = dict(distortion_weight=WEIGHT, distortion_batch_shrink=1, style_mixing_prob=0, pl_weight=0,
                    diversity_reward="linear")
    kwargs = SSNConfig().kwargs("loss") | settings | kwargs
    return cls(device=torch.device("cpu"), **networks, **kwargs)


def run_phase(loss, phase="Gmain", num=6, sync=True, gain=1.0):
    """One accumulation round on fresh latents; returns the reported distortion and diversity."""
    z_dim = sum(rows * cols for rows, cols in Synthesis.block_grid)
    collector = training_stats.Collector(regex="Loss/ssn/.*", keep_previous=False)
    z, c, img = torch.randn(num, z_dim), torch.eye(num)[:, :3], torch.randn(num, 3, RESOLUTION, RESOLUTION)
    loss.accumulate_gradients(phase, real_img=img, real_c=c, gen_z=z, gen_c=c, sync=sync, gain=gain)
    collector.update()
    return {name.split("/")[-1]: collector.mean(name) for name in collector.names() if collector.num(name)}


def pair_latents(loss):
    """Latents of the last round whose images were compared, before and after the redraw. [n, B] each"""
    (host_z, _, _), (redrawn, _, _) = loss.G_mapping.calls[-2:]
    return host_z[: len(redrawn)], redrawn


def test_the_terms_join_a_loss_that_compares_generated_and_real_images(monkeypatch):
    seen = []

    def generator_loss(self, img, c, reals=None):
        seen.append(reals)
        return img[:, 0, 0] * 0

    monkeypatch.setattr(DistortionLoss, "generator_loss", generator_loss)
    loss = make_loss(adversarial="relativistic", distortion_interval=2)
    assert run_phase(loss)["distortion"] > 0
    run_phase(loss)   # without the terms: the host's own step
    assert [len(reals) for reals in seen] == [2, 2] and all(reals[0].shape[2:] == (RESOLUTION,) * 2 for reals in seen)


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
    z, redrawn_z = pair_latents(loss)
    redrawn = (z != redrawn_z).nonzero()[:, 1]
    change = (after - before).square().mean(dim=1)
    masks = block_mask(redrawn, GRID, RESOLUTION, RESOLUTION)
    outside = torch.stack([change[n][~masks[n]].mean() for n in range(5)])
    inside = torch.stack([change[n][masks[n]].mean() for n in range(5)])
    assert stats["distortion"] == pytest.approx(outside.mean().item())
    assert stats["diversity"] == pytest.approx(inside.mean().item())


def test_exactly_one_block_of_the_host_latents_is_redrawn_and_the_labels_stay():
    loss = make_loss()
    run_phase(loss)
    (host_z, host_c, _), (redrawn_z, redrawn_c, skip_w_avg_update) = loss.G_mapping.calls
    assert ((host_z != redrawn_z).sum(dim=1) == 1).all()
    assert torch.equal(redrawn_c, host_c)
    assert skip_w_avg_update, "the mean style would count every latent twice"


def test_the_block_is_drawn_uniformly_for_every_sample():
    loss = make_loss()
    run_phase(loss, num=2000)
    z, redrawn_z = pair_latents(loss)
    counts = (z != redrawn_z).sum(dim=0)
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
    loss = make_loss(leak=0.0)  # where nothing changes outside, whatever happens inside
    stats = run_phase(loss)
    assert stats["diversity"] > 0.1 and loss.G_synthesis.images[-1].grad.count_nonzero() == 0


def reward_gradient(loss, cap, slope=lambda share: 1):
    """d mean(R(D_in)) / d leak of the last round: D_in = ((1 + leak / 4) * x)^2, x the change of a latent.

    slope: of R below the cap, as a function of D_in / cap.
    """
    z, redrawn_z = pair_latents(loss)
    step = (redrawn_z - z).sum(dim=1)  # of the one block that differs
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
    z, redrawn_z = pair_latents(loss)
    redrawn = (z != redrawn_z).sum(dim=0)
    assert z.shape == (200, 5) and redrawn[0] == 0 and redrawn[1:].min() > 20 and redrawn.sum() == 200
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
    z, redrawn_z = pair_latents(loss)
    # Every pixel outside changes by leak times the change of the mean of all four latents.
    expected = 0.5 * (redrawn_z - z).mean(dim=1).abs().mean()
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


def test_batch_shrink_redraws_a_part_of_the_batch_and_at_least_one_sample():
    for num, shrink, expected in [(6, 2, 3), (6, 4, 1), (2, 4, 1)]:
        loss = make_loss(distortion_batch_shrink=shrink)
        run_phase(loss, num=num)
        assert len(loss.G_synthesis.images[-1]) == num + expected


def test_a_part_of_the_batch_estimates_the_term():
    loss = make_loss(distortion_batch_shrink=2)
    run_phase(loss, num=6)
    (host_z, host_c, _), (redrawn_z, redrawn_c, _) = loss.G_mapping.calls
    assert ((host_z[:3] != redrawn_z).sum(dim=1) == 1).all() and torch.equal(redrawn_c, host_c[:3])


def test_no_setting_has_a_default_beside_that_of_the_cfg():
    """What may be left out changes nothing then: options of older runs do not name it."""
    with pytest.raises(TypeError) as caught:
        DistortionLoss(torch.device("cpu"), Mapping(), Synthesis(), Indifferent())
    named = {name for name in SSNConfig().kwargs("loss") if f"'{name}'" in str(caught.value)}
    assert named == set(SSNConfig().kwargs("loss")) - {"pl_weight", "style_mixing_prob"}


def test_the_term_takes_no_pass_of_its_own_and_the_discriminator_sees_none_of_its_images():
    seen = []
    loss = make_loss(distortion_batch_shrink=2)
    loss.D.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run_phase(loss, num=6)
    (images,), (judged,) = loss.G_synthesis.images, seen
    assert torch.equal(judged, images[:6]) and len(images) == 6 + 3


@pytest.mark.parametrize("draws_on_device", [False, True])
def test_styles_of_all_images_but_those_that_are_compared_are_mixed(draws_on_device, monkeypatch):
    monkeypatch.setattr(Mapping, "forward", lambda self, z, c, skip_w_avg_update=False: z[:, None].repeat(1, 3, 1))
    loss = make_loss(style_mixing_prob=1, distortion_batch_shrink=2)
    loss.draws_on_device = draws_on_device
    z, c = torch.randn(6, 4), torch.zeros(6, 0)
    ws = loss.mix_styles_from(3, loss.G_mapping(z, c), z, c)
    mixed = (ws != z[:, None]).all(dim=2)  # [N, L]
    assert not mixed[:3].any()
    cut = int((~mixed[3]).sum())  # one for the batch
    assert 1 <= cut < 3 and torch.equal(mixed[3:], (torch.arange(3) >= cut).expand(3, 3))


def test_parts_have_one_key_for_graphs_if_they_take_the_same_operations():
    loss = make_loss(distortion_interval=2, pl_weight=2)
    keys = []
    for sync in (False, True, False, True, True):  # two accumulation rounds, twice, then one
        keys.append(loss.graph_key("Gmain"))
        run_phase(loss, sync=sync)
    assert keys[0] == keys[1] == keys[4] != keys[2] == keys[3]
    assert None not in (*keys, loss.graph_key("Dmain"), loss.graph_key("Greg"))


def test_no_graph_replays_what_python_decides():
    growing = make_loss(distortion_warmup=0.01)
    assert growing.graph_key("Gmain") is None and growing.graph_key("Dmain") is not None
    run_phase(growing, num=10)
    assert growing.graph_key("Gmain") is not None
    among_grids = make_loss(pl_weight=2, pl_outside_weight=4)
    assert [phase for phase in ("Gmain", "Greg", "Gboth", "Dmain") if among_grids.graph_key(phase) is None] == [
        "Greg", "Gboth"]
    own_distortion = make_loss(distortion_function="torch.mul", distortion_interval=2)
    assert own_distortion.graph_key("Gmain") is None and own_distortion.graph_key("Dmain") is not None
    own_distortion.main_steps = 1
    assert own_distortion.graph_key("Gmain") is not None
    assert make_loss(cls=type("Own", (DistortionLoss,), {})).graph_key("Dmain") is None


def test_a_part_that_a_graph_repeats_counts_like_any_other():
    ran, repeated = make_loss(), make_loss()
    for phase, num, sync in [("Gmain", 5, False), ("Greg", 5, True), ("Gboth", 3, True), ("Dmain", 4, True)]:
        run_phase(ran, phase, num, sync)
        repeated.count_part(phase, num, sync)
    assert (ran.main_images, ran.main_steps) == (repeated.main_images, repeated.main_steps) == (8, 1)


def test_the_gradient_is_the_sum_of_those_of_the_discriminator_and_of_the_term():
    gradients = []
    for weight, strictness in [(WEIGHT, 0.0), (0, 3.0), (WEIGHT, 3.0), (0, 0.0)]:
        torch.manual_seed(5)
        loss = make_loss(distortion_weight=weight, diversity_weight=1.0)  # a reward: the same draws, whatever lambda
        loss.D.gain.data.fill_(strictness)
        run_phase(loss, gain=2.0)
        gradients.append(loss.G_synthesis.leak.grad.item())
    assert gradients[2] == pytest.approx(gradients[0] + gradients[1] - gradients[3], rel=1e-4)


def test_terms_written_for_other_hosts_are_those_of_this_one_bit_for_bit():
    results = []
    for cls in (StyleGAN2Loss, ReferenceLoss):
        loss = cls(torch.device("cpu"), Mapping(), Synthesis(), Indifferent())
        loss.D.gain.data.fill_(2)
        collector = training_stats.Collector(regex="Loss/.*", keep_previous=False)
        numbers = torch.arange(12.0).reshape(1, 3, 2, 2)
        terms = loss.generator_loss(numbers, None), loss.path_length_loss(torch.tensor([1.0, 3.0]), 2.0)
        collector.update()
        results.append([*[term.tolist() for term in terms], loss.pl_mean.item(), collector.as_dict()])
    assert results[0] == results[1]


def test_training_moves_the_counters_and_the_mean_path_length():
    loss, other = make_loss(), make_loss()
    run_phase(loss, num=5)
    assert loss.state_dict() == dict(pl_mean=torch.tensor(0.0), main_steps=1, main_images=5)
    other.load_state_dict(dict(loss.state_dict(), distortion_weight=1.0))  # earlier versions saved settings as well
    assert other.state_dict() == loss.state_dict() and other.distortion_weight == WEIGHT


def test_wrapped_networks_work():
    loss = make_loss(wrap=Wrapper)
    assert run_phase(loss)["distortion"] > 0
    assert loss.G_synthesis.module.leak.grad != 0


def test_without_the_term_the_loss_is_stylegan2s():
    settings = dict(style_mixing_prob=0.9, pl_weight=0)
    images = []
    for cls, kwargs in [(DistortionLoss, SSNConfig(distortion_weight=0).kwargs("loss")), (StyleGAN2Loss, {})]:
        loss = cls(torch.device("cpu"), Mapping(), Synthesis(), Indifferent(), **kwargs | settings)
        torch.manual_seed(3)
        run_phase(loss)
        images += loss.G_synthesis.images
    assert torch.equal(*images)


def test_in_another_space_the_distortion_of_pixels_is_reported_beside_it():
    loss = make_loss(distortion_space="wasserstein")
    stats = run_phase(loss)
    z, redrawn_z = pair_latents(loss)
    expected = (0.5 * (redrawn_z - z).mean(dim=1)).square().mean().item()  # every pixel outside changes by as much
    assert stats["distortion_in_pixels"] == pytest.approx(expected, rel=1e-5)
    assert stats["distortion"] == pytest.approx(expected, rel=0.8) and loss.G_synthesis.leak.grad != 0
    assert None not in (loss.graph_key("Gmain"), loss.graph_key("Dmain"))
