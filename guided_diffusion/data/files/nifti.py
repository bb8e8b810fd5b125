"""NIfTI files: the array as stored, the grid of its affine, and masks written like the file of their image."""

import gzip
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Self

import numpy as np
from jaxtyping import Shaped

from ...errors import DataError
from .grid import Grid, grid_of

MOST_PIXELS = 2**27  # of a file; Pillow has its own limit
LEVEL = 1  # of gzip
# The fields of a header that place the array, with the number of their values; 0: a single number
PLACING = {
    "pixdim": 8,
    "xyzt_units": 0,
    "qform_code": 0,
    "sform_code": 0,
    **dict.fromkeys(("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"), 0),
    **dict.fromkeys(("srow_x", "srow_y", "srow_z"), 4),
}


@dataclass(frozen=True)
class NiftiFrame:
    """How a NIfTI file places its array, as plain values.

    shape   of the array as stored, with its axes of length 1
    header  the fields PLACING of its header
    """

    shape: tuple[int, ...]
    header: dict[str, float | list[float]]

    @classmethod
    def of(cls, shape: tuple[int, ...], header: Any) -> Self:
        """The frame of a file with this header (nibabel). Values that are not finite, in unused fields, become 0."""
        fields = {name: np.asarray(header[name]) for name in PLACING}
        return cls(tuple(shape), {name: np.where(np.isfinite(x), x, 0).tolist() for name, x in fields.items()})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The frame that `as_json` describes. KeyError, TypeError, ValueError: it is invalid."""
        header = {name: values["header"][name] for name in PLACING}
        for name, count in PLACING.items():
            if np.asarray(header[name], dtype=float).shape != ((count,) if count else ()):
                raise ValueError(f"{name} {header[name]}")
        return cls(tuple(map(int, values["shape"])), header)

    def as_json(self) -> dict[str, Any]:
        """The frame as JSON-like values."""
        return {"shape": list(self.shape), "header": self.header}


def nibabel_for(file: str) -> ModuleType:
    """The module nibabel. DataError: it is not installed."""
    try:
        import nibabel
    except ImportError:
        raise DataError(
            f'{file}: NIfTI needs nibabel; pip install "ambiguous-segmentation-diffusion[medical]"'
        ) from None
    return nibabel


def read_nifti(file: str) -> tuple[np.ndarray, Grid | None, NiftiFrame]:
    """The array of a NIfTI file, [x, y] or [x, y, z, ...], without axes of length 1, its Grid and its frame.

    The grid is None if the header contains no orientation, or for more than three axes.
    DataError: nibabel is missing, or the file claims to be huge; nibabel's own errors: it cannot be read.
    """
    image = nibabel_for(file).load(file)
    stored = image.dataobj
    if math.prod(stored.shape) > MOST_PIXELS:
        raise DataError(
            f"{file}: {'x'.join(map(str, stored.shape))} pixels exceed the limit of {MOST_PIXELS:,}; check the file"
        )
    array = np.asarray(stored)
    small = array.reshape([length for length in array.shape if length != 1])
    header: Any = image.header
    oriented = header["sform_code"] > 0 or header["qform_code"] > 0
    grid = grid_of(array.shape, image.affine) if oriented else None
    return small, grid if grid and grid.shape == small.shape else None, NiftiFrame.of(array.shape, header)


def nifti_bytes(file: str, plane: Shaped[np.ndarray, "H W"], frame: NiftiFrame) -> bytes:
    """The content of a compressed NIfTI file with a plane, upright [row, column], placed like the file of `frame`.

    Equal planes and frames give equal bytes. DataError: nibabel is missing; `file` is named.
    """
    nibabel = nibabel_for(file)
    image = nibabel.Nifti1Image(plane.T.reshape(frame.shape), None)
    for name, value in frame.header.items():
        image.header[name] = value
    return gzip.compress(image.to_bytes(), LEVEL, mtime=0)
