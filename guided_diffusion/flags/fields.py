"""Flags as annotated fields of config classes.

A flag is defined in one place, its field:

    @config(resume="free")
    class ExampleConfig:
        steps: Annotated[int | None, Flag("network calls per mask", none="all", at_least=1)] = None
"""

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar, dataclass_transform

from ..errors import ConfigError
from .sizes import Size, simplest

Resume = Literal["fixed", "new run", "rounding", "free"]
T = TypeVar("T")
NOT_A_SIZE = "must be an integer, or two as H,W (height, width), e.g. 64,96"


@dataclass(frozen=True)
class Flag:
    """The properties of a flag besides its name, type and default.

    help         its meaning, with the unit
    short        a letter: -X on the command line is another form of the flag
    none         the word for None on the command line; -1 and an empty value mean the same
    choices      allowed values; for a list, allowed items
    at_least, above, at_most, below, multiple_of
                 range of the number, or of each item of a list
    check        value -> the problem, as the end of a sentence that starts with the flag; None: the value is valid
    required     the command needs a value
    local        names an output file or folder, which must not be in a blob store
    resume       who may change it: "fixed" no one; "new run" a run that starts from another run's checkpoint;
                 "rounding" also a resumed run, which reports that rounding changes; "free" also a resumed run
    sampling     "free": sampling may override the value in the checkpoint; "fixed": it may not
    group        the part of a model that reads it; the registry lists the parts of each method. Empty: all methods
    decodes      affects how cases are decoded, so it must match that of a packed file
    from_cases   training replaces the word auto by a number that it takes from the cases, and stores the number
    twin         another flag with the same meaning; passing a flag overrides its twin in a preset
    retired      why the flag has no effect any more. It is hidden from --help, and accepted at its default, or at any
                 value if the default is None
    """

    help: str
    short: str = ""
    none: str | None = None
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    check: Callable[[Any], str | None] | None = None
    required: bool = False
    local: bool = False
    resume: Resume | None = None  # None: as set for its class
    sampling: Literal["fixed", "free"] = "fixed"
    group: str | None = None  # None: as set for its class
    decodes: bool = False
    from_cases: bool = False
    twin: str | None = None
    retired: str | None = None


@dataclass(frozen=True)
class FlagField:
    """A flag with its name, type and default."""

    name: str
    kind: Any
    default: Any
    flag: Flag

    @property
    def forms(self) -> tuple[str, ...]:
        """How the flag is written on the command line: --NAME and, if it has one, its short form."""
        return (f"--{self.name}", *([f"-{self.flag.short}"] if self.flag.short else []))

    def parse(self, value: object) -> Any:
        """The typed value, from text or from a typed value. ConfigError: it cannot be parsed."""
        return parse_value(self, self.kind, value)

    def show(self, value: object) -> str:
        """A typed or JSON-like value in command-line syntax."""
        if value is None:
            return self.flag.none or "none"
        if isinstance(value, (tuple, list)):
            return ",".join(show_item(item) for item in value)
        return show_item(value)

    def is_open(self, value: object) -> bool:
        """Whether the value stands for any number: auto, of a flag that takes its number from the cases."""
        return self.flag.from_cases and value == "auto"

    def check(self, value: object) -> None:
        """ConfigError: the value is out of range."""
        words = words_of(self.kind)
        if value is None or (isinstance(value, str) and value in words):
            return
        choices = self.flag.choices or (words if isinstance(value, str) else ())
        for item in value if isinstance(value, tuple) else (value,):
            if choices and item not in choices:
                raise ConfigError(f"--{self.name} {item} is unknown: choose one of {', '.join(choices)}")
        if wrong := self._wrong(value):
            raise ConfigError(f"--{self.name} {self.show(value)}: {wrong}")

    def _wrong(self, value: Any) -> str | None:
        several = isinstance(value, (tuple, list))
        flag, each, items = self.flag, "each " if several else "", value if several else (value,)
        if several and holds_size(self.kind) and len(items) != 2:
            return NOT_A_SIZE
        if any(isinstance(item, float) and not math.isfinite(item) for item in items):
            return f"{each}must be a finite number"
        if any(isinstance(item, (int, float)) and not _in_range(flag, item) for item in items):
            word = f", or {flag.none}" if flag.none else ""
            return f"{each}must be {_range_in_words(flag)}{word}"
        if flag.local and "://" in str(value):
            return "results can only be written to a local folder; use one and copy it"
        return flag.check(value) if flag.check else None


def _in_range(flag: Flag, value: float) -> bool:
    return (
        (flag.at_least is None or value >= flag.at_least)
        and (flag.above is None or value > flag.above)
        and (flag.at_most is None or value <= flag.at_most)
        and (flag.below is None or value < flag.below)
        and (flag.multiple_of is None or value % flag.multiple_of == 0)
    )


def _range_in_words(flag: Flag) -> str:
    if flag.at_least is not None and flag.at_most is not None:
        return f"from {show_item(flag.at_least)} to {show_item(flag.at_most)}"
    bounds = {
        "at least": flag.at_least,
        "above": flag.above,
        "at most": flag.at_most,
        "below": flag.below,
        "a multiple of": flag.multiple_of,
    }
    return " and ".join(f"{word} {show_item(bound)}" for word, bound in bounds.items() if bound is not None)


# -- config classes ---------------------------------------------------------------------------------------------------


@dataclass_transform(frozen_default=True)
def config(*, resume: Resume = "fixed", group: str = "") -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass of flags, whose constructor raises a ConfigError for values out of range.

    A size with equal sides is stored as one number.

    resume, group  defaults for its flags
    """

    def decorate(cls: type[T]) -> type[T]:
        own = getattr(cls, "__post_init__", None)

        def check(self: Any) -> None:
            for field in flag_fields(cls).values():
                value = getattr(self, field.name)
                field.check(value)
                if holds_size(field.kind) and value is not None:
                    object.__setattr__(self, field.name, simplest(value))
            if own:
                own(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]
        cls.__flag_defaults__ = {"resume": resume, "group": group}  # type: ignore[attr-defined]
        return dataclass(frozen=True)(cls)

    return decorate


def flag_fields(*classes: type) -> Mapping[str, FlagField]:
    """{name: FlagField} of all flags of config classes."""
    return _flag_fields(classes)


@functools.cache
def _flag_fields(classes: tuple[type, ...]) -> Mapping[str, FlagField]:
    found = {}
    for cls in classes:
        hints, defaults = typing.get_type_hints(cls, include_extras=True), cls.__flag_defaults__  # type: ignore[attr-defined]
        for field in fields(cls):
            hint = hints[field.name]
            (flag,) = hint.__metadata__
            own = {name: value for name, value in defaults.items() if getattr(flag, name) is None}
            found[field.name] = FlagField(field.name, hint.__origin__, field.default, replace(flag, **own))
    return types.MappingProxyType(found)


# -- values -----------------------------------------------------------------------------------------------------------


def parse_value(field: FlagField, kind: Any, value: Any) -> Any:
    """A flag's value as `kind`, from text or from a typed value. ConfigError: it cannot be parsed.

    kind is bool, int, float, str, a Literal, a Size, or a tuple[int or float or str, ...] ("16,8"); or a union of one
    of these with None ("", -1 or the flag's word for it) or with a Literal.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if types.NoneType in args and value in (None, "", -1, "-1", "None", field.flag.none):
            return None
        if holds_size(kind):
            return parse_size(field, value)
        return value if value in words_of(kind) else parse_value(field, args[0], value)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"--{field.name} {value} is unknown: choose one of {', '.join(args)}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, (tuple, list)) else [parts]
        return tuple(parse_value(field, args[0], part) for part in parts if part != "")
    return parse_item(field, kind, value)


def parse_item(field: FlagField, kind: type, value: Any) -> Any:
    """A single value of type bool, int, float or str. ConfigError: it cannot be parsed."""
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in known:
            raise ConfigError(f"--{field.name} {value}: must be True or False")
        return known[str(value).lower()]
    try:
        found = kind(value)
        if kind is int and not isinstance(value, str) and (isinstance(value, bool) or found != value):
            raise ValueError
        return found
    except (TypeError, ValueError, OverflowError):
        needed = {int: "an integer", float: "a number"}[kind]
        raise ConfigError(f"--{field.name} {value}: must be {needed}") from None


def parse_size(field: FlagField, value: Any) -> Size:
    """A size, from "64", "64,96" or numbers. ConfigError: it is not one or two integers."""
    parts = value.split(",") if isinstance(value, str) else value
    parts = parts if isinstance(parts, (tuple, list)) else [parts]
    try:
        numbers = [parse_item(field, int, part) for part in parts]
    except ConfigError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) != 2:
        raise ConfigError(f"--{field.name} {field.show(value)}: {NOT_A_SIZE}")
    return simplest((numbers[0], numbers[1]))


def holds_size(kind: Any) -> bool:
    """Whether values of this type are a Size, or None."""
    return tuple[int, int] in typing.get_args(kind)


def show_item(value: object) -> str:
    """A single value in command-line syntax."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def words_of(kind: Any) -> tuple[str, ...]:
    """The words of a Literal, or those that a type like `int | Literal["auto"]` allows besides numbers."""
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    literals = [part for part in typing.get_args(kind) if typing.get_origin(part) is Literal]
    return tuple(word for part in literals for word in words_of(part))


# -- checks shared by several flags -----------------------------------------------------------------------------------


def nonempty(values: tuple[object, ...]) -> str | None:
    """For a list that must not be empty."""
    return None if values else "needs at least one value"


def each_once(values: tuple[object, ...]) -> str | None:
    """For a list of distinct names."""
    return nonempty(values) or (None if len(set(values)) == len(values) else "must name each only once")


def lower_first(bounds: tuple[float, ...]) -> str | None:
    """For a range LO,HI."""
    return None if len(bounds) == 2 and bounds[0] < bounds[1] else "must be LO,HI with LO < HI, e.g. -1000,400"


def odd(value: int) -> str | None:
    """For the side of a window with a central pixel."""
    return None if value % 2 else "must be odd"
