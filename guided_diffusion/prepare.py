"""From the LIDC-IDRI download to a folder of cases, series by series in several processes."""

import hashlib
import json
import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

from tqdm import tqdm

from . import lidc_idri, storage
from .case_folder import CaseFolder, RawCase, assign_splits, read_split, write_split
from .compute import usable_cores
from .image_files import DataError
from .nn import ConfigError

DONE = ".prepared"  # a folder of OUT with a file for each finished series
SHOWN = 20  # notes and faults


@dataclass(frozen=True)
class PrepareConfig:
    dicom: Annotated[str, "folder of the download's CT series, searched whole"] = ""
    xml: Annotated[str, "folder of the readers' XML files, searched whole; default: --dicom"] = ""
    out: Annotated[str, "folder to write cases into"] = ""
    window: Annotated[tuple[float, ...], "LO,HI in Hounsfield units: what becomes black, what white"] = (-1000.0, 400.0)
    pixel_mm: Annotated[float | None, "side of a pixel of the crops, mm; -1: as the scanner had it"] = 0.5
    crop: Annotated[int, "side of the crops, pixels"] = 128
    min_raters: Annotated[int, "readers who drew on a slice for it to be a case"] = 1
    processes: Annotated[int | None, "series at a time; -1: one for each core"] = None
    seed: Annotated[int, "of the split by patient"] = 0


def check_prepare_config(config):
    """Refuse, by the flag's name, what cannot be prepared."""
    for name in ("dicom", "out"):
        if not getattr(config, name):
            raise ConfigError(f"--{name} is missing")
    for folder in (config.dicom, config.xml or config.dicom):
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: no such folder")
    if len(config.window) != 2 or not config.window[0] < config.window[1]:
        raise ConfigError(f"--window {','.join(f'{x:g}' for x in config.window)}: two values, the lower first, are needed, e.g. -1000,400")
    if config.pixel_mm is not None and not 0.05 <= config.pixel_mm <= 10:
        raise ConfigError(f"--pixel_mm {config.pixel_mm}: 0.05 to 10 are possible, or -1")
    if not 1 <= config.min_raters <= lidc_idri.MOST_READERS:
        raise ConfigError(f"--min_raters {config.min_raters}: 1 to {lidc_idri.MOST_READERS} are possible")
    if config.crop < 8 or config.seed < 0 or (config.processes or 1) < 1:
        raise ConfigError("--crop wants at least 8, --seed at least 0, --processes at least 1")


def prepare(config, tell=print):
    """
    Write a case for each slice of each nodule that at least `min_raters` readers drew on, and a manifest; tell the counts.

    Series that are finished are passed over, so that an interrupted run goes on. Returns the rows of the manifest.
    """
    check_prepare_config(config)
    faults, readings = [], {}
    for path in sorted(_xml_files(config.xml or config.dicom)):
        try:
            if reading := lidc_idri.read_xml(path):
                readings.setdefault(reading.series_uid, []).append(reading)
        except DataError as error:
            faults.append(str(error))
    if not readings:
        raise DataError(f"{config.xml or config.dicom}: no XML of LIDC's readers{'; ' + faults[0] if faults else ''}")
    files = lidc_idri.find_series(config.dicom)
    jobs, patients = _jobs(readings, files, faults)
    if not jobs:
        raise DataError(f"{config.dicom}: no CT series of the {len(readings)} that the XML speaks of{'; ' + faults[0] if faults else ''}")

    out = CaseFolder(config.out, config.dicom)
    known, _ = read_split(config.out)
    split = assign_splits(patients, config.seed, known)
    settings = {name: value for name, value in asdict(config).items() if name in ("window", "pixel_mm", "crop", "min_raters", "seed")}
    settings["window"] = list(settings["window"])
    storage.make_folder(os.path.join(config.out, DONE))
    work = partial(_prepare_series, config=config, settings=settings)
    write_split(config.out, split, config.seed)  # before any case: whatever happens, a patient stays where it is
    rows, notes = [], []
    with ProcessPoolExecutor(config.processes or usable_cores(), initializer=_leave_interrupts_to_the_parent) as pool:
        waiting = [pool.submit(work, *job, split=split[job[0]]) for job in jobs]
        try:
            for future in tqdm(waiting, unit="series", dynamic_ncols=True, delay=1):
                told = future.result()
                rows += told["rows"]
                notes += told["notes"]
                faults += told["faults"]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    out.finish(rows, split, config.seed)
    written = {"settings": settings, "notes": notes, "faults": faults}
    storage.write_atomically(os.path.join(config.out, "prepared.json"), lambda file: file.write((json.dumps(written, indent=1) + "\n").encode()))

    tell(
        f"{len(rows)} slices of {len({(row['series'], row['nodule']) for row in rows})} nodules in {len({row['series'] for row in rows})} series of "
        f"{len({row['patient'] for row in rows})} patients, in {config.out}; the whole of LIDC-IDRI has {lidc_idri.PUBLISHED_SLICES:,} in published preparations"
    )
    tell(", ".join(f"{name} {sum(row['split'] == name for row in rows)}" for name in ("training", "validation", "testing")))
    missing = sorted(readings.keys() - files.keys())
    if missing:
        tell(f"{len(missing)} series that the XML speaks of are not in {config.dicom}, {missing[0]} for one")
    for title, lines in (("note", notes), ("fault", faults)):
        for line in lines[:SHOWN]:
            tell(f"{title}: {line}")
        if len(lines) > SHOWN:
            tell(f"... and {len(lines) - SHOWN} more {title}s")
    return rows


def _xml_files(folder):
    return (os.path.join(base, name) for base, _, names in os.walk(folder) for name in names if name.lower().endswith(".xml"))


def _leave_interrupts_to_the_parent():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _jobs(readings, files, faults):
    """[(patient, UID of the series, its files, readings)], and the patients; a header of each series is read."""
    jobs = []
    for uid in sorted(readings.keys() & files.keys()):
        try:
            patient = lidc_idri.read_series(uid, files[uid][:1]).patient
        except DataError as error:
            faults.append(str(error))
            continue
        jobs.append((patient, uid, files[uid], readings[uid]))
    return sorted(jobs, key=lambda job: job[:2]), {patient for patient, *_ in jobs}


def _source_hash(files, readings):
    """What the series is made from: names and sizes of its files and of the readers' XML."""
    paths = sorted([*files, *(reading.path for reading in readings)])
    return hashlib.sha256(repr([(os.path.basename(path), os.path.getsize(path)) for path in paths]).encode()).hexdigest()[:16]


def _prepare_series(patient, uid, files, readings, *, config, settings, split):
    """
    Write the cases of one series; {"rows", "notes", "faults"}, which a file in DONE keeps for the next time, until other files
    than now make the series, or a case of it is gone. The name of a case has a hash of the series, which other series do not change.
    """
    done, source = os.path.join(config.out, DONE, f"{uid}.json"), _source_hash(files, readings)
    before = storage.read_bytes(done)
    if before is not None and json.loads(before)["source"] == source and all(
        os.path.isdir(os.path.join(config.out, row["split"], row["case"])) for row in json.loads(before)["rows"]
    ):
        told = json.loads(before)
        if unlike := [name for name, value in settings.items() if told["settings"][name] != value]:
            raise ConfigError(f"{config.out} was prepared with another --{unlike[0]}: give the same, or another --out")
        return told
    out = CaseFolder(config.out, f"{files[0]}, patient {patient}")
    told = {"settings": settings, "source": source, "rows": [], "notes": [], "faults": []}
    try:
        series = lidc_idri.read_series(uid, files)
        nodules, notes = lidc_idri.find_nodules(series, readings)
    except DataError as error:
        return {**told, "faults": [str(error)]}
    told["notes"] = [f"{patient}, series {uid}: {note}" for note in notes]
    stem = f"{re.sub(r'[^A-Za-z0-9_-]', '_', patient).lstrip('-') or 'patient'}_{hashlib.sha256(uid.encode()).hexdigest()[:6]}"
    for k, nodule in enumerate(nodules):
        centre = nodule.centre
        for index, masks in sorted(nodule.masks.items()):
            try:
                if case := _case(series, index, masks, centre, f"{stem}_n{k + 1}", config):
                    told["rows"].append(out.write(case, split))
            except DataError as error:
                told["faults"].append(str(error))
    if told["faults"]:
        return told  # not kept, so that it is tried again
    storage.write_atomically(done, lambda file: file.write(json.dumps(told).encode()))
    return told


def _case(series, index, masks, centre, nodule, config):
    """The RawCase of a nodule's slice; None where too few readers drew on what the crop shows."""
    where = (centre, series.spacing, config.crop, config.pixel_mm)
    raters = [lidc_idri.crop_mask(mask, *where) for mask in masks]
    if sum(bool(mask.any()) for mask in raters) < config.min_raters:
        return None
    hounsfield = lidc_idri.crop(series.hounsfield(index), *where, config.window[0])
    grey = lidc_idri.to_window(hounsfield, *config.window)
    told = {"series": series.uid, "slice": index, "nodule": nodule}
    return RawCase(f"{nodule}_z{index:03d}", {"": grey}, raters, series.patient, told=told)
