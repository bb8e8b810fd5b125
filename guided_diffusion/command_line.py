"""The command line: flags <-> typed configs, presets, and errors of one line."""

import argparse
import contextlib
import difflib
import re
import sys
import types
import typing
from dataclasses import fields

import blobfile

from .errors import CheckpointError, ConfigError, DataError, TrainingError
from .presets import PRESETS, preset_flags

# Flags of the published code that mean nothing here, and why
RETIRED = {
    "ngpu": "the launcher says how many processes there are",
    "fp16_scale_growth": "the loss scale of --use_fp16 grows by itself",
}

GAVE_UP = 3  # status of a training that cannot go on; 1 is Python's own, of a bug


# -- flags -> values --------------------------------------------------------------------------------------------------


def flag_types(cls):
    """{name: (type, help)} of a config class, whose fields are annotated as Annotated[type, help]."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: (hints[field.name].__origin__, hints[field.name].__metadata__[0]) for field in fields(cls)}


def parse_value(name, kind, value):
    """
    The value of --name as `kind`, from a string or from a value that has the type already.

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


# -- the command line -------------------------------------------------------------------------------------------------


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_command_line(classes, description, argv=None):
    """
    ({name: value} of the flags that were given, {name: value} of the preset), both typed.

    Retired flags cost a line on stderr; the launcher's --local_rank is taken in silence, for LOCAL_RANK says the same.
    """
    parser = FlagParser(
        description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    if any("diffusion_steps" in flag_types(cls) for cls in classes):  # a preset is of a model
        parser.add_argument("--preset", choices=PRESETS, help="defaults to use in place of those below")
    for cls in classes:
        group = parser.add_argument_group(cls.__name__)
        for (name, (kind, text)), field in zip(flag_types(cls).items(), fields(cls)):
            bare = {"nargs": "?", "const": "True"} if kind in (bool, bool | None) else {}
            text = f"{text}{choices_in_words(kind)} [{show_value(field.default)}]".replace("%", "%%")
            group.add_argument(f"--{name}", help=text, metavar=name.upper(), **bare)
    for name in (*RETIRED, "local_rank", "local-rank"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)

    given, unknown = parser.parse_known_args(join_negative_values(sys.argv[1:] if argv is None else argv))
    given = vars(given)
    preset = preset_flags(given.pop("preset"), given) if "preset" in given else {}
    given.pop("local_rank", None)
    for name in RETIRED.keys() & given.keys():
        print(f"--{name} {given.pop(name)} has no effect: {RETIRED[name]}", file=sys.stderr)
    if unknown and not unknown[0].startswith("--"):
        raise ConfigError(f"{unknown[0]} belongs to no flag; flags begin with --")
    if unknown:
        parse_flags({unknown[0][2:].split("=")[0]: ""}, *classes)
    return parse_flags(given, *classes), pick_flags(preset, *classes)


def join_negative_values(argv):
    """`--name -1000,400` as `--name=-1000,400`: argparse takes a list that begins with a minus for a flag."""
    joined = []
    for word in argv:
        if re.match(r"-[\d.]", word) and joined and re.fullmatch(r"--\w+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def choices_in_words(kind):
    """What follows the help of a flag that takes one of a few words."""
    return f"; one of {', '.join(typing.get_args(kind))}" if typing.get_origin(kind) is typing.Literal else ""


def show_value(value):
    """A default as it would be typed."""
    if value is None:
        return "-1"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@contextlib.contextmanager
def one_line_errors(program):
    """What the user can mend ends the program with one line and status 2, an interrupt with one and 130; no traceback."""
    try:
        yield
    except (ConfigError, DataError, CheckpointError, OSError, blobfile.Error) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingError as error:  # nothing in the command is wrong
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(GAVE_UP)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on from what is written", file=sys.stderr)
        sys.exit(130)
