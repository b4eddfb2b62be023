"""StyleGAN2 networks: the modulated convolution, each layer's promise, shapes and number formats."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from ssn_plugin import networks as ssn
from torch_utils.ops import bias_act, spread, upfirdn2d
from training import networks

SMALL = dict(channel_base=128, channel_max=8)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generator(resolution=16, c_dim=0, channels=3, **synthesis):
    return networks.Generator(
        8, c_dim, 8, resolution, channels, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(SMALL, **synthesis)
    ).eval()


def per_sample_convolution(x, weight, styles, noise):
    """Karras et al. 2020, Eqs. 1 and 3, one sample at a time."""
    images = []
    for n in range(len(x)):
        w = weight * styles[n, None, :, None, None]
        w = w / (w.square().sum(dim=[1, 2, 3], keepdim=True) + 1e-8).sqrt()
        images.append(F.conv2d(x[n : n + 1], w, padding=weight.shape[-1] // 2))
    return torch.cat(images) + noise


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_modulated_convolution_equals_one_convolution_per_sample(kernel, batch, fused, layout):
    x = normal(batch, 4, 6, 6, dtype=torch.float64).to(memory_format=layout)
    weight, styles = normal(5, 4, kernel, kernel, seed=1, dtype=torch.float64), normal(batch, 4, seed=2).double()
    noise = normal(6, 6, seed=3, dtype=torch.float64)
    expected = per_sample_convolution(x, weight, styles, noise)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            actual = networks.modulated_conv2d(x, weight, styles, noise, padding=kernel // 2, fused_modconv=fused)
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("activation", ["linear", "relu", "lrelu", "tanh", "swish"])
def test_gain_and_clamp_act_on_the_result_of_every_activation(activation):
    x, weight, styles = normal(2, 4, 6, 6), normal(5, 4, 3, 3, seed=1), normal(2, 4, seed=2)
    noise, bias = normal(2, 1, 6, 6, seed=3), normal(5, seed=4)
    epilogue = networks.Epilogue(bias, activation, gain=0.7, clamp=0.9)
    y = per_sample_convolution(x, weight, styles, noise)
    expected = bias_act.bias_act(y, bias, act=activation, gain=0.7, clamp=0.9)
    for fused in (True, False):
        actual = networks.modulated_conv2d(
            x, weight, styles, noise, padding=1, fused_modconv=fused, epilogue=epilogue)
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        ssn.spatially_modulated_conv2d(x, weight, styles[:, :, None, None], noise, epilogue=epilogue), expected)
    layer = networks.Conv2dLayer(4, 5, 3, activation=activation, conv_clamp=2)
    layer.bias.data += bias
    y = F.conv2d(x, layer.weight / 6, padding=1)  # 36 numbers of unit variance make one
    expected = bias_act.bias_act(y, layer.bias, act=activation).mul(0.7).clamp(-1.4, 1.4)
    torch.testing.assert_close(layer(x, gain=0.7), expected)


def test_modulated_convolution_is_differentiable_twice(device):
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    inputs = [normal(*shape, seed=i, dtype=torch.float64).to(device).requires_grad_()
              for i, shape in enumerate([(2, 2, 2, 2), (1, 2, 3, 3), (2, 2)])]

    def layer(x, weight, styles):
        return networks.modulated_conv2d(x, weight, styles, up=2, padding=1, resample_filter=f, flip_weight=False)
    assert gradcheck(layer, inputs)
    assert gradgradcheck(layer, inputs)


@pytest.mark.usefixtures("half_on_cpu")
def test_half_precision_modulation_does_not_overflow():
    x, weight, styles = normal(2, 64, 8, 8), 1e3 * normal(4, 64, 3, 3, seed=1), 1e3 * normal(2, 64, seed=2)
    y = networks.modulated_conv2d(x.half(), weight, styles, padding=1)
    expected = networks.modulated_conv2d(x, weight, styles, padding=1)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y.float(), expected, atol=1e-2, rtol=1e-2)


def test_styled_layer_has_unit_output_variance():
    """Independent unit-variance input gives unit variance whatever the styles (Karras et al. 2020, section 2.2)."""
    x, weight, styles = normal(4, 32, 32, 32), normal(32, 32, 3, 3, seed=1), normal(4, 32, seed=2).exp()
    y = networks.modulated_conv2d(x, weight, styles, padding=1)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(y.var(dim=[2, 3]).mean(dim=1), torch.ones(4), atol=0.05, rtol=0)


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_generator_and_discriminator_shapes(architecture, channels, c_dim):
    G = generator(16, c_dim, channels, architecture=architecture)
    D = networks.Discriminator(
        c_dim, 16, channels, architecture=architecture, mapping_kwargs=dict(num_layers=1), **SMALL
    )
    c = F.one_hot(torch.tensor([0, 2, 1, 0]), 3).float()[:, :c_dim]
    img = G(normal(4, 8), c)
    assert img.shape == (4, channels, 16, 16) and img.dtype == torch.float32
    assert D(img, c).shape == (4, 1)
    assert G.num_ws == 6


@pytest.mark.parametrize("resolution, num_ws", [(4, 2), (8, 4), (32, 8), (64, 10)])
def test_number_of_styles_follows_the_resolution(resolution, num_ws):
    G = networks.Generator(4, 0, 4, resolution, 3, dict(num_layers=1), dict(channel_base=64, channel_max=2))
    assert G.num_ws == num_ws and G(normal(1, 4), None).shape[2] == resolution


def test_image_does_not_depend_on_its_batch():
    G, z = generator(), normal(5, 8)
    together = G(z, None, noise_mode="const")
    reversed_ = G(z.flip(0), None, noise_mode="const").flip(0)
    torch.testing.assert_close(reversed_, together, atol=1e-5, rtol=0)
    for i in range(5):
        torch.testing.assert_close(G(z[i : i + 1], None, noise_mode="const"), together[i : i + 1], atol=1e-5, rtol=0)


def test_fused_and_separate_modulation_agree():
    G, ws = generator(), normal(1, 6, 8)
    pair = [G.synthesis(ws, noise_mode="const", fused_modconv=fused) for fused in (False, True)]
    torch.testing.assert_close(*pair, atol=1e-5, rtol=1e-5)


def test_image_without_gradients_equals_image_with_them():
    G, z = generator(), normal(2, 8)
    with torch.no_grad():
        plain = G(z, None, noise_mode="const")
    torch.testing.assert_close(G(z, None, noise_mode="const"), plain, atol=1e-5, rtol=1e-5)


def test_image_made_in_strips_is_the_image_made_at_once(monkeypatch):
    G = generator(32, conv_clamp=2)
    with torch.no_grad():
        ws = G.mapping(normal(2, G.z_dim), None)
        at_once = G.synthesis(ws, noise_mode="const")
        monkeypatch.setattr(spread, "STRIP", 2**9)  # some rows of a sample, less than one at 32 pixels
        torch.testing.assert_close(G.synthesis(ws, noise_mode="const"), at_once, atol=1e-5, rtol=1e-5)


def test_truncation_pulls_the_first_layers_to_the_mean():
    G, z = generator(), normal(3, 8)
    G.mapping.w_avg.copy_(normal(8, seed=1))
    full, cut = G.mapping(z, None), G.mapping(z, None, truncation_psi=0.25, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, :2], (0.75 * G.mapping.w_avg + 0.25 * full[:, :2]))
    assert torch.equal(cut[:, 2:], full[:, 2:])


def test_running_mean_of_styles_moves_in_training_only():
    mapping, z = generator().mapping, normal(6, 8)
    mapping(z, None)
    assert not mapping.w_avg.any()
    w = mapping.train()(z, None, skip_w_avg_update=True)[:, 0]
    assert not mapping.w_avg.any()
    mapping(z, None)
    torch.testing.assert_close(mapping.w_avg, w.mean(0) * (1 - mapping.w_avg_beta))


def test_mapping_ignores_the_scale_of_the_latent_and_accepts_float64():
    mapping, z = generator().mapping, normal(2, 8)
    torch.testing.assert_close(mapping(1000 * z.double(), None), mapping(z, None))


def test_frozen_discriminator_layers_are_buffers():
    D = networks.Discriminator(0, 16, 3, block_kwargs=dict(freeze_layers=3), **SMALL)
    frozen = {name for name, _ in D.named_buffers() if name.endswith(("weight", "bias"))}
    assert frozen == {f"b16.{layer}.{part}" for layer in ("fromrgb", "conv0", "conv1") for part in ("weight", "bias")}


def test_equal_seeds_give_equal_networks():
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(generator().state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))


def test_networks_survive_pickling_and_copying():
    G, z = generator(), normal(1, 8)
    for clone in (pickle.loads(pickle.dumps(G)), copy.deepcopy(G), type(G)(*G.init_args, **G.init_kwargs)):
        clone.load_state_dict(G.state_dict())
        assert torch.equal(clone.eval()(z, None, noise_mode="const"), G(z, None, noise_mode="const"))


def test_minibatch_deviation_is_zero_for_equal_images_and_exact_for_two():
    layer = networks.MinibatchStdLayer(group_size=2)
    same = layer(torch.ones([2, 3, 4, 4]))[:, 3]
    torch.testing.assert_close(same, torch.full_like(same, 1e-4))
    differing = layer(torch.stack([torch.zeros(3, 4, 4), torch.full([3, 4, 4], 2.0)]))[:, 3]
    torch.testing.assert_close(differing, torch.ones_like(differing))


@pytest.mark.parametrize("bad, text", [
    (lambda: generator(12), "power of two and at least 4, got 12"),
    (lambda: networks.Discriminator(0, 2, 3), "power of two and at least 4, got 2"),
    (lambda: networks.Discriminator(0, 4, 3), "at least 8x8 pixels, got 4"),
    (lambda: networks.MappingNetwork(4, 0, 4, 2, w_avg_beta=None)(normal(1, 4), None, 0.5), "truncation needs"),
    (lambda: generator(8, architecture="unet"), "architecture must be orig, skip or resnet"),
    (lambda: generator(8)(normal(1, 8), None, noise_mode="loud"), "noise_mode must be"),
    (lambda: networks.MinibatchStdLayer(4)(torch.ones([6, 1, 2, 2])), "does not split into groups of 4"),
])
def test_networks_refuse_what_they_cannot_do(bad, text):
    with pytest.raises(ValueError, match=text):
        bad()


def test_constructor_values_are_plain_python_numbers():
    """numpy scalars in a snapshot could not be read across numpy's major versions."""
    for module in [*generator().modules(), *networks.Discriminator(0, 8, 3, **SMALL).modules()]:
        assert not [key for key, value in vars(module).items() if isinstance(value, np.generic)]


@pytest.mark.gpu
def test_half_precision_network_is_close_to_single_precision():
    G = generator(32, num_fp16_res=2, conv_clamp=256).cuda()
    z = normal(4, 8).cuda()
    half, single = (G(z, None, noise_mode="const", force_fp32=flag) for flag in (False, True))
    assert (half - single).norm() / single.norm() < 0.02
