"""Writes cases in the layout of the loader, split by patient, with a manifest."""

import csv
import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from ..data.files.decoded import COLOURS, Decoded
from ..data.names import BY_NAMES, PatientRule, normal, patients_warning
from ..data.surveys.levels import Label
from ..errors import DataError
from ..masks.class_pictures import colours_of
from ..system import storage
from .case_names import longest_name, printable, safe_name, with_hash
from .splits import write_split

STAGE = ".unsplit"  # subfolder of OUT for cases that are not assigned to a split yet
ROUNDING = 1e-6  # beyond [0, 1], of floats
IGNORED_COLOUR = (
    224,
    224,
    224,
)  # of a label's level 255; brighter than all classes, so that the order is that of levels

LabelFiles = Mapping[str, np.ndarray]  # a rater's label of each structure; of "" if all are in one


@dataclass(frozen=True)
class Origin:
    """The origin of a case in its source, as far as it is known."""

    series: str | None = None
    slice: int | str | None = None
    z: float | None = None  # mm
    sop_uid: str | None = None
    nodule: str | None = None


class FileImage(NamedTuple):
    """An image as its file stores it."""

    file: str  # its path, and the page if there are several
    decoded: Decoded

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.decoded.planes.shape[1:]


class FileLabel(NamedTuple):
    """A rater's label as its file stores it, which becomes a mask by the rule for all labels of the source.

    whole  the label of the whole file, if this is a slice of a volume
    """

    file: str
    label: Label
    whole: Label | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.label.values.shape


@dataclass(frozen=True)
class RawCase:
    """An image with the masks of its raters, converted from another format.

    planes   {modality: image}; the modality is "" if there is one. An array is grey, [H, W], or in colour, [3, H, W]:
             uint8, uint16, or floats in [0, 1]
    raters   masks [H, W] bool, or labels, which become masks by the rule for all labels of the source; of several
             structures with labels of their own, those of each rater in turn, None for an empty mask
    patient  all cases of a patient go to one split; None: by `within`
    split    one of SPLITS, if the source defines it; None: assigned at random
    turned   files brought to the orientation of the image
    within   names of its folders in the source, and its own name last, for the rule of patients; empty: its id alone
    """

    id: str
    planes: Mapping[str, np.ndarray | FileImage]
    raters: Sequence[np.ndarray] | Sequence[FileLabel] | Sequence[FileLabel | None] | np.ndarray
    patient: str | None = None
    split: str | None = None
    origin: Origin = Origin()
    turned: Sequence[str] = ()
    within: Sequence[str] = ()


@dataclass(frozen=True)
class ManifestRow:
    """A row of manifest.csv; None is an empty cell."""

    case: str
    split: str
    patient: str
    series: str | None
    slice: int | str | None
    z: float | None
    sop_uid: str | None
    nodule: str | None
    height: int
    width: int
    raters: int
    areas: str  # foreground pixels of each rater's mask; of several classes, joined by +
    original: str | None = None  # the name of the case in its source, if the file system cannot store it


class CaseFolder:
    """Writes cases to OUT/SPLIT/CASE, each atomically, and finally OUT/manifest.csv and OUT/split.json.

    source   description of the source, for messages
    rule     finds the patients of cases; if it is given by a flag, also of those whose patient the source names
    written  names of the cases written so far
    """

    def __init__(self, out: str, source: str, rule: PatientRule = BY_NAMES) -> None:
        self.out, self.source, self.rule = out, source, rule
        self.written: set[str] = set()
        storage.make_folder(out)
        self._longest = longest_name(out)
        self._places: dict[str, Sequence[str]] = {}  # {case: its folder names in the source}
        self._known: dict[str, str | None] = {}  # {case: its patient, if it is known}

    def name_of(self, case_id: str) -> str:
        """The name under which a case is written. DataError: it leads out of the folder."""
        return safe_name(case_id, self.source, self._longest)

    def write(self, case: RawCase, split: str) -> ManifestRow:
        """Write a case of arrays to a split; returns its row of the manifest. DataError: invalid names or arrays."""
        name = self.name_of(case.id)
        if name in self.written:
            raise DataError(f"{self.source}: two cases are named {name}; rename one")
        if os.path.lexists(os.path.join(self.out, split, name)) and name.casefold() in map(str.casefold, self.written):
            name = with_hash(name, name, self._longest)  # the file system does not distinguish upper and lower case
        height, width = self.size_of(case)
        folder = os.path.join(self.out, split, name)
        aside = os.path.join(self.out, f".{name}.writing")
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside)
        try:
            for k, (modality, plane) in enumerate(case.planes.items()):
                title = f"image_{name}" if len(case.planes) == 1 else f"image{k}_{self.name_of(modality)}"
                write_picture(os.path.join(aside, f"{title}.png"), np.asarray(plane))
            masks = _checked(case.raters)
            write_labels(aside, [{"": mask} for mask in masks])
        except DataError as error:
            shutil.rmtree(aside)
            raise DataError(f"{self.source}: {printable(case.id)}: {error}") from error
        _replace_folder(aside, folder)
        self.written.add(name)
        return ManifestRow(
            case=name,
            split=split,
            patient=self._patient(case, name),
            **asdict(case.origin),
            height=height,
            width=width,
            raters=len(case.raters),
            areas=areas_of(masks),
            original=None if name == normal(case.id) else printable(case.id),
        )

    def _patient(self, case: RawCase, name: str) -> str:
        """The patient of a case that is written as `name`; the name itself, if the patient is unknown."""
        within = self._places[name] = case.within or (case.id,)
        by_rule = self.rule.patient(within) if self.rule.is_given or case.patient is None else None
        self._known[name] = by_rule or case.patient
        return printable(by_rule or case.patient or name)

    def check_patients(self, rows: Sequence[ManifestRow]) -> list[str]:
        """Check the rule of patients with written cases; returns notes. DataError: it does not fit them."""
        notes = [f"note: {note}" for note in self.rule.check(self._places[row.case] for row in rows)]
        warning = None if self.rule.is_given else patients_warning((row.case, self._known[row.case]) for row in rows)
        return [*notes, warning] if warning else notes

    def add_labels(self, row: ManifestRow, labels: Sequence[LabelFiles], areas: str) -> ManifestRow:
        """Write the labels of the raters of a case that was written without; returns its row of the manifest."""
        write_labels(os.path.join(self.out, row.split, row.case), labels)
        return replace(row, raters=len(labels), areas=areas)

    def size_of(self, case: RawCase) -> tuple[int, int]:
        """The common height and width of all images and masks of a case. DataError: they differ."""
        shapes = [image.shape for image in case.planes.values()]
        shapes = [shape[1:] if len(shape) == 3 and shape[0] == COLOURS else shape for shape in shapes]
        different = {*shapes, *(mask.shape for mask in case.raters if mask is not None)}
        shape = next(iter(different), ())
        if len(different) != 1 or len(shape) != 2 or 0 in shape:
            raise DataError(
                f"{self.source}: {case.id} has planes and masks of the shapes {sorted(different)}; "
                "all must have the same two-dimensional shape"
            )
        return shape[0], shape[1]

    def notes(self, rows: Iterable[ManifestRow]) -> list[str]:
        """A line about cases with other names than in the source, if there are any."""
        changed = [row for row in rows if row.original is not None]
        if not changed:
            return []
        first = changed[0]
        return [
            f"note: names of cases that some file systems cannot store: {len(changed)}, e.g. {first.original}, written "
            f"as {first.case}; manifest.csv has them in the column original"
        ]

    def remove(self, row: ManifestRow) -> None:
        """Remove a written case."""
        shutil.rmtree(os.path.join(self.out, row.split, row.case))

    def move(self, row: ManifestRow, split: str) -> ManifestRow:
        """Move a written case to another split; returns its row of the manifest."""
        if row.split != split:
            _replace_folder(os.path.join(self.out, row.split, row.case), os.path.join(self.out, split, row.case))
        return replace(row, split=split)

    def finish(self, rows: Iterable[ManifestRow], split: Mapping[str, str], seed: int) -> None:
        """Write manifest.csv with all rows, and split.json with {patient: split} and the seed of the split."""
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, [field.name for field in fields(ManifestRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.case))
        storage.write_text(os.path.join(self.out, "manifest.csv"), file.getvalue())
        write_split(self.out, split, seed)

    def tidy(self) -> None:
        """Remove the cases that are not assigned to a split, and OUT if it is empty."""
        shutil.rmtree(os.path.join(self.out, STAGE), ignore_errors=True)
        if not os.listdir(self.out):
            os.rmdir(self.out)


def _replace_folder(source: str, target: str) -> None:
    """Rename a folder, replacing an existing one."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)


def _checked(masks: Sequence[np.ndarray] | Sequence[FileLabel | None] | np.ndarray) -> list[np.ndarray]:
    """The masks [H, W] bool of all raters. DataError: they are not masks."""
    for k, mask in enumerate(masks):
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            raise DataError(f"mask {k} is not an array of bool")
    return [mask for mask in masks if isinstance(mask, np.ndarray)]


def areas_of(masks: Iterable[Bool[np.ndarray, "*K H W"]]) -> str:
    """The pixels of each rater's mask, in words of the manifest: "517 373", or "517+249 373+0" of two classes."""
    return " ".join("+".join(map(str, np.atleast_1d(mask.sum(axis=(-2, -1))))) for mask in masks)


def write_labels(folder: str, raters: Sequence[LabelFiles]) -> None:
    """Write the labels of all raters, label0_.png or label0_STRUCTURE.png: masks, or levels [H, W] uint8."""
    for k, labels in enumerate(raters):
        for structure, label in labels.items():
            picture = Image.fromarray(label)
            if label.dtype != bool:
                colours = [(0, 0, 0), *colours_of(254), IGNORED_COLOUR]
                picture.putpalette(np.ravel(colours).tolist())
            picture.save(os.path.join(folder, f"label{k}_{structure}.png"))


def write_picture(path: str, plane: Shaped[np.ndarray, "H W"] | Shaped[np.ndarray, "3 H W"]) -> None:
    """Write an image as PNG, grey [H, W] or in colour [3, H, W], with 8 or 16 bits; floats in [0, 1] become 16-bit.

    DataError: other values, or colour with 16 bits without imagecodecs.
    """
    if plane.dtype.kind == "f":
        if not (plane.min() >= -ROUNDING and plane.max() <= 1 + ROUNDING):
            raise DataError(f"floats from {plane.min():g} to {plane.max():g}; images must be in [0, 1]")
        plane = np.round(np.clip(plane, 0, 1) * 65535).astype(np.uint16)
    if plane.dtype not in (np.uint8, np.uint16):
        raise DataError(f"an image of type {plane.dtype}; uint8, uint16, or floats in [0, 1] are required")
    pixels = plane if plane.ndim == 2 else np.ascontiguousarray(plane.transpose(1, 2, 0))
    if pixels.ndim == 2 or pixels.dtype == np.uint8:
        Image.fromarray(pixels).save(path)
        return
    try:
        import imagecodecs
    except ImportError:
        raise DataError(
            '16-bit colour needs imagecodecs; pip install "ambiguous-segmentation-diffusion[medical]"'
        ) from None
    with open(path, "wb") as file:
        file.write(imagecodecs.png_encode(pixels))
