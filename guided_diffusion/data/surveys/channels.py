"""The images of a set of cases: modalities, matched by name, and colour."""

import collections
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import Fault
from ..files.decoded import COLOURS, Decoded

Names = tuple[str, ...]  # of the modalities of a case, sorted


def modality_of(file: str, case: str) -> str:
    """What the name of an image file says besides `image` and the name of its case; empty if nothing."""
    stem = re.sub(r"\.(nii\.gz|[^.]+)$", "", os.path.basename(file))[len("image") :]
    parts = [part for part in case.split("-") if len(part) > 2]
    for part in sorted(parts, key=len, reverse=True):
        stem = stem.replace(part, "")
    return stem.strip("_-. ")


@dataclass
class ImageSurvey:
    """The images of a set of cases.

    cases   {folder: name of the case}
    names   {folder: modalities of the case}
    colour  {modality: a file in colour}
    grey    {modality: files with a single plane}
    """

    cases: dict[str, str] = field(default_factory=dict)
    names: dict[str, Names] = field(default_factory=dict)
    colour: dict[str, str] = field(default_factory=dict)
    grey: dict[str, list[str]] = field(default_factory=lambda: collections.defaultdict(list))

    def add(self, case: str, folder: str, images: Mapping[str, Decoded]) -> None:
        """Record the images {file: content} of a case."""
        names = [modality_of(file, case) for file in images]
        self.cases[folder], self.names[folder] = case, tuple(names)
        for name, (file, decoded) in zip(self._keys(names), images.items(), strict=True):
            if decoded.in_colour:
                self.colour.setdefault(name, file)
            if len(decoded.planes) < COLOURS:
                self.grey[name].append(file)

    @staticmethod
    def _keys(names: Sequence[str]) -> Sequence[str]:
        """The modalities by which colour is recorded; the name of a case's only image may be that of the case."""
        return [""] if len(names) == 1 else names

    @property
    def single(self) -> bool:
        """Whether every case has a single image."""
        return all(len(names) == 1 for names in self.names.values())

    @property
    def modalities(self) -> Names:
        """The modalities of most cases; a single "" if every case has one image."""
        if self.single or not self.names:
            return ("",)
        counts = collections.Counter(self.names.values())
        return max(counts, key=lambda names: (counts[names], len(names)))

    @property
    def planes(self) -> list[int]:
        """The number of planes of each modality: 3 in colour, else 1."""
        return [COLOURS if name in self.colour else 1 for name in self.modalities]

    def faults(self) -> list[Fault]:
        """A Fault for each case whose modalities differ from those of most, and for grey files among colour ones."""
        faults = []
        expected = set(self.modalities)
        for folder, names in self.names.items():
            if not self.single and names != self.modalities:
                faults.append(Fault(self.cases[folder], folder, _difference(expected, set(names))))
        for name, file in self.colour.items():
            fault = f"a grey image, but {file} is in colour; use one kind, or --grey True"
            faults += [Fault(self.cases[os.path.dirname(grey)], grey, fault) for grey in self.grey.get(name, ())]
        return faults


def _difference(expected: set[str], names: set[str]) -> str:
    """How the modalities of a case differ from those of most cases."""
    missing, more = (sorted(part) for part in (expected - names, names - expected))
    parts = []
    for title, found in (("no", missing), ("an unexpected", more)):
        if found:
            parts.append(f"{title} {', '.join(f'image_{name}' if name else 'image' for name in found)}")
    fault = " and ".join(parts) or "repeated modalities"
    return f"{fault}; the images of most cases are {', '.join(sorted(expected))}: give all cases the same modalities"
