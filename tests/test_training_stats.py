"""Promises of torch_utils.training_stats, in one process and in two."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import warm_python

from torch_utils import misc, training_stats


@pytest.fixture(autouse=True)
def fresh_counters(monkeypatch):
    monkeypatch.setattr(training_stats, "_counters", {})
    monkeypatch.setattr(training_stats, "_has_synced", False)
    monkeypatch.setattr(training_stats, "_rank", 0)
    monkeypatch.setattr(training_stats, "_sync_device", None)


def test_moments_are_those_of_all_elements_reported():
    collector = training_stats.Collector()
    values = np.random.RandomState(0).randn(10)
    training_stats.report("a", values[:4].tolist())
    training_stats.report("a", torch.tensor(values[4:9]).reshape(5, 1))
    training_stats.report("a", float(values[9]))
    collector.update()
    assert collector.num("a") == 10
    assert isinstance(collector.num("a"), int)
    assert collector.mean("a") == pytest.approx(values.mean(), rel=1e-6)
    assert collector.std("a") == pytest.approx(values.std(), rel=1e-6)
    assert collector["a"] == collector.mean("a")
    assert collector.as_dict() == {"a": {"num": 10, "mean": collector.mean("a"), "std": collector.std("a")}}
    assert collector.as_dict().a.num == 10


@pytest.mark.parametrize("value", [2, 2.5, [1, 2], np.float32(3), torch.ones(2, requires_grad=True)])
def test_report_returns_what_it_was_given(value):
    assert training_stats.report("a", value) is value
    assert training_stats.report0("a", value) is value


def test_a_counter_keeps_its_memory_when_it_is_emptied():
    training_stats.report("a", torch.ones(3))
    (counter,) = training_stats._counters["a"].values()
    collector = training_stats.Collector()
    counter.add_(torch.tensor([2.0, 8.0, 32.0]))  # as a CUDA graph does that was captured earlier
    collector.update()
    assert (collector.num("a"), collector.mean("a")) == (2, 4)
    collector.update()
    assert collector.num("a") == 2 and not counter.any()


def test_nothing_reported_gives_nan_and_zero_count():
    collector = training_stats.Collector()
    training_stats.report("a", [])
    collector.update()
    assert collector.names() == ["a"]
    assert collector.num("a") == 0
    assert math.isnan(collector.mean("a")) and math.isnan(collector.std("a"))


def test_single_value_has_no_deviation():
    collector = training_stats.Collector()
    training_stats.report("a", 0.1)
    collector.update()
    assert collector.std("a") == 0


def test_a_value_that_is_not_finite_spoils_only_its_own_update():
    collector = training_stats.Collector()
    training_stats.report("a", [1.0, math.nan])
    collector.update()
    assert math.isnan(collector.mean("a")) and math.isnan(collector.std("a"))
    training_stats.report("a", 3.0)
    collector.update()
    assert collector.mean("a") == 3


def test_names_without_new_data_keep_their_values_only_if_asked():
    keeping, forgetting = training_stats.Collector(), training_stats.Collector(keep_previous=False)
    training_stats.report("a", 1.0)
    for collector in (keeping, forgetting):
        collector.update()
        assert collector.mean("a") == 1
    training_stats.report("b", 2.0)
    for collector in (keeping, forgetting):
        collector.update()
    assert keeping.mean("a") == 1
    assert math.isnan(forgetting.mean("a"))


def test_collectors_are_independent():
    often, seldom = training_stats.Collector(), training_stats.Collector(keep_previous=False)
    for value in (1.0, 2.0, 3.0):
        training_stats.report("a", value)
        often.update()
        assert often.mean("a") == value
    seldom.update()
    assert (seldom.num("a"), seldom.mean("a")) == (3, 2)


def test_collector_ignores_what_was_reported_before_it_was_made():
    training_stats.report("a", 100.0)
    collector = training_stats.Collector()
    training_stats.report("a", 1.0)
    collector.update()
    assert (collector.num("a"), collector.mean("a")) == (1, 1)


def test_regex_must_match_the_whole_name():
    collector = training_stats.Collector(regex="Loss/.*")
    for name in ("Loss/a", "My/Loss/a", "Loss"):
        training_stats.report(name, 1.0)
    collector.update()
    assert collector.names() == ["Loss/a"]


def test_only_rank_zero_counts_in_report0():
    training_stats.init_multiprocessing(rank=1, sync_device=None)
    collector = training_stats.Collector()
    training_stats.report0("a", 1.0)
    collector.update()
    assert collector.names() == ["a"]
    assert collector.num("a") == 0


def test_changing_the_processes_after_the_first_collector_is_refused():
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    training_stats.Collector()
    training_stats.init_multiprocessing(rank=0, sync_device=None)  # says nothing new
    with pytest.raises(RuntimeError, match="before the first collector"):
        training_stats.init_multiprocessing(rank=1, sync_device="cpu")


def run_two_ranks(folder: str) -> None:
    torch.multiprocessing.spawn(run_rank, args=(folder,), nprocs=2)


def run_rank(rank: int, folder: str) -> None:
    """One of two processes; raises if anything differs from what both together should see."""
    init_method = (Path(folder) / "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", init_method=init_method, rank=rank, world_size=2)
    torch.set_num_threads(1)
    training_stats.init_multiprocessing(rank=rank, sync_device="cpu")
    collector = training_stats.Collector()
    training_stats.report("sum", [1.0, 2.0] if rank == 0 else 6.0)
    training_stats.report0("first", 10.0 + rank)
    training_stats.report("one", [] if rank == 0 else 4.0)
    collector.update()
    assert collector.as_dict() == {
        "sum": dict(num=3, mean=3.0, std=pytest.approx(math.sqrt(14 / 3))),
        "first": dict(num=1, mean=10.0, std=0.0),
        "one": dict(num=1, mean=4.0, std=0.0),
    }

    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(math.nan)
        module.bias.fill_(rank)
    misc.check_ddp_consistency(module, ignore_regex=r"Linear\.bias")
    if rank == 0:
        misc.check_ddp_consistency(module)
    else:
        with pytest.raises(AssertionError, match=r"differ: Linear\.bias"):
            misc.check_ddp_consistency(module)

    with torch.no_grad():
        module.weight.fill_(1)
    ddp = torch.nn.parallel.DistributedDataParallel(module)
    with misc.ddp_sync(ddp, sync=False):
        ddp(torch.full([1, 2], float(rank))).sum().backward()
    assert module.weight.grad is not None and torch.all(module.weight.grad == rank)
    with misc.ddp_sync(ddp, sync=True):
        ddp(torch.zeros([1, 2])).sum().backward()
    assert module.weight.grad is not None and torch.all(module.weight.grad == 0.5)
    torch.distributed.barrier()  # gloo may abort a process whose peer is still at work
    torch.distributed.destroy_process_group()


def test_two_processes_see_the_statistics_of_both(tmp_path):
    warm_python.call(run_two_ranks, str(tmp_path))
