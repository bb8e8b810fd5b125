"""The command line: parses flags and presets into config objects, and reports errors in one line."""

import argparse
import contextlib
import io
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

GAVE_UP = 3  # exit status of a training run that cannot continue; Python uses 1 for an uncaught exception

Presets = Mapping[str, Mapping[str, Any]]  # {name: {flag: value}}


class FlagParser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_command_line(
    classes: Sequence[type], description: str | None, argv: Sequence[str] | None = None, presets: Presets | None = None
) -> Configs:
    """A config object of each class, from the flags in `argv` and from the preset named there.

    presets  choices of --preset; None: the command has no presets

    A retired flag prints a note on stderr. A launcher's --local_rank is ignored, as LOCAL_RANK has the same value.
    ConfigError: an unknown flag, an invalid value, or a missing required flag.
    """
    parser = _parser(classes, description, presets)
    found, unknown = parser.parse_known_args(join_negative_values(sys.argv[1:] if argv is None else argv))
    typed = vars(found)
    chosen = typed.pop("preset", None)
    typed.pop("local_rank", None)
    if unknown and not unknown[0].startswith("--"):
        raise ConfigError(f"{unknown[0]}: unexpected argument; flags start with --")
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
        parser.add_argument("--preset", choices=presets, help="named set of defaults that replaces those below")
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
    forms = reversed(field.forms)
    group.add_argument(*forms, dest=field.name, action=StoreOneForm, help=text, metavar=field.name.upper(), **bare)


class StoreOneForm(argparse.Action):
    """Stores the last value of a flag. ConfigError: the flag is passed in its long and in its short form."""

    passed: str | None = None  # the first form in the command

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store `values`, passed as the form `option`."""
        self.passed = self.passed or option
        if option != self.passed:
            raise ConfigError(f"{self.passed} and {option} are the same flag: use only one of them")
        setattr(namespace, self.dest, values)


def choices_in_words(field: FlagField) -> str:
    """The list of choices that is appended to the help of a flag, or an empty string."""
    words = typing.get_args(field.kind) if typing.get_origin(field.kind) is typing.Literal else field.flag.choices
    return f"; one of {', '.join(words)}" if words else ""


def name_first_word(argv: Sequence[str] | None, flag: str) -> list[str]:
    """The words of a command, None those of this process; a first word that is not a flag is the value of --FLAG."""
    words = list(sys.argv[1:] if argv is None else argv)
    return [f"--{flag}={words[0]}", *words[1:]] if words and not words[0].startswith("-") else words


def join_negative_values(argv: Sequence[str]) -> list[str]:
    """`--name -1000,400` as `--name=-1000,400`: argparse mistakes a list that starts with a minus for a flag."""
    joined: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and joined and re.fullmatch(r"--\w+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _check_required(configs: Configs) -> None:
    """ConfigError: a required flag is missing."""
    for name, field in flag_fields(*configs.classes).items():
        if field.flag.required and not configs.values[name]:
            raise ConfigError(f"{' or '.join(field.forms)} is missing: {field.flag.help}")


@contextlib.contextmanager
def one_line_errors(program: str | None = None) -> Iterator[None]:
    """Exit with a one-line message instead of a traceback: status 2 for user errors, 130 after an interrupt.

    program  program name in the message; None: the name of the running script
    """
    program = program or os.path.basename(sys.argv[0])
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is; names may not be printable in this terminal
    try:
        yield
    except (ConfigError, DataError, CheckpointError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
    except TrainingError as error:  # the command itself is valid
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(GAVE_UP)
    except KeyboardInterrupt:
        print(f"{program}: interrupted; rerun the command to resume", file=sys.stderr)
        sys.exit(130)
