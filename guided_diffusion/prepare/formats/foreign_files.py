"""Files of foreign formats as arrays, with limits; and cases one by one, of which a refused one ends no others."""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ...data.image_files import is_jpeg, read_pixels
from ...errors import DataError
from ...system.storage import walk
from ..case_writer import RawCase

PICTURE = re.compile(r"\.(png|jpe?g|bmp|tiff?)$", re.IGNORECASE)  # the end of a picture's name
MOST_PIXELS = 2**27  # of an image or a volume, with all its masks

Item = TypeVar("Item")


def each(items: Iterable[Item], make: Callable[[Item], Iterable[RawCase]]) -> Iterator[RawCase | DataError]:
    """The cases of `make(item)`, an iterable, for each item; in the place of those that it refuses, its DataError."""
    for item in items:
        try:
            yield from make(item)
        except DataError as error:
            yield error


def refuse_huge(shape: Sequence[int], source: str) -> None:
    """Refuse what no image of the field is before memory is taken for it."""
    if math.prod(shape) > MOST_PIXELS:
        raise DataError(
            f"{source}: images of {'x'.join(map(str, shape))} pixels, more than {MOST_PIXELS:,}; is it what it says?"
        )


def scaled(values: np.ndarray, source: str) -> np.ndarray:
    """Grey levels of any range as floats in [0, 1], by their own least and greatest."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{source}: not all values are finite; repair or remove it")
    low, high = values.min(), values.max()
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1)


def folders_in(path: str) -> list[str]:
    """The names of the folders in `path`, sorted."""
    if not os.path.isdir(path):
        raise DataError(f"{path}: no such folder")
    return sorted(name for name in os.listdir(path) if os.path.isdir(os.path.join(path, name)))


def files_in(path: str) -> list[str]:
    """The names in `path`, sorted; none where there is no such folder."""
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def folders_with(path: str, file: str) -> list[str]:
    """The folders below `path` that hold a file of that name, sorted."""
    found = [base for base, _, files in walk(path) if file in files]
    if not found:
        raise DataError(f"{path}: no folder with {file}")
    return sorted(found)


def picture(path: str) -> np.ndarray:
    """Grey levels [H, W] as they are stored, uint8 or uint16.

    Those of 32 bits, which have no full scale, are in [0, 1] by their own range.
    """
    pixels, full_scale = read_pixels(path)
    if full_scale is None:
        return scaled(pixels, path)
    return pixels.astype(np.uint8 if full_scale == 255 else np.uint16)


def mask(path: str, label_threshold: float) -> np.ndarray:
    """A mask [H, W] bool: what lies above 0, or of a JPEG above that share of full scale."""
    pixels, full_scale = read_pixels(path)
    if not np.isfinite(pixels).all():
        raise DataError(f"{path}: not all values are finite; repair or remove it")
    return pixels > (label_threshold * (full_scale or 1) if is_jpeg(path) else 0)


def nifti(path: str) -> np.ndarray:
    """The array of a NIfTI file as it is stored; the affine is not applied.

    Trailing axes of length 1 are removed, and all of them where two others are left. Viewers show [x, y]; rows first is
    its transpose.
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
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())}); replace or remove it") from error
    if np.squeeze(array).ndim == 2:
        return np.squeeze(array)
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array
