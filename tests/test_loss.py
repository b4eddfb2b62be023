"""training.loss: closed forms of the terms on linear networks, and what each phase does to which network."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import softplus

from torch_utils import training_stats
from torch_utils.ops import conv2d_gradfix
from training import loss as loss_module
from training.loss import StyleGAN2Loss, path_lengths, r1_penalty
from training.networks import Discriminator, Generator

N, L, Z = 6, 4, 3  # batch, layers, size of z and w


class ToyMapping(torch.nn.Module):
    """w = scale * z in every layer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.calls: list[bool] = []

    def forward(self, z, c, skip_w_avg_update=False):
        self.calls.append(skip_w_avg_update)
        return (self.scale * z)[:, None].repeat(1, L, 1)


class ToySynthesis(torch.nn.Module):
    """An image of 1x2x2 pixels, linear in the latents of all layers."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn([L * Z, 4]))

    def forward(self, ws):
        return (ws.flatten(1) @ self.weight).reshape(-1, 1, 2, 2)


class ToyDiscriminator(torch.nn.Module):
    """A linear function of the pixels."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 0.25]))

    def forward(self, img, c):
        return (img.flatten(1) @ self.weight)[:, None]


def toy_loss(cls=StyleGAN2Loss, **kwargs):
    kwargs = {"style_mixing_prob": 0, **kwargs}
    return cls(torch.device("cpu"), ToyMapping(), ToySynthesis(), ToyDiscriminator(), **kwargs)


def inputs(num=N):
    gen = torch.Generator().manual_seed(1)
    return dict(
        real_img=torch.randn([num, 1, 2, 2], generator=gen), real_c=torch.zeros([num, 0]),
        gen_z=torch.randn([num, Z], generator=gen), gen_c=torch.zeros([num, 0]),
    )


def run(loss, phase, gain=1.0, sync=True, **changes):
    loss.accumulate_gradients(phase=phase, sync=sync, gain=gain, **{**inputs(), **changes})


@pytest.fixture
def reports(monkeypatch):
    """Everything that is reported while the test runs, by name."""
    seen: dict[str, list[torch.Tensor]] = {}
    monkeypatch.setattr(training_stats, "report", lambda name, value: seen.setdefault(name, []).append(value.detach()))
    return seen


def expected_fakes(loss):
    with torch.no_grad():
        return loss.G_synthesis(loss.G_mapping(inputs()["gen_z"], None))


def test_path_length_of_a_linear_generator_is_the_norm_of_its_transpose_times_the_noise():
    ws = torch.randn([N, L, Z], requires_grad=True)
    synthesis = ToySynthesis()
    torch.manual_seed(5)
    lengths = path_lengths(synthesis(ws), ws)
    torch.manual_seed(5)
    noise = torch.randn([N, 1, 2, 2]).flatten(1) / 2   # 2 = sqrt(height * width)
    gradient = (noise @ synthesis.weight.T).reshape(N, L, Z)
    torch.testing.assert_close(lengths, (gradient.square().sum(2).sum(1) / L).sqrt())


def test_r1_penalty_of_a_linear_discriminator_is_the_squared_norm_of_its_weight():
    D = ToyDiscriminator()
    img = torch.randn([N, 1, 2, 2], requires_grad=True)
    expected = D.weight.square().sum().expand(N)
    torch.testing.assert_close(r1_penalty(img, D(img, None)), expected)


def test_r1_phase_gives_the_gradient_of_half_gamma_times_the_penalty_times_the_gain():
    loss = toy_loss(r1_gamma=3)
    run(loss, "Dreg", gain=16)
    torch.testing.assert_close(loss.D.weight.grad, 16 * 3 * loss.D.weight.detach())


def test_r1_is_taken_at_the_images_before_augmentation(reports):
    loss = toy_loss(augment_pipe=lambda img: 2 * img)
    run(loss, "Dreg")
    expected = 4 * loss.D.weight.detach().square().sum().expand(N)
    torch.testing.assert_close(reports["Loss/r1_penalty"][0], expected)


def test_generator_main_term_is_the_softplus_of_the_negative_logit(reports):
    loss = toy_loss()
    run(loss, "Gmain")
    logits = loss.D(expected_fakes(loss), None).detach()
    torch.testing.assert_close(reports["Loss/G/loss"][0], softplus(-logits))
    torch.testing.assert_close(reports["Loss/scores/fake"][0], logits)
    torch.testing.assert_close(reports["Loss/signs/fake"][0], logits.sign())


def test_discriminator_main_term_adds_fakes_and_reals(reports):
    loss = toy_loss()
    run(loss, "Dmain")
    fake = loss.D(expected_fakes(loss), None).detach()
    real = loss.D(inputs()["real_img"], None).detach()
    torch.testing.assert_close(reports["Loss/D/loss"][0], softplus(fake) + softplus(-real))


def test_the_relativistic_loss_compares_real_and_generated_images_in_pairs(reports):
    loss = toy_loss(adversarial="relativistic")
    run(loss, "Gmain")
    run(loss, "Dmain")
    fake = loss.D(expected_fakes(loss), None).detach()
    real = loss.D(inputs()["real_img"], None).detach()
    torch.testing.assert_close(reports["Loss/G/loss"][0], softplus(real - fake))
    torch.testing.assert_close(reports["Loss/D/loss"][0], softplus(fake - real))


def test_the_relativistic_loss_has_the_gradient_of_its_formula():
    # d/dw mean softplus(w.(fake - real)) = mean sigmoid(w.(fake - real)) (fake - real)
    loss = toy_loss(adversarial="relativistic")
    run(loss, "Dmain", gain=2)
    difference = (expected_fakes(loss) - inputs()["real_img"]).flatten(1)   # [N, 4]
    slope = torch.sigmoid(difference @ loss.D.weight.detach())
    torch.testing.assert_close(loss.D.weight.grad, 2 * (slope[:, None] * difference).mean(dim=0))


def test_the_relativistic_loss_penalises_gradients_at_generated_images_like_those_at_real_ones():
    # Of a linear discriminator, R1 and R2 are both |w|^2: half of gamma times both has the gradient 2 * gamma * w.
    loss = toy_loss(adversarial="relativistic", r1_gamma=3)
    run(loss, "Dreg", gain=16)
    torch.testing.assert_close(loss.D.weight.grad, 16 * 2 * 3 * loss.D.weight.detach())
    assert loss.G_mapping.scale.grad is None and loss.G_synthesis.weight.grad is None


def test_relativistic_phases_together_have_the_gradients_of_both():
    apart, together = (toy_loss(adversarial="relativistic", r1_gamma=3) for _ in range(2))
    together.G_synthesis.load_state_dict(apart.G_synthesis.state_dict())
    for phase in ("Dmain", "Dreg"):
        run(apart, phase)
    run(together, "Dboth")
    torch.testing.assert_close(together.D.weight.grad, apart.D.weight.grad)


def test_discriminator_sees_augmented_images_only(reports):
    loss = toy_loss(augment_pipe=lambda img: -img)
    run(loss, "Dmain")
    torch.testing.assert_close(reports["Loss/scores/real"][0], loss.D(-inputs()["real_img"], None).detach())
    torch.testing.assert_close(reports["Loss/scores/fake"][0], loss.D(-expected_fakes(loss), None).detach())


def test_running_mean_of_path_lengths_moves_by_the_decay_and_enters_the_penalty(reports):
    loss = toy_loss(pl_decay=0.25, pl_weight=2)
    loss.pl_mean.fill_(3.0)
    torch.manual_seed(7)
    run(loss, "Greg")
    torch.manual_seed(7)
    ws = loss.G_mapping(inputs()["gen_z"][: N // 2], None)
    lengths = path_lengths(loss.G_synthesis(ws), ws).detach()
    mean = 3 + 0.25 * (lengths.mean() - 3)
    torch.testing.assert_close(loss.pl_mean, mean)
    assert not loss.pl_mean.requires_grad
    torch.testing.assert_close(reports["Loss/pl_penalty"][0], (lengths - mean).square())
    torch.testing.assert_close(reports["Loss/G/reg"][0], 2 * (lengths - mean).square())


def test_path_length_works_with_a_batch_smaller_than_the_shrink_factor():
    loss = toy_loss(pl_batch_shrink=4)
    run(loss, "Greg", **{key: value[:1] for key, value in inputs().items()})
    assert math.isfinite(loss.pl_mean)


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain", "Dreg"])
def test_gradients_are_proportional_to_the_gain(phase):
    grads = []
    for gain in (1, 5):
        torch.manual_seed(0)
        loss = toy_loss()
        run(loss, phase, gain=gain)
        module = loss.D if phase[0] == "D" else loss.G_synthesis
        grads.append(module.weight.grad)
    torch.testing.assert_close(grads[1], 5 * grads[0])


@pytest.mark.parametrize("network", ["G", "D"])
def test_the_joint_phase_is_the_sum_of_main_and_regularisation(network):
    grads = []
    for phases in (["both"], ["main", "reg"]):
        torch.manual_seed(0)
        loss = toy_loss()
        for phase in phases:
            run(loss, network + phase)
        grads.append((loss.D if network == "D" else loss.G_synthesis).weight.grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("phase, kwargs", [("Greg", {"pl_weight": 0}), ("Dreg", {"r1_gamma": 0})])
def test_a_weight_of_zero_switches_a_regularisation_off(phase, kwargs, reports):
    loss = toy_loss(**kwargs)
    run(loss, phase)
    assert loss.G_synthesis.weight.grad is None and loss.D.weight.grad is None
    assert not reports


def test_the_discriminator_phase_leaves_the_generator_alone_even_if_its_gradients_are_on():
    loss = toy_loss()
    run(loss, "Dboth")
    assert loss.G_synthesis.weight.grad is None and loss.G_mapping.scale.grad is None


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth"])
@pytest.mark.parametrize("sync", [True, False])
def test_only_the_last_backward_pass_of_a_phase_synchronises(phase, sync):
    events: list[str] = []

    class Recorder(StyleGAN2Loss):
        def run_G(self, z, c, sync):
            events.append(f"G {sync}")
            return super().run_G(z, c, sync)

        def run_D(self, img, c, sync):
            events.append(f"D {sync}")
            return super().run_D(img, c, sync)

        def backward(self, loss, gain):
            events.append("backward")
            super().backward(loss, gain)

    run(toy_loss(Recorder), phase, sync=sync)
    passes = " ".join(events).split("backward")
    assert passes.pop() == ""                     # nothing after the last backward pass
    trained = f"{phase[0]} True"                  # the network that the phase trains
    assert all(trained not in before for before in passes[:-1])
    assert (trained in passes[-1]) == sync


def test_style_mixing_keeps_the_first_layers_and_replaces_all_from_the_cut_on():
    loss = toy_loss(style_mixing_prob=1)
    z = inputs()["gen_z"]
    cuts = set()
    for _ in range(60):
        _img, ws = loss.run_G(z, None, sync=True)
        kept = (ws == (loss.G_mapping.scale * z)[:, None]).all(dim=2)  # [N, L]
        assert (kept == kept[0]).all()            # one cut for the whole batch
        cut = int(kept[0].sum())
        assert kept[0, :cut].all()
        cuts.add(cut)
    assert cuts == {1, 2, 3}
    assert loss.G_mapping.calls == [False, True] * 60  # the second latents do not count towards w_avg


def test_style_mixing_happens_with_its_probability():
    loss = toy_loss(style_mixing_prob=0.3)
    for _ in range(1000):
        loss.run_G(inputs()["gen_z"], None, sync=True)
    mixed = sum(loss.G_mapping.calls) / 1000
    assert abs(mixed - 0.3) < 0.06  # four standard deviations


def test_styles_mixed_on_the_device_are_replaced_from_a_random_layer_on_with_their_probability():
    loss = toy_loss(style_mixing_prob=0.75)
    loss.draws_on_device = True
    z, counts = inputs()["gen_z"], torch.zeros(L + 1)
    for _ in range(2000):
        _img, ws = loss.run_G(z, None, sync=True)
        kept = (ws == (loss.G_mapping.scale * z)[:, None]).all(dim=2)  # [N, L]
        num_kept = int(kept[0].sum())
        assert (kept == (torch.arange(L) < num_kept)).all()
        counts[num_kept] += 1
    expected = torch.tensor([0, 0.25, 0.25, 0.25, 0.25])  # a cut before layer 1, 2 or 3, or none
    assert (counts / 2000 - expected).abs().max() < 0.04  # four standard deviations


def test_with_draws_on_the_device_every_pass_takes_the_same_operations():
    loss = toy_loss(style_mixing_prob=0.3)
    loss.draws_on_device = True
    for _ in range(20):
        loss.run_G(inputs()["gen_z"], None, sync=True)
    assert loss.G_mapping.calls == [False, True] * 20


def test_cuda_graphs_replay_the_phases_of_this_loss_that_run_anything_and_of_no_subclass():
    phases = ("Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth")
    keyed = [phase for phase in phases if toy_loss().graph_key(phase) is not None]
    assert keyed == list(phases)
    without_terms = toy_loss(pl_weight=0, r1_gamma=0)
    assert [phase for phase in phases if without_terms.graph_key(phase) is None] == ["Greg", "Dreg"]
    subclass = toy_loss(cls=type("Own", (StyleGAN2Loss,), {}))
    assert all(owner.graph_key(phase) is None for phase in phases for owner in (subclass, loss_module.Loss()))


def test_a_generator_with_a_single_layer_has_nothing_to_mix():
    loss = toy_loss(style_mixing_prob=1)
    ws = torch.randn([N, 1, Z])
    assert loss.mix_styles(ws, inputs()["gen_z"], None) is ws


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Dmain", "Dreg"])
def test_every_parameter_gets_a_finite_gradient_and_the_other_network_none(phase, c_dim):
    G = Generator(8, c_dim, 8, 8, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_max=8)).train()
    D = Discriminator(c_dim, 8, 3, channel_max=8).train()
    trained, other = (G, D) if phase[0] == "G" else (D, G)
    trained.requires_grad_(True)
    other.requires_grad_(False)
    loss = StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D)
    labels = torch.eye(c_dim)[torch.arange(4) % c_dim] if c_dim else torch.zeros([4, 0])
    run(loss, phase, real_img=torch.randn([4, 3, 8, 8]), real_c=labels, gen_z=torch.randn([4, 8]), gen_c=labels)
    without = [name for name, param in trained.named_parameters() if param.grad is None]
    assert not without
    assert all(param.grad.isfinite().all() for param in trained.parameters())
    assert all(param.grad is None for param in other.parameters())


@pytest.mark.parametrize("phase", ["Gmain", "Greg", "Gboth", "Dmain", "Dreg", "Dboth"])
def test_gradients_do_not_depend_on_who_differentiates_convolutions(phase, monkeypatch):
    def gradients(own):
        monkeypatch.setattr(conv2d_gradfix, "enabled", own)
        torch.manual_seed(0)
        G = Generator(8, 0, 8, 16, 3, synthesis_kwargs=dict(channel_base=128, channel_max=8))
        D = Discriminator(0, 16, 3, channel_base=128, channel_max=8)
        loss = StyleGAN2Loss(torch.device("cpu"), G.mapping, G.synthesis, D)
        trained = (G if phase[0] == "G" else D).requires_grad_(True)
        (D if phase[0] == "G" else G).requires_grad_(False)
        c = torch.zeros([4, 0])
        loss.accumulate_gradients(phase, torch.randn([4, 3, 16, 16]), c, torch.randn([4, 8]), c, sync=True, gain=1)
        return {name: param.grad for name, param in trained.named_parameters()}

    torch.testing.assert_close(gradients(own=True), gradients(own=False), rtol=1e-4, atol=1e-4)


def test_the_base_class_asks_for_an_implementation():
    with pytest.raises(NotImplementedError):
        loss_module.Loss().accumulate_gradients("Gmain", *[torch.zeros(1)] * 4, sync=True, gain=1)
