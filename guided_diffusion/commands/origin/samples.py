"""The origin of the samples of a case: drawn by this program, or by another."""

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...data.files.passed_over import OUTPUT
from ...errors import DataError
from ...sampling import store
from ...sampling.config import flags_of
from .stored import NOT_STORED, Rows, class_rows, rules_in_words, versions_in_words, with_others

# Entries with a row of their own
TITLED = {"flags", "written_by", "case", "checkpoint", "image", "reading", "geometry"}


def samples_rows(path: str) -> Rows:
    """What made the samples at `path`. DataError: the file is damaged, or does not hold samples."""
    samples, made_by = store.read_case(path)
    if "flags" in made_by:
        return _own_rows(path, samples, made_by)
    entries = " ".join(f"{name}={value}" for name, value in made_by.items())
    return [
        ("kind", "samples of a case, of another program"),
        ("written by", NOT_STORED),
        ("case", _case(path, made_by)),
        ("samples", _in_words(samples)),
        ("stored", entries or "nothing besides the samples"),
    ]


def _own_rows(path: str, samples: store.Samples, made_by: store.Made) -> Rows:
    try:
        flags = flags_of(made_by)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    entries = {name: value for name, value in made_by.items() if name not in TITLED}
    commands, left = _command_rows(flags, entries)
    rows = [
        ("kind", "samples of a case"),
        ("written by", _versions(made_by)),
        *commands,
        ("case", _case(path, made_by)),
        ("samples", _in_words(samples)),
        *class_rows(flags.get("classes")),
        ("own size", _own_size(path, made_by)),
        *((name, f"hash {made_by.get(name, NOT_STORED)}") for name in ("checkpoint", "image")),
        ("reading rules", rules_in_words(made_by.get("reading", 1))),  # version 1 did not store it
    ]
    return [*rows, ("also stored", left)] if left else rows


def _versions(made_by: store.Made) -> str:
    with contextlib.suppress(ValueError):
        return versions_in_words(json.loads(str(made_by.get("written_by"))))
    return NOT_STORED


def _own_size(path: str, made_by: store.Made) -> str:
    """The size of the case's image, and how its pixels became the network's."""
    try:
        geometry = store.geometry_of(made_by)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if geometry is None:
        return NOT_STORED
    (height, width), (tall, wide) = geometry.size, geometry.canvas
    padded = f", padded to {wide}x{tall}" if geometry.canvas != geometry.size else ""
    turned = f", turned by EXIF orientation {geometry.orientation}" if geometry.orientation != 1 else ""
    return f"{width}x{height} pixels in {geometry.file}{turned}{padded}"


def _case(path: str, made_by: store.Made) -> str:
    """The name of the case: as stored if it was shortened for the file, else that of the file."""
    match = OUTPUT.fullmatch(os.path.basename(path))
    return str(made_by.get("case", match[1] if match else NOT_STORED))


def _in_words(samples: store.Samples) -> str:
    count, *classes, height, width = samples.shape
    low, high = np.min(samples), np.max(samples)
    each = f", each of {classes[0]} classes" if classes else ""
    return f"{count} of {width}x{height} pixels{each}, {samples.dtype}, from {float(low):.3g} to {float(high):.3g}"


def _command_rows(flags: Mapping[str, Any], entries: Mapping[str, Any]) -> tuple[Rows, str]:
    """The command that drew samples, the flags of their model, and as text the entries that are not flags.

    flags    {name: value} of data and model
    entries  further settings {name: value}
    """
    from .sampling_flags import sampling_flags  # imports torch

    found = sampling_flags(flags, entries)
    rows = with_others([("command", f"cimd-sample {found.command}")], found.others)
    rows.append(
        ("model flags", f"{found.model or 'all at their defaults'} (only weights of the published code need them)")
    )
    return rows, found.rest
