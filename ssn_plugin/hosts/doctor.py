"""What this machine offers for training and measuring, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from ssn_plugin.errors import UserError
from ssn_plugin.hosts import host, memory

try:
    from torch_utils import half
except ImportError:  # another host, which trains in float32 on a processor
    half = None  # type: ignore[assignment]

GIB = 2**30
RESERVE = 0.9  # share of the free memory that the largest batch may take
MIN_SNAPSHOTS = 3  # a run needs room for that many

# As in pyproject.toml, which is not at hand in another checkout.
REQUIRED = {"torch": "2.1", "numpy": "1.24", "scipy": "1.10", "pillow": "10.1", "click": "8.2", "psutil": "5.9.4"}
OPTIONAL = {
    "tensorboard": "event files for TensorBoard",
    "matplotlib": "training.png, the curves of a run",
    "wandb": "train.py --log=wandb",
    "imageio_ffmpeg": "MP4 films where no ffmpeg is installed",
    "safetensors": "network files in that format",
}
_DETECTORS = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
DETECTORS = {_DETECTORS + "inception-2015-12-05.pt": "fid*, kid*, is*", _DETECTORS + "vgg16.pt": "pr*, ppl*"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    text: str
    advice: str = ""         # what to do about it
    is_problem: bool = False  # something would not work; otherwise the advice is a hint


@dataclasses.dataclass(frozen=True)
class Plan:
    """The training that the report is about."""

    cfg: str = "auto"
    width: int = 256
    height: int = 256
    gpus: int | None = None   # None: one, or the CPU where there is none; 0: the CPU
    batch: int | None = None  # None: that of the cfg
    outdir: str = "."

    @property
    def device(self) -> str:
        """Where it runs: "cuda" or "cpu"."""
        return "cuda" if torch.cuda.is_available() and self.gpus != 0 else "cpu"

    @property
    def options(self) -> dict[str, Any]:
        """As options of train.py."""
        return dict(cfg=self.cfg, gpus=self.gpus, batch=self.batch, metrics=[])


def examine(plan: Plan) -> Iterator[Finding]:
    """Everything that is worth saying, from the machine to the plan. Raises ValueError for a plan that is none."""
    yield check_python()
    yield check_libraries()
    yield check_host()
    yield from check_devices(plan)
    yield from check_precision(plan.device)
    yield from check_training(plan)
    yield from check_cache()
    yield from check_detectors()
    yield from check_optional_libraries()


def format_findings(findings: Sequence[Finding], width: int = 100) -> str:
    """The report, a paragraph per finding, with what to do about it below."""
    lines = []
    for finding in findings:
        mark = "PROBLEM" if finding.is_problem else "note" if finding.advice else "ok"
        head = f"{mark:8}{finding.topic:14}"
        lines += textwrap.wrap(finding.text, width, initial_indent=head, subsequent_indent=" " * len(head))
        if finding.advice:
            lines += textwrap.wrap(finding.advice, width, initial_indent=" " * len(head) + "-> ",
                                   subsequent_indent=" " * len(head) + "   ")
    problems = sum(finding.is_problem for finding in findings)
    end = f"{problems} problem{'s' * (problems != 1)}: what is asked for would not work." if problems else \
        "Nothing stands in the way of training."
    return "\n".join([*lines, "", end])


# The machine and its software.


def check_python() -> Finding:
    """Is it new enough?"""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    too_old = release(platform.python_version()) < (3, 10)
    return Finding("Python", text, "install Python 3.10 or newer" * too_old, is_problem=too_old)


def check_libraries() -> Finding:
    """Versions of what everything needs."""
    found, wrong = [], []
    for name, least in REQUIRED.items():
        version = version_of(name)
        found.append(f"{name} {version or 'missing'}")
        if version is None or release(version) < release(least):
            wrong.append(f"{name}>={least}")
    advice = f"pip install {' '.join(repr(name) for name in wrong)}" if wrong else ""
    return Finding("libraries", ", ".join(found), advice, is_problem=bool(wrong))


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution; None if it is not."""
    if distribution == "torch":
        return torch.__version__  # says which build it is, too
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0), to compare; what follows the numbers is left out."""
    parts = version.split("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdecimal())


def check_host() -> Finding:
    """Is the current folder a checkout to train in?"""
    missing = host.missing(*host.TRAIN_MODULES, *host.METRICS_MODULES)
    if missing:
        return Finding(
            "host", f"{os.getcwd()} lacks {', '.join(missing)}",
            "change to a StyleGAN2-ADA checkout, the folder that holds train.py and legacy.py", is_problem=True,
        )
    return Finding("host", f"{host.current().DESCRIPTION} in {os.getcwd()}")


def check_devices(plan: Plan) -> Iterator[Finding]:
    """The CPU, every GPU, and whether there are as many as planned."""
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    features = cpu_features()
    text = f"{cores} cores ({', '.join(features) or 'no vector extensions known'}), {threads} threads in torch"
    advice = "OMP_NUM_THREADS in the environment keeps torch from using them all" if threads < cores // 2 else ""
    yield Finding("CPU", text, advice)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        name, (major, minor) = torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)
        free, total = torch.cuda.mem_get_info(i)
        yield Finding(f"GPU {i}", f"{name}, compute capability {major}.{minor}, {free / GIB:.1f} of {total / GIB:.1f} "
                      f"GiB free, CUDA {torch.version.cuda}")
    if count == 0:
        yield no_gpu()
    elif plan.gpus is not None and plan.gpus > count:
        yield Finding("GPUs", f"--gpus={plan.gpus}, but there are {count}", f"use --gpus={count} or fewer", True)
    if (plan.gpus or 1) > 1:
        yield check_distributed(plan.device)


def cpu_features() -> list[str]:
    """Instruction sets that make tensors faster: the vector width that torch uses, and products in bfloat16."""
    capability = getattr(getattr(torch.backends, "cpu", None), "get_cpu_capability", None)
    features = [] if capability is None else [capability()]
    return features + ([] if half is None else half.bf16_instructions())


def no_gpu() -> Finding:
    """Why torch sees no GPU, as far as that can be told."""
    if shutil.which("nvidia-smi") is None or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return Finding("GPU", "none: training and all tools run on the CPU",
                       "a small network for 32x32 pixels learns there in about an hour; larger ones want a GPU")
    if torch.version.cuda is None:
        return Finding("GPU", "not used: this torch is built for the CPU alone",
                       "install the build for CUDA that PyTorch's 'Get started' page names")
    return Finding("GPU", f"torch is built for CUDA {torch.version.cuda} and cannot use the GPU",
                   "does nvidia-smi list one, and is its driver recent enough for that version?", is_problem=True)


def check_distributed(device: str) -> Finding:
    """Can several processes work together?"""
    backend = "nccl" if device == "cuda" and os.name != "nt" else "gloo"
    is_there = torch.distributed.is_available() and getattr(torch.distributed, f"is_{backend}_available", bool)()
    if is_there:
        return Finding("processes", f"torch.distributed with {backend}")
    return Finding("processes", f"torch.distributed lacks {backend}", "use --gpus=1 or another build of torch", True)


def check_precision(device: str) -> Iterator[Finding]:
    """Types of numbers that a convolution on that device takes, tried out, and what they are good for."""
    works = [name for name in ("float32", "float16", "bfloat16") if convolves(getattr(torch, name), device)]
    text = f"{', '.join(works) or 'nothing'} on the {'GPU' if device == 'cuda' else 'CPU'}"
    if "float32" not in works:
        yield Finding("precision", text, "this build of torch does not fit the device: install another", True)
    elif device == "cpu":
        in_bf16 = half is not None and half.has_bf16()
        yield Finding("precision", f"{text}; training uses float32 there{', or with --bf16=1 bfloat16' * in_bf16}")
    else:
        major, minor = torch.cuda.get_device_capability()
        text += ", TensorFloat-32 (--allow-tf32=1)" if major >= 8 else ", no TensorFloat-32"
        slow = "half precision is slow before compute capability 7.0: use --fp32=1" if major < 7 else ""
        wrong = "half precision fails: use --fp32=1" if "float16" not in works else slow
        yield Finding("precision", text, wrong)


def convolves(dtype: torch.dtype, device: str) -> bool:
    """Can a convolution be computed and differentiated with this type?"""
    try:
        x = torch.ones([1, 8, 8, 8], dtype=dtype, device=device, requires_grad=True)
        weight = torch.ones([8, 8, 3, 3], dtype=dtype, device=device)
        torch.nn.functional.conv2d(x, weight, padding=1).sum().backward()
    except RuntimeError:
        return False
    return x.grad is not None and bool(x.grad.isfinite().all())


# The plan.


def check_training(plan: Plan) -> Iterator[Finding]:
    """The networks of the plan, the memory they need, the largest batch, and the room on disk."""
    if host.missing(*host.TRAIN_MODULES):
        return
    args = training_arguments(plan)
    shape = dict(c_dim=0, img_resolution=args["training_set_kwargs"]["resolution"], img_channels=3)
    import dnnlib

    G, D = (dnnlib.util.construct_class_by_name(**args[f"{name}_kwargs"], **shape) for name in "GD")
    estimate = memory.estimate_memory(G, D, plan.width * plan.height, plan.device == "cuda")
    G_millions, D_millions = (sum(param.numel() for param in net.parameters()) / 1e6 for net in (G, D))
    yield Finding("networks", f"--cfg={plan.cfg} at {plan.width}x{plan.height}: {G_millions:.1f} million parameters in "
                              f"the generator, {D_millions:.1f} in the discriminator")
    yield check_memory(plan, args, estimate)
    yield check_disk(plan.outdir, estimate)
    yield from check_shared_memory(plan, args["batch_size"])


def training_arguments(plan: Plan) -> dict[str, Any]:
    """The arguments of the training loop that the host's train.py makes of the plan, with a black image as the data."""
    from ssn_plugin.hosts import launch  # needs a host, which `examine` has looked for

    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (plan.width, plan.height)).save(os.path.join(folder, "0.png"))
        try:
            return launch.training_arguments(dict(plan.options, data=folder))
        except ValueError as err:  # what is wrong with the image is wrong with the size that was asked for
            message = str(err).replace("--data", "--resolution").replace(f"{folder}: ", "")
            raise UserError(message) from err


def check_memory(plan: Plan, args: dict[str, Any], estimate: memory.MemoryEstimate) -> Finding:
    """Does the batch fit, and which is the largest that does?"""
    gpus, batch_gpu = args["num_gpus"], args["batch_gpu"]
    sharing = gpus if plan.device == "cpu" else 1  # processes that share the memory
    available = free_memory(plan.device, gpus) // sharing
    largest = estimate.largest_batch(int(RESERVE * available), args["D_kwargs"]["epilogue_kwargs"]["mbstd_group_size"])
    error = f"{memory.ESTIMATE_ERROR:.0%}, measured on a CPU"
    error += "; on a GPU the estimate was not checked" if plan.device == "cuda" else ""
    text = f"about {estimate.of_batch(batch_gpu) / GIB:.1f} GiB{' for each process' * (gpus > 1)} with {batch_gpu} " \
           f"images at a time (--batch={args['batch_size']}), {available / GIB:.1f} GiB free; "
    text += f"the largest batch is about {largest * gpus}" if largest else "no batch fits"
    text += f" (error up to {error})"
    if largest >= batch_gpu:
        return Finding("memory", text)
    advice = f"use --batch={largest * gpus}" if largest else "use a smaller resolution, or a --cfg with fewer channels"
    return Finding("memory", text, advice, is_problem=True)


def free_memory(device: str, gpus: int) -> int:
    """Bytes that a new process can use: of the GPU with the least, or of this machine or container."""
    if device == "cuda":
        return min(torch.cuda.mem_get_info(i)[0] for i in range(min(gpus, torch.cuda.device_count())))
    available = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no limit, or no control groups
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        available = min(available, max(limit - used, 0))
    return available


def check_disk(outdir: str, estimate: memory.MemoryEstimate) -> Finding:
    """Room for the snapshots of a run."""
    folder = os.path.abspath(outdir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    snapshots = free // estimate.state
    text = f"{free / GIB:.1f} GiB free in {folder}: room for {snapshots} snapshots with their training state " \
           f"({estimate.snapshot / 2**20:.0f} MiB of networks, {estimate.state / 2**20:.0f} in all)"
    if not os.access(folder, os.W_OK):
        return Finding("disk", f"{folder} is not writable", "choose another --outdir", is_problem=True)
    if snapshots < MIN_SNAPSHOTS:
        return Finding("disk", text, "free some space, or choose another --outdir", is_problem=True)
    return Finding("disk", text)


def check_shared_memory(plan: Plan, batch_size: int) -> Iterator[Finding]:
    """Room for the batches that the loader's processes hand over; containers often have 64 MiB."""
    workers, prefetched = 3, 2
    needed = 3 * plan.width * plan.height * batch_size * workers * prefetched
    if not os.path.isdir("/dev/shm"):
        return
    free = shutil.disk_usage("/dev/shm").free
    if free < needed:
        yield Finding("shared memory", f"{free / 2**20:.0f} MiB free in /dev/shm, {needed / 2**20:.0f} needed for the "
                      f"images of {workers} loader processes",
                      "use --workers=1, or give the container more (docker run --shm-size=1g)", is_problem=True)


# Files that are fetched.


def check_cache() -> Iterator[Finding]:
    """Is there a place for downloads and for statistics of data sets?"""
    if host.missing():
        return
    import dnnlib

    folder = dnnlib.make_cache_dir_path()
    existing = folder
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    if os.access(existing, os.W_OK):
        yield Finding("cache", folder)
    else:
        yield Finding("cache", f"{folder} cannot be written", "name another folder in DNNLIB_CACHE_DIR", True)


def check_detectors() -> Iterator[Finding]:
    """The feature detectors of the standard metrics."""
    if host.missing():
        return
    absent = []
    for url, metrics in DETECTORS.items():
        path = host.current().find_detector(url)
        if path is None:
            absent.append(f"{url.split('/')[-1]} ({metrics})")
        else:
            yield Finding("detector", f"{path} ({metrics})")
    if absent:
        yield Finding("detectors", f"not on this machine: {', '.join(absent)}", host.current().detector_advice())


def check_optional_libraries() -> Iterator[Finding]:
    """What can be added."""
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    found = [name for name in OPTIONAL if name not in missing]
    if found:
        yield Finding("optional", ", ".join(found))
    if missing:
        uses = ", ".join(f"{name} ({OPTIONAL[name]})" for name in missing)
        yield Finding("optional", f"not installed: {uses}", f"pip install {' '.join(missing).replace('_', '-')}")
