"""Training, validation and test cases of a comparison, fold by fold."""

import os

import numpy as np

from ..data.config import DataConfig
from ..data.names import PatientRule, patients_warning, place_of
from ..data.stores.case_cache import find_labelled
from ..errors import DataError
from ..prepare.splits import find_patients
from .config import CompareConfig

Cases = dict[str, str]  # {name: folder}
Split = dict[str, Cases]  # with keys "training", "validation" and "testing"


def split_cases(config: CompareConfig, reading: DataConfig = DataConfig()) -> tuple[list[Split], list[str]]:
    """Return (the Split of each fold, lines to log). The result depends only on the cases' names and the seed.

    Cases of one patient, according to the flags, manifest.csv or their names, stay together. A case without a known
    patient counts as its own patient.

    reading  whether it skips cases without labels

    DataError: too few cases for the folds, cases or patients of test_dir are also in data_dir, or flags of patients
    that do not fit the cases. ConfigError: these flags contradict each other.
    """
    rule, lines = PatientRule.of(config), list[str]()
    cases = dict(find_labelled(config.data_dir, reading, lines.append, one_set=True))
    patients = find_patients(config.data_dir, cases, rule)
    groups: dict[str, list[str]] = {}
    for name in cases:
        groups.setdefault(patients.get(name, name), []).append(name)
    order = [str(group) for group in np.random.default_rng(config.seed).permutation(sorted(groups))]
    lines += [f"{len(groups)} patients or single cases; the patient is known for {len(patients)} of {len(cases)} cases"]
    lines += _lines_about(config.data_dir, cases, patients, rule)
    tested = _tested(config, reading, cases, patients, rule)

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


def _lines_about(directory: str, cases: Cases, patients: dict[str, str], rule: PatientRule) -> list[str]:
    """Notes on the patients of the cases. DataError: the rule, given by a flag, does not fit the cases."""
    within = {name: place_of(folder, directory)[1] for name, folder in cases.items()}
    if rule.is_given:
        return rule.check(within.values())
    warning = patients_warning((within[name][-1], patients.get(name)) for name in cases)
    return [warning] if warning else []


def _cases_of(chosen: list[str], groups: dict[str, list[str]], cases: Cases) -> Cases:
    return {case: cases[case] for group in chosen for case in groups[group]}


def _tested(
    config: CompareConfig, reading: DataConfig, cases: Cases, patients: dict[str, str], rule: PatientRule
) -> Cases:
    """{case: folder} of test_dir; empty without test_dir. DataError: some are also in data_dir."""
    if not config.test_dir:
        return {}
    tested = dict(find_labelled(config.test_dir, reading, lambda line: None, one_set=True))
    same = {os.path.realpath(folder) for folder in cases.values()} & {
        os.path.realpath(folder) for folder in tested.values()
    }
    if same:
        raise DataError(f"{sorted(same)[0]} is in both --data_dir and --test_dir: training and test must not overlap")
    rule.check(place_of(folder, config.test_dir)[1] for folder in tested.values())
    if known := set(patients.values()) & set(find_patients(config.test_dir, tested, rule).values()):
        raise DataError(
            f"patient {sorted(known)[0]} is in both --data_dir and --test_dir: training and test must not overlap"
        )
    return tested


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
