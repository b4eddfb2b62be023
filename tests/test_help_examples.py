"""Every example of every --help runs, and every option of every command is used in a run that succeeds.

Both in a folder that holds the files which the examples name, with tiny networks and data sets. Options at the end of
a line make it quick where the example means hours of work.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import pytest
from bad_inputs import WORKING
from click.testing import CliRunner
from metric_fixtures import write_detectors
from network_file_helpers import discriminator, generator, snapshot
from other_host import in_host_of

from ssn_plugin import cli, from_stylegan2
from ssn_plugin.edits import recipe_files
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.recipe import Picture, Recipe, hash_network
from ssn_plugin.exporting import site
from training.formats import network_export

pytestmark = pytest.mark.usefixtures("own_cache")

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = list(WORKING)
MODULES = dict(plugin="ssn_plugin.cli", reference="ssn_plugin.cli")  # "reference": its commands in another host
# Command -> options that cut its work short.
SHORTER = {
    "train": "--dry-run",
    "reference train": "--dry-run",
    "dataset_tool": "--max-images=2",
    "projector": "--num-steps=1 --candidates=2 --detectors=detectors",
    "calc_metrics": "--metrics=rfid2_full,ssn_distortion2 --gpus=0",
    "reference metrics": "--metrics=ssn_distortion2",
}
# Command -> lines that use every option, but for those of its examples.
RUNS = {
    "train": [
        "--outdir=runs --data=labelled.zip --cfg=ssn --dry-run --gpus=0 --snap=1 --tick=1 --metrics=none --keep=2 "
        "--seed=1 --keep-best=rfid2_full --log=wandb --cond=1 --subset=3 --mirror=1 --gamma=1 --kimg=1 --batch=4 "
        "--batch-gpu=2 --aug=fixed --p=0.2 --augpipe=bg --freezed=1 --fp32=1 --nhwc=1 --nobench=1 --allow-tf32=1 "
        "--cuda-graphs=1 --ema-kimg=5 --workers=1 --g-arch=resnet --d-arch=skip --blocks=2x2 --lambda=10 "
        "--lambda-warmup=1 --diversity=0.1 --diversity-cap=0.2 --diversity-reward=log --distortion-interval=2 "
        "--distortion-reduction=sum --pl-outside=4 --encoder=gated --encoder-init=zero "
        "--style-resolution=8 --block-dim=16 --channels=8 --channels-max=24 --style-mixing=0.5",
        "--outdir=runs --data=castles.zip --dry-run --gpus=0 --metrics=none --target=0.5 --resume=network-snapshot.pkl "
        "--trust-pickle --resume-partial --projected=0 --gan-loss=relativistic --for=1d --snap-every=10m "
        "--compile=1",
        "--outdir=runs --data=castles.zip --dry-run --gpus=0 --metrics=none --cfg=progan --grow-kimg=5 --bf16=1 "
        "--checkpoint-activations=1 --grow-channels=8 --grow-channels-max=32",
        "--outdir=runs --data=castles.zip --dry-run --gpus=0 --metrics=none --cfg=ssn --distortion-space=wasserstein",
        "--outdir=started --continue --trust-run --kimg=2 --dry-run",
    ],
    "generate": [
        "--network=network-snapshot.pkl --seeds=1 --trunc=0.5 --noise-mode=none --resample-block=0,1 --variants=2 "
        "--resample-layers=coarse --variant-seed=3 --outdir=edit --device=cpu --trust-pickle",
        "--network=network-snapshot.pkl --seeds=1 --half --outdir=half",
        "--network=labelled.pkl --seeds=1 --label=0,1,0 --outdir=vector",
        "--network=network-snapshot.pkl --recipe=edit/seed0001-recipe.json --pick=0 --resample-mask=mask.png "
        "--variants=1 --outdir=edit2",
        "--network=network-snapshot.pkl --seeds=1 --resample-block=0 --resample-noise --variants=1 --outdir=noise",
        "--network=network-snapshot.pkl --seeds=1 --resample-block=0 --transplant-from=2 --outdir=transplant",
        "--recipe=edit/seed0001-recipe.json --pick=5 --resample-mask=mask.png --feather=1 --keep-exact --variants=1 "
        "--scale=2 --scale-filter=lanczos --sheet=pdf",
        "--recipe=edit/seed0001-edit1-recipe.json --pick=1 --undo",
        "--recipe=edit/seed0001-edit1-recipe.json --pick=1 --drop=1",
        "--recipe=found/proj-recipe.json --resample-block=0 --variants=1 --paste-into=photo.png",
        "--network=labelled.pkl --seeds=1 --class=1 --outdir=labelled",
        "--network=network-snapshot.pkl --seeds=1,2 --interpolate=2 --space=z --loop --fps=2 --outdir=film",
        "--network=network-snapshot.pkl --seeds=1 --trunc-grid=0,1 --outdir=grid",
        "--network=network-snapshot.pkl --projected-w=w.npz --outdir=projected",
    ],
    "dataset_tool": [
        "--source=photos --dest=a.zip --max-images=1 --resize-filter=box --transform=center-crop --width=16 --height=8 "
        "--force-channels=1 --range=0-4095 --subfolders-as-labels --skip-bad --workers=1",
        "--source=castles --dest=b.zip --max-images=1 --resolution=8x8 --seed=3",
    ],
    "calc_metrics": [
        "--network=network-snapshot.pkl --metrics=ppl4_wend,ls4 --data=castles.zip --mirror=1 --gpus=0 --verbose=0 "
        "--seed=1 --batch=1 --detectors=detectors --classifiers=classifier.pt --ppl-histogram --outdir=results --json "
        "--cache=0 --trust-pickle",
    ],
    "legacy": ["--source=network-snapshot.pkl --dest=half.pkl --force-fp16=1 --trust-pickle"],
    "projector": [
        "--network=labelled.pkl --class=1 --target=photo.png --num-steps=1 --seed=1 --save-video=0 --outdir=proj "
        "--loss=mse --candidates=2 --w-plus --fit-noise=0 --device=cpu --trust-pickle",
        "--network=ssn.pkl --target=photo.png --crop=0,0,20,20 --num-steps=1 --save-video=0 --loss=edges "
        "--candidates=0 --stay=0.001 --tune --tune-steps=1 --outdir=tuned",
        "--network=ssn.pkl --target=photo.png --center=20,20,8 --num-steps=1 --save-video=0 --loss=edges "
        "--candidates=0 --outdir=center",
    ],
    "style_mixing": [
        "--network=labelled.pkl --class=1 --rows=1 --cols=2 --styles=0 --trunc=0.5 --noise-mode=none --outdir=mix "
        "--device=cpu --trust-pickle",
    ],
    "plugin transfer": [
        "stylegan2.pkl more.pkl --blocks=2x2 --encoder=gated --encoder-init=random --style-resolution=8 "
        "--seed=3 --trust-pickle",
    ],
    "plugin convert": ["network-snapshot.pkl trusted.pkl --trust-pickle"],
    "plugin export": [
        "ssn.pkl halves --format=torch --dtype=float16 --licence=MIT --trust-pickle",
        "ssn.pkl site --format=page --runtime=runtime",
    ],
    "reference generate": [
        "--network=network-snapshot.pkl --seeds=1 --trunc=0.5 --noise-mode=none --resample-block=0,1 --variants=2 "
        "--resample-layers=coarse --variant-seed=3 --outdir=pedit --device=cpu --trust-pickle",
        "--network=network-snapshot.pkl --recipe=pedit/seed0001-recipe.json --pick=0 --resample-mask=mask.png "
        "--variants=1 --outdir=pedit2",
        "--network=network-snapshot.pkl --seeds=1 --resample-block=0 --resample-noise --variants=1 --outdir=pnoise",
        "--network=network-snapshot.pkl --seeds=1 --resample-block=0 --transplant-from=2 --outdir=ptransplant",
        "--network=labelled-ssn.pkl --seeds=1 --class=1 --outdir=plabelled",
    ],
    "reference metrics": [
        "--network=network-snapshot.pkl --metrics=ssn_distortion2 --data=castles.zip --mirror=1 --gpus=1 --verbose=0 "
        "--trust-pickle",
    ],
    "plugin doctor": ["--cfg=ssn --resolution=16 --gpus=0 --batch=4 --outdir=runs"],
}
RUNS["reference train"] = RUNS["train"][:4]  # all but the carrying on, which belongs to the script


def main_of(command: str) -> tuple[Any, list[str]]:
    """The click command of a script, and the words that choose its sub-command."""
    script, _, sub = command.partition(" ")
    return importlib.import_module(MODULES.get(script, script)).main, [sub] if sub else []


def run(command: str, line: str):
    main, sub = main_of(command)
    with in_host_of(command):
        result = CliRunner().invoke(main, [*sub, *shlex.split(line)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    # Two exit codes are answers: results that cannot be compared, a machine that will not do.
    fine = (0, 1) if command.endswith((" report", " doctor")) else (0,)
    assert result.exit_code in fine, f"{line}: {result.output}"
    return result


def options_of(command: str) -> set[str]:
    main, sub = main_of(command)
    with in_host_of(command):
        chosen = main.get_command(click.Context(main), sub[0]) if sub else main
    return {max(param.opts, key=len) for param in chosen.params if isinstance(param, click.Option)}


def examples_of(command: str) -> list[str]:
    """What follows `Examples:` at the end of --help."""
    main, sub = main_of(command)
    with in_host_of(command):
        text = CliRunner().invoke(main, [*sub, "--help"], prog_name=cli.PROGRAM).stdout
    assert "Examples:\n" in text, f"the help of {command} has no examples"
    return [line.strip() for line in text.rpartition("Examples:\n")[2].splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with every file that the examples and the lines above name."""
    folder = tmp_path_factory.mktemp("examples")
    rnd = np.random.RandomState(0)
    for name in ("photo.png", "photos/sea/0.png", "photos/town/0.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rnd.randint(256, size=[40, 60, 3], dtype=np.uint8)).save(path)
    PIL.Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(folder / "mask.png")
    run("dataset_tool", f"--source=castles --dest={folder / 'castles.zip'} --max-images=3 --resolution=32x32")
    for i in range(4):
        (folder / "classes" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rnd.randint(256, size=[32, 32, 3], dtype=np.uint8)).save(
            folder / "classes" / str(i % 2) / f"{i}.png")
    run("dataset_tool", f"--source={folder / 'classes'} --dest={folder / 'labelled.zip'} --subfolders-as-labels")
    (folder / "started").mkdir()
    options = run("train", f"--outdir=runs --data={folder / 'castles.zip'} --gpus=0 --metrics=none --dry-run").stdout
    (folder / "started" / "training_options.json").write_text(options)
    write_networks(folder)
    write_detectors(folder / "detectors")
    shutil.copy(write_classifier(folder), folder / "classifier.pt")
    line = dict(results=dict(fid50k_full=9.0), metric="fid50k_full", snapshot_pkl="network-snapshot-000001.pkl")
    for name in ("run1/metric-fid50k_full.jsonl", "run2/metric-fid50k_full.jsonl", "baseline.jsonl", "changed.jsonl",
                 "results/baseline/metric-fid50k_full.jsonl", "results/changed/metric-fid50k_full.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(line) + "\n")
    return folder


def write_networks(folder):
    data = dict(class_name="training.dataset.ImageFolderDataset", path=str(folder / "castles.zip"))
    plain = snapshot(generator(resolution=32), discriminator(resolution=32))
    networks, _ = from_stylegan2.transfer_networks(plain, [[4, 4]])
    for name in ("network-snapshot", "ssn"):
        network_export.save_networks({**networks, "training_set_kwargs": data}, folder / f"{name}.pkl")
    for name in ("network-snapshot-001000", "stylegan2", "stylegan2-ffhq-config-f"):
        network_export.save_networks({**plain, "training_set_kwargs": data}, folder / f"{name}.pkl")
    labelled = snapshot(generator(c_dim=3, resolution=32), discriminator(c_dim=3, resolution=32))
    network_export.save_networks(labelled, folder / "labelled.pkl")
    network_export.save_networks(from_stylegan2.transfer_networks(labelled, [[4, 4]])[0], folder / "labelled-ssn.pkl")
    np.savez(folder / "w.npz", w=np.zeros([1, networks["G_ema"].num_ws, networks["G_ema"].w_dim], dtype=np.float32))
    write_found_recipe(folder, networks["G_ema"])
    (folder / "release").mkdir()
    write_export_folder(folder / "plugin export", data)


def write_export_folder(folder, data):
    """With the smallest network, since each of its operations takes long to export."""
    (folder / "runtime").mkdir(parents=True)
    for name in site.RUNTIME_FILES:
        (folder / "runtime" / name).touch()
    networks, _ = from_stylegan2.transfer_networks(snapshot(), [[2, 2]])
    network_export.save_networks({**networks, "training_set_kwargs": data}, folder / "ssn.pkl")


def write_found_recipe(folder, G):
    """As projector.py writes for photo.png."""
    w = np.zeros([1, 1, G.w_dim], dtype=np.float32)
    found = Recipe("ssn.pkl", hash_network(G), seed=303, found=Arrays.of({"w": w}),
                   picture=Picture("photo.png", 60, 40, (10, 0, 50, 40)), network_path=str(folder / "ssn.pkl"))
    (folder / "found").mkdir()
    recipe_files.write_recipe(found, folder / "found" / "proj-recipe.json")


def write_classifier(folder):
    """A file that --classifiers takes."""
    import torch
    from metric_fixtures import save_torchscript

    class Brightness(torch.nn.Module):
        def forward(self, img: torch.Tensor) -> torch.Tensor:
            return img.mean(dim=[1, 2, 3])[:, None]

    return save_torchscript(Brightness(), folder / "brightness.pt")


@pytest.fixture
def in_folder(folder, monkeypatch, request):
    """The examples are run here, or below in the folder of the command, and the library of --log=wandb seems to be
    installed."""
    own = folder / request.node.callspec.params["command"] if hasattr(request.node, "callspec") else folder
    monkeypatch.chdir(own if own.is_dir() else folder)
    wandb = types.ModuleType("wandb")
    wandb.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_two_commands_that_run(command, in_folder):
    examples = examples_of(command)
    assert len(examples) == 2
    script, _, sub = command.partition(" ")
    start = cli.PROGRAM if script in MODULES else f"python {script}.py"
    start = f"{start} {sub}" if sub else start
    for example in examples:
        assert example.startswith(start + " ") or example == start
        sub_of_another = re.match(r"python calc_metrics.py report (.*)", example)  # an example of the group shows it
        if sub_of_another and command == "calc_metrics":
            run("calc_metrics report", sub_of_another[1])
        else:
            run(command, f"{example.removeprefix(start)} {SHORTER.get(command, '')}")


def test_the_help_of_the_plugin_ends_with_two_commands_that_run(in_folder):
    examples = examples_of("plugin")
    assert len(examples) == 2
    for example in examples:
        command, _, rest = example.removeprefix(f"{cli.PROGRAM} ").partition(" ")
        run(f"plugin {command}", rest)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_used_in_a_run_that_succeeds(command, in_folder):
    lines = RUNS.get(command, [])
    for line in lines:
        run(command, line)
    words = " ".join([*lines, *examples_of(command), SHORTER.get(command, "")]).split()
    used = {word.partition("=")[0] for word in words}
    assert options_of(command) - used == set(), "options that no test uses"


def test_every_command_is_among_them():
    assert {f"plugin {name}" for name in cli.main.commands} <= set(COMMANDS)


@pytest.mark.parametrize(("name", "script"), [
    ("train", "train"), ("generate", "generate"), ("metrics", "calc_metrics"), ("project", "projector"),
    ("mix", "style_mixing"), ("dataset", "dataset_tool"), ("edit", "edit"),
])  # fmt: skip
def test_the_other_commands_of_the_plugin_are_the_scripts_under_its_name(name, script):
    assert cli.script_command(name) is main_of(script)[0]
    lines = examples_of(f"plugin {name}")
    assert lines and all(line.startswith(f"{cli.PROGRAM} {name} ") for line in lines)


def documented_options() -> dict[str, list[str]]:
    """Script -> options in the tables of docs/training.md, as often as they are there."""
    text = (ROOT / "docs" / "training.md").read_text()
    section = re.search(r"^## Options\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    train, _, others = section[1].partition("### The other scripts")
    first_cells = [line.split("|")[1] for line in train.splitlines() if line.startswith("| `-")]
    tables = {"train": " ".join(first_cells)}
    tables |= {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)\.py` (.*)$", others, re.MULTILINE)}
    return {script: re.findall(r"`(--[\w-]+)`", cells) for script, cells in tables.items()}


def test_the_tables_of_options_name_each_option_of_each_script_once():
    documented = documented_options()
    assert documented.keys() == {command for command in COMMANDS if " " not in command}
    for script, options in documented.items():
        assert len(set(options)) == len(options), script
        assert set(options) == options_of(script), script
