"""Errors that a user can fix; commands report each in one line, without a traceback."""

from collections.abc import Iterable
from typing import NamedTuple

NAMES_SHOWN = 5  # cases named for a fault that they share
FAULTS_SHOWN = 20  # lines


class ConfigError(ValueError):
    """Flags that are invalid or contradict each other; the message names the flag and the remedy."""


class DataError(ValueError):
    """Unusable data; the message names the file and the remedy, one line per broken case."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, not ours, or contradicts the flags; the message names file and remedy."""


class TrainingError(RuntimeError):
    """A run that cannot continue; the message states the step, the reason, and what was saved."""


class Fault(NamedTuple):
    """A problem with a case, or with one of its files."""

    case: str  # name of the case
    place: str  # the file or the folder
    text: str  # the problem and the remedy


def split_fault(case: str, folder: str, line: str) -> Fault:
    """Parse a line "PLACE: TEXT" into a Fault; PLACE is the case's folder or a file in it."""
    within, _, text = line.removeprefix(folder).partition(": ")
    return Fault(case, folder + within, text) if line.startswith(folder) else Fault(case, folder, line)


def group_faults(faults: Iterable[Fault]) -> list[str]:
    """One line per distinct text, in order of first appearance.

    A line starts with the place, or, if several cases share the fault, with their number and the first few names.
    """
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.text, []).append(fault)
    lines = []
    for text, group in groups.items():
        cases = list(dict.fromkeys(fault.case for fault in group))
        if len(cases) == 1:
            lines.append(f"{_first_of([fault.place for fault in group])}: {text}")
        else:
            lines.append(f"{len(cases)} cases ({_first_of(cases)}): {text}")
    return lines


def first_lines(lines: list[str]) -> list[str]:
    """The first FAULTS_SHOWN lines, and a line that counts the rest."""
    more = len(lines) - FAULTS_SHOWN
    return [*lines[:FAULTS_SHOWN], f"... and {more} more faults"] if more > 0 else lines


def _first_of(names: list[str]) -> str:
    """The first NAMES_SHOWN names, and the number of the rest."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
