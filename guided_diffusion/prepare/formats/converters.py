"""Converts published data sets to folders of cases; docs/data.md describes their sources.

A converter takes a ConvertConfig and yields a `RawCase` per case, a DataError that names the file for each broken case,
and notes to report as text. It raises a DataError if the whole source is unusable.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...data.names import SPLITS
from ...errors import ConfigError, DataError
from ..case_writer import STAGE, CaseFolder, ManifestRow
from ..lidc import published
from ..splits import assign_splits, read_split
from . import challenge_sets
from .config import ConvertConfig

FORMATS = {
    "lidc-pickle": published.lidc_pickle,
    "lidc-hdf5": published.lidc_hdf5,
    "lidc-crops": published.lidc_crops,
    "qubiq": challenge_sets.qubiq,
    "brats": challenge_sets.brats,
    "ms-mri": challenge_sets.ms_mri,
    "folders": challenge_sets.folders,
}
KEPT_TOGETHER = {"lidc-pickle": "series"}  # unit of the split, for formats without patients


def check_convert_config(name: str, config: ConvertConfig) -> None:
    """ConfigError or DataError: an unknown format, a missing source, or an output folder in use."""
    if name not in FORMATS:
        raise ConfigError(f"the format {name} is unknown: choose one of {', '.join(FORMATS)}")
    if not os.path.exists(config.src):
        raise DataError(f"{config.src}: no such file or folder (--src)")
    if os.path.exists(os.path.join(config.out, "manifest.csv")):
        raise ConfigError(f"--out {config.out} already contains converted cases: use a new folder")


class Staged(NamedTuple):
    """A written case; `split` is that of the source, or None if it is assigned at random."""

    row: ManifestRow
    split: str | None


def convert(
    name: str, config: ConvertConfig, report: Callable[[str], None] = print
) -> tuple[list[ManifestRow], list[str]]:
    """Write every case of a source in the format `name` to config.out.

    Returns the rows of the manifest, and the faults of skipped cases. DataError: no case could be written.
    """
    check_convert_config(name, config)
    out = CaseFolder(config.out, config.src)
    faults: list[str] = []
    known, _ = read_split(config.out)
    staged, skipped = _stage(name, config, out, faults, report)
    if not staged:
        raise DataError(_why_nothing_is_left(name, config, faults, skipped))
    drawn = assign_splits({row.patient for row, own in staged if own is None}, config.seed, known)
    split_of: dict[str, str] = {}
    rows = []
    for row, own in staged:
        expected = own or drawn[row.patient]
        split = split_of.setdefault(row.patient, expected)
        if split != expected:
            raise DataError(
                f"{config.src}: patient {row.patient} is in {split} and {own}; move all cases of a patient to one split"
            )
        rows.append(out.move(row, split))
    out.finish(rows, split_of, config.seed)
    counts = ", ".join(f"{split} {sum(row.split == split for row in rows)}" for split in SPLITS)
    few = f"; skipped {skipped} with too few raters (--min_raters)" if skipped else ""
    groups = KEPT_TOGETHER.get(name, "patients")
    report(f"{len(rows)} cases of {len(split_of)} {groups} in {config.out}: {counts}{few}")
    for fault in faults:
        report(f"fault: {fault}")
    return rows, faults


def _why_nothing_is_left(name: str, config: ConvertConfig, faults: list[str], skipped: int) -> str:
    """The error message for a source without usable cases."""
    if faults:
        return faults[0] + (f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else "")
    few = f" ({skipped} have too few raters: --min_raters)" if skipped else ""
    return f"{config.src}: no case found in the format {name}{few}"


def _stage(
    name: str, config: ConvertConfig, out: CaseFolder, faults: list[str], report: Callable[[str], None]
) -> tuple[list[Staged], int]:
    """Write the cases; returns those written, and the number of cases with too few raters."""
    staged, skipped = [], 0
    for case in FORMATS[name](config):
        if isinstance(case, str):
            report(f"note: {case}")
            continue
        if isinstance(case, DataError):
            faults.append(str(case))
            continue
        if case.id in out.written:
            raise DataError(f"{config.src}: two cases are named {case.id}; rename one")
        if sum(bool(np.any(mask)) for mask in case.raters) < config.min_raters:
            skipped += 1
            continue
        try:
            staged.append(Staged(out.write(case, case.split or STAGE), case.split))
        except DataError as error:
            faults.append(str(error))
    return staged, skipped
