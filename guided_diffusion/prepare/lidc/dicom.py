"""Finds CT series in a DICOM download, and reads their slices, one per z position, in Hounsfield units."""

import os
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ...errors import DataError
from ...system.storage import walk
from .readings import MOST_SIDE, Outline

SAME_HEIGHT = 0.01  # mm; slices closer than this have the same z position
DEFLATED = "1.2.840.10008.1.2.1.99"  # the transfer syntax that compresses the whole data set, including the header
OTHER_FILES = (".xml", ".csv", ".txt", ".json")
TAGS = [
    "SOPInstanceUID",
    "PatientID",
    "ImagePositionPatient",
    "SliceLocation",
    "PixelSpacing",
    "Rows",
    "Columns",
    "RescaleSlope",
    "RescaleIntercept",
]


@dataclass
class Series:
    """The slices of a CT series, sorted by ascending z, one per z position."""

    uid: str
    patient_id: str  # of the DICOM files, not to be shown; empty: unknown
    spacing: tuple[float, float]  # mm between rows, between columns
    shape: tuple[int, int]  # rows, columns
    files: list[str]
    z: list[float]  # mm, of ImagePositionPatient
    sop_uids: list[str]
    notes: list[str] = field(default_factory=list)
    locations: list[float] = field(default_factory=list)  # mm, SliceLocation; nan if missing
    dropped: dict[str, int] = field(default_factory=dict)  # {UID of a duplicate slice: index of the slice kept instead}

    def heights_for(self, outlines: Iterable[Outline]) -> tuple[list[float], bool]:
        """The z positions for finding outlines with unknown UIDs, and whether they are those of SliceLocation.

        In some scans the signs of SliceLocation and ImagePositionPatient differ, and the readers' z values follow
        either of them.
        """
        unknown = [outline for outline in outlines if self._by_uid(outline) is None]
        found = [
            sum(_nearest(heights, outline.z) is not None for outline in unknown) for heights in (self.z, self.locations)
        ]
        return (self.locations, True) if found[1] > found[0] else (self.z, False)

    def slice_of(self, outline: Outline, heights: Sequence[float] | None = None) -> int | None:
        """The index of the slice of an outline, by its UID or otherwise by its z; None if there is no such slice.

        heights  z positions of the slices; None: `z`
        """
        by_uid = self._by_uid(outline)
        if by_uid is not None:
            return by_uid
        return _nearest(self.z if heights is None else heights, outline.z)

    def _by_uid(self, outline: Outline) -> int | None:
        if outline.sop_uid in self.sop_uids:
            return self.sop_uids.index(outline.sop_uid)
        return self.dropped.get(outline.sop_uid)

    def hounsfield(self, index: int) -> np.ndarray:
        """Slice number `index` in Hounsfield units, [H, W] float32. DataError: its pixels cannot be read."""
        path = self.files[index]
        try:
            data = read_dicom(path)
            slope, intercept = _number(data, "RescaleSlope", 1), _number(data, "RescaleIntercept", 0)
            claimed = (int(data.Rows), int(data.Columns), int(data.get("NumberOfFrames") or 1))
            pixels = data.pixel_array if claimed == (*self.shape, 1) else None
        except DataError:
            raise
        except Exception as error:  # on damaged files, pydicom raises any type of exception
            raise DataError(
                f"{path}: its pixels cannot be read ({' '.join(str(error).split())}); download it again"
            ) from error
        if pixels is None or pixels.shape != self.shape:
            raise DataError(
                f"{path}: {claimed[1]}x{claimed[0]} pixels in {claimed[2]} frames, "
                f"but its series has {self.shape[1]}x{self.shape[0]} in 1 frame; download it again"
            )
        return pixels.astype(np.float32) * slope + intercept


def _number(data: Any, tag: str, default: float) -> float:
    """The value of a tag, or `default` if it is missing or empty."""
    value = data.get(tag)
    return float(default if value in (None, "") else value)


def _nearest(heights: Sequence[float], z: float) -> int | None:
    """The index of the height that equals z, in mm, up to SAME_HEIGHT; None if there is no such height."""
    distance = abs(np.array(heights) - z)
    if not np.isfinite(distance).any():
        return None
    nearest = int(np.nanargmin(distance))
    return nearest if distance[nearest] < SAME_HEIGHT else None


# -- files ------------------------------------------------------------------------------------------------------------


def read_dicom(path: str, **more: Any) -> Any:
    """The pydicom dataset of a file. DataError: it is deflated, so its uncompressed size cannot be limited."""
    import pydicom

    if pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED:
        raise DataError(
            f"{path}: deflated DICOM is refused, because its uncompressed size is unknown; convert it to uncompressed"
        )
    return pydicom.dcmread(path, **more)


class Finding(NamedTuple):
    """The kind of a file: a slice of a CT series, a file with a fault, or any other file."""

    series_uid: str | None = None
    fault: str | None = None


def series_of(path: str) -> Finding:
    """The CT series to which a file belongs, if any."""
    try:
        data = read_dicom(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Modality"])
    except DataError as error:
        return Finding(fault=str(error))
    except OSError as error:  # a broken link, or no permission
        return Finding(fault=f"{path}: cannot be read ({error.strerror or error})")
    except Exception:  # not DICOM
        return Finding()
    uid = str(data.get("SeriesInstanceUID", ""))
    is_slice = data.get("Modality", "CT") == "CT" and re.fullmatch(r"[0-9.]{1,64}", uid)
    return Finding(uid if is_slice else None)


def find_series(
    folder: str | os.PathLike[str],
    over: Callable[[Callable[[str], Finding], Sequence[str]], Iterable[Finding]] = map,
    faults: list[str] | None = None,
) -> dict[str, list[str]]:
    """{series UID: [files]} of all CT DICOM files below `folder`; other files are skipped.

    over    replacement for `map`, e.g. one that uses several processes
    faults  list to which a message for each refused file is appended
    """
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise DataError('DICOM needs pydicom; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    everything = [os.path.join(base, name) for base, _, files in walk(folder) for name in files]
    paths = [path for path in everything if not path.lower().endswith(OTHER_FILES)]
    found: dict[str, list[str]] = {}
    for path, (uid, fault) in zip(paths, over(series_of, paths), strict=True):
        if uid:
            found.setdefault(uid, []).append(path)
        elif fault and faults is not None:
            faults.append(fault)
    return found


# -- series -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Slice:
    z: float
    sop_uid: str
    path: str
    header: Any  # pydicom's dataset
    location: float


def read_series(uid: str, files: Sequence[str], drawn: Collection[str] = frozenset()) -> Series:
    """The `Series` of a list of files, in any order.

    Of files with the same UID, the first is used. Of slices at the same z position, one on which readers drew is used,
    otherwise the one with the lowest UID, and outlines on the others are moved to it. DataError: the series is
    unusable.

    drawn  UIDs of the slices on which readers drew
    """
    try:
        return _read_series(uid, files, drawn)
    except DataError:
        raise
    except Exception as error:  # tags that are empty or not numbers
        raise DataError(
            f"{files[0]}: the headers of series {uid} cannot be read ({type(error).__name__}: {error}); "
            "download it again"
        ) from error


def _read_series(uid: str, files: Sequence[str], drawn: Collection[str]) -> Series:
    notes: list[str] = []
    slices: dict[str, _Slice] = {}
    for path in files:
        one = _read_slice(uid, path, notes)
        slices.setdefault(one.sop_uid, one)
    if len(slices) < len(files):
        notes.append(f"{len(files) - len(slices)} duplicate files are ignored")
    kept, dropped = _each_height_once(slices.values(), drawn, notes)
    first = kept[0].header
    spacing, shape = tuple(float(mm) for mm in first.PixelSpacing), (int(first.Rows), int(first.Columns))
    if len(spacing) != 2 or not all(0 < mm < 100 for mm in spacing) or not 0 < max(shape) <= MOST_SIDE:
        raise DataError(
            f"{files[0]}: series {uid} has implausible {shape[1]}x{shape[0]} pixels of {spacing} mm; download it again"
        )
    return Series(
        uid=uid,
        patient_id=_patient_id(first),
        spacing=(spacing[0], spacing[1]),
        shape=shape,
        files=[one.path for one in kept],
        z=[one.z for one in kept],
        sop_uids=[one.sop_uid for one in kept],
        notes=list(dict.fromkeys(notes)),
        locations=[one.location for one in kept],
        dropped=dropped,
    )


def _patient_id(header: Any) -> str:
    """The PatientID; empty if it is missing or invalid. Messages of pydicom are dropped, because they may quote it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return str(header.get("PatientID", "") or "")
    except Exception:
        return ""


def _read_slice(uid: str, path: str, notes: list[str]) -> _Slice:
    data = read_dicom(path, stop_before_pixels=True, specific_tags=TAGS)
    missing = [tag for tag in ("SOPInstanceUID", "PixelSpacing", "Rows", "Columns") if data.get(tag) in (None, "")]
    position, location = data.get("ImagePositionPatient"), data.get("SliceLocation")
    z = position[2] if position else location
    if missing or z is None:
        raise DataError(
            f"{path}: without {(missing or ['ImagePositionPatient and SliceLocation'])[0]}, series {uid} is unusable; "
            "download it again"
        )
    if data.get("RescaleSlope") in (None, "") or data.get("RescaleIntercept") in (None, ""):
        notes.append("rescale slope or intercept is missing; using 1 and 0")
    return _Slice(float(z), str(data.SOPInstanceUID), path, data, float("nan") if location is None else float(location))


def _each_height_once(
    slices: Iterable[_Slice], drawn: Collection[str], notes: list[str]
) -> tuple[list[_Slice], dict[str, int]]:
    """Slices by ascending z, one per position; and {UID of a duplicate slice: index of the slice kept instead}."""
    heights: list[list[_Slice]] = []  # groups of slices at the same z position
    for one in sorted(slices, key=lambda one: one.z):
        if heights and one.z - heights[-1][0].z < SAME_HEIGHT:
            heights[-1].append(one)
        else:
            heights.append([one])
    kept: list[_Slice] = []
    dropped: dict[str, int] = {}
    for number, together in enumerate(heights):
        best, *rest = sorted(together, key=lambda one: (one.sop_uid not in drawn, one.sop_uid))
        kept.append(best)
        dropped |= {one.sop_uid: number for one in rest}
    if dropped:
        notes.append(
            f"{len(dropped)} slices with the z position of another are skipped; outlines on them are moved to the other"
        )
    return kept, dropped
