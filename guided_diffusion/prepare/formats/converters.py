"""Published data sets and preparations -> folders of cases. docs/data.md says where each comes from.

A converter takes a ConvertConfig and yields `RawCase`s; in the place of a case that is refused, the DataError that
names the file; and notes to report, as text. It raises a DataError where the whole source is refused.
"""

import os
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np

from ...data.names import SPLITS
from ...errors import ConfigError, DataError
from ...flags.fields import Flag, config
from ..case_writer import STAGE, CaseFolder, ManifestRow
from ..lidc import published
from ..splits import assign_splits, read_split
from . import challenge_sets

FORMATS = {
    "lidc-pickle": published.lidc_pickle,
    "lidc-hdf5": published.lidc_hdf5,
    "lidc-crops": published.lidc_crops,
    "qubiq": challenge_sets.qubiq,
    "brats": challenge_sets.brats,
    "ms-mri": challenge_sets.ms_mri,
    "folders": challenge_sets.folders,
}
KEPT_TOGETHER = {"lidc-pickle": "series"}  # by a split, where the format knows no patients


@config()
class ConvertConfig:
    """What is converted."""

    src: Annotated[str, Flag("file or folder of the source", required=True)] = ""
    out: Annotated[str, Flag("folder to write cases into", required=True, local=True)] = ""
    task: Annotated[int, Flag("qubiq: number of the task", at_least=0)] = 1
    axis: Annotated[
        int | None,
        Flag(
            "qubiq, ms-mri: axis of the files, 0 to 2, along which slices or modalities lie; auto: the last, or the "
            "one that fits",
            none="auto",
            at_least=0,
            at_most=2,
        ),
    ] = None
    min_raters: Annotated[int, Flag("raters who marked something in an image for it to be a case", at_least=0)] = 0
    label_threshold: Annotated[
        float, Flag("a JPEG mask is foreground above this share of full scale", at_least=0, below=1)
    ] = 0.5
    seed: Annotated[int, Flag("seed of the split by patient, where the source has none", at_least=0)] = 0


def check_convert_config(name: str, config: ConvertConfig) -> None:
    """Refuse, by the flag's name, what cannot be converted."""
    if name not in FORMATS:
        raise ConfigError(f"the format {name} is unknown: choose one of {', '.join(FORMATS)}")
    if not os.path.exists(config.src):
        raise DataError(f"{config.src}: no such file or folder (--src)")
    if os.path.exists(os.path.join(config.out, "manifest.csv")):
        raise ConfigError(f"--out {config.out} holds converted cases already: name a new folder")


class Staged(NamedTuple):
    """A case that is written; `split` is its own, or None where it is to be drawn."""

    row: ManifestRow
    split: str | None


def convert(
    name: str, config: ConvertConfig, report: Callable[[str], None] = print
) -> tuple[list[ManifestRow], list[str]]:
    """Write every case of a source of the format `name` into config.out.

    Returns the rows of the manifest, and the faults of the cases that are refused. DataError: there is no other case.
    """
    check_convert_config(name, config)
    out = CaseFolder(config.out, config.src)
    faults: list[str] = []
    known, _ = read_split(config.out)
    staged, passed_over = _stage(name, config, out, faults, report)
    if not staged:
        raise DataError(_why_nothing_is_left(name, config, faults, passed_over))
    drawn = assign_splits({row.patient for row, own in staged if own is None}, config.seed, known)
    split_of: dict[str, str] = {}
    rows = []
    for row, own in staged:
        wanted = own or drawn[row.patient]
        split = split_of.setdefault(row.patient, wanted)
        if split != wanted:
            raise DataError(
                f"{config.src}: patient {row.patient} is in {split} and {own}; "
                "put all cases of a patient into one split"
            )
        rows.append(out.move(row, split))
    out.finish(rows, split_of, config.seed)
    counts = ", ".join(f"{split} {sum(row.split == split for row in rows)}" for split in SPLITS)
    few = f"; {passed_over} with too few raters passed over" if passed_over else ""
    groups = KEPT_TOGETHER.get(name, "patients")
    report(f"{len(rows)} cases of {len(split_of)} {groups} in {config.out}: {counts}{few}")
    for fault in faults:
        report(f"fault: {fault}")
    return rows, faults


def _why_nothing_is_left(name: str, config: ConvertConfig, faults: list[str], passed_over: int) -> str:
    """The message for a source without a case that can be written."""
    if faults:
        return faults[0] + (f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else "")
    few = f" ({passed_over} have too few raters: --min_raters)" if passed_over else ""
    return f"{config.src}: no case of the format {name}{few}"


def _stage(
    name: str, config: ConvertConfig, out: CaseFolder, faults: list[str], report: Callable[[str], None]
) -> tuple[list[Staged], int]:
    """The cases that are written, and the number of those with too few raters."""
    staged, passed_over = [], 0
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
            passed_over += 1
            continue
        try:
            staged.append(Staged(out.write(case, case.split or STAGE), case.split))
        except DataError as error:
            faults.append(str(error))
    return staged, passed_over
