"""Networks that a training calls through torch.compile: one graph each, the same numbers, ordinary files."""

from __future__ import annotations

import shutil

import pytest
import torch
from tiny_run import loop_kwargs, write_zip

from ssn_plugin.config import SSN_PLUS, SSNConfig
from ssn_plugin.networks import style_gain
from torch_utils.ops import bias_act, conv2d_gradfix, spread
from training import training_loop
from training.network_files import load_networks
from training.run import compiled, construction, run_state
from training.run.run_options import RunOptions
from training.run.step import seed_draws

CPU = torch.device("cpu")
INDUCTOR = compiled.SETTINGS
PHASES = ("Gmain", "Greg", "Dmain", "Dreg")
CLOSE = dict(rtol=1e-4, atol=1e-5)
CFGS = dict(stylegan2=None, ssn=dict(block_grids=((2, 2),)), plus=dict(SSN_PLUS, block_grids=((1, 1), (2, 2))))

pytestmark = [
    pytest.mark.skipif(not hasattr(torch.compiler, "is_dynamo_compiling"), reason="torch is too old for --compile"),
    pytest.mark.filterwarnings("ignore:.*Function'> should not be instantiated:DeprecationWarning"),  # torch's own
]


@pytest.fixture(autouse=True)
def new_graphs(monkeypatch):
    """No graph of another test, and none is left; a graph break is an error, and no compiler is needed."""
    monkeypatch.setattr(compiled, "SETTINGS", dict(dynamic=False, backend="aot_eager", fullgraph=True))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run_kwargs(folder, cfg="stylegan2", run_dir=".", **changes):
    """Arguments of the training loop for a tiny network of images of 8x8."""
    write_zip(folder / "data.zip")
    kwargs = loop_kwargs(folder / run_dir, folder / "data.zip")
    (folder / run_dir).mkdir(exist_ok=True)
    kwargs["G_kwargs"]["mapping_kwargs"] = dict(num_layers=1)
    if CFGS[cfg] is not None:
        config = SSNConfig(**CFGS[cfg])
        kwargs["G_kwargs"] = dict(
            class_name="ssn_plugin.networks.SSNGenerator", block_z_dim=4, block_w_dim=4, block_grid=config.block_grids,
            mapping_kwargs=dict(num_layers=1),
            synthesis_kwargs=dict(kwargs["G_kwargs"]["synthesis_kwargs"], **config.kwargs("synthesis")))
        kwargs["loss_kwargs"] = dict(class_name="ssn_plugin.loss.DistortionLoss", **config.kwargs("loss"))
    return dict(kwargs, **changes)


def make_state(kwargs):
    training_set = construction.load_training_set(kwargs["training_set_kwargs"], verbose=False)
    construction.configure_torch(random_seed=0, cudnn_benchmark=False, allow_tf32=False)
    return construction.make_state(RunOptions(**kwargs), training_set, CPU)


def gradients(state, phase):
    """Gradients of one phase, which is always given the same images and random numbers, and the mean style."""
    module = state.G if phase.startswith("G") else state.D
    module.zero_grad(set_to_none=True)
    module.requires_grad_(True)
    seed_draws(0, 0, 0, 0)
    state.loss.accumulate_gradients(
        phase=phase, real_img=torch.rand([4, 3, 8, 8]) * 2 - 1, real_c=torch.zeros([4, 0]),
        gen_z=torch.randn([4, state.G.z_dim]), gen_c=torch.zeros([4, 0]), sync=True, gain=1)
    module.requires_grad_(False)
    return {**{name: param.grad for name, param in module.named_parameters()}, "w_avg": state.G.mapping.w_avg.clone()}


def num_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("cfg", CFGS)
def test_every_network_is_one_graph_and_gradients_are_those_of_plain_calls(tmp_path, monkeypatch, cfg):
    monkeypatch.setattr(spread, "LARGE", 1)   # plain calls work strip by strip, as with large images
    monkeypatch.setattr(spread, "STRIP", 2**8)
    plain, through_compile = (make_state(run_kwargs(tmp_path, cfg, compile=flag)) for flag in (False, True))
    for phase in PHASES:
        torch._dynamo.utils.counters.clear()
        got, expected = gradients(through_compile, phase), gradients(plain, phase)
        assert got.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(got[name], grad, **CLOSE, msg=f"{phase}: {name} differs")
        assert (num_graphs() > 0) is phase.endswith("main")
        assert not torch._dynamo.utils.counters["graph_break"]
    for kind in ("G", "D"):
        modules, others = (getattr(state, kind).modules() for state in (through_compile, plain))
        assert [vars(module).keys() for module in modules] == [vars(module).keys() for module in others]


def test_a_network_is_compiled_only_for_first_derivatives(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: lambda x: calls.append("compiled"))
    net = compiled.CompiledNetwork(lambda x: calls.append("plain"))  # called by the one or by the other
    monkeypatch.setattr(conv2d_gradfix, "enabled", True)
    net(0)
    with conv2d_gradfix.first_derivatives_only():
        net(0)
    assert calls == ["plain", "compiled"]


def test_files_of_a_compiled_run_are_ordinary_and_the_run_carries_on_either_way(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "SETTINGS", dict(dynamic=False, backend="eager"))
    one, two = dict(total_kimg=0.004), dict(total_kimg=0.008)
    training_loop.training_loop(**run_kwargs(tmp_path, "ssn", "plain", **two))
    kwargs = run_kwargs(tmp_path, "ssn", "compiled", **two)
    training_loop.training_loop(**dict(kwargs, compile=True, **one))

    def refuse(*args, **kwargs):
        raise AssertionError("torch.compile was called")

    monkeypatch.setattr(torch, "compile", refuse)
    networks = load_networks(str(tmp_path / "compiled" / "network-snapshot-000000.pkl"))
    z = torch.zeros([1, networks["G_ema"].z_dim])
    assert networks["G_ema"](z, torch.zeros([1, 0])).isfinite().all()
    training_loop.training_loop(**kwargs, resume_run=True)
    plain, carried_on = (run_state.load(run_state.state_paths(str(tmp_path / name))[0])["networks"]
                         for name in ("plain", "compiled"))
    for net, tensors in plain.items():
        assert tensors.keys() == carried_on[net].keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(carried_on[net][name], tensor, rtol=1e-3, atol=1e-3)


def test_without_a_compiler_training_says_so_in_one_line_and_goes_on(tmp_path, monkeypatch, capsys):
    import torch._inductor.config as inductor

    monkeypatch.setattr(compiled, "SETTINGS", INDUCTOR)
    with inductor.patch({"cpp.cxx": (None, "missing-compiler")}):
        state = make_state(run_kwargs(tmp_path, compile=True))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("torch.compile cannot be used (") and line.endswith("): training goes on without.")
    assert state.loss.D is state.D and state.loss.G_synthesis is state.G.synthesis


def test_only_the_first_process_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "find_obstacle", lambda device: "no compiler")
    make_state(run_kwargs(tmp_path, compile=True, rank=1, num_gpus=2, batch_size=8))
    assert capsys.readouterr().out == ""


# What Inductor of torch 2.13 got wrong. Whole networks, which take minutes, are for benchmarks/compile.py.
PIECES = {
    "a bias and a gain behind a matrix product": lambda x, w: bias_act.bias_act(x @ w, w[0], act="lrelu"),
    "borders of a style map": lambda x, w: style_gain(
        x[:, :, None, None] * w[:5, :5], w[:, :, None, None].expand(-1, -1, 3, 3)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch's own modules
@pytest.mark.skipif(shutil.which("g++") is None, reason="a C++ compiler is needed to compile with Inductor")
@pytest.mark.parametrize("piece", PIECES)
def test_inductor_computes_what_plain_calls_do(piece):
    results = []
    for call in (PIECES[piece], torch.compile(PIECES[piece], **INDUCTOR)):
        x, w = (torch.linspace(-1, 1, 8 * n).reshape(n, 8).sin().requires_grad_(True) for n in (4, 8))
        y = call(x, w)
        results.append([y, *torch.autograd.grad(y.square().sum(), [x, w])])
    for expected, got in zip(*results):
        torch.testing.assert_close(got, expected)
