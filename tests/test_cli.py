"""Promises of training.cli.Command: how errors of the user look, and what is no error of the user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from dnnlib import util as host_errors
from dnnlib.util import UserError
from ssn_plugin import errors as plugin_errors
from ssn_plugin.hosts import ours, reference
from training import cli
from training.cli import Command

ROOT = Path(__file__).resolve().parent.parent
ERRORS = {
    "value": UserError("block (4, 0) is outside\nthe 4x4 latent grid"),
    "empty": UserError(),
    "control": UserError("class \x1b[2J\u202e is unknown"),
    "file": FileNotFoundError(2, "No such file or directory", "data.zip"),
    "os": OSError("data.zip: truncated image 3.png"),
    "usage": click.BadParameter("must be even", param_hint="--size"),
    "click": click.ClickException("no network"),
    "bug": KeyError("missing"),
    "interrupt": KeyboardInterrupt(),
    "none": None,
}
OPERATIONS = {
    "stack": lambda: np.stack([]),
    "interpolate": lambda: torch.nn.functional.interpolate(torch.zeros([1, 1, 4, 4])),
    "int": lambda: int("x"),
    "broadcast": lambda: np.zeros(3) + np.zeros(4),
    "decode": lambda: b"\xff".decode("utf-8"),
    "cpu memory": lambda: torch.empty(2**50),
    "numpy memory": lambda: np.empty(2**55),
    "shapes": lambda: torch.zeros(3) + torch.zeros(4),
    "worker": lambda: next(iter(torch.utils.data.DataLoader(BrokenData(), num_workers=1))),
}


class BrokenData(torch.utils.data.Dataset):
    """Its only image cannot be read."""

    def __len__(self):
        return 1

    def __getitem__(self, idx):
        raise UserError("data.zip: 3.png is damaged")


@click.command(cls=Command)
@click.option("--raise", "name", type=click.Choice(list(ERRORS)), required=True)
@click.option("--size", type=int)
def command(name, size):
    """Fail as told."""
    print("started")
    error = ERRORS[name]
    if error is not None:
        raise error


@click.command(cls=Command)
@click.argument("name")
def operate(name):
    """Do something that a library refuses."""
    OPERATIONS[name]()


def run(*args: str) -> Result:
    return CliRunner().invoke(command, list(args))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("value", "Error: block (4, 0) is outside the 4x4 latent grid"),
        ("empty", "Error: UserError"),
        ("control", "Error: class \\x1b[2J\\u202e is unknown"),
        ("file", "Error: data.zip: No such file or directory"),
        ("os", "Error: data.zip: truncated image 3.png"),
        ("usage", "Error: Invalid value for --size: must be even"),
        ("click", "Error: no network"),
    ],
)
def test_expected_errors_are_one_line_and_exit_code_2(name, line):
    result = run(f"--raise={name}")
    assert result.exit_code == 2
    assert result.stderr == f"{line}\n"
    assert result.stdout == "started\n"


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--raise=none", "--size=x"], "'x' is not a valid integer"),
        (["--raise=other"], "'other'"),
        (["--unknown=1"], "--unknown"),
        ([], "Missing option '--raise'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args, part):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ") and part in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_success_and_help_end_with_exit_code_0():
    assert run("--raise=none").exit_code == 0
    result = run("--help")
    assert result.exit_code == 0
    assert "Fail as told." in result.stdout


def test_a_bug_is_not_hidden():
    result = run("--raise=bug")
    assert isinstance(result.exception, KeyError)


def test_ctrl_c_ends_cleanly():
    result = run("--raise=interrupt")
    assert result.exit_code == 130
    assert result.stderr == "\nAborted\n"


def test_the_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("DNNLIB_TRACEBACK", "1")
    assert run("--raise=value").exception is ERRORS["value"]


def test_no_traceback_reaches_the_terminal():
    code = (
        "import click; from training.cli import Command; from training.config import UserError\n"
        "@click.command(cls=Command)\n"
        "def main(): raise UserError('too small')\n"
        "main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "Error: too small\n")


@pytest.mark.parametrize("name", ["stack", "interpolate", "int", "broadcast"])
def test_a_refusal_that_no_code_of_ours_states_is_a_bug_and_not_hidden(name):
    result = CliRunner().invoke(operate, [name])
    assert type(result.exception) is ValueError and result.stderr == ""


@pytest.mark.parametrize("error", [host_errors.UserError, plugin_errors.UserError])
def test_the_errors_of_host_and_plugin_are_known(error):
    with pytest.raises(cli.OneLineError, match="too small"), cli.one_line_errors():
        raise error("too small")


def test_text_that_is_none_is_an_error_of_the_user():
    result = CliRunner().invoke(operate, ["decode"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_of_an_error_in_a_data_loader_only_the_message_is_shown():
    result = CliRunner().invoke(operate, ["worker"])
    assert (result.exit_code, result.stderr) == (2, "Error: data.zip: 3.png is damaged\n")


@pytest.mark.parametrize("name", ["cpu memory", "numpy memory"])
def test_a_lack_of_memory_is_one_line_with_advice(name):
    result = CliRunner().invoke(operate, [name])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("Error: out of memory: use a smaller batch or smaller images (")


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory():
    assert type(CliRunner().invoke(operate, ["shapes"]).exception) is RuntimeError


def test_memory_is_kept_in_the_process_of_a_command_and_not_in_that_of_a_caller(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append(True))
    run("--raise=none")
    command.main(["--raise=none"], standalone_mode=False)
    assert calls == []
    monkeypatch.setattr("sys.argv", ["command", "--raise=none"])
    command.main(standalone_mode=False)
    assert calls == [True]


@pytest.mark.parametrize("host", [ours, reference])
@pytest.mark.parametrize(("name", "line"), [
    ("value", "Error: block (4, 0) is outside the 4x4 latent grid"), ("os", "Error: data.zip: truncated image 3.png"),
    ("usage", "Error: Invalid value for --size: must be even"), ("empty", "Error: UserError"),
    ("control", "Error: class \\x1b[2J\\u202e is unknown"),
])  # fmt: skip
def test_the_plugin_reports_the_errors_of_a_user_alike_in_every_host(host, name, line):
    with pytest.raises(click.ClickException) as raised, host.one_line_errors():
        raise ERRORS[name]
    assert raised.value.exit_code == 2 and f"Error: {raised.value.format_message()}" == line


def test_names_of_files_in_messages_cannot_steer_the_terminal():
    @click.command(cls=Command)
    def command():
        raise OSError("\x1b[2J\x07a\u202eb.png cannot be read")

    result = CliRunner().invoke(command, [])
    assert result.stderr == "Error: \\x1b[2J\\x07a\\u202eb.png cannot be read\n"
