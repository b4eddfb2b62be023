"""Results for people: a table, and whether two results may be compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from dnnlib.util import UserError

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

    @property
    def verdict(self) -> str:
        """`comparable`, `not comparable` or `unknown`."""
        return "not comparable" if self.differences else "unknown" if self.unknown else "comparable"


def compare(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
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
    return Comparison(f"{first['metric']}", first["results"], second["results"], differences, unknown, remarks)


def _brief(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 70 else text[:12] + "..."


def compare_files(first_path: str, second_path: str) -> list[Comparison]:
    """Compare the last result of every metric in one file with that of the same metric in the other."""
    first, second = ({result["metric"]: result for result in read_results(path)} for path in (first_path, second_path))
    common = [metric for metric in first if metric in second]
    if common:
        return [compare(first[metric], second[metric]) for metric in common]
    return [compare(list(first.values())[-1], list(second.values())[-1])]


def format_comparison(comparison: Comparison) -> str:
    """A few lines for a terminal."""
    lines = [f"{comparison.metric}: {comparison.verdict}"]
    for key, a in comparison.first.items():
        if key in comparison.second:
            b = comparison.second[key]
            change = f"  ({(b / a - 1) * 100:+.1f} %)" if a not in (0, b) and abs(a) < float("inf") else ""
            lines.append(f"  {key}: {format_value(a)} -> {format_value(b)}{change}")
    lines += [f"  differs: {text}" for text in comparison.differences]
    lines += [f"  not known: {text}" for text in comparison.unknown]
    lines += [f"  note: {text}" for text in comparison.remarks]
    return "\n".join(lines)
