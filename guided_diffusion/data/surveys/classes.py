"""The rule that turns the labels of a set into masks of several classes."""

import collections
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Shaped

from ...errors import DataError
from ...flags.classes import Classes
from ..files.label import Label
from .levels import LevelSurvey, may_be_classes

NEAREST = 24  # of 255: how far a cluster of a JPEG lies from its level at most; levels are twice as far apart
MIXED = (
    "levels between those of the classes, along outlines, as in an interpolated label; use the label before that, or "
    "interpolate it by the nearest pixel"
)
NAMED = "give the level of each, as in --classes {}, and those of pixels that do not count with --ignore_label"


@dataclass(frozen=True)
class ClassRule:
    """A class is where a label has one of its levels or, in a lossy label, where one of them is the nearest.

    levels      of each class
    background  its level
    known       all levels, with those of background and of ignored pixels
    """

    levels: tuple[tuple[int, ...], ...]
    background: int
    known: tuple[int, ...]
    refused: Mapping[str, str] = field(default_factory=dict)  # {file: why it has no such classes}

    def mask(self, file: str, label: Label) -> Bool[np.ndarray, "*K H W"]:
        """The masks of the classes of the label in a file, [H, W] for one class. DataError: it has other levels."""
        values = self.known_levels(file, label)
        masks = [np.isin(values, levels) for levels in self.levels]
        return np.stack(masks) if len(masks) > 1 else masks[0]

    def known_levels(self, file: str, label: Label) -> Shaped[np.ndarray, "H W"]:
        """The levels of the label in a file, each of them one of `known`. DataError: it has others."""
        if file in self.refused:
            raise DataError(f"{file}: {self.refused[file]}")
        values = label.values
        if label.lossy and label.full_scale:
            known = np.array(self.known)
            return known[np.abs(values[..., None] * (255 / label.full_scale) - known).argmin(axis=-1)]
        if (strange := ~np.isin(values, self.known)).any():
            raise DataError(f"{file}: has the level {values[strange][0]:g}, which is not among {_listed(self.known)}")
        return values

    def notes(self, survey: LevelSurvey, classes: Classes) -> Iterator[str]:
        """What is unusual about the labels, one line each."""
        if self.levels != classes.levels:
            shown = _listed([survey.show(level) for (level,) in self.levels])
            yield f"the levels {shown} of the labels are read as {', '.join(classes.names)} (--classes)"
        if self.background and survey.files:
            yield f"the level {survey.show(self.background)} of the labels is read as background"
        if survey.soft:
            file, seen = next(iter(survey.soft.items()))
            yield (
                f"warning: {len(survey.soft)} labels have levels that lie only along the outlines of others, as in an "
                f"interpolated label, e.g. {_listed([survey.show(level) for level in seen])} in {file}: check that "
                "each is a class"
            )


def class_rule(survey: LevelSurvey, classes: Classes, background: int | None = None) -> ClassRule:
    """The rule for the labels of a set with these classes. DataError: they have other levels; one line per fault.

    background  its level; None: 0 or, if that is not found or is that of a class, the only other one, if it is the most
                frequent
    """
    refused = {
        file: MIXED if file in survey.soft else text
        for file, text in survey.refusals(classes=True).items()
        if file not in survey.clusters
    }
    found = set(survey.levels).union(*(levels for levels in survey.soft.values() if may_be_classes(levels)))
    survey.refuse_ignored_jpeg()
    levels = classes.levels
    if classes.plain and survey.lossy:
        levels = _lossy_levels(survey, classes, found)
    elif classes.plain and not found <= {0, *(level for own in levels for level in own)}:
        levels = _ascending(survey, classes, sorted(found))
    for name, of_class in zip(classes.names, levels, strict=True):
        if survey.ignore in of_class:
            raise DataError(f"--ignore_label {survey.ignore}: also a level of the class {name}; use another level")
    if survey.lossy:
        seen = {0, *found, *itertools.chain.from_iterable(levels)}
        found |= {value for value in _centres(survey, found) if not _near(value, seen)}
    own = {level for one in levels for level in one}
    background = _background(survey, own, found) if background is None else background
    if strange := sorted(found - own - {background}):
        raise DataError(_beyond(survey, classes, own, strange))
    every = own | ({background} if survey.ignore is None else {background, survey.ignore})
    known = tuple(sorted(every))
    if survey.lossy:
        refused |= _far_from(survey, known)
    return ClassRule(levels, background, known, refused)


def _ascending(survey: LevelSurvey, classes: Classes, found: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """The K levels above the background's, in ascending order. DataError: there are others."""
    whole = all(level % 1 == 0 for level in found)
    if len(found) != classes.count + 1 or not whole or _most_frequent(survey) != found[0]:  # REFUGE's cup is 0
        raise DataError(
            f"{_example(survey)}: the labels have the levels {survey.counts()}, and --classes "
            f"{','.join(classes.names)} stands for the levels 1 to {classes.count}: {NAMED.format(_form(classes))}"
        )
    return tuple((int(level),) for level in found[1:])


def _lossy_levels(survey: LevelSurvey, classes: Classes, found: set[float]) -> tuple[tuple[int, ...], ...]:
    """As `_ascending`, from the clusters of lossy labels. DataError: there are not K + 1 of them."""
    centres = _centres(survey, found)
    if len(centres) != classes.count + 1 or _most_frequent(survey) != centres[0]:
        raise DataError(
            f"{survey.lossy[0]}: the JPEG labels have values near {_listed(centres)}, which are not those of a "
            f"background, which is the most frequent, and {classes.kind}: {NAMED.format(_form(classes))}, or save them "
            "as PNG"
        )
    return tuple((value,) for value in centres[1:])


def _centres(survey: LevelSurvey, found: set[float]) -> list[int]:
    """The clusters of lossy labels and the levels of others, without those near a lower one."""
    centres: list[int] = []
    for value in sorted({*map(int, found), *itertools.chain.from_iterable(survey.clusters.values())}):
        if not centres or value - centres[-1] > NEAREST:
            centres.append(value)
    return centres


def _most_frequent(survey: LevelSurvey) -> float | None:
    """The level of most pixels; None: there are no labels."""
    counts = collections.Counter(survey.pixels)
    centres = _centres(survey, set(survey.levels))
    for clusters in survey.clusters.values():
        for value, count in clusters.items():
            counts[max(centre for centre in centres if centre <= value)] += count
    return max(counts, key=counts.__getitem__, default=None)


def _background(survey: LevelSurvey, own: set[int], found: set[float]) -> int:
    """The level of the background, where the classes have the levels `own`. DataError: it is not clear."""
    rest = sorted(found - own)
    if not rest:
        return 0 if 0 not in own else max(own) + 1  # which no label has
    if 0 not in own and 0 in found:
        return 0
    if len(rest) == 1 and rest[0] % 1 == 0 and _most_frequent(survey) in (rest[0], None):
        return int(rest[0])
    if 0 not in own:
        return 0
    if len(rest) > 1:
        return max(own | {int(level) for level in rest}) + 1  # which no label has
    raise DataError(
        f"{_example(survey)}: the level of the background is not clear: 0 is that of a class, and the labels have the "
        f"levels {survey.counts()}; it must be the only other level, and the most frequent"
    )


def _beyond(survey: LevelSurvey, classes: Classes, own: set[int], strange: Sequence[float]) -> str:
    """The fault of levels beyond those of the classes."""
    shown = _listed([survey.show(level) for level in strange[:5]])
    return (
        f"{survey.examples.get(strange[0], _example(survey))}: the labels have the level {shown} beyond those of "
        f"{classes.kind}, which are {_listed(sorted(own))}: name it with --classes, or leave its pixels out with "
        "--ignore_label"
    )


def _far_from(survey: LevelSurvey, known: Sequence[int]) -> dict[str, str]:
    """{lossy file: why its values are not those of the known levels}. DataError: the levels are too close."""
    if (np.diff(known) < 2 * NEAREST).any():
        raise DataError(
            f"{survey.lossy[0]}: the compression of JPEG mixes the levels {_listed(known)}; save the labels as PNG"
        )
    far = {file: [value for value in clusters if not _near(value, known)] for file, clusters in survey.clusters.items()}
    return {
        file: f"a JPEG with values near {values[0]}, which is not near one of {_listed(known)}; save it as PNG"
        for file, values in far.items()
        if values
    }


def _near(value: float, levels: Iterable[float]) -> bool:
    """Whether a cluster of a JPEG may be one of the levels."""
    return any(abs(value - level) <= NEAREST for level in levels)


def _example(survey: LevelSurvey) -> str:
    return next(iter(survey.many or survey.soft or survey.examples.values() or survey.lossy), "labels")


def _form(classes: Classes) -> str:
    return ",".join(f"{name}=LEVEL" for name in classes.names)


def _listed(values: Sequence[object] | Shaped[np.ndarray, "n"]) -> str:
    return ", ".join(map(str, values))
