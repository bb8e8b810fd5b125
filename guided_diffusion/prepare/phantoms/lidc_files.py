"""Writes phantoms in the format of LIDC-IDRI: CT series in DICOM, and readers' outlines in XML."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .cases import PhantomCase, by_patient

NAMESPACE = "http://www.nih.gov"


class Contour(NamedTuple):
    """A closed outline: whether it is an inclusion or cuts a hole, and its points [N, 2], (x, y)."""

    inclusion: bool
    points: np.ndarray


class Roi(NamedTuple):
    """A contour on a slice of a series."""

    sop_uid: str
    z: float  # mm
    contour: Contour


class DrawnNodule(NamedTuple):
    """The outlines that one reader drew of one nodule."""

    id: str
    rois: Sequence[Roi]


def trace(mask: np.ndarray, outside: bool) -> np.ndarray:
    """The closed chain of pixels along the border of a 4-connected mask without holes, [N, 2] (x, y).

    Walks clockwise along the edges of the mask's pixels and collects the pixel outside or inside each edge. LIDC's
    outlines run outside a nodule, and so inside a hole in it.
    """
    mask = np.pad(mask, 2)
    row, column = np.argwhere(mask)[0].tolist()
    at, side, start = (row, column), 0, None
    chain: list[tuple[int, int]] = []
    normals = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # above, right, below, left
    while (at, side) != start:
        start = start or (at, side)
        (ny, nx), (ty, tx) = normals[side], normals[(side + 1) % 4]
        pixel = (at[1] + nx * outside - 2, at[0] + ny * outside - 2)
        if not chain or chain[-1] != pixel:
            chain.append(pixel)
        ahead, beyond = (at[0] + ty, at[1] + tx), (at[0] + ty + ny, at[1] + tx + nx)
        if not mask[ahead]:
            side = (side + 1) % 4
        elif mask[beyond]:
            at, side = beyond, (side + 3) % 4
        else:
            at = ahead
    return np.array(chain)


def outlines_of(mask: np.ndarray) -> list[Contour]:
    """The contours of a mask: one per connected component, and one per hole."""
    outlines = []
    parts, count = ndimage.label(mask)
    for k in range(1, count + 1):
        part = parts == k
        whole = ndimage.binary_fill_holes(part)
        outlines.append(Contour(True, trace(whole, outside=True)))
        holes, hole_count = ndimage.label(whole & ~part)
        outlines += [Contour(False, trace(holes == h, outside=False)) for h in range(1, hole_count + 1)]
    return outlines


def write_xml(path: str, series_uid: str, sessions: Sequence[Sequence[DrawnNodule]]) -> None:
    """Write the readers' outlines of a series as LIDC's XML; `sessions` has the nodules of each reader."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<LidcReadMessage xmlns="{NAMESPACE}" uid="1.2.3">',
        "<ResponseHeader>",
        f"<SeriesInstanceUid>{series_uid}</SeriesInstanceUid>",
        "</ResponseHeader>",
    ]
    for nodules in sessions:
        lines.append("<readingSession><annotationVersion>3.12</annotationVersion>")
        for nodule in nodules:
            lines.append(f"<unblindedReadNodule><noduleID>{nodule.id}</noduleID>")
            for sop_uid, z, (inclusion, points) in nodule.rois:
                edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
                lines.append(
                    f"<roi><imageZposition>{z}</imageZposition><imageSOP_UID>{sop_uid}</imageSOP_UID>"
                    f"<inclusion>{'TRUE' if inclusion else 'FALSE'}</inclusion>{edges}</roi>"
                )
            lines.append("</unblindedReadNodule>")
        lines.append("</readingSession>")
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join([*lines, "</LidcReadMessage>\n"]))


def write_slice(
    path: str | os.PathLike[str],
    hounsfield: np.ndarray,
    z: float,
    *,
    series_uid: str,
    sop_uid: str,
    patient: str,
    spacing: tuple[float, float] = (0.5, 0.5),
    slope: float = 1,
    intercept: float = -1024,
    big_endian: bool = False,
    leave_out: Sequence[str] = (),
) -> None:
    """Write a CT slice [H, W] in Hounsfield units as a DICOM file; `leave_out` names tags to omit."""
    import pydicom
    from pydicom import uid

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian if big_endian else uid.ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = uid.CTImageStorage, sop_uid
    data.SeriesInstanceUID, data.StudyInstanceUID = series_uid, f"{series_uid}.1"
    data.PatientID, data.Modality = patient, "CT"
    data.ImagePositionPatient, data.PixelSpacing = [0, 0, z], list(spacing)
    data.Rows, data.Columns = hounsfield.shape
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    stored = np.round((hounsfield - intercept) / slope).astype(">i2" if big_endian else "<i2")
    data.PixelData = stored.tobytes()
    for tag in leave_out:
        delattr(data, tag)
    data.save_as(path, enforce_file_format=True)


def write_lidc(
    out: str | os.PathLike[str],
    cases: Sequence[PhantomCase],
    size: int = 512,
    window: tuple[float, float] = (-1000, 400),
    spacing: tuple[float, float] = (0.5, 0.5),
) -> None:
    """Write DICOM series to OUT/dicom and XML files to OUT/xml, with one series per patient and one slice per case.

    The patients are LIDC-IDRI-0001, LIDC-IDRI-0002, ... in the order of their names. The case is in the centre of the
    slice, surrounded by air; `size` is increased if a case is larger.

    window   black and white in Hounsfield units
    spacing  mm between rows and columns
    """
    size = max(size, *(len(case.grey) for case in cases))
    os.makedirs(os.path.join(out, "xml"), exist_ok=True)
    for number, own in enumerate(by_patient(cases).values()):
        patient = f"LIDC-IDRI-{number + 1:04d}"
        series_uid = f"1.2.826.0.1.3680043.8.498.{number + 1}"
        folder = os.path.join(out, "dicom", patient)
        os.makedirs(folder, exist_ok=True)
        sessions: list[list[DrawnNodule]] = [[] for _ in own[0].raters]
        for index, case in enumerate(own):
            z, sop_uid = -100.0 + 2.5 * index, f"{series_uid}.{index + 1}"
            top = (size - len(case.grey)) // 2
            bottom = top + len(case.grey)
            hounsfield = np.full((size, size), window[0], dtype=np.float64)
            hounsfield[top:bottom, top:bottom] = window[0] + case.grey * (window[1] - window[0])
            path = os.path.join(folder, f"{index:03d}.dcm")
            write_slice(path, hounsfield, z, series_uid=series_uid, sop_uid=sop_uid, patient=patient, spacing=spacing)
            for reader, mask in enumerate(case.raters):
                if mask.any():
                    contours = [Contour(inclusion, points + top) for inclusion, points in outlines_of(mask)]
                    rois = [Roi(sop_uid, z, contour) for contour in contours]
                    sessions[reader].append(DrawnNodule(f"{case.name}-{reader}", rois))
        write_xml(os.path.join(out, "xml", f"{patient}.xml"), series_uid, sessions)
