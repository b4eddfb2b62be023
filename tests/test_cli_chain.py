"""The main job as a user runs it: draw a data set, train, resample a block; three commands in fresh processes.

The only test where scripts start in an interpreter of their own throughout: importing torch takes seconds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import warm_python

ROOT = Path(__file__).resolve().parent.parent


def run(script, *arguments):
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", str(ROOT / script), *arguments],
        capture_output=True, text=True, timeout=300, env=dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""),
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def pixels(path):
    return np.asarray(PIL.Image.open(path))


def test_castles_become_a_network_whose_blocks_can_be_redrawn(tmp_path):
    data, runs, out = tmp_path / "castles.zip", tmp_path / "runs", tmp_path / "out"
    run("dataset_tool.py", "--source=castles", f"--dest={data}", "--resolution=16x16", "--max-images=64")
    run(
        "train.py", f"--outdir={runs}", f"--data={data}", "--cfg=ssn", "--blocks=2x2", "--block-dim=8", "--channels=8",
        "--kimg=1", "--tick=0.25", "--snap=2", "--batch=32", "--aug=noaug", "--metrics=none",
    )
    (run_dir,) = runs.iterdir()
    assert run_dir.name == "00000-castles-ssn-blocks2x2-lambda100-dim8-channels8-kimg1-batch32-noaug"
    ticks = [json.loads(line) for line in (run_dir / "stats.jsonl").read_text().splitlines()]
    assert len(ticks) >= 4 and all(np.isfinite(tick["Loss/ssn/distortion"]["mean"]) for tick in ticks)
    assert {"reals.png", "fakes_init.png", "log.txt", "training_options.json"} <= {p.name for p in run_dir.iterdir()}

    snapshot = run_dir / "network-snapshot-000001.pkl"
    printed = run(
        "generate.py", f"--network={snapshot}", "--seeds=7", f"--outdir={out}", "--resample-block=0,1", "--variants=3"
    )
    assert all(word in printed for word in ("v01", "v02", "v03", "inside", "outside"))
    original = pixels(out / "seed0007.png")
    assert original.shape == (16, 16, 3)
    for number in range(1, 4):
        assert not np.array_equal(pixels(out / f"seed0007-v{number:02d}.png"), original)
    assert {"seed0007-sheet.png", "seed0007-change.png", "seed0007-recipe.json"} <= {p.name for p in out.iterdir()}

    again = tmp_path / "again"
    warm_python.run(
        ["generate.py", f"--network={snapshot}", f"--recipe={out / 'seed0007-recipe.json'}", f"--outdir={again}"], ROOT,
        check=True)
    for path in out.glob("*.png"):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
