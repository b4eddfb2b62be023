"""Does this checkout compute the same bits as another one, say an earlier commit of it?

    git worktree add ../earlier 3c7828c
    python benchmarks/same_bits.py --other=../earlier

Trains small networks in both checkouts with the same seed (`ssn`, `ssn-plus` and `auto`, with and without augmentation)
and redraws a block of each SSN with `generate.py`. Compares the reported losses, all tensors of the snapshots, and
the pixels of the images. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SIDE, IMAGES = 16, 64           # pixels and number of the castles to train on
KIMG, BATCH = 0.064, 8          # 8 steps, two of them with path lengths, one with R1
RUNS: dict[str, dict[str, Any]] = {
    "ssn": dict(cfg="ssn", aug="noaug"),
    "ssn-augmented": dict(cfg="ssn", aug="ada", augpipe="bgc"),
    "ssn-plus": dict(cfg="ssn-plus", aug="noaug", distortion_interval=2),
    "auto": dict(cfg="auto", aug="noaug"),
    "auto-augmented": dict(cfg="auto", aug="ada"),
}
CLOCKS = ("Timing/", "Resources/", "Progress/augment_kimg")   # statistics that differ between any two runs

# Executed in each checkout, which may be of an earlier layout: it uses only what the host's contract names.
TRAIN = """
import json, os, sys
import train
from training.training_loop import training_loop
kimg, runs = json.loads(sys.argv[1])
for run_dir, options in runs.items():
    os.makedirs(run_dir)
    _, args = train.setup_training_loop_kwargs(**options)
    args.G_kwargs.synthesis_kwargs.channel_max = args.D_kwargs.channel_max = 32
    args.update(run_dir=run_dir, total_kimg=kimg, kimg_per_tick=kimg / 2)
    training_loop(**args)
"""


@click.command(help=__doc__)
@click.option("--other", required=True, metavar="DIR", help="The checkout to compare with")
def main(other: str) -> None:
    checkouts = [ROOT, Path(other).resolve()]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "castles.zip")
        run(ROOT, "dataset_tool.py", "--source=castles", f"--dest={data}", f"--resolution={SIDE}x{SIDE}",
            f"--max-images={IMAGES}")
        outputs = []
        for number, checkout in enumerate(checkouts):
            outputs.append(Path(folder, str(number)))
            make(checkout, outputs[-1], dict(data=str(data), gpus=0, metrics=[], batch=BATCH))
        differences = [line for name in RUNS for line in compare(*(output / name for output in outputs))]
    click.echo("\n".join(differences) or "No bit differs.")
    sys.exit(1 if differences else 0)


def make(checkout: Path, output: Path, common: dict[str, Any]) -> None:
    """Train all runs in a checkout, then redraw a block where the network has blocks."""
    click.echo(f"Training in {checkout}")
    run(checkout, "-c", TRAIN, json.dumps([KIMG, {str(output / name): common | own for name, own in RUNS.items()}]))
    for name, options in RUNS.items():
        if options["cfg"].startswith("ssn"):
            (network,) = (output / name).glob("network-snapshot-*.pkl")
            run(checkout, "generate.py", f"--network={network}", "--seeds=1", "--resample-block=1,2", "--variants=2",
                f"--outdir={output / name / 'redrawn'}")


def run(checkout: Path, *arguments: str) -> None:
    result = subprocess.run([sys.executable, *arguments], cwd=checkout, capture_output=True, text=True)
    if result.returncode:
        raise click.ClickException(f"{checkout}: {result.stderr.strip()[-2000:]}")


def compare(ours: Path, theirs: Path) -> Iterator[str]:
    """What differs between two runs, a line each."""
    readers: dict[str, Callable[[Path], Mapping[str, Any]]] = dict(
        statistic=read_statistics, tensor=read_tensors, image=read_images)
    for kind, read in readers.items():
        here, there = read(ours), read(theirs)
        click.echo(f"{ours.name}: {len(here)} {kind}s compared")
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                yield f"{ours.name}: {kind} {name} differs"


def read_statistics(run_dir: Path) -> dict[str, str]:
    """`name tick` -> what was reported, but for times and memory."""
    lines = (run_dir / "stats.jsonl").read_text().splitlines()
    return {f"{name} {tick}": json.dumps(value) for tick, line in enumerate(lines)
            for name, value in json.loads(line).items() if not name.startswith(CLOCKS) and name != "timestamp"}


def read_tensors(run_dir: Path) -> dict[str, bytes]:
    """Name -> bytes of all parameters and buffers of a snapshot's networks."""
    sys.path.insert(0, str(ROOT))
    import legacy

    (path,) = run_dir.glob("network-snapshot-*.pkl")
    with open(path, "rb") as file:
        networks = legacy.load_network_pkl(file)
    return {f"{key}.{name}": tensor.numpy().tobytes() for key in ("G", "D", "G_ema")
            for name, tensor in networks[key].state_dict().items()}


def read_images(run_dir: Path) -> dict[str, bytes]:
    """Name -> pixels of previews, redrawn images and variants; sheets and heat maps are drawings, not results."""
    paths = [path for path in run_dir.rglob("*.png") if path.stem.split("-")[-1] not in ("sheet", "change", "training")]
    return {str(path.relative_to(run_dir)): np.asarray(Image.open(path)).tobytes() for path in paths}


if __name__ == "__main__":
    main()
