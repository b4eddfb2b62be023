"""The full state of a run, `training-state-*.pt`: what it takes to carry on as if the run had never stopped.

Plain containers, numbers and tensors on the CPU, so that reading one runs no code. Of random states and of the order of
the data it holds nothing: both follow from the seed and the number of images seen, see `training.run.step.seed_draws`.
It does not depend on the number of processes either.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import torch

import dnnlib
from dnnlib.util import UserError
from torch_utils import misc, safe_unpickler
from training.run.step import TrainingState

VERSION = 1
NETWORKS = ("G", "D", "G_ema", "augment_pipe")
COUNTERS = ("cur_nimg", "batch_idx", "skipped_steps", "skipped_in_a_row")


def state_path(run_dir: str, nimg: int) -> str:
    """File of the state after `nimg` images; numbered in thousands like the network snapshot beside it."""
    return os.path.join(run_dir, f"training-state-{nimg // 1000:06d}.pt")


def state_paths(run_dir: str) -> list[str]:
    """States in a run folder, newest first."""
    names = [name for name in os.listdir(run_dir) if re.fullmatch(r"training-state-\d{6,}\.pt", name)]
    return [os.path.join(run_dir, name) for name in sorted(names, key=number_of, reverse=True)]


def number_of(file_name: str) -> int:
    """Thousands of images in the name of a state or network snapshot."""
    return int(re.findall(r"-(\d+)\.\w+$", file_name)[0])


def capture(state: TrainingState, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of everything that training has changed. All processes call `training_stats.synchronise` before.

    snapshot: `training.run.snapshot.network_snapshot` of this moment, whose tensors are shared.
    """
    modules = {name: snapshot[name] for name in NETWORKS if snapshot[name] is not None}
    return dict(
        version=VERSION,
        **{name: getattr(state, name) for name in COUNTERS},
        networks={name: dict(misc.named_params_and_buffers(module)) for name, module in modules.items()},
        optimizers=[copy_to_cpu(opt.state_dict()["state"]) for opt in optimizers(state)],
        loss=copy_to_cpu(state.loss.state_dict()) if hasattr(state.loss, "state_dict") else {},
        ada=state.ada.signs.state_dict() if state.ada is not None else None,
    )


@torch.no_grad()
def restore(saved: Mapping[str, Any], state: TrainingState) -> None:
    """Give a newly made state what `capture` copied. Raises ValueError naming the first thing that does not fit."""
    for name in COUNTERS:
        setattr(state, name, saved[name])
    for name in NETWORKS:
        module = getattr(state, name)
        own = dict(misc.named_params_and_buffers(module)) if module is not None else {}
        copy_tensors(saved["networks"].get(name, {}), own, f"{name}.")
    for opt, kept in zip(optimizers(state), saved["optimizers"], strict=True):
        # Rates and the choice of implementation are those of this run; the file brings the moments.
        opt.load_state_dict(dict(state=kept, param_groups=opt.state_dict()["param_groups"]))
    if hasattr(state.loss, "load_state_dict"):
        state.loss.load_state_dict(saved["loss"])
    if state.ada is not None and saved["ada"] is not None:
        state.ada.signs.load_state_dict(saved["ada"])


def optimizers(state: TrainingState) -> list[torch.optim.Optimizer]:
    """Those of the phases, each once."""
    return list(dict.fromkeys(phase.opt for phase in state.phases))


def copy_to_cpu(tree: Any) -> Any:
    """A copy of nested containers with all tensors on the CPU."""
    if isinstance(tree, torch.Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: copy_to_cpu(value) for key, value in tree.items()}
    return type(tree)(map(copy_to_cpu, tree)) if isinstance(tree, (list, tuple)) else tree


def copy_tensors(source: Mapping[str, torch.Tensor], dest: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Copy values in place. Raises ValueError unless names and shapes agree."""
    for name in sorted(source.keys() ^ dest.keys()):
        raise UserError(f"the saved state is that of another run: only one of both has {prefix}{name}")
    for name, tensor in dest.items():
        if source[name].shape != tensor.shape:
            raise UserError(f"the saved state is that of another run: {prefix}{name} has shape "
                            f"{list(source[name].shape)} there and {list(tensor.shape)} here")
        tensor.copy_(source[name])


def save(saved: Mapping[str, Any], path: str) -> None:
    """Write a state; an interrupted write leaves nothing under this name."""
    with dnnlib.util.naming(path), dnnlib.util.open_atomic(path, "wb") as file:
        try:
            torch.save(dict(saved), file)
        except RuntimeError as err:  # about the archive that cannot be finished, since the disk is full
            if isinstance(err.__context__, OSError):
                raise err.__context__ from None
            raise


def load(path: str) -> dict[str, Any]:
    """Read a state. Raises UserError, one line, for anything else, also where a single bit has changed."""
    with open(path, "rb") as file:
        try:
            check_archive(file)
            saved = safe_unpickler.load_checkpoint_file(file)
        except Exception as err:  # a damaged archive raises nearly anything
            if dnnlib.util.is_lack_of_memory(err):
                raise
            reason = str(err).strip().splitlines() or [type(err).__name__]
            raise UserError(f"{path} is damaged or no training state: {dnnlib.util.printable(reason[0], 200)}") from err
    if not isinstance(saved, dict) or saved.get("version") != VERSION:
        raise UserError(f"{path} must be a training state of version {VERSION}")
    return saved


def check_archive(file: IO[bytes]) -> None:
    """Raise an error unless the checksums of all parts of a zip archive hold, which torch does not look at."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"the checksum of {damaged} is wrong")
    file.seek(0)


def load_newest(run_dir: str) -> dict[str, Any] | None:
    """The newest state of a run folder that can be read, None if there is none. UserError if none can be read.

    The files to which the run appends are cut back to where they were then. The results of metrics that are already
    there for the snapshot of that moment stay, and are returned as `measured`: metric -> result key -> value.
    """
    saved, damage = None, []
    for path in state_paths(run_dir):
        try:
            saved = load(path)
            break
        except UserError as err:
            print(f"Passed over: {err}")
            damage.append(str(err))
    if saved is None:
        if damage:
            raise UserError(f"no training state of {run_dir} can be read, so nothing was changed there: {damage[0]}")
        for name in growing_files(run_dir):
            os.remove(os.path.join(run_dir, name))
        return None
    number = saved["cur_nimg"] // 1000 if saved["between_ticks"] else -1
    for name in growing_files(run_dir):
        rewind(os.path.join(run_dir, name), saved["files"].get(name, 0), number)
    saved["measured"] = read_measured(run_dir, saved["files"], number)
    return saved


def growing_files(run_dir: str) -> list[str]:
    """Names of the files to which a run appends a line now and then; its log, a diary, is not among them."""
    return [name for name in os.listdir(run_dir) if re.fullmatch(r"stats\.jsonl|metric-.*\.jsonl", name)]


def file_sizes(run_dir: str) -> dict[str, int]:
    """Name -> bytes of the growing files."""
    return {name: os.path.getsize(os.path.join(run_dir, name)) for name in growing_files(run_dir)}


def rewind(path: str, size: int, number: int) -> None:
    """Cut a file back to `size` bytes, but keep what was measured since of snapshots up to that of this number."""
    with open(path, "r+b") as file:
        file.seek(size)
        lines = file.readlines()
        file.truncate(size)
        file.seek(size)
        own = [line for line in lines if snapshot_number(line) == number]
        older = [line for line in lines if snapshot_number(line) < number]
        file.writelines(older + own[:1])  # in a very short run, later snapshots have the same number


def read_measured(run_dir: str, sizes: Mapping[str, int], number: int) -> dict[str, dict[str, float]]:
    """Metric -> results of the snapshot of this number, from what `rewind` has left beyond `sizes`."""
    measured = {}
    for name in growing_files(run_dir):
        with open(os.path.join(run_dir, name), "rb") as file:
            file.seek(sizes.get(name, 0))
            for line in file:
                if snapshot_number(line) == number:
                    result = json.loads(line)
                    measured[result["metric"]] = result["results"]
    return measured


def snapshot_number(line: bytes) -> float:
    """Number of the snapshot that a line of metric-*.jsonl is about; infinite for other and unfinished lines."""
    try:
        return number_of(json.loads(line)["snapshot_pkl"])
    except (ValueError, KeyError, TypeError, IndexError):
        return float("inf")
