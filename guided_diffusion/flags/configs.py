"""Conversion between config objects and flags, and comparison of two sets of flags."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import ConfigError
from .fields import FlagField, flag_fields, show_item

T = TypeVar("T")
Flags = Mapping[str, Any]  # {name: value}


class Configs:
    """Config objects by class: `configs[UNetConfig]`.

    given   {name: value} of the flags that the user passed
    preset  {name: value} of the flags set by a preset
    """

    def __init__(self, objects: Iterable[Any], given: Flags | None = None, preset: Flags | None = None) -> None:
        self._objects = {type(config): config for config in objects}
        self.given, self.preset = dict(given or {}), dict(preset or {})

    def __getitem__(self, cls: type[T]) -> T:
        return self._objects[cls]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._objects.values())

    @property
    def classes(self) -> tuple[type, ...]:
        """The config classes."""
        return tuple(self._objects)

    @property
    def values(self) -> dict[str, Any]:
        """{name: typed value} of all flags."""
        return {name: getattr(config, name) for config in self for name in flag_fields(type(config))}

    def flags(self, *classes: type) -> dict[str, Any]:
        """{name: JSON-like value} of the flags of these classes, default all, except retired ones at their defaults."""
        return flags_from_configs(*(self[cls] for cls in classes or self.classes))

    def replace(self, **values: Any) -> "Configs":
        """A copy with new values for some flags."""
        changed = []
        for config in self:
            own = {name: value for name, value in values.items() if name in flag_fields(type(config))}
            changed.append(replace(config, **own))
        return Configs(changed, self.given, self.preset)


def configs_from_flags(flags: Flags, *classes: type) -> Configs:
    """A config object of each class, from the flags {name: value} that belong to it; values are typed or strings.

    ConfigError: a value cannot be parsed or is out of range.
    """
    return Configs(cls(**parse_flags(pick_flags(flags, cls), cls)) for cls in classes)


def flags_from_configs(*configs: Any) -> dict[str, Any]:
    """{name: JSON-like value} of all configs, except retired flags at their defaults."""
    flags = {}
    for config in configs:
        for name, field in flag_fields(type(config)).items():
            value = getattr(config, name)
            if not (field.flag.retired and value == field.default):
                flags[name] = value
    return json_like(flags)


def default_flags(*classes: type) -> dict[str, Any]:
    """{name: JSON-like default} of all config classes."""
    return flags_from_configs(*(cls() for cls in classes))


def parse_flags(values: Flags, *classes: type) -> dict[str, Any]:
    """{name: value} with the types of the config classes. ConfigError: an unknown name or an invalid value."""
    known = flag_fields(*classes)
    for name in values:
        if name not in known:
            refuse_unknown(name, known)
    return {name: known[name].parse(value) for name, value in values.items()}


def refuse_unknown(name: str, known: Iterable[str]) -> None:
    """Raise the ConfigError for an unknown flag; it suggests the closest known name."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    raise ConfigError(
        f"--{name} is not a flag of this command" + "".join(f"; did you mean --{word}?" for word in close)
    )


def pick_flags(flags: Flags, *classes: type) -> dict[str, Any]:
    """The flags {name: value} that belong to the config classes."""
    known = flag_fields(*classes)
    return {name: value for name, value in flags.items() if name in known}


def override(stored: Flags, given: Flags, *classes: type) -> dict[str, Any]:
    """Stored flags {name: value}, and the given flags in their place, except an auto that stands for any number."""
    known = flag_fields(*classes)
    open_ones = {name for name in given.keys() & stored.keys() & known.keys() if known[name].is_open(given[name])}
    return {**stored, **{name: value for name, value in given.items() if name not in open_ones}}


def json_like(flags: Flags) -> dict[str, Any]:
    """The flags with tuples converted to lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}


def as_typed(name: str, value: object, known: Mapping[str, FlagField]) -> str:
    """A value in command-line syntax, formatted by the flag's own field if it is known."""
    if name in known:
        return known[name].show(value)
    return ",".join(map(show_item, value)) if isinstance(value, (list, tuple)) else show_item(value)


def differences(stored: Flags, now: Flags, *classes: type, free: Iterable[str] = ()) -> list[str]:
    """["--name stored-value, not other-value"] for each flag of `now` that differs from the stored flags.

    stored, now  {name: JSON-like value}
    classes      config classes of the flags. A flag of these classes that `stored` lacks is newer than `stored`, and
                 had its default. Other flags that `stored` lacks are ignored.
    free         names that may differ

    An auto in `now` that stands for any number of the cases differs from no stored number.
    """
    known, free = flag_fields(*classes), set(free)
    stored = {**default_flags(*classes), **stored}
    free |= {name for name in now.keys() & known.keys() if known[name].is_open(now[name])}
    return [
        f"--{name} {as_typed(name, stored[name], known)}, not {as_typed(name, value, known)}"
        for name, value in now.items()
        if name not in free and name in stored and stored[name] != value
    ]
