"""Image operations: definition against fast path, derivatives against finite differences, number formats."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import bias_act, conv2d_gradfix, conv2d_resample, fma, upfirdn2d

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check_both_orders(fn, device, *inputs):
    inputs = [x.to(device).requires_grad_() for x in inputs]
    # On a GPU the order in which a sum is taken may change from call to call.
    assert gradcheck(fn, inputs, nondet_tol=1e-10)
    assert gradgradcheck(fn, inputs, nondet_tol=1e-10)


@pytest.fixture(params=[False, True], ids=["torch", "own"])
def derivatives(request, monkeypatch):
    """Those of torch's operations, and ours, which are fast a second time."""
    monkeypatch.setattr(conv2d_gradfix, "enabled", request.param)


RESAMPLING = [
    dict(up=1, down=1, padding=0),
    dict(up=2, down=1, padding=[2, 1, 2, 1]),
    dict(up=2, down=1, padding=[1, 3, 0, 2]),
    dict(up=1, down=2, padding=[1, 1, 1, 1]),
    dict(up=3, down=2, padding=[4, 2, 3, 5]),
    dict(up=[2, 1], down=[1, 2], padding=[2, 3]),
    dict(up=[1, 4], down=1, padding=[3, 3, 4, 4]),
    dict(up=2, down=1, padding=[-2, 4, 5, -3]),
    dict(up=1, down=1, padding=[-1, 2, 0, 3]),
]


@pytest.mark.parametrize("kwargs", RESAMPLING, ids=str)
@pytest.mark.parametrize("taps", [[1], [1, 3, 3, 1], [1, 2, 5, 3, 1], list(range(1, 13))], ids=len)
@pytest.mark.parametrize("flip_filter", [False, True])
def test_polyphase_resampling_equals_its_definition(kwargs, taps, flip_filter):
    x, f = normal(2, 3, 12, 13), upfirdn2d.setup_filter(taps)
    expected = upfirdn2d.upfirdn2d(x, f, **kwargs, flip_filter=flip_filter, gain=1.5, impl="ref")
    actual = upfirdn2d.upfirdn2d(x, f, **kwargs, flip_filter=flip_filter, gain=1.5)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("size", [8, 9])
def test_taps_of_zero_change_nothing(size, stride):
    x, weight, pads = normal(1, 3, size, size), normal(3, 1, 4, 4, seed=1), (2, 1, 1, 2)
    expected = upfirdn2d._depthwise(x, weight, pads, stride)
    actual = upfirdn2d._depthwise(x, *upfirdn2d._extend_by_zeros(weight, pads), stride)
    torch.testing.assert_close(actual, expected)


def test_resampling_definition_equals_a_loop_over_pixels():
    x, f = normal(1, 1, 3, 4)[0, 0].numpy(), np.array([[1.0, 2, 3], [4, 5, 6]])
    inserted = np.zeros([6 + 1 + 2, 8 + 2 + 0])
    inserted[1:7:2, 2:10:2] = x
    rows, cols = inserted.shape[0] - 2 + 1, inserted.shape[1] - 3 + 1
    flipped = f[::-1, ::-1]
    expected = [[(inserted[r : r + 2, c : c + 3] * flipped).sum() for c in range(0, cols, 2)] for r in range(rows)]
    filter_ = torch.from_numpy(f).float()
    for impl in ("ref", "cuda"):
        actual = upfirdn2d.upfirdn2d(
            torch.from_numpy(x)[None, None], filter_, up=2, down=[2, 1], padding=[2, 0, 1, 2], impl=impl
        )
        torch.testing.assert_close(actual[0, 0], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kwargs", RESAMPLING[:6], ids=str)
def test_resampling_is_differentiable_twice(kwargs, device, derivatives):
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    check_both_orders(lambda x: upfirdn2d.upfirdn2d(x, f, **kwargs).square(), device, normal(1, 2, 5, 4))


@pytest.mark.parametrize("up", [1, 2, (2, 3), (1, 4), 3], ids=str)
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 1, 2, 1), (3, 3, 3, 3), (5, 6, -1, 4), (-1, 0, 7, 1)], ids=str)
@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (6, 3)], ids=str)
def test_ways_of_enlarging_equal_the_definition(up, pads, shape):
    """A processor and a GPU go different ways; here both are gone on the processor."""
    up = (up, up) if isinstance(up, int) else up
    x, f = normal(2, 3, 7, 6), normal(*shape, seed=1)
    expected = upfirdn2d._definition(x, f, up, (1, 1), pads)
    torch.testing.assert_close(upfirdn2d._spread(x, f, up, pads), expected)
    torch.testing.assert_close(upfirdn2d._polyphase(x, f, up, pads), expected)


def test_resampling_preserves_a_constant_image_away_from_the_border():
    f, x = upfirdn2d.setup_filter([1, 3, 3, 1]), torch.ones([1, 1, 8, 8])
    torch.testing.assert_close(upfirdn2d.upsample2d(x, f)[:, :, 2:-2, 2:-2], torch.ones([1, 1, 12, 12]))
    torch.testing.assert_close(upfirdn2d.downsample2d(x, f)[:, :, 1:-1, 1:-1], torch.ones([1, 1, 2, 2]))
    torch.testing.assert_close(upfirdn2d.filter2d(x, f)[:, :, 2:-2, 2:-2], torch.ones([1, 1, 4, 4]))


def test_resampling_without_a_filter_is_the_identity():
    x = normal(1, 2, 3, 3)
    assert torch.equal(upfirdn2d.upfirdn2d(x, None), x)


def test_long_filters_stay_separable():
    assert upfirdn2d.setup_filter([1.0] * 8).ndim == 1
    assert upfirdn2d.setup_filter([1.0] * 7).ndim == 2
    assert upfirdn2d.setup_filter(None).tolist() == [[1.0]]


@pytest.mark.parametrize("bad, text", [
    (lambda: upfirdn2d.setup_filter([[[1.0]]]), "filter must have 0 to 2 axes"),
    (lambda: upfirdn2d.setup_filter([]), "at least one tap"),
    (lambda: upfirdn2d.upfirdn2d(torch.ones([1, 1, 2, 2]), torch.ones([4, 4])), "smaller than the 4x4 filter"),
    (lambda: upfirdn2d.upfirdn2d(torch.ones([1, 1, 2, 2]), None, up=0), "scaling factor must be >= 1"),
])
def test_resampling_refuses_what_it_cannot_do(bad, text):
    with pytest.raises(ValueError, match=text):
        bad()


@pytest.mark.parametrize("act", list(bias_act.activation_funcs))
@pytest.mark.parametrize("clamp", [None, 0.4])
def test_fast_bias_and_activation_equal_the_definition(act, clamp):
    x, b = normal(2, 3, 4, 5), normal(3, seed=1)
    before = x.clone()
    for bias in (b, None):
        expected = bias_act.bias_act(x, bias, act=act, gain=0.7, clamp=clamp, impl="ref")
        torch.testing.assert_close(bias_act.bias_act(x, bias, act=act, gain=0.7, clamp=clamp), expected)
    assert torch.equal(x, before), "the input was overwritten"


@pytest.mark.parametrize("act", list(bias_act.activation_funcs))
def test_bias_and_activation_are_differentiable_twice(act, device):
    x, b = normal(2, 3, 2), normal(3, seed=1)
    check_both_orders(lambda x, b: bias_act.bias_act(x, b, act=act, clamp=2.5).square(), device, x, b)


def test_rectifiers_keep_the_second_moment():
    x = normal(1, 1, 400, 400)
    y = bias_act.bias_act(x, act="relu")
    assert float(y.square().mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("bad, text", [
    (dict(act="gelu"), "activation must be one of"),
    (dict(clamp=-1), "clamp must be >= 0, got -1"),
    (dict(b=torch.zeros(2)), r"bias must have shape \[3\]"),
])
def test_bias_and_activation_refuse_what_they_cannot_do(bad, text):
    with pytest.raises(ValueError, match=text):
        bias_act.bias_act(torch.zeros([1, 3, 2, 2]), **bad)


CONVOLUTIONS = [
    dict(kernel=3, padding=1),
    dict(kernel=3, padding=1, up=2),
    dict(kernel=3, padding=1, down=2),
    dict(kernel=3, padding=1, up=2, down=2),
    dict(kernel=3, padding=[0, 1, 2, 1], up=2),
    dict(kernel=1, padding=0, up=2),
    dict(kernel=1, padding=0, down=2),
    dict(kernel=1, padding=0),
    dict(kernel=3, padding=1, groups=2, up=2),
    dict(kernel=3, padding=1, groups=2),
    dict(kernel=3, padding=1, up=4),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("flip_weight", [False, True])
def test_resampling_convolution_equals_its_definition(case, flip_weight):
    kwargs = dict(case)
    kernel, groups = kwargs.pop("kernel"), kwargs.get("groups", 1)
    x, w, f = normal(2, 4, 6, 8), normal(6, 4 // groups, kernel, kernel, seed=1), upfirdn2d.setup_filter([1, 2, 3, 1])
    expected = conv2d_resample.definition(x, w, f, flip_weight=flip_weight, **kwargs)
    torch.testing.assert_close(conv2d_resample.conv2d_resample(x, w, f, flip_weight=flip_weight, **kwargs), expected)


def test_resampling_by_two_gives_exactly_twice_and_half_the_size():
    x, w, f = normal(1, 2, 6, 6), normal(2, 2, 3, 3), upfirdn2d.setup_filter([1, 3, 3, 1])
    assert conv2d_resample.conv2d_resample(x, w, f, up=2, padding=1).shape == (1, 2, 12, 12)
    assert conv2d_resample.conv2d_resample(x, w, f, down=2, padding=1).shape == (1, 2, 3, 3)


@pytest.mark.parametrize("case", CONVOLUTIONS[:7], ids=str)
def test_resampling_convolution_is_differentiable_twice(case, device, derivatives):
    kwargs = dict(case)
    kernel = kwargs.pop("kernel")
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    x, w = normal(1, 2, 4, 4), normal(2, 2, kernel, kernel, seed=1)
    check_both_orders(lambda x, w: conv2d_resample.conv2d_resample(x, w, f, **kwargs), device, x, w)


def test_multiply_add_broadcasts_and_is_differentiable_twice(device):
    a, b, c = normal(2, 3), normal(3, seed=1), normal(2, 1, seed=2)
    torch.testing.assert_close(fma.fma(a, b, c), a * b + c)
    check_both_orders(lambda a, b, c: fma.fma(a, b, c).square(), device, a, b, c)


GEOMETRIES = [
    dict(),
    dict(stride=2, padding=1),
    dict(stride=[1, 3], padding=[2, 0], groups=2),
    dict(stride=2, dilation=[2, 1], padding=1),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolutions_equal_those_of_torch(geometry, derivatives):
    x, b = normal(2, 4, 8, 7), normal(4, seed=2)
    w = normal(4, 4 // geometry.get("groups", 1), 3, 2, seed=1)
    torch.testing.assert_close(conv2d_gradfix.conv2d(x, w, b, **geometry), F.conv2d(x, w, b, **geometry))
    rest = dict(geometry, output_padding=[0, 1]) if "stride" in geometry else geometry
    b = b.repeat(geometry.get("groups", 1))[: w.shape[1] * geometry.get("groups", 1)]
    torch.testing.assert_close(conv2d_gradfix.conv_transpose2d(x, w, b, **rest), F.conv_transpose2d(x, w, b, **rest))


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_convolutions_are_differentiable_twice(name, geometry, device, monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    x, w, b = normal(2, 2, 6, 5), normal(2, 2 // geometry.get("groups", 1), 3, 2, seed=1), normal(2, seed=2)
    convolve = getattr(conv2d_gradfix, name)
    check_both_orders(lambda x, w, b: convolve(x, w, b, **geometry).square(), device, x, w, b)


@pytest.mark.parametrize("of_x, of_w", [(True, False), (False, True)])
def test_convolutions_need_no_gradient_of_one_factor(of_x, of_w, monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    x, w = normal(1, 2, 5, 5).requires_grad_(of_x), normal(2, 2, 3, 3, seed=1).requires_grad_(of_w)
    y = conv2d_gradfix.conv2d(x, w, stride=2)
    wanted = x if of_x else w
    (own,) = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
    (own_second,) = torch.autograd.grad(own.square().sum(), wanted)
    (expected,) = torch.autograd.grad(F.conv2d(x, w, stride=2).square().sum(), wanted, create_graph=True)
    (expected_second,) = torch.autograd.grad(expected.square().sum(), wanted)
    torch.testing.assert_close((own, own_second), (expected, expected_second))


def test_gradients_of_kernels_are_skipped_on_request_and_come_back_in_the_second_derivative(monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    x, w = normal(1, 2, 5, 5).requires_grad_(), normal(2, 2, 3, 3, seed=1).requires_grad_()
    with conv2d_gradfix.no_weight_gradients():
        y = conv2d_gradfix.conv2d(x, w).square().sum()
        dx, dw = torch.autograd.grad(y, [x, w], create_graph=True, allow_unused=True)
    assert not conv2d_gradfix.weight_gradients_disabled
    assert dw is None
    dx.square().sum().backward()
    assert float(w.grad.norm()) > 0


def test_first_derivatives_are_left_to_torch_on_request(monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    x, w = normal(1, 1, 4, 4).requires_grad_(), normal(1, 1, 3, 3)
    with conv2d_gradfix.first_derivatives_only():
        once = conv2d_gradfix.conv2d(x, w)
    twice = conv2d_gradfix.conv2d(x, w)
    assert type(once.grad_fn).__name__ == "ConvolutionBackward0"
    assert type(twice.grad_fn).__name__ == "_ConvolutionBackward"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_operation_keeps_the_number_format(dtype, request):
    """Loose tolerance: bfloat16 has eight bits of mantissa."""
    if dtype == torch.float16:
        request.getfixturevalue("half_on_cpu")
    x, w, b = normal(1, 4, 8, 8), normal(4, 4, 3, 3, seed=1) / 6, normal(4, seed=2)
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    operations = [
        lambda x, w, b: upfirdn2d.upsample2d(x, f),
        lambda x, w, b: upfirdn2d.downsample2d(x, f),
        lambda x, w, b: bias_act.bias_act(x, b, act="lrelu", clamp=3),
        lambda x, w, b: conv2d_resample.conv2d_resample(x, w, f, up=2, padding=1),
        lambda x, w, b: conv2d_resample.conv2d_resample(x, w, f, down=2, padding=1),
        lambda x, w, b: fma.fma(x, w[0, 0, 0, 0], x),
    ]
    for operation in operations:
        y = operation(x.to(dtype), w.to(dtype), b.to(dtype))
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), operation(x, w, b), atol=6e-2, rtol=6e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_operations_agree_between_processor_and_gpu(dtype):
    x, w = normal(2, 4, 8, 8), normal(4, 4, 3, 3, seed=1) / 6
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    for kwargs in (dict(up=2), dict(down=2), dict()):
        expected = conv2d_resample.conv2d_resample(x, w, f, padding=1, **kwargs)
        on_gpu = [t.to("cuda", dtype) for t in (x, w)]
        actual = conv2d_resample.conv2d_resample(*on_gpu, f.cuda(), padding=1, **kwargs)
        torch.testing.assert_close(actual.double().cpu(), expected, atol=6e-2, rtol=6e-2)
