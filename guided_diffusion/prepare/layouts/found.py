"""Images and masks of a source as a layout assigns them, and the layout with a folder of images."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .listing import Listing, SourceFile
from .matching import Key, folders_beyond, key_of, parse, within
from .words import NNUNET, words_of

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's ID_0000


class Case(NamedTuple):
    """The name of a case in a source: the folders that distinguish it, and its own name.

    split  that of its path; None: the path names none
    """

    split: str | None
    folders: tuple[str, ...]
    name: str


class FoundMask(NamedTuple):
    """A mask, and the words of its path that do not name its case.

    folders  words of each of its folders
    words    words of its own name
    rater, structure  named by a pattern
    """

    case: Case
    file: SourceFile
    folders: tuple[tuple[str, ...], ...] = ()
    words: tuple[str, ...] = ()
    rater: str | None = None
    structure: str | None = None


@dataclass
class Found:
    """What a layout finds in a source.

    layout  its drawing in a line, such as images/ID.*, masks/RATER/ID.*
    images  {case: {channel: file}}; the channel is "" if there is one
    masks   all masks with an image
    faults  folders and files that do not fit the layout
    """

    layout: str
    images: dict[Case, dict[str, SourceFile]] = field(default_factory=dict)
    masks: list[FoundMask] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass
class Index:
    """The images of a source by their folders and names.

    cases  {(folders, split): {key: cases}}
    """

    cases: dict[tuple[tuple[str, ...], str | None], dict[Key, list[Case]]] = field(default_factory=dict)

    def add(self, case: Case) -> None:
        """Add a case."""
        names = self.cases.setdefault((case.folders, case.split), {})
        same = names.setdefault(key_of(case.name), [])
        if case not in same:
            same.append(case)

    def find(self, stem: str, folders: Sequence[str], split: str | None) -> tuple[Case, tuple[str, ...]] | None:
        """The case of a mask, and the words of the mask's name besides that of the case; None: it has no image."""
        splits = (split, None) if split else (None, *sorted({s for _, s in self.cases if s}))
        for one in splits:
            names: Mapping[Key, list[Case]] = self.cases.get((tuple(folders), one), {})
            if names and (parsed := parse(stem, names)):
                case = _spelled_in(stem, names[parsed.key])
                return (case, parsed.words) if case else None
        return None


def _spelled_in(stem: str, cases: Sequence[Case]) -> Case | None:
    """The case whose name the name of the mask contains, of several with the same words; None: it is not clear."""
    if len(cases) == 1:
        return cases[0]
    spelled = [case for case in cases if case.name in stem]
    return max(spelled, key=lambda case: len(case.name), default=None)


def image_folder(listing: Listing) -> Found:
    """The layout of a folder of images: images/ID.*, and masks in other folders; nnU-Net's imagesTr/ID_0000.*."""
    found = Found("images/ID.*, and masks of the same ID in other folders")
    index = Index()
    images, skipped = _images(listing)
    for file in images:
        add_image(found, file, file.plain_after(skipped))
    for case in found.images:
        index.add(case)
    paths = {file.path for file in images}
    for file in listing.pictures if images else ():
        if file.path not in paths and (mask := _mask(index, file)):
            found.masks.append(mask)
    if any(_is_manual(mask) for mask in found.masks):
        found.masks = [mask for mask in found.masks if not _is_field_of_view(mask)]
    in_nnunet = any(NNUNET.fullmatch(name) for mask in found.masks for name in mask.file.folders)
    if in_nnunet and not any(case.split == "testing" for case in labelled(found)):
        without_splits(found)
    return found


def _images(listing: Listing) -> tuple[list[SourceFile], int]:
    """The files in folders of images, and the number of outer folders that are not part of the names of cases.

    If no folder is named so, but some are of masks: all pictures that are not in one of those, below a common folder.
    """
    images = [file for file in listing.pictures if file.role == "image"]
    rest = [file for file in listing.pictures if not file.role]
    if images or len(rest) == len(listing.pictures) or not rest:
        return images, 0
    common = os.path.commonpath([os.path.dirname(file.within) or "." for file in rest])
    return rest, 0 if common in ("", ".") else common.count("/") + 1


def add_image(found: Found, file: SourceFile, folders: tuple[str, ...]) -> None:
    """Add an image file, of a case in `folders`; the channels of nnU-Net are those of one case."""
    match = CHANNEL.fullmatch(file.stem) if any(map(NNUNET.fullmatch, file.folders)) else None
    name, channel = (match[1], match[2]) if match else (file.stem, "")
    files = found.images.setdefault(Case(file.split, folders, name), {})
    if channel in files:
        found.faults.append(f"{file.path}: has the same name as {files[channel].within}; remove one")
        return
    files[channel] = file


def _mask(index: Index, file: SourceFile) -> FoundMask | None:
    for folders in within(file.plain):
        if place := index.find(file.stem, folders, file.split):
            case, words = place
            return FoundMask(case, file, _words_of_folders(file, folders), words)
    return None


def _words_of_folders(file: SourceFile, inner: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The words of the folders of a mask that may name its rater or structure: all but `inner`."""
    beyond = list(folders_beyond(file.plain, inner) or ())
    found = []
    for name, folder in zip(file.folders, file.meanings, strict=True):
        if folder.role == "mask":
            found.append(folder.words)
        elif beyond and name == beyond[0]:
            found.append(tuple(words_of(beyond.pop(0))))
    return tuple(words for words in found if words)


def labelled(found: Found) -> set[Case]:
    """The cases that have masks."""
    return {mask.case for mask in found.masks}


def without_splits(found: Found) -> None:
    """Remove the splits of all cases, because they do not divide the cases that have masks."""
    has_masks = labelled(found)
    found.images = {c._replace(split=None) if c in has_masks else c: files for c, files in found.images.items()}
    found.masks = [mask._replace(case=mask.case._replace(split=None)) for mask in found.masks]


def _is_manual(mask: FoundMask) -> bool:
    return any("manual" in name.lower() for name in mask.file.folders)


def _is_field_of_view(mask: FoundMask) -> bool:
    """Whether a mask lies in a folder mask beside one of manual outlines, as in DRIVE and HRF."""
    return any(name.lower() in ("mask", "masks") for name in mask.file.folders) and not _is_manual(mask)
