"""The faults of many cases, in few lines."""

from collections.abc import Iterable

NAMES_SHOWN = 5  # cases named for each fault


def group_faults(faults: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each distinct fault in the pairs (case, fault).

    It names the cases with this fault, or their number and the first ones if they are more than NAMES_SHOWN.
    """
    cases: dict[str, list[str]] = {}
    for case, fault in faults:
        cases.setdefault(fault, []).append(case)
    return [f"{_some_of(names)}: {fault}" for fault, names in cases.items()]


def _some_of(names: list[str]) -> str:
    if len(names) <= NAMES_SHOWN:
        return ", ".join(names)
    return f"{len(names)} cases ({', '.join(names[:NAMES_SHOWN])}, ...)"
