"""Promises of torch_utils.misc and torch_utils.custom_ops."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch

from torch_utils import custom_ops, misc


def take(count: int, sampler: misc.InfiniteSampler) -> list[int]:
    return list(itertools.islice(iter(sampler), count))


def test_constant_is_made_once_and_broadcast():
    made = misc.constant([1, 2], shape=[3, 2])
    assert made.dtype == torch.float32
    assert made.tolist() == [[1, 2]] * 3
    assert made.is_contiguous()
    assert misc.constant([1, 2], shape=[3, 2]) is made
    assert misc.constant([1, 3], shape=[3, 2]) is not made
    assert misc.constant([1, 2], shape=[3, 2], dtype=torch.float64) is not made


def test_constant_keeps_every_kind_of_value():
    assert misc.constant(0.1, dtype=torch.float64).item() == 0.1
    assert misc.constant(True, dtype=torch.bool).item() is True
    assert misc.constant(np.arange(4).reshape(2, 2), dtype=torch.int64).tolist() == [[0, 1], [2, 3]]
    assert misc.constant([], shape=[0]).shape == (0,)


def test_constant_first_asked_for_in_inference_mode_can_be_used_for_training():
    with torch.inference_mode():
        misc.constant([11.0, 12.0])
    x = torch.ones(2, requires_grad=True)
    (x * misc.constant([11.0, 12.0])).sum().backward()
    assert x.grad.tolist() == [11, 12]


def test_assert_shape_accepts_any_size_for_none():
    misc.assert_shape(torch.zeros(2, 3), [None, 3])


@pytest.mark.parametrize("shape", [[2], [2, 3, 1], [2, 4], [None, 2]])
def test_assert_shape_refuses_other_ranks_and_sizes(shape):
    with pytest.raises(AssertionError, match=r"got \[2, 3\]"):
        misc.assert_shape(torch.zeros(2, 3), shape)


def test_assert_shape_works_under_tracing_without_warnings():
    def double(x, y):
        misc.assert_shape(x, [y.shape[0], None])
        return x * 2

    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)  # tracing itself is on its way out of torch
        traced = torch.jit.trace(double, (torch.ones(2, 3), torch.ones(2)))
    assert torch.equal(traced(torch.ones(2, 3), torch.ones(2)), torch.full([2, 3], 2.0))


def test_tracer_warnings_are_suppressed_only_inside():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with misc.suppress_tracer_warnings():
            warnings.warn("inside", torch.jit.TracerWarning, stacklevel=1)
        warnings.warn("outside", torch.jit.TracerWarning, stacklevel=1)
    assert [str(w.message) for w in seen] == ["outside"]


def test_profiled_function_keeps_its_name_and_appears_in_the_profile():
    @misc.profiled_function
    def my_function(x):
        return x + 1

    assert my_function.__name__ == "my_function"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert my_function(torch.zeros(1)).item() == 1
    assert "my_function" in [event.key for event in profile.key_averages()]


def test_sampler_without_shuffling_counts():
    assert take(7, misc.InfiniteSampler(range(3), shuffle=False)) == [0, 1, 2, 0, 1, 2, 0]


def test_replicas_share_one_stream():
    whole = take(24, misc.InfiniteSampler(range(7), seed=3))
    for rank in range(3):
        assert take(8, misc.InfiniteSampler(range(7), rank=rank, num_replicas=3, seed=3)) == whole[rank::3]


def test_without_a_window_every_pass_is_the_same_permutation():
    stream = take(30, misc.InfiniteSampler(range(10), seed=1, window_size=0))
    assert sorted(stream[:10]) == list(range(10))
    assert stream[:10] == stream[10:20] == stream[20:] == np.random.RandomState(1).permutation(10).tolist()


def test_passes_differ_with_a_window_and_all_items_keep_coming():
    stream = take(400, misc.InfiniteSampler(range(10), seed=1))
    assert stream[:10] != stream[10:20]
    counts = np.bincount(stream, minlength=10)
    assert counts.min() >= 30 and counts.max() <= 50


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(dataset=[]), "must not be empty"),
        (dict(dataset=[0], rank=2, num_replicas=2), "rank 2 of 2"),
        (dict(dataset=[0], window_size=1.5), "got 1.5"),
    ],
)
def test_sampler_refuses_impossible_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        misc.InfiniteSampler(**kwargs)


def make_module() -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def test_parameters_come_before_buffers():
    names = [name for name, _ in misc.named_params_and_buffers(make_module())]
    assert names[:4] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert names[4:] == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert len(misc.params_and_buffers(make_module())) == 7


def test_copy_takes_over_values_by_name_and_keeps_requires_grad():
    src, dst = make_module(), make_module().requires_grad_(False)
    weight = dst[0].weight
    misc.copy_params_and_buffers(src, dst, require_all=True)
    assert torch.equal(weight, src[0].weight)
    assert not weight.requires_grad
    assert src[0].weight.requires_grad


def test_copy_ignores_missing_names_unless_all_are_required():
    src, dst = torch.nn.Sequential(torch.nn.Linear(3, 4)), make_module()
    before = dst[1].weight.clone()
    misc.copy_params_and_buffers(src, dst)
    assert torch.equal(dst[0].weight, src[0].weight)
    assert torch.equal(dst[1].weight, before)
    with pytest.raises(ValueError, match="1.weight is missing"):
        misc.copy_params_and_buffers(src, dst, require_all=True)


def test_copy_refuses_other_shapes_even_if_they_would_broadcast():
    with pytest.raises(ValueError, match=r"weight must have shape \[4, 3\], the source has \[1, 3\]"):
        misc.copy_params_and_buffers(torch.nn.Linear(3, 1), torch.nn.Linear(3, 4))


def test_ddp_sync_leaves_other_modules_alone():
    module = torch.nn.Linear(1, 1)
    with misc.ddp_sync(module, sync=False):
        module(torch.ones(1)).backward()
    assert module.weight.grad is not None


def test_module_summary_counts_every_tensor_once_and_returns_the_outputs(capsys):
    shared_layer = torch.nn.Linear(3, 3)
    module = torch.nn.Sequential(shared_layer, torch.nn.Identity(), shared_layer, torch.nn.BatchNorm1d(3))
    out = misc.print_module_summary(module, [torch.ones(2, 3)])
    assert out.shape == (2, 3)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert rows[0] == ["layer", "parameters", "buffers", "output", "dtype"]
    assert ["0", "12", "[2,", "3]", "float32"] in rows
    assert not any(row[0] == "1" for row in rows)  # hands its input through
    assert rows[-1] == ["total", "18", "7"]
    assert not any(sub._forward_hooks or sub._forward_pre_hooks for sub in module.modules())


def test_module_summary_shows_all_outputs_of_a_layer_and_removes_its_hooks_after_an_error(capsys):
    class Pair(torch.nn.Module):
        def forward(self, x):
            return x + 1, [x], x.sum().to(torch.float64)

    module = Pair()
    misc.print_module_summary(module, [torch.ones(2, 3)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["Pair", "[2,", "3],", "[]", "float32,", "float64"] in rows
    with pytest.raises(TypeError):
        misc.print_module_summary(module, [])
    assert not module._forward_hooks and not module._forward_pre_hooks


def test_module_summary_stops_at_the_asked_nesting(capsys):
    inner = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(1, 1)))
    misc.print_module_summary(inner, [torch.ones(1, 1)], max_nesting=1)
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line]
    assert "0" in names and "0.0" not in names


def test_no_extension_can_be_built():
    assert custom_ops.verbosity == "brief"
    with pytest.raises(NotImplementedError, match="upfirdn2d_plugin"):
        custom_ops.get_plugin("upfirdn2d_plugin", sources=["upfirdn2d.cu"])
