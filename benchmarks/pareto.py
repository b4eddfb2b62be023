"""Quality against distortion: train StyleGAN2 and SSNs over a sweep of lambda with one budget, and compare them.

    python benchmarks/pareto.py --data=castles64.zip --outdir=results/castles64 --kimg=200 --jobs=2
    python benchmarks/pareto.py --data=castles64.zip --outdir=results/grids --lambdas=100 --no-baseline \\
        --variant='2x2: --blocks=2x2' --variant='8x8: --blocks=8x8'
    python benchmarks/pareto.py --data=castles64.zip --outdir=results/tuned --kimg=60 --source=stylegan2.pkl

Every point of the comparison is a training run. A point is trained by train.py, scored by calc_metrics.py, snapshot by
snapshot, and drawn by benchmarks/pareto_sheets.py; the commands are printed and kept in the logs of the point. What is
finished is not done again: start the same command once more after an interruption, with further points, or with a
larger --kimg, which carries the points on. With --source all points, StyleGAN2 included, start from the networks of a
file, as those of the paper do (section 3.4), and --kimg is what they get beyond it.

    OUTDIR/points/<variant>-seed<n>/    run folder, logs, scores and sheets of a point; point.json says how it was made
    OUTDIR/results.json                 all scores, with commands, commits, hardware and times
    OUTDIR/results.md, pareto.png       Tables 1 and 2 and Figure 5 of Hong et al. 2020 (arXiv:2006.05394)

The paper's FID and PPL need pretrained detectors (--detectors=DIR). Without them quality is rfid, rkid and swd. --lite
adds fid_lite, kid_lite and, for changes, ST-LPIPS, in the features that the extra [features] brings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pareto_report import (
    finished_run,
    read_result,
    run_folders,
    scores_folder,
    shorten,
    snapshots_of,
    write_report,
)
from dnnlib.util import UserError, open_atomic
from training.cli import Command

ROOT = Path(__file__).resolve().parents[1]
LAMBDAS = "0,1,10,100,1000,10000"
BASELINE = "stylegan2"
TINY = dict(
    kimg=1, snapshots=1, images=16, pairs=32, lambdas="0,100", train_options="--aug=noaug --channels=4 --block-dim=4",
)


@dataclasses.dataclass(frozen=True)
class Point:
    """One training run of the comparison."""

    variant: str               # its name in tables and figures
    options: tuple[str, ...]   # of train.py, as far as variants differ in them
    seed: int

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"

    @property
    def is_ssn(self) -> bool:
        return "--cfg=ssn" in self.options or "--cfg=ssn-plus" in self.options


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all points share."""

    data: str
    outdir: Path
    kimg: int
    snapshots: int                   # per run, evenly spaced; all are scored
    images: int                      # generated for each quality metric
    pairs: int                       # for each distortion metric
    detectors: str | None            # folder of pretrained detector files
    gpus: int | None                 # of train.py and calc_metrics.py
    threads: int                     # of each process on the CPU
    train_options: tuple[str, ...]   # further ones, for all points
    source: str | None = None        # network file that all points start from
    lite: bool = False               # judge by pretrained features that a package brings, too

    def folder(self, point: Point) -> Path:
        return self.outdir / "points" / point.name

    def quality_metrics(self) -> list[str]:
        if self.detectors is not None:
            return [f"fid{self.images}_full", f"ppl{self.images}_wend"]
        lite = [f"fid_lite{self.images}_full", f"kid_lite{self.images}_full"] if self.lite else []
        return [f"rfid{self.images}_full", f"rkid{self.images}_full", f"swd{self.images}_full", *lite]

    def metrics(self, point: Point) -> list[str]:
        ssn = ["ssn_distortion", "ssn_leak", *["ssn_stlpips"] * self.lite] if point.is_ssn else []
        return self.quality_metrics() + [f"{name}{self.pairs}" for name in ssn]


def make_points(lambdas: str, seeds: str, variants: Sequence[str], baseline: bool) -> list[Point]:
    """All points in the order of work: every variant with the first seed, then with the next."""
    named: dict[str, tuple[str, ...]] = {BASELINE: ("--cfg=ssn-baseline",)} if baseline else {}
    for text in filter(None, lambdas.split(",")):
        named[f"lambda{parse_number(text, 'lambdas'):g}"] = ("--cfg=ssn", f"--lambda={text.strip()}")
    for text in variants:
        name, options = parse_variant(text)
        if name in named:
            raise UserError(f"--variant must have a name of its own, got {name} twice")
        named[name] = options
    if not named:
        raise UserError("nothing to train: --lambdas is empty, without a baseline and a --variant")
    numbers = [int(parse_number(text, "seeds")) for text in seeds.split(",")]
    return [Point(name, options, seed) for seed in dict.fromkeys(numbers) for name, options in named.items()]


def parse_number(text: str, option: str) -> float:
    try:
        return float(text) if option == "lambdas" else int(text)
    except ValueError:
        raise UserError(f"--{option} must be numbers with commas between, got {text!r}") from None


def parse_variant(text: str) -> tuple[str, tuple[str, ...]]:
    """`2x2: --blocks=2x2` -> ("2x2", ("--cfg=ssn", "--blocks=2x2")); a --cfg of its own replaces ours."""
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or not re.fullmatch(r"[\w.=+-]+", name):
        raise UserError(f"--variant must be NAME: OPTIONS with a name of letters, digits and . = + - _, got {text!r}")
    options = tuple(shlex.split(rest))
    if "--cfg" in options:
        raise UserError(f"--variant must name its cfg as --cfg=NAME, got {text!r}")
    own_cfg = any(option.startswith("--cfg=") for option in options)
    return name, options if own_cfg else ("--cfg=ssn", *options)


# Commands


def script(name: str) -> list[str]:
    return [sys.executable, str(ROOT / name)]


def train_command(plan: Plan, point: Point) -> list[str]:
    """Start a run, or carry on the one that was interrupted or had a smaller budget.

    With a source it only starts one, see `carry_on_command`.
    """
    gpus = [] if plan.gpus is None else [f"--gpus={plan.gpus}"]
    return [
        *script("train.py"), f"--outdir={plan.folder(point)}", f"--data={plan.data}", *point.options,
        f"--seed={point.seed}", f"--kimg={plan.kimg}", "--tick=1", f"--snap={plan.kimg // plan.snapshots}",
        "--metrics=none", f"--resume={plan.source or 'latest'}", *gpus, *plan.train_options,
    ]


def carry_on_command(plan: Plan, run: Path) -> list[str]:
    """Carry on a run that started from a network."""
    return [
        *script("train.py"), f"--outdir={run}", "--continue", f"--kimg={plan.kimg}",
        f"--snap={plan.kimg // plan.snapshots}",
    ]


def score_command(plan: Plan, network: Path, metrics: Sequence[str]) -> list[str]:
    detectors = [] if plan.detectors is None else [f"--detectors={plan.detectors}"]
    gpus = [] if plan.gpus is None else [f"--gpus={plan.gpus}"]
    return [
        *script("calc_metrics.py"), f"--network={network}", f"--metrics={','.join(metrics)}",
        f"--outdir={scores_folder(network)}", "--json", *gpus, *detectors,
    ]


def sheets_command(plan: Plan, point: Point, network: Path) -> list[str]:
    folder = plan.folder(point) / "sheets"
    return [*script("benchmarks/pareto_sheets.py"), f"--network={network}", f"--outdir={folder}",
            f"--pairs={plan.pairs}"]


# The state of a point, as its folder tells it


def missing_metrics(plan: Plan, point: Point, network: Path) -> list[str]:
    folder = scores_folder(network)
    return [name for name in plan.metrics(point) if not read_result(folder / f"metric-{name}.jsonl")]


def describe_machine(gpus: int | None) -> str:
    """Name of the processor and of the GPU, if one is used."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        name = found[1] if found else name
    parts = [f"{name}, {os.cpu_count()} cores"]
    if gpus != 0 and torch.cuda.is_available():
        parts.insert(0, torch.cuda.get_device_name())
    return "; ".join(parts)


def current_commit() -> str:
    """Hash of the checkout, with a `+` where tracked files differ from it; `unknown` outside git."""
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + "+" * bool(changes.stdout.strip())


def claim(plan: Plan, point: Point, commit: str, machine: str) -> None:
    """Write how the point is made to its folder. Raises ValueError if that was made in another way, or for longer."""
    path = plan.folder(point) / "point.json"
    command = train_command(plan, point)[1:]
    made = dict(variant=point.variant, seed=point.seed, is_ssn=point.is_ssn, kimg=plan.kimg, command=command,
                threads=plan.threads, commit=commit, machine=machine)
    if path.is_file():
        before = json.loads(path.read_text())
        different = sorted({*map(shorten, before["command"])} ^ {*map(shorten, command)})  # the folder may have moved
        if plan.kimg < before["kimg"]:
            raise UserError(f"--kimg must be at least the {before['kimg']} of {path.parent}, got {plan.kimg}")
        if not all(option.startswith(("--kimg=", "--snap=")) for option in different):
            raise UserError(f"{path.parent} was made with other options, choose another --outdir: "
                             f"{' '.join(different)}")
        if finished_run(plan.folder(point), plan.kimg) is not None:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path, "w") as file:
        json.dump(made, file, indent=2)


# Work


class Workers:
    """Runs commands in processes of their own, and ends those that are left when the block is left."""

    def __init__(self, threads: int):
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._closed = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                process.terminate()

    def run(self, command: Sequence[str], log: Path) -> None:
        """Append the command and its output to `log`. Raises ValueError if it fails."""
        click.echo(f"  {shlex.join(['python', *command[1:]])}")
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"$ {shlex.join(command)}\n")
            file.flush()
            with self._lock:
                if self._closed:
                    raise UserError("interrupted")
                process = subprocess.Popen(
                    command, cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        if code != 0:
            lines = log.read_text(encoding="utf-8").splitlines()
            raise UserError(f"{Path(command[1]).name} ended with code {code}: {lines[-1].strip()} (see {log})")


def make_point(plan: Plan, point: Point, workers: Workers) -> None:
    """Train, score and draw what is missing."""
    folder = plan.folder(point)
    if finished_run(folder, plan.kimg) is None:
        begun = [run for run in run_folders(folder) if any(run.glob("training-state-*.pt"))] if plan.source else []
        command = carry_on_command(plan, begun[-1]) if begun else train_command(plan, point)
        workers.run(command, folder / "train.log")
    run = finished_run(folder, plan.kimg)
    if run is None:
        raise UserError(f"{folder} holds no snapshot of {plan.kimg} kimg (see {folder / 'train.log'})")
    snapshots = snapshots_of(run)
    for network in snapshots.values():
        missing = missing_metrics(plan, point, network)
        if missing:
            workers.run(score_command(plan, network, missing), folder / "score.log")
    newest = snapshots[max(snapshots)]
    if not has_sheets_of(newest, folder / "sheets" / "sheets.json"):
        workers.run(sheets_command(plan, point, newest), folder / "sheets.log")


def has_sheets_of(network: Path, record: Path) -> bool:
    """Does the record say that the pictures beside it show this snapshot?"""
    return record.is_file() and json.loads(record.read_text())["network"] == network.name


def make_points_in_parallel(plan: Plan, points: Sequence[Point], jobs: int) -> dict[str, str]:
    """Work on `jobs` points at a time and renew the report after each. Returns name -> error of those that failed."""
    failures: dict[str, str] = {}
    with ends_on_sigterm(), concurrent.futures.ThreadPoolExecutor(jobs) as pool, Workers(plan.threads) as workers:
        futures = {pool.submit(make_point, plan, point, workers): point for point in points}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), start=1):
                name = futures[future].name
                try:
                    future.result()
                    click.echo(f"[{number}/{len(points)}] {name} is finished")
                except (ValueError, OSError) as err:
                    failures[name] = str(err)
                    click.echo(f"[{number}/{len(points)}] {name} failed: {err}", err=True)
                write_report(plan.outdir)
        finally:
            for future in futures:
                future.cancel()
    return failures


@contextlib.contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the processes that were started end, too."""
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def tiny_settings(ctx: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Replace the settings that were not given by those of `--tiny`."""
    default = click.core.ParameterSource.DEFAULT
    return settings | {name: value for name, value in TINY.items() if ctx.get_parameter_source(name) is default}


@click.command(cls=Command)
@click.option("--data", required=True, metavar="PATH", help="Training images: a folder or a zip")
@click.option("--outdir", required=True, metavar="DIR", help="Where everything goes; the same one resumes")
@click.option("--kimg", type=click.IntRange(min=1), default=200, show_default=True, help="Budget of every point")
@click.option("--lambdas", default=LAMBDAS, show_default=True, help="SSNs to train; nothing for none")
@click.option("--baseline/--no-baseline", default=True, show_default=True, help="Train StyleGAN2 as well?")
@click.option("--variant", "variants", multiple=True, metavar="NAME:OPTIONS",
              help="Further point with these options of train.py; may be repeated")
@click.option("--seeds", default="0", show_default=True, help="Every point is trained once with each")
@click.option("--train-options", default="--aug=noaug", show_default=True, help="Options of train.py for all points")
@click.option("--source", metavar="PKL", help="Network file that all points start from  [default: from scratch]")
@click.option("--snapshots", type=click.IntRange(1, 20), default=2, show_default=True, help="Per point; all are scored")
@click.option("--images", type=click.IntRange(min=2), default=5000, show_default=True, help="For quality metrics")
@click.option("--pairs", type=click.IntRange(min=32), default=2000, show_default=True, help="For distortion metrics")
@click.option("--detectors", metavar="DIR", help="Pretrained detector files, for FID and PPL")
@click.option("--lite", is_flag=True, help="Judge by EfficientNet-Lite0 and ST-LPIPS, too (extra [features])")
@click.option("--gpus", type=int, metavar="INT", help="Of train.py; 0 = the CPU  [default: its own]")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Points at a time")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of each process")
@click.option("--tiny", is_flag=True, help="Networks and counts of a test: nonsense in a minute, every file made")
@click.pass_context
def main(ctx: click.Context, **settings: Any) -> None:
    """Compare StyleGAN2 and SSNs over a sweep of lambda."""
    if settings.pop("tiny"):
        settings = tiny_settings(ctx, settings)
    jobs = settings.pop("jobs")
    points = make_points(*(settings.pop(name) for name in ("lambdas", "seeds", "variants", "baseline")))
    if settings["source"] is not None and os.path.exists(settings["source"]):
        settings["source"] = os.path.abspath(settings["source"])
    settings.update(
        outdir=Path(settings["outdir"]).absolute(), data=os.path.abspath(settings["data"]),
        train_options=tuple(shlex.split(settings["train_options"])))
    plan = Plan(**settings)
    check_plan(plan, points)
    commit, machine = current_commit(), describe_machine(plan.gpus)
    for point in points:
        claim(plan, point, commit, machine)
    click.echo(f"{len(points)} points of {plan.kimg} kimg, {jobs} at a time, in {plan.outdir}")
    failures = make_points_in_parallel(plan, points, jobs)
    if failures:
        raise UserError(f"{len(failures)} of {len(points)} points failed: {', '.join(failures)}")
    click.echo(f"Tables: {plan.outdir / 'results.md'}")


def check_plan(plan: Plan, points: Sequence[Point]) -> None:
    """Let train.py check the options of every point before the first one is trained."""
    if plan.kimg % plan.snapshots != 0:
        raise UserError(f"--kimg must be a multiple of the {plan.snapshots} --snapshots, got {plan.kimg}")
    import train

    for point in points:
        arguments = [*train_command(plan, point)[2:], "--dry-run"]
        silence = io.StringIO()
        try:
            with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
                train.main(arguments, prog_name="train.py", standalone_mode=False)
        except click.ClickException as err:
            raise UserError(f"{point.variant}: {err.format_message()}") from err


if __name__ == "__main__":
    main()
