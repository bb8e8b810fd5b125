"""The files of cases: finds the folders, and the images and labels in them."""

import collections
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ...errors import DataError
from ...system.storage import walk
from ..names import SPLIT_NAMES
from .decoded import Decoded
from .read import SUFFIXES

IMAGE = re.compile(rf"image.*{SUFFIXES}$", re.IGNORECASE)
FORMATS = ("png", "jpg", "tif", "bmp", "gif", "webp", "npy", "nii", "nii.gz")
ENDING = re.compile(rf"{SUFFIXES}$", re.IGNORECASE)
UNREAD_LABEL = re.compile(rf"label(\d.*|.*{SUFFIXES})$", re.IGNORECASE)
LABEL = re.compile(rf"label(\d+)(?:_(.*))?{SUFFIXES}$", re.IGNORECASE)


class CaseFiles(NamedTuple):
    """The files of a case."""

    images: list[str]  # sorted by name
    labels: list[str]  # sorted by rater
    faults: list[str]  # one line each


Places = list[tuple[str, str]]  # the name of each case, and its folder or, for a bare picture, its file


def find_cases(directory: str, one_set: bool = False) -> Places:
    """(name, folder) of every folder at or below `directory` that contains an image or a label, sorted by name.

    Follows links to folders, but visits each folder once.

    one_set  refuse a directory that contains splits, such as training and testing
    """
    cases = _named(directory, _walk_cases(directory, loose=False))
    if not cases:
        raise DataError(f"{directory}: no cases found; expected CASE/image*.png and CASE/label0_*.png")
    if one_set:
        refuse_splits(directory, cases)
    return cases


def is_image(file: str) -> bool:
    """Whether the name of a file has the ending of a format that can be read."""
    return ENDING.search(file) is not None


def find_inputs(path: str, planes: int | None = None) -> Places:
    """The cases at `path` to segment: a picture, pictures in folders, or folders of cases with or without labels.

    A folder of pictures named image* is a case, except `path` itself: there they are one case only if the network takes
    one plane of each.

    planes  of the network's input
    DataError: there are none, two have the same name, or the folder contains splits.
    """
    if os.path.isfile(path):
        if not is_image(path):
            raise DataError(f"{path}: not a picture of a known format ({', '.join(FORMATS)})")
        return [(ENDING.sub("", os.path.basename(path)), path)]
    cases = _named(path, _walk_cases(path, loose=True, planes=planes))
    if not cases:
        raise DataError(
            f"{path}: no pictures and no cases found; expected pictures ({', '.join(FORMATS)}), or CASE/image*.png"
        )
    refuse_splits(path, cases)
    return cases


def refuse_splits(directory: str, cases: Places) -> None:
    """DataError: the cases below `directory` are those of several splits."""
    first = {os.path.relpath(place, directory).split(os.sep)[0] for _, place in cases}
    if len({SPLIT_NAMES[name] for name in first & SPLIT_NAMES.keys()}) > 1:
        splits = sorted(first & SPLIT_NAMES.keys())
        raise DataError(
            f"{directory}: contains the splits {', '.join(splits)}; name one of them, e.g. "
            f"{os.path.join(directory, splits[0])}"
        )


def _walk_cases(directory: str, loose: bool, planes: int | None = None) -> Iterator[str]:
    """Yield the folders of cases and, with `loose`, the pictures that belong to no case."""
    if not os.path.isdir(directory):
        what = "a file, not a folder of cases" if os.path.isfile(directory) else "no such folder of cases"
        raise DataError(f"{directory}: {what}")
    unreadable: list[OSError] = []
    for folder, subfolders, files in walk(directory, unreadable.append):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # such as partially written cases
        images = [file for file in files if IMAGE.match(file)]
        labels = [file for file in files if LABEL.match(file)]
        flat = loose and folder == directory and not labels and len(images) > 1 and len(images) != planes
        if (images or labels) and not flat:
            yield folder
        elif loose:
            yield from (os.path.join(folder, file) for file in sorted(files) if ENDING.search(file) and file[0] != ".")
    yield from (str(error.filename) for error in unreadable)  # reading them names the fault


def _named(directory: str, places: Iterable[str]) -> Places:
    """The places with the names of their cases, sorted by name. DataError: two cases have the same name."""
    cases: dict[str, str] = {}
    for place in places:
        relative = os.path.relpath(place, directory)
        name = os.path.basename(os.path.abspath(place)) if relative == "." else relative.replace(os.sep, "-")
        name = name if os.path.isdir(place) else ENDING.sub("", name)
        if name in cases:
            raise DataError(f"{place}: has the same case name, {name}, as {cases[name]}; rename one of them")
        cases[name] = place
    return sorted(cases.items())


def list_files(folder: str, structure: str = "") -> CaseFiles:
    """The files of a case, or a bare picture.

    Faults: a folder that cannot be listed, a missing image, two labels of one rater, a gap in the numbers of raters,
    and labels that are not read.

    structure  of a rater's labels label0_NAME.*, use the one with this name if any label has it
    """
    if os.path.isfile(folder):
        return CaseFiles([folder], [], [])
    try:
        files = sorted(os.listdir(folder))
    except OSError as error:
        return CaseFiles(
            [], [], [f"{folder}: cannot be listed ({error.strerror}); change its permissions or remove it"]
        )
    images = [os.path.join(folder, file) for file in files if IMAGE.match(file)]
    faults = [] if images else [f"{folder}: no image; add one named image*.png, .jpg, .tif, .npy or .nii.gz"]
    faults += _repeated_images(folder, images)
    faults += [
        f"{os.path.join(folder, file)}: not read; a label is named label0_*.png, with the number of its rater and one "
        "of the endings png, jpg, tif, bmp, gif, webp, npy, nii or nii.gz"
        for file in files
        if UNREAD_LABEL.match(file) and not LABEL.match(file)
    ]
    found = [(int(match[1]), match[2] or "", file) for file in files if (match := LABEL.match(file))]
    named = [row for row in found if structure and row[1] == structure]
    labels: dict[int, str] = {}
    for rater, _, file in named or found:
        if rater in labels:
            first = os.path.basename(labels[rater])
            remedy = "remove one, or take one structure with --structure NAME (label0_NAME.png)"
            faults.append(f"{folder}: two labels of rater {rater}, {first} and {file}; {remedy}")
        labels[rater] = os.path.join(folder, file)
    if missing := set(range(len(labels))) - set(labels):
        faults.append(
            f"{folder}: label{min(missing)}_* is missing, but label{max(labels)}_* exists; number the raters from 0"
        )
    return CaseFiles(images, [labels[rater] for rater in sorted(labels)], faults)


def _repeated_images(folder: str, images: Sequence[str]) -> list[str]:
    """A fault for images whose names differ in their endings only."""
    by_stem: dict[str, list[str]] = collections.defaultdict(list)
    for image in map(os.path.basename, images):
        by_stem[ENDING.sub("", image)].append(image)
    return [f"{folder}: {' and '.join(same)} are one image; remove one" for same in by_stem.values() if len(same) > 1]


def size_faults(files: Mapping[str, Decoded]) -> list[str]:
    """A line for each file whose image differs in size from the first."""
    sizes = {file: decoded.planes.shape[1:] for file, decoded in files.items()}
    faults = []
    for file, (height, width) in sizes.items():
        first = next(iter(files))
        if (height, width) == sizes[first]:
            continue
        turned = (width, height) == sizes[first] and (files[file].turned or files[first].turned)
        hint = " (one is turned by the orientation in its metadata)" if turned else ""
        faults.append(
            f"{file}: {sizes[first][1]}x{sizes[first][0]} in {os.path.basename(first)} but {width}x{height} in "
            f"{os.path.basename(file)}; all files of a case must have the same size{hint}"
        )
    return faults
