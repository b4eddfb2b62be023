"""training.run.step: phases, gradients, moving average and augmentation strength of one optimisation step."""

from __future__ import annotations

import math
import random
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import warm_python

from torch_utils import training_stats
from training.run import step as training_step
from training.run.step import (
    AdaController,
    PhaseTimer,
    StepOptions,
    TrainingState,
    are_finite_at_once,
    average_parts,
    ema_decay,
    make_optimizer,
    make_phases,
    run_phase,
    seed_draws,
    share_weights,
    train_step,
    update_ema,
)

CPU = torch.device("cpu")
ADAM = dict(class_name="torch.optim.Adam", lr=0.01, betas=[0, 0.99], eps=1e-8)
SGD = dict(class_name="torch.optim.SGD", lr=1.0)


class Net(torch.nn.Module):
    """A weight and a buffer."""

    def __init__(self, value=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full([3], value))
        self.register_buffer("seen", torch.zeros([2]))
        self.z_dim = 2


class ToyLoss:
    """Mean of the pixels times the first weight, plus what is asked for; keeps its calls and a mean of all pixels."""

    def __init__(self, G, D, plus=None):
        self.modules = {"G": G, "D": D}
        self.plus = plus or {}             # phase -> number to add
        self.calls: list[SimpleNamespace] = []
        self.pl_mean = torch.zeros([])

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        G, D = self.modules["G"], self.modules["D"]
        self.calls.append(SimpleNamespace(
            phase=phase, gain=gain, sync=sync, real_img=real_img, gen_z=gen_z, pl_mean=self.pl_mean.clone(),
            trains=(G.weight.requires_grad, D.weight.requires_grad)))
        loss = real_img.mean() + self.plus.get(phase, 0)
        self.pl_mean.lerp_(loss, 0.5)
        (self.modules[phase[0]].weight[0] * loss * gain).backward()


class ToyData:
    """The numbers 0, 1, 2, ... as images of one pixel."""

    def __init__(self, batch_size):
        self.batch_size = batch_size
        self.drawn = 0

    def next_batch(self):
        images = torch.arange(self.drawn, self.drawn + self.batch_size, dtype=torch.float32)
        self.drawn += self.batch_size
        return images.reshape(-1, 1, 1, 1), torch.zeros([self.batch_size, 0])

    def random_labels(self, num):
        return torch.zeros([num, 0])


def toy_state(opt_kwargs=SGD, G_reg_interval=4, D_reg_interval=16, ada=None, plus=None):
    G, D, G_ema = Net(), Net(), Net()
    for net in (G, D, G_ema):
        net.requires_grad_(False)
    phases = make_phases(G, D, opt_kwargs, opt_kwargs, G_reg_interval, D_reg_interval, CPU)
    return TrainingState(G, D, G_ema, None, ToyLoss(G, D, plus), phases, ada)


def run_toy_phase(batch_gpu, batch_size=4, opt_kwargs=SGD):
    state = toy_state(opt_kwargs, None, None)
    data = ToyData(batch_size)
    assert run_phase(state, 0, *data.next_batch(), data, StepOptions(batch_size=batch_size, batch_gpu=batch_gpu))
    return state


# Options and phases


@pytest.mark.parametrize("kwargs, text", [
    (dict(batch_size=6, batch_gpu=4), "batch_size must be a multiple of batch_gpu * num_gpus = 4 * 1, got 6"),
    (dict(batch_size=4, num_gpus=2), "batch_size must be a multiple of batch_gpu * num_gpus = 4 * 2, got 4"),
    (dict(batch_size=0), "batch_size must be a multiple of batch_gpu * num_gpus = 4 * 1, got 0"),
    (dict(batch_gpu=0), "batch_gpu and num_gpus must be at least 1, got 0 and 1"),
])
def test_a_batch_that_cannot_be_split_is_refused(kwargs, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        StepOptions(**kwargs)


def test_lazy_phases_share_an_optimizer_with_slower_rates():
    phases = make_phases(Net(), Net(), ADAM, ADAM, 4, 16, CPU)
    assert [(phase.name, phase.interval) for phase in phases] == [("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16)]
    assert phases[0].opt is phases[1].opt and phases[2].opt is phases[3].opt
    for phase, ratio in [(phases[0], 4 / 5), (phases[2], 16 / 17)]:
        (group,) = phase.opt.param_groups
        assert group["lr"] == pytest.approx(0.01 * ratio)
        assert group["betas"] == pytest.approx((0.0, 0.99**ratio))


def test_without_an_interval_main_and_regularisation_are_one_phase_at_full_rate():
    phases = make_phases(Net(), Net(), ADAM, ADAM, None, 16, CPU)
    assert [phase.name for phase in phases] == ["Gboth", "Dmain", "Dreg"]
    (group,) = phases[0].opt.param_groups
    assert group["lr"] == 0.01 and group["betas"] == (0.0, 0.99)


def test_an_interval_of_zero_is_refused():
    with pytest.raises(ValueError, match="D_reg_interval must be at least 1 or None, got 0"):
        make_phases(Net(), Net(), ADAM, ADAM, 4, 0, CPU)


def test_the_optimizer_takes_the_steps_of_plain_adam():
    ours, plain = Net(), Net()
    optimizer = make_optimizer(ours, ADAM)
    adam = torch.optim.Adam(plain.parameters(), lr=0.01, betas=(0.0, 0.99), eps=1e-8)
    for _ in range(5):
        grad = torch.randn([3])
        for net, opt in [(ours, optimizer), (plain, adam)]:
            net.weight.grad = grad.clone()
            opt.step()
    torch.testing.assert_close(ours.weight, plain.weight)


def test_optimizers_without_betas_or_a_fused_form_are_constructed_too():
    opt = make_optimizer(Net(), dict(class_name="torch.optim.RMSprop", lr=0.5), ratio=0.5)
    assert isinstance(opt, torch.optim.RMSprop) and opt.param_groups[0]["lr"] == 0.25


def test_an_unknown_optimizer_argument_is_an_error():
    with pytest.raises(TypeError, match="speed"):
        make_optimizer(Net(), dict(class_name="torch.optim.Adam", speed=3))


# One step


def test_phases_run_in_order_at_their_intervals_with_their_gains():
    state, data = toy_state(), ToyData(2)
    for _ in range(17):
        train_step(state, data, StepOptions(batch_size=2, batch_gpu=2))
    calls = [(call.phase, call.gain) for call in state.loss.calls]
    first = [("Gmain", 1), ("Greg", 4), ("Dmain", 1), ("Dreg", 16)]
    assert calls[:4] == first
    assert calls[4:6] == [("Gmain", 1), ("Dmain", 1)]
    assert calls[-4:] == first                                     # step 16
    assert len(calls) == 2 * 17 + 5 + 2                            # Greg in steps 0, 4, 8, 12, 16; Dreg in 0, 16
    assert state.cur_nimg == 34 and state.batch_idx == 17


def test_only_the_network_of_the_running_phase_has_gradients():
    state = toy_state()
    train_step(state, ToyData(2), StepOptions(batch_size=2, batch_gpu=2))
    assert [call.trains for call in state.loss.calls] == [(True, False)] * 2 + [(False, True)] * 2
    assert not any(net.weight.requires_grad for net in (state.G, state.D, state.G_ema))


def test_every_phase_draws_its_own_latents():
    state = toy_state()
    train_step(state, ToyData(2), StepOptions(batch_size=2, batch_gpu=2))
    latents = torch.stack([call.gen_z for call in state.loss.calls])
    assert latents.shape == (4, 2, 2) and len(latents.flatten().unique()) == 16


def test_synchronisation_is_asked_for_in_the_last_round_only():
    state = run_toy_phase(batch_gpu=1)
    assert [call.sync for call in state.loss.calls] == [False, False, False, True]
    assert [len(call.real_img) for call in state.loss.calls] == [1] * 4


def test_accumulated_rounds_take_the_step_of_the_whole_batch():
    weights = [run_toy_phase(batch_gpu).G.weight for batch_gpu in (4, 2, 1)]
    torch.testing.assert_close(weights[1], weights[0])
    torch.testing.assert_close(weights[2], weights[0])
    assert not torch.equal(weights[0], Net().weight)


def test_the_images_are_dealt_to_the_parts_one_by_one():
    state = run_toy_phase(batch_gpu=2, batch_size=6)
    assert [call.real_img.flatten().tolist() for call in state.loss.calls] == [[0, 3], [1, 4], [2, 5]]


def test_running_means_end_where_the_whole_batch_would_have_moved_them():
    means = [run_toy_phase(batch_gpu).loss.pl_mean for batch_gpu in (4, 2, 1)]
    assert [float(mean) for mean in means] == pytest.approx([0.75] * 3)     # half of the mean of 0, 1, 2, 3
    calls = run_toy_phase(batch_gpu=1).loss.calls
    assert [float(call.pl_mean) for call in calls] == [0] * 4               # every part starts from the same value


def test_draws_depend_on_seed_images_seen_purpose_and_index_only():
    def draws(*args):
        seed_draws(*args)
        return [*torch.rand(2).tolist(), *np.random.rand(2), random.random()]

    reference = draws(1, 320, 0, 0)
    torch.rand(5), np.random.rand(5), random.random()
    assert draws(1, 320, 0, 0) == reference
    keys = [(2, 320, 0, 0), (1, 352, 0, 0), (1, 320, 1, 0), (1, 320, 0, 1), (-1, 320, 0, 0)]
    others = [draws(*key) for key in keys]
    assert len({tuple(numbers) for numbers in [reference, *others]}) == 6


def test_the_timer_reports_each_run_once():
    timer = PhaseTimer(CPU)
    assert timer.take_milliseconds() == []
    with timer:
        pass
    (milliseconds,) = timer.take_milliseconds()
    assert 0 <= milliseconds < 1000
    assert timer.take_milliseconds() == []


# Gradients


def test_means_over_parts_are_taken_in_place():
    grads = [torch.tensor([2.0, -6.0]), torch.tensor(1e30)]
    assert average_parts(grads, num_rounds=2)
    assert grads[0].tolist() == [1, -3] and float(grads[1]) == pytest.approx(5e29)


def test_a_single_part_passes_unchanged():
    grad = torch.tensor([0.1, 1e-38, -7.0])
    before = grad.clone()
    assert average_parts([grad]) and torch.equal(grad, before)
    assert average_parts([])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_is_noticed(value):
    tensors = [torch.ones([3]), torch.tensor([1.0, value])]
    assert not average_parts(tensors) and not are_finite_at_once(tensors)
    assert are_finite_at_once([torch.ones([3, 2]), torch.tensor(1e38)])


def test_a_phase_whose_gradients_are_not_finite_changes_nothing():
    state, data = toy_state(plus=dict(Gmain=math.nan)), ToyData(2)
    state.phases = [phase for phase in state.phases if phase.name in ("Gmain", "Dmain")]
    train_step(state, data, StepOptions(batch_size=2, batch_gpu=2))
    assert torch.equal(state.G.weight, Net().weight) and not torch.equal(state.D.weight, Net().weight)
    assert float(state.loss.pl_mean) == 0.25            # moved by Dmain alone, from 0 towards the mean of the pixels
    assert (state.skipped_steps, state.skipped_in_a_row, state.batch_idx, state.cur_nimg) == (1, 1, 1, 2)


def test_the_moving_average_waits_while_a_step_is_skipped():
    state, data = toy_state(plus=dict(Dmain=math.inf)), ToyData(2)
    options = StepOptions(batch_size=2, batch_gpu=2, ema_kimg=0.002)
    train_step(state, data, options)
    assert not torch.equal(state.G.weight, Net().weight) and torch.equal(state.G_ema.weight, Net().weight)
    state.loss.plus.clear()
    train_step(state, data, options)
    assert not torch.equal(state.G_ema.weight, Net().weight)
    assert (state.skipped_steps, state.skipped_in_a_row) == (1, 0)


def test_too_many_skipped_steps_in_a_row_end_the_run(monkeypatch):
    monkeypatch.setattr(training_step, "MOST_SKIPPED_STEPS", 3)
    state, data, options = toy_state(plus=dict(Gmain=math.nan)), ToyData(2), StepOptions(batch_size=2, batch_gpu=2)
    train_step(state, data, options)
    train_step(state, data, options)
    with pytest.raises(ValueError, match=r"must be finite, they were not in 3 steps in a row, the last at 0\.0 kimg"):
        train_step(state, data, options)


# Moving average


def test_the_moving_average_mixes_parameters_and_copies_buffers():
    G, G_ema = Net(2.0), Net(10.0)
    G.seen.fill_(7)
    update_ema(G_ema, G, decay=0.75)
    assert G_ema.weight.tolist() == [8.0] * 3 and G_ema.seen.tolist() == [7, 7]
    update_ema(G_ema, G, decay=0.0)
    assert torch.equal(G_ema.weight, G.weight)


def test_the_old_value_counts_half_after_ema_kimg():
    options = StepOptions(batch_size=50, batch_gpu=50, ema_kimg=2)
    assert ema_decay(options, 0) ** (2000 / 50) == pytest.approx(0.5)


def test_the_ramp_up_limits_the_half_life_to_a_fraction_of_the_images_seen():
    options = StepOptions(batch_size=50, batch_gpu=50, ema_kimg=2, ema_rampup=0.05)
    assert ema_decay(options, 0) == 0
    assert ema_decay(options, 1000) == pytest.approx(0.5)           # half-life 50 images
    assert ema_decay(options, 10**6) == pytest.approx(0.5 ** (50 / 2000))


def test_the_step_moves_the_average_towards_the_generator():
    state = toy_state()
    train_step(state, ToyData(2), StepOptions(batch_size=2, batch_gpu=2, ema_kimg=0.002))
    torch.testing.assert_close(state.G_ema.weight, (Net().weight + state.G.weight) / 2)


# Adaptive augmentation


def make_ada(target=0.6, **kwargs):
    pipe = SimpleNamespace(p=torch.zeros([]))
    return pipe, AdaController(pipe, target, **{"batch_size": 10, "interval": 4, "kimg": 1, **kwargs})


def test_p_rises_by_its_rate_while_reals_are_told_apart_and_knows_no_ceiling():
    pipe, ada = make_ada()
    for step in range(1, 201):          # 2000 images at 1 kimg from 0 to 1
        training_stats.report("Loss/signs/real", torch.ones([10]))
        ada.update(step)
    assert float(pipe.p) == pytest.approx(2, rel=1e-4)


def test_p_falls_to_zero_and_not_below_where_the_signs_are_under_the_target():
    pipe, ada = make_ada()
    pipe.p.fill_(0.05)
    for step in range(1, 17):
        training_stats.report("Loss/signs/real", torch.tensor([1.0, 1.0, 1.0, -1.0]))  # mean 0.5
        ada.update(step)
    assert float(pipe.p) == 0


def test_p_changes_only_at_its_interval_and_looks_at_the_signs_since_the_last_change():
    pipe, ada = make_ada()
    for step in range(1, 4):
        training_stats.report("Loss/signs/real", torch.ones([100]))
        ada.update(step)
        assert float(pipe.p) == 0
    training_stats.report("Loss/signs/real", torch.ones([100]))
    ada.update(4)
    assert float(pipe.p) == pytest.approx(0.04)
    training_stats.report("Loss/signs/real", -torch.ones([1]))
    ada.update(8)
    assert float(pipe.p) == pytest.approx(0, abs=1e-7)


def test_p_stays_where_the_discriminator_gives_no_number():
    pipe, ada = make_ada()
    pipe.p.fill_(0.5)
    training_stats.report("Loss/signs/real", torch.tensor([math.nan]))
    ada.update(4)
    assert float(pipe.p) == 0.5


def test_an_impossible_ada_schedule_is_refused():
    with pytest.raises(ValueError, match="ada_kimg above 0, got 4 and 0"):
        make_ada(kimg=0)


# Several processes


def distributed_workers(init_file: str, out_file: str) -> None:
    torch.multiprocessing.spawn(distributed_worker, args=(init_file, out_file), nprocs=2)


def distributed_worker(rank: int, init_file: str, out_file: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
    state = toy_state()
    state.G.weight.add_(rank)           # to be overwritten by that of rank 0
    share_weights(state.G, state.D, state.G_ema)
    real_img, real_c = ToyData(4).next_batch()
    mine = slice(rank, None, 2)
    data: Any = ToyData(4)
    run_phase(state, 0, real_img[mine], real_c[mine], data, StepOptions(4, 2, num_gpus=2, rank=rank))
    torch.save(state.G.weight, f"{out_file}{rank}")
    torch.distributed.barrier()  # gloo may abort a process whose peer is still at work
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_step_that_one_takes_on_the_whole_batch(tmp_path):
    out_file = str(tmp_path / "weight")
    warm_python.call(distributed_workers, str(tmp_path / "init"), out_file)
    weights = [torch.load(f"{out_file}{rank}", weights_only=True) for rank in range(2)]
    assert torch.equal(weights[0], weights[1])
    single = run_toy_phase(batch_gpu=4, opt_kwargs=dict(SGD, lr=0.8)).G.weight  # 0.8: the share of a lazy main phase
    torch.testing.assert_close(weights[0], single.detach())
