"""Stored flags, versions and reading rules in words. Does not need torch."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from ...data.case_reader import READING_RULES
from ...errors import ConfigError
from ...flags.classes import parse_classes
from ...flags.configs import Flags, as_typed
from ...flags.fields import flag_fields
from ...system.versions import is_written_by

Rows = list[tuple[str, str]]  # title and text, one line each

NOT_STORED = "not stored"
RULES = {
    1: "images in colour become grey, orientations are ignored, and labels are read file by file",
    2: "images in colour keep their planes, the orientations of EXIF and NIfTI are applied, labels are read by the "
    "levels of the whole set, and masks are resized by area",
}


def rules_in_words(version: object) -> str:
    """The reading rules of a stored version: what they mean, and whether they are those of this program."""
    if not isinstance(version, int) or version < 1:
        return NOT_STORED
    if version > READING_RULES:
        return f"version {version}, of a later version of this program, which has version {READING_RULES}"
    present = "the present ones" if version == READING_RULES else f"this program has version {READING_RULES}"
    return f"version {version} ({present}): {RULES[version]}"


def versions_in_words(written_by: object) -> str:
    """The versions that wrote a file, from its entry `written_by`."""
    if not is_written_by(written_by) or not written_by:
        return NOT_STORED
    return ", ".join(f"{name} {text}" for name, text in written_by.items())


def sort_flags(stored: Flags, *classes: type) -> tuple[dict[str, Any], str]:
    """The stored flags {name: typed value} that this version has, and the others as text.

    The others are flags of other versions, retired flags that are not at their defaults, and values that this version
    does not accept.
    """
    known, kept, others = flag_fields(*classes), dict[str, Any](), []
    for name, value in stored.items():
        field = known.get(name)
        if field and field.flag.retired and value == field.default:
            continue
        try:
            if field is None or field.flag.retired:
                raise ConfigError(f"--{name} is not a flag of this version")
            typed = field.parse(value)
            field.check(typed)
            kept[name] = typed
        except (ConfigError, TypeError, OverflowError):
            others.append(f"--{name} {as_typed(name, value, {})}")
    return kept, " ".join(others)


def class_rows(stored: object) -> Rows:
    """A row on the classes that a stored value of --classes names, if there are several and it can be read."""
    entries = stored.split(",") if isinstance(stored, str) else stored
    if not isinstance(entries, Sequence) or not all(isinstance(entry, str) for entry in entries):
        return []
    with contextlib.suppress(ValueError):
        classes = parse_classes(entries)
        kind = "of which a pixel has at most one" if classes.exclusive else "regions, which may overlap"
        return [("classes", f"{', '.join(classes.names)}, {kind}")] if classes.several else []
    return []


def titled(title: str, lines: Iterable[str]) -> Rows:
    """A row for each line, the first of them with the title."""
    return [(title if k == 0 else "", line) for k, line in enumerate(lines)]


def with_others(rows: Rows, others: str) -> Rows:
    """The rows, and one with the text of the flags that are not in the command, if there are any."""
    return [*rows, ("other flags", f"{others} (not of this version)")] if others else rows
