"""Statistics of the cases of a set: sizes, channels, values, raters, masks and agreement."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from ..data.surveys.levels import LevelSurvey
from ..flags.classes import Classes
from ..masks import metrics
from ..masks.pairs import dice_matrix, iou_matrix

MANY_LEVELS = 10  # of a label: from this number on they are not counted

Range = tuple[float, float, int | None]  # lowest and highest value, and full scale


class ClassContents:
    """Statistics of the masks of one of several classes."""

    def __init__(self) -> None:
        self.areas: list[tuple[int, int]] = []  # pixels of each mask, and of its image
        self.iou: list[float] = []  # of two raters, on average over each case
        self.dice: list[float] = []

    def line(self, name: str) -> str:
        """The statistics, as a line of text."""
        pixels, whole = np.transpose(self.areas)
        marked = pixels[pixels > 0]
        sizes = f", areas {marked.min()} to {marked.max()} pixels, median {np.median(marked):g}" if len(marked) else ""
        agreement = f"; IoU of two raters {np.mean(self.iou):.3f}, Dice {np.mean(self.dice):.3f}" if self.iou else ""
        share = 100 * pixels.sum() / whole.sum()
        return (
            f"class {name}: {pixels.sum():,} pixels ({share:.1f} % of all) in {len(marked)} of {len(pixels)} masks"
            f"{sizes}{agreement}"
        )


class Contents:
    """Statistics of the cases of a set that can be read, with masks of these classes."""

    def __init__(self, classes: Classes) -> None:
        self.classes = {name: ClassContents() for name in classes.names} if classes.several else {}
        self.ignored: list[tuple[int, int]] = []  # ignored pixels, and all, of each case that has some
        self.cases = 0
        self.sizes: collections.Counter[str] = collections.Counter()
        self.planes: collections.Counter[str] = collections.Counter()
        self.raters: collections.Counter[int] = collections.Counter()
        self.ranges: list[Range] = []
        self.areas: list[tuple[int, float]] = []  # pixels and share of the image of each mask
        self.agreement: dict[str, list[float]] = collections.defaultdict(list)

    def add(
        self,
        image: Shaped[np.ndarray, "C H W"],
        raters: Bool[np.ndarray, "R *K H W"],
        ranges: Iterable[Range],
        colour: bool = False,
        ignored: Bool[np.ndarray, "H W"] | None = None,
    ) -> None:
        """Add a case.

        ranges  of its image files, as stored
        colour  whether the first three planes are red, green and blue
        """
        self.cases += 1
        self.sizes[f"{image.shape[2]}x{image.shape[1]}"] += 1
        self.planes[f"{len(image)}{' in colour' if colour else ''}"] += 1
        self.raters[len(raters)] += 1
        self.ranges += ranges
        if ignored is not None:
            self.ignored.append((int(ignored.sum()), ignored.size))
        if self.classes:
            self._add_classes(raters)
            return
        self.areas += [(int(mask.sum()), float(mask.mean())) for mask in raters]
        if len(raters) > 1:
            pairs = ~np.eye(len(raters), dtype=bool)
            self.agreement["IoU of two raters"].append(iou_matrix(raters, raters)[pairs].mean())
            self.agreement["Dice of two raters"].append(dice_matrix(raters, raters)[pairs].mean())
            distances = [metrics.squared_ged(rater[None], raters).total for rater in raters]
            self.agreement["GED of one rater against all"].append(float(np.mean(distances)))

    def _add_classes(self, raters: Bool[np.ndarray, "R K H W"]) -> None:
        """Add masks of several classes; the agreement over classes is by the mean of their IoU and of their Dice."""
        for k, one in enumerate(self.classes.values()):
            one.areas += [(int(mask.sum()), mask.size) for mask in raters[:, k]]
        if len(raters) < 2:
            return
        of_each = raters.swapaxes(0, 1)
        iou, dice = iou_matrix(of_each, of_each), dice_matrix(of_each, of_each)
        pairs = ~np.eye(len(raters), dtype=bool)
        for k, one in enumerate(self.classes.values()):
            one.iou.append(float(iou[k][pairs].mean()))
            one.dice.append(float(dice[k][pairs].mean()))
        self.agreement["IoU of two raters, over classes"].append(iou.mean(axis=0)[pairs].mean())
        self.agreement["Dice of two raters, over classes"].append(dice.mean(axis=0)[pairs].mean())
        self.agreement["GED of one rater against all, over classes"].append(1 - iou.mean())  # that of one mask is 0

    def lines(self) -> Iterator[str]:
        """The statistics, as lines of text."""
        yield f"sizes: {_in_cases(self.sizes)}"
        yield f"image channels: {_in_cases(self.planes)}"
        yield f"image values: {', '.join(_ranges(self.ranges))}"
        yield f"raters: {_in_cases(self.raters)}"
        if self.areas:
            empty = sum(not pixels for pixels, _ in self.areas)
            yield f"empty masks: {empty} of {len(self.areas)} ({100 * empty / len(self.areas):.1f} %)"
        if marked := [area for area in self.areas if area[0]]:
            pixels, shares = np.transpose(marked)
            yield (
                f"mask areas: {pixels.min():g} to {pixels.max():g} pixels, median {np.median(pixels):g} "
                f"({100 * np.median(shares):.1f} % of the image), without empty masks"
            )
        for name, one in self.classes.items():
            if one.areas:
                yield one.line(name)
        if self.ignored:
            pixels, whole = np.sum(self.ignored, axis=0)
            yield f"ignored pixels: {pixels:,} ({100 * pixels / whole:.1f} %) in {len(self.ignored)} cases"
        for title, values in self.agreement.items():
            yield f"{title}: {np.mean(values):.3f} on average over {len(values)} cases"


def _in_cases(counts: collections.Counter[Any]) -> str:
    return ", ".join(f"{value} in {count} cases" for value, count in counts.most_common())


def _ranges(ranges: Iterable[Range]) -> Iterator[str]:
    """The range of all values, for each scale."""
    by_scale: dict[int | None, list[Range]] = collections.defaultdict(list)
    for one in ranges:
        by_scale[one[2]].append(one)
    for scale, found in by_scale.items():
        low, high = min(one[0] for one in found), max(one[1] for one in found)
        of = f"of {scale}" if scale else "without a fixed scale"
        yield f"{low:g} to {high:g} {of} in {len(found)} files"


def level_lines(levels: LevelSurvey) -> Iterator[str]:
    """Lines that summarise the levels of the labels."""
    if levels.files:
        files = collections.Counter[int]()
        for number, count in levels.files.items():
            files[min(number, MANY_LEVELS)] += count
        counts = (
            f"{f'more than {number - 1}' if number == MANY_LEVELS else number} in {count}"
            for number, count in sorted(files.items())
        )
        yield f"levels in lossless labels: {', '.join(counts)}; all: {levels.counts()}"
