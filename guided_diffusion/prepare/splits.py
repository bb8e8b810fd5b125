"""Random splits by patient, and checks of the splits against manifest.csv and split.json."""

import collections
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..data.names import BY_NAMES, PATIENT_RULE, SPLITS, PatientRule, normal, patients_warning, place_of
from ..errors import DataError
from ..system import storage


class Placed(NamedTuple):
    """A case, its patient, and the split whose folder holds it."""

    patient: str
    case: str
    split: str


def split_faults(
    data_dir: str, cases: Sequence[tuple[str, str]], rule: PatientRule = BY_NAMES
) -> tuple[list[str], list[str]]:
    """Check the splits by manifest.csv, or by case names without one, and by split.json; returns faults and notes.

    cases  (name, folder) of all cases below data_dir
    rule   of the patients; if it is given by a flag, it takes the place of the manifest's patients
    """
    faults: list[str] = []
    notes: list[str] = []
    drawn: dict[str, str] = {}
    try:
        drawn = {normal(patient): split for patient, split in read_split(data_dir)[0].items()}
    except DataError as error:
        faults.append(str(error))
    folders = [folder for _, folder in cases]
    content = storage.read_bytes(os.path.join(data_dir, "manifest.csv"))
    placed = [] if content is None else _placed_by_manifest(data_dir, _text(content), folders, faults)
    if rule.is_given:
        try:
            notes += rule.check([place_of(folder, data_dir)[1] for folder in folders])
        except DataError as error:
            faults.append(str(error))
    else:
        patients = find_patients(data_dir, dict(cases))
        own = [(place_of(folder, data_dir)[1][-1], patients.get(name)) for name, folder in cases]
        notes += [warning] if (warning := patients_warning(own)) else []
    if content is None or rule.is_given:
        placed = _placed_by_rule(data_dir, folders, rule, notes)
    return [*faults, *_faults_of_patients(data_dir, placed, drawn)], notes


def _faults_of_patients(data_dir: str, placed: Iterable[Placed], drawn: Mapping[str, str]) -> Iterator[str]:
    """A fault for each case in another split than its patient has in `drawn`, and each patient in several splits."""
    sides = collections.defaultdict(set)
    for patient, case, split in placed:
        sides[patient].add(split)
        if drawn.get(patient, split) != split:
            yield (
                f"{data_dir}/split.json: patient {patient} is in {drawn[patient]}, but case {case} is in {split}; "
                f"move the case to {drawn[patient]}"
            )
    for patient, where in sorted(sides.items()):
        if len(where) > 1:
            yield (
                f"{data_dir}: patient {patient} is in {' and '.join(sorted(where))}; "
                "move all cases of a patient to one split"
            )


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", errors="replace")


def _placed_by_manifest(data_dir: str, text: str, folders: Sequence[str], faults: list[str]) -> list[Placed]:
    """The cases listed in the manifest; rows without a folder and folders without a row are faults."""
    path = os.path.join(data_dir, "manifest.csv")
    placed: list[Placed] = []
    listed = set()
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if missing := [name for name in ("case", "split", "patient") if name not in (reader.fieldnames or ())]:
        faults.append(f"{path}: the column {missing[0]} is missing; restore or remove the file")
        return placed
    existing = {split: _folders_in(os.path.join(data_dir, split)) for split in SPLITS}
    for row in reader:
        case, split = normal(row["case"] or ""), row["split"] or ""
        listed.add(case)
        found = [name for name in SPLITS if case in existing[name]]
        if not found:
            faults.append(f"{path}: case {case} of {split} has no folder; restore the folder, or remove the row")
        elif found != [split]:
            faults.append(f"{path}: case {case} is in {', '.join(found)}, not in {split}; move it back")
        placed += [Placed(normal(row["patient"] or ""), case, name) for name in found]
    faults += [
        f"{folder}: not listed in {path}; add a row, or remove the case"
        for folder in folders
        if normal(os.path.basename(folder)) not in listed
    ]
    return placed


def _folders_in(folder: str) -> set[str]:
    """The names of the folders in `folder`, composed (NFC)."""
    if not os.path.isdir(folder):
        return set()
    return {normal(name) for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name))}


def _placed_by_rule(data_dir: str, folders: Sequence[str], rule: PatientRule, notes: list[str]) -> list[Placed]:
    """The cases of known patients, if there are several splits; a note states the rule."""
    places = [(split, within) for split, within in (place_of(folder, data_dir) for folder in folders) if split]
    if len({split for split, _ in places}) < 2:
        return []
    known = [Placed(patient, within[-1], split) for split, within in places if (patient := rule.patient(within))]
    if rule.is_given:
        return known
    if known:
        patients = {one.patient for one in known}
        notes.append(
            f"no manifest.csv: found {len(patients)} patients by the names of {len(known)} cases ({PATIENT_RULE})"
        )
    if len(known) < len(places):
        notes.append(
            f"no manifest.csv, and the names of {len(places) - len(known)} cases do not contain a patient: "
            "cannot check whether a patient is in two splits"
        )
    return known


def find_patients(directory: str, cases: Mapping[str, str], rule: PatientRule = BY_NAMES) -> dict[str, str]:
    """{case: patient} where known: by the flags; else by manifest.csv in the folder or its parent, or by name.

    cases  {name: folder}
    """
    listed: dict[str, str] = {}
    for folder in (directory, os.path.dirname(os.path.abspath(directory))):
        text = _text(storage.read_bytes(os.path.join(folder, "manifest.csv")) or b"")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            listed.setdefault(normal(row.get("case") or ""), normal(row.get("patient") or ""))
    patients = {}
    for name, folder in cases.items():
        _, within = place_of(folder, directory)
        by_manifest = None if rule.is_given else listed.get(normal(os.path.basename(folder)))
        if patient := by_manifest or rule.patient(within):
            patients[name] = patient
    return patients


def assign_splits(patients: Iterable[str], seed: int, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """{patient: split}, drawn with `seed`: 60 % of the patients for training, 20 % validation, 20 % testing.

    With at least three patients, validation and testing get at least one each.

    known  {patient: split} of patients that are already assigned and stay; new ones first fill validation and testing
    """
    split_of = dict(known or {})
    new = sorted(set(patients) - split_of.keys())
    order = [new[k] for k in np.random.default_rng(seed).permutation(len(new))]
    total = len(split_of) + len(new)
    held_out = max(1, round(SPLITS["testing"] * total)) if total >= 3 else 0
    assigned = collections.Counter(split_of.values())
    short = {name: max(0, held_out - assigned[name]) for name in ("testing", "validation")}
    while sum(short.values()) > len(new):
        short[max(short, key=lambda name: short[name])] -= 1
    sides = ["testing"] * short["testing"] + ["validation"] * short["validation"]
    sides += ["training"] * (len(order) - len(sides))
    return split_of | dict(zip(order, sides, strict=True))


def read_split(out: str) -> tuple[dict[str, str], int | None]:
    """{patient: split} and the seed of OUT/split.json; ({}, None) if the file does not exist.

    DataError: the file is damaged, or lists a patient in two splits.
    """
    path = os.path.join(out, "split.json")
    content = storage.read_bytes(path)
    if content is None:
        return {}, None
    try:
        stored = json.loads(content)
        patients = [(patient, split) for split in SPLITS for patient in stored["patients"][split]]
        seed = stored["seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a valid split file ({error}); remove it, or use another --out") from error
    split_of = dict(patients)
    if len(split_of) < len(patients):
        twice = next(patient for k, (patient, _) in enumerate(patients) if patient in dict(patients[:k]))
        raise DataError(f"{path}: patient {twice} is in two splits; remove one of the entries")
    return split_of, seed


def write_split(out: str, split_of: Mapping[str, str], seed: int) -> None:
    """Write {patient: split} and the seed to OUT/split.json."""
    patients: dict[str, list[str]] = {name: [] for name in SPLITS}
    for patient, split in sorted(split_of.items()):
        patients[split].append(patient)
    storage.write_json(os.path.join(out, "split.json"), {"seed": seed, "patients": patients})
