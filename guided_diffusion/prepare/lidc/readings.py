"""Reads the XML files of LIDC-IDRI, with the outlines that up to four radiologists drew on each series.

A nodule marked by a single point is smaller than 3 mm and has no outline.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError

MOST_SIDE = 4096  # pixels, limit of a slice's side


@dataclass(frozen=True)
class Outline:
    """A closed outline on a slice; of one or two points, it encloses no pixel."""

    sop_uid: str
    z: float  # mm
    points: np.ndarray  # [N, 2] integers: x (column), y (row); at least one
    inclusion: bool


@dataclass(frozen=True)
class Annotation:
    """The outlines that one reader drew of one nodule."""

    reader: int
    nodule_id: str
    outlines: list[Outline]


@dataclass(frozen=True)
class Reading:
    """The content of an XML file: the annotations of all readers for one series."""

    path: str
    series_uid: str
    num_readers: int
    annotations: list[Annotation]
    points: int  # number of nodules marked by a single point


def read_xml(path: str) -> Reading | None:
    """The `Reading` of an XML file; None for other kinds of files, such as those of chest radiographs.

    Namespaces of tags are ignored. DataError: the file is not valid XML, defines entities, or does not have LIDC's
    format.
    """
    try:
        from defusedxml.ElementTree import parse  # type: ignore[import-untyped]  # it comes without types
    except ImportError:
        raise DataError('XML needs defusedxml; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    try:
        root = parse(path, forbid_dtd=True).getroot()
        series = _find(root, "SeriesInstanceUid")
        if _tag(root) != "LidcReadMessage" or series is None:
            return None
        sessions = list(_children(root, "readingSession"))
        annotations, points = [], 0
        for reader, session in enumerate(sessions):
            for nodule in _children(session, "unblindedReadNodule"):
                outlines = [_read_roi(roi) for roi in _children(nodule, "roi")]
                num_points = sum(len(outline.points) for outline in outlines)
                if num_points == 1:
                    points += 1
                elif num_points:
                    drawn = [outline for outline in outlines if len(outline.points)]
                    annotations.append(Annotation(reader, _text(nodule, "noduleID"), drawn))
        return Reading(path, _uid(series.text.strip()), len(sessions), annotations, points)
    except DataError:
        raise
    except Exception as error:  # parser errors, including refused entities, and values that are not numbers
        raise DataError(
            f"{path}: not a valid LIDC XML file ({type(error).__name__}: {error}); replace or remove it"
        ) from error


def _uid(text: str) -> str:
    if not re.fullmatch(r"[0-9.]{1,64}", text) or set(text) == {"."}:
        raise ValueError(f"{text[:80]!r} is not a UID")
    return text


def _tag(element: Any) -> str:
    """The tag of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def _children(element: Any, tag: str) -> Iterator[Any]:
    return (child for child in element if _tag(child) == tag)


def _find(element: Any, tag: str) -> Any | None:
    return next((child for child in element.iter() if _tag(child) == tag), None)


def _text(element: Any, tag: str) -> str:
    found = _find(element, tag)
    return "" if found is None or found.text is None else found.text.strip()


def _read_roi(roi: Any) -> Outline:
    points = [(int(_text(edge, "xCoord")), int(_text(edge, "yCoord"))) for edge in _children(roi, "edgeMap")]
    if max((abs(n) for point in points for n in point), default=0) > MOST_SIDE:
        raise ValueError(f"an outline outside of any slice: {points}"[:100])
    return Outline(
        sop_uid=_text(roi, "imageSOP_UID"),
        z=float(_text(roi, "imageZposition") or "nan"),
        points=np.array(points, dtype=np.int64).reshape(-1, 2),
        inclusion=_text(roi, "inclusion").upper() != "FALSE",
    )
