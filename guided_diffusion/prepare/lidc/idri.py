"""What four radiologists drew on the series of LIDC-IDRI, in XML: outlines, masks, the nodules of several readers, and crops of them.

A reader's outline runs through the pixels just outside what is marked: pixels strictly inside it belong to the nodule. An outline
with inclusion FALSE cuts a hole by the same rule. A nodule of a single point is smaller than 3 mm and has no outline.
"""

import re
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ...errors import DataError
from .dicom import MOST_SIDE

MOST_READERS = 4
PUBLISHED_SLICES = 15_096  # slices with an outline that the field's preparations count


# -- outlines ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outline:
    """One closed outline on one slice."""

    sop_uid: str
    z: float  # mm
    points: np.ndarray  # [N, 2] whole numbers: x (column), y (row)
    inclusion: bool


@dataclass(frozen=True)
class Annotation:
    """What one reader drew of one nodule."""

    reader: int
    nodule_id: str
    outlines: list[Outline]


@dataclass(frozen=True)
class Reading:
    """One XML file: what the readers drew on one series."""

    path: str
    series_uid: str
    num_readers: int
    annotations: list[Annotation]
    points: int  # nodules of a single point, which have no outline


def fill_inside(points):
    """Pixels strictly inside a closed polygon: (mask [h, w] bool, x, y of its corner). Points [N, 2] are whole numbers (x, y).

    Even-odd rule on pixel centres, in whole numbers; pixels on the polygon itself are outside.
    """
    points = np.asarray(points, dtype=np.int64)
    x_min, y_min = points.min(0)
    x_max, y_max = points.max(0)
    x, y = np.arange(x_min, x_max + 1)[None, :], np.arange(y_min, y_max + 1)[:, None]
    inside, on_edge = np.zeros((2, y.size, x.size), dtype=bool)
    for (ax, ay), (bx, by) in zip(points, np.roll(points, -1, axis=0), strict=True):
        side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)  # 0 on the line; its sign tells the side
        within = (
            (np.minimum(ax, bx) <= x)
            & (x <= np.maximum(ax, bx))
            & (np.minimum(ay, by) <= y)
            & (y <= np.maximum(ay, by))
        )
        on_edge |= (side == 0) & within
        if ay != by:  # the ray from a pixel to the right crosses edges that span its row, upper end included
            inside ^= ((ay > y) != (by > y)) & ((side > 0) == (by > ay))
    return inside & ~on_edge, int(x_min), int(y_min)


def draw(outlines, shape):
    """The mask [H, W] bool of a reader's outlines on one slice; parts beyond the image are cut.

    Larger outlines come first, so that an exclusion cuts what surrounds it, and an inclusion within a hole stays.
    """
    mask = np.zeros(shape, dtype=bool)
    filled = [(*fill_inside(outline.points), outline.inclusion) for outline in outlines]
    for inside, x, y, inclusion in sorted(filled, key=lambda item: -int(item[0].sum())):
        top, left = max(0, -y), max(0, -x)
        bottom, right = min(inside.shape[0], shape[0] - y), min(inside.shape[1], shape[1] - x)
        if top < bottom and left < right:
            part = mask[y + top : y + bottom, x + left : x + right]
            part[inside[top:bottom, left:right]] = inclusion
    return mask


# -- XML --------------------------------------------------------------------------------------------------------------


def read_xml(path):
    """The `Reading` of an XML file; None: one of another kind (a chest radiograph's).

    Tags are read without their namespaces. DataError: no XML, or entities that would expand, or not to be read as LIDC's.
    """
    try:
        from defusedxml.ElementTree import parse
    except ImportError:
        raise DataError('XML needs defusedxml; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    try:
        root = parse(path, forbid_dtd=True).getroot()
        series = _find(root, "SeriesInstanceUid")
        if _tag(root) != "LidcReadMessage" or series is None:
            return None
        sessions = [child for child in root if _tag(child) == "readingSession"]
        annotations, points = [], 0
        for reader, session in enumerate(sessions):
            for nodule in (child for child in session if _tag(child) == "unblindedReadNodule"):
                outlines = [_read_roi(roi) for roi in nodule if _tag(roi) == "roi"]
                outlines = [outline for outline in outlines if len(outline.points)]
                if sum(len(outline.points) for outline in outlines) == 1:
                    points += 1
                elif outlines:
                    annotations.append(
                        Annotation(reader, _text(nodule, "noduleID"), [o for o in outlines if len(o.points) > 2])
                    )
        return Reading(path, _uid(series.text.strip()), len(sessions), annotations, points)
    except DataError:
        raise
    except Exception as error:  # the parser's own errors, refused entities among them, and values that are no numbers
        raise DataError(
            f"{path}: cannot be read as LIDC's XML ({type(error).__name__}: {error}); replace or remove it"
        ) from error


def _uid(text):
    if not re.fullmatch(r"[0-9.]{1,64}", text) or set(text) == {"."}:
        raise ValueError(f"{text[:80]!r} is no UID")
    return text


def _tag(element):
    return element.tag.rpartition("}")[2]


def _find(element, tag):
    return next((child for child in element.iter() if _tag(child) == tag), None)


def _text(element, tag):
    found = _find(element, tag)
    return "" if found is None or found.text is None else found.text.strip()


def _read_roi(roi):
    points = [(int(_text(edge, "xCoord")), int(_text(edge, "yCoord"))) for edge in roi if _tag(edge) == "edgeMap"]
    if max((abs(n) for point in points for n in point), default=0) > MOST_SIDE:
        raise ValueError(f"an outline that reaches to {points}"[:100])
    points = np.array(points, dtype=np.int64).reshape(-1, 2)
    return Outline(
        _text(roi, "imageSOP_UID"),
        float(_text(roi, "imageZposition") or "nan"),
        points,
        _text(roi, "inclusion").upper() != "FALSE",
    )


# -- nodules ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nodule:
    """What the readers drew of one nodule: {slice number: masks [R, H, W] bool}, R readers; those who drew nothing have empty masks."""

    masks: dict[int, np.ndarray]

    @property
    def centre(self):
        """Row and column of the middle of the box around all masks."""
        drawn = np.any([masks.any(0) for masks in self.masks.values()], axis=0)
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        return (rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2


def find_nodules(series, readings):
    """([Nodule], lines to tell) of a series: annotations of several readers are of one nodule where they overlap, directly or through
    others.

    Of several annotations of one reader in one nodule the masks are united. Of more than four readers the first four count.
    """
    notes = list(series.notes)
    annotations = list(_of_readers(readings, notes))
    if points := sum(reading.points for reading in readings):
        notes.append(f"{points} nodules of a single point, which have no outline, are left out")
    drawn = _draw_annotations(series, annotations, notes)
    if not drawn:
        return [], notes

    pairs = [(i, j) for i in range(len(drawn)) for j in range(i) if overlap(drawn[i][1], drawn[j][1])]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(drawn), len(drawn)))
    _, group_of = connected_components(graph, directed=False)
    num_readers = min(
        MOST_READERS, max(1 + max(reader for reader, _ in drawn), sum(reading.num_readers for reading in readings))
    )
    nodules, united = [], 0
    for group in range(group_of.max() + 1):
        members = [drawn[k] for k in np.flatnonzero(group_of == group)]
        united += len(members) > len({reader for reader, _ in members})
        nodules.append(_unite(members, num_readers, series.shape))
    if united:
        notes.append(f"{united} nodules of which a reader drew several parts, which are united")
    return nodules, notes


def _draw_annotations(series, annotations, notes):
    """[(reader, {slice: mask [H, W] bool})] of those (reader, annotation) that have a pixel on a slice of the series."""
    heights, by_location = series.heights_for(
        [outline for _, annotation in annotations for outline in annotation.outlines]
    )
    if by_location:
        notes.append("the readers' heights are those of SliceLocation, not of ImagePositionPatient")
    drawn, lost = [], 0
    for reader, annotation in annotations:
        by_slice = {}
        for outline in annotation.outlines:
            index = series.slice_of(outline, heights)
            lost += index is None
            if index is not None:
                by_slice.setdefault(index, []).append(outline)
        masks = {index: draw(outlines, series.shape) for index, outlines in by_slice.items()}
        masks = {index: mask for index, mask in masks.items() if mask.any()}
        if masks:
            drawn.append((reader, masks))
    if lost:
        notes.append(f"{lost} outlines are on no slice of the series")
    return drawn


def _of_readers(readings, notes):
    """(reader, annotation) of all readings of a series; readers of a second XML file are further ones."""
    before, readers = 0, set()
    for reading in readings:
        for annotation in reading.annotations:
            readers.add(before + annotation.reader)
            if before + annotation.reader < MOST_READERS:
                yield before + annotation.reader, annotation
        before += reading.num_readers
    if max(readers, default=0) >= MOST_READERS:
        notes.append(f"{max(readers) + 1} readers, of which the first {MOST_READERS} are taken")


def overlap(a, b):
    """Whether two annotations {slice: mask} have a pixel in common."""
    return any((a[index] & b[index]).any() for index in a.keys() & b.keys())


def _unite(members, num_readers, shape):
    slices = sorted({index for _, masks in members for index in masks})
    united = {index: np.zeros((num_readers, *shape), dtype=bool) for index in slices}
    for reader, masks in members:
        for index, mask in masks.items():
            united[index][reader] |= mask
    return Nodule(united)


# -- crops ------------------------------------------------------------------------------------------------------------


def crop(plane, centre, spacing, side, pixel_mm, fill):
    """A square [side, side] float32 of `plane` [H, W] around `centre` (row, column), `fill` beyond the edges.

    spacing   mm between rows and between columns
    pixel_mm  of the crop, by linear interpolation; None: pixels stay as they are
    """
    steps = (1.0, 1.0) if pixel_mm is None else tuple(pixel_mm / mm for mm in spacing)
    middle = [np.floor(c) if pixel_mm is None or step == 1 else c for c, step in zip(centre, steps, strict=True)]
    rows, columns = (m + (np.arange(side) - side // 2) * step for m, step in zip(middle, steps, strict=True))
    if steps == (1.0, 1.0):
        padded = np.pad(plane.astype(np.float32), side, constant_values=fill)
        top, left = int(rows[0]) + side, int(columns[0]) + side
        return padded[top : top + side, left : left + side]
    where = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(plane.astype(np.float32), where, order=1, mode="constant", cval=fill)


def crop_mask(mask, centre, *where):
    """`crop` of a mask, bool: foreground where more than half of a pixel is. `where` is what else `crop` takes, without `fill`."""
    nudged = tuple(
        c + 1e-3 for c in centre
    )  # pixels that halve exactly fall to one side of the mask in, to the other out
    return crop(mask, nudged, *where, 0) > 0.5


def to_window(hounsfield, low, high):
    """Hounsfield units as 8-bit grey: `low` and below is 0, `high` and above 255."""
    return np.round(np.clip((hounsfield - low) / (high - low), 0, 1) * 255).astype(np.uint8)
