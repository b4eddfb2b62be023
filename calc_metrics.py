"""Measure the quality of a trained network."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import click

from dnnlib.util import UserError
from training.cli import Command, network_option, trust_option
from training.run.place import Place
from training.run.run_folders import OPTIONS_FILE

EPILOG = """\b
Metrics:
  fid50k_full  kid50k_full  pr50k3_full  is50k           Inception and VGG16 features
  ppl2_wend                                              path length
  fid50k kid50k pr50k3 ppl_zfull ppl_wfull ppl_zend ppl_wend   as in older papers
  ssn_distortion1k  ssn_leak1k  ssn_consistency5k  ssn_lpips1k  of Spatially Stochastic Networks
  rfid5k_full  rkid5k_full  swd5k_full                   without any pretrained file
Any sample count works: fid5k_full, kid500, pr2k3, ppl2k_wend, ssn_distortion500. docs/metrics.md explains them all.

\b
Examples:
  python calc_metrics.py --network=network-snapshot.pkl --metrics=rfid5k_full,ssn_distortion1k
  python calc_metrics.py report run1/metric-fid50k_full.jsonl run2/metric-fid50k_full.jsonl
"""


class MetricsCommand(Command, click.Group):
    """A command that measures by itself and has sub-commands beside."""


@click.group(cls=MetricsCommand, invoke_without_command=True, epilog=EPILOG)
@network_option(required=False)
@click.option("--metrics", default="fid50k_full", show_default=True, metavar="NAMES", help="Comma-separated list")
@click.option("--data", metavar="PATH", help="Folder or zip of real images  [default: those it was trained on]")
@click.option("--mirror", type=bool, metavar="BOOL", help="Add mirrored real images  [default: as in training]")
@click.option("--gpus", type=click.IntRange(min=0), default=1, show_default=True, metavar="INT",
              help="Processes, one per GPU; 0 is the CPU, which serves without a GPU too")
@click.option("--verbose", type=bool, default=True, show_default=True, metavar="BOOL", help="Show progress")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="INT",
              help="Of latents, labels, noise and subsets")
@click.option("--batch", type=click.IntRange(min=1), metavar="INT",
              help="Items at a time; changes speed and memory, not the result  [default: the metric's own]")
@click.option("--detectors", metavar="DIR", help="Folder with the detector files, for machines without a network")
@click.option("--classifiers", multiple=True, metavar="FILE",
              help="TorchScript attribute classifier, for ls*; may be repeated")
@click.option("--ppl-histogram", is_flag=True, help="ppl*: also save the distribution and images of its ends")
@click.option("--outdir", metavar="DIR", help="Where files and result lines go  [default: the training run's folder]")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per result instead of a table")
@click.option("--cache", type=bool, default=True, show_default=True, metavar="BOOL",
              help="Keep and reuse the statistics of real images")
@trust_option()
@click.pass_context
def main(ctx: click.Context, **options: Any) -> None:
    """Measure the quality of a trained network."""
    if ctx.invoked_subcommand is None:
        if options["network"] is None:
            raise click.UsageError("--network is required")
        measure(**options)


REPORT_EPILOG = """\b
Examples:
  python calc_metrics.py report run1/metric-fid50k_full.jsonl run2/metric-fid50k_full.jsonl
  python calc_metrics.py report results/baseline results/changed
"""


@main.command(cls=Command, epilog=REPORT_EPILOG)
@click.argument("paths", metavar="PATH PATH...", nargs=-1, required=True)
@click.pass_context
def report(ctx: click.Context, paths: tuple[str, ...]) -> None:
    """Compare results: of files (metric-*.jsonl), of folders that hold such files, or of all runs in a folder.

    The first one that has a metric is compared with each of the others: are the numbers comparable, and do their
    intervals overlap? The exit code is 0 if all are comparable, else 1.
    """
    from metrics.report import compare_files, format_comparison

    comparisons = compare_files(*paths)
    for comparison in comparisons:
        click.echo(format_comparison(comparison))
    ctx.exit(0 if all(comparison.verdict == "comparable" for comparison in comparisons) else 1)


def measure(
    network: str, metrics: str, data: str | None, mirror: bool | None, gpus: int, detectors: str | None,
    outdir: str | None, as_json: bool, verbose: bool, trust_pickle: bool, **options: Any,
) -> None:
    """Check everything that can be checked, then measure, in as many processes as asked for."""
    from metrics import detectors as detector_files
    from metrics import metric_main
    from training.formats.network_names import resolve_network
    from training.plugins import import_plugins
    from training.run import processes

    import_plugins()
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in names or [metrics]:
        metric_main.check_metric(name)
    if detectors is not None:
        detector_files.set_detector_dir(detectors)
    for path in options["classifiers"]:
        if not os.path.isfile(path):
            raise UserError(f"classifier {path} is not a file")
    if outdir is not None:
        os.makedirs(outdir, exist_ok=True)
    network = resolve_network(network)
    run_dir = outdir or training_folder(network)
    if options["ppl_histogram"] and run_dir is None:
        raise UserError("--ppl-histogram needs a folder for its files: name one with --outdir")
    for name in names:
        metric_main.fetch_detector(name, verbose=verbose)
    job = dict(
        network=network, names=names, data=data, mirror=mirror, detectors=detectors, as_json=as_json, run_dir=run_dir,
        verbose=verbose, trust_pickle=trust_pickle, on_cpu=gpus == 0, options=options)
    processes.run(measure_in_process, max(gpus, 1), job, on_cpu=gpus == 0)


def training_folder(network: str) -> str | None:
    """The folder of the network file, if it is that of a training run; results are collected there."""
    folder = os.path.dirname(os.path.abspath(network))
    return folder if os.path.isfile(os.path.join(folder, OPTIONS_FILE)) else None


def measure_in_process(place: Place, job: dict[str, Any]) -> None:
    """The work of one process: measure, and in the first one print and save."""
    from metrics import detectors as detector_files
    from metrics import metric_main, metric_utils, shared_features
    from metrics.real_images import choose_dataset
    from metrics.report import format_table
    from training.network_files import load_networks
    from training.plugins import import_plugins
    from training.run import processes

    import_plugins()
    detector_files.set_detector_dir(job["detectors"])
    device, is_first = processes.choose_device(place, job["on_cpu"]), place.rank == 0
    networks = load_networks(job["network"], trust=job["trust_pickle"])
    G, trained_on = networks["G_ema"], networks.get("training_set_kwargs")
    dataset_kwargs = choose_dataset(G, trained_on, job["data"], job["mirror"], job["trust_pickle"])
    progress = metric_utils.ProgressMonitor(verbose=job["verbose"] and is_first)
    as_table = is_first and wants_table(job["as_json"])
    results = []
    with shared_features.sharing(), one_line_warnings():
        for name in job["names"]:
            if is_first and job["verbose"]:
                click.echo(f"Calculating {name}...", err=True)
            result = metric_main.calc_metric(
                name, G=G, dataset_kwargs=dataset_kwargs, num_gpus=place.num_processes, rank=place.rank, device=device,
                progress=progress, outdir=job["run_dir"], **map_options(job["options"]))
            results.append(result)
            if is_first:
                metric_main.report_metric(result, run_dir=job["run_dir"], snapshot_pkl=job["network"], silent=as_table)
    if as_table:
        click.echo(format_table(results))


def wants_table(as_json: bool) -> bool:
    """A person at a terminal gets a table, a program JSON lines."""
    return not as_json and sys.stdout.isatty()


def map_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of this command -> those of `MetricOptions`."""
    return dict(seed=options["seed"], batch_size=options["batch"], cache=options["cache"],
                classifiers=options["classifiers"], ppl_histogram=options["ppl_histogram"])


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show warnings of the metrics without the source line that raised them."""
    def show(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    main()
