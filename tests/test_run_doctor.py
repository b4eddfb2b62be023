"""Promises of ssn_plugin.run_doctor, on statistics that tell of one trouble each."""

from __future__ import annotations

import json

import pytest

from ssn_plugin.errors import UserError
from ssn_plugin.run_doctor import examine_run, format_signs

HEALTHY = {
    "Loss/signs/real": 0.6, "Loss/signs/fake": -0.6, "Progress/augment": 0.2, "Progress/skipped_steps": 0,
    "Loss/ssn/diversity": 0.05, "Loss/ssn/distortion": 0.001, "Timing/sec_per_kimg": 1,
}


def signs_of(tmp_path, ticks=20, options=None, **changes):
    """Topics of what is found, of ticks of 5 kimg; a change is a number, or a function of the tick."""
    with open(tmp_path / "stats.jsonl", "w") as file:
        for tick in range(ticks):
            values = {**HEALTHY, "Progress/kimg": 5.0 * tick}
            values |= {name: value(tick) if callable(value) else value for name, value in changes.items()}
            file.write(json.dumps({name: dict(num=1, mean=mean, std=0) for name, mean in values.items()}
                                  | {"timestamp": 0.0}) + "\n")
    (tmp_path / "training_options.json").write_text(json.dumps(options or {}))
    return [sign.topic for sign in examine_run(str(tmp_path)) if sign.advice]


def test_a_healthy_run_has_no_signs(tmp_path):
    assert signs_of(tmp_path, options=dict(total_kimg=1000)) == []
    assert "no sign of trouble" in format_signs(examine_run(str(tmp_path)))


@pytest.mark.parametrize("topic, changes", [
    ("discriminator", {"Loss/signs/real": 0.99, "Loss/signs/fake": -0.99}),
    ("discriminator", {"Loss/signs/real": 0.01, "Loss/signs/fake": -0.01}),
    ("images", {"Progress/augment": 0.9}),
    ("blocks", {"Loss/ssn/diversity": 1e-6, "Loss/ssn/distortion": 1e-8}),
    ("blocks", {"Loss/ssn/diversity": lambda tick: 0.1 if tick < 10 else 1e-3, "Loss/ssn/distortion": 1e-5}),
    ("distortion", {"Loss/ssn/distortion": 0.01}),
    ("distortion", {"Loss/ssn/distortion": lambda tick: 0.001 if tick < 10 else 0.004}),
    ("numbers", {"Loss/G/loss": float("nan")}),
    ("numbers", {"Progress/skipped_steps": lambda tick: tick}),
    ("time", {"Timing/sec_per_kimg": 1000}),
])
def test_each_trouble_is_told_with_what_helps(tmp_path, topic, changes):
    assert signs_of(tmp_path, options=dict(total_kimg=1000), **changes) == [topic]


def test_the_first_images_are_too_early_to_tell(tmp_path):
    assert signs_of(tmp_path, ticks=1, **{"Loss/signs/real": 1, "Loss/signs/fake": -1}) == []
    assert "too early" in format_signs(examine_run(str(tmp_path)))


def test_a_run_without_the_terms_of_an_ssn_is_judged_by_the_rest(tmp_path):
    assert signs_of(tmp_path, **{"Loss/signs/real": 0.99, "Loss/signs/fake": -0.99}) == ["discriminator"]


@pytest.mark.parametrize("text, message", [
    (None, "holds no stats.jsonl"), ("", "is empty"), ("{", "line 1 of .* is damaged"), ("[1]\n", "is damaged")])
def test_what_is_no_run_is_refused_in_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "stats.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        examine_run(str(tmp_path))
