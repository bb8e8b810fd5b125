"""Reads an image file as it is stored, whatever its format."""

import re

import numpy as np

from ...errors import DataError
from .decoded import COLOURS, Decoded, in_planes, numbers
from .nifti import read_nifti
from .pictures import read_picture

SUFFIXES = r"\.(png|jpe?g|tiff?|bmp|gif|webp|npy|nii|nii\.gz)"


def read_file(file: str, page: int | None = None) -> Decoded:
    """Decode an image file.

    page  of a file with several; None: a file with several pages is refused
    DataError: unreadable, not a two-dimensional image, or values that are not finite.
    """
    try:
        decoded = _decode(file, page)
    except DataError:
        raise
    except Exception as error:  # on damaged files, decoders raise any type of exception
        raise DataError(f"{file}: cannot be read ({_reason(file, error)}); replace or remove it") from error
    if decoded.planes.dtype.kind == "f" and not np.isfinite(decoded.planes).all():
        kind = "NaN" if np.isnan(decoded.planes).any() else "infinity"
        raise DataError(f"{file}: contains values that are not finite ({kind}); repair or remove it")
    return decoded


def _decode(file: str, page: int | None) -> Decoded:
    name = file.lower()
    if name.endswith(".npy"):
        return Decoded(in_planes(file, np.load(file, allow_pickle=False)), None)
    if name.endswith((".nii", ".nii.gz")):
        return _decode_nifti(file)
    return read_picture(file, page)


def _decode_nifti(file: str) -> Decoded:
    array, grid, frame = read_nifti(file)
    if array.ndim != 2:
        shape = "x".join(map(str, array.shape))
        raise DataError(
            f"{file}: a volume of {shape}; a case is a single slice: save each slice as a case, "
            "or convert the volumes with convert_data.py"
        )
    grid = grid and grid.transposed()  # [x, y] -> [row, column]
    if array.dtype.names:  # RGB24
        colours = np.stack([array[name] for name in array.dtype.names[:COLOURS]])
        return Decoded(colours.transpose(0, 2, 1), 255, grid=grid, nifti=frame)
    return Decoded(numbers(file, array).T[None], None, grid=grid, nifti=frame)


def _reason(file: str, error: Exception) -> str:
    """The message of a decoder's error, in one line and without the file name, so that equal faults can be grouped."""
    named = re.compile(rf"""\s+['"]?{re.escape(file)}['"]?""")
    return " ".join(named.sub("", str(error)).split())
