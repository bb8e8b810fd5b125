"""Reads grey images and masks from PNG, JPEG, NPY and NIfTI files."""

import math
import re

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from PIL import Image

from ..errors import DataError

MOST_PIXELS = 2**27  # of a NIfTI file; Pillow has its own limit
JPEG = (".jpg", ".jpeg")

Pixels = Shaped[np.ndarray, "H W"]


def is_jpeg(file: str) -> bool:
    """Whether a file name has the extension of a JPEG."""
    return file.lower().endswith(JPEG)


def read_pixels(file: str) -> tuple[Pixels, int | None]:
    """The values of a grey image file, and the full scale of its type (None for NPY, NIfTI and 32-bit TIFF).

    Colour images are converted to luminance. DataError: unreadable, or not a two-dimensional image.
    """
    try:
        array, full_scale = _decode(file)
    except DataError:
        raise
    except Exception as error:  # on damaged files, decoders raise any type of exception
        raise DataError(f"{file}: cannot be read ({_reason(file, error)}); replace or remove it") from error
    array = np.squeeze(array)
    if array.ndim != 2 or array.size == 0:
        raise DataError(f"{file}: has shape {array.shape}; a single two-dimensional slice is required")
    return array, full_scale


def _decode(file: str) -> tuple[np.ndarray, int | None]:
    if file.lower().endswith(".npy"):
        return np.load(file, allow_pickle=False), None
    if file.lower().endswith((".nii", ".nii.gz")):
        return _read_nifti(file), None
    return _read_picture(file)


def _reason(file: str, error: Exception) -> str:
    """The message of a decoder's error, in one line and without the file name, so that equal faults can be grouped."""
    named = re.compile(rf"""\s+['"]?{re.escape(file)}['"]?""")
    return " ".join(named.sub("", str(error)).split())


def _read_picture(file: str) -> tuple[np.ndarray, int | None]:
    with Image.open(file) as picture:
        if picture.mode.startswith("I") or picture.mode == "F":
            # Some versions of Pillow open 16-bit PNG files in mode I
            thirty_two_bits = picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG")
            return np.asarray(picture).astype(np.float64), None if thirty_two_bits else 65535
        if picture.mode == "1":
            return np.asarray(picture).astype(np.uint8) * 255, 255
        return np.asarray(picture.convert("L")), 255


def _read_nifti(file: str) -> np.ndarray:
    try:
        import nibabel
    except ImportError:
        raise DataError(
            f'{file}: NIfTI needs nibabel; pip install "ambiguous-segmentation-diffusion[medical]"'
        ) from None
    stored = nibabel.load(file).dataobj  # type: ignore[attr-defined]  # every image with voxels has it
    if math.prod(stored.shape) > MOST_PIXELS:
        raise DataError(
            f"{file}: {'x'.join(map(str, stored.shape))} pixels exceed the limit of {MOST_PIXELS:,}; check the file"
        )
    return np.asarray(stored).T


def read_image(file: str, intensity_range: tuple[float, ...] | None = None) -> Float32[np.ndarray, "H W"]:
    """An image of one modality, scaled to [0, 1].

    8-bit values are divided by 255, 16-bit values by 65535. NPY and NIfTI values are mapped from `intensity_range`,
    (low, high), and clipped; without a range, from their own minimum and maximum.
    """
    array, full_scale = read_pixels(file)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: contains values that are not finite; repair or remove it")
    if full_scale:
        return (array / full_scale).astype(np.float32)
    array = array.astype(np.float64)  # before subtraction, which can overflow 16-bit integers
    low, high = intensity_range or (array.min(), array.max())
    return np.clip((array - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)


def read_levels(file: str) -> tuple[Pixels, int | None, Shaped[np.ndarray, " levels"]]:
    """The values of a label, the full scale of their type as in `read_pixels`, and the sorted distinct values."""
    array, full_scale = read_pixels(file)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: contains values that are not finite; repair or remove it")
    return array, full_scale, np.unique(array)


def to_mask(
    file: str,
    array: Pixels,
    full_scale: int | None,
    levels: Shaped[np.ndarray, " levels"],
    label_threshold: float = 0.5,
    merge_labels: bool = False,
) -> Bool[np.ndarray, "H W"]:
    """The mask of one rater, from the result of `read_levels`.

    A lossless label must have at most two levels. The upper one is foreground; a single level is foreground if it is
    not 0. With merge_labels, more levels are allowed and all but 0 are foreground. A JPEG label is thresholded at
    label_threshold.
    """
    if is_jpeg(file) and full_scale:
        return array > label_threshold * full_scale
    if len(levels) > 2 and not merge_labels:
        raise DataError(
            f"{file}: a mask with {len(levels)} levels; if they are classes, "
            "--merge_labels True treats all but 0 as foreground"
        )
    background = 0 if merge_labels or len(levels) == 1 else levels[0]
    return array != background


def read_label(
    file: str, label_threshold: float = 0.5, merge_labels: bool = False
) -> tuple[Bool[np.ndarray, "H W"], int]:
    """The mask of one rater, as in `to_mask`, and the number of levels in the file."""
    array, full_scale, levels = read_levels(file)
    return to_mask(file, array, full_scale, levels, label_threshold, merge_labels), len(levels)
