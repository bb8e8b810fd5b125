"""Writes cases in the layout of the loader, split by patient, with a manifest."""

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from PIL import Image

from ..errors import DataError
from ..system import storage
from .splits import write_split

STAGE = ".unsplit"  # subfolder of OUT for cases that are not assigned to a split yet
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class Origin:
    """The origin of a case in its source, as far as it is known."""

    series: str | None = None
    slice: int | str | None = None
    z: float | None = None  # mm
    sop_uid: str | None = None
    nodule: str | None = None


@dataclass(frozen=True)
class RawCase:
    """An image with its rater masks, converted from another format."""

    id: str
    planes: Mapping[str, np.ndarray]  # {modality: [H, W]}, uint8, uint16, or floats in [0, 1]; "" if single
    raters: Sequence[np.ndarray] | np.ndarray  # [R, H, W] bool
    patient: str  # all cases of a patient go to one split
    split: str | None = None  # of SPLITS, if the source defines it; None: assigned at random
    origin: Origin = Origin()


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
    areas: str  # foreground pixels of each rater's mask


def safe_name(name: str, source: str) -> str:
    """`name`, if it is a safe file name. DataError: it is not, e.g. because it leads out of the folder."""
    if not SAFE_NAME.fullmatch(name) or len(name) > 150:
        raise DataError(f"{source}: {name[:80]!r} is not a valid file name; use letters, digits, _, - and .")
    return name


class CaseFolder:
    """Writes cases to OUT/SPLIT/CASE, each atomically, and finally OUT/manifest.csv and OUT/split.json.

    source   description of the source, for messages
    written  names of the cases written so far
    """

    def __init__(self, out: str, source: str) -> None:
        self.out, self.source = out, source
        self.written: set[str] = set()
        storage.make_folder(out)

    def write(self, case: RawCase, split: str) -> ManifestRow:
        """Write a case to a split; returns its row of the manifest. DataError: invalid names or shapes."""
        name = safe_name(case.id, self.source)
        height, width = self._size(case)
        folder = os.path.join(self.out, split, name)
        aside = os.path.join(self.out, f".{name}.writing")
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside)
        for k, (modality, plane) in enumerate(case.planes.items()):
            title = f"image_{name}" if len(case.planes) == 1 else f"image{k}_{safe_name(modality, self.source)}"
            to_picture(plane).save(os.path.join(aside, f"{title}.png"))
        for k, mask in enumerate(case.raters):
            Image.fromarray(np.asarray(mask, dtype=bool)).save(os.path.join(aside, f"label{k}_.png"))
        _replace_folder(aside, folder)
        self.written.add(name)
        return ManifestRow(
            case=name,
            split=split,
            patient=case.patient,
            **asdict(case.origin),
            height=height,
            width=width,
            raters=len(case.raters),
            areas=" ".join(str(int(mask.sum())) for mask in case.raters),
        )

    def _size(self, case: RawCase) -> tuple[int, int]:
        """The common height and width of all planes and masks of a case."""
        shapes = {plane.shape for plane in case.planes.values()} | {mask.shape for mask in case.raters}
        shape = next(iter(shapes), ())
        if len(shapes) != 1 or len(shape) != 2 or 0 in shape:
            raise DataError(
                f"{self.source}: {case.id} has planes and masks of the shapes {sorted(shapes)}; "
                "all must have the same two-dimensional shape"
            )
        return shape[0], shape[1]

    def move(self, row: ManifestRow, split: str) -> ManifestRow:
        """Move a written case to another split; returns its row of the manifest."""
        if row.split != split:
            _replace_folder(os.path.join(self.out, row.split, row.case), os.path.join(self.out, split, row.case))
        return replace(row, split=split)

    def finish(self, rows: Iterable[ManifestRow], split: Mapping[str, str], seed: int) -> None:
        """Write manifest.csv with all rows, and split.json with {patient: split} and the seed of the split."""
        shutil.rmtree(os.path.join(self.out, STAGE), ignore_errors=True)
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, [field.name for field in fields(ManifestRow)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.case))
        storage.write_text(os.path.join(self.out, "manifest.csv"), file.getvalue())
        write_split(self.out, split, seed)


def _replace_folder(source: str, target: str) -> None:
    """Rename a folder, replacing an existing one."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)


def to_picture(plane: np.ndarray) -> Image.Image:
    """A plane as an 8-bit or 16-bit grey picture; floats in [0, 1] become 16-bit."""
    if plane.dtype == np.uint8:
        return Image.fromarray(plane)
    if plane.dtype != np.uint16:
        plane = np.round(np.clip(plane, 0, 1) * 65535).astype(np.uint16)
    return Image.fromarray(plane)
