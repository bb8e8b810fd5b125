"""What can go wrong in a way that a user can fix; commands show each as one line, without a traceback."""

from collections.abc import Iterable
from typing import NamedTuple

NAMES_SHOWN = 5  # of the cases that share a fault
FAULTS_SHOWN = 20  # lines


class ConfigError(ValueError):
    """Flags that contradict each other or cannot be built; the message names the flag and the remedy."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the remedy, a line for each broken case."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, foreign, or contradicts the flags; the message names it and the remedy."""


class TrainingError(RuntimeError):
    """A run that cannot continue; the message says at which step, why, and what is saved."""


class Fault(NamedTuple):
    """What is wrong with one case, or with one of its files."""

    case: str  # its name
    place: str  # the file or the folder
    text: str  # what is wrong, and the remedy


def split_fault(case: str, folder: str, line: str) -> Fault:
    """The Fault of a line "PLACE: TEXT" about a case, whose place is its folder or a file in it."""
    within, _, text = line.removeprefix(folder).partition(": ")
    return Fault(case, folder + within, text) if line.startswith(folder) else Fault(case, folder, line)


def group_faults(faults: Iterable[Fault]) -> list[str]:
    """A line for each different text, in the order in which they first come: where it applies, and the text.

    Where it applies is the place, or for several cases their number and the names of the first few.
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
    """At most FAULTS_SHOWN of the lines, and one that counts the others."""
    more = len(lines) - FAULTS_SHOWN
    return [*lines[:FAULTS_SHOWN], f"... and {more} more faults"] if more > 0 else lines


def _first_of(names: list[str]) -> str:
    """The first NAMES_SHOWN names, and the number of the others."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
