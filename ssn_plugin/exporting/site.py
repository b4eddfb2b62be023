"""The editor's page for any static host: the network runs in the browser, by onnxruntime-web."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssn_plugin.block_grid import block_grid_of
from ssn_plugin.edits.edit_options import parse_layers
from ssn_plugin.errors import UserError
from ssn_plugin.exporting.files import TOLERANCE, check_outdir, describe, new_folder, require, write_json, write_onnx
from ssn_plugin.exporting.programs import trace
from ssn_plugin.files import open_atomic

HERE = Path(__file__).parent
STATIC = HERE.parent / "editor" / "static"   # the page of `ssn edit`, but for who makes its images
OWN = HERE / "page"
SUFFIXES = (".html", ".css", ".js", ".svg")

RUNTIME = "onnxruntime-web"
RUNTIME_VERSION = "1.30.0"
RUNTIME_FILES = (
    "ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm",
)
NOTICE = f"{RUNTIME} {{version}}, Copyright (c) Microsoft Corporation, MIT licence: https://onnxruntime.ai\n"
FETCH_SECONDS = 600

# What the page may do: nothing from elsewhere, no inline scripts; WebAssembly needs a word of its own.
POLICY = ("default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob:; object-src 'none'; "
          "base-uri 'none'; form-action 'none'")
# Another processor rounds differently.
WORDS = {"Makes this image again, byte for byte, and can be edited on.":
         "Makes this image again with generate.py, to one grey level, and can be edited on.",
         "PNG, as <code>generate.py</code> writes it.": "PNG, with its recipe.",
         " Shift adds blocks, the brush takes any shape.": " Shift adds blocks."}


def export_page(
    G: torch.nn.Module,
    outdir: str | os.PathLike,                   # new or empty
    network: str,                                # how it was called: a file, a URL or a short name
    licence: str = "",                           # of the weights
    runtime: str | os.PathLike | None = None,    # folder of onnxruntime-web; None: npm fetches it
    sha256: str | None = None,                   # see `files.hash_of`; None: computed
) -> list[str]:
    """Write the page, the network and the runtime into a folder; all of it or nothing. Returns lines for people.

    Raises ValueError for a network without blocks, or that cannot be exported, and where the runtime is not to be had.
    """
    require("onnx")
    check_outdir(outdir)
    name = os.path.basename(network)
    block_grid_of(G, name)
    with runtime_files(runtime) as (source, version):
        programs = trace(G, name, ["noise"])
        info = describe(G, name, licence, "float32", programs, sha256) | {"page": about(G, network)}
        with new_folder(outdir) as folder:
            for program in programs:
                info["files"][program.name] = f"{program.name}.onnx"
            os.mkdir(os.path.join(folder, "network"))
            for program in programs:
                path = os.path.join(folder, "network", info["files"][program.name])
                write_onnx(program, path, info, TOLERANCE["float32"], name)
            write_noise(G, os.path.join(folder, "network", "noise.bin"))
            info["files"]["noise"] = "noise.bin"
            write_json(info, os.path.join(folder, "network", "network.json"))
            write_page(folder)
            copy_runtime(source, version, os.path.join(folder, "runtime"))
    size = sum(path.stat().st_size for path in Path(outdir).rglob("*") if path.is_file())
    return [f"wrote {os.fspath(outdir)}, {size / 1e6:.0f} MB: any static host can serve it",
            f"to try it here: python -m http.server --directory={os.fspath(outdir)} --bind=127.0.0.1 8000"]


def about(G: torch.nn.Module, network: str) -> dict[str, Any]:
    """What the page says and records of the network, beside what every export states."""
    shape_end = parse_layers("coarse", G.num_ws)[1]
    last = G.num_ws - 1
    return {
        "layers": {"all": [0, last], "shape": [0, shape_end], "colour": [shape_end + 1, last]},
        "network": network if network.startswith("demo:") else os.path.basename(network),  # in a command line
        "path": network if network.startswith("demo:") else None,                           # in recipes
    }


def write_noise(G: torch.nn.Module, path: str) -> None:
    """The network's own noise maps, one after the other, little-endian float32."""
    maps = [buffer for name, buffer in G.synthesis.named_buffers() if name.endswith(".noise_const")]
    with open_atomic(path) as file:
        for noise in maps:
            file.write(noise.cpu().numpy().astype(np.dtype("<f4")).tobytes())


def write_page(folder: str) -> None:
    """The editor's page, with the file that says who makes its images replaced."""
    for source in (STATIC, OWN):
        for path in source.iterdir():
            if path.suffix in SUFFIXES:
                shutil.copyfile(path, os.path.join(folder, path.name))
    index = os.path.join(folder, "index.html")
    with open(index, encoding="utf-8") as file:
        text = file.read()
    for before, after in WORDS.items():
        text = text.replace(before, after)
    start = '<meta charset="utf-8">'
    policy = f'{start}\n  <meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    with open(index, "w", encoding="utf-8", newline="\n") as file:
        file.write(text.replace(start, policy, 1))


@contextmanager
def runtime_files(folder: str | os.PathLike | None) -> Iterator[tuple[Path, str]]:
    """A folder that has the files of onnxruntime-web, and their version."""
    if folder is not None:
        yield find_runtime(Path(folder)), version_in(Path(folder))
        return
    with tempfile.TemporaryDirectory() as temporary:
        fetch(Path(temporary))
        yield find_runtime(Path(temporary)), RUNTIME_VERSION


def find_runtime(folder: Path) -> Path:
    """The folder itself, or where npm puts the files below it. Raises ValueError that names a missing file."""
    places = (folder, folder / "dist", folder / "node_modules" / RUNTIME / "dist", folder / "package" / "dist")
    for place in places:
        if (place / RUNTIME_FILES[0]).is_file():
            lacking = [name for name in RUNTIME_FILES if not (place / name).is_file()]
            if lacking:
                raise UserError(f"{place} has no {lacking[0]}: the page is made for {RUNTIME} {RUNTIME_VERSION}")
            return place
    raise UserError(f"--runtime must be a folder with the files of {RUNTIME}, {folder} has no {RUNTIME_FILES[0]}")


def version_in(folder: Path) -> str:
    for place in (folder, folder.parent, folder / "node_modules" / RUNTIME):
        try:
            data = json.loads((place / "package.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and data.get("name") == RUNTIME:
            return re.sub(r"[^\w.-]", "", str(data.get("version")))[:40]
    return "of unknown version"


def fetch(folder: Path) -> None:
    """Fetch onnxruntime-web with npm. ValueError, one line, where that cannot be."""
    npm = shutil.which("npm")
    advice = f"; or name a folder that has {RUNTIME} with --runtime"
    if npm is None:
        raise UserError(f"the page needs {RUNTIME}, which npm fetches: install npm{advice}")
    command = [npm, "pack", f"{RUNTIME}@{RUNTIME_VERSION}", "--pack-destination", str(folder), "--silent"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, cwd=folder)
    except subprocess.TimeoutExpired as err:
        raise UserError(f"npm did not fetch {RUNTIME} within {FETCH_SECONDS} s{advice}") from err
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1][:200]
        raise UserError(f"npm could not fetch {RUNTIME} {RUNTIME_VERSION}: {reason}{advice}")
    wanted = {f"package/dist/{name}" for name in RUNTIME_FILES}
    (folder / "package" / "dist").mkdir(parents=True)
    with tarfile.open(archives[0]) as archive:
        for member in archive:
            if member.name in wanted and member.isfile():
                content = archive.extractfile(member)
                assert content is not None
                with content, open(folder / member.name, "wb") as file:
                    shutil.copyfileobj(content, file)


def copy_runtime(source: Path, version: str, folder: str) -> None:
    os.mkdir(folder)
    for name in RUNTIME_FILES:
        shutil.copyfile(source / name, os.path.join(folder, name))
    with open(os.path.join(folder, "NOTICE.txt"), "w", encoding="utf-8") as file:
        file.write(NOTICE.format(version=version))
