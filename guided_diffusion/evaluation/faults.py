"""What is wrong with many cases, in few lines."""

from collections.abc import Iterable

NAMES_SHOWN = 5  # cases of one fault that are named


def group_faults(faults: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each different fault, of pairs (case, fault).

    It names the cases that have it; of more than NAMES_SHOWN, their number and the first ones.
    """
    cases: dict[str, list[str]] = {}
    for case, fault in faults:
        cases.setdefault(fault, []).append(case)
    return [f"{_some_of(names)}: {fault}" for fault, names in cases.items()]


def _some_of(names: list[str]) -> str:
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return f"{len(names)} cases ({', '.join(names[:NAMES_SHOWN])}, ...)"
