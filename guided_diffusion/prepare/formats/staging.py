"""Writes the cases of a source whose labels become masks by one rule, which is known when all of them were read."""

import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from ...data.config import DataConfig
from ...data.files.decoded import COLOURS, Decoded, to_grey, to_unit
from ...data.surveys.changes import Changes
from ...data.surveys.classes import ClassRule
from ...data.surveys.levels import Label, LevelSurvey
from ...errors import NAMES_SHOWN, DataError
from ..case_writer import STAGE, CaseFolder, FileImage, FileLabel, ManifestRow, RawCase, areas_of
from .classes import ClassLabels, RaterMasks, classes_of, labels_of
from .config import ConvertConfig, check_level_stands_alone
from .facts import Facts, structure_of
from .foreign_files import label_values, scaled

NO_VALUES = np.empty((0, 0), dtype=np.uint8)


class Kept(NamedTuple):
    """The place of an array in a file of arrays."""

    start: int  # bytes
    size: int
    dtype: np.dtype
    shape: tuple[int, ...]


class Aside:
    """Arrays put aside in a temporary file, which vanishes with the process."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # `close` closes it

    def put(self, array: np.ndarray) -> Kept:
        """Write an array."""
        content = zlib.compress(array.tobytes(), level=1)
        start = self._file.seek(0, os.SEEK_END)
        self._file.write(content)
        return Kept(start, len(content), array.dtype, array.shape)

    def get(self, kept: Kept) -> np.ndarray:
        """An array that was put aside."""
        self._file.seek(kept.start)
        content = zlib.decompress(self._file.read(kept.size))
        return np.frombuffer(content, kept.dtype).reshape(kept.shape)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


class StagedLabel(NamedTuple):
    """A label without its values, which are put aside; `label` is None if they are a mask already."""

    label: FileLabel | None
    values: Kept


class Staged(NamedTuple):
    """A case whose images are written, and whose labels are put aside.

    split  that of the source; None: it is assigned at random
    """

    row: ManifestRow
    split: str | None
    labels: list[StagedLabel]


class Stage:
    """The cases of a source, written to the stage of a CaseFolder.

    levels   of all labels
    changes  what reading changed
    cases    those staged so far
    skipped  number of cases with too few raters
    facts    what is known of the source
    modalities  the names of those of each case
    labels   how labels become masks; None: not settled yet
    """

    def __init__(self, config: ConvertConfig, out: CaseFolder) -> None:
        self.config, self.out = config, out
        self.levels, self.changes = LevelSurvey(config.ignore_label), Changes()
        self.labels: ClassLabels | None = None
        self.cases: list[Staged] = []
        self.skipped = 0
        self.facts = Facts()
        self.modalities: set[tuple[str, ...]] = set()
        self._aside = Aside(out.out)
        self._surveyed: set[str] = set()
        self._turned: set[str] = set()

    # -- reading ------------------------------------------------------------------------------------------------------

    def know(self, facts: Facts) -> None:
        """Take what is known of the source, before its first case."""
        self.facts = facts
        if facts.dataset and self.config.ignore_label is None:
            self.levels.ignore = facts.dataset.ignored

    def add(self, case: RawCase) -> None:
        """Record the labels of a case, and stage it. DataError: it is broken."""
        size = self.out.size_of(case)
        raters = [self._rater(case, k, size) for k in range(len(case.raters))]
        planes = {modality: self._plane(image) for modality, image in case.planes.items()}
        row = self.out.write(replace(case, planes=planes, raters=()), STAGE)
        turned = [file for file in case.turned if file not in self._turned]
        self._turned.update(turned)
        self.changes.add_files(turned, ())
        self.modalities.add(tuple(case.planes))
        self.cases.append(Staged(row, case.split, [self._put_aside(rater) for rater in raters]))

    def _rater(self, case: RawCase, k: int, size: tuple[int, int]) -> FileLabel | Bool[np.ndarray, "H W"]:
        """The label or the mask with number k of a case; the levels of labels are recorded."""
        rater = case.raters[k]
        if rater is None:
            return np.zeros(size, dtype=bool)
        if isinstance(rater, np.ndarray):
            if rater.dtype == bool and not self.config.classes:
                return rater
            name = f"{self.config.src}, {case.id}, rater {k}"
            rater = FileLabel(name, Label(label_values(name, rater), None))
        if rater.file not in self._surveyed:
            self._surveyed.add(rater.file)
            self.levels.add(rater.file, rater.whole or rater.label)
        return rater

    def _plane(self, image: FileImage | np.ndarray) -> np.ndarray:
        """An image as it is written."""
        if isinstance(image, np.ndarray):
            return to_grey(image)[0] if self.config.grey and image.ndim == 3 and len(image) == COLOURS else image
        file, decoded = image
        if decoded.alpha is not None and np.ptp(decoded.alpha):
            raise DataError(
                f"{file}: the alpha channel varies; an image must be opaque: save it without an alpha channel"
            )
        self.changes.add_image(file, decoded, False)
        if self.config.grey and len(decoded.planes) == COLOURS:
            self.changes.add_files((), [file] if decoded.in_colour else [])
            decoded = replace(decoded, planes=to_grey(decoded.planes))
        dataset = self.facts.dataset
        planes = in_full_scale(file, decoded, dataset.intensity_range if dataset else None)
        return planes if len(planes) == COLOURS else planes[0]

    def _put_aside(self, rater: FileLabel | Bool[np.ndarray, "H W"]) -> StagedLabel:
        if isinstance(rater, np.ndarray):
            return StagedLabel(None, self._aside.put(rater))
        without = FileLabel(rater.file, replace(rater.label, values=NO_VALUES))
        return StagedLabel(without, self._aside.put(rater.label.values))

    def close(self) -> None:
        """Remove whatever is not assigned to a split."""
        self._aside.close()
        self.out.tidy()

    # -- the rule -----------------------------------------------------------------------------------------------------

    def settle(self) -> list[str]:
        """Write the masks of all cases, which `cases` then lists; returns the faults of labels.

        DataError: the labels are not masks; one line per fault.
        """
        config = self.config
        self.labels = labels = labels_of(self.levels, config, classes_of(config, self.facts), self._structure_levels())
        kept = []
        for case in self.cases:
            raters = self._masks(case, labels)
            if raters is not None and sum(bool(rater.masks.any()) for rater in raters) < config.min_raters:
                self.skipped += 1
                raters = None
            if raters is None:
                self.out.remove(case.row)
                continue
            masks = [rater.masks for rater in raters]
            self.changes.masks.add(np.array(masks))
            files = [rater.labels for rater in raters]
            kept.append(case._replace(row=self.out.add_labels(case.row, files, areas_of(masks))))
        self.cases = kept
        return list(_faults_of_files(labels.rule.refused))

    def _structure_levels(self) -> tuple[float, ...]:
        """The levels of --structure; empty: it is a name in the paths of masks, or not given."""
        config, dataset = self.config, self.facts.dataset
        levels = DataConfig(structure=config.structure).levels
        if not levels and dataset and config.structure in dataset.structures:
            levels = dataset.levels_of(config.structure) or ()
            if levels:
                check_level_stands_alone(config)
        return levels

    def _masks(self, case: Staged, labels: ClassLabels) -> list[RaterMasks] | None:
        """The masks of a case; None: the rule refuses one of its labels."""
        found: list[FileLabel | Bool[np.ndarray, "H W"]] = []
        for label, kept in case.labels:
            if label and label.file in labels.rule.refused:
                return None
            values = self._aside.get(kept)
            found.append(label._replace(label=replace(label.label, values=values)) if label else values)
        each = labels.classes.count if labels.classes.from_files else 1
        return [labels.read(found[start : start + each]) for start in range(0, len(found), each)]

    @property
    def stated(self) -> dict[str, tuple[int, ...]]:
        """What dataset.json states about the labels, once they are settled."""
        return self.labels.stated(structure_of(self.facts)) if self.labels else {}

    @property
    def painted(self) -> tuple[int, ...]:
        """The values that regions are painted with, once they are settled; empty: there are none."""
        return self.labels.painted() if self.labels else ()

    def notes(self) -> Iterator[str]:
        """What reading changed, and what is unusual, one line each."""
        of_classes = self.labels is not None and isinstance(self.labels.rule, ClassRule)
        for line in (*self._values_in_words(), *self.changes.notes(self.levels, of_classes)):
            yield line if line.startswith("warning: ") else f"note: {line}"

    def _values_in_words(self) -> Iterator[str]:
        """Lines on classes that hide others, and on levels that are written as other values."""
        values = self.labels.values if self.labels and self.labels.by_level else {}
        if self.labels:
            yield from self.labels.notes()
        changed = [f"{self.levels.show(level)} as {value}" for level, value in values.items() if level != value]
        if changed:
            yield f"levels of the labels are written with other values: {', '.join(changed)}"


def in_full_scale(
    file: str, decoded: Decoded, intensity_range: tuple[float, float] | None = None
) -> Shaped[np.ndarray, "C H W"]:
    """The planes of an image as uint8 or uint16; floats in [0, 1] if its type has no full scale, by its own range.

    intensity_range  (low, high) becomes (0, 1); None: as above
    """
    scale = decoded.full_scale
    if intensity_range:
        return to_unit(decoded.planes, scale, intensity_range)
    if scale is None:
        return scaled(decoded.planes, file)
    if scale <= 255:
        return (decoded.planes * (255 // scale)).astype(np.uint8)
    return decoded.planes.astype(np.uint16)


def _faults_of_files(refused: Mapping[str, str]) -> Iterator[str]:
    """A line for each kind of labels {file: reason} that the rule refuses."""
    for text in dict.fromkeys(refused.values()):
        files = [file for file, reason in refused.items() if reason == text]
        more = f" and {len(files) - NAMES_SHOWN} more" if len(files) > NAMES_SHOWN else ""
        yield f"{', '.join(files[:NAMES_SHOWN])}{more}: {text}"
