"""Tables, and the question whether two results may be compared."""

from __future__ import annotations

import json

import pytest

from metrics.report import compare, compare_files, format_comparison, format_table, read_results

FACTS = dict(seed=0, network="n1", num_real=10, num_generated=20, data="d1", detector="i1", resize="r", rounding="x",
             dtype="f", G_kwargs={}, device="cpu", versions=dict(torch="2.1"))


def result(value=1.0, metric="fid50k", **changes):
    facts = {key: fact for key, fact in {**FACTS, **changes}.items() if fact != "absent"}
    return dict(metric=metric, results={metric: value}, provenance=facts)


def write(path, *results):
    path.write_text("".join(json.dumps(line) + "\n" for line in results))
    return str(path)


def test_results_of_two_networks_on_equal_terms_are_comparable():
    comparison = compare(result(10), result(8, network="n2"))
    assert comparison.verdict == "comparable" and not comparison.remarks
    assert "fid50k: 10 -> 8  (-20.0 %)" in format_comparison(comparison)


@pytest.mark.parametrize(("change", "words"), [
    (dict(data="d2"), "data set"), (dict(detector="i2"), "detector"), (dict(num_generated=21), "number of generated"),
    (dict(num_real=11), "number of real"), (dict(rounding="y"), "rounding"),
    (dict(G_kwargs=dict(truncation_psi=0.5)), "network options")])
def test_each_fact_that_moves_the_number_forbids_a_comparison(change, words):
    comparison = compare(result(), result(**change))
    assert comparison.verdict == "not comparable"
    (difference,) = comparison.differences
    assert difference.startswith(words)


def test_other_metrics_are_not_comparable():
    assert compare(result(), result(metric="fid5k")).verdict == "not comparable"


def test_seed_and_versions_are_remarks_only():
    comparison = compare(result(), result(seed=1, network="n2", versions=dict(torch="2.13")))
    assert comparison.verdict == "comparable" and len(comparison.remarks) == 2


def test_a_result_without_provenance_leaves_the_question_open():
    assert compare(result(), dict(metric="fid50k", results=dict(fid50k=2.0))).verdict == "unknown"
    assert compare(result(), result(detector="absent")).verdict == "unknown"
    assert compare(result(data=None), result(data=None)).verdict == "unknown"


def test_files_are_compared_metric_by_metric_by_their_last_lines(tmp_path):
    first = write(tmp_path / "a.jsonl", result(9), result(7), result(1, metric="kid50k"))
    second = write(tmp_path / "b.jsonl", result(5, network="n2"), result(2, metric="pr"))
    (comparison,) = compare_files(first, second)
    assert (comparison.first, comparison.second) == ({"fid50k": 7}, {"fid50k": 5})


@pytest.mark.parametrize(("text", "message"), [
    ("", "holds no results"), ("{", "line 1: not JSON"), ('{"metric": "a"}', "line 1: not a metric result"),
    ('{"metric": "a", "results": {"b": "x"}}', "line 1: not a metric result"),
    ('{"metric": "a\\u001b[2J", "results": {"b": 1}}', "line 1: not a metric result"),
])
def test_a_file_that_holds_no_results_is_named(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ValueError, match=f"x.jsonl.*{message}"):
        read_results(str(tmp_path / "x.jsonl"))


def test_table_shows_intervals_beside_their_value():
    table = format_table([
        dict(results=dict(a=1.234567, a_low=1.0, a_high=1.5, swd_low=3.0)), dict(results=dict(longer_name=2))])
    assert table.splitlines() == ["a            1.2346  [1, 1.5]", "swd_low           3", "longer_name       2"]
