"""Writes a case's masks, consensus, probabilities, sheet and movie. Does not need torch.

Masks and maps have the size of the case's image, and its affine if it is NIfTI, or the network's size.
"""

import contextlib
import io
import itertools
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from ..data.files.nifti import nifti_bytes
from ..data.geometry import CaseArrays, Geometry
from ..flags.classes import Classes
from ..masks import pictures
from ..masks.class_pictures import to_palette
from ..masks.consensus import consensus
from ..masks.label_maps import label_map
from ..masks.postprocess import mean_mask
from ..system import storage
from .config import postprocess_of
from .names import (
    NIFTI,
    PNG,
    class_probability_path,
    consensus_path,
    mask_path,
    movie_path,
    probability_path,
    sheet_path,
)

FULL_SCALE = 65535  # of a probability of 1, in PNG

Made = Mapping[str, Any]  # settings that a case's samples or files were made with, as plain values


def written_geometry(geometry: Geometry | None, finished_by: Made) -> Geometry | None:
    """The geometry by which a case's files are written; None: as PNG at the network's size, which may be its own."""
    if geometry is None or not (geometry.changes_pixels or geometry.nifti):
        return None
    return geometry if postprocess_of(finished_by).output_size == "own" else None


def paths(
    out_dir: str, case_id: str, count: int, finished_by: Made, geometry: Geometry | None, classes: Classes = Classes()
) -> list[str]:
    """Paths of the files of a case with `count` masks, without the movie.

    The probabilities of several classes are files of their own.
    """
    ending = NIFTI if geometry and geometry.nifti else PNG
    found = [mask_path(out_dir, case_id, k, ending) for k in range(count)]
    if finished_by["consensus"] != "none":
        found.append(consensus_path(out_dir, case_id, ending))
    if finished_by["save_probabilities"] and classes.several:
        found += [class_probability_path(out_dir, case_id, k + 1, ending) for k in range(classes.count)]
    elif finished_by["save_probabilities"]:
        found.append(probability_path(out_dir, case_id, ending))
    return [*found, sheet_path(out_dir, case_id)]


class Drawn(NamedTuple):
    """What is written of a case: its masks, and for the sheet image and raters at their size."""

    masks: Bool[np.ndarray, "M *K H W"]
    image: pictures.Shown
    raters: Bool[np.ndarray, "R *K H W"]
    classes: Classes = Classes()

    def sheet(self) -> Image.Image:
        """The sheet of the case."""
        return pictures.sheet(self.image, self.raters, self.masks, classes=self.classes)


def write(out_dir: str, case_id: str, drawn: Drawn, finished_by: Made, geometry: Geometry | None) -> list[int]:
    """Write the files of a case, without the movie and without a disk sync. Returns their CRC-32, in order of `paths`.

    geometry  from `written_geometry`
    """
    masks, classes = drawn.masks, drawn.classes
    contents = [_mask_content(case_id, mask, geometry, classes) for mask in masks]
    if (kind := finished_by["consensus"]) != "none":
        contents.append(_mask_content(case_id, consensus(kind, masks, classes), geometry, classes))
    if finished_by["save_probabilities"]:
        means = mean_mask(masks)
        contents += [_content(case_id, x, geometry, deep=True) for x in (means if classes.several else [means])]
    contents.append(_png(drawn.sheet()))
    places = paths(out_dir, case_id, len(masks), finished_by, geometry, classes)
    for path, content in zip(places, contents, strict=True):
        storage.write_bytes(path, content, sync=False)
    return [zlib.crc32(content) for content in contents]


def write_movie(out_dir: str, case_id: str, image: pictures.Shown, frames: Sequence[np.ndarray]) -> None:
    """Write the movie of a chain, synced to disk."""
    storage.write_bytes(movie_path(out_dir, case_id), pictures.movie(image, frames))


def shown_at(case: CaseArrays, colour: bool) -> tuple[pictures.Shown, Bool[np.ndarray, "R *K H W"]]:
    """What a sheet shows of a case."""
    return pictures.shown_image(case.image, colour), case.raters


def are_whole(places: Sequence[str], checksums: Sequence[int]) -> bool:
    """Whether the files have these checksums."""
    try:
        return list(checksums) == [zlib.crc32(storage.read_bytes(path) or b"") for path in places]
    except OSError:  # e.g. an unreadable disk sector
        return False


def remove_others(out_dir: str, case_id: str, kept: Sequence[str]) -> None:
    """Remove the files of a case that are not to be kept, masks from the last one, so that no gap remains."""
    for path in stale(out_dir, case_id, kept):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def stale(out_dir: str, case_id: str, kept: Sequence[str]) -> list[str]:
    """The existing files of a case, besides samples, sheet and movie, that are not to be kept."""
    found: list[str] = []
    for ending in (PNG, NIFTI):
        found += reversed(mask_paths(out_dir, case_id, ending))
        found += [where(out_dir, case_id, ending) for where in (consensus_path, probability_path)]
        found += reversed(class_probability_paths(out_dir, case_id, ending))
    keep = set(kept)
    return [path for path in found if path not in keep and os.path.exists(path)]


def mask_paths(out_dir: str, case_id: str, ending: str) -> list[str]:
    """The paths of a case's masks with this ending, up to the first one that does not exist."""
    every = (mask_path(out_dir, case_id, k, ending) for k in itertools.count())
    return list(itertools.takewhile(os.path.exists, every))


def class_probability_paths(out_dir: str, case_id: str, ending: str) -> list[str]:
    """The paths of the means of a case's classes with this ending, up to the first one that does not exist."""
    every = (class_probability_path(out_dir, case_id, k, ending) for k in itertools.count(1))
    return list(itertools.takewhile(os.path.exists, every))


def _mask_content(
    case_id: str, mask: Shaped[np.ndarray, "*K H W"], geometry: Geometry | None, classes: Classes
) -> bytes:
    """The content of the file of a mask or consensus; of several classes, a label map with their colours as palette."""
    if not classes.several:
        return _content(case_id, mask, geometry)
    labels = label_map(mask, classes.values)
    if geometry and geometry.nifti:
        return nifti_bytes(case_id, labels, geometry.nifti)
    return _png(to_palette(labels, classes))


def _content(case_id: str, plane: Shaped[np.ndarray, "H W"], geometry: Geometry | None, deep: bool = False) -> bytes:
    """The content of the file of a mask, or of a plane from 0 to 1; as PNG, of 8 bits or, if `deep`, 16."""
    if geometry and geometry.nifti:
        stored = plane.astype(np.uint8 if plane.dtype == bool else np.float32)
        return nifti_bytes(case_id, stored, geometry.nifti)
    if deep:
        return _png(Image.fromarray(np.round(plane * FULL_SCALE).astype(np.uint16)))
    return _png(pictures.to_grey(plane))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    level = 1 if picture.mode == "RGB" else 6  # zlib level; a higher one does not shrink sheets of noisy images
    picture.save(file, format="PNG", compress_level=level)
    return file.getvalue()
