"""training.run.recomputation: the same bits from less memory, and networks that know nothing of it."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny_run import differences, loop_kwargs, write_zip

import train
from benchmarks.tensor_memory import LiveTensors, Traced
from dnnlib.util import UserError
from training import config, training_loop
from training.networks import Discriminator, Generator
from training.run import run_state
from training.run.recomputation import recomputing, resolution_blocks

SSN = dict(cfg="ssn-plus", blocks="2x2", block_dim=4, channels=4, channels_max=8)


@pytest.mark.parametrize("options", [{}, SSN], ids=["stylegan2", "ssn"])
def test_a_run_ends_with_the_same_bits(tmp_path, options):
    write_zip(tmp_path / "data.zip", size=16)
    saved = []
    for recompute in (False, True):
        kwargs = loop_kwargs(tmp_path / str(recompute), tmp_path / "data.zip")
        if options:
            args = train.setup_training_loop_kwargs(data=str(tmp_path / "data.zip"), gpus=0, **options)[1]
            kwargs.update(G_kwargs=args.G_kwargs, loss_kwargs=args.loss_kwargs)
        (tmp_path / str(recompute)).mkdir()
        training_loop.training_loop(**dict(kwargs, total_kimg=0.008, checkpoint_activations=recompute))
        saved.append(run_state.load(run_state.state_paths(kwargs["run_dir"])[0]))
    plain, recomputed = ({name: state[name] for name in ("networks", "optimizers", "loss")} for state in saved)
    assert differences(plain, recomputed) == []


def test_blocks_are_the_same_objects_as_before_afterwards():
    blocks = resolution_blocks(Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_max=4))
    before = [dict(vars(block)) for block in blocks]
    with pytest.raises(KeyError), recomputing(blocks):
        assert "forward" in vars(blocks[0])
        raise KeyError
    assert len(blocks) == 3 and [vars(block) for block in blocks] == before


def test_the_blocks_are_those_of_the_resolutions():
    G = Generator(z_dim=4, c_dim=0, w_dim=4, img_resolution=16, img_channels=3,
                  synthesis_kwargs=dict(channel_base=64, channel_max=4))
    assert resolution_blocks(G.synthesis) == [G.synthesis.b4, G.synthesis.b8, G.synthesis.b16]
    assert resolution_blocks(G.mapping) == []


@pytest.mark.parametrize("phase", ["Gmain", "Greg"])
def test_it_takes_less_memory(phase):
    traced = Traced("ssn-plus", 16, batch=16, channels=8, channels_max=8)
    assert traced.peak_of_phase(phase, recompute=True) < 0.95 * traced.peak_of_phase(phase, recompute=False)


def test_live_tensors_add_up_what_operations_make_while_it_is_alive():
    given = torch.zeros(100)
    with LiveTensors() as live:
        first = given + 1                   # 400 bytes
        given.add_(1).view(10, 10)          # nothing new
        second = torch.cat([first, first])  # 800
        del first
        third = second * 2                  # 800
        del second
        _ = third[:5]
    assert live.peak == 1600 and live.now == 800


def test_tracing_agrees_with_a_run_on_real_tensors():
    traced = Traced("ssn-plus", 16, batch=4, channels=4, channels_max=4)
    real = Traced("ssn-plus", 16, batch=4, mode=contextlib.nullcontext(), channels=4, channels_max=4)
    for phase in ("Gmain", "Dreg"):
        expected = real.peak_of_phase(phase, recompute=False)
        assert traced.peak_of_phase(phase, recompute=False) == pytest.approx(expected, rel=1e-3)


def test_the_option_may_change_while_a_run_is_under_way_but_not_beside_graphs(tmp_path):
    write_zip(tmp_path / "data.zip", size=16)
    common = dict(data=str(tmp_path / "data.zip"), gpus=0)
    setup, change = config.setup_training_loop_kwargs, config.change_run_settings
    plain, recomputed = (setup(**common, checkpoint_activations=flag)[1] for flag in (None, True))
    assert "checkpoint_activations" not in plain and recomputed.checkpoint_activations is True
    assert change(plain, checkpoint_activations=True).checkpoint_activations is True
    assert "checkpoint_activations" not in change(recomputed, checkpoint_activations=False)
    message = "--checkpoint-activations cannot be given with --cuda-graphs, got both"
    with pytest.raises(UserError, match=message):
        setup(**common, checkpoint_activations=True, cuda_graphs=True)
    with pytest.raises(UserError, match=message):
        change(setup(**common, cuda_graphs=True)[1], checkpoint_activations=True)
