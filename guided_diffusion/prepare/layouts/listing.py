"""The files of a source: where each lies, which split its path names, and what is passed over."""

import collections
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...data.files.case_files import ENDING, is_image
from ...errors import DataError
from ...system.storage import walk
from .words import Folder, folder_of

IGNORED = frozenset({"Thumbs.db", "dataset.json", "__MACOSX", "desktop.ini"})


@dataclass(frozen=True)
class SourceFile:
    """A file below --src.

    path    its full path
    within  its path below --src, with / between folders
    shared  number of its outermost folders that contain all pictures, whose names give no role
    """

    path: str
    within: str
    shared: int = 0

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders between --src and the file."""
        return tuple(self.within.split("/")[:-1])

    @cached_property
    def meanings(self) -> tuple[Folder, ...]:
        """The meaning of each of `folders`."""
        return tuple(map(folder_of, self.folders))

    @cached_property
    def stem(self) -> str:
        """The name without its ending."""
        return ENDING.sub("", self.within.rsplit("/", 1)[-1])

    @cached_property
    def split(self) -> str | None:
        """The split that the path names, if any."""
        return next((folder.split for folder in self.meanings if folder.split), None)

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The folders that name neither a split nor a role."""
        return self.plain_after(0)

    def plain_after(self, count: int) -> tuple[str, ...]:
        """As `plain`, without the `count` outermost folders."""
        pairs = list(zip(self.folders, self.meanings, strict=True))[count:]
        return tuple(name for name, folder in pairs if not (folder.role or folder.split or folder.neutral))

    @property
    def role(self) -> str | None:
        """The role that the innermost folder with one gives: image or mask."""
        return next((folder.role for folder in reversed(self.meanings[self.shared :]) if folder.role), None)


@dataclass(frozen=True)
class Listing:
    """The files of a source.

    pictures  files of formats that can be read
    others    files of other formats
    faults    folders that cannot be listed
    """

    src: str
    pictures: Sequence[SourceFile]
    others: Sequence[SourceFile]
    faults: Sequence[DataError]

    def passed_over(self, used: Collection[str]) -> Iterator[str]:
        """A note that counts the files that are not in `used` (paths) by ending, with an example of each."""
        by_ending: dict[str, list[str]] = collections.defaultdict(list)
        for file in (*self.pictures, *self.others):
            if file.path not in used:
                by_ending[ending_of(file.within)].append(file.within)
        if by_ending:
            kinds = sorted(by_ending.items(), key=lambda item: (-len(item[1]), item[0]))
            counts = ", ".join(f"{len(files)} {ending} (e.g. {files[0]})" for ending, files in kinds)
            total = sum(map(len, by_ending.values()))
            yield f"passed over {total} {'file' if total == 1 else 'files'}: {counts}"


def list_source(src: str) -> Listing:
    """The files below a folder, without hidden ones. DataError: it is not a folder."""
    if not os.path.isdir(src):
        raise DataError(f"{src}: a file; --src must be a folder of pictures")
    pictures: list[SourceFile] = []
    others: list[SourceFile] = []
    unreadable: list[OSError] = []
    for base, subfolders, files in walk(src, unreadable.append):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in IGNORED]
        for name in files:
            if name.startswith(".") or name in IGNORED:
                continue
            path = os.path.join(base, name)
            file = SourceFile(path, os.path.relpath(path, src).replace(os.sep, "/"))
            (pictures if is_image(name) else others).append(file)
    common = os.path.commonpath([os.path.dirname(file.within) or "." for file in pictures]) if pictures else ""
    shared = 0 if common in ("", ".") else common.count("/") + 1
    pictures = [replace(file, shared=shared) for file in pictures]
    faults = [
        DataError(f"{error.filename}: cannot be listed ({error.strerror}); change its permissions or remove it")
        for error in unreadable
    ]
    return Listing(src, pictures, others, faults)


def ending_of(name: str) -> str:
    """The ending of a file name, such as .nii.gz; "without an ending" if it has none."""
    if match := ENDING.search(name):
        return match[0].lower()
    return os.path.splitext(name)[1].lower() or "without an ending"
