"""Converts the LIDC-IDRI download to a folder of cases, with several series in parallel."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ...data.files.dataset_json import DatasetFile, write_dataset_file
from ...data.names import SPLITS
from ...errors import ConfigError, DataError
from ...system import storage
from ...system.progress import progress_bar
from ...system.storage import walk
from ...system.workers import usable_cores, worker_pool
from ..case_writer import CaseFolder, ManifestRow, Origin, RawCase
from ..splits import assign_splits, read_split, write_split
from . import idri
from .config import LICENCE, SOURCE, PrepareConfig, check_prepare_config
from .crops import Square, crop, crop_mask, to_window
from .dicom import Series, find_series, read_series
from .patients import patients_of_series
from .readings import Reading, read_xml

PATIENTS = "patients.json"  # file in DONE: {series UID: patient}
CHUNK = 64  # headers per task of a process
DONE = ".prepared"  # subfolder of OUT with a file for each finished series
FILLING_RULES = 2  # version; increase it when the same outlines are filled differently, to prepare series again
SERIES_NAMED = 3  # of those that yield no slice
SHOWN = 20  # limit of reported notes, and of reported faults

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class SeriesJob(NamedTuple):
    """A series to prepare."""

    patient: str
    uid: str
    files: list[str]
    readings: list[Reading]


@dataclass
class Outcome:
    """The result of preparing one series, or all of them; notes on single series follow those on the whole."""

    rows: list[ManifestRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Append the result of another series."""
        self.rows += other.rows
        self.notes += other.notes
        self.faults += other.faults


def prepare(config: PrepareConfig, report: Callable[[str], None] = print) -> tuple[list[ManifestRow], list[str]]:
    """Write a case for each slice of each nodule that at least `min_raters` readers drew on, and a manifest.

    Series that are already finished are skipped, so an interrupted run can be resumed. Reports the counts; returns the
    rows of the manifest, and the faults.
    """
    check_prepare_config(config)
    outcome = Outcome()
    readings = _readings(config.xml or config.dicom, outcome.faults)
    with worker_pool(config.processes or usable_cores()) as pool:
        files = find_series(config.dicom, partial(_spread, pool), outcome.faults)
        jobs = _jobs(config, readings, files, pool, outcome.faults)
        if not jobs:
            problem = f"{config.dicom}: contains none of the {len(readings)} CT series named in the XML files"
            raise DataError("; ".join([problem, *outcome.faults[:1]]))
        split_of = _write_cases(config, jobs, pool, outcome)
    CaseFolder(config.out, config.dicom).finish(outcome.rows, split_of, config.seed)
    name = os.path.basename(os.path.abspath(config.out))
    about = DatasetFile(name=name, channel_names=("CT",), labels={"nodule": (1,)}, licence=LICENCE, source=SOURCE)
    write_dataset_file(config.out, about)
    content = {"settings": _settings(config), "notes": outcome.notes, "faults": outcome.faults}
    storage.write_json(os.path.join(config.out, "prepared.json"), content)

    if missing := sorted(readings.keys() - files.keys()):
        note = f"{len(missing)} series named in the XML files are missing in {config.dicom}, e.g. {missing[0]}"
        outcome.notes.insert(0, note)
    _report_all(config, outcome, report)
    return outcome.rows, outcome.faults


def _report_all(config: PrepareConfig, outcome: Outcome, report: Callable[[str], None]) -> None:
    rows = outcome.rows
    nodules, series = {(row.series, row.nodule) for row in rows}, {row.series for row in rows}
    report(
        f"{len(rows)} slices of {len(nodules)} nodules in {len(series)} series of "
        f"{len({row.patient for row in rows})} patients, in {config.out}; "
        f"published versions of the full LIDC-IDRI have {idri.PUBLISHED_SLICES:,} slices"
    )
    report(", ".join(f"{split} {sum(row.split == split for row in rows)}" for split in SPLITS))
    for title, lines in (("note", outcome.notes), ("fault", outcome.faults)):
        for line in lines[:SHOWN]:
            report(f"{title}: {line}")
        if len(lines) > SHOWN:
            report(f"... and {len(lines) - SHOWN} more {title}s, in {os.path.join(config.out, 'prepared.json')}")


def _readings(folder: str, faults: list[str]) -> dict[str, list[Reading]]:
    """{series UID: readings} of all XML files below `folder`."""
    readings: dict[str, list[Reading]] = {}
    files = [os.path.join(base, name) for base, _, names in walk(folder) for name in names]
    paths = [path for path in files if path.lower().endswith(".xml")]
    for path in progress_bar(paths, desc="reading XML", unit="file", delay=1):
        try:
            if reading := read_xml(path):
                readings.setdefault(reading.series_uid, []).append(reading)
        except DataError as error:
            faults.append(str(error))
    if not readings:
        raise DataError("; ".join([f"{folder}: no XML files of LIDC readers found (--xml)", *faults[:1]]))
    return readings


def _spread(pool: Executor, function: Callable[[Argument], Result], arguments: Sequence[Argument]) -> Iterable[Result]:
    """map(function, arguments) in the processes of the pool, with a progress bar for reading headers."""
    results = pool.map(function, arguments, chunksize=CHUNK)
    return progress_bar(results, desc="reading headers", total=len(arguments), unit="file", delay=1)


def _jobs(
    config: PrepareConfig,
    readings: Mapping[str, list[Reading]],
    files: Mapping[str, list[str]],
    pool: Executor,
    faults: list[str],
) -> list[SeriesJob]:
    """The series that have both readings and files, sorted by patient; reads one header of each."""
    uids = sorted(readings.keys() & files.keys())
    found = dict(zip(uids, _spread(pool, _patient_id_of, [(uid, files[uid][0]) for uid in uids]), strict=True))
    faults += [str(error) for error in found.values() if isinstance(error, DataError)]
    ids = {uid: patient_id for uid, patient_id in found.items() if isinstance(patient_id, str)}
    paths = {uid: os.path.relpath(files[uid][0], config.dicom) for uid in ids}
    path = os.path.join(config.out, DONE, PATIENTS)
    known = {} if config.keep_ids else json.loads(storage.read_bytes(path) or b"{}")
    patients = patients_of_series(ids, paths, known, config.keep_ids)
    if patients and not config.keep_ids:
        storage.make_folder(os.path.dirname(path))
        storage.write_json(path, {**known, **patients})
    jobs = [SeriesJob(patients[uid], uid, files[uid], readings[uid]) for uid in ids]
    return sorted(jobs, key=lambda job: (job.patient, job.uid))


def _patient_id_of(series: tuple[str, str]) -> str | DataError:
    """The patient ID of (UID of a series, one of its files), or the reason why it is unusable."""
    uid, path = series
    try:
        return read_series(uid, [path]).patient_id
    except DataError as error:
        return error


def _write_cases(config: PrepareConfig, jobs: Sequence[SeriesJob], pool: Executor, outcome: Outcome) -> dict[str, str]:
    """Run the jobs in the processes of the pool, and add their results to `outcome`; returns {patient: split}."""
    storage.make_folder(os.path.join(config.out, DONE))
    known, _ = read_split(config.out)
    split_of = assign_splits({job.patient for job in jobs}, config.seed, known)
    write_split(config.out, split_of, config.seed)  # before any case, so that an interruption cannot change the split
    waiting = [pool.submit(_prepare_series, job, config, split_of[job.patient]) for job in jobs]
    without: list[SeriesJob] = []
    for job, future in zip(jobs, progress_bar(waiting, unit="series", delay=1), strict=True):
        done = future.result()
        outcome.add(done)
        if not (done.rows or done.faults):
            without.append(job)
    if without:
        outcome.notes.insert(0, f"{len(without)} series yield 0 slices: {_some_names(without)}")
    return split_of


def _some_names(jobs: Sequence[SeriesJob]) -> str:
    """The patients and UIDs of the first series; prepared.json has a note on each of them."""
    names = [f"{job.patient}, series {job.uid}" for job in jobs[:SERIES_NAMED]]
    return "; ".join(names) + (f"; and {len(jobs) - len(names)} more" if len(jobs) > len(names) else "")


def _settings(config: PrepareConfig) -> dict[str, Any]:
    """The settings that affect the cases, JSON-like."""
    settings = {name: getattr(config, name) for name in ("window", "pixel_mm", "crop", "min_raters", "seed")}
    return {**settings, "window": list(config.window)}


# -- one series -------------------------------------------------------------------------------------------------------


def _source_hash(job: SeriesJob) -> str:
    """A hash of the names and sizes of the series' files and XML files, and of how outlines are filled."""
    paths = sorted([*job.files, *(reading.path for reading in job.readings)])
    sizes = [(os.path.basename(path), os.path.getsize(path)) for path in paths]
    return hashlib.sha256(repr((FILLING_RULES, sizes)).encode()).hexdigest()[:16]


def _outcome_before(path: str, source: str, config: PrepareConfig) -> Outcome | None:
    """The stored result of a finished series, from the file `path` in DONE.

    None: there is no such file, the source files have changed, or a case is missing. ConfigError: it was prepared with
    other settings.
    """
    content = storage.read_bytes(path)
    if content is None:
        return None
    kept = json.loads(content)
    rows = [ManifestRow(**row) for row in kept["rows"]]
    if kept["source"] != source or not all(os.path.isdir(os.path.join(config.out, r.split, r.case)) for r in rows):
        return None
    if different := [name for name, value in _settings(config).items() if kept["settings"][name] != value]:
        raise ConfigError(f"{config.out} was prepared with another --{different[0]}: use the same, or another --out")
    return Outcome(rows, kept["notes"], kept["faults"])


def _prepare_series(job: SeriesJob, config: PrepareConfig, split: str) -> Outcome:
    """Write the cases of a series, and store the result in DONE for later runs."""
    done, source = os.path.join(config.out, DONE, f"{job.uid}.json"), _source_hash(job)
    if before := _outcome_before(done, source, config):
        if any(row.patient != job.patient for row in before.rows):
            raise ConfigError(f"{config.out} was prepared with another --keep_ids: use the same, or another --out")
        return before
    try:
        outlines = [o for reading in job.readings for annotation in reading.annotations for o in annotation.outlines]
        series = read_series(job.uid, job.files, {outline.sop_uid for outline in outlines})
        nodules, notes = idri.find_nodules(series, job.readings)
    except DataError as error:
        return Outcome(faults=[str(error)])
    outcome = _write_nodules(job, config, split, series, nodules)
    if not (outcome.rows or outcome.faults):
        outcome.notes.append("0 slices, " + ("all skipped" if outlines else "no reader drew an outline"))
    outcome.notes = [f"{job.patient}, series {job.uid}: {note}" for note in [*notes, *outcome.notes]]
    if not outcome.faults:  # with faults, the next run tries again
        storage.write_json(done, {"settings": _settings(config), "source": source, **asdict(outcome)})
    return outcome


def _write_nodules(
    job: SeriesJob, config: PrepareConfig, split: str, series: Series, nodules: Iterable[idri.Nodule]
) -> Outcome:
    """Write a case for each slice of each nodule.

    The name of a case contains a hash of the series UID, so it does not depend on other series.
    """
    out, outcome, skipped = CaseFolder(config.out, f"{job.files[0]}, patient {job.patient}"), Outcome(), 0
    patient = re.sub(r"[^A-Za-z0-9_-]", "_", job.patient).lstrip("-") or "patient"
    stem = f"{patient}_{hashlib.sha256(job.uid.encode()).hexdigest()[:6]}"
    for k, nodule in enumerate(nodules):
        square = Square(nodule.centre, series.spacing, config.crop, config.pixel_mm)
        for index, masks in sorted(nodule.masks.items()):
            try:
                raters = [crop_mask(mask, square) for mask in masks]
                if sum(bool(mask.any()) for mask in raters) < config.min_raters:
                    skipped += 1
                    continue
                case = _case(series, index, raters, square, f"{stem}_n{k + 1}", config)
                case = replace(case, patient=job.patient)
                outcome.rows.append(out.write(case, split))
            except DataError as error:
                outcome.faults.append(str(error))
    if skipped:
        outcome.notes.append(
            f"{skipped} slices are skipped, because fewer than {config.min_raters} readers drew within the crop"
        )
    return outcome


def _case(
    series: Series, index: int, raters: Sequence[np.ndarray], square: Square, nodule: str, config: PrepareConfig
) -> RawCase:
    """The case of a nodule's slice."""
    low, high = config.window
    grey = to_window(crop(series.hounsfield(index), square, low), low, high)
    origin = Origin(series.uid, index, series.z[index], series.sop_uids[index], nodule)
    return RawCase(f"{nodule}_z{index:03d}", {"": grey}, raters, origin=origin)
