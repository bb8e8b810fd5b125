"""Flags as annotated fields of dataclasses: their types, values from text, and the configs that they make."""

import difflib
import types
import typing
from dataclasses import fields

from ..errors import ConfigError


def flag_types(cls):
    """{name: (type, help)} of a config class, whose fields are annotated as Annotated[type, help]."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: (hints[field.name].__origin__, hints[field.name].__metadata__[0]) for field in fields(cls)}


def parse_value(name, kind, value):
    """The value of --name as `kind`, from a string or from a value that has the type already.

    kind is bool, int, float, str, a Literal, tuple[int or float, ...] ("16,8"), one of these or None ("" or -1), or
    one of these or the word of a Literal. ConfigError: it cannot be read so.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind, other = typing.get_args(kind)
        if value in ((None, "", -1, "-1", "None") if other is types.NoneType else typing.get_args(other)):
            return None if other is types.NoneType else value
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"--{name} {value} is unknown: choose one of {', '.join(args)}")
        return value
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (tuple, list)) else [value]
        return tuple(parse_value(name, args[0], part) for part in parts if part != "")
    if kind is bool:
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in known:
            raise ConfigError(f"--{name} {value}: True or False is wanted")
        return known[str(value).lower()]
    try:
        return kind(value)
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise ConfigError(f"--{name} {value}: {wanted} is wanted") from None


def parse_flags(values, *classes):
    """{name: value} with the types that the config classes say. ConfigError: a name that none of them has."""
    kinds = {name: kind for cls in classes for name, (kind, _) in flag_types(cls).items()}
    if unknown := [name for name in values if name not in kinds]:
        close = difflib.get_close_matches(unknown[0], kinds, n=1)
        raise ConfigError(f"--{unknown[0]} is no flag" + (f"; --{close[0]}?" if close else ""))
    return {name: parse_value(name, kinds[name], value) for name, value in values.items()}


def pick_flags(flags, *classes):
    """Those of the flags {name: value} that the config classes have."""
    known = {f.name for cls in classes for f in fields(cls)}
    return {name: value for name, value in flags.items() if name in known}


def configs_from_flags(flags, *classes):
    """One config object per class, from those flags {name: value} that are its; values as parse_flags takes them."""
    return [cls(**parse_flags(pick_flags(flags, cls), cls)) for cls in classes]


def flags_from_configs(*configs):
    """{name: value} of all configs, JSON-like."""
    return json_like({f.name: getattr(config, f.name) for config in configs for f in fields(config)})


def default_flags(*classes):
    """{name: default} of all config classes, JSON-like."""
    return flags_from_configs(*(cls() for cls in classes))


def json_like(flags):
    """The flags with their tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}


def show_value(value):
    """A default as it would be typed."""
    if value is None:
        return "-1"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def differences(stored, given, free=(), unnamed=None):
    """["--name stored-value, not given-value"] for each flag of `given` that the stored flags contradict.

    unnamed  {name: value} of flags that `stored` may lack: the default, for it was stored before the flag was there. A flag in
             neither contradicts nothing.
    """
    stored = {**(unnamed or {}), **stored}
    return [
        f"--{name} {stored[name]}, not {value}"
        for name, value in given.items()
        if name not in free and name in stored and stored[name] != value
    ]
