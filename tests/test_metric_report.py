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


def with_interval(value, low, high, **changes):
    return dict(result(**changes), results=dict(d=value, d_low=low, d_high=high))


@pytest.mark.parametrize(("second", "words"), [
    ((2, 1.4, 2.6), "d: 1 [0.5, 1.5] -> 2 [1.4, 2.6]  (+100.0 %)  intervals overlap"),
    ((2, 1.6, 2.4), "d: 1 [0.5, 1.5] -> 2 [1.6, 2.4]  (+100.0 %)  intervals do not overlap"),
    ((2, float("nan"), float("nan")), "d: 1 [0.5, 1.5] -> 2 [nan, nan]  (+100.0 %)"),
])
def test_a_comparison_says_whether_the_intervals_overlap(second, words):
    lines = format_comparison(compare(with_interval(1, 0.5, 1.5), with_interval(*second))).splitlines()
    assert words in [line.strip() for line in lines]


def test_folders_of_results_and_folders_of_runs_can_be_compared(tmp_path):
    for run, value in (("00000-a", 9), ("00001-b", 8), ("00002-c", 7)):
        (tmp_path / "runs" / run).mkdir(parents=True)
        write(tmp_path / "runs" / run / "metric-fid50k.jsonl", result(value, network=run))
    (tmp_path / "runs" / "notes").mkdir()
    file = write(tmp_path / "other.jsonl", result(1, network="o"), result(1, metric="kid"))
    found = compare_files(str(tmp_path / "runs"), file)
    assert [comparison.second["fid50k"] for comparison in found] == [8, 7, 1]
    assert {comparison.names[0] for comparison in found} == {str(tmp_path / "runs" / "00000-a")}
    text = format_comparison(found[2])
    assert text.startswith(f"fid50k, {tmp_path / 'runs' / '00000-a'}, {file}: comparable")


def test_one_result_alone_or_a_folder_without_any_cannot_be_compared(tmp_path):
    file = write(tmp_path / "metric-a.jsonl", result())
    (tmp_path / "empty").mkdir()
    for paths in ([file], [str(tmp_path)], [file, file]):
        with pytest.raises(ValueError, match="at least two results"):
            compare_files(*paths)
    with pytest.raises(ValueError, match="empty has no metric-"):
        compare_files(file, str(tmp_path / "empty"))
