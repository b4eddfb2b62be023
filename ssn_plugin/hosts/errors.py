"""Errors of the user in one line, for hosts that have no `training.cli`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import click


class OneLineError(click.ClickException):
    """An error of the user: printed as `Error: <message>`."""

    exit_code = 2


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise wrong usage, ValueError and OSError as `OneLineError`; DNNLIB_TRACEBACK=1 lets them pass unchanged."""
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
        raise OneLineError(_one_line(str(err)) or type(err).__name__) from err


def _one_line(text: str) -> str:
    """Names from files may hold what a terminal would act on."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.split()))
