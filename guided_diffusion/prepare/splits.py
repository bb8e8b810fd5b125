"""Random splits by patient, and checks of the splits against manifest.csv and split.json."""

import collections
import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..data.names import PATIENT_RULE, SPLIT_NAMES, SPLITS, patient_of
from ..errors import DataError
from ..system import storage


class Placed(NamedTuple):
    """A case, its patient, and the split whose folder holds it."""

    patient: str
    case: str
    split: str


def split_faults(data_dir: str, folders: Sequence[str]) -> tuple[list[str], list[str]]:
    """Check the splits by manifest.csv, or by case names without one, and by split.json; returns faults and notes.

    folders  folders of the cases below data_dir
    """
    faults: list[str] = []
    notes: list[str] = []
    drawn: dict[str, str] = {}
    try:
        drawn, _ = read_split(data_dir)
    except DataError as error:
        faults.append(str(error))
    content = storage.read_bytes(os.path.join(data_dir, "manifest.csv"))
    if content is None:
        placed = _placed_by_names(data_dir, folders, notes)
    else:
        placed = _placed_by_manifest(data_dir, content.decode(errors="replace"), folders, faults)
    sides = collections.defaultdict(set)
    for patient, case, split in placed:
        sides[patient].add(split)
        if drawn.get(patient, split) != split:
            faults.append(
                f"{data_dir}/split.json: patient {patient} is in {drawn[patient]}, but case {case} is in {split}; "
                f"move the case to {drawn[patient]}"
            )
    for patient, where in sorted(sides.items()):
        if len(where) > 1:
            faults.append(
                f"{data_dir}: patient {patient} is in {' and '.join(sorted(where))}; "
                "move all cases of a patient to one split"
            )
    return faults, notes


def _placed_by_manifest(data_dir: str, text: str, folders: Sequence[str], faults: list[str]) -> list[Placed]:
    """The cases listed in the manifest; rows without a folder and folders without a row are faults."""
    path = os.path.join(data_dir, "manifest.csv")
    placed: list[Placed] = []
    listed = set()
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in ("case", "split", "patient") if name not in (reader.fieldnames or ())]:
        faults.append(f"{path}: the column {missing[0]} is missing; restore or remove the file")
        return placed
    for row in reader:
        case, split = row["case"] or "", row["split"] or ""
        listed.add(case)
        found = [name for name in SPLITS if os.path.isdir(os.path.join(data_dir, name, case or "-"))]
        if not found:
            faults.append(f"{path}: case {case} of {split} has no folder; restore the folder, or remove the row")
        elif found != [split]:
            faults.append(f"{path}: case {case} is in {', '.join(found)}, not in {split}; move it back")
        placed += [Placed(row["patient"] or "", case, name) for name in found]
    faults += [
        f"{folder}: not listed in {path}; add a row, or remove the case"
        for folder in folders
        if os.path.basename(folder) not in listed
    ]
    return placed


def _placed_by_names(data_dir: str, folders: Sequence[str], notes: list[str]) -> list[Placed]:
    """The cases whose names contain the patient, if there are several splits; a note states the rule."""
    where = []
    for folder in folders:
        split, *within = os.path.relpath(folder, data_dir).split(os.sep)
        if split in SPLIT_NAMES and within:
            where.append((SPLIT_NAMES[split], within))
    if len({split for split, _ in where}) < 2:
        return []
    known = []
    for split, within in where:
        if patient := patient_of(within):
            known.append(Placed(patient, within[-1], split))
    if known:
        patients = {one.patient for one in known}
        notes.append(
            f"no manifest.csv: found {len(patients)} patients by the names of {len(known)} cases ({PATIENT_RULE})"
        )
    if len(known) < len(where):
        notes.append(
            f"no manifest.csv, and the names of {len(where) - len(known)} cases do not contain a patient: "
            "cannot check whether a patient is in two splits"
        )
    return known


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
