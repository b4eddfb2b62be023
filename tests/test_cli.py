"""Promises of training.cli.Command: how errors of the user look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from training.cli import Command

ROOT = Path(__file__).resolve().parent.parent
ERRORS = {
    "value": ValueError("block (4, 0) is outside\nthe 4x4 latent grid"),
    "empty": ValueError(),
    "file": FileNotFoundError(2, "No such file or directory", "data.zip"),
    "os": OSError("data.zip: truncated image 3.png"),
    "usage": click.BadParameter("must be even", param_hint="--size"),
    "click": click.ClickException("no network"),
    "bug": KeyError("missing"),
    "interrupt": KeyboardInterrupt(),
    "none": None,
}


@click.command(cls=Command)
@click.option("--raise", "name", type=click.Choice(list(ERRORS)), required=True)
@click.option("--size", type=int)
def command(name, size):
    """Fail as told."""
    print("started")
    error = ERRORS[name]
    if error is not None:
        raise error


def run(*args: str) -> Result:
    return CliRunner().invoke(command, list(args))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("value", "Error: block (4, 0) is outside the 4x4 latent grid"),
        ("empty", "Error: ValueError"),
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
        "import click; from training.cli import Command\n"
        "@click.command(cls=Command)\n"
        "def main(): raise ValueError('too small')\n"
        "main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "Error: too small\n")
