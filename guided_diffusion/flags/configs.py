"""Config objects from flags, flags from config objects, and how two sets of flags differ."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import ConfigError
from .fields import FlagField, flag_fields, show_item

T = TypeVar("T")
Flags = Mapping[str, Any]  # {name: value}


class Configs:
    """One config object of each of several classes: `configs[UNetConfig]`.

    given   {name: value} of those flags that were given
    preset  {name: value} of those that a preset set
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
        """The classes of its objects."""
        return tuple(self._objects)

    @property
    def values(self) -> dict[str, Any]:
        """{name: typed value} of every flag."""
        return {name: getattr(config, name) for config in self for name in flag_fields(type(config))}

    def flags(self, *classes: type) -> dict[str, Any]:
        """{name: JSON-like value} of the flags of these classes, or of all; without retired ones at their defaults."""
        return flags_from_configs(*(self[cls] for cls in classes or self.classes))

    def replace(self, **values: Any) -> "Configs":
        """A copy with other values of some flags."""
        changed = []
        for config in self:
            own = {name: value for name, value in values.items() if name in flag_fields(type(config))}
            changed.append(replace(config, **own))
        return Configs(changed, self.given, self.preset)


def configs_from_flags(flags: Flags, *classes: type) -> Configs:
    """A config object of each class, from those flags {name: value} that it has; values typed or as text.

    ConfigError: a value cannot be read or is out of range.
    """
    return Configs(cls(**parse_flags(pick_flags(flags, cls), cls)) for cls in classes)


def flags_from_configs(*configs: Any) -> dict[str, Any]:
    """{name: JSON-like value} of all configs, without retired flags at their defaults."""
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
    """{name: value} with the types of the config classes. ConfigError: a name that none of them has, or a bad value."""
    known = flag_fields(*classes)
    for name in values:
        if name not in known:
            refuse_unknown(name, known)
    return {name: known[name].parse(value) for name, value in values.items()}


def refuse_unknown(name: str, known: Iterable[str]) -> None:
    """ConfigError: --name is unknown; the closest known name is suggested."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    raise ConfigError(
        f"--{name} is not a flag of this command" + "".join(f"; did you mean --{word}?" for word in close)
    )


def pick_flags(flags: Flags, *classes: type) -> dict[str, Any]:
    """Those of the flags {name: value} that the config classes have."""
    known = flag_fields(*classes)
    return {name: value for name, value in flags.items() if name in known}


def json_like(flags: Flags) -> dict[str, Any]:
    """The flags with their tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()}


def as_typed(name: str, value: object, known: Mapping[str, FlagField]) -> str:
    """A value as it would be typed: by the flag's own field, where there is one."""
    if name in known:
        return known[name].show(value)
    return ",".join(map(show_item, value)) if isinstance(value, (list, tuple)) else show_item(value)


def differences(stored: Flags, now: Flags, *classes: type, free: Iterable[str] = ()) -> list[str]:
    """["--name stored-value, not other-value"] for each flag of `now` that the stored flags contradict.

    stored, now  {name: JSON-like value}
    classes      config classes of the flags. What `stored` lacks had the default: it is older than the flag. A flag of
                 none of them that `stored` lacks contradicts nothing.
    free         names that may differ
    """
    known, free = flag_fields(*classes), set(free)
    stored = {**default_flags(*classes), **stored}
    return [
        f"--{name} {as_typed(name, stored[name], known)}, not {as_typed(name, value, known)}"
        for name, value in now.items()
        if name not in free and name in stored and stored[name] != value
    ]
