"""Whether a training run goes well, from its `stats.jsonl`: signs of trouble, and what helps."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ssn_plugin.errors import UserError

Line = dict[str, float]   # statistic -> mean over a tick

RECENT = 5               # ticks that the present is judged by
TELLS_ALL_APART = 0.9    # mean sign of the logits of real images, at which the discriminator is (nearly) never wrong
TOO_FEW_IMAGES = 0.8     # augmentation probability from which on even that does not keep it from memorising
DEAD = 1e-4              # mean squared change inside a redrawn block that nobody sees
LEAKS = 0.1              # change outside a block as a share of that inside, from which on it is no local edit
EARLY_KIMG = 5           # before this, statistics are those of noise


@dataclasses.dataclass(frozen=True)
class Sign:
    """One line about a run."""

    topic: str
    text: str
    advice: str = ""   # what helps; empty where all is well


def read_stats(run_dir: str) -> list[Line]:
    """Means of every tick, those of statistics that have any. Raises UserError for a folder that is none of a run."""
    path = os.path.join(run_dir, "stats.jsonl")
    if not os.path.isfile(path):
        raise UserError(f"{run_dir} is no run that has come as far as its first tick: it holds no stats.jsonl")
    lines = []
    with open(path, encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            try:
                stats = json.loads(text)
                lines.append({name: float(value["mean"]) for name, value in stats.items()
                              if isinstance(value, dict) and value.get("num") and value.get("mean") is not None})
            except (ValueError, TypeError, KeyError, AttributeError) as err:
                raise UserError(f"line {number} of {path} is damaged: {err}") from err
    if not lines:
        raise UserError(f"{path} is empty: the run has not come as far as its first tick")
    return lines


def read_options(run_dir: str) -> dict[str, Any]:
    """The run's training_options.json, empty if it cannot be read: the statistics tell most."""
    try:
        with open(os.path.join(run_dir, "training_options.json"), encoding="utf-8") as file:
            options = json.load(file)
    except (OSError, ValueError):
        return {}
    return options if isinstance(options, dict) else {}


def examine_run(run_dir: str) -> list[Sign]:
    """What the statistics of a run say."""
    return list(signs(read_stats(run_dir), read_options(run_dir)))


def signs(lines: Sequence[Line], options: dict[str, Any]) -> Iterator[Sign]:
    """Signs of trouble, most serious first; a line that says so where there is none."""
    kimg = lines[-1].get("Progress/kimg", 0.0)
    yield Sign("progress", f"{kimg:.1f} kimg in {len(lines)} ticks")
    found = [sign for check in CHECKS for sign in check(lines, options)]
    if kimg < EARLY_KIMG and not found:
        yield Sign("course", f"too early to tell: ask again after {EARLY_KIMG} kimg")
    elif not found:
        yield Sign("course", "no sign of trouble")
    yield from found


def format_signs(found: Sequence[Sign], width: int = 100) -> str:
    """The report, a paragraph per sign, with what helps below."""
    lines = []
    for sign in found:
        head = f"{'CAREFUL' if sign.advice else 'ok':8}{sign.topic:14}"
        lines += textwrap.wrap(sign.text, width, initial_indent=head, subsequent_indent=" " * len(head))
        if sign.advice:
            lines += textwrap.wrap(sign.advice, width, initial_indent=" " * len(head) + "-> ",
                                   subsequent_indent=" " * len(head) + "   ")
    return "\n".join(lines)


def recent(lines: Sequence[Line], name: str) -> float | None:
    """Mean of a statistic over the last ticks that have it."""
    values = [line[name] for line in lines if name in line][-RECENT:]
    return sum(values) / len(values) if values else None


def lowest_before(lines: Sequence[Line], name: str) -> float | None:
    """The lowest mean over RECENT ticks in a row, of those before the recent ones."""
    values = [line[name] for line in lines if name in line][:-RECENT]
    means = [sum(values[i:i + RECENT]) / RECENT for i in range(len(values) - RECENT + 1)]
    return min(means) if means else None


def check_numbers(lines: Sequence[Line], options: dict[str, Any]) -> Iterator[Sign]:
    skipped = sum(line.get("Progress/skipped_steps", 0) > before.get("Progress/skipped_steps", 0)
                  for before, line in zip(lines, lines[1:]))
    broken = sorted({name for line in lines[-RECENT:] for name, value in line.items() if not math.isfinite(value)})
    if broken:
        yield Sign("numbers", f"{', '.join(broken[:3])} is not finite",
                   "go back to an earlier snapshot with --resume; a smaller --lambda, a larger --gamma or --fp32=1")
    elif skipped > 1:
        yield Sign("numbers", f"steps were skipped in {skipped} ticks, since gradients were not finite",
                   "one now and then does no harm; more come of half precision (--fp32=1) or a large --lambda")


def check_discriminator(lines: Sequence[Line], options: dict[str, Any]) -> Iterator[Sign]:
    real, fake = recent(lines, "Loss/signs/real"), recent(lines, "Loss/signs/fake")
    kimg = lines[-1].get("Progress/kimg", 0.0)
    if real is None or fake is None or kimg < EARLY_KIMG:
        return
    p = recent(lines, "Progress/augment") or 0.0
    if real > TELLS_ALL_APART and fake < -TELLS_ALL_APART:
        is_projected = options.get("loss_kwargs", {}).get("adversarial") == "hinge"
        advice = "carry on without --projected" if is_projected else "a larger --gamma (five times)"
        advice += "; more images"
        if "augment_kwargs" not in options and options:
            advice += "; --aug=ada, which this run does without"
        right = f"{(real + 1) / 2:.0%} of real and {(1 - fake) / 2:.0%} of generated images"
        yield Sign("discriminator", f"wins: it tells {right} right, so that the generator learns little", advice)
    elif abs(real - fake) < 0.05 and kimg > 10 * EARLY_KIMG:
        yield Sign("discriminator", "tells nothing apart", "a smaller --gamma; a wider network (--channels)")
    if p > TOO_FEW_IMAGES:
        count = options.get("training_set_kwargs", {}).get("max_size")
        yield Sign("images", f"too few{f' ({count})' if count else ''}: the augmentation has reached p = {p:.2f}",
                   "--mirror=1; more images; --resume from a network of similar images, perhaps with --freezed=2; "
                   "a narrower network")


def check_collapse(lines: Sequence[Line], options: dict[str, Any]) -> Iterator[Sign]:
    now, best = recent(lines, "Loss/ssn/diversity"), None
    if now is None:
        return
    values = [line["Loss/ssn/diversity"] for line in lines if "Loss/ssn/diversity" in line][:-RECENT]
    best = max(values, default=None)
    kimg = lines[-1].get("Progress/kimg", 0.0)
    if kimg < EARLY_KIMG:
        return
    if now < DEAD:
        yield Sign("blocks", f"are dead: a redrawn one changes by {now:.1e} inside", REWARD)
    elif best is not None and now < best / 30:
        yield Sign("blocks", f"die: a redrawn one changes by {now:.1e} inside, it was {best:.1e}", REWARD)


REWARD = ("--cfg=ssn-plus, or --diversity=5: a reward for blocks that do something; a smaller --lambda, or "
          "--lambda-warmup of a fifth of the training")


def check_distortion(lines: Sequence[Line], options: dict[str, Any]) -> Iterator[Sign]:
    kimg = lines[-1].get("Progress/kimg", 0.0)
    name = "Loss/ssn/distortion"
    outside, inside = recent(lines, name), recent(lines, "Loss/ssn/diversity")
    if outside is None or inside is None or kimg < 10 * EARLY_KIMG:
        return
    before = lowest_before(lines, name)
    if before is not None and outside > 3 * before:
        yield Sign("distortion", f"rises: {outside:.1e} outside a redrawn block, it was {before:.1e}",
                   "a larger --lambda; go back to the snapshot before it rose with --resume")
    elif inside > DEAD and outside > LEAKS * inside:
        yield Sign("distortion", f"is {outside / inside:.0%} of the change inside: redraws are seen all over the image",
                   "a larger --lambda; --cfg=ssn-plus, whose global code holds what blocks share")


def check_length(lines: Sequence[Line], options: dict[str, Any]) -> Iterator[Sign]:
    kimg, seconds = lines[-1].get("Progress/kimg", 0.0), recent(lines, "Timing/sec_per_kimg")
    total = options.get("total_kimg")
    if seconds is None or not isinstance(total, (int, float)) or options.get("stop_after"):
        return
    days = (total - kimg) * seconds / 86400
    if days > 2:
        yield Sign("time", f"{total:g} kimg will take {days:.0f} more days",
                   "--continue --for=8h, or a smaller --kimg; smaller images that grow later with --resume")


CHECKS = (check_numbers, check_discriminator, check_collapse, check_distortion, check_length)
