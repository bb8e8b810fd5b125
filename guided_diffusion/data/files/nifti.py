"""Reads NIfTI files: the array as stored, and the grid of its affine."""

import math
from typing import Any

import numpy as np

from ...errors import DataError
from .grid import Grid, grid_of

MOST_PIXELS = 2**27  # of a file; Pillow has its own limit


def read_nifti(file: str) -> tuple[np.ndarray, Grid | None]:
    """The array of a NIfTI file, [x, y] or [x, y, z, ...], without axes of length 1, and its Grid.

    The grid is None if the header contains no orientation, or for more than three axes.
    DataError: nibabel is missing, or the file claims to be huge; nibabel's own errors: it cannot be read.
    """
    try:
        import nibabel
    except ImportError:
        raise DataError(
            f'{file}: NIfTI needs nibabel; pip install "ambiguous-segmentation-diffusion[medical]"'
        ) from None
    image = nibabel.load(file)
    stored = image.dataobj  # type: ignore[attr-defined]  # every image with voxels has it
    if math.prod(stored.shape) > MOST_PIXELS:
        raise DataError(
            f"{file}: {'x'.join(map(str, stored.shape))} pixels exceed the limit of {MOST_PIXELS:,}; check the file"
        )
    array = np.asarray(stored)
    small = array.reshape([length for length in array.shape if length != 1])
    header: Any = image.header
    oriented = header["sform_code"] > 0 or header["qform_code"] > 0
    grid = grid_of(array.shape, image.affine) if oriented else None  # type: ignore[attr-defined]
    return small, grid if grid and grid.shape == small.shape else None
