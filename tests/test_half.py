"""bfloat16 on processors: where it is used, how exact it is, and that whole activations stay in it."""

import functools
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_ssn_networks import normal, ssn_generator
from tiny_run import loop_kwargs, write_zip
from torch.utils._python_dispatch import TorchDispatchMode

import generate
import train
from ssn_plugin import networks as ssn
from ssn_plugin.hosts import doctor
from torch_utils import half
from torch_utils.ops import bias_act, conv2d_gradfix, conv2d_resample, fma, modulation, spread, upfirdn2d
from training import networks, training_loop
from training.loss import path_lengths, r1_penalty
from training.network_files import save_networks
from training.run import run_state

CPU = torch.device("cpu")
EPS = 2.0**-8  # spacing of bfloat16 between 1 and 2: half of it is the error of rounding once
WIDE = dict(channel_base=32 * 32, channel_max=32, num_fp16_res=2, conv_clamp=256)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    monkeypatch.setattr(half, "on_processors", False)


@pytest.fixture
def bf16(monkeypatch):
    """Blocks that ask for half precision compute in bfloat16, whatever the processor."""
    monkeypatch.setattr(half, "on_processors", True)


@pytest.mark.parametrize(("flags", "forced", "allowed"), [
    ({"amx_bf16"}, None, True), ({"avx512_bf16"}, None, True), ({"avx512f", "amx_int8"}, None, False),
    (set(), "1", True),
])
def test_bfloat16_is_used_where_the_processor_multiplies_it_or_the_environment_says_so(
    monkeypatch, flags, forced, allowed
):
    monkeypatch.setattr(half, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.delenv(half.FORCE, raising=False)
    if forced is not None:
        monkeypatch.setenv(half.FORCE, forced)
    obstacle = half.use_bf16(True, CPU)
    assert half.on_processors is allowed and (obstacle is None) is allowed
    assert obstacle is None or obstacle.startswith("This processor has neither AMX nor AVX512-BF16")
    assert half.use_bf16(False, CPU) is None and not half.on_processors
    assert "float16" in half.use_bf16(True, torch.device("cuda")) and not half.on_processors


def test_blocks_compute_in_bfloat16_only_where_they_ask_for_half_precision_and_it_is_allowed(bf16, monkeypatch):
    assert modulation.compute_format(True, False, CPU)["dtype"] == torch.bfloat16
    assert modulation.compute_format(False, False, CPU)["dtype"] == torch.float32
    monkeypatch.setattr(half, "on_processors", False)
    assert modulation.compute_format(True, False, CPU)["dtype"] == torch.float32


@pytest.mark.parametrize("flags", [frozenset(), frozenset({"amx_bf16"})])
def test_doctor_says_whether_training_can_use_it(monkeypatch, flags):
    monkeypatch.delenv(half.FORCE, raising=False)
    monkeypatch.setattr(half, "cpu_flags", lambda: flags)
    (finding,) = doctor.check_precision("cpu")
    assert ("--bf16=1" in finding.text) is bool(flags)
    assert ("AMX" in doctor.cpu_features()) is bool(flags)


# Exactness

FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])
convolve = functools.partial(conv2d_resample.conv2d_resample, f=FILTER, padding=1)
X, WEIGHT, BIAS = (2, 8, 8, 8), (8, 8, 3, 3), (8,)
OPERATIONS = {
    "up-sampling": (lambda x: upfirdn2d.upsample2d(x, FILTER), [X]),
    "down-sampling": (lambda x: upfirdn2d.downsample2d(x, FILTER), [X]),
    "up-sampling of few channels": (lambda x: upfirdn2d.upsample2d(x, FILTER), [(2, 3, 8, 8)]),
    "filter of one axis": (lambda x: upfirdn2d.filter2d(x, FILTER[0] * 8), [X]),
    "bias and activation": (lambda x, b: bias_act.bias_act(x, b, act="lrelu", clamp=2), [X, BIAS]),
    "convolution": (convolve, [X, WEIGHT]),
    "enlarging convolution": (functools.partial(convolve, up=2), [X, WEIGHT]),
    "reducing convolution": (functools.partial(convolve, down=2), [X, WEIGHT]),
    "product and sum": (fma.fma, [X, X, X]),
    "resizing": (lambda x: modulation.resize(x, (16, 24)), [(2, 8, 4, 6)]),
    "product with a style map": (lambda x, s: spread.SpreadMap(s, x, x.shape[2:]).times(x), [X, (2, 8, 4, 4)]),
    "the same in strips": (spread.MultiplySpread.apply, [X, (2, 8, 4, 4), (2, 1, 8, 8)]),
    "mix of channels": (lambda x, w: modulation.map_channels(x, w), [X, (8, 8)]),
    "depthwise convolution": (modulation.depthwise_conv2d, [X, (8, 1, 3, 3)]),
    "modulated convolution": (lambda x, s, w: modulation.modulate_and_convolve(x, s, w), [X, (2, 8, 4, 4), WEIGHT]),
    "end of a layer": (
        lambda x, s, n, b: modulation.finish(x, s, n, ssn.Epilogue(b, "lrelu", 1.5, 4.0)),
        [X, (2, 8, 4, 4), (2, 1, 8, 8), BIAS]),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("own", [False, True], ids=["torch", "own"])
def test_results_and_first_derivatives_are_exact_to_the_format(monkeypatch, name, own):
    """Against float64, as norms: every element is the result of a few roundings, sums are of higher precision."""
    monkeypatch.setattr(conv2d_gradfix, "enabled", own)
    monkeypatch.setattr(spread, "STRIP", 256)
    operation, shapes = OPERATIONS[name]
    exact = [normal(*shape, seed=i, dtype=torch.bfloat16).double() for i, shape in enumerate(shapes)]
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        tensors = [
            x.to(dtype, memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format).requires_grad_()
            for x in exact
        ]
        y = operation(*tensors)
        assert y.dtype == dtype
        grads = torch.autograd.grad(y, tensors, normal(*y.shape, seed=9, dtype=torch.bfloat16).to(dtype))
        results.append([y.detach().double(), *[grad.double() for grad in grads]])
    # The derivative changes by jumps where an activation bends: there a rounded number may lie on the other side.
    tolerance = 8 * EPS if name in ("bias and activation", "end of a layer") else 1.5 * EPS
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).norm() < tolerance * expected.norm()


class Recorder(TorchDispatchMode):
    """Notes operations that read or write a float32 tensor [N, C, H, W] of at least `size` numbers."""

    def __init__(self, size):
        super().__init__()
        self.size, self.found, self.count = size, set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in [*args, *(result if isinstance(result, (tuple, list)) else [result])]
                   if isinstance(t, torch.Tensor) and t.ndim == 4 and t.numel() >= self.size]
        self.count += any(t.dtype == torch.bfloat16 for t in tensors)
        if any(t.dtype == torch.float32 for t in tensors):
            self.found.add(str(func))
        return result


def make_generator(kind, **synthesis):
    size = dict(WIDE, **synthesis)
    if kind == "ssn":
        return ssn.SSNGenerator(8, 0, 8, 32, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=size)
    return networks.Generator(8, 0, 8, 32, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=size)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("kind", ["ssn", "ssn in strips", "stylegan2"])
def test_no_operation_turns_whole_activations_into_float32(monkeypatch, kind):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    if "strips" in kind:
        monkeypatch.setattr(spread, "LARGE", 1)
    G, z = make_generator(kind[:3] if "ssn" in kind else kind), None
    z = normal(4, G.z_dim)
    with Recorder(4 * 32 * 16 * 16) as recorder:  # of the smaller of two levels in bfloat16; RGB images are smaller
        G(z, None).square().sum().backward()
        ws = G.mapping(z, None)
        path_lengths(G.synthesis(ws), ws).sum().backward()
        with torch.no_grad():
            G.eval()(z, None)
    assert recorder.count > 100 and not recorder.found


@pytest.mark.usefixtures("bf16")
def test_no_operation_of_the_discriminator_turns_whole_activations_into_float32(monkeypatch):
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    D, img = networks.Discriminator(0, 32, 3, **WIDE), normal(4, 3, 32, 32).requires_grad_()
    with Recorder(4 * 32 * 16 * 16) as recorder:
        logits = D(img, None)
        (r1_penalty(img, logits).sum() + logits.sum()).backward()
    assert recorder.count > 30 and not recorder.found


@pytest.mark.parametrize("kind", ["ssn", "stylegan2"])
def test_images_are_float32_and_close_to_those_in_single_precision(monkeypatch, kind):
    """A per cent: some twenty layers, each with a few roundings."""
    G = make_generator(kind, num_fp16_res=4)
    images = []
    for allowed in (False, True):
        monkeypatch.setattr(half, "on_processors", allowed)
        images.append(G(normal(4, G.z_dim), None, noise_mode="const").detach())
    assert images[1].dtype == torch.float32
    assert 0 < (images[1] - images[0]).norm() < 0.02 * images[0].norm()
    forced = G.synthesis(G.mapping(normal(4, G.z_dim), None), noise_mode="const", force_fp32=True)
    assert torch.equal(forced.detach(), images[0])


def test_gradients_of_penalties_point_where_those_in_single_precision_do(monkeypatch):
    """R1 and path lengths differentiate twice. They stay in bfloat16: the gradient is off by a few per cent."""
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    G, D = make_generator("ssn", num_fp16_res=4), networks.Discriminator(0, 32, 3, **dict(WIDE, num_fp16_res=4))

    def path_penalty():
        ws = G.mapping(normal(4, G.z_dim), None)
        return path_lengths(G.synthesis(ws, noise_mode="const"), ws).square()

    def image_penalty():
        img = normal(4, 3, 32, 32).requires_grad_()
        return r1_penalty(img, D(img, None))

    for penalty, net in [(path_penalty, G), (image_penalty, D)]:
        gradients = []
        for allowed in (False, True):
            monkeypatch.setattr(half, "on_processors", allowed)
            net.zero_grad(set_to_none=True)
            torch.manual_seed(1)
            penalty().sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
        assert torch.cosine_similarity(*gradients, dim=0) > 0.99


# Training and sampling


def bf16_kwargs(tmp_path, name):
    write_zip(tmp_path / "data.zip", size=16)
    kwargs = loop_kwargs(tmp_path / name, tmp_path / "data.zip")
    (tmp_path / name).mkdir()
    for size in (kwargs["G_kwargs"]["synthesis_kwargs"], kwargs["D_kwargs"]):
        size.update(num_fp16_res=2, conv_clamp=256)
    return dict(kwargs, bf16=True, total_kimg=0.016)


def test_training_keeps_float32_in_what_is_saved_and_carries_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(half.FORCE, "1")
    kwargs = bf16_kwargs(tmp_path, "whole")
    training_loop.training_loop(**kwargs)
    assert half.on_processors and "everything is computed in float32" not in capsys.readouterr().out
    saved = run_state.load(run_state.state_paths(kwargs["run_dir"])[0])
    tensors = [t for net in saved["networks"].values() for t in net.values()]
    tensors += [t for opt in saved["optimizers"] for state in opt.values() for t in state.values()]
    assert {t.dtype for t in tensors} == {torch.float32} and all(t.isfinite().all() for t in tensors)

    parts = dict(kwargs, run_dir=str(tmp_path / "parts"))
    (tmp_path / "parts").mkdir()
    training_loop.training_loop(**dict(parts, total_kimg=0.008))
    training_loop.training_loop(**parts, resume_run=True)
    again = run_state.load(run_state.state_paths(parts["run_dir"])[0])
    for name, net in saved["networks"].items():
        assert all(torch.equal(tensor, again["networks"][name][key]) for key, tensor in net.items()), name


def test_without_the_instructions_training_says_so_once_and_uses_float32(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(half.FORCE, raising=False)
    monkeypatch.setattr(half, "cpu_flags", frozenset)
    training_loop.training_loop(**dict(bf16_kwargs(tmp_path, "run"), total_kimg=0.004))
    assert capsys.readouterr().out.count("everything is computed in float32") == 1 and not half.on_processors


def test_the_option_asks_for_the_levels_and_the_clamp_of_a_gpu(tmp_path):
    write_zip(tmp_path / "data.zip", size=16)
    common = dict(data=str(tmp_path / "data.zip"), gpus=0, cfg="ssn")
    plain, in_bf16 = (train.setup_training_loop_kwargs(**common, bf16=flag)[1] for flag in (None, True))
    assert "bf16" not in plain and in_bf16.bf16 is True
    for args, expected in [(plain, (0, None)), (in_bf16, (4, 256))]:
        for size in (args.G_kwargs.synthesis_kwargs, args.D_kwargs):
            assert (size.num_fp16_res, size.conv_clamp) == expected
    with pytest.raises(train.UserError, match="--bf16 cannot be given with --fp32, got both"):
        train.setup_training_loop_kwargs(**common, bf16=True, fp32=True)
    json.dumps(in_bf16)


@pytest.mark.parametrize("has_instructions", [False, True])
def test_generate_computes_in_half_precision_on_request(tmp_path, monkeypatch, has_instructions):
    monkeypatch.setenv(half.FORCE, "1" if has_instructions else "0")
    monkeypatch.setattr(half, "cpu_flags", frozenset)
    G = ssn_generator(32)
    save_networks(dict(G=G, D=None, G_ema=G, augment_pipe=None, training_set_kwargs=None), str(tmp_path / "n.pkl"))
    pixels = []
    for options in ([], ["--half"]):
        command = [f"--network={tmp_path / 'n.pkl'}", "--seeds=1", f"--outdir={tmp_path}", "--device=cpu", *options]
        result = CliRunner().invoke(generate.main, command)
        assert result.exit_code == 0, result.output
        assert ("float32" in result.output) is (not has_instructions and bool(options))
        pixels.append(np.asarray(Image.open(tmp_path / "seed0001.png")).astype(int))
        assert half.on_processors is (has_instructions and bool(options))
    change = abs(pixels[1] - pixels[0])
    assert bool(change.any()) is has_instructions and change.mean() < 2


def test_a_recipe_is_not_replayed_in_half_precision(tmp_path):
    command = ["--network=n.pkl", "--seeds=1", f"--outdir={tmp_path}", "--half", "--resample-block=0,0"]
    result = CliRunner().invoke(generate.main, command)
    assert result.exit_code == 2 and "--half cannot be combined with --resample-block" in result.output
