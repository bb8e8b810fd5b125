"""What reading changed in a set of cases, and what is unusual about its masks, for reports."""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from ..files.decoded import UNIT, Decoded
from ..files.label import NOTES, Label
from .levels import LevelSurvey

LITTLE = 0.1  # of the scale of its type: an image that uses less is reported
RESIZED = "masks are resized by area"  # a departure from version 1
MUCH = 0.5  # of an image's area: foreground above it is unusual


@dataclass
class MaskCounts:
    """The masks of a set of cases; each class of a rater is one.

    much  cases whose masks cover more than MUCH of the image on average
    """

    cases: int = 0
    masks: int = 0
    empty: int = 0
    full: int = 0
    much: int = 0

    def add(self, raters: Bool[np.ndarray, "R *K H W"]) -> None:
        """Count the masks of a case."""
        if not len(raters):
            return
        areas = raters.mean(axis=(-2, -1)).ravel()
        self.cases += 1
        self.masks += len(areas)
        self.empty += int((areas == 0).sum())
        self.full += int((areas == 1).sum())
        self.much += bool(areas.mean() > MUCH)

    def constant(self) -> str | None:
        """The kind of all masks, if all are empty or all are full."""
        if self.masks and self.empty == self.masks:
            return "empty"
        return "full" if self.masks and self.full == self.masks else None

    def notes(self) -> list[str]:
        """Warnings, one line each."""
        if kind := self.constant():
            return [f"warning: all {self.masks} masks are {kind}; check the labels (check_data.py)"]
        if self.much > self.cases / 2:
            return [
                f"warning: the foreground covers more than half of the image in {self.much} of {self.cases} cases; "
                "check that foreground and background of the labels are not exchanged"
            ]
        return []


@dataclass
class Changes:
    """What reading changed, by kind.

    sizes       {case: (height, width)} of the resized or padded cases
    kept        {case: lesions} that would have vanished by resizing
    lost        {case: lesions} of exclusive classes that vanish by resizing, beside others
    turned      NIfTI files brought to the orientation of their image
    upright     pictures turned by their EXIF or TIFF orientation
    alpha       images whose constant alpha channel was dropped
    greyed      images converted from colour
    ranges      {image: (lowest value, highest value, full scale or None)} as stored
    """

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    turned: list[str] = field(default_factory=list)
    upright: list[str] = field(default_factory=list)
    alpha: list[str] = field(default_factory=list)
    greyed: list[str] = field(default_factory=list)
    ranges: dict[str, tuple[float, float, int | None]] = field(default_factory=dict)
    emptied: dict[str, float] = field(default_factory=dict)  # {label that --label_threshold empties: largest value}
    ranged: int = 0  # images of a fixed scale to which --intensity_range was applied
    masks: MaskCounts = field(default_factory=MaskCounts)

    def add_image(self, file: str, decoded: Decoded, has_range: bool) -> None:
        """Record an image file."""
        if decoded.alpha is not None:
            self.alpha.append(file)
        if decoded.full_scale not in (None, UNIT) and has_range:
            self.ranged += 1
        self.ranges[file] = float(decoded.planes.min()), float(decoded.planes.max()), decoded.full_scale

    @property
    def faint(self) -> list[str]:
        """Images that use little of the scale of their type."""
        return [file for file, (low, high, scale) in self.ranges.items() if scale and 0 < high - low < LITTLE * scale]

    def add_files(self, turned: Iterable[str], greyed: Iterable[str]) -> None:
        """Record the files of a case that were turned, by EXIF or to the grid of the image, or converted to grey."""
        for file in turned:
            (self.turned if file.lower().endswith((".nii", ".nii.gz")) else self.upright).append(file)
        self.greyed += greyed

    def add_thresholded(self, labels: Mapping[str, Label], masks: Iterable[Bool[np.ndarray, "H W"]]) -> None:
        """Record labels that vary, but whose masks are empty by --label_threshold."""
        for (file, label), mask in zip(labels.items(), masks, strict=True):
            if not mask.any() and np.ptp(label.values) > 0:
                self.emptied[file] = float(label.values.max())

    def notes(self, levels: LevelSurvey, of_classes: bool = False) -> Iterable[str]:
        """The changes besides sizes, one line each; `of_classes`: labels are read as classes."""
        for files, noun, what in (
            (self.alpha, "image", "with a constant alpha channel, which is dropped"),
            (self.greyed, "image", "in colour, converted to grey (--grey)"),
            (self.turned, "NIfTI file", "brought to the orientation of the image by the affine"),
            *((files, "label", NOTES[note]) for note, files in levels.notes.items() if note in NOTES),
        ):
            if files:
                yield f"{count(len(files), noun)} {what}, e.g. {files[0]}"
        if levels.ignoring:
            yield (
                f"{count(len(levels.ignoring), 'label')} with pixels of the level {levels.ignore}, which count in no "
                f"loss and no metric (--ignore_label), e.g. {levels.ignoring[0]}"
            )
        if levels.lossy:
            how = "read by the nearest level of a class" if of_classes else "thresholded (--label_threshold)"
            yield f"{count(len(levels.lossy), 'label')} with lossy compression (JPEG), {how}"
        if self.emptied:
            file, largest = next(iter(self.emptied.items()))
            yield (
                f"warning: {count(len(self.emptied), 'label')} empty after --label_threshold, although the values "
                f"vary, e.g. up to {largest:g} in {file}"
            )
        if self.faint and not self.ranged:
            low, high, scale = self.ranges[self.faint[0]]
            remedy = "scale the values to [0, 1]" if scale == UNIT else "set the range with --intensity_range LO,HI"
            yield (
                f"warning: {count(len(self.faint), 'image')} using less than a tenth of the scale of the type, e.g. "
                f"{low:g} to {high:g} of {scale} in {self.faint[0]}: {remedy}"
            )
        yield from self._vanishing()
        yield from self.masks.notes()

    def _vanishing(self) -> Iterable[str]:
        """Lines on lesions that resizing makes vanish."""
        if self.kept:
            yield (
                f"{count(sum(self.kept.values()), 'lesion')} in {count(len(self.kept), 'case')} would vanish at this "
                "size; each keeps its most covered pixel"
            )
        if self.lost:
            yield (
                f"warning: {count(sum(self.lost.values()), 'lesion')} in {count(len(self.lost), 'case')} vanish at "
                "this size, because other classes need the pixels that they cover; use a larger --image_size"
            )

    def departures(self, levels: LevelSurvey, in_colour: bool) -> list[str]:
        """What version 1 of the reading rules would have read differently, as phrases."""
        found = {
            "images in colour are read as colour": in_colour,
            "pictures are turned by their EXIF orientation": bool(self.upright),
            "NIfTI labels are brought to the orientation of their image": bool(self.turned),
            "alpha channels are separated": bool(self.alpha or levels.notes.get("alpha mask")),
            "palettes are read by index": bool(
                levels.notes.get("falling palette") or levels.notes.get("rising palette")
            ),
            "labels in colour are read by colour": bool(levels.notes.get("colour")),
            "--intensity_range applies to 8-bit and 16-bit images": bool(self.ranged),
            RESIZED: bool(self.sizes and (levels.files or levels.lossy)),
            "the levels of a label are those of the whole set": len(levels.levels) == 2 and levels.levels[0] != 0,
        }
        return [phrase for phrase, is_so in found.items() if is_so]


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def sizes_in_words(sizes: Iterable[tuple[int, int]]) -> str:
    """Distinct sizes (height, width), most frequent first, as WIDTHxHEIGHT."""
    counts = collections.Counter(sizes)
    shown = [f"{w}x{h}" for (h, w), _ in sorted(counts.items())[:10]]
    return ", ".join([*shown, "..."] if len(counts) > 10 else shown)
