"""Promises of `python -m ssn_plugin doctor`: what it finds, what it advises, and how well it guesses memory."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import warm_python
from click.testing import CliRunner
from network_file_helpers import discriminator, generator
from packaging.requirements import Requirement

from ssn_plugin import cli
from ssn_plugin.hosts import doctor, memory
from ssn_plugin.hosts.doctor import Finding, Plan, check_memory, format_findings

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--cfg=ssn", "--resolution=16", "--gpus=0"]
MIB = 2**20
Usage = namedtuple("Usage", "free")


def run(*args):
    result = CliRunner().invoke(cli.main, ["doctor", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def topics(result):
    return {line[8:22].strip(): line[:8].strip() for line in result.stdout.splitlines() if line[:1] != " "}


@pytest.fixture
def plenty(monkeypatch):
    """A machine without a GPU and with as much of everything as the test says."""
    sizes = dict(memory=64 * 2**30, disk=2**40)
    monkeypatch.setattr(doctor, "free_memory", lambda device, gpus: sizes["memory"])
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(sizes["disk"]))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return sizes


def test_a_machine_that_will_do_gets_exit_code_0_and_a_line_on_everything(plenty):
    result = run(*SMALL)
    assert result.exit_code == 0, result.output
    marks = topics(result)
    for topic in ("Python", "libraries", "host", "CPU", "GPU", "precision", "networks", "memory", "disk", "cache"):
        assert marks[topic] in ("ok", "note"), topic
    assert torch.__version__ in result.stdout and "--cfg=ssn at 16x16" in result.stdout
    assert result.stdout.endswith("Nothing stands in the way of training.\n")


@pytest.mark.parametrize(("resource", "topic", "advice"), [
    ("memory", "memory", "use a smaller resolution"), ("disk", "disk", "free some space"),
])
def test_what_would_not_work_gets_exit_code_1_and_advice(plenty, resource, topic, advice):
    plenty[resource] = MIB
    result = run(*SMALL)
    assert result.exit_code == 1 and topics(result)[topic] == "PROBLEM" and advice in result.stdout


def test_a_batch_that_does_not_fit_is_a_problem_and_the_advised_one_is_none(plenty):
    plenty["memory"] = 1000 * MIB
    result = run(*SMALL, "--batch=65536")
    (largest,) = re.findall(r"-> use --batch=(\d+)", result.stdout)
    assert result.exit_code == 1
    assert run(*SMALL, f"--batch={largest}").exit_code == 0
    assert run(*SMALL, f"--batch={2 * int(largest)}").exit_code == 1


def test_outside_a_checkout_it_says_so(tmp_path):
    (tmp_path / "ssn_plugin").symlink_to(ROOT / "ssn_plugin")
    result = warm_python.run(["-m", "ssn_plugin", "doctor", "--resolution=16"], cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    assert re.search(r"PROBLEM host +\S+ lacks", result.stdout)
    assert "-> change to a StyleGAN2-ADA checkout" in result.stdout


def test_a_library_that_the_doctor_needs_itself_is_told(monkeypatch):
    monkeypatch.delitem(sys.modules, "ssn_plugin.hosts.doctor")
    monkeypatch.setitem(sys.modules, "psutil", None)  # cannot be imported
    result = run(*SMALL)
    assert result.exit_code == 2 and result.stderr.startswith("Error: the library psutil is missing: pip install")


def test_it_runs_on_the_contract_between_hosts_alone(plenty, other_host):
    result = run(*SMALL)
    assert result.exit_code == 0, result.output
    assert "another StyleGAN2-ADA host" in result.stdout and "DNNLIB_DETECTORS" not in result.stdout


@pytest.mark.parametrize(("args", "message"), [
    (["--cfg=huge"], "--cfg must be one of auto"), (["--resolution=0"], "--resolution must be a number of pixels"),
    (["--resolution=4x"], "--resolution must be"), (["--resolution=17"], "--resolution: the side of square images"),
    (["--gpus=-1"], "Invalid value"), (["--batch=0"], "Invalid value"),
    (["--cfg=ssn", "--gpus=3"], "--gpus must be a power of two"),
])  # fmt: skip
def test_a_plan_that_is_none_is_one_line(args, message):
    result = run(*args)
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {message}") and result.stderr.count("\n") == 1


def test_the_versions_it_asks_for_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML parser of Python 3.11")
    declared = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {req.name: str(req.specifier).removeprefix(">=") for req in declared} == doctor.REQUIRED


@pytest.mark.parametrize(("version", "wanted"), [("2.0.1", True), ("2.1.0+cu121", False), ("2.13.0a0", False)])
def test_old_and_missing_libraries_are_told(monkeypatch, version, wanted):
    versions = {**dict.fromkeys(doctor.REQUIRED, "99"), "torch": version}
    monkeypatch.setattr(doctor, "version_of", versions.get)
    found = doctor.check_libraries()
    assert found.is_problem is wanted and found.advice == ("pip install 'torch>=2.1'" if wanted else "")


def test_precision_is_tried_out_not_looked_up(monkeypatch):
    (finding,) = doctor.check_precision("cpu")
    assert "float32" in finding.text and not finding.is_problem

    def refuse(*args, **kwargs):
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    (finding,) = doctor.check_precision("cpu")
    assert finding.is_problem


@pytest.mark.parametrize(("driver", "cuda", "text", "is_problem"), [
    (None, None, "none: training and all tools run on the CPU", False),
    ("/usr/bin/nvidia-smi", None, "this torch is built for the CPU alone", False),
    ("/usr/bin/nvidia-smi", "12.1", "built for CUDA 12.1 and cannot use the GPU", True),
])
def test_why_there_is_no_gpu_is_told_apart(monkeypatch, driver, cuda, text, is_problem):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: driver)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = doctor.no_gpu()
    assert text in found.text and found.is_problem is is_problem


def test_detectors_on_the_machine_are_named(monkeypatch, tmp_path):
    for name in ("inception-2015-12-05.pt", "vgg16.pt"):
        (tmp_path / name).touch()
    monkeypatch.setenv("DNNLIB_DETECTORS", str(tmp_path))
    texts = [finding.text for finding in doctor.check_detectors()]
    assert texts == [f"{tmp_path}/inception-2015-12-05.pt (fid*, kid*, is*)", f"{tmp_path}/vgg16.pt (pr*, ppl*)"]


def test_little_shared_memory_is_a_problem_only_where_the_images_need_it(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(64 * MIB))
    assert list(doctor.check_shared_memory(Plan(width=32, height=32), batch_size=32)) == []
    (finding,) = doctor.check_shared_memory(Plan(width=1024, height=1024), batch_size=32)
    assert finding.is_problem and "64 MiB free in /dev/shm" in finding.text


def test_the_limit_of_a_container_counts_not_the_machine(monkeypatch, tmp_path):
    files = {"max": str(500 * MIB), "current": str(200 * MIB)}
    monkeypatch.setattr(doctor, "Path", lambda name: FakeFile(files[name.split(".")[-1]]))
    assert doctor.free_memory("cpu", 1) == 300 * MIB
    files["max"] = "max\n"
    assert doctor.free_memory("cpu", 1) > 300 * MIB


@dataclasses.dataclass
class FakeFile:
    text: str

    def read_text(self) -> str:
        return self.text


def test_the_report_wraps_below_its_topic():
    lines = format_findings([Finding("memory", "word " * 30, "do " * 30, is_problem=True)], width=60).splitlines()
    assert lines[0].startswith("PROBLEM memory        word") and lines[-1] == (
        "1 problem: what is asked for would not work.")
    assert all(len(line) <= 60 and line.startswith(" " * 22) for line in lines[1:-2])


# The estimate of memory.


def test_the_activations_are_those_that_a_forward_pass_computes():
    G, D = generator(resolution=16).eval(), discriminator(resolution=16).eval()
    counted = []
    for module in [*G.modules(), *D.modules()]:
        if memory.is_convolution(module):
            module.register_forward_hook(lambda module, args, out: counted.append(out[0].numel()))
    with torch.no_grad():
        D(G(torch.zeros([1, 8]), None), None)
    up = sum(memory.activation_bytes(net, 16 * 16, on_gpu=False) for net in (G.synthesis, D))
    # Convolutions of the discriminator that halve the image are counted at the size of their input.
    assert sum(counted) * 4 <= up < sum(counted) * 4 * 1.6


def test_half_precision_halves_the_activations_on_a_gpu_alone():
    D = discriminator(resolution=16, num_fp16_res=4)
    full = memory.activation_bytes(D, 256, on_gpu=False)
    assert full / 2 < memory.activation_bytes(D, 256, on_gpu=True) < full * 0.75


def test_a_rectangle_needs_memory_by_its_pixels():
    D = discriminator(resolution=16)
    assert memory.activation_bytes(D, 2 * 256, on_gpu=False) == 2 * memory.activation_bytes(D, 256, on_gpu=False)


@pytest.mark.parametrize(("available", "group", "largest"), [
    (99, 4, 0), (130, 4, 3), (150, 4, 4), (190, 4, 8), (10_000, 32, 960),
])
def test_the_largest_batch_fits_and_suits_the_minibatch_standard_deviation(available, group, largest):
    estimate = memory.MemoryEstimate(fixed=100, per_image=10, snapshot=0, state=0)
    assert estimate.largest_batch(available, group) == largest
    assert largest == 0 or estimate.of_batch(largest) <= available


def test_processes_on_one_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(doctor, "free_memory", lambda device, gpus: 1000)
    estimate = memory.MemoryEstimate(fixed=100, per_image=10, snapshot=0, state=0)
    args = dict(num_gpus=4, batch_gpu=8, batch_size=32, D_kwargs=dict(epilogue_kwargs=dict(mbstd_group_size=4)))
    finding = check_memory(Plan(gpus=4), args, estimate)
    assert not finding.is_problem and "the largest batch is about 48 " in finding.text  # 900 / 4 = 225, 12 each
