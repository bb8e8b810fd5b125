"""Reads files of other formats as arrays, with size limits; a broken case does not stop the others."""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from ...data.case_content import on_one_grid
from ...data.files.decoded import numbers
from ...data.files.pictures import num_pages
from ...data.files.read import SUFFIXES, read_file
from ...data.surveys.levels import label_of
from ...errors import DataError
from ...system.storage import walk
from ..case_writer import FileImage, FileLabel, RawCase

PICTURE = re.compile(rf"{SUFFIXES}$", re.IGNORECASE)
MOST_PIXELS = 2**27  # of an image or a volume, with all its masks

Item = TypeVar("Item")


def each(items: Iterable[Item], make: Callable[[Item], Iterable[RawCase | DataError]]) -> Iterator[RawCase | DataError]:
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
    values = real_numbers(source, values).astype(np.float64)
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


def real_numbers(source: str, values: np.ndarray) -> np.ndarray:
    """An array of real numbers, bool as uint8. DataError: other types, or values that are not finite."""
    values = numbers(source, values)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{source}: contains values that are not finite; repair or remove it")
    return values


def label_values(source: str, values: np.ndarray) -> np.ndarray:
    """The values of a label, as uint8 if that does not change them. DataError: they are not real and finite numbers."""
    values = real_numbers(source, values)
    if values.dtype == np.uint8 or values.size and not (values.min() >= 0 and values.max() <= 255):
        return values
    small = values.astype(np.uint8)
    return small if (small == values).all() else values


# -- pictures ---------------------------------------------------------------------------------------------------------


class Pictures(NamedTuple):
    """An image and its masks, and the files of them that were turned."""

    planes: dict[str, FileImage]
    raters: list[FileLabel]
    turned: list[str]


def read_pictures(image: str, masks: Sequence[str], page: int | None = None) -> Pictures:
    """Read an image file and the files of its masks; see `read_images`."""
    return read_images({"": image}, masks, page)


def read_images(images: Mapping[str, str], masks: Sequence[str], page: int | None = None) -> Pictures:
    """Read the image files of a case, {modality: file}, and the files of its masks.

    page  of all files; None: they must have a single one
    DataError: a file is unreadable or no mask, or the files lie on different grids.
    """
    decoded = {file: read_file(file, page) for file in (*images.values(), *masks)}
    brought, faults = on_one_grid(decoded)
    if faults:
        more = f" (and {len(faults) - 1} other files)" if len(faults) > 1 else ""
        raise DataError(faults[0] + more)
    title = {file: file if page is None else f"{file}, page {page + 1}" for file in decoded}
    raters = [FileLabel(title[file], label_of(title[file], decoded[file])) for file in masks]
    turned = [title[file] for file, one in decoded.items() if one.turned or file in brought]
    return Pictures({name: FileImage(title[file], decoded[file]) for name, file in images.items()}, raters, turned)


def pages_of(image: str, masks: Sequence[str]) -> int:
    """The number of pages of an image, which its masks must have too. DataError: they have another number."""
    pages = {file: _pages(file) for file in (image, *masks)}
    for file, count in pages.items():
        if count != pages[image]:
            noun = "page" if count == 1 else "pages"
            raise DataError(
                f"{file}: has {count} {noun}, but {os.path.basename(image)} has {pages[image]}; an image and its masks "
                "must have the same number of pages"
            )
    return pages[image]


def _pages(file: str) -> int:
    try:
        return num_pages(file)
    except DataError:
        raise
    except Exception:  # read_file reports what is wrong
        return 1
