"""Choices behind the defaults of SSNs, one at a time: train variants with one budget, and compare them.

    python benchmarks/ablations.py --outdir=results/ablations --data=castles64.zip --kimg=20 --source=stylegan2.pkl
    python benchmarks/ablations.py --outdir=results/ablations --data=castles64.zip --kimg=40 --only=grid,warm-up

From a source the gates of the encoder start closed unless told otherwise, and open without one. All further options are
those of benchmarks/pareto.py, which trains, scores and draws the points; what is finished is not done again. Every
variant differs from `--cfg=ssn-plus` by the options that are named, so all ablations share that point.

    OUTDIR/ablations.md    a table for each ablation
    OUTDIR/points/ ...     what benchmarks/pareto.py writes
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import pareto
from benchmarks.pareto_report import (
    NO_DETECTORS,
    SSN_RESULTS,
    format_summary,
    markdown_table,
    quality_names,
    read_points,
    summarise,
)
from dnnlib.util import UserError, open_atomic
from training.cli import Command

DEFAULT = "default"  # the point that all ablations share
BASE = "--cfg=ssn-plus"
RESULTS = [name for name in SSN_RESULTS if name in ("distortion", "diversity", "locality")]


@dataclasses.dataclass(frozen=True)
class Ablation:
    """One choice: what is asked, and the options of train.py beside BASE of each answer; the default's are none."""

    question: str
    variants: Mapping[str, str]


ABLATIONS = {
    "encoder": Ablation("Does the spatial encoder help, and should its gates start open, as the paper's does?", {
        "gated": "", "gates start open": "--encoder-init=random", "none": "--encoder=none"}),
    "styles": Ablation("How fine must style maps be?", {
        "from the grid": "", "16 pixels": "--style-resolution=16", "32 pixels": "--style-resolution=32",
        "exact": "--style-resolution=0"}),
    "interval": Ablation("How often are distortion and reward computed?", {
        "every step": "", "every 4th": "--distortion-interval=4", "every 8th": "--distortion-interval=8"}),
    "grid": Ablation("How many blocks?", {
        "4x4": "", "2x2": "--blocks=1x1+2x2", "8x8": "--blocks=1x1+8x8"}),
    "mixing": Ablation("Should styles be mixed?", {"90 % of images": "", "never": "--style-mixing=0"}),
    "reduction": Ablation("Mean over the pixels outside, or sum over the blocks outside, which is 15 times as much?", {
        "mean": "", "sum": "--distortion-reduction=sum"}),
    "path-length": Ablation("Should path lengths weigh what lies outside a block more (Eq. 15 of the paper)?", {
        "as StyleGAN2": "", "outside 4 times": "--pl-outside=4"}),
    "warm-up": Ablation("Should lambda grow from 0?", {"no": "", "over 10 kimg": "--lambda-warmup=10"}),
    "reward": Ablation("What keeps blocks diverse, and the picture whole?", {
        "logarithmic reward, global code": "",
        "linear reward, global code": "--diversity=1 --diversity-cap=0.3 --diversity-reward=linear",
        "global code": "--diversity=0",
        "logarithmic reward": "--blocks=4x4",
        "neither": "--diversity=0 --blocks=4x4"}),
}


def variant_name(ablation: str, label: str, options: str) -> str:
    """Name of the point of a variant: letters, digits and hyphens."""
    return f"{ablation}-{label.replace(',', '').replace(' ', '-')}" if options else DEFAULT


def variants_of(names: Iterable[str]) -> dict[str, str]:
    """Point -> options of train.py beside BASE, over the named ablations."""
    return {variant_name(name, label, options): options
            for name in names for label, options in ABLATIONS[name].variants.items()}


def page(points: Sequence[dict[str, Any]]) -> str:
    """A table for each ablation with at least two variants among the points."""
    summaries = summarise(points)
    columns = [*quality_names(summaries), *RESULTS]
    parts = [f"Default: `{BASE}`.", "" if any(n[:3] == "fid" for n in columns) else NO_DETECTORS.strip()]
    for name, ablation in ABLATIONS.items():
        rows = []
        for label, options in ablation.variants.items():
            variant = variant_name(name, label, options)
            if variant in summaries:
                numbers = [format_summary(summaries[variant].get(column)) for column in columns]
                rows.append([label, f"`{options}`" if options else "default", *numbers])
        if len(rows) > 1:
            table = markdown_table([name, "options", *columns], rows)
            parts.append(f"## {ablation.question}\n\n{table}")
    return "\n\n".join(filter(None, parts)) + "\n"


@click.command(cls=Command, context_settings=dict(ignore_unknown_options=True))
@click.option("--outdir", required=True, metavar="DIR", help="Where everything goes; the same one resumes")
@click.option("--only", metavar="NAME,...", help=f"Some of {', '.join(ABLATIONS)}  [default: all]")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS OF pareto.py]")
def main(outdir: str, only: str | None, options: tuple[str, ...]) -> None:
    """Compare --cfg=ssn-plus with variants, one choice at a time."""
    names = only.split(",") if only else list(ABLATIONS)
    unknown = [name for name in names if name not in ABLATIONS]
    if unknown:
        raise UserError(f"--only must be some of {', '.join(ABLATIONS)}, got {unknown[0]}")
    given = [option.partition("=")[0] for option in options]
    for option in ("--lambdas", "--baseline", "--no-baseline", "--variant"):
        if option in given:
            raise UserError(f"{option} cannot be given, the ablations decide")
    variants = [f"--variant={name}: {BASE} {text}" for name, text in variants_of(names).items()]
    try:
        pareto.main([*options, f"--outdir={outdir}", "--lambdas=", "--no-baseline", *variants], standalone_mode=False)
    finally:  # a variant that failed does not keep the others from the page
        points = read_points(Path(outdir))
        if any(point["finished"] for point in points):
            with open_atomic(Path(outdir, "ablations.md"), "w", encoding="utf-8") as file:
                file.write(page(points))
            click.echo(f"Page: {Path(outdir, 'ablations.md')}")


if __name__ == "__main__":
    main()
