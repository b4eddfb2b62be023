"""Several processes: they learn what one learns, agree on what happens, and end together."""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import pickle
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
import torch
import warm_python
from tiny_run import computed_stats, differences, loop_kwargs, read_lines, write_zip

from metrics import metric_main
from training import training_loop
from training.run import processes, rendezvous, run_state
from training.run.place import Place, launched_place

ROOT = Path(__file__).resolve().parent.parent


class KeepGradients(torch.optim.SGD):
    """Writes the gradients of every step down, and learns nothing, so that all steps are about the same networks."""

    folder = ""
    steps = 0

    def step(self, closure=None):
        grads = [param.grad for group in self.param_groups for param in group["params"]]
        torch.save(grads, os.path.join(KeepGradients.folder, f"step-{KeepGradients.steps}.pt"))
        KeepGradients.steps += 1


def make_kwargs(folder):
    (folder / "run").mkdir(parents=True)
    write_zip(folder / "data.zip", num_classes=3)
    optimizer = dict(class_name="test_distributed.KeepGradients", lr=1.0)
    return dict(
        loop_kwargs(folder / "run", folder / "data.zip", use_labels=True), G_opt_kwargs=optimizer,
        D_opt_kwargs=optimizer, augment_kwargs=dict(class_name="training.augment.AugmentPipe", xflip=1, brightness=1),
        augment_p=0.5, batch_size=8, batch_gpu=4, metrics=["sum_of_ranks"])


def train(place, kwargs):
    """The job of a process: train, and keep its gradients apart."""
    metric_main.register_metric(sum_of_ranks)
    KeepGradients.steps = 0
    KeepGradients.folder = os.path.join(os.path.dirname(kwargs["run_dir"]), f"rank{place.rank}")
    os.makedirs(KeepGradients.folder)
    training_loop.draw_training_plot = lambda run_dir: None
    assert training_loop.training_loop(**kwargs, rank=place.rank, num_gpus=place.num_processes)


def sum_of_ranks(opts):
    value = torch.tensor(float(opts.rank + 1))
    if opts.num_gpus > 1:
        torch.distributed.all_reduce(value)
    return dict(sum_of_ranks=float(value))


def train_in_two_processes(folder):
    processes.start(train, 2, make_kwargs(Path(folder)), on_cpu=True)


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "draw_training_plot", None)  # `train` replaces both; pytest puts them back
    monkeypatch.setattr(metric_main, "_metrics", dict(metric_main._metrics))
    train(Place(), make_kwargs(tmp_path / "one"))
    warm_python.call(train_in_two_processes, str(tmp_path / "two"))

    files = sorted(path.name for path in (tmp_path / "one" / "rank0").iterdir())
    assert len(files) == 8  # three steps of two phases, and both lazy phases in the first
    for name in files:
        one, first, second = (torch.load(tmp_path / path / name, weights_only=True)
                              for path in ("one/rank0", "two/rank0", "two/rank1"))
        assert differences(first, second) == []
        largest = max(float(grad.abs().max()) for grad in one)
        for expected, actual in zip(one, first):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * largest)
    compare_runs(tmp_path / "one" / "run", tmp_path / "two" / "run")


def compare_runs(one, two):
    """Statistics, running means and snapshots of one and of two processes."""
    ticks = [computed_stats(run_dir) for run_dir in (one, two)]
    assert len(ticks[0]) == len(ticks[1]) == 3
    for expected, actual in zip(*ticks):
        names = [name for name in expected if name.startswith(("Loss/", "Progress/")) and expected[name]["num"]]
        assert len(names) == 14
        for name in names:
            assert actual[name]["num"] == expected[name]["num"]
            assert actual[name]["mean"] == pytest.approx(expected[name]["mean"], rel=1e-5, abs=1e-6), name
    states = [run_state.load(run_state.state_paths(str(run_dir))[0]) for run_dir in (one, two)]
    for state in states:
        assert float(state["loss"]["pl_mean"]) > 0 and state["networks"]["G"]["mapping.w_avg"].any()
    torch.testing.assert_close(states[1]["loss"]["pl_mean"], states[0]["loss"]["pl_mean"], rtol=1e-5, atol=0)
    torch.testing.assert_close(states[1]["networks"], states[0]["networks"], rtol=1e-5, atol=1e-6)
    results = [read_lines(run_dir / "metric-sum_of_ranks.jsonl")[-1]["results"] for run_dir in (one, two)]
    assert results == [dict(sum_of_ranks=1.0), dict(sum_of_ranks=3.0)]  # every process took part


# Starting and ending


def fail(place, argument):
    """The job of a process that fails while the others wait for it."""
    if place.rank == 1 and argument == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if place.rank == 1:
        raise FileNotFoundError(2, "No such file or directory", "photos/1.png")
    processes.anywhere(False)


def keep_failure(how, path):
    try:
        processes.start(fail, 2, how, on_cpu=True)
    except OSError as err:
        Path(path).write_bytes(pickle.dumps(err))


@pytest.mark.parametrize(("how", "error", "message"), [
    ("refused", FileNotFoundError, "photos/1.png"),
    ("killed", ChildProcessError, "process 1 of the run ended with signal SIGKILL"),
])
def test_the_failure_that_came_first_is_raised(how, error, message, tmp_path):
    warm_python.call(keep_failure, how, str(tmp_path / "failure"))
    with pytest.raises(error, match=message):
        raise pickle.loads((tmp_path / "failure").read_bytes())


def test_a_single_process_runs_here():
    places = []
    processes.start(lambda place, argument: places.append((place, argument)), 1, "x", on_cpu=True)
    assert places == [(Place(), "x")]
    assert processes.share("value") == "value" and processes.anywhere(True) and not processes.anywhere(False)


def test_the_place_is_that_of_the_launcher():
    assert launched_place({}) is None
    environ = dict(RANK="5", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4", TORCHELASTIC_RESTART_COUNT="2")
    assert launched_place(environ) == Place(rank=5, num_processes=8, local_rank=1, local_size=4, restarts=2)
    assert launched_place(dict(RANK="0", WORLD_SIZE="1")) == Place()


@pytest.mark.parametrize(("environ", "message"), [
    (dict(RANK="x", WORLD_SIZE="8"), "in the environment must be whole numbers: .*'x'"),
    (dict(RANK="8", WORLD_SIZE="8"), "RANK in the environment must be from 0 to 7, got 8"),
])
def test_an_impossible_place_is_refused(environ, message):
    with pytest.raises(ValueError, match=message):
        launched_place(environ)


def test_more_processes_than_gpus_are_refused_before_any_is_started(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--gpus must be at most 2, the number of GPUs of this machine, got 4"):
        processes.start(fail, 4, None)
    assert processes.choose_device(Place(3, 4, 1, 2), on_cpu=False) == torch.device("cuda", 1)
    assert processes.choose_device(Place(3, 4, 1, 2), on_cpu=True) == torch.device("cpu")


@pytest.mark.parametrize(("text", "is_loss"), [
    ("[/x/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:57527. This is typical", True),
    ("NCCL communicator was aborted on rank 1.", True),
    ("[c10d] The client socket has timed out after 60s while trying to connect", True),
    ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False),
])
def test_only_what_torch_says_about_lost_processes_is_taken_for_it(text, is_loss):
    with pytest.raises(ConnectionError if is_loss else RuntimeError) as caught, processes.one_line_for_lost_processes():
        raise RuntimeError(text)
    assert ("another process of the run is lost" in str(caught.value)) == is_loss and "pair.cc" not in str(caught.value)


@pytest.fixture
def launcher_store():
    """A store as that of torchrun, and a function that connects another process to it."""
    server = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return lambda: torch.distributed.TCPStore("localhost", server.port, is_master=False)


def counted_by_all(connect, num_processes):
    """What each process counts; the first one comes last."""
    def count(rank):
        return rendezvous.count_generations(connect(), Place(rank, num_processes))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        others = [pool.submit(count, rank) for rank in range(1, num_processes)]
        concurrent.futures.wait(others, timeout=0.2)
        return [count(0), *(other.result(10) for other in others)]


def test_restarted_processes_do_not_take_their_predecessors_for_each_other(launcher_store):
    counts = [counted_by_all(launcher_store, num_processes) for num_processes in (3, 3, 2, 4)]
    assert counts == [[1, 1, 1], [2, 2, 2], [3, 3], [4, 4, 4, 4]]


def test_a_process_that_does_not_come_is_named(launcher_store, monkeypatch):
    monkeypatch.setattr(rendezvous, "TIMEOUT", datetime.timedelta(seconds=0.1))
    with pytest.raises(ConnectionError, match="process 1 of the run has not come within 0:00:00.1"):
        rendezvous.count_generations(launcher_store(), Place(0, 2))


# A lost worker under torchrun


def options_of_a_short_run(outdir, zip_path):
    """Eight steps, each of them a tick, with snapshots after the first, fourth, seventh and last."""
    return [f"--outdir={outdir}", f"--data={zip_path}", "--cfg=ssn", "--blocks=2x2", "--block-dim=4", "--kimg=1",
            "--channels=8", "--batch=128", "--batch-gpu=64", "--tick=0.128", "--snap=3", "--metrics=none",
            "--aug=noaug"]


def run_folder(outdir):
    (run_dir,) = outdir.iterdir()
    return run_dir


def start_agents(options, folder, env):
    """torchrun as on two machines, of which each has one process of the run. Their logs go below the folder."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3",
               "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test", "--monitor-interval=0.1"]
    folders = [folder / f"agent{number}" for number in range(2)]
    for path in folders:
        path.mkdir()
    return [warm_python.Process([*command, "train.py", *options, "--gpus=0"], path, ROOT, env) for path in folders]


def wait_for_ticks(outdir, num, launcher):
    """Wait until the only run below a folder has reported so many ticks."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and launcher.poll() is None:
        stats = list(outdir.glob("*/stats.jsonl"))
        if stats and len(stats[0].read_bytes().splitlines()) >= num:
            return
        time.sleep(0.05)
    raise TimeoutError(f"no {num} ticks in {outdir}")


def kill_second_worker(agents, outdir):
    """Kill the process of rank 1, whichever agent has started it: it is the one that has no file of the run open."""
    workers = [worker for agent in agents for worker in psutil.Process(agent.pid).children()]
    (found,) = [worker for worker in workers
                if not any(Path(file.path).is_relative_to(outdir) for file in worker.open_files())]
    found.kill()


def test_a_worker_killed_under_torchrun_costs_nothing(tmp_path):
    write_zip(tmp_path / "data.zip")
    env = dict(os.environ, OMP_NUM_THREADS="1")
    options = options_of_a_short_run(tmp_path / "whole", tmp_path / "data.zip")
    warm_python.run(["train.py", *options, "--gpus=2"], cwd=ROOT, env=env, check=True)

    agents = start_agents(options_of_a_short_run(tmp_path / "broken", tmp_path / "data.zip"), tmp_path, env)
    try:
        wait_for_ticks(tmp_path / "broken", 5, agents[0])
        kill_second_worker(agents, tmp_path / "broken")  # of two machines, only that of rank 1 counts this as a restart
        exit_codes = [agent.wait(timeout=240) for agent in agents]
    finally:
        for agent in agents:
            for process in [*psutil.Process(agent.pid).children(), agent] if agent.poll() is None else []:
                process.kill()
    assert exit_codes == [0, 0], "".join(path.read_text() for path in tmp_path.glob("agent*/std*"))

    run_dir, whole = run_folder(tmp_path / "broken"), run_folder(tmp_path / "whole")
    assert "Carrying on from" in (run_dir / "log.txt").read_text()
    assert differences(computed_stats(run_dir), computed_stats(whole)) == []
    states = [run_state.load(run_state.state_paths(str(folder))[0]) for folder in (run_dir, whole)]
    for key in ("networks", "optimizers", "loss", "cur_nimg"):
        assert differences(states[0][key], states[1][key]) == []
