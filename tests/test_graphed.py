"""Which calls of a finished network are captured and replayed, with a stand-in; test_gpu.py has real graphs."""

from __future__ import annotations

import gc

import pytest
import torch

from torch_utils import graphed


class Scale(torch.nn.Module):
    """x * weight * factor + offset, with a count of the calls."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full([2], 3.0))
        self.register_buffer("offset", torch.ones([2]))
        self.calls = 0

    def forward(self, x, factor=1, extra=()):
        self.calls += 1
        return x * self.weight * factor + self.offset + sum(extra)


class FakeCapture:
    """Runs the function in the capture, and again into the same memory at every replay."""

    def __init__(self):
        self.captures = self.replays = 0

    def __call__(self, function):
        self.captures += 1
        result = function()

        def replay():
            self.replays += 1
            result.copy_(function())

        return replay, result


@pytest.fixture
def capture():
    return FakeCapture()


@pytest.fixture
def cache(capture):
    return graphed.GraphCache(capture, lambda net: True, max_graphs=2)


def call(cache, net, *args, tensors=None, **kwargs):
    with torch.no_grad():
        return cache.call(net, args, kwargs, tensors or {})


def test_the_first_call_is_plain_the_second_is_captured_and_the_rest_are_replayed(cache, capture):
    net, seen = Scale(), []
    for value in (1.0, 2.0, 3.0, 4.0):
        x = torch.full([1, 2], value)
        torch.testing.assert_close(call(cache, net, x), x * 3 + 1, rtol=0, atol=0)
        seen.append((capture.captures, capture.replays))
    assert seen == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_results_are_not_overwritten_by_later_calls_nor_inputs_by_any(cache):
    net, x, y = Scale(), torch.ones([1, 2]), torch.full([1, 2], 5.0)
    results = [call(cache, net, value) for value in (x, x, y)]
    assert [float(result[0, 0]) for result in results] == [4, 4, 16]
    assert float(x[0, 0]) == 1 and float(y[0, 0]) == 5


def test_a_network_that_changes_in_place_is_seen_by_replays(cache, capture):
    net, x = Scale(), torch.ones([1, 2])
    for _ in range(2):
        call(cache, net, x)
    with torch.no_grad():
        net.weight.mul_(2)
        net.offset.zero_()
    assert float(call(cache, net, x)[0, 0]) == 6
    assert capture.captures == 1


def test_a_network_whose_tensors_are_exchanged_is_captured_anew(cache, capture):
    net, x = Scale(), torch.ones([1, 2])
    for _ in range(2):
        call(cache, net, x)
    net.weight.data = torch.full([2], 7.0)
    assert [float(call(cache, net, x)[0, 0]) for _ in range(2)] == [8, 8]
    assert capture.captures == 2


@pytest.mark.parametrize("args, kwargs", [
    ((torch.ones([3, 2]),), {}),
    ((torch.ones([1, 2], dtype=torch.float64),), {}),
    ((torch.ones([1, 2]),), dict(factor=2)),
    ((torch.ones([1, 2]),), dict(extra=[torch.ones([2])])),
])
def test_another_shape_dtype_or_argument_is_another_graph(cache, capture, args, kwargs):
    net = Scale()
    for _ in range(2):
        call(cache, net, torch.ones([1, 2]))
        result = call(cache, net, *args, **kwargs)
        torch.testing.assert_close(result, net(*args, **kwargs).detach(), rtol=0, atol=0)
    assert capture.captures == 2


def test_tensors_in_lists_and_in_the_place_of_buffers_are_inputs_of_the_graph(cache, capture):
    net, x = Scale(), torch.zeros([1, 2])
    for value in (1.0, 2.0, 3.0):
        result = call(cache, net, x, extra=[torch.full([2], value)], tensors=dict(offset=torch.full([2], 10 * value)))
        assert float(result[0, 0]) == 11 * value
    assert capture.captures == 1 and float(net.offset[0]) == 1


def test_only_the_graphs_used_last_are_kept(cache, capture):
    net = Scale()
    for num in (1, 2, 1, 3):
        for _ in range(2):
            call(cache, net, torch.ones([num, 2]))
    assert len(cache.graphs) == 2 and capture.captures == 3
    call(cache, net, torch.ones([1, 2]))
    assert capture.captures == 3  # it was 2 that had to go


def test_calls_that_never_come_again_are_neither_captured_nor_remembered_for_ever(cache, capture):
    net = Scale()
    for i in range(graphed.MAX_SEEN + 9):
        call(cache, net, torch.ones([1, 2]), factor=i / 1000)
    assert capture.captures == 0 and len(cache.seen) == graphed.MAX_SEEN


def test_graphs_go_with_their_network():
    # Not the capture above: a stand-in that calls again holds the network, a real graph does not.
    cache = graphed.GraphCache(lambda function: (lambda: None, function()), lambda net: True)
    net = Scale()
    for _ in range(2):
        call(cache, net, torch.ones([1, 2]))
    assert cache.graphs and cache.seen
    del net
    gc.collect()
    assert not cache.graphs and not cache.seen


def test_what_cannot_be_captured_is_tried_once_and_then_called(capture):
    tries = []

    def refuse(function):
        tries.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    cache, net = graphed.GraphCache(refuse, lambda net: True), Scale()
    assert [float(call(cache, net, torch.ones([1, 2]))[0, 0]) for _ in range(4)] == [4] * 4
    assert len(tries) == 1


def test_gradients_pass_through_the_plain_call(cache, capture):
    net, x = Scale(), torch.ones([1, 2], requires_grad=True)
    for _ in range(3):
        cache.call(net, (x,), {}, {}).sum().backward()
    assert capture.captures == 0 and float(x.grad[0, 0]) == 9


def test_arguments_without_a_hash_are_called_plainly(cache, capture):
    net = Scale()
    for _ in range(3):
        assert float(call(cache, net, torch.ones([1, 2]), extra={1, 2})[0, 0]) == 7
    assert capture.captures == 0


def test_on_a_processor_a_call_is_the_plain_one(monkeypatch):
    monkeypatch.setenv(graphed.SWITCH, "1")
    net, x = Scale().eval(), torch.rand([4, 2])
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(graphed.call(net, x, factor=2), net(x, factor=2))
    assert net.calls == 6 and not graphed.CACHE.graphs and not graphed.CACHE.seen
