"""Exported networks as files: ONNX or torch.export, with what a program must know of the network beside them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ssn_plugin.block_grid import image_size
from ssn_plugin.edits.recipe import hash_network
from ssn_plugin.errors import UserError
from ssn_plugin.exporting.programs import BATCH, Program, quiet, trace, translated_errors
from ssn_plugin.files import open_atomic

FORMATS = ("onnx", "torch")
DTYPES = {"float32": torch.float32, "float16": torch.float16}
# The largest difference from torch that is accepted, as a share of the largest value. Half precision has 11 bits, and
# errors of layers add up.
TOLERANCE = {"float32": 2e-4, "float16": 5e-2}
OPSET = 20
MIN_TORCH = (2, 7)
INFO_NAME = "network.json"
INFO_FORMAT = "ssn-export 1"
CHECKED_BATCHES = (1, 5)


def export_network(
    G: torch.nn.Module,
    outdir: str | os.PathLike,    # new or empty
    format: str = "onnx",
    dtype: str = "float32",
    inputs: Sequence[str] = (),   # of synthesis beside ws: noise, mask
    name: str = "network",        # for people
    licence: str = "",            # of the weights
    sha256: str | None = None,    # see `hash_of`; None: computed
) -> list[str]:
    """Write mapping and synthesis of a generator, and `network.json`: all of them or none. Returns lines for people.

    Raises ValueError for unknown words, a missing library, a network that cannot be exported, OSError for the disk.
    """
    check(outdir, format, dtype)
    programs = trace(G, name, inputs, DTYPES[dtype])
    info = describe(G, name, licence, dtype, programs, sha256)
    write = write_onnx if format == "onnx" else write_torch
    lines = []
    with new_folder(outdir) as folder:
        for program in programs:
            file_name = f"{program.name}.{'onnx' if format == 'onnx' else 'pt2'}"
            difference = write(program, os.path.join(folder, file_name), info, TOLERANCE[dtype], name)
            lines.append(f"wrote {os.path.join(outdir, file_name)}, largest difference from torch {difference:.2g}")
            info["files"][program.name] = file_name
        write_json(info, os.path.join(folder, INFO_NAME))
    return [*lines, f"wrote {os.path.join(outdir, INFO_NAME)}"]


def check(outdir: str | os.PathLike, format: str, dtype: str) -> None:
    """All that can be wrong before the network is known: ValueError or OSError."""
    if format not in FORMATS:
        raise UserError(f"format must be one of {', '.join((*FORMATS, 'page'))}, got {format}")
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
    require(format)
    check_outdir(outdir)


def require(format: str) -> None:
    """Raise ValueError that names the extra unless the libraries for this format are there."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < MIN_TORCH:
        raise UserError(f"exporting needs torch {'.'.join(map(str, MIN_TORCH))} or newer, this is {torch.__version__}")
    for module in ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ():
        try:
            importlib.import_module(module)
        except ImportError as err:
            raise UserError(f"exporting to ONNX needs the package {module}: pip install 'ssn-plugin[export]'") from err


def check_outdir(outdir: str | os.PathLike) -> None:
    """Raise ValueError unless the folder is new, or there and empty."""
    if os.path.lexists(outdir) and (not os.path.isdir(outdir) or os.listdir(outdir)):
        raise UserError(f"{os.fspath(outdir)} must be a new or an empty folder")


@contextlib.contextmanager
def new_folder(outdir: str | os.PathLike) -> Iterator[str]:
    """A folder that gets this name when the block ends without an error, and is removed otherwise."""
    final = os.path.abspath(outdir)
    os.makedirs(os.path.dirname(final), exist_ok=True)
    temporary = os.path.join(os.path.dirname(final), f".tmp-{secrets.token_hex(8)}")
    os.mkdir(temporary)
    try:
        yield temporary
        if os.path.isdir(final):
            os.rmdir(final)
        os.rename(temporary, final)
    except BaseException as err:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(err, OSError) and temporary in str(err.filename):
            err.filename = str(err.filename).replace(temporary, os.fspath(outdir))
        raise


def describe(
    G: torch.nn.Module, name: str, licence: str, dtype: str, programs: Sequence[Program], sha256: str | None = None
) -> dict[str, Any]:
    """What a program must know to make images with the files, in JSON's types."""
    height, width = image_size(G)
    return {
        "format": INFO_FORMAT, "name": name, "sha256": sha256 or hash_of(G), "licence": licence,
        "height": height, "width": width, "channels": G.img_channels,
        "z_dim": G.z_dim, "w_dim": G.w_dim, "num_ws": G.num_ws, "num_classes": G.c_dim,
        "grids": [list(grid) for grid in getattr(G, "block_grid", [])],   # the last is the finest; none: a StyleGAN2
        "dtype": dtype,
        "inputs": {program.name: {input_name: ["batch", *tensor.shape[1:]] if tensor.ndim else [] for input_name, tensor
                                  in zip(program.part.input_names, program.part.example(1))} for program in programs},
        "files": {},
    }


def hash_of(G: torch.nn.Module) -> str:
    """That of recipes for a network with a block grid, else that of result lines."""
    if hasattr(G, "block_grid"):
        return hash_network(G)
    from metrics.content_hash import hash_state  # of this project's host

    return hash_state(G)


def write_json(data: dict[str, Any], path: str) -> None:
    with open_atomic(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("{\n" + ",\n".join(f'  "{key}": {json.dumps(value)}' for key, value in data.items()) + "\n}\n")


def as_text(info: dict[str, Any]) -> dict[str, str]:
    """For formats whose notes are strings: strings as they are, all else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in info.items()
            if key != "files"}


def write_torch(program: Program, path: str, info: dict[str, Any], tolerance: float, name: str) -> float:
    """A torch.export program, which carries the notes as its extra file `network.json`. Returns its difference."""
    difference = 0.0
    module = program.traced.module()
    for batch in CHECKED_BATCHES:
        example = program.part.example(batch)
        difference = max(difference, compare(program, example, module(*example).numpy(), tolerance, name))
    with open_atomic(path) as file, quiet():
        torch.export.save(program.traced, file, extra_files={INFO_NAME: json.dumps(as_text(info))})
    return difference


def write_onnx(program: Program, path: str, info: dict[str, Any], tolerance: float, name: str) -> float:
    """An ONNX file with the notes as its metadata, compared with torch by onnxruntime. Returns the difference."""
    data = to_onnx(program, as_text(info), name)
    difference = check_onnx(program, data, tolerance, name)
    with open_atomic(path) as file:
        file.write(data)
    return difference


def to_onnx(program: Program, notes: dict[str, str], name: str) -> bytes:
    """The ONNX model, all that does not depend on the inputs already computed."""
    import onnx_ir
    import onnxscript.optimizer

    part = program.part
    with quiet(), translated_errors(name):
        result = torch.onnx.export(
            program.traced, dynamo=True, optimize=False, verbose=False, input_names=part.input_names,
            output_names=[program.output_name], opset_version=OPSET)
        model = result.model
        onnxscript.optimizer.optimize(model, input_size_limit=2**32, output_size_limit=2**32)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = onnx_ir.Shape([size if isinstance(size, int) else BATCH for size in value.shape])
    model.producer_name = "ssn export"
    model.metadata_props.clear()
    model.metadata_props.update(notes)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()   # where in which file of this machine each operation stands
    return onnx_ir.to_proto(model).SerializeToString()


def check_onnx(program: Program, data: bytes, tolerance: float, name: str) -> float:
    """Largest difference between onnxruntime and torch. Raises ValueError where it is too large."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    difference = 0.0
    for batch in CHECKED_BATCHES:
        example = program.part.example(batch)
        feed = {key: tensor.numpy() for key, tensor in zip(program.part.input_names, example)}
        difference = max(difference, compare(program, example, session.run(None, feed)[0], tolerance, name))
    return difference


def compare(program: Program, example: Sequence[torch.Tensor], made: np.ndarray, tolerance: float, name: str) -> float:
    """Largest difference from what the network itself makes, in float32."""
    with torch.no_grad():
        expected = program.part(*example).numpy()
    difference = float(np.abs(made - expected).max())
    if not difference <= tolerance * max(1.0, float(np.abs(expected).max())):
        raise UserError(f"{name} cannot be exported: {program.name} differs by {difference:.2g} from torch")
    return difference
