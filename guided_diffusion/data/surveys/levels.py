"""The levels of a set of labels, and the one rule that turns all of them into masks."""

import collections
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Shaped

from ...errors import DataError
from ..files.label import Label, label_of
from ..files.read import read_file

MOST_CLASSES = 255  # levels of a set of class labels; more are those of soft masks or images
FEW_CLASSES = 32  # levels that count as classes if a flag says so, even where they lie on ramps
LISTED = 8  # levels in a message
RAMP = 0.5  # share of the pixels between two levels that lie on ramps, from which on a mask was interpolated
FLAT = 12 / 255  # range within 3x3 pixels of a JPEG, of full scale, at most, away from outlines
SPREAD = 24  # of a cluster of a JPEG around its most frequent value, of 255, at most
HALF, UNCLEAR = 127.5, 26  # of 255; clusters of a JPEG lie at least so far from half
FEW = 8  # flat pixels that may lie elsewhere by chance
SCALES = (1, 255, 65535)  # full scales to choose from, where the type has none

COMPARE: Mapping[str, Callable[..., Bool[np.ndarray, "H W"]]] = {
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
    "in": np.isin,
}


@dataclass(frozen=True)
class MaskRule:
    """Foreground is where `values COMPARE number`; for lossy labels, where values exceed `cut` of full scale."""

    compare: Literal[">", "==", "!=", "in"] = "!="
    number: float | tuple[float, ...] = 0  # several levels for "in"
    cut: float = 0.5
    share: bool = False  # the number is a share of full scale
    scale: int = 1  # full scale of labels whose type has none
    refused: Mapping[str, str] = field(default_factory=dict)  # {file: why it is not a mask}

    def mask(self, file: str, label: Label) -> Bool[np.ndarray, "H W"]:
        """The mask of the label in a file. DataError: it is not a mask."""
        if file in self.refused:
            raise DataError(f"{file}: {self.refused[file]}")
        if label.lossy and label.full_scale:
            return label.values > self.cut * label.full_scale
        scale = (label.full_scale or self.scale) if self.share else 1
        number = self.number if isinstance(self.number, tuple) else self.number * scale
        return COMPARE[self.compare](label.values, number)


@dataclass
class LevelSurvey:
    """The levels of the labels of a set of cases.

    ignore   level of pixels that do not count; None: there is none
    pixels   {level: number of pixels} of lossless labels, without soft ones
    files    {number of levels: files} of lossless labels
    """

    ignore: int | None = None
    pixels: collections.Counter[float] = field(default_factory=collections.Counter)
    files: collections.Counter[int] = field(default_factory=collections.Counter)
    notes: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))
    examples: dict[float, str] = field(default_factory=dict)  # a file with each level
    many: list[str] = field(default_factory=list)  # files with more than two levels, without soft ones
    soft: dict[str, tuple[float, ...]] = field(default_factory=dict)  # {interpolated file: its levels}
    largest: float = 1  # of the levels of all lossless labels
    third: dict[str, dict[int, int]] = field(default_factory=dict)  # {lossy file: more than two clusters}
    faint: list[str] = field(default_factory=list)  # lossy files that vary and do not reach half of full scale
    lossy: list[str] = field(default_factory=list)  # lossy files
    ignoring: list[str] = field(default_factory=list)  # files with the level `ignore`
    clusters: dict[str, dict[int, int]] = field(default_factory=dict)  # {lossy file: its clusters}

    def add(self, file: str, label: Label) -> None:
        """Record the levels of a label."""
        for note in label.notes:
            self.notes[note].append(file)
        if label.lossy and label.full_scale:
            self.lossy.append(file)
            self._add_lossy(file, label.values / label.full_scale)
            return
        values = label.values
        if self.ignore is not None and (ignored := values == self.ignore).any():
            self.ignoring.append(file)
            if ignored.all():
                return
            values = np.where(ignored, values[~ignored].min(), values)
        levels, counts = _levels(values)
        self.files[len(levels)] += 1
        self.largest = max(self.largest, float(levels[-1]))
        if len(levels) > 2 and _is_soft(values, levels):
            self.soft[file] = tuple(levels.tolist())
            return
        if len(levels) > 2:
            self.many.append(file)
        for level, count in zip(levels.tolist(), counts.tolist(), strict=True):
            self.pixels[level] += count
            self.examples.setdefault(level, file)

    def _add_lossy(self, file: str, values: Shaped[np.ndarray, "H W"]) -> None:
        clusters = self.clusters[file] = _clusters(values)
        if values.max() <= 0.5 and np.ptp(values) > 0:
            self.faint.append(file)
        elif not _are_two(clusters):
            self.third[file] = clusters

    @property
    def levels(self) -> list[float]:
        """The sorted levels of all lossless labels, without soft ones."""
        return sorted(self.pixels)

    def show(self, level: float) -> str:
        """A level as in a message: a number, or a colour #rrggbb."""
        return f"#{int(level) & 0xFFFFFF:06x}" if self.notes.get("colour") and level % 1 == 0 else f"{level:g}"

    def counts(self) -> str:
        """The levels with their numbers of pixels."""
        shown = [f"{self.show(level)} ({self.pixels[level]:,} pixels)" for level in self.levels[:LISTED]]
        return ", ".join([*shown, "..."] if len(self.levels) > LISTED else shown)

    def rule(self, threshold: float | None = None, merge: bool = False, structure: Sequence[float] = ()) -> MaskRule:
        """The rule for all labels of the set; it refuses single labels that are not masks.

        threshold  --label_threshold; None: auto
        merge      --merge_labels
        structure  levels of --structure; empty: all
        DataError: the set is not one of masks under these flags; one line per fault.
        """
        self.refuse_ignored_jpeg()
        if threshold is not None:
            return self._threshold_rule(threshold)
        if faults := list(self._set_faults(merge, structure)):
            raise DataError("\n".join(faults))
        refused = self.refusals(merge or bool(structure))
        if structure:
            levels = tuple(structure)
            return MaskRule("in", levels, refused=refused) if levels[1:] else MaskRule("==", levels[0], refused=refused)
        if len(self.levels) == 2 and not merge:
            return MaskRule("==", self.levels[1], refused=refused)
        return MaskRule("!=", 0, refused=refused)

    def refuse_ignored_jpeg(self) -> None:
        """DataError: some labels are lossy, and there is a level of ignored pixels."""
        if self.lossy and self.ignore is not None:
            raise DataError(
                f"{_first(self.lossy)}: JPEG mixes the level of --ignore_label with others; save the labels as PNG"
            )

    def _threshold_rule(self, threshold: float) -> MaskRule:
        if threshold == 0:
            return MaskRule(">", 0, cut=0)
        scale = next((scale for scale in SCALES if self.largest <= scale), int(self.largest))
        return MaskRule(">", threshold, cut=threshold, share=True, scale=scale)

    def refusals(self, classes: bool) -> dict[str, str]:
        """{file: why it is not a mask}; the text is the same for all files of a kind.

        classes  a flag says that the levels are classes
        """
        near = ", ".join(f"{value} ({n:,} pixels)" for value, n in next(iter(self.third.values()), {}).items())
        third = (
            f"a JPEG with values near {near}, which are not one below and one above half of full scale; if they are "
            "classes, name them with --classes, or save it as PNG; --label_threshold cuts it"
        )
        faint = (
            "a JPEG that varies, but nowhere reaches half of full scale (a mask of 0 and 1 saved as JPEG loses its "
            "levels); save it as PNG, or cut it with --label_threshold"
        )
        refused = {**dict.fromkeys(self.third, third), **dict.fromkeys(self.faint, faint)}
        found = {file: x for file, x in self.soft.items() if not (classes and may_be_classes(x))}
        if found:
            low, high = min(x[0] for x in found.values()), max(x[-1] for x in found.values())
            thin = "; or, if they are thin classes, --merge_labels" if all(map(may_be_classes, found.values())) else ""
            soft = (
                f"{'' if len(found) == 1 else 'up to '}{max(map(len, found.values()))} levels from "
                f"{self.show(low)} to {self.show(high)}, as in an interpolated or soft mask: --label_threshold 0.5 "
                f"cuts it at half of full scale; or image and label are swapped{thin}"
            )
            refused |= dict.fromkeys(found, soft)
        return refused

    def _set_faults(self, merge: bool, structure: Sequence[float]) -> Iterator[str]:
        falling, rising = self.notes.get("falling palette", []), self.notes.get("rising palette", [])
        if falling and rising and len(self.levels) == 2:
            yield (
                f"{_first(falling)}: the palette orders its levels by falling brightness, but those of other labels by "
                "rising brightness; save all masks as grey PNG files"
            )
        if (merge or structure) and self.lossy:
            yield (
                f"{_first(self.lossy)}: the compression of JPEG mixes the levels that --merge_labels and --structure "
                "select; save them as PNG"
            )
        if structure and not any(map(self._has_level, structure)) and not self.lossy:
            shown = "+".join(map(self.show, structure))
            yield f"--structure {shown}: no label has this level; the levels are {self.counts()}"
        elif len(self.levels) > 2 and not merge and not structure:
            yield self._class_fault()

    def _has_level(self, level: float) -> bool:
        return level in self.pixels or any(level in levels for levels in self.soft.values())

    def _class_fault(self) -> str:
        rest = "" if self.many else ", in different labels"
        remedy = (
            "name them with --classes, as in --classes disc,cup; --merge_labels True treats all but 0 as foreground, "
            "--structure LEVEL takes one"
        )
        file = _first(self.many) if self.many else self.examples[self.levels[-1]]
        return (
            f"{file}: the labels have {len(self.levels)} levels{rest}: {self.counts()}; if they are classes, {remedy}"
        )


def _first(files: list[str]) -> str:
    """The first file, for a message about all."""
    return files[0] + (f" and {len(files) - 1} other labels" if len(files) > 1 else "")


def may_be_classes(levels: Sequence[float]) -> bool:
    """Whether these levels of a label on ramps may be those of thin classes."""
    return len(levels) <= FEW_CLASSES and all(level % 1 == 0 for level in levels)


def _is_soft(values: Shaped[np.ndarray, "H W"], levels: np.ndarray) -> bool:
    """Whether a label with more than two levels was interpolated, or is not a mask: its levels cannot be classes."""
    return bool(len(levels) > MOST_CLASSES or (levels % 1 != 0).any() or _on_ramps(values, levels) >= RAMP)


def _clusters(values: Shaped[np.ndarray, "H W"]) -> dict[int, int]:
    """{value: pixels} of the clusters of a lossy label, values in units of 1/255 of full scale.

    Compression changes values along outlines, so only pixels in flat neighbourhoods make a cluster; then each pixel
    counts for the nearest.
    """
    spans = scipy.ndimage.maximum_filter(values, 3) - scipy.ndimage.minimum_filter(values, 3)
    counts, _ = np.histogram(values[spans <= FLAT], bins=256, range=(0, 256 / 255))
    found: list[int] = []
    while True:
        value = int(counts.argmax())
        around = slice(max(0, value - SPREAD), value + SPREAD + 1)
        if counts[around].sum() <= FEW:
            break
        found.append(value)
        counts[around] = 0
    if not found:
        return {}
    centres = np.array(sorted(found))
    nearest = np.abs(values[..., None] * 255 - centres).argmin(axis=-1)
    return dict(zip(centres.tolist(), np.bincount(nearest.ravel(), minlength=len(centres)).tolist(), strict=True))


def _are_two(clusters: Iterable[int]) -> bool:
    """Whether at most one cluster lies on each side of half of full scale, and none near it."""
    upper = [value > HALF for value in clusters]
    return sum(upper) <= 1 and len(upper) - sum(upper) <= 1 and all(abs(v - HALF) >= UNCLEAR for v in clusters)


def _levels(values: Shaped[np.ndarray, "H W"]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, sorted, and their numbers of pixels."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=1)
        levels = np.flatnonzero(counts)
        return levels, counts[levels]
    return np.unique(values, return_counts=True)


def _on_ramps(values: Shaped[np.ndarray, "H W"], levels: np.ndarray) -> float:
    """Share of the pixels between lowest and highest level that have both a lower and a higher neighbour.

    Interpolation puts pixels on ramps along outlines. Pixels of a class mostly have neighbours of the same class.
    """
    between = (values > levels[0]) & (values < levels[-1])
    numbers = values if values.dtype.kind != "b" else values.astype(np.uint8)
    lower = scipy.ndimage.minimum_filter(numbers, 3)[between] < values[between]
    higher = scipy.ndimage.maximum_filter(numbers, 3)[between] > values[between]
    return float((lower & higher).mean())


def read_masks(
    files: Iterable[str], threshold: float | None = None, merge: bool = False
) -> dict[str, Bool[np.ndarray, "H W"]]:
    """The masks in files, {file: mask}, read as one set. DataError: a file is unreadable, or they are not masks."""
    labels = {file: label_of(file, read_file(file)) for file in files}
    rule = rule_of(labels, threshold, merge)
    return {file: rule.mask(file, label) for file, label in labels.items()}


def rule_of(labels: Mapping[str, Label], threshold: float | None = None, merge: bool = False) -> MaskRule:
    """The rule of a set of labels {file: label}; see `LevelSurvey.rule`."""
    survey = LevelSurvey()
    for file, label in labels.items():
        survey.add(file, label)
    return survey.rule(threshold, merge)
