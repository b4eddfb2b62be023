"""What benchmarks/pareto.py found, as results.json, Markdown tables and a figure.

    python benchmarks/pareto_report.py OUTDIR

A result of several seeds is their mean, with the smallest and largest in brackets; of one seed it is the value, with
the 95 % interval of the metric in brackets where the metric has one. The latter speaks of the sampling of pairs, not
of another training.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dnnlib.util import open_atomic
from training.cli import Command

# Result keys of the quality metrics, the first of which is the figure's, and their names in tables.
QUALITY = re.compile(r"(?P<name>r?fid|r?kid|fid_lite|kid_lite|swd|ppl)\d+k?_(full|[zw](full|end))")
# Results of the metrics of `ssn_plugin.metrics` by our names for them; the one of the most pairs counts.
SSN_RESULTS = {
    "distortion": re.compile(r"ssn_distortion(\d+)"),
    "diversity": re.compile(r"ssn_distortion(\d+)_diversity"),
    "locality": re.compile(r"ssn_distortion(\d+)_locality"),
    "ST-LPIPS outside": re.compile(r"ssn_stlpips(\d+)_outside"),
    "ST-LPIPS inside": re.compile(r"ssn_stlpips(\d+)_inside"),
    "leak": re.compile(r"ssn_leak(\d+)_outside"),
    "largest leak": re.compile(r"ssn_leak(\d+)_largest"),
}
NOTES = """\
distortion: mean squared change outside a redrawn block. diversity: the same inside it. locality: diversity /
distortion. leak: mean entry of the leak matrix off its diagonal; largest leak: its largest, the worst pair of blocks.
Images in -1..1; of several grids the blocks of the finest are redrawn. The last two columns compare with lambda 0.
"""
BORDERS = """\
Mean squared difference of neighbouring pixels on both sides of the border of a block: in the image before, where the
redrawn block keeps its surroundings consistent by changing them a little, and where the same block is pasted into the
unchanged image.
"""
NO_DETECTORS = """\
Quality without pretrained detectors: rfid and rkid are the Frechet and the kernel distance in the features of a random
VGG16, fid_lite and kid_lite those of EfficientNet-Lite0, swd is the sliced Wasserstein distance of patches times 1000.
They are not FID and KID; PPL needs the pretrained VGG16 and is missing.
"""


class Summary(NamedTuple):
    """A result over the seeds of a variant."""

    value: float
    low: float    # NaN where nothing is known
    high: float


# Reading


def read_points(outdir: Path) -> list[dict[str, Any]]:
    """All points of the folder that have a snapshot, in the order of their names: lambdas ascending, others behind."""
    points = [read_point(path.parent) for path in sorted(outdir.glob("points/*/point.json"))]
    return sorted((point for point in points if point["snapshots"]), key=sort_key)


def sort_key(point: dict[str, Any]) -> tuple[int, float, str, int]:
    weight = distortion_weight(point["variant"])
    kind = 0 if not point["is_ssn"] else 1 if weight is not None else 2
    return kind, weight or 0.0, point["variant"], point["seed"]


def distortion_weight(variant: str) -> float | None:
    """lambda of a point of the sweep, None for other variants."""
    found = re.fullmatch(r"lambda([\d.e+-]+)", variant)
    return float(found[1]) if found else None


def run_folders(folder: Path) -> list[Path]:
    """Run folders that train.py made for a point, oldest first; all but the last were abandoned."""
    return sorted(path.parent for path in folder.glob("[0-9]*/training_options.json"))


def snapshots_of(run: Path) -> dict[int, Path]:
    """kimg -> network file, without the one of the first step."""
    files = {int(path.stem.rpartition("-")[2]): path for path in sorted(run.glob("network-snapshot-*.pkl"))}
    return {kimg: path for kimg, path in files.items() if kimg > 0}


def finished_run(folder: Path, kimg: int) -> Path | None:
    """The newest run that has its last snapshot."""
    complete = [run for run in run_folders(folder) if any(at >= kimg for at in snapshots_of(run))]
    return complete[-1] if complete else None


def scores_folder(network: Path) -> Path:
    """Where the results of a snapshot are."""
    return network.with_name(network.stem.replace("network-snapshot", "scores"))


def read_point(folder: Path) -> dict[str, Any]:
    """point.json, with the scores of all snapshots of its run, the training time and the sheets."""
    point = json.loads((folder / "point.json").read_text())
    point["snapshots"] = []
    run = finished_run(folder, point["kimg"]) or next(reversed(run_folders(folder)), None)
    if run is not None:
        scores = {kimg: read_scores(scores_folder(network)) for kimg, network in snapshots_of(run).items()}
        point["snapshots"] = [dict(kimg=kimg, scores=values) for kimg, values in scores.items() if values]
        point["training_seconds"] = training_seconds(run / "stats.jsonl")
    point["finished"] = any(snapshot["kimg"] >= point["kimg"] for snapshot in point["snapshots"])
    sheets = folder / "sheets" / "sheets.json"
    point["sheets"] = json.loads(sheets.read_text()) if sheets.is_file() else {}
    point["folder"] = f"points/{folder.name}"
    return point


def read_scores(folder: Path) -> dict[str, float]:
    """All results of a snapshot, by their keys."""
    scores: dict[str, float] = {}
    for path in sorted(folder.glob("metric-*.jsonl")):
        scores |= read_result(path)
    for path in sorted(folder.glob("ssn_leak*[0-9].npy")):
        if not path.stem.endswith("-ci95"):
            leak = np.load(path)
            scores[f"{path.stem}_largest"] = float(leak[~np.eye(len(leak), dtype=bool)].max())
    return scores


def read_result(path: Path) -> dict[str, float]:
    """The newest result of a metric; nothing where there is none, or only the half of one."""
    try:
        return json.loads(path.read_text().splitlines()[-1])["results"]
    except (OSError, IndexError, ValueError):
        return {}


def training_seconds(stats: Path) -> float | None:
    lines = stats.read_text().splitlines() if stats.is_file() else []
    return json.loads(lines[-1])["Timing/total_sec"]["mean"] if lines else None


# Tables


def final_scores(point: dict[str, Any]) -> dict[str, float]:
    """Scores of the last snapshot: quality under the metrics' names, the others under ours with their intervals."""
    return named_scores(point["snapshots"][-1]["scores"])


def named_scores(scores: dict[str, float]) -> dict[str, float]:
    named = {key: value for key, value in scores.items() if QUALITY.fullmatch(key)}
    for name, pattern in SSN_RESULTS.items():
        keys = [match for match in map(pattern.fullmatch, scores) if match]
        if keys:
            key = max(keys, key=lambda match: int(match[1]))[0]
            for suffix in ("", "_low", "_high"):
                if key + suffix in scores:
                    named[name + suffix] = scores[key + suffix]
    return named


def summarise(points: Iterable[dict[str, Any]]) -> dict[str, dict[str, Summary]]:
    """variant -> name of a result -> its value over the finished seeds."""
    groups: dict[str, list[dict[str, float]]] = {}
    for point in points:
        if point["finished"]:
            groups.setdefault(point["variant"], []).append(final_scores(point))
    return {variant: summarise_seeds(scores) for variant, scores in groups.items()}


def summarise_seeds(seeds: Sequence[dict[str, float]]) -> dict[str, Summary]:
    summaries = {}
    for name in seeds[0]:
        values = [scores[name] for scores in seeds if name in scores]
        if len(seeds) > 1:
            summaries[name] = Summary(float(np.mean(values)), min(values), max(values))
        else:
            low, high = (seeds[0].get(f"{name}_{bound}", float("nan")) for bound in ("low", "high"))
            summaries[name] = Summary(values[0], low, high)
    return {name: value for name, value in summaries.items() if not name.endswith(("_low", "_high"))}


def quality_names(summaries: dict[str, dict[str, Summary]]) -> list[str]:
    """Quality metrics of all variants, Frechet distances first."""
    names = dict.fromkeys(name for results in summaries.values() for name in results if QUALITY.fullmatch(name))
    order = ["fid", "rfid", "kid", "rkid", "fid_lite", "kid_lite", "swd", "ppl"]
    return sorted(names, key=lambda name: (order.index(QUALITY.fullmatch(name)["name"]), name))  # type: ignore[index]


def ssn_names(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Our names of the results that there are."""
    found = {name for scores in results for name in scores}
    return [name for name in SSN_RESULTS if name in found]


def format_summary(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    if np.isnan(summary.low):
        return f"{summary.value:.4g}"  # without an interval
    return f"{summary.value:.3g} ({summary.low:.3g} to {summary.high:.3g})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def label_of(variant: str) -> str:
    """Name of a variant in tables."""
    weight = distortion_weight(variant)
    if variant == "stylegan2":
        return "Baseline StyleGAN2"
    if weight is None:
        return variant
    return "SSN, lambda 0 (no regularisation)" if weight == 0 else f"SSN, lambda {weight:g}"


def table_1(summaries: dict[str, dict[str, Summary]]) -> str:
    """Quality of the baseline and of the unregularised SSN; empty if one of them is missing."""
    if not {"stylegan2", "lambda0"} <= set(summaries):
        return ""
    names = quality_names(summaries)
    rows = [
        [label_of(variant), *(format_summary(summaries[variant].get(name)) for name in names), resampling]
        for variant, resampling in [("stylegan2", "no"), ("lambda0", "yes")]
    ]
    return markdown_table(["Configuration", *names, "resampling"], rows)


def table_2(summaries: dict[str, dict[str, Summary]]) -> str:
    """Quality and distortion of every variant; the changes are against lambda 0."""
    names = [*quality_names(summaries), *ssn_names(summaries.values())]
    rows = []
    for variant, results in summaries.items():
        cells = [format_summary(results.get(name)) for name in names]
        rows.append([label_of(variant), *cells, *against_lambda_0(results, summaries.get("lambda0"))])
    return markdown_table(["Configuration", *names, "distortion lowered", f"{names[0]} changed"], rows)


def against_lambda_0(results: dict[str, Summary], reference: dict[str, Summary] | None) -> tuple[str, str]:
    """`6.5-fold` and `+25 %`: how far the distortion fell, and how much the first quality metric changed."""
    if reference is None:
        return "-", "-"
    first = quality_names({"": reference})[:1]
    fold = change = "-"
    if "distortion" in results and results["distortion"].value > 0:
        fold = f"{reference['distortion'].value / results['distortion'].value:.3g}-fold"
    if first and first[0] in results and reference[first[0]].value > 0:
        change = f"{results[first[0]].value / reference[first[0]].value - 1:+.0%}"
    return fold, change


def table_of_snapshots(points: Sequence[dict[str, Any]]) -> str:
    """Every score of every snapshot of every seed."""
    all_scores = [(point, snapshot, named_scores(snapshot["scores"]))
                  for point in points for snapshot in point["snapshots"]]
    quality = quality_names({str(i): dict.fromkeys(scores) for i, (_, _, scores) in enumerate(all_scores)})  # type: ignore[misc]
    names = [*quality, *ssn_names(scores for _, _, scores in all_scores)]
    rows = [
        [point["variant"], str(point["seed"]), str(snapshot["kimg"]),
         *(f"{scores[name]:.4g}" if name in scores else "-" for name in names)]
        for point, snapshot, scores in all_scores
    ]
    return markdown_table(["variant", "seed", "kimg", *names], rows)


def borders(points: Sequence[dict[str, Any]]) -> str:
    """The step across the border of a redrawn block, and of one that is pasted in; empty without SSNs."""
    rows = []
    for point in points:
        step = point["sheets"].get("border_step")
        if step and point["finished"]:
            numbers = [f"{step[name]:.3g}" for name in ("original", "redrawn", "pasted")]
            rows.append([label_of(point["variant"]), str(point["seed"]), *numbers])
    table = markdown_table(["Configuration", "seed", "before", "redrawn", "hard paste"], rows)
    return f"{BORDERS}\n{table}" if rows else ""


def table_of_runs(points: Sequence[dict[str, Any]]) -> str:
    rows = []
    for point in points:
        seconds = point.get("training_seconds")
        duration = f"{seconds / 60:.1f} min" if seconds is not None else "-"
        command = " ".join(["python", *(shorten(part) for part in point["command"])])
        rows.append([point["variant"], str(point["seed"]), duration, point["commit"], point["machine"],
                     str(point["threads"]), f"`{command}`"])
    return markdown_table(["variant", "seed", "training", "commit", "machine", "threads", "command"], rows)


def shorten(argument: str) -> str:
    """Paths without the folders that say nothing elsewhere."""
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if "/" in value else argument


# Figure and files


def draw_pareto(summaries: dict[str, dict[str, Summary]], path: Path) -> bool:
    """Figure 5 of the paper: quality against distortion, a point per variant. False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        click.echo("matplotlib is not installed: no figure is drawn (pip install matplotlib)", err=True)
        return False
    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    metric = quality_names(summaries)[0]
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    drawn = {v: r for v, r in summaries.items() if "distortion" in r and metric in r}
    sweep = [variant for variant in drawn if distortion_weight(variant) is not None]
    xy = [(drawn[v]["distortion"].value, drawn[v][metric].value) for v in sweep]
    if len(xy) > 1:
        axes.plot(*zip(*xy, strict=True), color="C0", linewidth=1)
    for variant, results in drawn.items():
        weight = distortion_weight(variant)
        x, y = results["distortion"], results[metric]
        axes.errorbar(x.value, y.value, xerr=error_bar(x), yerr=error_bar(y), fmt="o" if weight is not None else "D",
                      color="C0" if weight is not None else "C3", markersize=5, capsize=2)
        axes.annotate(variant if weight is None else f"λ = {weight:g}", (x.value, y.value), xytext=(6, 5),
                      textcoords="offset points", fontsize=9)
    if metric in summaries.get("stylegan2", {}):
        axes.axhline(summaries["stylegan2"][metric].value, color="gray", linestyle="--", linewidth=1,
                     label="StyleGAN2, cannot resample")
        axes.legend(frameon=False)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("distortion (mean squared change outside the redrawn block)")
    axes.set_ylabel(f"{metric} (lower is better)")
    axes.spines[["top", "right"]].set_visible(False)
    with open_atomic(path) as file:
        figure.savefig(file, dpi=130, format="png")
    pyplot.close(figure)
    return True


def error_bar(summary: Summary) -> list[list[float]] | None:
    """Distances to the ends of the interval, as matplotlib wants them."""
    if np.isnan(summary.low):
        return None
    return [[max(summary.value - summary.low, 0.0)], [max(summary.high - summary.value, 0.0)]]


def write_report(outdir: Path) -> None:
    """Write results.json, results.md and pareto.png about what is finished so far."""
    points = read_points(outdir)
    summaries = summarise(points)
    with open_atomic(outdir / "results.json", "w") as file:
        summary = {v: {name: s._asdict() for name, s in results.items()} for v, results in summaries.items()}
        json.dump(dict(summary=summary, points=points), file, indent=2)
    if not summaries:
        return
    has_figure = draw_pareto(summaries, outdir / "pareto.png") if quality_names(summaries) else False
    with open_atomic(outdir / "results.md", "w") as file:
        file.write(report_text(points, summaries, has_figure))


def report_text(
    points: Sequence[dict[str, Any]], summaries: dict[str, dict[str, Summary]], has_figure: bool
) -> str:
    """The tables with a heading each; those without rows are left out."""
    finished = [point for point in points if point["finished"]]
    pretrained = any(QUALITY.fullmatch(name)["name"] == "fid" for name in quality_names(summaries))  # type: ignore[index]
    parts: list[tuple[str, Callable[[], str]]] = [
        ("Table 1: quality of SSNs against StyleGAN2", lambda: table_1(summaries)),
        ("Table 2: quality against distortion", lambda: f"{table_2(summaries)}\n\n{NOTES}"),
        ("Figure 5: quality against distortion", lambda: "![Pareto plot](pareto.png)" if has_figure else ""),
        ("Figure 8: mean squared step across the border of the block", lambda: borders(finished)),
        ("Samples and resamplings", lambda: links_to_sheets(finished)),
        ("All snapshots", lambda: table_of_snapshots(points)),
        ("Runs", lambda: table_of_runs(points)),
    ]
    text = "" if pretrained else f"{NO_DETECTORS}\n"
    for heading, write in parts:
        content = write().strip()
        if content:
            text += f"## {heading}\n\n{content}\n\n"
    return text.rstrip() + "\n"


def links_to_sheets(points: Sequence[dict[str, Any]]) -> str:
    lines = []
    for point in points:
        for name in point["sheets"].get("files", []):
            lines.append(f"- {label_of(point['variant'])}, seed {point['seed']}: "
                         f"[{name}]({point['folder']}/sheets/{name})")
    return "\n".join(lines)


@click.command(cls=Command)
@click.argument("outdir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(outdir: Path) -> None:
    """Write the report of benchmarks/pareto.py again."""
    write_report(outdir)
    click.echo(f"Tables: {outdir / 'results.md'}")


if __name__ == "__main__":
    main()
