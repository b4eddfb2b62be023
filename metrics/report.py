"""Results for people: a table, and whether two results may be compared."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from dnnlib.util import UserError, printable

# Facts of a result line that two comparable results share, with the words for them.
MUST_AGREE = {
    "num_real": "number of real images",
    "num_generated": "number of generated images",
    "num_pairs": "number of pairs",
    "data": "data set",
    "detector": "detector",
    "classifiers": "classifiers",
    "G_kwargs": "network options",
    "resize": "resizing",
    "rounding": "rounding",
    "noise": "noise maps",
    "dtype": "number formats",
}
# Facts that may differ between comparable results, but are worth a word.
WORTH_A_WORD = {"seed": "seed", "versions": "software versions", "device": "device"}


def format_table(results: Iterable[dict[str, Any]]) -> str:
    """The results as lines of name, value and, where there is one, 95 % interval."""
    rows = [row for result in results for row in _rows(result["results"])]
    if not rows:
        return "no results"
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = (f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval}" for name, value, interval in rows)
    return "\n".join(line.rstrip() for line in lines)


def _rows(values: dict[str, float]) -> Iterable[tuple[str, str, str]]:
    for key, value in values.items():
        owner, _, bound = key.rpartition("_")
        if bound in ("low", "high") and {f"{owner}_low", f"{owner}_high", owner} <= set(values):
            continue   # shown beside its owner
        interval = ""
        if f"{key}_low" in values and f"{key}_high" in values:
            interval = f"[{format_value(values[f'{key}_low'])}, {format_value(values[f'{key}_high'])}]"
        yield key, format_value(value), interval


def format_value(value: float) -> str:
    return f"{value:.5g}"


def read_results(path: str) -> list[dict[str, Any]]:
    """Results of a JSON or JSON-lines file. `ValueError` naming file and line for anything else."""
    results = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                result = json.loads(line)
            except (ValueError, RecursionError) as err:
                raise UserError(f"{path}, line {number}: not JSON ({err})") from err
            if not _is_result(result):
                raise UserError(f"{path}, line {number}: not a metric result: it needs a name as 'metric' and numbers "
                                "by their names as 'results'")
            results.append(result)
    if not results:
        raise UserError(f"{path} holds no results")
    return results


def _is_result(value: Any) -> bool:
    """Is this a line of results, with names that can be shown and values that can be computed with?"""
    if not isinstance(value, dict) or not isinstance(value.get("results"), dict):
        return False
    names, numbers = [value.get("metric"), *value["results"]], value["results"].values()
    return (all(isinstance(name, str) and name.isprintable() for name in names)
            and all(type(number) in (int, float) for number in numbers)
            and isinstance(value.get("provenance"), (dict, type(None))))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two results of one metric, and what speaks against comparing them."""

    metric: str
    first: dict[str, float]
    second: dict[str, float]
    differences: list[str]   # each forbids a comparison
    unknown: list[str]       # facts that at least one result does not state
    remarks: list[str]
    names: tuple[str, str] | None = None   # where they come from, where that must be said

    @property
    def verdict(self) -> str:
        """`comparable`, `not comparable` or `unknown`."""
        return "not comparable" if self.differences else "unknown" if self.unknown else "comparable"


def compare(
    first: dict[str, Any], second: dict[str, Any], names: tuple[str, str] | None = None
) -> Comparison:
    """Compare two results; those without provenance, as another host writes them, can only be `unknown`."""
    differences, unknown, remarks = [], [], []
    if first["metric"] != second["metric"]:
        differences.append(f"metric: {first['metric']} and {second['metric']}")
    facts = [result.get("provenance") or {} for result in (first, second)]
    if not all(facts):
        unknown.append("one result does not say what it was computed from")
    else:
        for key, words in MUST_AGREE.items():
            a, b = (fact.get(key) for fact in facts)
            if a != b and key in facts[0] and key in facts[1]:
                differences.append(f"{words}: {_brief(a)} and {_brief(b)}")
            elif (key in facts[0]) != (key in facts[1]):
                unknown.append(f"{words}: stated by one result only")
            elif key == "data" and key in facts[0] and a is None:
                unknown.append(f"{words}: it has no file that could be identified")
        for key, words in WORTH_A_WORD.items():
            a, b = (fact.get(key) for fact in facts)
            if a != b:
                remarks.append(f"{words}: {_brief(a)} and {_brief(b)}")
        if facts[0].get("network") is not None and facts[0].get("network") == facts[1].get("network"):
            remarks.append("both are of the same network")
    return Comparison(first["metric"], first["results"], second["results"], differences, unknown, remarks, names)


def _brief(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 70 else text[:12] + "..."


def find_sources(paths: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """The last result of every metric, by metric, in each of the given files and folders.

    A folder stands for the results in it, or for its sub-folders that have any, as a folder of runs does.
    """
    sources: dict[str, dict[str, dict[str, Any]]] = {}
    for path in paths:
        folders = [path] if os.path.isdir(path) else []
        if folders and not result_files(path):
            folders = sorted(entry.path for entry in os.scandir(path) if entry.is_dir() and result_files(entry.path))
            if not folders:
                raise UserError(f"{path} has no metric-*.jsonl, nor has any folder in it")
        for source in folders or [path]:
            files = result_files(source) if folders else [source]
            sources[source] = {result["metric"]: result for file in files for result in read_results(file)}
    if len(sources) < 2:
        raise UserError(f"a comparison needs at least two results, got {', '.join(sources)}")
    return sources


def result_files(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "metric-*.jsonl")))


def compare_files(*paths: str) -> list[Comparison]:
    """Compare results metric by metric: those of the first file or folder that has it with those of each other one.

    Two files without a common metric are compared by their last results, which says why they are not comparable.
    """
    sources = find_sources(paths)
    comparisons = []
    for metric in dict.fromkeys(metric for results in sources.values() for metric in results):
        first, *others = [name for name, results in sources.items() if metric in results]
        for other in others:
            names = (first, other) if len(sources) > 2 else None
            comparisons.append(compare(sources[first][metric], sources[other][metric], names))
    if not comparisons:
        newest = [list(results.values())[-1] for results in sources.values()]
        comparisons = [compare(newest[0], newest[1])]
    return comparisons


def format_comparison(comparison: Comparison) -> str:
    """A few lines for a terminal."""
    names = "".join(f", {printable(name, None)}" for name in comparison.names or ())
    lines = [f"{comparison.metric}{names}: {comparison.verdict}"]
    for (key, a, interval_a), (other, b, interval_b) in itertools.product(
        _rows(comparison.first), _rows(comparison.second)
    ):
        if key == other:
            lines.append(f"  {key}: {f'{a} {interval_a}'.strip()} -> {f'{b} {interval_b}'.strip()}"
                         f"{_change(comparison, key)}{_overlap(comparison, key)}")
    lines += [f"  differs: {text}" for text in comparison.differences]
    lines += [f"  not known: {text}" for text in comparison.unknown]
    lines += [f"  note: {text}" for text in comparison.remarks]
    return "\n".join(lines)


def _change(comparison: Comparison, key: str) -> str:
    a, b = comparison.first[key], comparison.second[key]
    return f"  ({(b / a - 1) * 100:+.1f} %)" if a not in (0, b) and abs(a) < float("inf") else ""


def _overlap(comparison: Comparison, key: str) -> str:
    """Whether the 95 % intervals have a value in common; nothing where a result has none."""
    bounds = [side.get(f"{key}_{bound}", float("nan"))
              for side in (comparison.first, comparison.second) for bound in ("low", "high")]
    if any(map(math.isnan, bounds)):
        return ""
    low_a, high_a, low_b, high_b = bounds
    return "  intervals overlap" if low_a <= high_b and low_b <= high_a else "  intervals do not overlap"
