"""A setting said once: the field of a dataclass, its option on the command line, its rule, and where its value goes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from ssn_plugin.errors import UserError

TYPES: dict[str, type] = {"int": int, "float": float, "str": str}  # first word of a field's annotation -> of its option


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must be."""

    words: str                    # `at least 1`
    holds: Callable[[Any], bool]
    choices: Sequence[str] = ()


def at_least(lowest: float) -> Rule:
    return Rule(f"at least {lowest}", lambda value: lowest <= value < math.inf)


def more_than(limit: float) -> Rule:
    return Rule(f"more than {limit}", lambda value: limit < value < math.inf)


def between(lowest: float, highest: float) -> Rule:
    return Rule(f"between {lowest} and {highest}", lambda value: lowest <= value <= highest)


def one_of(choices: Sequence[str]) -> Rule:
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices, choices)


def show(value: Any) -> str:
    """A value as messages, --help and names of runs spell it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


class GroupedOption(click.Option):
    """An option that --help lists under a heading, in commands that know headings."""

    group = "Spatially Stochastic Networks (--cfg=ssn, ssn-plus, ssn-baseline)"


@dataclasses.dataclass(frozen=True)
class Setting:
    """All there is to say about a field besides its type and its default."""

    flag: str | None = None           # the option as it is typed; None: no option sets this field
    metavar: str | None = None
    help: str = ""
    rule: Rule | None = None          # for values other than None
    target: str | None = None         # which keyword arguments it is one of: "loss" or "synthesis"
    part: str | None = None           # stands before the value in the name of a run for which the option is given
    shown: str | None = None          # the default as --help words it; None: the field's
    keyword: str | None = None        # of the option; None: the name of the field
    show: Callable[[Any], str] = show
    needs: str | None = None          # field without which, being 0, the option has no effect
    only_if_changed: bool = False     # no argument at its default: trees from before it existed stay equal
    for_baseline: bool = False        # a StyleGAN2 to compare with has it, too


def setting(default: Any, flag: str | None = None, metavar: str | None = None, help: str = "", **rest: Any) -> Any:
    """A field with a `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(flag, metavar, help, **rest)})


def settings_of(config: Any) -> dict[str, tuple[dataclasses.Field, Setting]]:
    """Name -> field and `Setting` of a dataclass."""
    return {field.name: (field, field.metadata["setting"]) for field in dataclasses.fields(config)}


def check_rules(config: Any) -> None:
    """Raise ValueError naming the first field of a dataclass that breaks its rule."""
    for name, (_field, kind) in settings_of(config).items():
        value = getattr(config, name)
        if kind.rule is not None and value is not None and not kind.rule.holds(value):
            raise UserError(f"{kind.flag or name} must be {kind.rule.words}, got {show(value)}")


def click_option(field: dataclasses.Field, kind: Setting, presets: Mapping[str, Mapping[str, Any]]) -> click.Option:
    """The option that sets a field. None stands for one that is not given.

    presets: name of a cfg -> fields that have another default there.
    """
    default = kind.shown if kind.shown is not None else kind.show(field.default)
    others = [f"; {kind.show(preset[field.name])} in {cfg}" for cfg, preset in presets.items() if field.name in preset]
    choices = kind.rule.choices if kind.rule is not None else ()
    return GroupedOption(
        [str(kind.flag), kind.keyword or field.name], metavar=kind.metavar,
        type=click.Choice(choices) if choices else TYPES.get(str(field.type).partition(" ")[0], str),
        help=f"{kind.help}  [default: {default}{''.join(others)}]",
    )
