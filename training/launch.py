"""Starting a run: in a new folder or in one that exists, with the options that hold, in its processes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

import dnnlib
from dnnlib import EasyDict
from dnnlib.util import UserError
from training import config
from training.cli import OneLineError, one_line_errors, words_to_call
from training.data.image_files import ImageArchive
from training.data.labels import has_labels
from training.formats import network_names
from training.plugins import import_plugins
from training.run import construction, processes, run_state
from training.run.place import Place
from training.run.resuming import resume_networks
from training.run.run_folders import OPTIONS_FILE, is_in_use, make_run_dir, record, recorded_args, sole_use
from training.run.run_options import RunOptions

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "train.py")


def launch(prepare: Callable[[bool], EasyDict], place: Place | None, num_processes: int, on_cpu: bool) -> None:
    """Train.

    prepare: makes the run's folder ready and returns the arguments of the training loop; called once, with whether a
    launcher has started these processes in the place of lost ones.
    place: that of this process, if a launcher has started it and the others; otherwise they are started here.
    Errors that end a run with a saved state tell how to resume it.
    """
    if place is None:
        args = prepare(False)
        with resume_hint(args, place):
            processes.start(train_process, num_processes, args, on_cpu)
        return
    device = processes.choose_device(place, on_cpu)
    with processes.connected(place, device) as is_restart:
        args = processes.compute_first(place, functools.partial(prepare, is_restart))
        with resume_hint(args, place), processes.one_line_for_lost_processes():
            train_process(place, args)
    if place.num_processes > 1:
        processes.leave()


def train_process(place: Place, args: EasyDict) -> None:
    """The work of one process. The first one keeps the log and says what happens."""
    from training import training_loop

    import_plugins()  # a process that was just started knows none
    if place.num_processes > 1:
        args = EasyDict(args, device=str(processes.choose_device(place, args.get("device") == "cpu")))
    if place.rank != 0:
        training_loop.training_loop(rank=place.rank, **args)
        return
    log_path = os.path.join(args.run_dir, "log.txt")
    with sole_use(args.run_dir), dnnlib.util.Logger(log_path, file_mode="a", should_flush=True):
        dnnlib.util.sweep_temporary_files(args.run_dir)
        print(json.dumps(args, indent=2))
        print(config.summary(os.path.basename(args.run_dir), args))
        print(f"Run folder: {args.run_dir}")
        if has_unused_labels(args.training_set_kwargs):
            print("Note: the data set has labels, which have no effect without --cond=1")
        is_complete = training_loop.training_loop(rank=0, **args)
        if not is_complete:
            print(f"To resume: {resume_command(args, place)}")


def has_unused_labels(kwargs: Mapping[str, Any]) -> bool:
    """Does the data set of these options have labels that the training will not see?"""
    with contextlib.suppress(OSError, ValueError):   # what is wrong with labels that are not used does not matter
        if not kwargs.get("use_labels") and isinstance(kwargs.get("path"), str):
            with contextlib.closing(ImageArchive(kwargs["path"])) as archive:
                return has_labels(archive)
    return False


def started_run(
    desc: str, args: EasyDict, options: Mapping[str, Any], outdir: str, is_restart: bool
) -> EasyDict:
    """The run with these options of train.py: a new one, or if there is one to carry on, that."""
    if options.get("resume") == "latest":
        return latest_run(desc, args, options, outdir)
    return restarted_run(desc, args, options, outdir) if is_restart else new_run(desc, args, outdir)


def new_run(desc: str, args: EasyDict, outdir: str) -> EasyDict:
    """Create a run folder below `outdir`. What can be checked is checked before."""
    resume = args.get("resume_pkl")
    if resume and not dnnlib.util.is_url(resume, allow_file_urls=True) and not os.path.isfile(resume):
        known = ", ".join(network_names.short_names())
        raise UserError(
            f"--resume must be an existing file, a URL, noresume, latest or one of {known}, got {resume}")
    check(args, outdir)
    if resume:
        check_start(args)
    return record(args, make_run_dir(outdir, desc))


def check_start(args: EasyDict) -> None:
    """Raise UserError, before there is a folder, unless the run can start from its network file."""
    options = RunOptions(**args)
    with contextlib.closing(construction.load_training_set(args.training_set_kwargs, verbose=False)) as training_set:
        G, D, G_ema = construction.build_networks(
            training_set, options.G_kwargs, options.D_kwargs, torch.device("cpu"))
    resume_networks(
        args.resume_pkl, {"G": G, "D": D, "G_ema": G_ema}, options.trust_pickle, options.resume_partial,
        say=lambda line: None)


def continued_run(args: EasyDict, run_dir: str) -> EasyDict:
    """Carry on the run in this folder from its newest state. One that has not come as far as a snapshot starts over."""
    check(args, run_dir)
    with sole_use(run_dir):
        if not run_state.state_paths(run_dir):
            if any(name.startswith("network-snapshot-") for name in os.listdir(run_dir)):
                raise UserError(f"{run_dir} holds networks but no training state to carry on from; "
                                       "--resume=PKL starts a new run from a network")
            for name in run_state.growing_files(run_dir):
                os.remove(os.path.join(run_dir, name))
        return EasyDict(record(args, run_dir), resume_run=True)


def latest_run(desc: str, args: EasyDict, options: Mapping[str, Any], outdir: str) -> EasyDict:
    """Carry on the run with these options that has the newest state below `outdir`; a new run if there is no state.

    desc, args: of a new run with these options of train.py. Raises UserError if other options made all the states.
    """
    refusals = []
    for run_dir in runs_with_state(outdir):
        try:
            carried_on = with_settings(run_dir, args, options)
        except UserError as err:
            refusals.append(str(err))
            continue
        if not is_in_use(run_dir):
            return continued_run(carried_on, run_dir)
        refusals.append(f"{run_dir} is still running")
    if refusals:
        raise UserError(f"--resume=latest found no run with these options that could carry on: {refusals[0]}")
    print(f"There is no training state below {outdir}: a new run starts.")
    return new_run(desc, args, outdir)


def restarted_run(desc: str, args: EasyDict, options: Mapping[str, Any], outdir: str) -> EasyDict:
    """Carry on the run that a launcher has started before it lost a process: the last one with these options."""
    for run_dir in sorted(run_folders(outdir), reverse=True):
        with contextlib.suppress(UserError):
            return continued_run(with_settings(run_dir, args, options), run_dir)
    return new_run(desc, args, outdir)


def check(args: EasyDict, outdir: str) -> None:
    """Raise ValueError or OSError for what would stop the run before its first step."""
    if os.path.exists(outdir) and not os.path.isdir(outdir):
        raise UserError(f"--outdir must be a folder, got {outdir}")
    RunOptions(**args)  # checks how batches are split
    construction.load_metrics(args.metrics, rank=0)  # fetches the files that metrics need


def run_folders(outdir: str) -> list[str]:
    """`outdir` itself or folders in it, as far as they are those of runs."""
    if not os.path.isdir(outdir):
        return []
    folders = [outdir, *(entry.path for entry in os.scandir(outdir) if entry.is_dir())]
    return [folder for folder in folders if os.path.isfile(os.path.join(folder, OPTIONS_FILE))]


def runs_with_state(outdir: str) -> list[str]:
    """Those of the run folders that hold a state, the newest state first."""
    times = {folder: [os.path.getmtime(path) for path in run_state.state_paths(folder)]
             for folder in run_folders(outdir)}
    return sorted((folder for folder in times if times[folder]), key=lambda folder: max(times[folder]), reverse=True)


def with_settings(run_dir: str, args: EasyDict, options: Mapping[str, Any]) -> EasyDict:
    """Arguments of a recorded run with the settings of a new one, `args` from `options`, that may change on the way.

    Raises UserError, which names the first difference, unless both learn the same.
    """
    recorded = recorded_args(run_dir, trust=True)  # nothing is taken from there that the command line does not say
    difference = first_difference(recorded, args, options)
    if difference is not None:
        raise UserError(f"{run_dir} has another {difference}")
    kept = {name: value for name, value in recorded.items() if name not in config.RUN_SETTINGS}
    return EasyDict(kept, **{name: args[name] for name in config.RUN_SETTINGS if name in args})


def first_difference(recorded: EasyDict, args: EasyDict, options: Mapping[str, Any]) -> str | None:
    """What a run learns otherwise than a new one with these options, as `name value, not value`; None if nothing.

    The number of processes is no difference, so the options are read for that of the recorded run.
    """
    if recorded.num_gpus != args.num_gpus:
        on_cpu = 0 if options.get("gpus") == 0 else None
        try:
            _, args = config.setup_training_loop_kwargs(**{**options, "gpus": on_cpu, "processes": recorded.num_gpus})
        except UserError:
            return f"number of processes, {recorded.num_gpus}, for which these options do not hold"
    theirs, ours = flatten(recorded), flatten(json.loads(json.dumps(args)))
    for name in sorted(theirs.keys() | ours.keys()):
        here, there = theirs.get(name), ours.get(name)
        if name == "training_set_kwargs.path":
            here, there = os.path.abspath(str(here)), os.path.abspath(str(there))
        if name.split(".")[0] not in config.RUN_SETTINGS and here != there:
            return f"{name}, {json.dumps(here)} and not {json.dumps(there)}"
    return None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries -> dotted name -> value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def resume_command(args: EasyDict, place: Place | None) -> str:
    """What to type to carry on with a run."""
    options = shlex.join([f"--outdir={args.run_dir}", "--continue"])
    if place is not None and place.local_size < place.num_processes:
        return f"torchrun <its options on each machine> {shlex.quote(os.path.relpath(SCRIPT))} {options}"
    return f"{shlex.join(words_to_call('train', os.path.relpath(SCRIPT)))} {options}"


@contextlib.contextmanager
def resume_hint(args: EasyDict, place: Place | None) -> Iterator[None]:
    """Add the command that resumes to an error of one line, if there is a state to resume from."""
    try:
        with one_line_errors():
            yield
    except OneLineError as err:
        if place is not None and place.rank > 0 or not run_state.state_paths(args.run_dir):
            raise
        raise OneLineError(f"{err.message}; to resume: {resume_command(args, place)}") from err
