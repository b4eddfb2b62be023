"""`training.png`: the statistics and metrics of a run drawn against its progress."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import math
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any, TypeGuard

import dnnlib
from training.run.run_folders import OPTIONS_FILE

Curve = dict[float, float]  # thousands of images -> value, in the order of training

# Told apart by colour-blind people too (Okabe and Ito).
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
WIDTH, HEIGHT = 4.6, 2.9  # of a panel with its labels, in inches
MOST_COLUMNS = 3
# Statistics of the plugin, Loss/<group>/<term>: title and y label of the group, label of the term.
GROUPS = {"ssn": ("Change when a block is redrawn", "mean squared change")}
TERMS = {"distortion": "outside the block (distortion)", "diversity": "inside the block (diversity)"}


@dataclasses.dataclass
class Panel:
    """One set of axes."""

    title: str
    curves: dict[str, Curve]                # label -> points
    y_label: str = ""
    may_be_log: bool = False                # in powers of ten, if the values are positive and span more than one
    markers: bool = False                   # show the points, which are few
    bands: dict[str, tuple[Curve, Curve]] = dataclasses.field(default_factory=dict)  # label -> confidence interval
    limits: tuple[float, float] | None = None
    level: tuple[str, float] | None = None  # label and height of a horizontal line


def draw_training_plot(run_dir: str) -> str | None:
    """Draw `<run_dir>/training.png` from `stats.jsonl` and `metric-*.jsonl`; lines that are not whole are passed over.

    Returns its path, or None where matplotlib is missing or no tick has been recorded. Raises OSError if the picture
    cannot be written; an earlier one then stays as it was.
    """
    try:
        import matplotlib.figure  # noqa: F401 - takes a second, if it is there at all
    except ImportError:
        return None
    stats = read_stats(run_dir)
    if not stats:
        return None
    options = read_options(run_dir)
    panels = choose_panels(stats, read_metrics(run_dir), options)
    last_kimg = max(kimg for curve in stats.values() for kimg in curve)
    figure = draw_figure(panels, describe_run(run_dir, stats, options), last_kimg)
    path = os.path.join(run_dir, "training.png")
    with dnnlib.util.open_atomic(path) as file:
        figure.savefig(file, format="png")
    return path


def draw_figure(panels: list[Panel], title: list[str], last_kimg: float) -> Any:
    """A figure of matplotlib with the lines of the title above the panels, which go from 0 to `last_kimg`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    head = 0.35 + 0.22 * len(title)  # inches
    width, height = WIDTH * columns, HEIGHT * rows + head
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)  # not pyplot, which would touch the windows and settings of the process
    figure.suptitle("\n".join(title), fontsize=10, y=1 - 0.1 / height, va="top")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.set_xlim(0, max(last_kimg, 1e-3))
        draw_panel(axes, panel)
    figure.subplots_adjust(
        left=0.6 / width, right=1 - 0.2 / width, bottom=0.55 / height, top=1 - (head + 0.2) / height,
        wspace=0.24, hspace=0.5,
    )
    return figure


def read_stats(run_dir: str) -> dict[str, Curve]:
    """Statistic -> curve of its means. What a resumed run repeats replaces what was written before it."""
    stats: dict[str, Curve] = {}
    newest = -math.inf
    for tick in read_json_lines(os.path.join(run_dir, "stats.jsonl")):
        means = {name: entry["mean"] for name, entry in tick.items() if isinstance(entry, dict) and "mean" in entry}
        kimg = means.get("Progress/kimg")
        if not _is_number(kimg):
            continue
        if kimg <= newest:
            stats = {name: {x: y for x, y in curve.items() if x < kimg} for name, curve in stats.items()}
        newest = kimg
        for name, mean in means.items():
            if _is_number(mean):
                stats.setdefault(name, {})[kimg] = mean
    return {name: curve for name, curve in stats.items() if curve}


def read_metrics(run_dir: str) -> dict[str, dict[str, Curve]]:
    """Metric -> result -> curve. Of results that belong to the same snapshot the latest counts."""
    metrics: dict[str, dict[str, Curve]] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(run_dir), "metric-*.jsonl"))):
        for line in read_json_lines(path):
            results, snapshot = line.get("results"), re.search(r"snapshot-(\d+)", str(line.get("snapshot_pkl")))
            if not isinstance(results, dict) or snapshot is None:
                continue
            for name, value in results.items():
                if _is_number(value):
                    curves = metrics.setdefault(str(line.get("metric")), {})
                    curves.setdefault(name, {})[float(snapshot[1])] = value
    for curves in metrics.values():
        curves.update({name: dict(sorted(curve.items())) for name, curve in curves.items()})
    return metrics


def read_options(run_dir: str) -> dict[str, Any]:
    """The arguments that the run was started with; empty where they are not known."""
    try:
        with open(os.path.join(run_dir, OPTIONS_FILE), encoding="utf-8") as file:
            options = json.load(file)
    except (OSError, ValueError):
        return {}
    return options if isinstance(options, dict) else {}


def read_json_lines(path: str) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one per line. A run that was killed leaves half a line: those are passed over."""
    if not os.path.exists(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def _is_number(value: Any) -> TypeGuard[float]:
    """Is this something that can be drawn?"""
    return isinstance(value, (int, float)) and math.isfinite(value)


def choose_panels(
    stats: dict[str, Curve], metrics: dict[str, dict[str, Curve]], options: dict[str, Any]
) -> list[Panel]:
    """What there is to see in a run, without what it has not measured."""
    def pick(names: dict[str, str]) -> dict[str, Curve]:
        return {label: stats[name] for label, name in names.items() if name in stats}

    target, strength = options.get("ada_target"), stats.get("Progress/augment", {})
    is_augmented = "augment_kwargs" in options or any(strength.values())
    signs = {"real images": "Loss/signs/real", "generated images": "Loss/signs/fake"}
    if is_augmented:
        signs["p of the augmentation"] = "Progress/augment"
    panels = [
        Panel("Losses", pick({"generator": "Loss/G/loss", "discriminator": "Loss/D/loss"}), "main loss"),
        Panel("Regularisation", pick({"path length": "Loss/G/reg", "R1": "Loss/D/reg"}), "weighted loss", True),
        Panel(
            "Discriminator and augmentation", pick(signs), "mean sign of the output" + ", p" * is_augmented,
            limits=(-1.05, 1.05), level=("target for real images", target) if _is_number(target) else None,
        ),
    ]
    # What extensions report, such as Loss/ssn/distortion, apart from the host's own groups.
    extra = [re.fullmatch(r"Loss/(?!(?:G|D|scores|signs)/)(\w+)/(.+)", name) for name in stats]
    terms = [match for match in extra if match]
    for group in dict.fromkeys(match[1] for match in terms):
        curves = {TERMS.get(match[2], match[2]): stats[match[0]] for match in terms if match[1] == group}
        title, y_label = GROUPS.get(group, (group, ""))
        panels.append(Panel(title, curves, y_label, may_be_log=True))
    panels += [metric_panel(metric, curves) for metric, curves in metrics.items()]
    return [panel for panel in panels if panel.curves] or [Panel("Progress", pick({"kimg": "Progress/kimg"}))]


def metric_panel(metric: str, curves: dict[str, Curve]) -> Panel:
    """The results of one metric; `x_low` and `x_high` become a band around `x`."""
    bands = {name: (curves[f"{name}_low"], curves[f"{name}_high"])
             for name in curves if f"{name}_low" in curves and f"{name}_high" in curves}
    ends = {f"{name}_{end}" for name in bands for end in ("low", "high")}
    label = {name: name.removeprefix(f"{metric}_") for name in curves}
    return Panel(
        metric, {label[name]: curve for name, curve in curves.items() if name not in ends}, may_be_log=True,
        markers=True, bands={label[name]: band for name, band in bands.items()},
    )


def draw_panel(axes: Any, panel: Panel) -> None:
    """Draw a panel on the axes of matplotlib; the legend states the latest values."""
    for color, (label, curve) in zip(itertools.cycle(COLORS), panel.curves.items()):
        x, y = list(curve), list(curve.values())
        marker = "o" if panel.markers or len(x) == 1 else ""
        axes.plot(x, y, color=color, linewidth=1.3, marker=marker, markersize=3, label=f"{label}  {y[-1]:.3g}")
        if label in panel.bands:
            low, high = panel.bands[label]
            shared = [kimg for kimg in low if kimg in high]
            axes.fill_between(shared, [low[kimg] for kimg in shared], [high[kimg] for kimg in shared], color=color,
                              alpha=0.2, linewidth=0)
    values = [value for curve in panel.curves.values() for value in curve.values()]
    if panel.may_be_log and max(values) > 10 * min(values) > 0:
        use_log_scale(axes)
    if panel.limits is not None:
        axes.set_ylim(min(panel.limits[0], *values), max(panel.limits[1], *values))
    if panel.level is not None:
        label, height = panel.level
        axes.axhline(height, color="0.4", linewidth=0.9, linestyle="--", label=f"{label}  {height:.3g}")
    axes.set_title(panel.title, fontsize=10, fontweight="bold", loc="left")
    axes.set_xlabel("thousand real images (kimg)", fontsize=8)
    axes.set_ylabel(panel.y_label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="best")


def use_log_scale(axes: Any) -> None:
    """Powers of ten on the y axis, with numbers a person reads off: 0.01, 0.02, 0.05, 0.1."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def describe_run(run_dir: str, stats: dict[str, Curve], options: dict[str, Any]) -> list[str]:
    """Lines for the top of the picture: the name of the run, how far it is, how long it took."""
    def latest(name: str) -> float | None:
        return next(reversed(stats[name].values())) if name in stats else None

    kimg, seconds, pace = (latest(name) for name in ("Progress/kimg", "Timing/total_sec", "Timing/sec_per_kimg"))
    total = options.get("total_kimg")
    progress = f"{kimg:.1f} kimg" if total is None else f"{kimg:.1f} of {total:g} kimg"
    if seconds is not None:
        progress += f" in {dnnlib.util.format_time(seconds)}"
    if pace:
        progress += f", {1000 / pace:.3g} images per second"
    name = os.path.basename(os.path.abspath(run_dir))
    return [*textwrap.wrap(name, 110, break_long_words=True), progress]
