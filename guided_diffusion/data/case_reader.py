"""Reads cases: the image and ALL rater masks of each, by rules that hold for the whole set."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, Fault, first_lines, group_faults, split_fault
from ..flags.classes import show_classes
from ..flags.sizes import Size, as_size, show_size
from ..system.progress import progress_bar
from .case_content import CaseContent, content_of, decode_case, read_each, stack_raters
from .config import DataConfig
from .files.decoded import COLOURS, Decoded, to_unit
from .geometry import CaseArrays, Geometry, fit
from .resize import canvas
from .surveys.changes import Changes, sizes_in_words
from .surveys.channels import ImageSurvey
from .surveys.classes import ClassRule, class_rule
from .surveys.levels import LevelSurvey, MaskRule

READING_RULES = 2  # version; increase it when the same files are read differently
OF_CLASSES = {"classes": (), "ignore_label": None, "missing": "refuse"}  # with their defaults
OWN_SETTINGS = {"skip_unlabelled", *OF_CLASSES}
KEPT_BYTES = 2**29  # of decoded files kept between survey and reading


class CaseReader:
    """Reads a set of cases: first `survey`, which looks at all files, then `read` for each case.

    image_size      resize cases to this size, labels stay binary; None: keep their size
    image_channels  required number of planes, unless every case has a single one; None: any
    require_raters  a case without labels is an error (False: its raters are empty)

    levels, images  surveys of the set
    planes          number of planes of each modality of the set
    changes         what reading changed
    """

    def __init__(
        self,
        image_size: Size | None = None,
        image_channels: int | None = None,
        config: DataConfig = DataConfig(),
        require_raters: bool = True,
    ) -> None:
        self.image_size, self.image_channels = image_size, image_channels
        self.config, self.require_raters = config, require_raters
        self.levels, self.images, self.changes = LevelSurvey(config.ignore_label), ImageSurvey(), Changes()
        self.planes: Sequence[int] = (1,)
        self._rule: MaskRule | ClassRule | None = None
        self._refusal = ""  # why there is no rule
        self._unlike_others: dict[str, str] = {}  # {case: how its images differ from those of the set}
        self._kept: dict[str, CaseContent] = {}

    @property
    def settings(self) -> list[Any]:
        """The settings that affect the result of reading, as plain values."""
        names = [field.name for field in dataclasses.fields(self.config) if field.name not in OWN_SETTINGS]
        values = [self.image_size, self.require_raters, tuple(getattr(self.config, name) for name in names)]
        own = {name: getattr(self.config, name) for name in OF_CLASSES}
        as_before = own == OF_CLASSES and not self.config.structures_in_files  # "missing" decides about these
        return values if as_before else [*values, sorted(own.items())]

    @property
    def former_settings(self) -> list[Any]:
        """`settings` as version 1 of the rules had them, which decide the hash of its cases."""
        config = self.config
        threshold = 0.5 if config.label_threshold is None else config.label_threshold
        values = (threshold, config.merge_labels, config.intensity_range, config.resize, config.pad)
        return [self.image_size, self.image_channels, self.require_raters, values]

    @property
    def num_planes(self) -> int:
        """Planes of each case."""
        return sum(self.planes)

    @property
    def colour(self) -> bool:
        """Whether the first three planes are red, green and blue."""
        return self.planes[0] == COLOURS

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes as --classes gives them, with the levels that the survey found."""
        if not isinstance(self._rule, ClassRule) or self._rule.levels == self.config.class_set.levels:
            return self.config.classes
        return show_classes(dataclasses.replace(self.config.class_set, levels=self._rule.levels, plain=False))

    @property
    def has_rule(self) -> bool:
        """Whether the survey found a rule for the labels."""
        return self._rule is not None

    @property
    def departures(self) -> list[str]:
        """What version 1 of the reading rules would have read differently in the cases read, as phrases."""
        return self.changes.departures(self.levels, COLOURS in self.planes)

    # -- the set ------------------------------------------------------------------------------------------------------

    def survey(self, cases: Sequence[tuple[str, str]]) -> None:
        """Decode the files of all cases (name, folder), to find the levels of the labels and the kinds of images.

        DataError: lists all faults of the set and of its cases, one line per distinct fault.
        """
        if faults := self.faults_of(cases):
            raise DataError("\n".join(first_lines(group_faults(faults))))

    def faults_of(self, cases: Sequence[tuple[str, str]]) -> list[Fault]:
        """As `survey`, but returns the faults."""
        faults, room = [], KEPT_BYTES
        bar = progress_bar(cases, desc="reading cases", unit="case", delay=3, leave=False)
        for name, folder in bar:
            content = decode_case(folder, self.config, self.require_raters)
            self._record(name, folder, content)
            if content.faults:
                faults += [split_fault(name, folder, line) for line in content.faults]
                continue
            room -= content.nbytes
            if room >= 0:
                self._kept[folder] = content
        return [*faults, *self._faults_of_set({folder: name for name, folder in cases})]

    def keep(self, name: str, images: dict[str, Decoded]) -> None:
        """Survey a case in memory, a set of its own, with these images {file: content}; `read` takes its name.

        DataError: lists its faults.
        """
        content = self._kept[name] = content_of(images, list(images), grey=self.config.grey)
        self._record(name, name, content)
        faults = [*content.faults, *(f"{fault.place}: {fault.text}" for fault in self._faults_of_set({name: name}))]
        if faults:
            raise DataError("\n".join(faults))

    def _record(self, name: str, folder: str, content: CaseContent) -> None:
        """Add the content of a case to the surveys."""
        if not content.faults:
            self.images.add(name, folder, content.images)
        for file, decoded in content.images.items():
            self.changes.add_image(file, decoded, self.config.intensity_range is not None)
        self.changes.add_files(content.turned, content.greyed)
        for file, label in content.labels.items():
            self.levels.add(file, label)

    def _faults_of_set(self, names: Mapping[str, str]) -> list[Fault]:
        faults, self.planes = self.images.faults(), self.images.planes
        self._unlike_others = {fault.case: f"{fault.place}: {fault.text}" for fault in faults}
        channels = self.image_channels
        if not faults and channels and self.num_planes not in (1, channels):
            place = "the images" if len(names) > 1 else next(iter(names))
            faults.append(Fault("", place, _channel_fault(self.images, channels)))
        config = self.config
        try:
            if config.classes and not config.class_set.from_files:
                self._rule = class_rule(self.levels, config.class_set)
            else:
                self._rule = self.levels.rule(config.label_threshold, config.merge_labels, config.levels)
        except DataError as error:
            self._refusal = str(error)
            return faults + [Fault("", *line.split(": ", 1)) for line in str(error).splitlines()]
        for file, text in self._rule.refused.items():
            faults.append(Fault(names[os.path.dirname(file)], file, text))
        return faults

    # -- one case -----------------------------------------------------------------------------------------------------

    def read(self, folder: str) -> CaseArrays:
        """The case in `folder` at image_size: its image, with the planes of all modalities, and its raters' masks.

        Without a survey before, the case is a set of its own.
        DataError: the case is broken; one line per fault.
        """
        return self.fit(folder, self.read_own(folder))

    def read_own(self, folder: str) -> CaseArrays:
        """As `read`, at the case's own size."""
        if refusal := self._unlike_others.get(self.images.cases.get(folder, "")) or self._refusal:
            raise DataError(refusal)
        if self._rule is None:
            self.survey([(os.path.basename(folder), folder)])
            assert self._rule is not None
        rule = self._rule
        content = self._kept.pop(folder, None) or decode_case(folder, self.config, self.require_raters)
        faults = list(content.faults)
        masks = read_each(content.labels, lambda file: rule.mask(file, content.labels[file]), faults)
        if faults:
            raise DataError("\n".join(faults))
        if self.config.label_threshold:
            self.changes.add_thresholded(content.labels, masks.values())
        pairs = zip(content.images.values(), self.planes, strict=True)
        planes = [to_unit(d.planes[:count], d.full_scale, self.config.intensity_range) for d, count in pairs]
        image = np.concatenate(planes)
        size = image.shape[1], image.shape[2]
        raters, ignored = stack_raters(content, masks, self.config, size)
        file, first = next(iter(content.images.items()))
        geometry = Geometry(os.path.basename(file), size, size, size, first.orientation, first.nifti)
        return CaseArrays(image, raters, geometry, ignored)

    def fit(self, name: str, case: CaseArrays) -> CaseArrays:
        """Pad and resize a case to `image_size`, as the config allows."""
        if self.image_size is None or case.size == as_size(self.image_size):
            return case
        self.check_size(name, case.size)
        fitted, (kept, lost) = fit(case, as_size(self.image_size), self.config.pad, self.config.class_set.exclusive)
        if kept:
            self.changes.kept[name] = kept
        if lost:
            self.changes.lost[name] = lost
        return fitted

    def check_size(self, name: str, size: tuple[int, int]) -> None:
        """Record a case whose size (height, width) differs from image_size. DataError: it must not be resized."""
        if self.image_size is None or size == as_size(self.image_size):
            return
        network = as_size(self.image_size)
        fits = size[0] <= network[0] and size[1] <= network[1]
        if not self.config.resize and not (fits and self.config.pad):
            needed = canvas(size, network) if self.config.pad else size
            remedy = "or --pad True" if fits else f"or --image_size {show_size(needed)}"
            raise DataError(
                f"{name}: {size[1]}x{size[0]} pixels, but --image_size {show_size(network)} and --resize False: "
                f"use --resize True, {remedy}"
            )
        self.changes.sizes[name] = size

    def notes(self, num_cases: int) -> list[str]:
        """The changes made to the `num_cases` cases read, and what is unusual about them, one line each."""
        notes, sizes = [], self.changes.sizes.values()
        if sizes and self.image_size is not None:
            height, width = as_size(self.image_size)
            notes.append(
                f"{len(sizes)} of {num_cases} cases are {'padded' if self.config.pad else 'resized'} to "
                f"{width}x{height} (--image_size); their sizes are {sizes_in_words(sizes)}"
            )
            if any(h * width != w * height for h, w in sizes) and not self.config.pad:
                shape = "square" if height == width else "of this aspect ratio"
                notes.append(f"some of them are not {shape} and are stretched; --pad True keeps their aspect ratio")
        of_classes = isinstance(self._rule, ClassRule)
        if isinstance(self._rule, ClassRule):
            notes += self._rule.notes(self.levels, self.config.class_set)
        return [*notes, *self.changes.notes(self.levels, of_classes)]


def _channel_fault(images: ImageSurvey, image_channels: int) -> str:
    """What to do about images with another number of planes than --image_channels."""
    count = sum(images.planes)
    kind = f"{count} modalities" if max(images.planes) == 1 else f"{count} planes, in colour"
    grey = ", or --grey True" if len(images.planes) == 1 else ""
    return f"{kind}, but --image_channels {image_channels}: add --image_channels {count}, or auto{grey}"
