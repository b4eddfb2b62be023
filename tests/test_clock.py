"""Promises of training.run.clock, with a clock that the test sets."""

from __future__ import annotations

import pytest

from dnnlib.util import UserError
from training.run.clock import RunClock, parse_duration


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("text, seconds", [
    ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("1h30m", 5400), ("1d", 86400), (12, 12)])
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "h", "2 h", "-1h", "2h and a bit", "1e3s"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="a time must look like"):
        parse_duration(text)


def test_the_time_of_a_call_is_over_once_it_has_passed():
    time = Time()
    clock = RunClock(1000, stop_after=60, now=time)
    time.now = 59
    assert not clock.is_over
    time.now = 60
    assert clock.is_over
    assert not RunClock(1000, now=time).is_over


def test_snapshots_are_due_a_while_after_the_last():
    time = Time()
    clock = RunClock(1000, snapshot_seconds=10, now=time)
    time.now = 10
    assert clock.snapshot_is_due
    clock.snapshot_taken()
    time.now = 19
    assert not clock.snapshot_is_due


def estimate(total_nimg: int, speed: float, **options) -> list[str]:
    """What a clock says after a slow first step and 20 seconds of training."""
    time = Time()
    clock = RunClock(total_nimg, now=time, **options)
    time.now = 30
    lines = clock.estimate(8)
    time.now = 50
    lines += clock.estimate(8 + int(20 * speed))
    assert clock.estimate(10**6) == []  # once
    return lines


def test_the_end_is_estimated_without_the_first_step():
    (line,) = estimate(36_008, speed=10)
    assert line.startswith("10 images/s: 36.008 kimg will take 59m 40s more, until ")


def test_a_training_of_days_is_warned_of():
    _, warning = estimate(10_000_000, speed=10)
    assert warning.startswith("Warning: that is 12 days.")


def test_a_limited_time_says_how_far_it_gets_and_warns_of_nothing():
    (line,) = estimate(10_000_000, speed=10, stop_after=3650)
    assert line.startswith("10 images/s: 36.2 of 10000 kimg in 1h 00m 00s, until ")
