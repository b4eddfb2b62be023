"""Fields of a dataclass that are options of a command line: type, default, rule and help, said once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from dnnlib.util import UserError
from training.run.clock import parse_duration

Choices = Sequence[str] | Callable[[], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be: one of the `choices`, or what `words` say and `holds` tests."""

    words: str = ""
    holds: Callable[[Any], bool] = lambda value: True
    choices: Choices = ()

    def check(self, flag: str, value: Any) -> None:
        """Raise UserError, which names the option, the rule and the value, if the value breaks it."""
        choices = self.choices() if callable(self.choices) else self.choices
        if not self.holds(value) or choices and value not in choices:
            raise UserError(f"{flag} must be {self.words or 'one of ' + ', '.join(choices)}, got {value}")


def at_least(lowest: float) -> Rule:
    return Rule(f"at least {lowest}", lambda value: lowest <= value < math.inf)


def more_than(limit: float) -> Rule:
    return Rule(f"more than {limit}", lambda value: limit < value < math.inf)


def between(lowest: float, highest: float) -> Rule:
    return Rule(f"between {lowest} and {highest}", lambda value: lowest <= value <= highest)


def one_of(choices: Choices) -> Rule:
    return Rule(choices=choices)


class CommaSeparated(click.ParamType):
    """`a,b,c` -> ["a", "b", "c"]; `none` or nothing -> []."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        return [] if value.lower() in ("", "none") else value.split(",")


class Duration(click.ParamType):
    """`90s`, `10m`, `2h` -> seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return parse_duration(value)


Seconds = float  # of an option that is typed as a `Duration`

# First word of a field's annotation -> type of its option.
TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "Sequence[str]": CommaSeparated(),
                         "Seconds": Duration()}


class GroupedOption(click.Option):
    """An option that --help lists under the heading `group`, see `training.cli.Command`."""

    def __init__(self, *args: Any, group: str = "", **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.group = group


@dataclasses.dataclass(frozen=True)
class Option:
    """All there is to say about a field besides its type and its default."""

    group: str                               # heading of --help
    metavar: str | None
    help: str
    rule: Rule = Rule()                      # for values other than None
    arguments: Sequence[str] = ()            # of the training loop, dotted, that take the value as it is
    part: str | Callable[[Any], str] = ""    # of the name of a run for which the option is given, from its value
    shown: str | None = None                 # the default as --help words it, "" for none; None: the field's
    while_running: bool = False              # may change when a run carries on: what is learned stays the same
    click: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # further arguments of the click option


def option(group: str, default: Any, metavar: str | None, help: str, **rest: Any) -> Any:
    """A field with an `Option`."""
    return dataclasses.field(default=default, metadata={"option": Option(group, metavar, help, **rest)})


def options_of(table: Any) -> dict[str, Option]:
    """Name -> `Option` of those fields of a dataclass that have one."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(table) if field.metadata}


def flag_of(name: str) -> str:
    """`batch_gpu` -> `--batch-gpu`; `for_`, whose name is a word of Python, -> `--for`."""
    return "--" + name.rstrip("_").replace("_", "-")


def click_options(table: type, **further: Mapping[str, Any]) -> list[GroupedOption]:
    """The options that set the fields of a dataclass; None stands for one that is not given.

    further: name of a field -> arguments of its click option beyond those in the table.
    """
    return [
        click_option(field, field.metadata["option"], further.get(field.name, {}))
        for field in dataclasses.fields(table) if field.metadata
    ]


def click_option(field: dataclasses.Field, kind: Option, further: Mapping[str, Any]) -> GroupedOption:
    choices = kind.rule.choices() if callable(kind.rule.choices) else kind.rule.choices
    shown = show_default(field.default) if kind.shown is None else kind.shown
    return GroupedOption(
        [flag_of(field.name), field.name], metavar=kind.metavar, group=kind.group,
        type=click.Choice(choices) if choices else TYPES[str(field.type).partition(" ")[0]],
        help=f"{kind.help}  [default: {shown}]" if shown else kind.help, **kind.click, **further,
    )


def show_default(value: Any) -> str:
    """A default as it is typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else str(value)
