"""Writing cases in the layout that the loader reads, split by patient, with a manifest."""

import csv
import io
import os
import re
import shutil
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ..errors import DataError
from ..system import storage
from .splits import write_split

STAGE = ".unsplit"  # a folder of OUT for cases whose split is not drawn yet
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
COLUMNS = (
    "case",
    "split",
    "patient",
    "series",
    "slice",
    "z",
    "sop_uid",
    "nodule",
    "height",
    "width",
    "raters",
    "areas",
)


@dataclass(frozen=True)
class RawCase:
    """One image with its raters' masks, on the way from a foreign format."""

    id: str
    planes: dict[
        str, np.ndarray
    ]  # {modality: [H, W]}, uint8 or uint16, or floats in [0, 1]; one grey image is named ""
    raters: np.ndarray  # [R, H, W] bool
    patient: str  # cases of one patient are never split
    split: str | None = None  # of SPLITS, where the source has one; None: to be drawn
    told: dict[str, object] = field(
        default_factory=dict
    )  # more columns of the manifest: series, slice, z (mm), sop_uid, nodule


def safe_name(name, source):
    """`name`, if it can be a file's name. DataError: it could lead out of the folder; the source is named."""
    if not SAFE_NAME.fullmatch(name) or len(name) > 150:
        raise DataError(f"{source}: the name {name[:80]!r} cannot be a file's; letters, digits, _, - and . are wanted")
    return name


class CaseFolder:
    """Writes cases into OUT/SPLIT/CASE, each appearing when it is whole, and OUT/manifest.csv and OUT/split.json at the end.

    source   what the cases are made from, in words, for messages
    written  names of the cases that it wrote
    """

    def __init__(self, out, source):
        self.out, self.source, self.written = out, source, set()
        storage.make_folder(out)

    def write(self, case, split):
        """Write a RawCase into a split; returns its row of the manifest. DataError: it cannot be a case."""
        name = safe_name(case.id, self.source)
        sizes = {plane.shape for plane in case.planes.values()} | {mask.shape for mask in case.raters}
        if len(sizes) != 1 or len(next(iter(sizes))) != 2 or 0 in next(iter(sizes)):
            raise DataError(
                f"{self.source}: {name} has planes and masks of the shapes {sorted(sizes)}; one of two dimensions is wanted"
            )
        folder = os.path.join(self.out, split, name)
        aside = os.path.join(self.out, f".{name}.writing")
        shutil.rmtree(aside, ignore_errors=True)
        os.makedirs(aside)
        for k, (modality, plane) in enumerate(case.planes.items()):
            title = f"image_{name}" if len(case.planes) == 1 else f"image{k}_{safe_name(modality, self.source)}"
            to_picture(plane).save(os.path.join(aside, f"{title}.png"))
        for k, mask in enumerate(case.raters):
            Image.fromarray(np.asarray(mask, dtype=bool)).save(os.path.join(aside, f"label{k}_.png"))
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
        self.written.add(name)
        height, width = next(iter(sizes))
        areas = " ".join(str(int(mask.sum())) for mask in case.raters)
        return {
            "case": name,
            "split": split,
            "patient": case.patient,
            **case.told,
            "height": height,
            "width": width,
            "raters": len(case.raters),
            "areas": areas,
        }

    def move(self, row, split):
        """Put a written case into another split; returns its row of the manifest."""
        if row["split"] != split:
            source, folder = (os.path.join(self.out, name, row["case"]) for name in (row["split"], split))
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(source, folder)
        return {**row, "split": split}

    def finish(self, rows, split, seed):
        """Write the manifest of all rows, and split.json: {patient: split}, and the seed that it was drawn with."""
        shutil.rmtree(os.path.join(self.out, STAGE), ignore_errors=True)
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["case"]))
        storage.write_atomically(os.path.join(self.out, "manifest.csv"), lambda f: f.write(file.getvalue().encode()))
        write_split(self.out, split, seed)


def to_picture(plane):
    """A plane as an 8-bit or 16-bit grey picture; floats in [0, 1] as 16-bit."""
    if plane.dtype == np.uint8:
        return Image.fromarray(plane)
    if plane.dtype != np.uint16:
        plane = np.round(np.clip(plane, 0, 1) * 65535).astype(np.uint16)
    return Image.fromarray(plane)
