"""Read thousands of damaged files of every kind, each within 2 s and 500 MB, and print what became of them.

    python benchmarks/mutations.py --files=10000 --out=mutations.json

Good files are damaged at random: flipped bits, changed bytes, cuts, splices, and in pickles whole opcodes, in JSON
whole values. A process per kind reads them, and this one watches its processor time and memory from outside. A file
must give a network, a recipe or images, or be refused in one line; anything else is a finding. The good files lie in a
folder beside --out, and with them file 17 of a kind is the same every time: `--write=recipe:17` writes it. A run that
was ended carries on where its --out file says.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import pickle
import pickletools
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import psutil
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import legacy
from dnnlib.util import UserError, open_atomic
from ssn_plugin import errors as plugin_errors
from ssn_plugin.edits import recipe_files
from ssn_plugin.edits.arrays import Arrays
from ssn_plugin.edits.recipe import Edit, Recipe, encode_mask
from ssn_plugin.networks import SSNGenerator
from torch_utils.persistence import is_persistent
from training.augment import AugmentPipe
from training.cli import Command
from training.dataset import ImageFolderDataset
from training.formats import network_config, rosinality
from training.networks import Discriminator, Generator

ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS = 2.0         # of processor time for one file
MAX_BYTES = 500 * 2**20   # above what the process has before the first file
POLL_SECONDS = 0.05
# What names in archives, texts in old pickles and JSON may be written in; Python loads a codec when it is first used.
ENCODINGS = ("raw_unicode_escape", "unicode_escape", "cp437", "latin-1", "utf-8-sig", "utf-16", "utf-16-le",
             "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")
FORBIDDEN = {"exec", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 2**40, 1e308, "", "x", "../../etc/passwd", "\x1b[2J", [], {}, [[]], {"a": [1]},
]


# Good files.


def networks() -> dict[str, Any]:
    torch.manual_seed(0)
    narrow = dict(channel_base=64, channel_max=8)
    G: Any = Generator(8, 0, 8, 8, 3, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=narrow)
    D: Any = Discriminator(0, 8, 3, **narrow)
    pipe: Any = AugmentPipe(xflip=1, brightness=1)
    return dict(training_set_kwargs=dict(path="x.zip"), G=G, D=D, G_ema=copy.deepcopy(G), augment_pipe=pipe)


def snapshots() -> list[bytes]:
    """Pickles of several protocols and code bases; their source texts are short, so that damage hits something else."""
    plain, spatial, flat = networks(), networks(), networks()
    sizes = dict(mapping_kwargs=dict(num_layers=2), synthesis_kwargs=dict(channel_base=64, channel_max=8))
    spatial["G"] = spatial["G_ema"] = SSNGenerator(4, 0, 4, 8, 3, block_grid=[[1, 1], [2, 2]], **sizes)
    for key in ("G", "G_ema"):  # as StyleGAN3's code base has it
        kwargs = dict(z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, mapping_kwargs=dict(num_layers=2))
        flat[key]._init_args, flat[key]._init_kwargs = (), dict(kwargs, channel_base=64, channel_max=8)
    found = [network for network in [*plain.values(), *spatial.values()] if isinstance(network, torch.nn.Module)]
    classes = {type(module) for network in found for module in network.modules()}
    with contextlib.ExitStack() as stack:
        for cls in filter(is_persistent, classes):
            stack.enter_context(mock.patch.object(cls, "_orig_module_src", "raise SystemExit"))
        return [pickle.dumps(plain, 2), pickle.dumps(plain, 4), pickle.dumps(spatial, 4), pickle.dumps(flat, 5)]


def checkpoints() -> list[bytes]:
    G = networks()["G"]
    states = dict(g_ema=rosinality._write_generator(G), g=rosinality._write_generator(G), latent_avg=torch.zeros([8]))
    files = []
    for is_zip in (True, False):
        file = io.BytesIO()
        torch.save(states, file, _use_new_zipfile_serialization=is_zip)
        files.append(file.getvalue())
    return files


def safetensors() -> list[bytes]:
    tensors, config = network_config.to_config(networks())
    file = io.BytesIO()
    network_config.save_safetensors(file, tensors, json.dumps(config))
    return [file.getvalue()]


def recipes() -> list[bytes]:
    common: dict[str, Any] = dict(network_name="net.pkl", network_sha256="0" * 64)
    blocks = [Edit(blocks=((0, 1), (2, 2)), layers=(0, 5), key=key, variant=key, feather=2, keep_exact=True)
              for key in (1, 2)]
    mask = encode_mask(np.eye(8, dtype=np.uint8) * 255)
    painted = [Edit(mask=mask, feather=2, layers=(1, 2), key=key, transplant_from=key) for key in (1, 2)]
    found = Arrays.of({"w": np.zeros([1, 6, 8], np.float32), "b4.conv1.noise_const": np.zeros([4, 4], np.float32)})
    files = [Recipe(**common, seed=3, label=1, truncation=0.7, edits=(blocks[0],), variants=(blocks[1],)),
             Recipe(**common, seed=3, edits=(painted[0],), variants=(painted[1],), found=found)]
    return [recipe_files.recipe_text(recipe).encode() for recipe in files]


def datasets() -> list[bytes]:
    """Zips of eight images with and without labels, stored and packed."""
    rnd, files = np.random.RandomState(0), []
    packed: list[tuple[str, list[Any], int]] = [
        ("RGB", [0, 1], zipfile.ZIP_STORED), ("L", [[0.5, 1], [2, 3]], zipfile.ZIP_DEFLATED),
    ]
    for mode, labels, packing in packed:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", packing) as archive:
            for i in range(8):
                pixels = rnd.randint(256, size=[8, 8, 3] if mode == "RGB" else [8, 8], dtype=np.uint8)
                image = io.BytesIO()
                Image.fromarray(pixels).save(image, format="JPEG" if i == 7 else "PNG")
                archive.writestr(zipfile.ZipInfo(f"{i}.jpg" if i == 7 else f"{i}.png"), image.getvalue())
            entries = [[f"{i}.jpg" if i == 7 else f"{i}.png", labels[i % 2]] for i in range(8)]
            archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps(dict(labels=entries, class_names=["a", "b"])))
        files.append(file.getvalue())
    return files


# Damage.


def damaged(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Between one and thirty places changed, or an end cut off, or the end of another file put on."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 3, 30])):
        place, action = rng.randrange(len(out) + 1), rng.randrange(5)
        if action == 0 and place < len(out):
            out[place] ^= 1 << rng.randrange(8)
        elif action == 1 and place < len(out):
            out[place] = rng.choice([0, 255, rng.randrange(256)])
        elif action == 2:
            del out[place:place + rng.randrange(1, 20)]
        else:
            source = rng.randrange(len(data))
            out[place:place] = data[source:source + rng.randrange(1, 40)]
    if rng.randrange(8) == 0:
        del out[rng.randrange(len(out) + 1):]
    if rng.randrange(8) == 0:
        other = rng.choice(others)
        out[rng.randrange(len(out) + 1):] = other[rng.randrange(len(other)):]
    return bytes(out)


def damaged_opcodes(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """The program of a pickle with opcodes left out, repeated, exchanged, or taken from another program."""
    programs = [_opcodes(program) for program in [data, rng.choice(others)]]
    ops = list(programs[0])
    for _ in range(rng.choice([1, 1, 2, 5])):
        place, action = rng.randrange(len(ops)), rng.randrange(5)
        if action == 0:
            del ops[place]
        elif action == 1:
            ops[place:place] = ops[place:place + rng.randrange(1, 30)]
        elif action == 2:
            ops[place] = rng.choice(rng.choice(programs))
        elif action == 3:
            ops[place] = rng.choice(pickletools.opcodes).code.encode("latin-1") + ops[place][1:]
        else:
            start = rng.randrange(len(programs[1]))
            ops[place:place] = programs[1][start:start + rng.randrange(1, 200)]
    return b"".join(ops)


def _opcodes(data: bytes) -> list[bytes]:
    positions = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    return [data[start:stop] for start, stop in zip(positions, positions[1:])]


def damaged_json(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A JSON file with values and keys exchanged for odd ones, or left out."""
    content = json.loads(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        containers = list(_containers(content))
        target = rng.choice(containers)
        if not target:
            continue
        key = rng.choice(list(target) if isinstance(target, dict) else range(len(target)))
        if rng.randrange(4) == 0:
            del target[key]
        elif rng.randrange(4) == 0 and isinstance(target, dict):
            target[rng.choice(["x", "", "__class__", "key", "\x1b"])] = target[key]
        else:
            target[key] = copy.deepcopy(rng.choice([*ODD_VALUES, rng.choice(containers)]))
    return json.dumps(content).encode()


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def damaged_members(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A sound zip with a damaged file in it, another name, or a file more than once."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names that are there twice
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                harm = damaged_json if name.endswith(".json") and rng.randrange(2) else damaged
                content = harm(rng, content, [content])
                name = rng.choice([name, name, name, f"../{name}", f"a/{name}", "0.png", name + "\n", name.upper()])
            new.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


# Reading.


def read_network(data: bytes) -> None:
    legacy.load_network_pkl(io.BytesIO(data))


def read_dataset(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        file.write(data)
        file.flush()
        dataset = ImageFolderDataset(path=file.name, use_labels=True)
        for i in range(len(dataset)):
            dataset[i]
        dataset.close()


_Harm = Callable[[random.Random, bytes, list[bytes]], bytes]
KINDS: dict[str, tuple[Callable[[], list[bytes]], list[_Harm], Callable[[bytes], Any]]] = {
    "snapshot": (snapshots, [damaged, damaged_opcodes], read_network),
    "checkpoint": (checkpoints, [damaged], read_network),
    "safetensors": (safetensors, [damaged], read_network),
    "recipe": (recipes, [damaged, damaged_json, damaged_json], recipe_files.parse_recipe),
    "dataset": (datasets, [damaged, damaged_members], read_dataset),
}


def mutation(kind: str, number: int, good: list[bytes]) -> bytes:
    """File `number` of a kind; 0 is whole."""
    rng = random.Random(f"{kind} {number}")
    return rng.choice(KINDS[kind][1])(rng, rng.choice(good), good) if number else good[0]


def good_files(kind: str, out: str) -> list[bytes]:
    """Those that lie beside the results; made where there are none."""
    folder = Path(f"{out}.good")
    paths = sorted(folder.glob(f"{kind}-*"))
    if paths:
        return [path.read_bytes() for path in paths]
    folder.mkdir(parents=True, exist_ok=True)
    files = KINDS[kind][0]()
    for i, data in enumerate(files):
        (folder / f"{kind}-{i}").write_bytes(data)
    return files


def work(kind: str, out: str, start: int, stop: int) -> None:
    """Read the files; a line on the standard output before and after each."""
    read, good, executed = KINDS[kind][2], good_files(kind, out), list[str]()
    Image.init()
    for encoding in ENCODINGS:
        "".encode(encoding)  # imports it
    for data in good:
        read(data)  # imports what reading imports
    watching = False
    sys.addaudithook(lambda event, args: executed.append(event) if watching and event in FORBIDDEN else None)
    warnings.simplefilter("ignore")
    print("ready", flush=True)
    for number in range(start, stop):
        data = mutation(kind, number, good)
        print(f"start {number}", flush=True)
        watching, outcome = True, "accepted"
        try:
            read(data)
        except (UserError, OSError, ValueError) as error:
            text = str(error) or "an empty message"
            is_known = isinstance(error, (UserError, plugin_errors.UserError, OSError)) or type(error) is ValueError
            outcome = "refused" if is_known and text.isprintable() else f"{type(error).__name__}: {text!r}"
        except Exception as error:
            outcome = f"traceback: {type(error).__name__}: {error!s:.200}"
        watching = False
        if executed:
            outcome = f"ran code: {executed[0]}"
            executed.clear()
        print(f"end {number} {json.dumps(outcome)}", flush=True)


# Watching.


class Watch:
    """One process that reads files and says what it does as `work` does, seen from outside."""

    def __init__(self, command: list[str]):
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._process = psutil.Process(self._child.pid)
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._base_memory, self._base_time = 0, 0.0

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def outcomes(self) -> Iterator[tuple[int, str, float, int]]:
        """Number, outcome, seconds and bytes of each file; ends early after one that breaks a limit or the process."""
        number = -1
        while True:
            line = self._next_line()
            if line is None:
                if number >= 0:
                    seconds, memory = self._cost()
                    yield number, "over the limits" if self._is_over() else "crash", seconds, memory
                return
            word, _, rest = line.strip().partition(" ")
            if word == "ready":
                self._base_memory = self._process.memory_info().rss
            elif word == "start":
                number, self._base_time = int(rest), self._cpu_time()
            else:
                yield (number, json.loads(rest.partition(" ")[2]), *self._cost())
                number = -1

    def _next_line(self) -> str | None:
        """None after the last line, or after a limit was broken, which ends the process."""
        while True:
            try:
                return self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if self._base_memory and self._is_over():
                    self._last = self._cost()
                    self.close()
                    return None

    def _is_over(self) -> bool:
        seconds, memory = self._cost()
        return seconds > MAX_SECONDS or memory > MAX_BYTES

    def _cost(self) -> tuple[float, int]:
        try:
            return self._cpu_time() - self._base_time, self._process.memory_info().rss - self._base_memory
        except psutil.Error:  # it has ended
            return getattr(self, "_last", (0.0, 0))

    def _cpu_time(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system

    def close(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()


def run_kind(kind: str, out: str, result: dict[str, Any], num_files: int, save: Callable[[], None]) -> None:
    """Read files of a kind from where `result` ends up to `num_files`, restarting the process where one broke it."""
    while result["next"] < num_files:
        worker = [sys.executable, __file__, "--worker", kind, out, str(result["next"]), str(num_files)]
        watch, last_saved, before = Watch(worker), time.monotonic(), result["next"]
        try:
            for number, outcome, seconds, memory in watch.outcomes():
                result["next"] = number + 1
                result["seconds"] = max(result["seconds"], [round(seconds, 2), number])
                result["megabytes"] = max(result["megabytes"], [memory >> 20, number])
                is_broken = seconds > MAX_SECONDS or memory > MAX_BYTES
                if outcome in ("accepted", "refused") and not is_broken:
                    result[outcome] += 1
                else:
                    result["findings"].append([number, outcome, round(seconds, 2), memory >> 20])
                    click.echo(f"{kind}:{number} {outcome}, {seconds:.2f} s, {memory >> 20} MB")
                if time.monotonic() - last_saved > 5:
                    save()
                    last_saved = time.monotonic()
        finally:
            watch.close()
            save()
        if result["next"] == before:
            raise click.ClickException(f"the process for files of kind {kind} ended before file {before}")


def format_results(results: dict[str, Any]) -> str:
    lines = [f"{'kind':12s} {'files':>6s} {'accepted':>8s} {'refused':>8s} {'findings':>8s} {'seconds':>8s} {'MB':>6s}"]
    for kind, result in results.items():
        lines.append(f"{kind:12s} {result['next'] - 1:6d} {result['accepted']:8d} {result['refused']:8d} "
                     f"{len(result['findings']):8d} {result['seconds'][0]:8.2f} {result['megabytes'][0]:6d}")
    return "\n".join(lines)


EXAMPLES = """\b
Examples:
  python benchmarks/mutations.py --files=300
  python benchmarks/mutations.py --files=10000 --kinds=snapshot,recipe --out=mutations.json
"""


@click.command(cls=Command, epilog=EXAMPLES)
@click.option("--files", "num_files", type=click.IntRange(min=1), default=10_000, show_default=True,
              help="Damaged files of each kind")
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="Kinds of files")
@click.option("--out", type=click.Path(dir_okay=False, resolve_path=True), default="mutations.json", show_default=True,
              help="Where results are kept; a second run carries on there")
@click.option("--write", metavar="KIND:NUMBER", help="Write this damaged file to the current folder, and read none")
def main(num_files: int, kinds: str, out: str, write: str | None) -> None:
    """Read damaged files of every kind and print a table of what became of them."""
    if write is not None:
        kind, _, number = write.partition(":")
        if kind not in KINDS or not number.isdecimal():
            raise click.UsageError(f"--write must be KIND:NUMBER with a kind among {', '.join(KINDS)}, got {write}")
        path = Path(f"{kind}-{number}")
        path.write_bytes(mutation(kind, int(number), good_files(kind, out)))
        click.echo(path)
        return
    chosen = kinds.split(",")
    for kind in chosen:
        if kind not in KINDS:
            raise click.UsageError(f"--kinds must be among {', '.join(KINDS)}, got {kind}")
    results: dict[str, Any] = json.loads(Path(out).read_text()) if Path(out).exists() else {}

    def save() -> None:
        with open_atomic(out, "w") as file:
            json.dump(results, file, indent=2)

    for kind in chosen:
        empty = dict(next=1, accepted=0, refused=0, findings=[], seconds=[0, 0], megabytes=[0, 0])
        run_kind(kind, out, results.setdefault(kind, empty), num_files + 1, save)
    click.echo(format_results(results))
    if any(result["findings"] for result in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, kind, out, first, last = sys.argv[1:]
        work(kind, out, int(first), int(last))
    else:
        main()
