"""Which calls GraphedLoss captures and replays, with a stand-in for graphs; test_gpu.py has real ones."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny_run import loop_kwargs, write_zip

from training.loss import Loss
from training.run import construction, run_state
from training.run.cuda_graphs import GraphedLoss
from training.run.run_options import RunOptions
from training.run.snapshot import network_snapshot


class FakeGraph:
    """Replays by calling again what was called during the capture."""

    current: FakeGraph | None = None

    def __init__(self):
        self.calls = []

    def replay(self):
        for call in self.calls:
            call()


@contextlib.contextmanager
def capture(graph, pool, capture_error_mode):
    FakeGraph.current = graph
    yield
    FakeGraph.current = None


class SumLoss(Loss):
    """The gradient of its weight is the sum of the real images, times the gain."""

    def __init__(self):
        self.weight = torch.nn.Parameter(torch.zeros([]))
        self.events: list[str] = []
        self.key: str | None = "same"

    def graph_key(self, phase):
        return self.key

    def count_part(self, phase, num_images, sync):
        self.events.append(f"count {phase} {num_images} {sync}")

    def accumulate_gradients(self, phase, real_img, real_c, gen_z, gen_c, sync, gain):
        graph = FakeGraph.current
        self.events.append(f"{'capture' if graph else 'run'} {phase}")
        grad = torch.zeros([])

        def compute():
            grad.copy_(real_img.sum() * gain)

        if graph is None:
            compute()
        else:
            graph.calls.append(compute)
        self.weight.grad = grad if self.weight.grad is None else self.weight.grad + grad


@pytest.fixture
def loss(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return SumLoss()


def graphed(loss):
    module = torch.nn.Module()
    module.weight = loss.weight
    return GraphedLoss(loss, [module])


def call(runner, value, phase="Gmain", num=2, sync=True, gain=1.0):
    x = torch.full([num, 1], float(value))
    runner.accumulate_gradients(phase, x, x, x, x, sync=sync, gain=gain)


def test_the_first_call_runs_the_second_is_captured_and_the_rest_are_replayed(loss):
    runner, grads = graphed(loss), []
    for value in (1, 2, 3, 4):
        loss.weight.grad = None
        call(runner, value)
        grads.append(float(loss.weight.grad))
    assert grads == [2, 4, 6, 8]
    assert loss.events == ["run Gmain", "capture Gmain", "count Gmain 2 True", "count Gmain 2 True"]


@pytest.mark.parametrize("changes", [dict(phase="Dmain"), dict(num=3), dict(gain=2.0)])
def test_another_phase_size_or_gain_is_another_graph(loss, changes):
    runner = graphed(loss)
    for kwargs in ({}, changes, {}, changes):
        loss.weight.grad = None
        call(runner, 1, **kwargs)
        assert float(loss.weight.grad) == kwargs.get("num", 2) * kwargs.get("gain", 1)
    assert len(runner.captures) == 2


def test_accumulation_rounds_add_up_whether_run_or_replayed(loss):
    runner = graphed(loss)
    for _ in range(3):
        loss.weight.grad = None
        for value, sync in ((1, False), (10, False), (100, True)):
            call(runner, value, sync=sync)
        assert float(loss.weight.grad) == 222


def test_what_the_loss_gives_no_key_runs_every_time(loss):
    runner, loss.key = graphed(loss), None
    for _ in range(3):
        call(runner, 1)
    assert loss.events == ["run Gmain"] * 3 and not runner.captures


def test_a_phase_that_cannot_be_captured_is_named_with_the_first_cause(loss, monkeypatch):
    runner = graphed(loss)
    call(runner, 1)

    @contextlib.contextmanager
    def broken(graph, pool, capture_error_mode):
        try:
            yield
        finally:
            raise RuntimeError("capture was invalidated")

    def wait(*args):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(torch.cuda, "graph", broken)
    monkeypatch.setattr(loss, "accumulate_gradients", wait)
    grad = loss.weight.grad
    with pytest.raises(ValueError, match="^phase Gmain cannot be a CUDA graph: operation not permitted .* capturing$"):
        call(runner, 1)
    assert loss.weight.grad is grad


def test_a_loss_that_knows_nothing_of_graphs_runs_every_time(loss):
    class Bare:
        accumulate_gradients = loss.accumulate_gradients

    runner = GraphedLoss(Bare(), [])
    for _ in range(3):
        call(runner, 1)
    assert loss.events == ["run Gmain"] * 3


@pytest.fixture
def make_state(tmp_path):
    """Makes the state of a tiny run, with graphs or not."""
    write_zip(tmp_path / "data.zip")
    kwargs = loop_kwargs(tmp_path, tmp_path / "data.zip")
    training_set = construction.load_training_set(kwargs["training_set_kwargs"], verbose=False)
    return lambda cuda_graphs: construction.make_state(
        RunOptions(**dict(kwargs, cuda_graphs=cuda_graphs)), training_set, torch.device("cpu"))


def test_only_a_run_with_graphs_draws_on_the_device_on_a_processor_as_well(make_state):
    assert not make_state(False).loss.draws_on_device
    state = make_state(True)
    assert state.loss.draws_on_device and state.graphs is None


def test_a_run_that_began_without_graphs_may_go_on_with_them(make_state):
    began, state = make_state(False), make_state(True)
    networks = network_snapshot(began.G, began.D, began.G_ema, None, {})
    run_state.restore(run_state.capture(began, networks), state)
    assert state.loss.draws_on_device
