"""From the LIDC-IDRI download to a folder of cases, series by series in several processes."""

import hashlib
import json
import os
import re
from dataclasses import asdict
from functools import partial
from typing import Annotated

from tqdm import tqdm

from ...data.names import SPLITS
from ...errors import ConfigError, DataError
from ...flags.fields import Flag, config, lower_first
from ...system import storage
from ...system.storage import walk
from ...system.workers import usable_cores, worker_pool
from ..case_writer import CaseFolder, RawCase
from ..splits import assign_splits, read_split, write_split
from . import idri
from .dicom import find_series, read_series

CHUNK = 64  # headers that a process reads at a time
DONE = ".prepared"  # a folder of OUT with a file for each finished series
SHOWN = 20  # notes and faults


@config()
class PrepareConfig:
    """What is prepared, and how."""

    dicom: Annotated[str, Flag("folder of the download's CT series, searched whole", required=True)] = ""
    xml: Annotated[str, Flag("folder of the readers' XML files, searched whole; empty: --dicom")] = ""
    out: Annotated[str, Flag("folder to write cases into", required=True, local=True)] = ""
    window: Annotated[
        tuple[float, ...], Flag("LO,HI in Hounsfield units: what becomes black, what white", check=lower_first)
    ] = (-1000.0, 400.0)
    pixel_mm: Annotated[
        float | None,
        Flag("side of a pixel of the crops, mm; none: the scanner's", none="none", at_least=0.05, at_most=10),
    ] = 0.5
    crop: Annotated[int, Flag("side of the crops, pixels", at_least=8)] = 128
    min_raters: Annotated[
        int, Flag("readers who drew on a slice for it to be a case", at_least=1, at_most=idri.MOST_READERS)
    ] = 1
    processes: Annotated[int | None, Flag("series at a time; auto: one for each core", none="auto", at_least=1)] = None
    seed: Annotated[int, Flag("seed of the split by patient", at_least=0)] = 0


def check_prepare_config(config):
    """Refuse, by the flag's name, what cannot be prepared."""
    for folder in (config.dicom, config.xml or config.dicom):
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: no such folder")


def prepare(config, tell=print):
    """Write a case for each slice of each nodule that at least `min_raters` readers drew on, and a manifest; tell the counts.

    Series that are finished are passed over, so that an interrupted run goes on. Returns the rows of the manifest, and the faults.
    """
    check_prepare_config(config)
    faults = []
    readings = _readings(config.xml or config.dicom, faults)
    with worker_pool(config.processes or usable_cores()) as pool:
        over = partial(_spread, pool)
        files = find_series(config.dicom, over, faults)
        jobs = _jobs(readings, files, over, faults)
        if not jobs:
            raise DataError(
                f"{config.dicom}: no CT series of the {len(readings)} that the XML speaks of{'; ' + faults[0] if faults else ''}"
            )
        rows, notes, split = _write_cases(config, jobs, pool, faults)
    CaseFolder(config.out, config.dicom).finish(rows, split, config.seed)
    written = {"settings": _settings(config), "notes": notes, "faults": faults}
    storage.write_atomically(
        os.path.join(config.out, "prepared.json"),
        lambda file: file.write((json.dumps(written, indent=1) + "\n").encode()),
    )

    missing = sorted(readings.keys() - files.keys())
    if missing:
        notes = [
            f"{len(missing)} series that the XML speaks of are not in {config.dicom}, {missing[0]} for one",
            *notes,
        ]
    _tell_all(config, rows, notes, faults, tell)
    return rows, faults


def _tell_all(config, rows, notes, faults, tell):
    tell(
        f"{len(rows)} slices of {len({(row['series'], row['nodule']) for row in rows})} nodules in {len({row['series'] for row in rows})} series of "
        f"{len({row['patient'] for row in rows})} patients, in {config.out}; the whole of LIDC-IDRI has {idri.PUBLISHED_SLICES:,} in published preparations"
    )
    tell(", ".join(f"{name} {sum(row['split'] == name for row in rows)}" for name in SPLITS))
    for title, lines in (("note", notes), ("fault", faults)):
        for line in lines[:SHOWN]:
            tell(f"{title}: {line}")
        if len(lines) > SHOWN:
            tell(f"... and {len(lines) - SHOWN} more {title}s, in {os.path.join(config.out, 'prepared.json')}")


def _readings(folder, faults):
    """{series UID: [Reading]} of all XML files below `folder`."""
    readings = {}
    paths = [
        os.path.join(base, name) for base, _, names in walk(folder) for name in names if name.lower().endswith(".xml")
    ]
    for path in tqdm(paths, desc="reading XML", unit="file", dynamic_ncols=True, delay=1):
        try:
            if reading := idri.read_xml(path):
                readings.setdefault(reading.series_uid, []).append(reading)
        except DataError as error:
            faults.append(str(error))
    if not readings:
        raise DataError(f"{folder}: no XML of LIDC's readers{'; ' + faults[0] if faults else ''}")
    return readings


def _spread(pool, function, paths):
    """map(function, paths) in the processes of the pool, with a progress bar: what finds the series reads a header of each file."""
    return tqdm(
        pool.map(function, paths, chunksize=CHUNK),
        desc="reading headers",
        total=len(paths),
        unit="file",
        dynamic_ncols=True,
        delay=1,
    )


def _jobs(readings, files, over, faults):
    """[(patient, UID of the series, its files, readings)], by patient; a header of each series is read."""
    jobs, uids = [], sorted(readings.keys() & files.keys())
    for uid, (patient, fault) in zip(uids, over(_patient_of, [(uid, files[uid][0]) for uid in uids]), strict=True):
        if fault:
            faults.append(fault)
        else:
            jobs.append((patient, uid, files[uid], readings[uid]))
    return sorted(jobs, key=lambda job: job[:2])


def _patient_of(series):
    """(patient, None) of (UID, one of its files), or (None, fault)."""
    uid, path = series
    try:
        return read_series(uid, [path]).patient, None
    except DataError as error:
        return None, str(error)


def _write_cases(config, jobs, pool, faults):
    """(rows of the manifest, notes, {patient: split}) of the jobs, done in the processes of the pool."""
    storage.make_folder(os.path.join(config.out, DONE))
    known, _ = read_split(config.out)
    split = assign_splits({patient for patient, *_ in jobs}, config.seed, known)
    write_split(config.out, split, config.seed)  # before any case: whatever happens, a patient stays where it is
    work = partial(_prepare_series, config=config, settings=_settings(config))
    rows, notes = [], []
    waiting = [pool.submit(work, *job, split=split[job[0]]) for job in jobs]
    for future in tqdm(waiting, unit="series", dynamic_ncols=True, delay=1):
        told = future.result()
        rows += told["rows"]
        notes += told["notes"]
        faults += told["faults"]
    return rows, notes, split


def _settings(config):
    """What decides the cases, beside the files; JSON-like."""
    settings = {
        name: value
        for name, value in asdict(config).items()
        if name in ("window", "pixel_mm", "crop", "min_raters", "seed")
    }
    return {**settings, "window": list(config.window)}


def _source_hash(files, readings):
    """What the series is made from: names and sizes of its files and of the readers' XML."""
    paths = sorted([*files, *(reading.path for reading in readings)])
    return hashlib.sha256(
        repr([(os.path.basename(path), os.path.getsize(path)) for path in paths]).encode()
    ).hexdigest()[:16]


def _told_before(path, source, config, settings):
    """What the file `path` in DONE tells of a finished series; None where there is none, other files than now make the series, or a case
    of it is gone. ConfigError: it was prepared with other settings.
    """
    content = storage.read_bytes(path)
    told = json.loads(content) if content is not None else None
    if (
        told is None
        or told["source"] != source
        or not all(os.path.isdir(os.path.join(config.out, row["split"], row["case"])) for row in told["rows"])
    ):
        return None
    if unlike := [name for name, value in settings.items() if told["settings"][name] != value]:
        raise ConfigError(f"{config.out} was prepared with another --{unlike[0]}: give the same, or another --out")
    return told


def _prepare_series(patient, uid, files, readings, *, config, settings, split):
    """Write the cases of one series; {"rows", "notes", "faults"}, which a file in DONE keeps for the next time.

    The name of a case has a hash of the series, which other series do not change.
    """
    done, source = os.path.join(config.out, DONE, f"{uid}.json"), _source_hash(files, readings)
    if before := _told_before(done, source, config, settings):
        return before
    out = CaseFolder(config.out, f"{files[0]}, patient {patient}")
    told = {"settings": settings, "source": source, "rows": [], "notes": [], "faults": []}
    try:
        drawn = {
            outline.sop_uid
            for reading in readings
            for annotation in reading.annotations
            for outline in annotation.outlines
        }
        series = read_series(uid, files, drawn)
        nodules, notes = idri.find_nodules(series, readings)
    except DataError as error:
        return {**told, "faults": [str(error)]}
    told["notes"] = [f"{patient}, series {uid}: {note}" for note in notes]
    stem = f"{re.sub(r'[^A-Za-z0-9_-]', '_', patient).lstrip('-') or 'patient'}_{hashlib.sha256(uid.encode()).hexdigest()[:6]}"
    passed_over = 0
    for k, nodule in enumerate(nodules):
        centre = nodule.centre
        for index, masks in sorted(nodule.masks.items()):
            try:
                case = _case(series, index, masks, centre, f"{stem}_n{k + 1}", config)
                passed_over += case is None
                if case:
                    told["rows"].append(out.write(case, split))
            except DataError as error:
                told["faults"].append(str(error))
    if passed_over:
        told["notes"].append(
            f"{patient}, series {uid}: {passed_over} slices are left out, on which fewer than {config.min_raters} readers drew within the crop"
        )
    if told["faults"]:
        return told  # not kept, so that it is tried again
    storage.write_atomically(done, lambda file: file.write(json.dumps(told).encode()))
    return told


def _case(series, index, masks, centre, nodule, config):
    """The RawCase of a nodule's slice; None where too few readers drew on what the crop shows."""
    where = (centre, series.spacing, config.crop, config.pixel_mm)
    raters = [idri.crop_mask(mask, *where) for mask in masks]
    if sum(bool(mask.any()) for mask in raters) < config.min_raters:
        return None
    hounsfield = idri.crop(series.hounsfield(index), *where, config.window[0])
    grey = idri.to_window(hounsfield, *config.window)
    told = {
        "series": series.uid,
        "slice": index,
        "z": series.z[index],
        "sop_uid": series.sop_uids[index],
        "nodule": nodule,
    }
    return RawCase(f"{nodule}_z{index:03d}", {"": grey}, raters, series.patient, told=told)
