"""Training, validation and test cases of a comparison, fold by fold."""

import csv
import io
import os

import numpy as np

from ..data.files.case_files import find_cases
from ..data.names import SPLIT_NAMES, patient_of
from ..errors import DataError
from ..system import storage
from .config import CompareConfig

Cases = dict[str, str]  # {name: folder}
Split = dict[str, Cases]  # with keys "training", "validation" and "testing"


def split_cases(config: CompareConfig) -> tuple[list[Split], list[str]]:
    """Return (the Split of each fold, lines to log). The result depends only on the cases' names and the seed.

    Cases of one patient, according to manifest.csv or their names, stay together. A case without a known patient
    counts as its own patient.

    DataError: too few cases for the folds, or cases or patients of test_dir are also in data_dir.
    """
    cases = dict(find_cases(config.data_dir, one_set=True))
    patients = find_patients(config.data_dir, cases)
    groups: dict[str, list[str]] = {}
    for name in cases:
        groups.setdefault(patients.get(name, name), []).append(name)
    order = [str(group) for group in np.random.default_rng(config.seed).permutation(sorted(groups))]
    lines = [f"{len(groups)} patients or single cases; the patient is known for {len(patients)} of {len(cases)} cases"]
    tested = _tested(config, cases, patients)

    splits: list[Split] = []
    folds = 1 if tested else config.folds
    for fold in range(folds):
        part = [] if tested else order[fold::folds]
        left = [group for group in order if group not in set(part)]
        count = max(1, round(config.validation_share * len(left)))
        if len(left) <= count or not (part or tested):
            raise DataError(
                f"{config.data_dir}: {len(groups)} patients or cases are not enough for {folds} folds; reduce --folds"
            )
        chosen = {"validation": left[:count], "training": left[count:], "testing": part}
        split = {part: _cases_of(chosen[part], groups, cases) for part in chosen}
        splits.append({**split, "testing": tested} if tested else split)
    return splits, lines


def _cases_of(chosen: list[str], groups: dict[str, list[str]], cases: Cases) -> Cases:
    return {case: cases[case] for group in chosen for case in groups[group]}


def _tested(config: CompareConfig, cases: Cases, patients: dict[str, str]) -> Cases:
    """{case: folder} of test_dir; empty without test_dir. DataError: some are also in data_dir."""
    if not config.test_dir:
        return {}
    tested = dict(find_cases(config.test_dir, one_set=True))
    same = {os.path.realpath(folder) for folder in cases.values()} & {
        os.path.realpath(folder) for folder in tested.values()
    }
    if same:
        raise DataError(f"{sorted(same)[0]} is in both --data_dir and --test_dir: training and test must not overlap")
    if known := set(patients.values()) & set(find_patients(config.test_dir, tested).values()):
        raise DataError(
            f"patient {sorted(known)[0]} is in both --data_dir and --test_dir: training and test must not overlap"
        )
    return tested


def find_patients(directory: str, cases: Cases) -> dict[str, str]:
    """{case: patient} where known, from a manifest.csv in the folder or its parent, or from the case's name."""
    listed: dict[str, str] = {}
    for folder in (directory, os.path.dirname(os.path.abspath(directory))):
        text = (storage.read_bytes(os.path.join(folder, "manifest.csv")) or b"").decode(errors="replace")
        for row in csv.DictReader(io.StringIO(text, newline="")):
            listed.setdefault(row.get("case") or "", row.get("patient") or "")
    patients = {}
    for name, folder in cases.items():
        within = os.path.relpath(folder, directory).split(os.sep)
        within = within[1:] if within[0] in SPLIT_NAMES and len(within) > 1 else within
        if patient := listed.get(os.path.basename(folder)) or patient_of(within):
            patients[name] = patient
    return patients


def check_links(folder: str) -> None:
    """DataError: the folder exists and holds files other than links, which must not mix with those of link_cases."""
    for where, _, files in os.walk(folder):
        if own := [name for name in files if not os.path.islink(os.path.join(where, name))]:
            raise DataError(f"{os.path.join(where, own[0])} is not a link of a comparison: use another --out_dir")


def link_cases(splits: list[Split], folder: str) -> None:
    """Fill FOLDER/foldK/PART and FOLDER/testing with links to the cases. Other links are removed, never files."""
    check_links(folder)
    links: dict[str, str] = {}  # {link: target}
    for k, split in enumerate(splits):
        for part, cases in split.items():
            for place in (f"fold{k}/{part}", *(["testing"] if part == "testing" else [])):
                links |= {os.path.join(folder, place, name): os.path.abspath(source) for name, source in cases.items()}
    for where, folders, files in os.walk(folder):
        for link in (os.path.join(where, name) for name in (*folders, *files)):
            if os.path.islink(link) and links.get(link) != os.readlink(link):
                os.unlink(link)
    for link, source in links.items():
        if not os.path.islink(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(source, link)
