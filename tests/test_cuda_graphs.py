"""Which parts of a batch GraphedLoss records and replays, with a stand-in for graphs; test_gpu.py has real ones."""

from __future__ import annotations

import contextlib

import pytest
import torch
from tiny_run import loop_kwargs, write_zip

from training import construction
from training.cuda_graphs import GraphedLoss
from training.loss import Loss


class FakeGraph:
    """Replays by calling again what was called while it was recorded."""

    current: FakeGraph | None = None

    def __init__(self):
        self.calls = []

    def replay(self):
        for call in self.calls:
            call()


@contextlib.contextmanager
def record(graph, pool, capture_error_mode):
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
        self.events.append(f"{'record' if graph else 'run'} {phase}")
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
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return SumLoss()


def graphed(loss):
    module = torch.nn.Module()
    module.weight = loss.weight
    return GraphedLoss(loss, [module])


def take_part(runner, value, phase="Gmain", num=2, sync=True, gain=1.0):
    x = torch.full([num, 1], float(value))
    runner.accumulate_gradients(phase, x, x, x, x, sync=sync, gain=gain)


def test_the_first_part_runs_the_second_is_recorded_and_the_rest_are_replayed(loss):
    runner, grads = graphed(loss), []
    for value in (1, 2, 3, 4):
        loss.weight.grad = None
        take_part(runner, value)
        grads.append(float(loss.weight.grad))
    assert grads == [2, 4, 6, 8]
    assert loss.events == ["run Gmain", "record Gmain", "count Gmain 2 True", "count Gmain 2 True"]


@pytest.mark.parametrize("changes", [dict(phase="Dmain"), dict(num=3), dict(gain=2.0)])
def test_another_phase_size_or_gain_is_another_graph(loss, changes):
    runner = graphed(loss)
    for kwargs in ({}, changes, {}, changes):
        loss.weight.grad = None
        take_part(runner, 1, **kwargs)
        assert float(loss.weight.grad) == kwargs.get("num", 2) * kwargs.get("gain", 1)
    assert len(runner.recordings) == 2


def test_parts_add_up_whatever_they_came_from(loss):
    runner = graphed(loss)
    for _ in range(3):
        loss.weight.grad = None
        for value, sync in ((1, False), (10, False), (100, True)):
            take_part(runner, value, sync=sync)
        assert float(loss.weight.grad) == 222


def test_what_the_loss_gives_no_key_runs_every_time(loss):
    runner, loss.key = graphed(loss), None
    for _ in range(3):
        take_part(runner, 1)
    assert loss.events == ["run Gmain"] * 3 and not runner.recordings


def test_operations_that_cannot_be_recorded_are_named(loss, monkeypatch):
    runner = graphed(loss)
    take_part(runner, 1)

    @contextlib.contextmanager
    def refuse(graph, pool, capture_error_mode):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    with pytest.raises(ValueError, match="phase Gmain cannot be recorded as a CUDA graph: operation .* capturing$"):
        take_part(runner, 1)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_a_run_with_graphs_that_goes_on_without_a_gpu_draws_as_before(cuda_graphs, tmp_path):
    write_zip(tmp_path / "data.zip")
    kwargs = loop_kwargs(tmp_path, tmp_path / "data.zip")
    training_set = construction.load_training_set(kwargs["training_set_kwargs"], verbose=False)
    names = ("G_kwargs", "D_kwargs", "G_opt_kwargs", "D_opt_kwargs", "loss_kwargs", "batch_size")
    state = construction.make_state(
        training_set, torch.device("cpu"), **{name: kwargs[name] for name in names}, cuda_graphs=cuda_graphs)
    assert state.loss.draws_on_device is cuda_graphs and state.graphs is None
