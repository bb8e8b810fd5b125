"""Patients on both sides of a split, and cases that lie elsewhere than the manifest and split.json say."""

import collections
import csv
import io
import json
import os

import numpy as np

from ..data.names import PATIENT_RULE, SPLIT_NAMES, SPLITS, patient_of
from ..errors import DataError
from ..system import storage


def split_faults(data_dir, folders):
    """([faults], [lines to tell]) of where cases lie, by manifest.csv, or by names where there is none, and by split.json.

    folders  of the cases below data_dir
    """
    faults, notes, drawn = [], [], {}
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
                f"{data_dir}/split.json: patient {patient} is in {drawn[patient]}, but case {case} in {split}; move it"
            )
    for patient, where in sorted(sides.items()):
        if len(where) > 1:
            faults.append(
                f"{data_dir}: patient {patient} is in {' and '.join(sorted(where))}; put all cases of a patient into one split"
            )
    return faults, notes


def _placed_by_manifest(data_dir, text, folders, faults):
    """[(patient, case, split that it lies in)] of the manifest's rows; rows without a folder and folders without a row are faults."""
    path, placed, listed = os.path.join(data_dir, "manifest.csv"), [], set()
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in ("case", "split", "patient") if name not in (reader.fieldnames or ())]:
        faults.append(f"{path}: the column {missing[0]} is missing; restore the file, or remove it")
        return placed
    for row in reader:
        case, split = row["case"] or "", row["split"] or ""
        listed.add(case)
        found = [
            name
            for name in ("training", "validation", "testing")
            if os.path.isdir(os.path.join(data_dir, name, case or "-"))
        ]
        if not found:
            faults.append(f"{path}: case {case} of {split} has no folder; restore it, or remove the row")
        elif found != [split]:
            faults.append(f"{path}: case {case} is in {', '.join(found)}, not in {split}; move it back")
        placed += [(row["patient"] or "", case, name) for name in found]
    faults += [
        f"{folder}: {path} has no row of it; add one, or remove the case"
        for folder in folders
        if os.path.basename(folder) not in listed
    ]
    return placed


def _placed_by_names(data_dir, folders, notes):
    """[(patient, case, split)] of the cases whose names carry the patient, where there are several splits; the rule is told."""
    where = []
    for folder in folders:
        split, *within = os.path.relpath(folder, data_dir).split(os.sep)
        if split in SPLIT_NAMES and within:
            where.append((SPLIT_NAMES[split], within))
    if len({split for split, _ in where}) < 2:
        return []
    placed = [(patient_of(within), within[-1], split) for split, within in where]
    known = [one for one in placed if one[0]]
    if known:
        notes.append(
            f"no manifest.csv: {len({patient for patient, *_ in known})} patients by the names of {len(known)} cases ({PATIENT_RULE})"
        )
    if len(known) < len(placed):
        notes.append(
            f"no manifest.csv, and the names of {len(placed) - len(known)} cases tell no patient: whether one is in two splits is not known"
        )
    return known


def assign_splits(patients, seed, known=None):
    """{patient: split}, drawn with `seed`: of all patients 60 % training, 20 % validation, 20 % testing, the last ones at least one
    patient where there are three.

    known  {patient: split} that stand already, and stay; new patients first fill what these leave validation and testing short of
    """
    known = dict(known or {})
    new = sorted(set(patients) - known.keys())
    order = [new[k] for k in np.random.default_rng(seed).permutation(len(new))]
    total = len(known) + len(new)
    held_out = max(1, round(SPLITS["testing"] * total)) if total >= 3 else 0
    short = {
        name: max(0, held_out - sum(split == name for split in known.values())) for name in ("testing", "validation")
    }
    while sum(short.values()) > len(new):
        short[max(short, key=short.get)] -= 1
    for k, patient in enumerate(order):
        known[patient] = "testing" if k < short["testing"] else "validation" if k < sum(short.values()) else "training"
    return known


def read_split(out):
    """({patient: split}, seed) of OUT/split.json; ({}, None) where there is none. DataError: damaged, or a patient in two."""
    path = os.path.join(out, "split.json")
    content = storage.read_bytes(path)
    if content is None:
        return {}, None
    try:
        told = json.loads(content)
        patients = [(patient, split) for split in SPLITS for patient in told["patients"][split]]
        seed = told["seed"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a split as this program writes it ({error}); remove it, or name another --out"
        ) from error
    split = dict(patients)
    if len(split) < len(patients):
        twice = next(patient for k, (patient, _) in enumerate(patients) if patient in dict(patients[:k]))
        raise DataError(f"{path}: patient {twice} is in two splits")
    return split, seed


def write_split(out, split, seed):
    """Write {patient: split} as OUT/split.json."""
    told = {"seed": seed, "patients": {name: sorted(p for p, s in split.items() if s == name) for name in SPLITS}}
    storage.write_atomically(
        os.path.join(out, "split.json"), lambda file: file.write((json.dumps(told, indent=1) + "\n").encode())
    )
