"""NIfTI files: the array as stored, the grid of its affine, and masks written like the file of their image."""

import gzip
import math
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, Self

import numpy as np
from jaxtyping import Shaped

from ...errors import DataError
from .grid import Grid, grid_of

MOST_PIXELS = 2**27  # of a file; Pillow has its own limit
LEVEL = 1  # of gzip

Matrix = list[list[float]]


@dataclass(frozen=True)
class NiftiFrame:
    """How a NIfTI file places its array, as plain values.

    shape         of the array as stored, with its axes of length 1
    zooms         spacing along each axis
    sform, qform  4x4 matrices from indices to positions; None: not set
    sform_code, qform_code, units
                  codes of the header; `units` is its byte xyzt_units
    """

    shape: tuple[int, ...]
    zooms: tuple[float, ...]
    sform: Matrix | None
    qform: Matrix | None
    sform_code: int
    qform_code: int
    units: int

    @classmethod
    def of(cls, shape: tuple[int, ...], header: Any) -> Self:
        """The frame of a file with this header (nibabel)."""
        sform, sform_code = header.get_sform(coded=True)
        try:
            qform, qform_code = header.get_qform(coded=True)
        except ValueError:  # not a rotation; readers use the sform
            qform, qform_code = None, 0
        return cls(
            tuple(shape),
            tuple(map(float, header.get_zooms())),
            None if sform is None else sform.tolist(),
            None if qform is None else qform.tolist(),
            int(sform_code),
            int(qform_code),
            int(header["xyzt_units"]),
        )

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The frame that `as_json` describes."""
        return cls(**{**values, "shape": tuple(values["shape"]), "zooms": tuple(values["zooms"])})

    def as_json(self) -> dict[str, Any]:
        """The frame as JSON-like values."""
        return {**asdict(self), "shape": list(self.shape), "zooms": list(self.zooms)}


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
    header = image.header
    header.set_zooms(frame.zooms)
    header.set_qform(frame.qform, frame.qform_code)
    header.set_sform(frame.sform, frame.sform_code)
    header["xyzt_units"] = frame.units
    return gzip.compress(image.to_bytes(), LEVEL, mtime=0)
