"""What a GPU does: every command of the main job, and the gradients of every phase in both number formats."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from metrics import sampling
from ssn_plugin.config import SSNConfig
from ssn_plugin.loss import DistortionLoss
from ssn_plugin.networks import SSNGenerator
from torch_utils import graphed, training_stats
from training import networks
from training.loss import StyleGAN2Loss
from training.network_files import load_networks
from training.run.cuda_graphs import GraphedLoss

ROOT = Path(__file__).resolve().parent.parent
RESOLUTION, BATCH = 32, 4

pytestmark = pytest.mark.gpu


def run(script: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        capture_output=True, text=True, timeout=300, env=dict(os.environ, OMP_NUM_THREADS="1"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SSN trained for a thousand images with the defaults for a GPU: half precision, adaptive augmentation."""
    folder = tmp_path_factory.mktemp("gpu")
    size = f"--resolution={RESOLUTION}x{RESOLUTION}"
    run("dataset_tool.py", "--source=castles", f"--dest={folder}/castles.zip", size, "--max-images=64")
    printed = run(
        "train.py", f"--outdir={folder}/runs", f"--data={folder}/castles.zip", "--cfg=ssn-plus", "--kimg=1",
        "--tick=0.25", "--snap=2", "--batch=16", "--channels=8", "--metrics=none",
    )
    assert "on cuda:0" in printed
    (path,) = (folder / "runs").iterdir()
    return path


def newest_snapshot(run_dir: Path) -> Path:
    return max(run_dir.glob("network-snapshot-*.pkl"))


def test_training_with_half_precision_and_augmentation_stays_finite(run_dir):
    ticks = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/pl_penalty", "Loss/r1_penalty", "Loss/ssn/distortion"):
        assert all(np.isfinite(tick[name]["mean"]) for tick in ticks), name
    assert ticks[-1]["Resources/peak_gpu_mem_gb"]["mean"] > 0
    options = json.loads((run_dir / "training_options.json").read_text())
    assert options["G_kwargs"]["synthesis_kwargs"]["num_fp16_res"] > 0 and "ada_target" in options


def test_a_run_carries_on_from_its_state(run_dir):
    printed = run("train.py", f"--outdir={run_dir}", "--continue", "--kimg=2")
    assert "Carrying on from 1.0 kimg" in printed
    assert newest_snapshot(run_dir).name == "network-snapshot-000002.pkl"


def test_blocks_are_redrawn_as_on_the_processor(run_dir, tmp_path):
    """Same latents, same noise: the image differs by what half precision rounds."""
    for device in ("cuda", "cpu"):
        run("generate.py", f"--network={newest_snapshot(run_dir)}", "--seeds=1", f"--outdir={tmp_path / device}",
            "--resample-block=1,2", "--variants=2", f"--device={device}", "--noise-mode=const")
    for name in ("seed0001.png", "seed0001-v02.png"):
        gpu, cpu = (np.asarray(PIL.Image.open(tmp_path / device / name), dtype=float) for device in ("cuda", "cpu"))
        assert np.abs(gpu - cpu).mean() < 2, name


def test_metrics_are_computed(run_dir, tmp_path):
    printed = run(
        "calc_metrics.py", f"--network={newest_snapshot(run_dir)}", f"--outdir={tmp_path}", "--cache=false", "--json",
        "--metrics=ssn_distortion64,ssn_leak64,rfid64_full,swd64_full",
    )
    results = [json.loads(line)["results"] for line in printed.splitlines() if line.startswith("{")]
    assert len(results) == 4
    assert all(np.isfinite(value) for result in results for value in result.values())


def test_an_image_is_projected(run_dir, tmp_path):
    PIL.Image.new("RGB", (RESOLUTION, RESOLUTION), "orange").save(tmp_path / "target.png")
    run("projector.py", f"--network={newest_snapshot(run_dir)}", f"--target={tmp_path / 'target.png'}", "--loss=mse",
        "--num-steps=5", "--save-video=false", f"--outdir={tmp_path / 'out'}")
    assert (tmp_path / "out" / "proj.png").is_file()


def test_a_snapshot_of_the_gpu_opens_on_the_processor(run_dir):
    G = load_networks(str(newest_snapshot(run_dir)))["G_ema"]
    assert {tensor.device.type for tensor in G.state_dict().values()} == {"cpu"}


def make_loss(kind: str, num_fp16_res: int) -> Any:
    """The loss of a generator and a discriminator on the CPU that use no random numbers but those given."""
    torch.manual_seed(0)
    width: dict[str, Any] = dict(channel_base=16 * RESOLUTION, channel_max=32, num_fp16_res=num_fp16_res,
                                 conv_clamp=256)
    if kind == "ssn":
        G: Any = SSNGenerator(16, 0, 16, RESOLUTION, 3, synthesis_kwargs=width)
    else:
        G = networks.Generator(16, 0, 16, RESOLUTION, 3, synthesis_kwargs=width)
    D = networks.Discriminator(0, RESOLUTION, 3, **width)
    loss_class: Any = DistortionLoss if kind == "ssn" else StyleGAN2Loss
    options = SSNConfig(distortion_weight=0).kwargs("loss") if kind == "ssn" else {}
    loss = loss_class(torch.device("cpu"), G.mapping, G.synthesis, D, **options | dict(style_mixing_prob=0))
    loss.modules = torch.nn.ModuleDict(dict(G=G, D=D)).train()
    return loss


def gradients(loss: Any, phase: str, device: str) -> torch.Tensor:
    """Gradients of a phase as one vector on the CPU, but for those of the strength of the noise, which is random."""
    loss.modules.to(device)
    loss.pl_mean = loss.pl_mean.to(device)
    rnd = torch.Generator().manual_seed(1)
    z = torch.randn([BATCH, loss.modules["G"].z_dim], generator=rnd).to(device)
    real = torch.rand([BATCH, 3, RESOLUTION, RESOLUTION], generator=rnd).mul(2).sub(1).to(device)
    c = torch.zeros([BATCH, 0], device=device)
    loss.modules.zero_grad()
    loss.modules.requires_grad_(False)
    module = loss.modules[phase[0]].requires_grad_(True)
    loss.accumulate_gradients(phase, real, c, z, c, sync=True, gain=1)
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    return torch.cat([grad.flatten() for name, grad in named if "noise_strength" not in name]).cpu().double()


@pytest.mark.parametrize("kind", ["stylegan2", "ssn"])
@pytest.mark.parametrize("phase", ["Gmain", "Dmain", "Dreg", "Dboth"])
@pytest.mark.parametrize("num_fp16_res, tolerance", [(0, 1e-3), (4, 5e-2)])
def test_gradients_equal_those_of_the_processor(kind, phase, num_fp16_res, tolerance, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # torch's default is to round to ten bits
    loss = make_loss(kind, num_fp16_res)
    expected = gradients(copy.deepcopy(loss), phase, "cpu")
    actual = gradients(loss, phase, "cuda")
    assert (actual - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("kind", ["stylegan2", "ssn"])
@pytest.mark.parametrize("num_fp16_res", [0, 4])
def test_a_graph_repeats_a_phase(kind, num_fp16_res, monkeypatch):
    """Six steps of every phase, all but the first of each graph replayed: same draws, same gradients and means."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    loss = make_loss(kind, num_fp16_res)
    loss.draws_on_device, loss.style_mixing_prob = True, 0.9
    if kind == "ssn":
        loss.distortion_weight, loss.distortion_interval = 100, 2
    twin = copy.deepcopy(loss)
    graphs = GraphedLoss(twin, list(twin.modules.children()))
    for moved in (loss, twin):
        moved.modules.to("cuda")
        moved.pl_mean = moved.pl_mean.to("cuda")
    for step in range(6):
        for phase in ("Gmain", "Greg", "Dmain", "Dreg"):
            seen = []
            for owner, runner in ((loss, loss), (twin, graphs)):
                for module in owner.modules.values():
                    module.zero_grad()
                    module.requires_grad_(False)
                module = owner.modules[phase[0]].requires_grad_(True)
                torch.manual_seed(step)
                real = torch.rand([BATCH, 3, RESOLUTION, RESOLUTION], device="cuda") * 2 - 1
                z = torch.randn([BATCH, owner.modules["G"].z_dim], device="cuda")
                c = torch.zeros([BATCH, 0], device="cuda")
                runner.accumulate_gradients(phase, real, c, z, c, sync=True, gain=1)
                grads = [param.grad.flatten() for param in module.parameters() if param.grad is not None]
                means = owner.pl_mean, owner.modules["G"].mapping.w_avg
                seen.append([tensor.double().clone() for tensor in (torch.cat(grads), *means)])
            for name, expected, actual in zip(("gradients", "pl_mean", "w_avg"), *seen, strict=True):
                error = (actual - expected).norm() / expected.norm().clamp(min=1e-6)
                assert error < (5e-2 if num_fp16_res else 1e-3), (step, phase, name)
    assert len(graphs.captures) == (4 if kind == "stylegan2" else 5)  # with pairs and without


def test_a_graph_adds_to_gradients_and_statistics():
    """Two accumulation rounds, eager and captured, give what two replays give, and every round is counted once."""
    loss = make_loss("stylegan2", 0)
    loss.draws_on_device = True
    graphs = GraphedLoss(loss, list(loss.modules.children()))
    loss.modules.to("cuda").requires_grad_(False)
    loss.pl_mean = loss.pl_mean.to("cuda")
    D = loss.modules["D"].requires_grad_(True)
    sizes = [3, RESOLUTION, RESOLUTION], [loss.modules["G"].z_dim], [0]
    real, z, c = (torch.randn([BATCH, *size], device="cuda") for size in sizes)
    collector = training_stats.Collector(regex="Loss/scores/real")
    totals = []
    for _ in range(2):
        D.zero_grad()
        for sync in (False, True):
            torch.manual_seed(0)
            graphs.accumulate_gradients("Dmain", real, c, z, c, sync=sync, gain=1)
        totals.append([param.grad.clone() for param in D.parameters()])
        collector.update()
        assert collector.num("Loss/scores/real") == 2 * BATCH
    assert len(graphs.captures) == 1
    for first, second in zip(*totals):
        torch.testing.assert_close(first, second)


def test_training_with_graphs_and_augmentation_stays_finite(run_dir, tmp_path):
    data = run_dir.parent.parent / "castles.zip"
    run("train.py", f"--outdir={tmp_path}", f"--data={data}", "--cfg=ssn-plus", "--kimg=1", "--tick=0.25", "--snap=2",
        "--batch=16", "--batch-gpu=8", "--channels=8", "--metrics=none", "--cuda-graphs=1")
    (path,) = tmp_path.iterdir()
    ticks = [json.loads(line) for line in (path / "stats.jsonl").read_text().splitlines()]
    for name in ("Loss/G/loss", "Loss/D/loss", "Loss/pl_penalty", "Loss/r1_penalty", "Loss/ssn/distortion"):
        assert all(np.isfinite(tick[name]["mean"]) for tick in ticks), name
    for name in ("Loss/G/loss", "Loss/D/loss"):
        assert sum(tick[name]["num"] for tick in ticks) == 63 * 16, name


@pytest.mark.parametrize("kind", ["stylegan2", "ssn"])
def test_finished_networks_make_the_same_images_as_graphs(kind, monkeypatch):
    """Plain, captured and replayed; with fixed, given and no noise, truncated, after a change in place."""
    monkeypatch.setenv(graphed.SWITCH, "1")
    loss = make_loss(kind, 4)
    G = loss.modules["G"].eval().requires_grad_(False).to("cuda")
    cache = graphed.GraphCache(graphed.GpuCapture(), graphed.is_possible_on_gpu)
    torch.manual_seed(0)
    maps = {name: torch.randn([BATCH, 1, *old.shape], device="cuda") for name, old in sampling.noise_maps(G).items()}
    with torch.no_grad():
        for kwargs, tensors in [
            (dict(noise_mode="const"), {}), (dict(noise_mode="none", truncation_psi=0.5), {}),
            (dict(noise_mode="const"), maps),
        ]:
            for step in range(4):
                given = torch.randn([BATCH, G.z_dim], device="cuda"), torch.zeros([BATCH, 0], device="cuda")
                if step == 3:
                    next(G.synthesis.parameters()).mul_(1.5)
                expected = graphed.call_plainly(G, given, kwargs, tensors)
                torch.testing.assert_close(cache.call(G, given, kwargs, tensors), expected, rtol=1e-2, atol=2e-2)
    assert len(cache.graphs) == 3
