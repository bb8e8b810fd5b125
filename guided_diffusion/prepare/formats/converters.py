"""Converts published data sets to folders of cases; docs/data.md describes their sources.

A converter takes a ConvertConfig and yields a `RawCase` per case, a DataError that names the file for each broken case,
and notes to report as text. Before its cases it may yield `Facts` about the source. It raises a DataError if the whole
source is unusable.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...data.config import DataConfig
from ...data.files.dataset_json import write_dataset_file
from ...data.names import SPLITS, PatientRule, normal
from ...errors import ConfigError, DataError, first_lines
from ..case_writer import CaseFolder, ManifestRow
from ..layouts.folders import folders
from ..layouts.patterns import check_patterns
from ..lidc import published
from ..splits import assign_splits, read_split
from . import challenge_sets
from .config import ConvertConfig, check_classes_stand_alone, check_level_stands_alone
from .facts import Facts, dataset_file
from .staging import Stage, Staged

FORMATS = {
    "lidc-pickle": published.lidc_pickle,
    "lidc-hdf5": published.lidc_hdf5,
    "lidc-crops": published.lidc_crops,
    "qubiq": challenge_sets.qubiq,
    "brats": challenge_sets.brats,
    "ms-mri": challenge_sets.ms_mri,
    "folders": folders,
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
    check_patterns(config.images, config.masks)
    if config.images and name != "folders":
        raise ConfigError(f"--images and --masks describe sources of the format folders, not {name}")
    is_level = bool(DataConfig(structure=config.structure).levels)
    if config.structure and not is_level and name != "folders":
        raise ConfigError(f"--structure {config.structure}: a level is required, a number or a colour #rrggbb")
    if is_level:
        check_level_stands_alone(config)
    check_classes_stand_alone(config)
    if len(config.task) > 1 and name != "qubiq":
        raise ConfigError(f"--task describes sources of the format qubiq, not {name}")


def convert(
    name: str, config: ConvertConfig, report: Callable[[str], None] = print
) -> tuple[list[ManifestRow], list[str]]:
    """Write every case of a source in the format `name` to config.out.

    Returns the rows of the manifest, and the faults of skipped cases. DataError: no case could be written, or the
    labels are not masks; nothing is written then.
    """
    check_convert_config(name, config)
    known, _ = read_split(config.out)
    out = CaseFolder(config.out, config.src, PatientRule.of(config))
    stage = Stage(config, out)
    try:
        faults = _stage(name, stage, report)
        if stage.cases:
            faults += _settle(stage, faults)
        if not stage.cases:
            raise DataError(_why_nothing_is_left(name, config, faults, stage.skipped))
        notes = out.check_patients([case.row for case in stage.cases])
        split_of = _split(config, stage.cases, known)
        rows = [out.move(case.row, split_of[case.row.patient]) for case in stage.cases]
        out.finish(rows, split_of, config.seed)
        described = dataset_file(name, config, stage.facts, stage.modalities)
        write_dataset_file(config.out, replace(described, labels=stage.stated, paint_order=stage.painted))
    finally:
        stage.close()
    for line in (*stage.notes(), *out.notes(rows), *notes):
        report(line)
    counts = ", ".join(f"{split} {sum(row.split == split for row in rows)}" for split in SPLITS)
    few = f"; skipped {stage.skipped} with too few raters (--min_raters)" if stage.skipped else ""
    groups = "patients" if out.rule.is_given else KEPT_TOGETHER.get(name, "patients")
    report(f"{len(rows)} cases of {len(split_of)} {groups} in {config.out}: {counts}{few}")
    for fault in faults:
        report(f"fault: {fault}")
    return rows, faults


def _stage(name: str, stage: Stage, report: Callable[[str], None]) -> list[str]:
    """Stage the cases of a source; returns the faults of those that are broken."""
    faults = []
    for case in FORMATS[name](stage.config):
        if isinstance(case, str):
            report(f"note: {case}")
            continue
        if isinstance(case, Facts):
            stage.know(case)
            continue
        if isinstance(case, DataError):
            faults.append(str(case))
            continue
        if normal(case.id) in stage.out.written:
            raise DataError(f"{stage.config.src}: two cases are named {case.id}; rename one")
        try:
            stage.add(case)
        except DataError as error:
            faults.append(str(error))
    return faults


def _settle(stage: Stage, faults: list[str]) -> list[str]:
    """`Stage.settle`; a refusal also lists the `faults` before."""
    try:
        return stage.settle()
    except DataError as error:
        lines = str(error).splitlines()
        dataset = stage.facts.dataset
        if dataset and len(dataset.structures) > 1 and not stage.config.classes:
            lines.append(
                f"{dataset.path}: names the levels {dataset.in_words()}; --structure {dataset.structures[0]} takes one"
            )
        raise DataError("\n".join(first_lines([*lines, *faults]))) from error


def _why_nothing_is_left(name: str, config: ConvertConfig, faults: list[str], skipped: int) -> str:
    """The error message for a source without usable cases."""
    if faults:
        return "\n".join(first_lines(faults))
    few = f" ({skipped} have too few raters: --min_raters)" if skipped else ""
    return f"{config.src}: no case found in the format {name}{few}"


def _split(config: ConvertConfig, cases: Sequence[Staged], known: Mapping[str, str]) -> dict[str, str]:
    """{patient: split} of all cases; `known` ones stay. DataError: the source has a patient in two splits."""
    drawn = assign_splits({case.row.patient for case in cases if case.split is None}, config.seed, known)
    split_of: dict[str, str] = {}
    for row, own, _ in cases:
        expected = own or drawn[row.patient]
        split = split_of.setdefault(row.patient, expected)
        if split != expected:
            raise DataError(
                f"{config.src}: patient {row.patient} is in {split} and {expected}; move all cases of a patient to one "
                "split"
            )
    return split_of
