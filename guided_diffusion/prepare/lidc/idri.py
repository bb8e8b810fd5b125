"""Combines the outlines of several readers into the nodules of an LIDC-IDRI series.

A reader's outline runs through the pixels just outside the nodule; only pixels strictly inside it belong to the nodule.
An outline with inclusion FALSE cuts a hole. Its own pixels are outside the nodule, too, so they are cut together with
those inside it, as in pylidc.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .dicom import Series
from .readings import Annotation, Outline, Reading

MOST_READERS = 4
NAMES_SHOWN = 5  # of outlines, in a note
PUBLISHED_SLICES = 15_096  # slices with an outline in the published versions of LIDC-IDRI


# -- outlines ---------------------------------------------------------------------------------------------------------


class Filled(NamedTuple):
    """The pixels strictly inside an outline and those on it, [h, w] bool, and the position of their top-left corner."""

    inside: np.ndarray
    on_edge: np.ndarray
    x: int
    y: int


def fill_inside(points: np.ndarray) -> Filled:
    """The pixels strictly inside a closed polygon with integer points [N, 2], (x, y), and those on it.

    Even-odd rule on pixel centres, in exact integer arithmetic.
    """
    points = np.asarray(points, dtype=np.int64)
    x_min, y_min = points.min(0)
    x_max, y_max = points.max(0)
    x, y = np.arange(x_min, x_max + 1)[None, :], np.arange(y_min, y_max + 1)[:, None]
    inside, on_edge = np.zeros((2, y.size, x.size), dtype=bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)  # 0 on the line; the sign gives the side
        within = (
            (np.minimum(ax, bx) <= x)
            & (x <= np.maximum(ax, bx))
            & (np.minimum(ay, by) <= y)
            & (y <= np.maximum(ay, by))
        )
        on_edge |= (side == 0) & within
        if ay != by:  # a ray from the pixel to the right crosses edges that span its row, upper end included
            inside ^= ((ay > y) != (by > y)) & ((side > 0) == (by > ay))
    return Filled(inside & ~on_edge, on_edge, int(x_min), int(y_min))


def draw(outlines: Iterable[Outline], shape: tuple[int, int]) -> np.ndarray:
    """The mask [H, W] bool of a reader's outlines on a slice, clipped to the image.

    Larger outlines are drawn first, so that an exclusion cuts the surrounding area, and an inclusion in a hole remains.
    """
    return _paint([(fill_inside(outline.points), outline.inclusion) for outline in outlines], shape)


def _paint(areas: Iterable[tuple[Filled, bool]], shape: tuple[int, int]) -> np.ndarray:
    """The mask of filled outlines, each with its inclusion; of two equal ones, the exclusion is drawn last."""
    mask = np.zeros(shape, dtype=bool)
    for (inside, on_edge, x, y), inclusion in sorted(areas, key=lambda area: (-int(area[0].inside.sum()), not area[1])):
        changed = inside if inclusion else inside | on_edge
        top, left = max(0, -y), max(0, -x)
        bottom, right = min(inside.shape[0], shape[0] - y), min(inside.shape[1], shape[1] - x)
        if top < bottom and left < right:
            part = mask[y + top : y + bottom, x + left : x + right]
            part[changed[top:bottom, left:right]] = inclusion
    return mask


# -- nodules ----------------------------------------------------------------------------------------------------------


class Drawing(NamedTuple):
    """The masks that one reader drew of one nodule: {slice index: mask [H, W] bool}."""

    reader: int
    masks: dict[int, np.ndarray]


@dataclass(frozen=True)
class Nodule:
    """A nodule as drawn by R readers: {slice index: masks [R, H, W] bool}; a mask is empty if a reader drew nothing."""

    masks: dict[int, np.ndarray]

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the centre of the bounding box of all masks."""
        drawn = np.any([masks.any(0) for masks in self.masks.values()], axis=0)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        return (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2


def find_nodules(series: Series, readings: Sequence[Reading]) -> tuple[list[Nodule], list[str]]:
    """The nodules of a series, and notes.

    Annotations of several readers belong to the same nodule if they overlap, directly or through others. Several
    annotations of one reader for the same nodule are merged. Only the first four readers are used.
    """
    notes = list(series.notes)
    annotations = _of_readers(readings, notes)
    if points := sum(reading.points for reading in readings):
        notes.append(f"{points} nodules marked by a single point, without an outline, are skipped")
    drawn = _draw_annotations(series, annotations, notes)
    if not drawn:
        return [], notes

    group_of = _groups([drawing.masks for drawing in drawn])
    last_reader, stated = max(reader for reader, _ in drawn), sum(reading.num_readers for reading in readings)
    num_readers = min(MOST_READERS, max(1 + last_reader, stated))
    nodules, united = [], 0
    for group in range(group_of.max() + 1):
        members = [drawn[k] for k in np.flatnonzero(group_of == group)]
        united += len(members) > len({reader for reader, _ in members})
        nodules.append(_unite(members, num_readers, series.shape))
    if united:
        notes.append(f"{united} nodules have several annotations by one reader, which are merged")
    return nodules, notes


def _groups(masks: Sequence[Mapping[int, np.ndarray]]) -> np.ndarray:
    """The index of the nodule of each drawing."""
    overlaps = np.zeros((len(masks), len(masks)), dtype=bool)
    for i, j in itertools.combinations(range(len(masks)), 2):
        overlaps[i, j] = overlap(masks[i], masks[j])
    return connected_components(coo_array(overlaps), directed=False)[1]


def _draw_annotations(series: Series, annotations: Sequence[tuple[int, Annotation]], notes: list[str]) -> list[Drawing]:
    """The drawings of all (reader, annotation) that have a pixel on a slice of the series."""
    heights, by_location = series.heights_for(
        [outline for _, annotation in annotations for outline in annotation.outlines]
    )
    if by_location:
        notes.append("the readers' z positions match SliceLocation, not ImagePositionPatient")
    drawn, lost = [], 0
    thin: list[str] = []  # names of outlines
    for reader, annotation in annotations:
        by_slice: dict[int, list[tuple[Filled, bool]]] = {}
        for outline in annotation.outlines:
            index, filled = series.slice_of(outline, heights), fill_inside(outline.points)
            lost += index is None
            if not filled.inside.any():
                thin.append(f"{annotation.nodule_id} of reader {reader + 1} at z {outline.z:g}")
            if index is not None:
                by_slice.setdefault(index, []).append((filled, outline.inclusion))
        masks = {index: _paint(areas, series.shape) for index, areas in by_slice.items()}
        masks = {index: mask for index, mask in masks.items() if mask.any()}
        if masks:
            drawn.append(Drawing(reader, masks))
    if thin:
        more = f" and {len(thin) - NAMES_SHOWN} more" if len(thin) > NAMES_SHOWN else ""
        notes.append(
            f"{len(thin)} outlines of one or two points, or along a line, enclose no pixel: nodule "
            f"{', '.join(thin[:NAMES_SHOWN])}{more}"
        )
    if lost:
        notes.append(f"{lost} outlines do not match any slice of the series and are skipped")
    return drawn


def _of_readers(readings: Iterable[Reading], notes: list[str]) -> list[tuple[int, Annotation]]:
    """(reader, annotation) of all readings of a series; readers of a second XML file are numbered after the first."""
    before, last, used = 0, 0, []
    for reading in readings:
        for annotation in reading.annotations:
            reader = before + annotation.reader
            last = max(last, reader)
            if reader < MOST_READERS:
                used.append((reader, annotation))
        before += reading.num_readers
    if last >= MOST_READERS:
        notes.append(f"{last + 1} readers, of which only the first {MOST_READERS} are used")
    return used


def overlap(a: Mapping[int, np.ndarray], b: Mapping[int, np.ndarray]) -> bool:
    """Whether two annotations {slice: mask} share a pixel."""
    return any((a[index] & b[index]).any() for index in a.keys() & b.keys())


def _unite(members: Sequence[Drawing], num_readers: int, shape: tuple[int, int]) -> Nodule:
    slices = sorted({index for _, masks in members for index in masks})
    united = {index: np.zeros((num_readers, *shape), dtype=bool) for index in slices}
    for reader, masks in members:
        for index, mask in masks.items():
            united[index][reader] |= mask
    return Nodule(united)
