"""The command class of all scripts: every expected error ends as one line on stderr and exit code 2."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

import click

from dnnlib.util import is_lack_of_memory, open_missing_streams, printable
from torch_utils.allocator import keep_freed_memory
from training.formats.network_names import network_help

COMMANDS = "training.cli.commands"  # in the `meta` of click's contexts: the words to call a script, by its name


class OneLineError(click.ClickException):
    """An error of the user: printed as `Error: <message>`."""

    exit_code = 2


class Interrupted(click.ClickException):
    """Ctrl-C, reported with the exit code that shells use for it."""

    exit_code = 130

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo("\nAborted", file=file, err=True)


class Command(click.Command):
    """A click command that reports UserError, OSError and wrong usage in one line, without a traceback.

    Use it as `@click.command(cls=Command)`. With DNNLIB_TRACEBACK=1 in the environment errors pass unchanged.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        settings = kwargs.get("context_settings") or {}
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"], **settings}
        super().__init__(*args, **kwargs)

    def main(self, args: Any = None, *other: Any, **options: Any) -> Any:
        if args is None:  # the process is this command; a caller who passes arguments has a process of its own
            open_missing_streams()
            keep_freed_memory()
        return super().main(args, *other, **options)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options under the headings that they name; those that name none, as always."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)
        for heading, records in sorted(groups.items(), key=lambda item: item[0] == "Options"):
            with formatter.section(heading):
                formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with one_line_errors():
            return super().invoke(ctx)


def network_option(required: bool = True) -> Callable[[Any], Any]:
    """The option `--network` of every command that reads a network; `--network=help` lists the short names."""
    return click.option(
        "--network", required=required, metavar="PATH|URL|NAME", callback=list_networks, is_eager=True,
        help="Network file: path, URL, or a short name that --network=help lists",
    )


def trust_option() -> Callable[[Any], Any]:
    """The option `--trust-pickle` that goes with `--network`."""
    return click.option(
        "--trust-pickle", is_flag=True, help="Run code that the network file carries; only for files you trust")


def list_networks(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback of an eager parameter that names a network: `help` prints the short names and ends the command."""
    if value == "help":
        click.echo(network_help())
        ctx.exit()
    return value


def words_to_call(script: str, path: str | None = None) -> list[str]:
    """How to call a script: `python generate.py`, or `ssn generate` where the running program has it as a command.

    path: of the script, where it may lie elsewhere than in the current folder.
    """
    context = click.get_current_context(silent=True)
    commands = {} if context is None else context.meta.get(COMMANDS, {})
    return commands.get(script, ["python", path or f"{script}.py"])


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise as `OneLineError` what a user can do something about: wrong usage, UserError, OSError, a lack of memory.

    Other exceptions pass unchanged, and all of them with DNNLIB_TRACEBACK=1 in the environment.
    """
    if os.environ.get("DNNLIB_TRACEBACK") == "1":
        yield
        return
    try:
        yield
    except click.ClickException as err:
        # An interrupt of an inner command keeps its exit code; a call without arguments prints the help.
        if err.exit_code not in (1, 2) or type(err).__name__ == "NoArgsIsHelpError":
            raise
        raise OneLineError(_one_line(err.format_message())) from err
    except BrokenPipeError:  # the reader of our output went away; click ends quietly then
        raise
    except OSError as err:
        raise OneLineError(_one_line(_describe(err))) from err
    except ValueError as err:
        if is_bug(err):
            raise
        raise OneLineError(_one_line(_describe(err))) from err
    except (MemoryError, RuntimeError) as err:
        if not is_lack_of_memory(err):
            raise
        advice = "out of memory: use a smaller batch or smaller images"
        raise OneLineError(f"{advice} ({_one_line(str(err))[:200]})") from err
    except KeyboardInterrupt as err:
        raise Interrupted("Aborted") from err


def is_bug(err: ValueError) -> bool:
    """Is it none of the errors that stand for a mistake of the user, but one of a library or of Python itself?

    `UserError` is known by its name: a plugin that also runs in other hosts has a class of its own. Files that are not
    what they should be show as text or JSON that cannot be decoded.
    """
    expected = any(cls.__name__ == "UserError" for cls in type(err).__mro__)
    return not (expected or isinstance(err, (UnicodeError, json.JSONDecodeError)) or _worker_message(err) is not None)


def _describe(err: OSError | ValueError) -> str:
    """`name: reason` instead of Python's `[Errno 2] reason: 'name'`; of a data loader's report the message alone."""
    if isinstance(err, OSError) and err.strerror and err.filename is not None:
        return f"{os.fsdecode(err.filename)}: {err.strerror}"
    return _worker_message(err) or str(err) or type(err).__name__


def _worker_message(err: Exception) -> str | None:
    """What went wrong in a process of torch's DataLoader, whose errors carry their traceback as text."""
    text = str(err).strip()
    if not re.match(r"Caught \w+ in DataLoader worker process", text):
        return None
    return text.splitlines()[-1].partition(": ")[2]


def _one_line(text: str) -> str:
    """Names from files may hold what a terminal would act on."""
    return printable(" ".join(text.split()), None)
