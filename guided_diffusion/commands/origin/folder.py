"""What is known of a folder of cases. Does not need torch."""

import collections
import contextlib
import os

from ...data.case_reader import READING_RULES, CaseReader
from ...data.config import DataConfig
from ...data.described import described, with_intensity_range
from ...data.files.case_files import Places, list_files, refuse_splits
from ...data.files.dataset_json import FILE, DatasetFile, read_dataset_file
from ...data.stores.case_cache import find_labelled, hash_cases
from ...data.surveys.channels import modality_of
from ...errors import DataError
from ...prepare.check import CheckConfig, check_data
from .stored import Rows, rules_in_words, titled

FILES = ("savedmodel.pt", ".pt", "_samples.npz", ".pack")  # endings of files that can be passed in place of a folder
MOST_KINDS = 8  # combinations of modalities that are named


def folder_rows(path: str) -> Rows:
    """The cases at or below `path`, and its dataset.json. DataError: it has neither."""
    stated, file = _dataset_rows(path)
    lines: list[str] = []
    try:
        faults = check_data(CheckConfig(data_dir=path), DataConfig(), lines.append)
    except DataError as error:
        if not stated:
            raise _other_folder(path) or error from None
        reason = str(error).removeprefix(f"{path}: ").replace("\n", "; ")
        return [("kind", f"folder with {FILE} but without cases"), *stated, ("cases", reason)]
    config = described(with_intensity_range(DataConfig(), file), path)
    cases = find_labelled(path, config, lambda line: None)
    contents = [line for line in lines if not line.startswith("fault: ")][:-1]  # the last one counts the faults
    return [
        ("kind", "folder of cases"),
        *stated,
        *titled("contents", contents),
        *_modality_rows(cases),
        ("faults", f"{faults}, which check_data.py lists" if faults else "none"),
        *([] if faults else _hash_rows(path, cases, config)),
        ("reading rules", rules_in_words(READING_RULES)),
    ]


def _dataset_rows(path: str) -> tuple[Rows, DatasetFile | None]:
    """What the dataset.json of a folder states, or why it cannot be read."""
    try:
        file = read_dataset_file(path)
    except DataError as error:
        return [(FILE, str(error))], None
    if file is None:
        return [], None
    stated = {
        "name": file.name,
        "channels": ", ".join(file.channel_names),
        "labels": file.in_words(),
        "raters": ", ".join(file.raters),
        "intensity range": ",".join(f"{value:g}" for value in file.intensity_range or ()),
        "licence": file.licence,
        "source": file.source,
    }
    lines = [f"{key}: {text}" for key, text in stated.items() if text]
    return titled(FILE, lines or ["states nothing that is used"]), file


def _modality_rows(cases: Places) -> Rows:
    """The modalities by the names of the images, where cases have several."""
    names = [tuple(modality_of(file, case) for file in list_files(folder).images) for case, folder in cases]
    if all(len(found) < 2 for found in names):
        return []
    counts = collections.Counter(", ".join(name or "image" for name in found) or "none" for found in names)
    return titled("modalities", [f"{found} in {count} cases" for found, count in counts.most_common(MOST_KINDS)])


def _hash_rows(path: str, cases: Places, config: DataConfig) -> Rows:
    """The hash of the cases as a packed file of them has it; none for a folder of several splits."""
    with contextlib.suppress(DataError):
        refuse_splits(path, cases)
        digest = hash_cases(cases, CaseReader(config=config).settings)
        return [("hash", f"{digest}, as in a file that pack_data.py writes of these cases without further flags")]
    return []


def _other_folder(path: str) -> DataError | None:
    """The error for a folder that has no cases, but files of another kind; None: it has none of them."""
    names = sorted(os.listdir(path))
    for ending in FILES:
        if first := next((name for name in names if name.endswith(ending)), None):
            example = os.path.join(path, first)
            return DataError(f"{path}: not a folder of cases; pass one of its files, e.g. {example}")
    return None
