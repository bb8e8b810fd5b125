"""The command line: flags given and a preset as typed values; errors of one line."""

import argparse
import contextlib
import os
import re
import sys
import typing
from dataclasses import fields

import blobfile

from ..errors import CheckpointError, ConfigError, DataError, TrainingError
from .fields import flag_types, parse_flags, pick_flags, show_value
from .presets import preset_flags

# Flags of the published code that mean nothing here, and why
RETIRED = {
    "ngpu": "the launcher says how many processes there are",
    "fp16_scale_growth": "the loss scale of --use_fp16 grows by itself",
}

GAVE_UP = 3  # status of a training that cannot go on; 1 is Python's own, of a bug


class FlagParser(argparse.ArgumentParser):
    """A parser whose errors are one line and exit status 2."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (--help lists the flags)\n")


def parse_command_line(classes, description, argv=None, presets=None):
    """({name: value} of the flags that were given, {name: value} of the preset), both typed.

    presets  {name: {flag: value}}, for --preset; None: the command has no presets

    Retired flags cost a line on stderr; the launcher's --local_rank is taken in silence, for LOCAL_RANK says the same.
    """
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
        for (name, (kind, text)), field in zip(flag_types(cls).items(), fields(cls), strict=True):
            bare = {"nargs": "?", "const": "True"} if kind in (bool, bool | None) else {}
            text = f"{text}{choices_in_words(kind)} [{show_value(field.default)}]".replace("%", "%%")
            group.add_argument(f"--{name}", help=text, metavar=name.upper(), **bare)
    for name in (*RETIRED, "local_rank", "local-rank"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)

    given, unknown = parser.parse_known_args(join_negative_values(sys.argv[1:] if argv is None else argv))
    given = vars(given)
    preset = preset_flags(presets[given.pop("preset")], given) if "preset" in given else {}
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


@contextlib.contextmanager
def one_line_errors(program=None):
    """What the user can mend ends the program with one line and status 2, an interrupt with one and 130; no traceback.

    program  its name in that line; None: as it was started
    """
    program = program or os.path.basename(sys.argv[0])
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
