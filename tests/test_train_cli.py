"""train.py as a command: dry run, refusals, the run folder, carrying on. The training loop itself is replaced."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

import train
from training import launch
from training.formats.network_names import short_names
from training.run import run_folders
from training.run.cfgs import cfg_names

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory with two 16x16 images in `photos`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i in range(2):
        PIL.Image.fromarray(np.full([16, 16, 3], 90 * i, dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path


@pytest.fixture
def calls(monkeypatch):
    """Replaces the training loop; lists the arguments of its calls."""
    calls = []

    def training_loop(**kwargs):
        print("training starts")
        calls.append(kwargs)
        return True

    monkeypatch.setattr("training.training_loop.training_loop", training_loop)
    return calls


def run(*args):
    return CliRunner().invoke(train.main, [str(arg) for arg in args])


def test_dry_run_prints_the_tree_and_creates_nothing(folder, calls):
    before = sorted(folder.rglob("*"))
    result = run("--outdir=out", "--data=photos", "--cfg=ssn", "--blocks=2x2", "--dry-run")
    assert result.exit_code == 0
    desc, args = train.setup_training_loop_kwargs(data="photos", cfg="ssn", blocks="2x2")
    assert json.loads(result.stdout) == args
    assert desc in result.stderr and "2 images of 16x16 in photos" in result.stderr
    assert calls == []
    assert sorted(folder.rglob("*")) == before


def test_a_run_gets_a_numbered_folder_with_its_options_and_its_log(folder, calls):
    (folder / "out" / "00041-older").mkdir(parents=True)
    (folder / "out" / "notes").mkdir()
    result = run("--outdir=out", "--data=photos", "--cfg=ssn", "--kimg=3", "--metrics=none")
    assert result.exit_code == 0, result.output
    run_dir = folder / "out" / "00042-photos-ssn-blocks4x4-lambda100-kimg3"
    saved = json.loads((run_dir / "training_options.json").read_text())
    assert calls == [dict(saved, rank=0)]
    assert list(saved)[-1] == "run_dir" and Path(saved["run_dir"]).resolve() == run_dir
    assert saved["total_kimg"] == 3
    log = (run_dir / "log.txt").read_text()
    assert '"total_kimg": 3' in log
    assert log.endswith("training starts\n")


def test_runs_are_numbered_from_zero(folder):
    assert Path(run_folders.make_run_dir("out", "a")).name == "00000-a"
    assert Path(run_folders.make_run_dir("out", "b")).name == "00001-b"


def test_two_runs_that_start_at_once_get_a_folder_each(folder, monkeypatch):
    mkdir = os.mkdir
    rivals: list[str] = []

    def slower_mkdir(path, *args):
        if "00000" in path and not rivals:
            rivals.append(path)
            mkdir(path)  # the other run was faster
        mkdir(path, *args)

    monkeypatch.setattr(os, "mkdir", slower_mkdir)
    assert Path(run_folders.make_run_dir("out", "a")).name == "00001-a"
    assert rivals


@pytest.mark.parametrize(("args", "message"), [
    (["--gpus=3"], "Error: --gpus must be a power of two, or 0 for the CPU, got 3"),
    (["--keep=0"], "Error: --keep must be at least 1, got 0"),
    (["--keep-best=fid"], "Error: --keep-best must be none or among "),
    (["--batch=12", "--batch-gpu=8"], "Error: batch_size must be a multiple of batch_gpu * num_gpus = 8 * 1, got 12"),
    (["--log=mlflow"], "Error: --log must be one of wandb, got mlflow"),
    (["--continue"], "Error: --outdir must be the folder of a run, out holds no training_options.json"),
    (["--cfg=ssn", "--blocks=3x3"], "Error: grid 3x3 does not divide the 16x16 image"),
    (["--blocks=4x4"], "Error: --blocks can only be given with --cfg=ssn"),
    (["--lambda=-2", "--cfg=ssn"], "Error: --lambda must be at least 0, got -2"),
    (["--data=nowhere"], "Error: --data: "),
    (["--resume=lost.pkl"], "Error: --resume must be an existing file, a URL, noresume, latest or one of "
                            f"{', '.join(short_names())}, got lost.pkl"),
    (["--kimg=ten"], "Error: Invalid value for '--kimg': 'ten' is not a valid integer."),
    (["--cfg=huge"], "Error: Invalid value for '--cfg': 'huge' is not one of"),
])
def test_a_refused_run_ends_with_one_line_and_exit_code_2_and_leaves_no_folder(folder, calls, args, message):
    result = run("--outdir=out", "--data=photos", "--metrics=none", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert calls == []
    assert not (folder / "out").exists()


def test_an_outdir_that_is_a_file_is_refused(folder, calls):
    result = run("--outdir=photos/0.png", "--data=photos", "--metrics=none")
    assert (result.exit_code, result.stderr) == (2, "Error: --outdir must be a folder, got photos/0.png\n")
    assert calls == []


def test_metrics_that_cannot_be_had_are_refused_before_the_folder_exists(folder, calls, monkeypatch):
    def no_network(metrics, rank):
        raise OSError(f"cannot download the detector of {metrics[0]}")

    monkeypatch.setattr("training.run.construction.load_metrics", no_network)
    result = run("--outdir=out", "--data=photos")
    assert (result.exit_code, result.stderr) == (2, "Error: cannot download the detector of fid50k_full\n")
    assert calls == []
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("given", "expected"), [
    ("none", []), ("", []), ("fid50k_full", ["fid50k_full"]), ("kid50k,is50k", ["kid50k", "is50k"]),
])
def test_metrics_are_separated_by_commas_and_none_means_none(folder, given, expected):
    result = run("--outdir=out", "--data=photos", "--dry-run", f"--metrics={given}")
    assert json.loads(result.stdout)["metrics"] == expected


def test_help_ends_with_two_commands_that_run(folder):
    result = run("--help")
    commands = [shlex.split(line) for line in result.output.splitlines()[-2:]]
    assert all(command[:2] == ["python", "train.py"] for command in commands)
    assert any("--cfg=ssn" in command for command in commands)
    (folder / "photos").rename(folder / "castles.zip")  # a folder serves as well as a zip
    for command in commands:
        assert run(*command[2:], "--dry-run").exit_code == 0


def test_the_script_itself_prints_a_refusal_without_a_traceback(folder):
    command = [sys.executable, str(ROOT / "train.py"), "--outdir=out", "--data=photos", "--snap=0"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "Error: --snap must be at least 1, got 0\n"


# Carrying on


OPTIONS = ("--data=photos", "--cfg=ssn", "--metrics=none")


@pytest.fixture
def started(folder, calls):
    """A run in `out` with a state, which calls is not to list. Returns its folder."""
    assert run("--outdir=out", *OPTIONS, "--kimg=3").exit_code == 0
    (run_dir,) = (folder / "out").iterdir()
    (run_dir / "training-state-000001.pt").touch()
    calls.clear()
    return run_dir


def recorded(run_dir):
    return json.loads((run_dir / "training_options.json").read_text())


def test_continue_takes_the_recorded_options_and_goes_on_in_the_same_folder(started, calls):
    before = recorded(started)
    result = run(f"--outdir={started}", "--continue")
    assert result.exit_code == 0, result.output
    assert calls == [dict(before, rank=0, resume_run=True, run_dir=str(started))]
    assert (started / "log.txt").read_text().count("training starts") == 2


def test_continue_may_change_what_does_not_change_the_learning(started, calls, folder):
    (folder / "photos").rename(folder / "moved")
    result = run(f"--outdir={started}", "--continue", "--data=moved", "--kimg=9", "--snap=7", "--keep=3", "--workers=2",
                 "--metrics=is50k", "--keep-best=ppl2_wend", "--dry-run")
    assert result.exit_code == 0, result.output
    args = json.loads(result.stdout)
    assert args["training_set_kwargs"]["path"] == "moved" and args["data_loader_kwargs"]["num_workers"] == 2
    assert (args["total_kimg"], args["keep"], args["keep_best"]) == (9, 3, "ppl2_wend")
    assert args["image_snapshot_ticks"] == args["network_snapshot_ticks"] == 7
    assert args["metrics"] == ["is50k", "ppl2_wend"]
    same = ("G_kwargs", "D_kwargs", "loss_kwargs", "batch_size", "batch_gpu", "random_seed")
    assert all(args[name] == recorded(started)[name] for name in same)


@pytest.mark.parametrize(("args", "message"), [
    (["--gamma=2"], "--gamma cannot be given for a run that carries on, only --gpus, --snap, --snap-every, --for, "),
    (["--lambda=2"], "--lambda cannot be given for a run that carries on"),
    (["--kimg=0"], "--kimg must be at least 1, got 0"),
    (["--data=nowhere"], "--data: "),
])
def test_continue_refuses_other_changes(started, calls, args, message):
    result = run(f"--outdir={started}", "--continue", *args)
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {message}") and calls == []


def test_a_data_set_that_has_lost_images_is_refused(started, calls, folder):
    (folder / "photos" / "1.png").unlink()
    result = run(f"--outdir={started}", "--continue")
    assert result.stderr == "Error: --data must hold the 2 images of the run, got 1\n" and calls == []


def test_a_run_without_any_snapshot_starts_over_in_its_folder(started, calls):
    (started / "training-state-000001.pt").unlink()
    (started / "stats.jsonl").write_text("{}\n")
    assert run(f"--outdir={started}", "--continue").exit_code == 0
    assert len(calls) == 1 and not (started / "stats.jsonl").exists()


def test_networks_without_a_state_are_not_thrown_away(started, calls):
    (started / "training-state-000001.pt").rename(started / "network-snapshot-000001.pkl")
    result = run(f"--outdir={started}", "--continue")
    assert result.stderr == (f"Error: {started} holds networks but no training state to carry on from; --resume=PKL "
                             "starts a new run from a network\n") and calls == []


def test_damaged_options_are_refused(started):
    for content in ("{", "[]", "{}"):
        (started / "training_options.json").write_text(content)
        result = run(f"--outdir={started}", "--continue")
        assert result.exit_code == 2 and "training_options.json" in result.stderr and result.stderr.count("\n") == 1


def change_options(run_dir, **changes):
    (run_dir / "training_options.json").write_text(json.dumps({**recorded(run_dir), **changes}))


@pytest.mark.parametrize(("changes", "place"), [
    (dict(augment_kwargs=dict(class_name="subprocess.Popen", args=["touch", "harm"]), augment_p=0.5),
     "subprocess.Popen as augment_kwargs.class_name"),
    (dict(training_set_kwargs=dict(class_name="training.dataset.os.system")),
     "training.dataset.os.system as training_set_kwargs.class_name"),
    (dict(loss_kwargs=dict(class_name="ssn_plugin.loss.DistortionLoss", distortion_function="harm.run")),
     "harm.run as loss_kwargs.distortion_function"),
    (dict(G_opt_kwargs=dict(class_name=["os.system"])), "['os.system'] as G_opt_kwargs.class_name"),
    (dict(D_kwargs=dict(class_name="training.networks.Discriminator", block_kwargs=[dict(func_name="\x1b[2J")])),
     "\\x1b[2J as D_kwargs.block_kwargs.func_name"),
])
def test_a_run_folder_cannot_name_what_is_called(started, calls, changes, place):
    change_options(started, **changes)
    result = run(f"--outdir={started}", "--continue")
    assert result.exit_code == 2 and calls == []
    path = os.path.join(started, "training_options.json")
    assert result.stderr == (f"Error: {path} names {place}, which is none of the classes of this host and its plugins; "
                             "--trust-run lets it be called\n")


def test_a_trusted_run_folder_may_name_a_class_of_its_own(started, calls):
    change_options(started, G_opt_kwargs=dict(class_name="torch.optim.SGD", lr=0.1))
    assert run(f"--outdir={started}", "--continue").exit_code == 2
    assert run(f"--outdir={started}", "--continue", "--trust-run").exit_code == 0 and len(calls) == 1
    result = run("--outdir=out", *OPTIONS, "--trust-run")
    assert result.stderr == "Error: --trust-run can only be given with --continue\n"


def test_trust_in_a_pickle_is_never_taken_from_a_run_folder(started, calls):
    change_options(started, resume_pkl="network.pkl", trust_pickle=True)
    assert run(f"--outdir={started}", "--continue").exit_code == 0 and "trust_pickle" not in calls[0]
    assert run(f"--outdir={started}", "--continue", "--trust-pickle").exit_code == 0 and calls[1]["trust_pickle"]


@pytest.mark.parametrize(("changes", "message"), [
    (dict(abortfn=1), "holds an option that no run has: abortfn"),
    (dict(training_set_kwargs=dict(class_name="training.dataset.ImageFolderDataset", path="photos", colour=3)),
     "training_set_kwargs: training.dataset.ImageFolderDataset has no argument colour"),
    (dict(G_kwargs=dict(class_name="ssn_plugin.networks.SSNGenerator", hats=1)),
     "G_kwargs: ssn_plugin.networks.SSNGenerator has no argument hats"),
])
def test_unknown_arguments_in_a_run_folder_are_named(started, calls, changes, message):
    change_options(started, **changes)
    result = run(f"--outdir={started}", "--continue")
    assert (result.exit_code, calls) == (2, []) and message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("cfg", cfg_names())
def test_what_a_cfg_writes_down_can_be_read_back(folder, cfg):
    result = run("--outdir=out", "--data=photos", f"--cfg={cfg}", "--metrics=none", "--dry-run")
    (folder / "training_options.json").write_text(result.stdout)
    assert run_folders.recorded_args(str(folder)) == json.loads(result.stdout)


def test_latest_carries_on_the_run_of_these_options_with_the_newest_state(started, calls, folder):
    before = recorded(started)
    assert run("--outdir=out", *OPTIONS, "--seed=5").exit_code == 0     # another run, without a state
    os.utime(started / "training-state-000001.pt", (1, 1))
    calls.clear()
    result = run("--outdir=out", *OPTIONS, "--kimg=4", "--resume=latest")
    assert result.exit_code == 0, result.output
    assert calls == [dict(before, rank=0, resume_run=True, total_kimg=4, run_dir=os.path.join("out", started.name))]
    assert recorded(started)["total_kimg"] == 4


def test_latest_finds_the_run_also_with_another_number_of_processes(started, calls, monkeypatch):
    monkeypatch.setattr(launch.processes, "start", lambda job, num, args, on_cpu: calls.append((num, args)))
    args = (*OPTIONS, "--kimg=3", "--resume=latest", "--gpus=2")
    result = run("--outdir=out", *args)
    assert "batch_size must be a multiple of batch_gpu * num_gpus" in result.stderr  # one process took the whole batch
    (started / "training_options.json").write_text(json.dumps(dict(recorded(started), num_gpus=4)))
    result = run("--outdir=out", *args)
    assert "has another batch_gpu" in result.stderr and calls == []


def test_latest_refuses_the_runs_of_other_options(started, calls):
    result = run("--outdir=out", *OPTIONS, "--gamma=7", "--resume=latest")
    run_dir = os.path.join("out", started.name)
    assert result.stderr == ("Error: --resume=latest found no run with these options that could carry on: "
                             f"{run_dir} has another loss_kwargs.r1_gamma, 1 and not 7.0\n") and calls == []


def test_latest_starts_a_run_where_there_is_no_state(folder, calls):
    result = run("--outdir=out", *OPTIONS, "--resume=latest")
    assert result.exit_code == 0 and "There is no training state below out: a new run starts." in result.output
    assert len(calls) == 1 and "resume_run" not in calls[0]


@pytest.mark.skipif(run_folders.fcntl is None, reason="no locks here")
def test_a_run_folder_is_used_by_one_process_only(started, calls):
    code = ("import sys, time; from training.run import run_folders\n"
            "with run_folders.sole_use(sys.argv[1]): print('locked', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", code, str(started)], stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert other.stdout.readline() == b"locked\n"
        (started / "log.txt").unlink()  # which does not free the folder
        result = run(f"--outdir={started}", "--continue")
        assert result.stderr == f"Error: {started} is in use: another process trains there\n"
        result = run("--outdir=out", *OPTIONS, "--resume=latest")
        assert result.stderr.endswith(f"{os.path.join('out', started.name)} is still running\n") and calls == []
    finally:
        other.kill()
        other.communicate()
    assert run(f"--outdir={started}", "--continue").exit_code == 0 and len(calls) == 1


def test_an_error_in_the_middle_tells_the_command_that_resumes(started, monkeypatch):
    def training_loop(**kwargs):
        raise OSError(28, "No space left on device", "stats.jsonl")

    monkeypatch.setattr("training.training_loop.training_loop", training_loop)
    result = run(f"--outdir={started}", "--continue")
    script = os.path.relpath(ROOT / "train.py")
    assert result.stderr == (f"Error: stats.jsonl: No space left on device; to resume: python {script} "
                             f"--outdir={started} --continue\n")
    (started / "training-state-000001.pt").unlink()
    assert "to resume" not in run(f"--outdir={started}", "--continue").stderr


def test_a_run_that_was_asked_to_stop_tells_the_command_that_resumes(started, monkeypatch):
    monkeypatch.setattr("training.training_loop.training_loop", lambda **kwargs: False)
    result = run(f"--outdir={started}", "--continue")
    assert result.exit_code == 0
    command = shlex.split(result.stdout.splitlines()[-1].removeprefix("To resume: "))
    assert command == ["python", os.path.relpath(ROOT / "train.py"), f"--outdir={started}", "--continue"]
    assert result.stdout.splitlines()[-1] in (started / "log.txt").read_text()


def test_under_a_launcher_the_number_of_processes_is_its(folder, monkeypatch):
    for name, value in dict(RANK=1, WORLD_SIZE=3, LOCAL_RANK=1).items():
        monkeypatch.setenv(name, str(value))
    args = json.loads(run("--outdir=out", "--data=photos", "--gpus=0", "--batch=6", "--dry-run").stdout)
    assert (args["num_gpus"], args["batch_gpu"], args["device"]) == (3, 2, "cpu")
    result = run("--outdir=out", "--data=photos", "--gpus=2", "--dry-run")
    assert result.stderr == ("Error: --gpus must be 0 for the CPU or 3, the number of processes that were launched, "
                             "got 2\n")


def test_a_run_that_a_launcher_restarts_goes_on_in_its_folder(started, calls, monkeypatch):
    assert run("--outdir=out", *OPTIONS, "--kimg=3").exit_code == 0     # the same again, lost before its first state
    assert run("--outdir=out", *OPTIONS, "--gamma=9").exit_code == 0    # another one
    calls.clear()
    for name, value in dict(RANK=0, WORLD_SIZE=1, TORCHELASTIC_RESTART_COUNT=1).items():
        monkeypatch.setenv(name, str(value))
    assert run("--outdir=out", *OPTIONS, "--kimg=3").exit_code == 0
    assert run("--outdir=out", *OPTIONS, "--gamma=8").exit_code == 0    # lost before it had a folder
    folders = [os.path.basename(call["run_dir"])[:5] for call in calls]
    assert folders == ["00001", "00003"] and [call.get("resume_run", False) for call in calls] == [True, False]


def test_several_processes_are_started_with_what_one_would_get(folder, calls, monkeypatch):
    monkeypatch.setattr(launch.processes, "start", lambda *args: calls.append(args))
    assert run("--outdir=out", "--data=photos", "--metrics=none", "--gpus=2", "--batch=8").exit_code == 0
    ((job, num, args, on_cpu),) = calls
    assert (job, num, on_cpu) == (launch.train_process, 2, False)
    assert args["batch_gpu"] == 4 and args == recorded(folder / "out" / "00000-photos-auto2-batch8")


@pytest.mark.parametrize(("labels", "use_labels", "unused"), [
    ([["a.png", 1]], False, True), ([["a.png", 1]], True, False), (None, False, False), ("damaged", False, False)])
def test_labels_that_have_no_effect_are_noticed(tmp_path, labels, use_labels, unused):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "dataset.json").write_text(json.dumps(dict(labels=labels)))
    assert launch.has_unused_labels(dict(path=str(tmp_path), use_labels=use_labels)) == unused
