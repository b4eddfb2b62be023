"""benchmarks/gpu.py: the whole of it with tiny networks on a processor, and what a second call does."""

from __future__ import annotations

import json

import torch
from click.testing import CliRunner

from benchmarks import gpu


def run(path, *options):
    return CliRunner().invoke(gpu.main, [f"--out={path}", "--device=cpu", *options])


def test_everything_is_measured_once_and_a_second_call_measures_the_rest(tmp_path):
    path = tmp_path / "gpu.json"
    result = run(path, "--tiny")
    assert result.exit_code == 0, result.output
    content = json.loads(path.read_text())
    names = [name for name, _ in gpu.measurements(gpu.TINY, torch.device("cpu"), 1)]
    assert len(names) >= 5 and list(content["results"]) == names
    for name, found in content["results"].items():
        assert found["status"] == "measured" and found["fastest_ms"] > 0, (name, found)
    assert {"Gmain", "Greg", "Dmain"} <= set(content["results"]["training StyleGAN2, 8 px, float32"]["phases_ms"])
    del content["results"][names[0]]
    path.write_text(json.dumps(content))
    printed = run(path, "--tiny").output
    assert f"{names[0]}:" in printed and f"{names[1]}:" not in printed


def test_without_a_gpu_only_the_tiny_plan_runs(tmp_path):
    result = run(tmp_path / "gpu.json")
    assert result.exit_code == 2 and "--tiny runs anywhere" in result.output and not list(tmp_path.iterdir())


def test_a_file_of_another_machine_is_kept(tmp_path):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(dict(machine=dict(device="another"), results={})))
    before = path.read_text()
    result = run(path, "--tiny")
    assert result.exit_code and path.read_text() == before


def test_what_fails_is_recorded_and_ends_nothing():
    def burst():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    assert gpu.attempt(burst) == dict(status="failed", why="OutOfMemoryError: CUDA out of memory. Tried to allocate")


def test_the_full_plan_covers_formats_and_graphs_on_a_gpu():
    names = [name for name, _ in gpu.measurements(gpu.Plan(), torch.device("cuda"), 1)]
    assert names[0] == "tests" and len(names) == len(set(names)) == 1 + 3 * 2 * 2 * 5
    assert "SSN, 1024 px, float16, graphs" in names
