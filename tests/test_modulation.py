"""Element-wise work around a modulated convolution: the fast forms against the plain ones of the networks."""

import inspect
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from test_ssn_networks import normal, ssn_generator
from torch.autograd import gradcheck, gradgradcheck

from ssn_plugin import networks as ssn
from torch_utils import ops, persistence
from torch_utils.ops import modulation, spread, upfirdn2d
from training import networks

LAYOUTS = [torch.contiguous_format, torch.channels_last]
EPILOGUES = [
    ssn.IDENTITY,
    ssn.Epilogue(normal(5, seed=4).double(), "lrelu", 1.3, 0.9),
    ssn.Epilogue(normal(5, seed=4).double(), "tanh", 0.7),
    ssn.Epilogue(None, "lrelu", 0.7, 0.9),
]


def inputs(*shapes, layout=torch.contiguous_format, device="cpu"):
    """Tensors of these shapes that ask for gradients."""
    return [
        normal(*shape, seed=i, dtype=torch.float64).to(device, memory_format=layout).requires_grad_()
        for i, shape in enumerate(shapes)
    ]


def assert_equal_with_derivatives(fast, plain, tensors):
    """Values, and first and second derivatives along random directions."""
    results = []
    for function in (fast, plain):
        y = function(*tensors)
        first = torch.autograd.grad((y * normal(*y.shape, seed=8).to(y)).sum(), tensors, create_graph=True)
        directions = sum((g * normal(*g.shape, seed=9).to(g)).sum() for g in first)
        second = torch.autograd.grad(directions, tensors, allow_unused=True) if directions.requires_grad else []
        results.append([y, *first, *[torch.zeros(()) if g is None else g for g in second]])
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected.expand_as(actual))
    with torch.no_grad():
        torch.testing.assert_close(fast(*(t.clone() for t in tensors)), results[1][0])


@pytest.fixture(params=[1, 40, 10**6], ids=["rows", "samples", "whole"])
def strip(request, monkeypatch):
    """Work in strips of a row, of a sample, and without."""
    monkeypatch.setattr(spread, "STRIP", request.param)
    monkeypatch.setattr(spread, "LARGE", request.param)


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("r", [1, 2, 6, 9], ids="styles of {}".format)
@pytest.mark.parametrize("masks", [0, 1, 2])
@pytest.mark.parametrize("kernel, up", [(1, 1), (3, 1), (3, 2)])
def test_fast_modulation_equals_the_plain_one(layout, r, masks, kernel, up, device):
    x, styles, weight, mask = inputs(
        (2, 4, 6, 6), (2 + 2 * masks, 4, r, r), (5, 4, kernel, kernel), (1, max(masks, 1), 7, 7), layout=layout,
        device=device)
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)

    def call(form):
        return lambda x, styles, weight: form.modulate_and_convolve(
            x, styles, weight, mask.detach().sigmoid() if masks else None, up, f)

    assert_equal_with_derivatives(call(modulation), call(ssn), [x, styles, weight])


@pytest.mark.usefixtures("strip")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("r", [None, 1, 2], ids="scale of {}".format)
@pytest.mark.parametrize("with_noise", [False, True])
@pytest.mark.parametrize("epilogue", EPILOGUES, ids=["identity", "lrelu", "tanh", "no bias"])
def test_fast_ending_of_a_layer_equals_the_plain_one(layout, r, with_noise, epilogue, device):
    y, scale, noise = inputs((2, 5, 6, 6), (2, 5, r or 1, r or 1), (2, 1, 6, 6), layout=layout, device=device)
    bias = None if epilogue.bias is None else epilogue.bias.to(device)

    def call(form):
        def finish(y, scale, noise):
            used = [scale if r else None, noise if with_noise else None, epilogue._replace(bias=bias)]
            return form.finish(y.clone(), *used) + 0 * (scale.sum() + noise.sum())
        return finish

    assert_equal_with_derivatives(call(modulation), call(ssn), [y, scale, noise])
    if r in (None, 1):
        assert_equal_with_derivatives(call(modulation), call(networks), [y, scale, noise])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 3), (7, 9), (1, 5), (5, 1), (3, 5)])
def test_fast_resizing_equals_the_plain_one(layout, size, device):
    (x,) = inputs((2, 3, 3, 5), layout=layout, device=device)
    assert_equal_with_derivatives(lambda x: modulation.resize(x, size), lambda x: ssn.resize(x, size), [x])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fast_maps_of_channels_and_within_channels_equal_the_plain_ones(layout, device):
    x, matrix, kernels = inputs((2, 4, 5, 6), (3, 4), (4, 1, 3, 3), layout=torch.contiguous_format, device=device)
    x = x.detach().to(memory_format=layout).requires_grad_()
    assert_equal_with_derivatives(modulation.map_channels, ssn.map_channels, [x, matrix])
    assert_equal_with_derivatives(modulation.depthwise_conv2d, ssn.depthwise_conv2d, [x, kernels])


@pytest.mark.parametrize("kwargs", [{}, dict(architecture="resnet"), dict(style_resolution=0), dict(activation="tanh")])
def test_network_gives_the_same_image_and_gradients_with_fast_and_plain_operations(monkeypatch, kwargs):
    """The plain ones are what a host without the fast ones runs."""
    G = ssn_generator(32, conv_clamp=4, **kwargs).double()
    monkeypatch.setattr(torch, "float32", torch.float64)  # so that the tolerance is tight

    def run():
        ws = G.mapping(normal(2, G.z_dim).double(), None).detach().requires_grad_()
        img = G.synthesis(ws, noise_mode="const")
        (grad,) = torch.autograd.grad(img.square().sum(), ws, create_graph=True)
        G.zero_grad()
        grad.square().mean().backward()
        return [img, grad, *[p.grad for p in G.synthesis.parameters() if p.grad is not None]]

    fast = run()
    monkeypatch.setattr(ssn, "ops", ssn)
    for actual, expected in zip(fast, run(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6 * float(expected.detach().abs().max()))


def test_stylegan2_gives_the_same_image_and_gradients_with_fast_and_plain_operations(monkeypatch):
    G = networks.Generator(8, 0, 8, 32, 3, synthesis_kwargs=dict(channel_base=256, channel_max=16, conv_clamp=4))
    results = []
    for form in (modulation, networks):
        monkeypatch.setattr(networks, "ops", form)
        img = G(normal(2, 8), None, noise_mode="const")
        results.append([img, *torch.autograd.grad(img.square().mean(), list(G.synthesis.parameters()))])
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("form", [ssn, networks])
def test_text_of_a_snapshot_runs_in_a_host_without_the_fast_operations(monkeypatch, form):
    monkeypatch.delattr(ops, "modulation")
    monkeypatch.setitem(sys.modules, "torch_utils.ops.modulation", None)
    alone = persistence._get_module_from_src(inspect.getsource(form) + "# executed alone")
    assert alone.ops is alone and form.ops is modulation
    kwargs = dict(synthesis_kwargs=dict(channel_base=256, channel_max=16), img_resolution=16, img_channels=3, c_dim=0)
    if form is ssn:
        G, other = (m.SSNGenerator(block_z_dim=8, block_w_dim=8, **kwargs) for m in (form, alone))
    else:
        G, other = (m.Generator(z_dim=8, w_dim=8, **kwargs) for m in (form, alone))
    other.load_state_dict(G.state_dict())
    z = normal(2, G.z_dim)
    actual, expected = (net(z, None, noise_mode="const") for net in (other, G))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("name", [
    "Epilogue", "split_gain", "compute_format", "normalize_2nd_moment", "side_lengths", "block_sizes", "nominal_side",
    "block_channels", "uses_fp16",
])
def test_what_both_networks_need_stands_in_both_files_alike(name):
    """Each text must be complete by itself, since it is stored in snapshots."""
    assert inspect.getsource(getattr(ssn, name)) == inspect.getsource(getattr(networks, name))


@pytest.mark.parametrize("form", [ssn, networks])
def test_layers_and_networks_ask_for_no_device(form):
    """Operations do: those in torch_utils/ops, and the one plain form that must."""
    code = inspect.getsource(form).replace(inspect.getsource(form.compute_format), "")
    assert not re.search(r"device\.type|is_cuda|is_cpu", code)


@pytest.mark.parametrize("name", ["modulate_and_convolve", "finish", "resize", "map_channels", "depthwise_conv2d",
                                  "compute_format"])
def test_fast_and_plain_forms_have_one_signature(name):
    """Snapshots carry texts that call these: a name or an argument that changes here breaks them."""
    fast, plain = (inspect.signature(getattr(form, name)).parameters for form in (modulation, ssn))
    assert list(fast) == list(plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 8), (9, 20), (3, 50), (3, 5)])
def test_enlargement_by_matrices_equals_bilinear_interpolation(layout, size, device):
    x = normal(2, 4, 3, 5, dtype=torch.float64).to(device).to(memory_format=layout)
    y = spread.enlarge(x, size)
    torch.testing.assert_close(y, F.interpolate(x, size=size, mode="bilinear", align_corners=False))
    assert y.is_contiguous(memory_format=layout)


def test_enlargement_first_made_for_inference_serves_training():
    x = normal(1, 2, 3, 3).requires_grad_()
    with torch.inference_mode():
        spread.enlarge(x, (7, 11))
    spread.enlarge(x, (7, 11)).sum().backward()
    torch.testing.assert_close(x.grad.sum(), torch.tensor(2 * 77.0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("strip", [8, 40, 10**6])
def test_multiplying_by_an_enlarged_map_is_differentiable_twice(layout, strip, device, monkeypatch):
    """In strips of a row, of a sample, and without."""
    monkeypatch.setattr(spread, "STRIP", strip)
    x, values, noise = (normal(*shape, seed=i, dtype=torch.float64).to(device, memory_format=layout).requires_grad_()
                        for i, shape in enumerate([(2, 2, 4, 5), (2, 2, 2, 3), (2, 1, 4, 5)]))
    expected = x * F.interpolate(values, size=(4, 5), mode="bilinear") + noise
    torch.testing.assert_close(spread.MultiplySpread.apply(x, values, noise), expected)
    assert gradcheck(spread.MultiplySpread.apply, [x, values, noise])
    assert gradgradcheck(spread.MultiplySpread.apply, [x, values, noise])


def test_depthwise_convolution_is_one_in_groups_and_differentiable_twice(device):
    x, weight = (normal(*shape, seed=i, dtype=torch.float64).to(device).requires_grad_()
                 for i, shape in enumerate([(2, 3, 4, 5), (3, 1, 3, 3)]))

    torch.testing.assert_close(modulation.depthwise_conv2d(x, weight), F.conv2d(x, weight, padding=1, groups=3))
    assert gradcheck(modulation.depthwise_conv2d, [x, weight])
    assert gradgradcheck(modulation.depthwise_conv2d, [x, weight])


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_gradients_computed_in_strips_are_those_computed_at_once(monkeypatch, architecture):
    G = ssn_generator(32, architecture=architecture).train()
    ws = G.mapping(normal(2, G.z_dim), None).detach()
    gradients = []
    for large in (spread.LARGE, 0):
        monkeypatch.setattr(spread, "LARGE", large)
        monkeypatch.setattr(spread, "STRIP", 2**9)
        G.zero_grad()
        G.synthesis(ws, noise_mode="const").square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in G.synthesis.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4)])
@pytest.mark.parametrize("blended", [False, True])
def test_image_made_in_strips_is_the_image_made_at_once(monkeypatch, architecture, grid, blended):
    G = ssn_generator(32, grid, architecture=architecture, conv_clamp=2)
    ws = G.mapping(normal(4, G.z_dim), None).detach()
    mask = (normal(1, 1, 32, 32, seed=1) > 0).float()
    kwargs = dict(noise_mode="const", blend=(ws[2:], mask) if blended else None)
    with torch.no_grad():
        at_once = G.synthesis(ws[:2], **kwargs)
        monkeypatch.setattr(spread, "STRIP", 2**9)  # some rows of a sample, less than one at 32 pixels
        torch.testing.assert_close(G.synthesis(ws[:2], **kwargs), at_once, atol=1e-5, rtol=1e-5)
