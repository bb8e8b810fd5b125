"""Reads a case and its samples in each folder, so that all folders are scored against the same raters' masks."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from ..data.case_reader import READING_RULES, CaseReader
from ..data.config import DataConfig
from ..data.described import described
from ..data.files.case_files import find_cases, list_files
from ..data.files.decoded import Decoded
from ..data.files.label import label_of
from ..data.files.read import read_file
from ..data.geometry import fit
from ..data.surveys.classes import ClassRule, class_rule
from ..data.surveys.levels import LevelSurvey, MaskRule
from ..errors import ConfigError, DataError
from ..flags.classes import Classes
from ..lidcloader import make_case
from ..masks import pictures
from ..sampling import store
from ..sampling.config import data_config_of, network_size, postprocess_of

# may differ from those that the samples were drawn with
LABEL_FLAGS = {"label_threshold", "merge_labels", "structure", "ignore_label", "missing"}


class Drawn(NamedTuple):
    """The samples of a case in one folder."""

    folder: str
    samples: store.Samples
    made_by: dict[str, Any]  # what is stored with them, with the flags of the evaluation
    classes: Classes | None = None  # that they were drawn with; None: not stored

    @property
    def size(self) -> str:
        """Width x height in pixels."""
        return f"{self.samples.shape[-1]}x{self.samples.shape[-2]}"


class Scored(NamedTuple):
    """A case as it is read for the samples of one folder.

    image, raters  at the size of the comparison
    bring_back     brings a soft sample to this size; None: it has this size
    output_size    which size this is, own or network
    ignored        pixels that count in no figure; None: there are none
    """

    image: pictures.Shown
    raters: Bool[np.ndarray, "R *K H W"]
    bring_back: Callable[[Shaped[np.ndarray, "H W"]], np.ndarray] | None
    drawn: Drawn
    data: DataConfig
    output_size: str
    ignored: Bool[np.ndarray, "H W"] | None = None

    @property
    def size(self) -> str:
        """Width x height in pixels."""
        return f"{self.raters.shape[-1]}x{self.raters.shape[-2]}"


class CaseFiles:
    """Reads the cases of a set and their samples; may be called from several threads.

    data_dir  the folder of the set
    flags     the flags of the evaluation, which replace those stored with the samples
    """

    def __init__(self, data_dir: str, flags: Mapping[str, Any]) -> None:
        self.cases, self.flags = find_cases(data_dir, one_set=True), flags
        self.data_dir = data_dir
        self.readers: dict[tuple[tuple[int, int] | None, DataConfig], CaseReader] = {}  # by the size of the images
        self.rules: dict[str, MaskRule | ClassRule] = {}  # of the masks of other programs, by folder
        self.lock = threading.Lock()  # for both

    def notes(self, num_cases: int) -> list[str]:
        """Lines on what reading changed in the `num_cases` cases."""
        return list(dict.fromkeys(note for reader in self.readers.values() for note in reader.notes(num_cases)))

    def samples_in(self, folder: str, name: str) -> Drawn:
        """The samples of the case `name` in a folder. DataError: there are none, or they are damaged."""
        found = store.find_samples(folder, name, lambda: self._rule(folder), lambda: self._images(name))
        if found is None:
            raise DataError(f"no samples in {folder}")
        samples, made_by = found
        stored = store.spread(made_by) if "flags" in made_by else made_by
        classes = data_config_of(made_by).class_set if "flags" in made_by else None
        return Drawn(folder, samples, {**stored, **self.flags}, classes)

    def _images(self, name: str) -> dict[str, Decoded]:
        """The decoded image files of a case."""
        return {file: read_file(file) for file in list_files(dict(self.cases)[name]).images}

    def read(self, case: tuple[str, str], drawn: Drawn, like: Drawn | None) -> Scored:
        """A case (name, folder) at its own size, or with --output_size network at that of its samples.

        like  samples of this program, or None. Samples of another program, which store no flags, are scored with theirs
        DataError: the samples do not belong to this case.
        """
        name, case_folder = case
        made_by, size = drawn.made_by, drawn.samples.shape[-2:]
        if like is not None and "image_size" not in made_by:
            made_by = {**like.made_by, **made_by}
        data = described(data_config_of(made_by), self.data_dir)
        _check_classes(drawn, data)
        of_network = network_size(made_by) == size
        at_own_size = not of_network or postprocess_of(made_by).output_size == "own"
        reader = self._reader(None if at_own_size else size, data)
        found = reader.read(case_folder)
        seen = fit(found._replace(raters=found.raters[:0]), size, data.pad)[0] if of_network else found
        if seen.size != size:
            raise DataError(
                f"the samples in {drawn.folder} have {drawn.size} pixels, the raters' masks "
                f"{found.size[1]}x{found.size[0]}"
            )
        of_image = drawn.made_by.get("image")
        if of_image is not None and of_image != store.image_hash(make_case(name, seen)):
            given = [f.name for f in fields(DataConfig) if f.name in self.flags]  # these replace the stored ones
            suspects = " or ".join(f"--{name}" for name in ("data_dir", *given))
            rules = made_by.get("reading", 1)  # samples that store none are of version 1
            read = "" if rules == READING_RULES else f" (reading rules {rules}, this program has {READING_RULES})"
            raise DataError(
                f"the samples in {drawn.folder} were drawn for a different image from the one in {case_folder}{read}; "
                f"check {suspects}"
            )
        back = seen.geometry.bring_back if seen.geometry and found.size != size else None
        shown = pictures.shown_image(found.image, reader.colour)
        where = "own" if at_own_size else "network"
        return Scored(shown, found.raters, back, drawn, data, where, found.ignored)

    def _reader(self, size: tuple[int, int] | None, data_config: DataConfig) -> CaseReader:
        """The reader of images of this size, which has surveyed all cases; faults of a case appear when it is read."""
        with self.lock:
            if (size, data_config) not in self.readers:
                reader = self.readers[size, data_config] = CaseReader(size, config=data_config)
                reader.faults_of(self.cases)
            return self.readers[size, data_config]

    def _rule(self, folder: str) -> MaskRule | ClassRule:
        with self.lock:
            if folder not in self.rules:
                config = described(data_config_of(self.flags), self.data_dir)
                self.rules[folder] = foreign_rule(folder, [name for name, _ in self.cases], config)
            return self.rules[folder]


def foreign_rule(folder: str, case_ids: Iterable[str], config: DataConfig = DataConfig()) -> MaskRule | ClassRule:
    """The rule for the masks ID_output0.png, ... in `folder`, which belong to one set. DataError: they are not masks.

    Cases with ID_samples.npz are left out; `store.find_samples` reports unreadable files. Masks of several classes are
    label maps, as this program writes them.

    config  of the cases; label_threshold, merge_labels and classes are used
    """
    classes = config.class_set
    if classes.from_files:
        raise DataError(
            f"{folder}: a label map cannot hold {classes.kind}, which may overlap; keep ID_samples.npz beside the masks"
        )
    survey = LevelSurvey()
    for case_id in case_ids:
        for path in [] if os.path.exists(store.samples_path(folder, case_id)) else store.mask_files(folder, case_id):
            with contextlib.suppress(DataError):
                survey.add(path, label_of(path, read_file(path)))
    if not classes.several:
        return survey.rule(config.label_threshold, config.merge_labels)
    return class_rule(survey, replace(classes, levels=classes.written, plain=False), background=0)


def _check_classes(drawn: Drawn, data: DataConfig) -> None:
    """DataError: the samples do not have the classes of the cases."""
    classes, channels = data.class_set, drawn.samples.shape[1:-2]
    if drawn.classes and not drawn.classes.same_masks(classes):
        raise DataError(
            f"the samples in {drawn.folder} have {drawn.classes.kind}, but the cases have {classes.kind}; check "
            "--classes"
        )
    if channels == ((classes.count,) if classes.several else ()):
        return
    has = f"{channels[0]} classes" if channels else "one class"
    shape = list(drawn.samples.shape)
    raise DataError(
        f"the samples in {drawn.folder} have the shape {shape}, so {has}, but the cases have {classes.kind}; check "
        "--classes"
    )


def check_same_raters(case: str, first: Scored, other: Scored) -> None:
    """ConfigError: the samples of two folders to compare were drawn for different raters' masks of a case."""
    if np.array_equal(first.raters, other.raters) and np.array_equal(_ignored(first), _ignored(other)):
        return
    a, b = first.drawn, other.drawn
    if first.size != other.size:
        raise ConfigError(
            f"--compare: the samples of {case} are scored at {first.size} pixels in {a.folder} and {other.size} in "
            f"{b.folder}, so their metrics would be relative to different raters' masks; use --output_size own"
        )
    values = {f.name: (getattr(first.data, f.name), getattr(other.data, f.name)) for f in fields(DataConfig)}
    different = {name: pair for name, pair in values.items() if pair[0] != pair[1]}
    named = ", ".join(f"--{name} {one} and {two}" for name, (one, two) in different.items())
    remedy = "give one value here" if different.keys() <= LABEL_FLAGS else "draw both with the same value"
    raise ConfigError(
        f"--compare: {a.folder} and {b.folder} have different raters' masks of {case}, because they were drawn with "
        f"{named}; {remedy}"
    )


def _ignored(scored: Scored) -> Bool[np.ndarray, "H W"]:
    return np.zeros(scored.raters.shape[-2:], dtype=bool) if scored.ignored is None else scored.ignored
