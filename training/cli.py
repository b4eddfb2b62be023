"""The command class of all scripts: every expected error ends as one line on stderr and exit code 2."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

import click

from torch_utils.allocator import keep_freed_memory


class OneLineError(click.ClickException):
    """An error of the user: printed as `Error: <message>`."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl-C, reported with the exit code that shells use for it."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo("\nAborted", file=file, err=True)


class Command(click.Command):
    """A click command that reports ValueError, OSError and wrong usage in one line, without a traceback.

    Use it as `@click.command(cls=Command)`. With DNNLIB_TRACEBACK=1 in the environment errors pass unchanged.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        keep_freed_memory()
        with _one_line_errors():
            return super().invoke(ctx)


def network_option(required: bool = True) -> Callable[[Any], Any]:
    """The option `--network` of every command that reads a network; `--network=help` lists the published ones."""
    return click.option(
        "--network", required=required, metavar="PATH|URL|NAME", callback=_list_networks, is_eager=True,
        help="Network file: path, URL, or a short name that --network=help lists",
    )


def _list_networks(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value == "help":
        from training.network_files import network_help  # imports torch

        click.echo(network_help())
        ctx.exit()
    return value


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    if os.environ.get("DNNLIB_TRACEBACK") == "1":
        yield
        return
    try:
        yield
    except click.ClickException as err:
        raise OneLineError(_one_line(err.format_message())) from err
    except OSError as err:
        if err.errno == errno.EPIPE:  # the reader of our output went away; click ends quietly then
            raise
        raise OneLineError(_one_line(_describe(err))) from err
    except ValueError as err:
        raise OneLineError(_one_line(str(err)) or type(err).__name__) from err
    except KeyboardInterrupt as err:
        raise Interrupted("Aborted") from err


def _describe(err: OSError) -> str:
    """`name: reason` instead of Python's `[Errno 2] reason: 'name'`."""
    if err.strerror and err.filename is not None:
        return f"{os.fsdecode(err.filename)}: {err.strerror}"
    return str(err) or type(err).__name__


def _one_line(text: str) -> str:
    return " ".join(text.split())
