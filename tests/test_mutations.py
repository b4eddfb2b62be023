"""benchmarks/mutations.py: the same damage every time, and processes that break a limit are noticed."""

from __future__ import annotations

import sys

import pytest

from benchmarks import mutations


@pytest.mark.parametrize("kind", mutations.KINDS)
def test_a_damaged_file_is_the_same_every_time_and_file_0_is_whole(kind):
    make, _, read = mutations.KINDS[kind]
    good = make()
    files = [mutations.mutation(kind, number, good) for number in range(20)]
    assert files == [mutations.mutation(kind, number, good) for number in range(20)]
    assert len(set(files)) > 15
    for data in good:
        read(data)


WORKER = """
import sys
print("ready", flush=True)
print("start 7", flush=True)
print('end 7 "refused"', flush=True)
print("start 8", flush=True)
"""


@pytest.mark.parametrize("end, outcome", [
    ("while True: pass", "over the limits"),
    ("memory = bytearray(2**28)\nfor i in range(0, 2**28, 4096): memory[i] = 1\nsys.stdin.read()", "over the limits"),
    ("import os; os.abort()", "crash"),
    ("print('end 8 \"accepted\"')", "accepted"),
])
def test_a_process_that_breaks_a_limit_is_noticed(end, outcome, monkeypatch):
    monkeypatch.setattr(mutations, "MAX_SECONDS", 0.3)
    monkeypatch.setattr(mutations, "MAX_BYTES", 2**27)
    watch = mutations.Watch([sys.executable, "-c", WORKER + end])
    seen = [(number, what) for number, what, _, _ in watch.outcomes()]
    watch.close()
    assert seen == [(7, "refused"), (8, outcome)]
