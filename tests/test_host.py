"""The plugin in a copy of this host that does not mention it, and by the adapter for any other host."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import PIL.Image
import pytest
import torch
import warm_python
from network_file_helpers import assert_same_tensors, discriminator, generator, snapshot

from ssn_plugin import from_stylegan2
from ssn_plugin.hosts import host, launch, processes, reference
from training.formats import network_export

ROOT = Path(__file__).resolve().parent.parent
HOST_FILES = ("dnnlib", "torch_utils", "training", "metrics", "legacy.py", "train.py", "generate.py", "calc_metrics.py")
ENVIRONMENT = dict(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def run(words: list[str], cwd: Path, **env: str) -> str:
    """Standard output of a command, which must succeed. Nothing of this checkout is on its path."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return warm_python.run(words, cwd=cwd, env={**inherited, **ENVIRONMENT, **env}, check=True).stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    rnd = np.random.RandomState(0)
    for i in range(8):
        PIL.Image.fromarray(rnd.randint(256, size=[16, 16, 3], dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def copy_host(folder: Path, replacements: dict[str, str]) -> Path:
    """A checkout of this host in which texts are replaced."""
    for name in HOST_FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    absent = set(replacements)
    for path in folder.rglob("*.py"):
        text = path.read_text()
        absent -= {old for old in replacements if old in text}
        for old, new in replacements.items():
            text = text.replace(old, new)
        path.write_text(text)
    assert not absent, "texts to replace that this host does not hold"
    return folder


WITHOUT_PLUGIN = {"ssn_plugin": "absent_plugin", "SSNGenerator": "AbsentGenerator"}
SMALL = ["--blocks=2x2", "--block-dim=8", "--channels=8"]
BRIEF = ["--metrics=none", "--kimg=1", "--batch=64", "--snap=9", "--tick=1", "--aug=noaug", "--workers=1"]


def hashes(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*.py")}


def last_tick(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "stats.jsonl").read_text().splitlines()[-1])


def test_a_host_without_any_mention_of_it_trains_and_resumes_an_ssn(photos, tmp_path):
    """By its own scripts as far as they are open to plugins; its files stay as they are."""
    checkout = copy_host(tmp_path / "host", WITHOUT_PLUGIN)
    assert not any(b"ssn_plugin" in text for text in hashes(checkout).values())
    shutil.copytree(ROOT / "ssn_plugin", checkout / "ssn_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    before = hashes(checkout)
    train = ["train", f"--outdir={tmp_path / 'runs'}", f"--data={photos}", "--cfg=ssn", *BRIEF]
    first = tmp_path / "runs" / "00000-photos-ssn-blocks2x2-lambda100-dim8-channels8-kimg1-batch64-noaug"
    network = f"--network={first / 'network-snapshot-000001.pkl'}"
    commands = [
        [*train, *SMALL],
        ["generate", network, "--seeds=1", "--resample-block=0,1", "--variants=2", f"--outdir={tmp_path / 'out'}"],
        ["metrics", network, "--metrics=ssn_distortion8", "--verbose=no"],
        [*train, network.replace("--network", "--resume"), "--dry-run"],
    ]
    script = "import json, sys; from ssn_plugin.cli import main\n" \
             "for line in json.loads(sys.argv[1]): main(line, standalone_mode=False); print(chr(30))"
    _, images, result, plan, _ = run(["-c", script, json.dumps(commands)], checkout).split("\x1e\n")
    assert np.isfinite(last_tick(first)["Loss/ssn/distortion"]["mean"])
    assert "seed0001-v02.png  change inside" in images
    assert (first / "metric-ssn_distortion8.jsonl").exists() and '"ssn_distortion8"' in result
    assert json.loads(plan)["G_kwargs"]["block_grid"] == [[2, 2]]
    assert hashes(checkout) == before


# Another host: the adapter of which this file asserts that it needs only what all hosts have.

SHARED_NAMES = {
    "dnnlib.make_cache_dir_path", "dnnlib.util", "dnnlib.util.open_url", "dnnlib.util.construct_class_by_name",
    "dnnlib.util.Logger", "legacy.load_network_pkl", "train.setup_training_loop_kwargs", "train.UserError",
    "training.training_loop", "training.training_loop.training_loop", "torch_utils.training_stats",
    "torch_utils.training_stats.init_multiprocessing", "torch_utils.custom_ops", "torch_utils.custom_ops.verbosity",
    "metrics.metric_main", "metrics.metric_main.is_valid_metric", "metrics.metric_main.list_valid_metrics",
    "metrics.metric_main.calc_metric", "metrics.metric_main.report_metric", "metrics.metric_utils",
    "metrics.metric_utils.ProgressMonitor",
}


def names_used(path: Path) -> Iterator[str]:
    """Everything that a file imports, and the attributes that it takes from that: `dnnlib.util.open_url`."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0]: alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    yield from (name for name in imported.values() if "." in name)
    for node in nodes:
        if isinstance(node, ast.Attribute) and (match := re.match(r"(\w+)(\.[a-zA-Z][\w.]*)$", ast.unparse(node))):
            yield imported.get(match[1], "") + match[2]


@pytest.mark.parametrize("name", ["reference", "commands", "launch", "processes", "errors"])
def test_what_serves_another_host_uses_only_names_that_all_hosts_have(name):
    packages = {shared.partition(".")[0] for shared in SHARED_NAMES}
    used = {used for used in names_used(ROOT / "ssn_plugin" / "hosts" / f"{name}.py")
            if used.partition(".")[0] in packages}
    assert used - SHARED_NAMES == set()


def test_another_host_trains_an_ssn_from_a_stylegan2(other_host, photos, tmp_path):
    """A transfer before the start, then the distortion loss."""
    import train

    source = snapshot(generator(resolution=16), discriminator(resolution=16))
    network_export.save_networks(source, tmp_path / "stylegan2.pkl")
    options = dict(data=str(photos), cfg="ssn", gpus=1, metrics=[], aug="noaug", workers=1,
                   resume=str(tmp_path / "stylegan2.pkl"))
    desc, args = launch.plan(train, options, dict(blocks="2x4"))
    assert desc == "photos-ssn-blocks2x4-lambda100-noaug-resumecustom"
    assert args["G_kwargs"]["block_z_dim"] == 8, "that of the network"
    args.update(total_kimg=0.064, batch_size=32, batch_gpu=32, preview_size=[2, 2])
    launch.start(desc, args, str(tmp_path / "runs"))
    run_dir = tmp_path / "runs" / f"00000-{desc}"
    log = (run_dir / "log.txt").read_text()
    assert "G_ema.synthesis.encoder.gate4 is new" in log and "G.mapping" not in log
    assert np.isfinite(last_tick(run_dir)["Loss/ssn/distortion"]["mean"])
    assert (run_dir / "network-snapshot-000000.pkl").exists()


def write_sum(rank: int, arguments: dict[str, Any]) -> None:
    """The job of the test below: the first process writes the sum of a statistic that both report."""
    from torch_utils import training_stats

    collector = training_stats.Collector()
    training_stats.report("number", torch.tensor([rank + 1.0]))
    collector.update()
    if rank == 0:
        Path(arguments["path"]).write_text(f"{collector.num('number')} {collector.mean('number')}")


def write_sum_of_two(path: str) -> None:
    processes.run_processes(write_sum, 2, dict(path=path))


def test_another_host_works_in_two_connected_processes(tmp_path):
    warm_python.call(write_sum_of_two, str(tmp_path / "sum"))
    assert (tmp_path / "sum").read_text() == "2 1.5"


def test_networks_are_read_and_written_by_the_contract_alone(tmp_path):
    source = snapshot(generator(resolution=16))
    network_export.save_networks(source, tmp_path / "stylegan2.pkl")
    networks, _ = from_stylegan2.transfer_networks(reference.load_networks(str(tmp_path / "stylegan2.pkl")), [[2, 2]])
    assert reference.save_networks(networks, str(tmp_path / "ssn.pkl")) == []
    loaded = reference.load_networks(str(tmp_path / "ssn.pkl"))
    assert loaded["training_set_kwargs"] == source["training_set_kwargs"]
    for key in ("G", "D", "G_ema", "augment_pipe"):
        assert_same_tensors(loaded[key], networks[key])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: reference.check_output("x.safetensors"), "this host writes .pkl files only, got x.safetensors"),
    (lambda: reference.save_networks({}, "x.pkl"), "x.pkl would hold no discriminator"),
    (lambda: reference.convert("a.pkl", "b.pkl", trust=False), "convert works in the host of this project only"),
    (lambda: host.require("metrics.taste"), r"not found from .*: metrics.taste$"),
])
def test_what_such_a_host_lacks_is_said(other_host, call, message):
    with pytest.raises(ValueError, match=message):
        call()


class FakeTrain:
    """The names of train.py that the contract lists."""

    class UserError(Exception):
        pass

    @classmethod
    def setup_training_loop_kwargs(cls, cfg=None, gamma=None, **options):
        if cfg == "broken":
            raise cls.UserError("--cfg is broken")
        networks = dict(mapping_kwargs={}, synthesis_kwargs={})
        return f"auto2-{cfg or 'auto2'}-gamma", dict(
            G_kwargs=dict(class_name="G", z_dim=512, w_dim=512, **networks), num_gpus=2,
            loss_kwargs=dict(r1_gamma=gamma or 7), training_set_kwargs=dict(resolution=16),
        )  # fmt: skip


def test_the_options_of_the_plugin_edit_the_tree_of_such_a_host():
    given = dict.fromkeys(("blocks", "distortion_weight", "encoder"), None)
    desc, args = launch.plan(FakeTrain, dict(cfg="ssn"), {**given, "blocks": "2x4"})
    assert desc == "auto2-ssn-blocks2x4-lambda100-gamma", "a data set may be called auto2"
    assert args["G_kwargs"]["class_name"] == "ssn_plugin.networks.SSNGenerator"
    assert args["G_kwargs"]["block_grid"] == [[2, 4]] and args["loss_kwargs"]["r1_gamma"] == 1
    assert launch.plan(FakeTrain, dict(cfg="ssn", gamma=3), given)[1]["loss_kwargs"]["r1_gamma"] == 3
    assert launch.plan(FakeTrain, dict(cfg="paper256"), given)[1]["G_kwargs"]["class_name"] == "G"
    desc, args = launch.plan(FakeTrain, dict(cfg="ssn-plus"), given)
    assert desc == "auto2-ssn-plus-blocks1x1+4x4-lambda100-diversity5-gamma"
    assert args["G_kwargs"]["block_grid"] == [[1, 1], [4, 4]] and args["loss_kwargs"]["diversity_weight"] == 5
    with pytest.raises(ValueError, match="--blocks can only be given with --cfg=ssn or ssn-plus, got --cfg=paper256"):
        launch.plan(FakeTrain, dict(cfg="paper256"), {**given, "blocks": "2x4"})
    with pytest.raises(ValueError, match="--cfg is broken"):
        launch.plan(FakeTrain, dict(cfg="broken"), given)


def test_the_command_has_the_options_of_the_host_and_of_the_plugin():
    command = launch.extended_command(types.SimpleNamespace(main=host_command(), __file__="train.py"))
    names = [param.name for param in command.params]
    assert {"outdir", "mirror", "cfg", "blocks", "distortion_weight"} <= set(names) and len(set(names)) == len(names)
    assert {"ssn", "ssn-plus"} < set(next(param for param in command.params if param.name == "cfg").type.choices)
    with pytest.raises(ValueError, match="train.py has no command whose options could be extended"):
        launch.extended_command(types.SimpleNamespace(__file__="train.py"))


def test_an_option_that_only_the_script_of_the_host_honours_is_left_out():
    @click.pass_context
    def callback(ctx, outdir, again, **options):
        pass

    main = host_command(callback, "again")
    assert launch.script_options(main) == {"ctx", "again"}
    names = {param.name for param in launch.extended_command(types.SimpleNamespace(main=main)).params}
    assert {"outdir", "mirror", "blocks"} < names and "again" not in names


def host_command(callback: Any = None, *further: str) -> click.Command:
    options = [click.Option([f"--{name}"]) for name in ("outdir", "mirror", *further)]
    cfg = click.Option(["--cfg"], type=click.Choice(["auto"]))
    return click.Command("train", params=[*options, cfg], callback=callback)


def test_runs_are_numbered_above_the_highest(tmp_path):
    (tmp_path / "00041-older").mkdir()
    (tmp_path / "notes").mkdir()
    assert Path(launch.make_run_dir(str(tmp_path), "a")).name == "00042-a"
