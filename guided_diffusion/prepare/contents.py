"""Statistics of the cases of a set: sizes, channels, values, raters, masks and agreement."""

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from ..data.surveys.levels import LevelSurvey
from ..masks import metrics
from ..masks.pairs import dice_matrix, iou_matrix

MANY_LEVELS = 10  # of a label: from this number on they are not counted

Range = tuple[float, float, int | None]  # lowest and highest value, and full scale


class Contents:
    """Statistics of the cases of a set that can be read."""

    def __init__(self) -> None:
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
        raters: Bool[np.ndarray, "R H W"],
        ranges: Iterable[Range],
        colour: bool = False,
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
        self.areas += [(int(mask.sum()), float(mask.mean())) for mask in raters]
        if len(raters) > 1:
            pairs = ~np.eye(len(raters), dtype=bool)
            self.agreement["IoU of two raters"].append(iou_matrix(raters, raters)[pairs].mean())
            self.agreement["Dice of two raters"].append(dice_matrix(raters, raters)[pairs].mean())
            distances = [metrics.squared_ged(rater[None], raters).total for rater in raters]
            self.agreement["GED of one rater against all"].append(float(np.mean(distances)))

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
