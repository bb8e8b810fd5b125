"""The files of cases: finds the folders, and the images and labels in them."""

import collections
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...errors import DataError
from ...system.storage import walk
from .decoded import Decoded
from .read import SUFFIXES

IMAGE = re.compile(rf"image.*{SUFFIXES}$", re.IGNORECASE)
ENDING = re.compile(rf"{SUFFIXES}$", re.IGNORECASE)
UNREAD_LABEL = re.compile(rf"label(\d.*|.*{SUFFIXES})$", re.IGNORECASE)
LABEL = re.compile(rf"label(\d+)(?:_(.*))?{SUFFIXES}$", re.IGNORECASE)


class CaseFiles(NamedTuple):
    """The files of a case."""

    images: list[str]  # sorted by name
    labels: list[str]  # sorted by rater
    faults: list[str]  # one line each


def find_cases(directory: str) -> list[tuple[str, str]]:
    """(name, folder) of every folder at or below `directory` that contains an image or a label, sorted by name.

    Follows links to folders, but visits each folder once.
    """
    if not os.path.isdir(directory):
        what = "a file, not a folder of cases" if os.path.isfile(directory) else "no such folder of cases"
        raise DataError(f"{directory}: {what}")
    cases: dict[str, str] = {}
    for folder, subfolders, files in walk(directory):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # such as partially written cases
        if not any(IMAGE.match(file) or LABEL.match(file) for file in files):
            continue
        relative = os.path.relpath(folder, directory)
        name = os.path.basename(os.path.abspath(folder)) if relative == "." else relative.replace(os.sep, "-")
        if name in cases:
            raise DataError(f"{folder}: has the same case name, {name}, as {cases[name]}; rename one of them")
        cases[name] = folder
    if not cases:
        raise DataError(f"{directory}: no cases found; expected CASE/image*.png and CASE/label0_*.png")
    return sorted(cases.items())


def list_files(folder: str, structure: str = "") -> CaseFiles:
    """The files of a case; a missing image, two labels of one rater, and a gap in the numbers of raters are faults.

    structure  of a rater's labels label0_NAME.*, use the one with this name if any label has it
    """
    files = sorted(os.listdir(folder))
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
