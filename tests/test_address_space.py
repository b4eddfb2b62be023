"""Commands run where the address space is limited, as clusters limit it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import warm_python

ROOT = Path(__file__).resolve().parent.parent

# One process for all commands, since much of the time would go into importing.
CODE = """
import gzip, importlib, pathlib, resource, shlex
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from click.testing import CliRunner
rows = b"\\x00\\x00\\x08\\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28)) + bytes(2 * 28 * 28)
pathlib.Path("train-images-idx3-ubyte.gz").write_bytes(gzip.compress(rows))
pathlib.Path("train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\\x00\\x00\\x08\\x01\\x00\\x00\\x00\\x02\\x00\\x01"))
for module, line in [
    ("dataset_tool", "--source=castles --dest=castles.zip --max-images=8 --resolution=64x64 --workers=1"),
    ("dataset_tool", "--source=train-images-idx3-ubyte.gz --dest=digits.zip --workers=1"),
    ("legacy", "--source=demo:castles64 --dest=copy.pkl"),
    ("generate", "--network=copy.pkl --seeds=1 --resample-block=0,1 --variants=1 --outdir=out --device=cpu"),
    ("generate", "--network=copy.pkl --recipe=out/seed0001-recipe.json --outdir=again --device=cpu"),
    ("style_mixing", "--network=copy.pkl --rows=1 --cols=2 --styles=0 --outdir=mix --device=cpu"),
    ("projector", "--network=copy.pkl --target=out/seed0001.png --num-steps=1 --save-video=0 --outdir=proj "
                  "--loss=mse --device=cpu"),
    ("calc_metrics", "--network=copy.pkl --metrics=ssn_distortion2 --gpus=0 --cache=0"),
    ("train", "--outdir=runs --data=castles.zip --cfg=auto --gpus=0 --metrics=none --dry-run"),
    ("ssn_plugin.cli", "convert copy.pkl again.pkl"),
]:
    result = CliRunner().invoke(importlib.import_module(module).main, shlex.split(line))
    if result.exit_code != 0:
        raise SystemExit(f"{module} {line}: {result.output} {result.exception}")
"""


def test_every_command_works_in_four_gigabytes_of_address_space(tmp_path):
    pytest.importorskip("resource")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    warm_python.run(["-c", CODE], cwd=tmp_path, env=env, check=True)
