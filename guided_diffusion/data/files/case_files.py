"""The files of cases: finds the folders, and the images and labels in them."""

import collections
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ...errors import DataError, first_lines
from ...system.storage import walk
from ..names import SPLIT_NAMES
from .decoded import Decoded
from .passed_over import BESIDE_CASES, case_name, count_by_ending, is_broken_link, is_output, printable
from .read import SUFFIXES

IMAGE = re.compile(rf"image.*{SUFFIXES}$", re.IGNORECASE)
NUMBERED = re.compile(rf"image[ _-]?\d+{SUFFIXES}$", re.IGNORECASE)
FORMATS = ("png", "jpg", "tif", "bmp", "gif", "webp", "npy", "nii", "nii.gz")
ENDING = re.compile(rf"{SUFFIXES}$", re.IGNORECASE)
UNREAD_LABEL = re.compile(rf"label(\d.*|.*{SUFFIXES})$", re.IGNORECASE)
LABEL = re.compile(rf"label(\d+)(?:_(.*))?{SUFFIXES}$", re.IGNORECASE)


class CaseFiles(NamedTuple):
    """The files of a case."""

    images: list[str]  # sorted by name
    raters: list[tuple[str, ...]]  # the label of each rater or, of several structures, one of each; "": an empty mask
    faults: list[str]  # one line each

    @property
    def labels(self) -> list[str]:
        """All labels, sorted by rater."""
        return list(filter(None, itertools.chain.from_iterable(self.raters)))


Places = list[tuple[str, str]]  # the name of each case, and its folder or, for a bare picture, its file
Report = Callable[[str], object]  # called with a line of text


def find_cases(directory: str, one_set: bool = False, report: Report = lambda line: None) -> Places:
    """(name, folder) of every folder at or below `directory` that contains an image or a label, sorted by name.

    Follows links to folders, but visits each folder once. Folders that cannot be listed and links that lead nowhere are
    cases too; reading them names the fault.

    one_set  refuse a directory that contains splits, such as training and testing
    report   called with a line about files that are passed over
    """
    search = Search(directory, report)
    cases = search.named(search.places())
    if not cases:
        raise DataError(f"{directory}: no cases found; expected CASE/image*.png and CASE/label0_*.png{search.others}")
    if one_set:
        refuse_splits(directory, cases)
    return cases


def is_image(file: str) -> bool:
    """Whether the name of a file has the ending of a format that can be read."""
    return ENDING.search(file) is not None


def find_inputs(path: str, planes: int | None = None, report: Report = lambda line: None) -> Places:
    """The cases at `path` to segment: a picture, pictures in folders, or folders of cases with or without labels.

    A folder of pictures named image* is a case, with exceptions: at `path` itself they are one case only if the network
    takes one plane of each and there are no other pictures; and so are numbered ones (image1, image2, ...) in any
    folder without labels.

    planes  of the network's input
    report  called with a line about files that are passed over
    DataError: there are none, some have the same name, or the folder contains splits.
    """
    if os.path.isfile(path):
        if not is_image(path):
            raise DataError(f"{path}: not a picture of a known format ({', '.join(FORMATS)})")
        return [(case_name(ENDING.sub("", os.path.basename(path))), path)]
    search = Search(path, report, loose=True, planes=planes)
    cases = search.named(search.places())
    if not cases:
        raise DataError(
            f"{path}: no pictures and no cases found; expected pictures ({', '.join(FORMATS)}), or CASE/image*.png"
            f"{search.others}"
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


def skip_unlabelled(directory: str, cases: Places, report: Report, listed: Callable[[str], CaseFiles]) -> Places:
    """The cases of which `listed` finds labels; reports the others. Cases whose labels are not read stay, to be named.

    DataError: no case has labels.
    """
    found = {name: listed(folder) for name, folder in cases}
    skipped = [name for name, files in found.items() if files.images and not files.raters and not files.faults]
    if len(skipped) == len(cases):
        raise DataError(f"{directory}: none of the {len(cases)} cases has labels (--skip_unlabelled)")
    if skipped:
        report(f"skipped {len(skipped)} of {len(cases)} cases, without labels (--skip_unlabelled), e.g. {skipped[0]}")
    left = set(skipped)
    return [case for case in cases if case[0] not in left]


class Search:
    """Finds cases at or below a directory.

    report       called with lines about what is passed over and renamed
    loose        pictures that belong to no case are cases too
    planes       of the network's input
    passed_over  files that are not read, relative to the directory
    """

    def __init__(self, directory: str, report: Report, loose: bool = False, planes: int | None = None) -> None:
        if not os.path.isdir(directory):
            what = "no such file or folder" if loose else "no such folder of cases"
            what = "a file, not a folder of cases" if os.path.isfile(directory) else what
            raise DataError(f"{directory}: {what}")
        self.directory, self.report, self.loose, self.planes = directory, report, loose, planes
        self.passed_over: list[str] = []

    @property
    def others(self) -> str:
        """The end of a message that there are no cases: what there is instead."""
        return f"; there are {count_by_ending(self.passed_over)}" if self.passed_over else ""

    def places(self) -> Iterator[str]:
        """Yield the folders of cases and, with `loose`, the pictures that belong to no case."""
        unreadable: list[OSError] = []
        for folder, subfolders, files in walk(self.directory, unreadable.append):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]  # such as partially written cases
            shown = [file for file in files if not file.startswith(".")]
            own = [file for file in shown if not is_output(file, files)]
            images = [file for file in own if IMAGE.match(file)]
            labels = [file for file in own if LABEL.match(file)]
            taken = {*images, *labels}
            others = sum(is_image(file) for file in own) - len(images) - len(labels)
            if self._is_case(folder, images, labels, others):
                yield folder
                taken |= {file for file in own if UNREAD_LABEL.match(file)}
            elif self.loose:
                taken = {file for file in own if ENDING.search(file)}
                yield from (os.path.join(folder, file) for file in own if file in taken)
            for file in shown:
                path = os.path.join(folder, file)
                if file not in taken and is_broken_link(path):
                    yield path
                elif file not in taken and not BESIDE_CASES.fullmatch(file):
                    self.passed_over.append(os.path.relpath(path, self.directory))
        yield from (str(error.filename) for error in unreadable)  # reading them names the fault

    def _is_case(self, folder: str, images: Sequence[str], labels: Sequence[str], others: int) -> bool:
        """Whether a folder with these files, and a number of other pictures, is a case and not a folder of pictures."""
        if self.loose and folder == self.directory and not labels and others:
            return False
        if labels or not self.loose or len(images) < 2 or len(images) == self.planes:
            return bool(images or labels)
        return folder != self.directory and not all(NUMBERED.match(image) for image in images)

    def named(self, places: Iterable[str]) -> Places:
        """The places with the names of their cases, sorted by name. DataError: some cases have the same name."""
        cases: dict[str, str] = {}
        faults, renamed = [], []
        for place in places:
            relative = os.path.relpath(place, self.directory)
            name = os.path.basename(os.path.abspath(place)) if relative == "." else relative.replace(os.sep, "-")
            name = name if os.path.isdir(place) else ENDING.sub("", name)
            if (safe := case_name(name)) != name:
                renamed.append(f"{printable(name)} is called {safe}")
            if safe in cases:
                faults.append(f"{place}: has the same case name, {safe}, as {cases[safe]}; rename one of them")
            cases[safe] = place
        if faults:
            raise DataError("\n".join(first_lines(faults)))
        if renamed:
            self.report(f"renamed cases with characters that cannot be printed, {len(renamed)}: e.g. {renamed[0]}")
        if cases and self.passed_over:
            noun = "file" if len(self.passed_over) == 1 else "files"
            self.report(f"passed over {len(self.passed_over)} {noun}: {count_by_ending(self.passed_over)}")
        return sorted(cases.items())


def list_files(folder: str, structures: Sequence[str] = (), missing: str = "refuse") -> CaseFiles:
    """The files of a case, or a bare picture.

    Faults: a folder that cannot be listed, a missing image, two labels of one rater, a gap in the numbers of raters,
    a rater without a label of some structure, and labels that are not read.

    structures  use the labels label0_NAME.* of these names only, in this order; empty: all labels, one of each rater
    missing     if a rater lacks the label of a structure: "refuse", "skip" the rater, or an "empty" mask
    """
    if os.path.isfile(folder):
        return CaseFiles([folder], [], [])
    try:
        files = sorted(os.listdir(folder))
    except OSError as error:
        return CaseFiles([], [], [_unlisted(folder, error)])
    files = [file for file in files if not is_output(file, files)]
    images = [os.path.join(folder, file) for file in files if IMAGE.match(file)]
    faults = [] if images else [f"{folder}: no image; add one named image*.png, .jpg, .tif, .npy or .nii.gz"]
    faults += _repeated_images(folder, images)
    faults += [
        f"{os.path.join(folder, file)}: not read; a label is named label0_*.png, with the number of its rater and one "
        "of the endings png, jpg, tif, bmp, gif, webp, npy, nii or nii.gz"
        for file in files
        if UNREAD_LABEL.match(file) and not LABEL.match(file)
    ]
    labels, label_faults = _labels_by_rater(folder, files, structures)
    faults += label_faults
    if gap := set(range(len(labels))) - set(labels):
        faults.append(
            f"{folder}: label{min(gap)}_* is missing, but label{max(labels)}_* exists; number the raters from 0"
        )
    raters, missing_faults = _one_of_each(folder, labels, structures or [""], missing)
    return CaseFiles(images, raters, faults + missing_faults)


def _labels_by_rater(
    folder: str, files: Sequence[str], structures: Sequence[str]
) -> tuple[dict[int, dict[str, str]], list[str]]:
    """{rater: {structure: label}}, where the structure is empty if all labels are used, and faults."""
    labels: dict[int, dict[str, str]] = {}
    faults = []
    for file in files:
        if not (match := LABEL.match(file)):
            continue
        own = labels.setdefault(int(match[1]), {})
        name = (match[2] or "") if structures else ""
        if name in own:
            first = os.path.basename(own[name])
            remedy = "remove one, or name the structures with --classes, or one with --structure (label0_NAME.png)"
            faults.append(f"{folder}: two labels of rater {match[1]}, {first} and {file}; {remedy}")
        own[name] = os.path.join(folder, file)
    return labels, faults


def _one_of_each(
    folder: str, labels: Mapping[int, Mapping[str, str]], structures: Sequence[str], missing: str
) -> tuple[list[tuple[str, ...]], list[str]]:
    """The label of each structure by each rater, "" for an empty mask, and faults. No rater has any: none is there."""
    raters: list[tuple[str, ...]] = []
    faults = []
    if missing != "empty" and not any(name in own for own in labels.values() for name in structures):
        return [], []
    for rater, own in sorted(labels.items()):
        lacking = [name for name in structures if name not in own]
        if not lacking or missing != "skip":
            raters.append(tuple(own.get(name, "") for name in structures))
        if lacking and missing == "refuse":
            faults.append(
                f"{folder}: rater {rater} has no label{rater}_{lacking[0]}.*; if that means an empty mask, add "
                "--missing empty, otherwise --missing skip, which leaves the rater out"
            )
    return raters, faults


def _unlisted(place: str, error: OSError) -> str:
    """The fault of a place that is not a file and cannot be listed."""
    if is_broken_link(place):
        return f"{place}: a link to {os.readlink(place)} that leads nowhere ({error.strerror}); repair or remove it"
    return f"{place}: cannot be listed ({error.strerror}); change its permissions or remove it"


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
