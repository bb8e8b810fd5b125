"""The command line: flags and a preset as config objects; errors of one line."""

import argparse
import contextlib
import os
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import CheckpointError, ConfigError, DataError, TrainingError
from .configs import Configs, configs_from_flags, parse_flags, refuse_unknown
from .fields import FlagField, flag_fields
from .presets import preset_flags
from .retired import RetiredFlags, drop_retired

GAVE_UP = 3  # status of a training that cannot continue; 1 is Python's own, of a bug

Presets = Mapping[str, Mapping[str, Any]]  # {name: {flag: value}}


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_command_line(
    classes: Sequence[type], description: str | None, argv: Sequence[str] | None = None, presets: Presets | None = None
) -> Configs:
    """A config object of each class, from the flags of `argv` and of the preset that they name.

    presets  for --preset; None: the command has no presets

    A retired flag costs a line on stderr. The launcher's --local_rank is ignored: LOCAL_RANK says the same.
    ConfigError: an unknown flag, a bad value, or a flag that is required and missing.
    """
    parser = _parser(classes, description, presets)
    found, unknown = parser.parse_known_args(join_negative_values(sys.argv[1:] if argv is None else argv))
    typed = vars(found)
    chosen = typed.pop("preset", None)
    typed.pop("local_rank", None)
    if unknown and not unknown[0].startswith("--"):
        raise ConfigError(f"{unknown[0]} belongs to no flag; flags begin with --")
    if unknown:
        refuse_unknown(unknown[0][2:].split("=")[0], flag_fields(*classes))
    given, lines = drop_retired(parse_flags(typed, *classes, RetiredFlags))
    for line in lines:
        print(line, file=sys.stderr)

    preset = preset_flags(presets[chosen], given, *classes) if presets and chosen else {}
    configs = configs_from_flags({**preset, **given}, *classes)
    configs.given, configs.preset = given, preset
    _check_required(configs)
    return configs


def _parser(classes: Sequence[type], description: str | None, presets: Presets | None) -> FlagParser:
    parser = FlagParser(
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if presets:
        parser.add_argument("--preset", choices=presets, help="defaults to use in place of those below")
    for cls in classes:
        group = parser.add_argument_group(cls.__name__)
        for field in flag_fields(cls).values():
            if not field.flag.retired:
                _add_flag(group, field)
    for name in (*flag_fields(RetiredFlags), "local_rank", "local-rank"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def _add_flag(group: argparse._ArgumentGroup, field: FlagField) -> None:
    bare: dict[str, Any] = {"nargs": "?", "const": "True"} if field.kind in (bool, bool | None) else {}
    text = f"{field.flag.help}{choices_in_words(field)} [{field.show(field.default)}]".replace("%", "%%")
    group.add_argument(f"--{field.name}", help=text, metavar=field.name.upper(), **bare)


def choices_in_words(field: FlagField) -> str:
    """What follows the help of a flag that takes one of a few words."""
    words = typing.get_args(field.kind) if typing.get_origin(field.kind) is typing.Literal else field.flag.choices
    return f"; one of {', '.join(words)}" if words else ""


def join_negative_values(argv: Sequence[str]) -> list[str]:
    """`--name -1000,400` as `--name=-1000,400`: argparse takes a list that begins with a minus for a flag."""
    joined: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and joined and re.fullmatch(r"--\w+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _check_required(configs: Configs) -> None:
    """ConfigError: a flag that its command needs is not given."""
    for name, field in flag_fields(*configs.classes).items():
        if field.flag.required and not configs.values[name]:
            raise ConfigError(f"--{name} is missing: {field.flag.help}")


@contextlib.contextmanager
def one_line_errors(program: str | None = None) -> Iterator[None]:
    """What the user can mend ends the program with one line and status 2, an interrupt with one and 130; no traceback.

    program  its name in that line; None: as it was started
    """
    program = program or os.path.basename(sys.argv[0])
    try:
        yield
    except (ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingError as error:  # nothing in the command is wrong
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(GAVE_UP)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; rerun the command to resume", file=sys.stderr)
        sys.exit(130)
