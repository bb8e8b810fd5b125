"""Reads files of other formats as arrays, with size limits; a broken case does not stop the others."""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ...data.files.read import read_file
from ...data.surveys.levels import read_masks
from ...errors import DataError
from ...system.storage import walk
from ..case_writer import RawCase

PICTURE = re.compile(r"\.(png|jpe?g|bmp|tiff?)$", re.IGNORECASE)  # extensions of pictures
MOST_PIXELS = 2**27  # of an image or a volume, with all its masks

Item = TypeVar("Item")


def each(items: Iterable[Item], make: Callable[[Item], Iterable[RawCase]]) -> Iterator[RawCase | DataError]:
    """Yield the cases of `make(item)` for each item; if it raises a DataError, yield the error instead."""
    for item in items:
        try:
            yield from make(item)
        except DataError as error:
            yield error


def refuse_huge(shape: Sequence[int], source: str) -> None:
    """DataError: the shape exceeds the limit for images; checked before memory is allocated."""
    if math.prod(shape) > MOST_PIXELS:
        raise DataError(
            f"{source}: {'x'.join(map(str, shape))} pixels exceed the limit of {MOST_PIXELS:,}; check the file"
        )


def scaled(values: np.ndarray, source: str) -> np.ndarray:
    """Scale grey levels to floats in [0, 1] by their minimum and maximum."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{source}: contains values that are not finite; repair or remove it")
    low, high = values.min(), values.max()
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


def folders_in(path: str) -> list[str]:
    """The sorted names of the folders in `path`."""
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder")
    return sorted(name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name)))


def files_in(path: str) -> list[str]:
    """The sorted names in `path`; empty if the folder does not exist."""
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def folders_with(path: str, file: str) -> list[str]:
    """The sorted folders below `path` that contain a file of this name."""
    found = [base for base, _, files in walk(path) if file in files]
    if not found:
        raise DataError(f"{path}: no folder with {file}")
    return sorted(found)


def picture(path: str) -> np.ndarray:
    """Grey levels [H, W] as stored, uint8 or uint16; 32-bit values are scaled to [0, 1] by their range."""
    decoded = read_file(path)
    if decoded.full_scale is None:
        return scaled(decoded.planes[0], path)
    return decoded.planes[0].astype(np.uint8 if decoded.full_scale == 255 else np.uint16)


def mask(path: str, label_threshold: float | None) -> np.ndarray:
    """A mask [H, W] bool."""
    return read_masks([path], label_threshold)[path]


def nifti(path: str) -> np.ndarray:
    """The array of a NIfTI file as stored, without applying the affine.

    Trailing axes of length 1 are removed; all axes of length 1 are removed if two others remain. The array is [x, y];
    transpose it for rows first.
    """
    try:
        import nibabel
    except ImportError:
        raise DataError('NIfTI needs nibabel; pip install "ambiguous-segmentation-diffusion[medical]"') from None
    try:
        stored = nibabel.load(path).dataobj  # type: ignore[attr-defined]  # of an image, which a NIfTI file is
        refuse_huge(stored.shape, path)
        array = np.asarray(stored)
    except DataError:
        raise
    except Exception as error:  # on damaged files, nibabel raises any type of exception
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); replace or remove it") from error
    if np.squeeze(array).ndim == 2:
        return np.squeeze(array)
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array
