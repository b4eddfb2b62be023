"""Errors of the user in one line: by the rules of this project's host, or in another host by the gist of them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import click


class OneLineError(click.ClickException):
    """An error of the user: printed as `Error: <message>`."""

    exit_code = 2


def one_line_errors() -> contextlib.AbstractContextManager[None]:
    """A context that turns what a user can get wrong into one line and exit code 2."""
    if importlib.util.find_spec("training") and importlib.util.find_spec("training.cli"):
        cli: Any = importlib.import_module("training.cli")
        return cli.one_line_errors()
    return _plain_errors()


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    if os.environ.get("DNNLIB_TRACEBACK") == "1":
        yield
        return
    try:
        yield
    except click.UsageError as err:
        if type(err).__name__ == "NoArgsIsHelpError":  # a call without arguments prints the help
            raise
        raise OneLineError(err.format_message()) from err
    except BrokenPipeError:  # the reader of our output went away; click ends quietly then
        raise
    except (OSError, ValueError) as err:
        raise OneLineError(" ".join(str(err).split()) or type(err).__name__) from err


def keep_freed_memory() -> None:
    """Let the process reuse its memory, which is faster, where the host knows how to."""
    with contextlib.suppress(ImportError):
        importlib.import_module("torch_utils.allocator").keep_freed_memory()
