"""The content of an image file, whatever its format, and its conversions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from ...errors import DataError
from .grid import Grid
from .nifti import NiftiFrame

COLOURS = 3
UNIT = 1  # the full scale of values that are in [0, 1] already, as those of arrays in memory
SHAPES = "a single slice, [H, W], or a colour image, [H, W, 3] or [3, H, W], is required"
LUMINANCE = np.array([19595, 38470, 7471], dtype=np.int64)  # of 65536, ITU-R BT.601 as in Pillow


@dataclass(frozen=True)
class Decoded:
    """The content of an image file, upright.

    planes       one, grey; or red, green and blue
    full_scale   largest value of the type, 255 or 65535; None: the type has no fixed scale (NPY, NIfTI, 32-bit TIFF);
                 UNIT: the values are in [0, 1]
    lossy        the compression changed the values
    alpha        opacity; None: the file has none
    indices      of a palette, which gives `planes`; None: no palette
    grid         positions of the pixels; None: unknown
    orientation  of EXIF or TIFF, 1 to 8, by which the stored pixels were turned
    nifti        how a NIfTI file places its array; None: another format
    """

    planes: Shaped[np.ndarray, "C H W"]
    full_scale: int | None
    lossy: bool = False
    alpha: Shaped[np.ndarray, "H W"] | None = None
    indices: UInt8[np.ndarray, "H W"] | None = None
    grid: Grid | None = None
    orientation: int = 1
    nifti: NiftiFrame | None = None

    @property
    def turned(self) -> bool:
        """Whether the orientation in its metadata turned it."""
        return self.orientation != 1

    @property
    def in_colour(self) -> bool:
        """Whether the three planes differ."""
        return len(self.planes) == COLOURS and not (self.planes[1:] == self.planes[0]).all()


def numbers(file: str, array: np.ndarray) -> np.ndarray:
    """An array of real numbers, bool as uint8. DataError: other types."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{file}: values of type {array.dtype}; real numbers are required")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def in_planes(file: str, array: np.ndarray) -> Shaped[np.ndarray, "C H W"]:
    """An array [H, W], [H, W, 3] or [3, H, W], with any axes of length 1, as planes. DataError: another shape."""
    array = numbers(file, array)
    shape = tuple(length for length in array.shape if length != 1) if array.ndim > 2 else array.shape
    small = array.reshape(shape)
    if 0 not in shape and len(shape) == 2:
        return small[None]
    if 0 not in shape and len(shape) == 3 and (shape[0] == COLOURS) != (shape[2] == COLOURS):
        return small if shape[0] == COLOURS else small.transpose(2, 0, 1)
    raise DataError(f"{file}: has shape {array.shape}; {SHAPES}")


def to_grey(planes: Shaped[np.ndarray, "3 H W"]) -> Shaped[np.ndarray, "1 H W"]:
    """The luminance (ITU-R BT.601) of a colour image, of the same type; of integers as Pillow rounds it."""
    if planes.dtype.kind == "f":
        return np.tensordot(LUMINANCE / 2**16, planes, 1)[None].astype(planes.dtype)
    weighted = np.tensordot(LUMINANCE, planes.astype(np.int64), 1) + 2**15
    return (weighted >> 16)[None].astype(planes.dtype)


def to_unit(
    planes: Shaped[np.ndarray, "C H W"], full_scale: int | None, intensity_range: tuple[float, ...] | None = None
) -> Shaped[np.ndarray, "C H W"]:
    """Scale the values of an image to float32 in [0, 1].

    intensity_range  (low, high) becomes (0, 1), and values beyond are clipped. None: values are divided by the full
                     scale of their type; without one, the range is that of the image. It does not apply to UNIT
    """
    if full_scale and (intensity_range is None or full_scale == UNIT):
        return (planes / full_scale).astype(np.float32)
    values: Float64[np.ndarray, "C H W"] = planes.astype(np.float64)  # differences can overflow 16-bit integers
    low, high = intensity_range or (values.min(), values.max())
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
