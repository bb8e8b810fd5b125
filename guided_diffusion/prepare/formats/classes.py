"""The classes of a source: its labels as masks of each class, and as they are written, with their dataset.json."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from ...data.described import agreed
from ...data.files.dataset_json import IGNORED
from ...data.surveys.classes import ClassRule, class_rule
from ...data.surveys.levels import LevelSurvey, MaskRule
from ...errors import ConfigError, DataError
from ...flags.classes import FROM_FILES, Classes, parse_classes
from ...flags.rules import one_of
from ..case_writer import FileLabel, LabelFiles
from .config import ConvertConfig
from .facts import Facts

IGNORED_VALUE = 255  # of ignored pixels, in a label that is written
MOST_VALUES = IGNORED_VALUE - 1  # of the classes


class RaterMasks(NamedTuple):
    """A rater's masks, [H, W] or of several classes [K, H, W], and the labels to write."""

    masks: Bool[np.ndarray, "*K H W"]
    labels: LabelFiles


@dataclass
class ClassLabels:
    """How the labels of a source become masks, and labels to write.

    classes  several, or one
    rule     for the levels of the labels
    ignore   level of ignored pixels; None: there are none
    within   [k, j]: class j lies within class k in all masks so far
    """

    classes: Classes
    rule: MaskRule | ClassRule
    ignore: int | None = None
    within: Bool[np.ndarray, "K K"] = field(init=False)

    def __post_init__(self) -> None:
        self.within = np.ones((self.classes.count, self.classes.count), dtype=bool)
        if len(self.values) > MOST_VALUES:
            raise ConfigError(f"--classes names {len(self.values)} levels; at most {MOST_VALUES} can be written")

    @property
    def by_level(self) -> bool:
        """Whether a label has several classes, by its levels."""
        return self.classes.several and not self.classes.from_files

    @property
    def levels(self) -> Sequence[tuple[int, ...]]:
        """The levels of each class in the source."""
        return self.rule.levels if isinstance(self.rule, ClassRule) else ()

    @property
    def values(self) -> dict[int, int]:
        """{level of the source: its value in the labels that are written}: 1, 2, ... in the order of the classes."""
        levels = dict.fromkeys(level for own in self.levels for level in own)
        return {level: k + 1 for k, level in enumerate(levels)}

    def read(self, labels: Sequence[FileLabel | Bool[np.ndarray, "H W"]]) -> RaterMasks:
        """The masks of a rater, from one label or one for each class. DataError: the labels have other levels."""
        masks = [one if isinstance(one, np.ndarray) else self.rule.mask(one.file, one.label) for one in labels]
        ignored = [self._ignored(one) for one in labels]
        if self.by_level:
            (label,) = labels
            assert isinstance(label, FileLabel) and isinstance(self.rule, ClassRule)
            return RaterMasks(masks[0], {"": self._map(label, self.rule)})
        masks = [mask & ~out for mask, out in zip(masks, ignored, strict=True)]
        names = self.classes.names if self.classes.several else ("",)
        files = {name: self._file(mask, out) for name, mask, out in zip(names, masks, ignored, strict=True)}
        if not self.classes.several:
            return RaterMasks(masks[0], files)
        stacked = np.stack(masks)
        self.within &= ~(stacked[None] & ~stacked[:, None]).any(axis=(2, 3))
        return RaterMasks(stacked, files)

    def _file(self, mask: Bool[np.ndarray, "H W"], ignored: Bool[np.ndarray, "H W"]) -> Shaped[np.ndarray, "H W"]:
        """A mask as it is written; as levels if the set has ignored pixels, because PNG of 1 bit has the level 255."""
        return mask if self.ignore is None else np.where(ignored, IGNORED_VALUE, mask).astype(np.uint8)

    def _ignored(self, label: FileLabel | Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
        if self.ignore is None or isinstance(label, np.ndarray):
            return np.zeros(label.shape, dtype=bool)
        return label.label.values == self.ignore

    def _map(self, label: FileLabel, rule: ClassRule) -> UInt8[np.ndarray, "H W"]:
        """The label with the values that are written."""
        known = sorted(rule.known)
        values = {**dict.fromkeys(known, 0), **self.values}
        if self.ignore is not None:
            values[self.ignore] = IGNORED_VALUE
        table = np.array([values[level] for level in known], dtype=np.uint8)
        return table[np.searchsorted(known, rule.known_levels(label.file, label.label))]

    def stated(self, structure: str) -> dict[str, tuple[int, ...]]:
        """`labels` of the dataset.json that is written; `structure` is the name of a single class.

        Of classes that have files of their own, each has a value, and those of later classes that lie within it.
        """
        names, values = self.classes.names, self.values
        found: dict[str, tuple[int, ...]] = {}
        if self.by_level:
            found = {name: tuple(values[level] for level in own) for name, own in zip(names, self.levels, strict=True)}
        elif self.classes.several:
            for k, name in enumerate(names):
                found[name] = (k + 1, *(j + 1 for j in range(k + 1, len(names)) if self.within[k, j]))
        else:
            found = {next(iter(names), structure): (1,)}
        return found if self.ignore is None else {**found, IGNORED: (IGNORED_VALUE,)}

    def notes(self) -> Iterator[str]:
        """A line on each class that lies within a later one, which hides it in label maps."""
        names = self.classes.names
        for j, k in zip(*np.nonzero(self.within.T & ~self.within), strict=True):
            if j < k and self.classes.from_files:
                yield (
                    f"{names[j]} always lies within {names[k]}, which hides it in a label map: name {names[k]} before "
                    f"{names[j]} in --classes to see both"
                )

    def painted(self) -> tuple[int, ...]:
        """`regions_class_order` of the dataset.json that is written; empty: the classes are no regions of levels."""
        if not self.by_level or self.classes.exclusive:
            return ()
        return tuple(self.values[own[0]] for own in self.levels)


def classes_of(config: ConvertConfig, facts: Facts) -> Classes:
    """The classes of a source: those of --classes, in files of their own or by level, or those of its dataset.json.

    DataError: the two name different ones. ConfigError: --classes needs levels that another flag changes.
    """
    if facts.structures:
        return parse_classes([f"{name}={FROM_FILES}" for name in facts.structures])
    given, other = parse_classes(config.classes), "merge_labels" if config.merge_labels else "label_threshold"
    changed = config.merge_labels or config.label_threshold is not None
    if given.names and changed:
        raise ConfigError(one_of("classes", other))
    if given.from_files:
        raise DataError(
            f"{config.src}: --classes {','.join(config.classes)}, but no masks have these names in their paths"
        )
    dataset = facts.dataset
    if dataset and len(dataset.structures) > 1 and not (config.structure or changed):
        return agreed(given, dataset)
    return given


def labels_of(levels: LevelSurvey, config: ConvertConfig, classes: Classes, structure: Sequence[float]) -> ClassLabels:
    """How the labels of a source become masks. DataError: they are not masks of these classes; one line per fault.

    structure  levels of --structure; empty: all
    """
    if classes.names and not classes.from_files:
        return ClassLabels(classes, class_rule(levels, classes), levels.ignore)
    return ClassLabels(classes, levels.rule(config.label_threshold, config.merge_labels, structure), levels.ignore)


def complete(
    place: str, raters: Mapping[str, Mapping[str, str]], structures: Sequence[str], missing: str
) -> dict[str, tuple[str, ...]]:
    """{rater: the file of each structure}, "" for an empty mask, from {rater: {structure: file}}.

    place    of the case, for messages
    missing  if a rater has no mask of a structure: "refuse", "skip" the rater, or an "empty" mask
    DataError: a rater is refused, or none is left.
    """
    found: dict[str, tuple[str, ...]] = {}
    for rater, own in raters.items():
        lacking = [name for name in structures if name not in own]
        if lacking and missing == "refuse":
            who = f"rater {rater}" if rater else "its rater"
            raise DataError(
                f"{place}: {who} has no mask of {lacking[0]}; if that means an empty mask, add --missing empty, "
                "otherwise --missing skip, which leaves the rater out"
            )
        if not lacking or missing == "empty":
            found[rater] = tuple(own.get(name, "") for name in structures)
    if not found:
        raise DataError(f"{place}: no rater has masks of all of {', '.join(structures)} (--missing skip)")
    return found


def placed(labels: Iterable[Any], files: Sequence[str]) -> list[FileLabel | None]:
    """The labels of the files that are not "", and None for the others."""
    rest = iter(labels)
    return [next(rest) if file else None for file in files]
