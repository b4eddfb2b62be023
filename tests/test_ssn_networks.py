"""The SSN generator: reduction to StyleGAN2, spatial modulation, block independence, flat latents."""

import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import warm_python
from torch.autograd import gradcheck, gradgradcheck

from ssn_plugin import networks as ssn
from torch_utils.ops import upfirdn2d
from training import networks

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(channel_base=256, channel_max=16)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ssn_generator(resolution=16, grid=(4, 4), c_dim=0, channels=3, layers=2, grids=None, **synthesis):
    G = ssn.SSNGenerator(
        8, c_dim, 8, resolution, channels, block_grid=grids or [list(grid)], mapping_kwargs=dict(num_layers=layers),
        synthesis_kwargs=dict(SMALL, **synthesis),
    ).eval()
    for name, parameter in G.named_parameters():
        if name.endswith(("noise_strength", "bias")):
            parameter.data += 0.2
    return G


def matching_stylegan2(G, **synthesis):
    """StyleGAN2 with the weights of an SSN generator, which uses the same names."""
    plain = networks.Generator(
        8, G.c_dim, 8, G.img_resolution, G.img_channels, mapping_kwargs=dict(num_layers=G.mapping.num_layers),
        synthesis_kwargs=dict(SMALL, **synthesis),
    ).eval()
    state = {name: value for name, value in G.state_dict().items() if "encoder" not in name and name != "mapping.w_avg"}
    plain.load_state_dict(dict(state, **{"mapping.w_avg": torch.zeros(8)}))
    return plain


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("grid, gate", [((1, 1), 1.0), ((4, 4), 0.0), ((2, 4), 0.0)])
@pytest.mark.parametrize("style_resolution", [None, 0, 4])
def test_equal_blocks_give_the_image_of_stylegan2(architecture, grid, gate, style_resolution):
    """Borders and up-sampling layers included. Grid 1x1 needs no gate: it has no encoder."""
    G = ssn_generator(32, grid, architecture=architecture, encoder_gate=gate, style_resolution=style_resolution)
    z = normal(2, 8)
    expected = matching_stylegan2(G, architecture=architecture)(z, None, noise_mode="const")
    actual = G(z.repeat(1, G.mapping.num_blocks), None, noise_mode="const")
    torch.testing.assert_close(actual, expected, atol=2e-5 * float(expected.detach().abs().max()), rtol=0)


def test_equal_blocks_give_the_image_of_a_conditional_stylegan2():
    G = ssn_generator(16, (2, 2), c_dim=3, encoder="none")
    z, c = normal(2, 8), torch.eye(3)[:2]
    expected = matching_stylegan2(G)(z, c, noise_mode="const")
    torch.testing.assert_close(G(z.repeat(1, 4), c, noise_mode="const"), expected, atol=1e-4, rtol=0)


def definition(x, weight, styles):
    """Hong et al. 2020, Eqs. 1 and 12-14, with styles at image resolution."""
    pad = weight.shape[-1] // 2
    energy = F.pad(styles.square(), [pad] * 4, mode="replicate")
    return F.conv2d(x * styles, weight, padding=pad) / (F.conv2d(energy, weight.square()) + 1e-8).sqrt()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad", [False, True])
def test_spatial_modulation_equals_its_definition(layout, grad):
    x, weight, styles = normal(2, 4, 8, 8), normal(6, 4, 3, 3, seed=1), normal(2, 4, 8, 8, seed=2)
    expected = definition(x, weight, styles)
    with torch.set_grad_enabled(grad):
        actual = ssn.spatially_modulated_conv2d(x.to(memory_format=layout), weight, styles.clone())
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_inputs_of_the_spatial_modulation_are_left_alone():
    x, weight, styles = normal(1, 4, 8, 8), normal(4, 4, 3, 3, seed=1), normal(1, 4, 8, 8, seed=2)
    copies = [t.clone() for t in (x, weight, styles)]
    with torch.no_grad():
        ssn.spatially_modulated_conv2d(x, weight, styles, noise=normal(8, 8))
    assert all(torch.equal(a, b) for a, b in zip((x, weight, styles), copies))


@pytest.mark.parametrize("method", ["exact", "averaged", "constant"])
def test_every_demodulation_method_is_exact_for_a_constant_style(method):
    weight, style = normal(6, 4, 3, 3), normal(2, 4, 1, 1, seed=1)
    actual = ssn.style_gain(style.expand(-1, -1, 8, 8), weight, method)
    expected = (weight * style[:, None]).square().sum(dim=[2, 3, 4]).add(1e-8).rsqrt()
    torch.testing.assert_close(actual, expected[:, :, None, None].expand(-1, -1, 8, 8))


def test_averaged_demodulation_is_exact_for_a_kernel_of_equal_taps():
    weight = normal(6, 4, 1, 1).expand(6, 4, 3, 3)
    styles = normal(2, 4, 8, 8, seed=2)
    exact, averaged = (ssn.style_gain(styles, weight, method) for method in ("exact", "averaged"))
    torch.testing.assert_close(averaged, exact)


def test_spatially_styled_layer_has_unit_output_variance():
    x, weight = normal(16, 32, 16, 16), normal(32, 32, 3, 3, seed=1)
    styles = ssn.resize(normal(16, 32, 4, 4, seed=2).exp(), (16, 16))
    y = ssn.spatially_modulated_conv2d(x, weight, styles)[:, :, 1:-1, 1:-1]
    assert float(y.var()) == pytest.approx(1, abs=0.03)
    assert float(y.square().mean(dim=[0, 1]).std()) < 0.1, "the variance depends on the position"


def test_fast_demodulation_stays_close_to_the_exact_one():
    """A few per cent of the image: the deviation is factored beyond the resolution of the grid."""
    fast, exact = ssn_generator(64), ssn_generator(64, style_resolution=0)
    exact.load_state_dict(fast.state_dict())
    z = normal(2, fast.z_dim)
    pair = [G(z, None, noise_mode="const") for G in (fast, exact)]
    assert 0 < (pair[0] - pair[1]).norm() / pair[1].norm() < 0.05


def test_spatial_modulation_is_differentiable_twice(device):
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device)
    inputs = [normal(*shape, seed=i, dtype=torch.float64).to(device).requires_grad_()
              for i, shape in enumerate([(1, 2, 3, 3), (1, 2, 3, 3), (1, 2, 2, 2)])]
    for method in ("exact", "averaged"):
        def layer(x, weight, styles, method=method):
            return ssn.spatially_modulated_conv2d(x, weight, styles, up=2, resample_filter=f, demodulation=method)
        # On a GPU the derivative of replicated borders adds up in an order that changes.
        assert gradcheck(layer, inputs, nondet_tol=1e-12)
        assert gradgradcheck(layer, inputs, nondet_tol=1e-12)


@pytest.mark.usefixtures("half_on_cpu")
def test_half_precision_spatial_modulation_does_not_overflow():
    x, weight, styles = normal(2, 64, 8, 8), 1e3 * normal(4, 64, 3, 3, seed=1), 1e3 * normal(2, 64, 4, 4, seed=2)
    expected = ssn.spatially_modulated_conv2d(x, weight, styles, demodulation="averaged")
    actual = ssn.spatially_modulated_conv2d(x.half(), weight, styles, demodulation="averaged")
    assert actual.dtype == torch.float16
    torch.testing.assert_close(actual.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.usefixtures("half_on_cpu")
@pytest.mark.parametrize("method", ["exact", "averaged", "constant"])
def test_half_precision_blend_equals_single_precision_at_the_mask_border(method):
    """The two halves of a blend differ in scale; what prevents overflow must cancel all the same."""
    x, weight = normal(1, 16, 8, 8), normal(4, 16, 3, 3, seed=1)
    styles = torch.cat([normal(1, 16, 4, 4, seed=2), 8 * normal(1, 16, 4, 4, seed=3)])
    mask = torch.zeros([1, 1, 8, 8])
    mask[..., 4:] = 1
    single, half = (
        ssn.spatially_modulated_conv2d(x.to(dtype), weight, styles, demodulation=method, mask=mask).float()
        for dtype in (torch.float32, torch.float16)
    )
    torch.testing.assert_close(half, single, atol=2e-2, rtol=2e-2)


def test_flat_latents_are_blocks_in_row_major_order():
    G, z = ssn_generator(grid=(2, 4)), normal(1, 64)
    assert (G.z_dim, G.w_dim, G.num_ws) == (64, 64, 6)
    ws = G.mapping(z, None)
    for block in range(8):
        alone = G.mapping(z[:, block * 8 : block * 8 + 8].repeat(1, 8), None)
        torch.testing.assert_close(ws[..., block * 8 : block * 8 + 8], alone[..., :8])
    first = ssn_generator(grid=(2, 4), encoder="none").synthesis.encode(ws)[0]              # [1, bw, 4, 4]
    third_column = ws[0, 0].reshape(2, 4, 8)[:, 2].mean(dim=0)
    torch.testing.assert_close(F.adaptive_avg_pool2d(first, (1, 4))[0, :, 0, 2], third_column)


def test_each_block_moves_the_image_most_in_its_own_cell():
    """At initialisation with noise off: the style map is local, the rest is blurred by convolutions."""
    G, z = ssn_generator(32, (2, 2), encoder="none"), normal(8, 32)
    before = G(z, None, noise_mode="none")
    for block in range(4):
        other = z.clone()
        other[:, block * 8 : block * 8 + 8] = normal(8, 8, seed=9)
        change = (G(other, None, noise_mode="none") - before).square().mean(dim=[0, 1])
        cells = F.adaptive_avg_pool2d(change[None], (2, 2)).flatten()
        assert int(cells.argmax()) == block


def test_image_does_not_depend_on_its_batch():
    G = ssn_generator()
    z = normal(4, G.z_dim)
    together = G(z, None, noise_mode="const")
    torch.testing.assert_close(G(z.flip(0), None, noise_mode="const").flip(0), together, atol=1e-5, rtol=0)
    for i in range(4):
        torch.testing.assert_close(G(z[i : i + 1], None, noise_mode="const"), together[i : i + 1], atol=1e-5, rtol=0)


def test_image_without_gradients_equals_image_with_them():
    G = ssn_generator(32)
    z = normal(2, G.z_dim)
    with torch.no_grad():
        plain = G(z, None, noise_mode="const")
    torch.testing.assert_close(G(z, None, noise_mode="const"), plain, atol=1e-5, rtol=1e-5)


def test_style_map_of_several_grids_is_the_mean_of_theirs():
    G = ssn_generator(grids=[[1, 1], [2, 2]], encoder="none")
    ws = normal(2, G.num_ws, G.w_dim)
    for style, w, level in zip(G.synthesis.encode(ws), ws.unbind(1), G.synthesis.style_levels):
        whole, quarters = w[:, :8], w[:, 8:].reshape(2, 2, 2, 8).permute(0, 3, 1, 2)
        expected = (whole[:, :, None, None] + ssn.resize(quarters, (level, level))) / 2
        torch.testing.assert_close(style, expected)


def test_every_grid_has_its_own_mapping():
    G = ssn_generator(grids=[[1, 1], [2, 2]])
    names = set(G.state_dict())
    assert {name for name in ssn_generator().state_dict() if "mapping" in name} < names
    z = normal(3, G.z_dim)
    w = G.mapping(z, None)[:, 0].reshape(3, 5, 8)
    alike = G.mapping(z[:, :8].repeat(1, 5), None)[:, 0].reshape(3, 5, 8)  # the same latent in every block
    torch.testing.assert_close(alike[:, 0], w[:, 0])
    for block in range(2, 5):
        torch.testing.assert_close(alike[:, block], alike[:, 1])
    assert not torch.allclose(alike[:, 0], alike[:, 1], atol=1e-3)


def test_block_of_a_global_grid_moves_the_whole_image():
    G = ssn_generator(32, grids=[[1, 1], [4, 4]], encoder="none")
    z, other = normal(8, G.z_dim).chunk(2)
    change = (G(torch.cat([other[:, :8], z[:, 8:]], dim=1), None) - G(z, None)).square().mean(dim=[0, 1])
    cells = change.reshape(4, 8, 4, 8).mean(dim=[1, 3])
    assert cells.min() > cells.max() / 10


def test_running_mean_of_several_grids_is_that_of_each():
    G = ssn_generator(grids=[[1, 1], [2, 2]]).train()
    w = G.mapping(normal(3, G.z_dim), None, skip_w_avg_update=True)[:, 0].reshape(3, 5, 8).mean(dim=0)
    G.mapping(normal(3, G.z_dim), None)
    expected = torch.cat([w[0], w[1:].mean(dim=0).repeat(4)]) * (1 - G.mapping.w_avg_beta)
    torch.testing.assert_close(G.mapping.w_avg, expected)


def test_running_mean_is_the_mean_over_blocks_tiled():
    G = ssn_generator().train()
    w = G.mapping(normal(3, G.z_dim), None, skip_w_avg_update=True)[:, 0].reshape(-1, 8).mean(dim=0)
    assert not G.mapping.w_avg.any()
    G.mapping(normal(3, G.z_dim), None)
    torch.testing.assert_close(G.mapping.w_avg, (w * (1 - G.mapping.w_avg_beta)).repeat(16))


def test_truncation_pulls_every_block_to_the_mean():
    G = ssn_generator()
    G.mapping.w_avg.copy_(normal(8, seed=3).repeat(16))
    ws = G.mapping(normal(2, G.z_dim), None, truncation_psi=0)
    torch.testing.assert_close(ws, G.mapping.w_avg.expand_as(ws))


def test_blend_with_a_full_or_an_empty_mask_gives_one_of_the_images():
    G = ssn_generator(32)
    ws, other = (G.mapping(normal(2, G.z_dim, seed=s), None) for s in (0, 1))
    images = [G.synthesis(w, noise_mode="const") for w in (ws, other)]
    for value, expected in enumerate(images):
        mask = torch.full([1, 1, 32, 32], float(value))
        blended = G.synthesis(ws, noise_mode="const", blend=(other, mask))
        torch.testing.assert_close(blended, expected, atol=1e-5, rtol=1e-5)


def test_blends_lie_over_one_another():
    G = ssn_generator(32)
    ws, second, third = (G.mapping(normal(2, G.z_dim, seed=s), None) for s in (0, 1, 2))
    both = torch.cat([second, third])
    half, full, empty = torch.zeros([1, 1, 32, 32]), torch.ones([1, 1, 32, 32]), torch.zeros([1, 1, 32, 32])
    half[..., 16:] = 1
    one = G.synthesis(ws, noise_mode="const", blend=(second, half))
    below = G.synthesis(ws, noise_mode="const", blend=(both, torch.cat([half, empty], dim=1)))
    assert torch.equal(below, one)
    above = G.synthesis(ws, noise_mode="const", blend=(both, torch.cat([half, full], dim=1)))
    torch.testing.assert_close(above, G.synthesis(third, noise_mode="const"), atol=1e-5, rtol=1e-5)


def test_blend_changes_the_masked_side_most():
    G = ssn_generator(32, encoder="none")
    ws, other = (G.mapping(normal(2, G.z_dim, seed=s), None) for s in (0, 1))
    mask = torch.zeros([1, 1, 32, 32])
    mask[..., 16:] = 1
    change = (G.synthesis(ws, noise_mode="none", blend=(other, mask)) - G.synthesis(ws, noise_mode="none")).square()
    assert change[..., 16:].mean() > 4 * change[..., :16].mean()


def test_given_noise_maps_replace_the_noise_mode():
    G = ssn_generator(32)
    ws = G.mapping(normal(1, G.z_dim), None)
    maps = [buffer[None, None] for name, buffer in G.synthesis.named_buffers() if name.endswith("noise_const")]
    assert [m.shape[-1] for m in maps] == G.synthesis.noise_resolutions
    torch.testing.assert_close(G.synthesis(ws, noise=maps), G.synthesis(ws, noise_mode="const"))
    with pytest.raises(ValueError, match="noise must hold 7 maps, got 6"):
        G.synthesis(ws, noise=maps[1:])


def test_resize_is_bilinear_up_and_area_average_down():
    x = torch.tensor([[0.0, 4.0], [8.0, 12.0]])[None, None]
    assert ssn.resize(x, (2, 4))[0, 0].tolist() == [[0, 1, 3, 4], [8, 9, 11, 12]]
    assert ssn.resize(x, (1, 1)).tolist() == [[[[6.0]]]]
    assert ssn.resize(ssn.resize(x, (1, 2)), (2, 2))[0, 0].tolist() == [[4, 8], [4, 8]]


def test_grids_finer_than_the_first_layer_and_oblong_grids_work():
    for grid in [(8, 8), (1, 4), (16, 2)]:
        G = ssn_generator(16, grid)
        assert G(normal(2, G.z_dim), None).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kwargs, text", [
    (dict(grid=(3, 3)), "grid 3x3 does not divide the 16x16 image"),
    (dict(grid=(0, 4)), "grid 0x4 does not divide"),
    (dict(resolution=12), "power of two"),
    (dict(encoder="deep"), "encoder must be gated or none"),
    (dict(style_resolution=12), "style resolution must be 0 or a power of two"),
])
def test_generator_refuses_what_it_cannot_do(kwargs, text):
    with pytest.raises(ValueError, match=text):
        ssn_generator(**kwargs)


def test_snapshot_opens_where_the_plugin_is_missing(tmp_path):
    """A fresh process that has the host on its path, but no ssn_plugin, runs the embedded source."""
    G = ssn_generator()
    z = normal(1, G.z_dim)
    torch.save(dict(z=z, img=G(z, None, noise_mode="const")), tmp_path / "expected.pt")
    (tmp_path / "snapshot.pkl").write_bytes(pickle.dumps(dict(G_ema=G)))
    for name in ("dnnlib", "torch_utils"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = """
import importlib.util, pickle, torch
assert importlib.util.find_spec("ssn_plugin") is None
with open("snapshot.pkl", "rb") as file:
    G = pickle.load(file)["G_ema"]
expected = torch.load("expected.pt", weights_only=True)
assert torch.equal(G(expected["z"], None, noise_mode="const"), expected["img"])
assert G.block_grid == [[4, 4]]
"""
    warm_python.run(["-c", script], cwd=tmp_path, env={"PYTHONPATH": "."}, check=True)


@pytest.mark.gpu
def test_half_precision_network_is_close_to_single_precision():
    G = ssn_generator(32, num_fp16_res=2, conv_clamp=256).cuda()
    ws, other = (G.mapping(normal(2, G.z_dim, seed=s).cuda(), None) for s in (0, 1))
    mask = torch.zeros([1, 1, 32, 32], device="cuda")
    mask[..., 16:] = 1
    for blend in (None, (other, mask)):
        half, single = (G.synthesis(ws, noise_mode="const", blend=blend, force_fp32=flag) for flag in (False, True))
        assert (half - single).norm() / single.norm() < 0.02
