"""Reads a case and its samples in each folder, so that all folders are scored against the same raters' masks."""

import threading
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from ..data.case_reader import READING_RULES, CaseReader, DataConfig
from ..data.files.case_files import find_cases
from ..data.files.dataset_json import read_dataset_file, with_level
from ..data.surveys.levels import MaskRule
from ..errors import ConfigError, DataError
from ..lidcloader import make_case
from ..masks import pictures
from ..sampling import store
from ..sampling.config import data_config_of

LABEL_FLAGS = {"label_threshold", "merge_labels", "structure"}  # may differ from those that the samples were drawn with


class Drawn(NamedTuple):
    """The samples of a case in one folder."""

    folder: str
    samples: store.Samples
    made_by: dict[str, Any]  # what is stored with them, with the flags of the evaluation

    @property
    def size(self) -> str:
        """Width x height in pixels."""
        return "x".join(map(str, self.samples.shape[:0:-1]))


class Scored(NamedTuple):
    """A case as it is read for the samples of one folder."""

    image: pictures.Shown
    raters: Bool[np.ndarray, "R H W"]
    drawn: Drawn
    data: DataConfig


class CaseFiles:
    """Reads the cases of a set and their samples; may be called from several threads.

    data_dir  the folder of the set
    flags     the flags of the evaluation, which replace those stored with the samples
    """

    def __init__(self, data_dir: str, flags: Mapping[str, Any]) -> None:
        self.cases, self.flags = find_cases(data_dir, one_set=True), flags
        self.dataset = read_dataset_file(data_dir)
        self.readers: dict[tuple[int | None, DataConfig], CaseReader] = {}  # by the side of the images
        self.rules: dict[str, MaskRule] = {}  # of the masks of other programs, by folder
        self.lock = threading.Lock()  # for both

    def notes(self, num_cases: int) -> list[str]:
        """Lines on what reading changed in the `num_cases` cases."""
        return list(dict.fromkeys(note for reader in self.readers.values() for note in reader.notes(num_cases)))

    def samples_in(self, folder: str, name: str) -> Drawn:
        """The samples of the case `name` in a folder. DataError: there are none, or they are damaged."""
        found = store.find_samples(folder, name, lambda: self._rule(folder))
        if found is None:
            raise DataError(f"no samples in {folder}")
        samples, made_by = found
        stored = store.spread(made_by) if "flags" in made_by else made_by
        return Drawn(folder, samples, {**stored, **self.flags})

    def read(self, case: tuple[str, str], drawn: Drawn, like: Drawn | None) -> Scored:
        """A case (name, folder) at the size of its samples.

        like  samples of this program, or None. Samples of another program, which store no flags, are scored as these if
              they have the same size
        DataError: the samples do not belong to this case.
        """
        name, case_folder = case
        made_by, shape = drawn.made_by, drawn.samples.shape[1:]
        if like is not None and "image_size" not in made_by and like.samples.shape[1:] == shape:
            made_by = {**like.made_by, **made_by}
        data = with_level(data_config_of(made_by), self.dataset)
        side = shape[0] if made_by.get("image_size") == shape[0] == shape[1] else None
        reader = self._reader(side, data)
        image, raters = reader.read(case_folder)
        if raters.shape[1:] != shape:
            raise DataError(
                f"the samples in {drawn.folder} have {drawn.size} pixels, the raters' masks "
                f"{raters.shape[2]}x{raters.shape[1]}"
            )
        of_image = drawn.made_by.get("image")
        if of_image is not None and of_image != store.image_hash(make_case(name, image, raters)):
            given = [f.name for f in fields(DataConfig) if f.name in self.flags]  # these replace the stored ones
            suspects = " or ".join(f"--{name}" for name in ("data_dir", *given))
            rules = made_by.get("reading", 1)  # samples that store none are of version 1
            read = "" if rules == READING_RULES else f" (reading rules {rules}, this program has {READING_RULES})"
            raise DataError(
                f"the samples in {drawn.folder} were drawn for a different image from the one in {case_folder}{read}; "
                f"check {suspects}"
            )
        return Scored(pictures.shown_image(image, reader.colour), raters, drawn, data)

    def _reader(self, side: int | None, data_config: DataConfig) -> CaseReader:
        """The reader of images of this side, which has surveyed all cases; faults of a case appear when it is read."""
        with self.lock:
            if (side, data_config) not in self.readers:
                reader = self.readers[side, data_config] = CaseReader(side, config=data_config)
                reader.faults_of(self.cases)
            return self.readers[side, data_config]

    def _rule(self, folder: str) -> MaskRule:
        with self.lock:
            if folder not in self.rules:
                threshold, merge = self.flags.get("label_threshold"), self.flags.get("merge_labels", False)
                names = [name for name, _ in self.cases]
                self.rules[folder] = store.foreign_rule(folder, names, threshold, merge)
            return self.rules[folder]


def check_same_raters(case: str, first: Scored, other: Scored) -> None:
    """ConfigError: the samples of two folders to compare were drawn for different raters' masks of a case."""
    if np.array_equal(first.raters, other.raters):
        return
    a, b = first.drawn, other.drawn
    if a.size != b.size:
        raise ConfigError(
            f"--compare: the samples of {case} have {a.size} pixels in {a.folder} and {b.size} in {b.folder}, so their "
            "metrics would be relative to different raters' masks; compare folders of one size"
        )
    values = {f.name: (getattr(first.data, f.name), getattr(other.data, f.name)) for f in fields(DataConfig)}
    different = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
    named = ", ".join(f"--{name} {one} and {two}" for name, (one, two) in different.items())
    remedy = "give one value here" if different.keys() <= LABEL_FLAGS else "draw both with the same value"
    raise ConfigError(
        f"--compare: {a.folder} and {b.folder} have different raters' masks of {case}, because they were drawn with "
        f"{named}; {remedy}"
    )
