"""Formats of image files, and what is drawn to be written in each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from drawings import TAG, exif, paletted, png, put
from PIL import Image

tifffile = pytest.importorskip("tifffile")

ALPHA = 130  # a constant one


@dataclass(frozen=True)
class Format:
    """How an array [H, W] or, with colour, [H, W, 3] becomes a file; drawn values are from low to high."""

    suffix: str
    write: Callable[[Path, np.ndarray], None]
    dtype: type | str = np.uint8
    low: float = 0
    high: float = 255
    colour: bool = False
    levels: int | None = None  # different values or colours; None: any number
    tolerance: float = 0  # in units of the drawn values
    smooth: bool = False  # drawn without details, which the format does not keep


def saved(suffix=".png", colour=False, **more):
    """A format of Pillow; arguments in capitals go to its save."""
    how = {name.lower(): more.pop(name) for name in list(more) if name.isupper()}
    return Format(suffix, lambda path, array: put(path, array, **how), colour=colour, **more)


def range_of(dtype):
    """(lowest, highest) of the values drawn for a type: integers of up to 32 bits use its whole range."""
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        return (0, 1) if kind.kind == "b" else (-1000, 1000)
    return (np.iinfo(dtype).min, np.iinfo(dtype).max) if kind.itemsize <= 4 else (-(2**40), 2**40)


def tiff(dtype=np.uint8, colour=False, **how):
    """A TIFF of tifffile; `how` goes to its imwrite."""
    planes_first = how.get("planarconfig") == "separate"

    def write(path, array):
        photometric = how.get("photometric", "rgb" if colour else "minisblack")
        array = array.transpose(2, 0, 1) if planes_first else array
        tifffile.imwrite(path, array, **{**how, "photometric": photometric})

    return Format(".tif", write, dtype, *range_of(dtype), colour)


def npy(dtype, change=lambda array: array, colour=False):
    return Format(".npy", lambda path, array: put(path, change(array)), dtype, *range_of(dtype), colour)


def with_alpha(array):
    """The array with a last channel of one value."""
    array = array.reshape(*array.shape[:2], -1)
    return np.dstack([array, np.full(array.shape[:2], ALPHA, array.dtype)])


def as_cmyk(array):
    inks = np.dstack([255 - array, np.zeros(array.shape[:2], np.uint8)])
    return Image.fromarray(inks, "CMYK")


def as_palette(array):
    """A picture of mode P, whose colours are in no order of brightness."""
    colours, indices = np.unique(array.reshape(-1, 3), axis=0, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(colours))
    return paletted(np.argsort(order)[indices].reshape(array.shape[:2]), colours[order].tolist())


def in_three(array):
    return np.dstack([array] * 3)


def in_png(depth):
    return lambda path, array, tag: put(path, png(array, depth, [(b"eXIf", exif(tag)[6:])]))


def in_tiff(path, array, tag):
    tifffile.imwrite(
        path,
        np.ascontiguousarray(array),
        photometric="rgb" if array.ndim == 3 else "minisblack",
        compression="lzw",
        extratags=[(TAG, "H", 1, tag, True)],
    )


PNG = {
    **{
        f"PNG {depth}": Format(".png", lambda path, a, d=depth: put(path, png(a, d)), np.uint16, 0, 2**depth - 1)
        for depth in (1, 2, 4, 8, 16)
    },
    "PNG RGB": saved(colour=True),
    "PNG RGB 16": Format(".png", lambda path, a: put(path, png(a, 16)), np.uint16, 0, 65535, True),
    "PNG palette": Format(".png", lambda path, a: put(path, as_palette(a)), colour=True, levels=20),
    "PNG grey palette": Format(".png", lambda path, a: put(path, as_palette(in_three(a))), levels=20),
    "PNG RGB of grey": Format(".png", lambda path, a: put(path, in_three(a))),
    "PNG named JPEG": Format(".jpg", lambda path, a: put(path, png(a))),
}
ALPHAS = {
    "PNG RGBA": Format(".png", lambda path, a: put(path, with_alpha(a)), colour=True),
    "PNG RGBA 16": Format(".png", lambda path, a: put(path, png(with_alpha(a), 16)), np.uint16, 0, 65535, True),
    "PNG LA": Format(".png", lambda path, a: put(path, png(with_alpha(a)))),
    "PNG LA 16": Format(".png", lambda path, a: put(path, png(with_alpha(a), 16)), np.uint16, 0, 65535),
    "WebP RGBA": Format(".webp", lambda path, a: put(path, with_alpha(a), lossless=True, exact=True), colour=True),
    "TIFF RGBA": Format(
        ".tif",
        lambda path, a: tifffile.imwrite(path, with_alpha(a), photometric="rgb", extrasamples=["unassalpha"]),
        colour=True,
    ),
}
PICTURES = {
    "JPEG": saved(".jpg", QUALITY=100, tolerance=6),
    "JPEG upper case": saved(".JPEG", QUALITY=100, tolerance=6),
    "JPEG RGB": saved(".jpg", True, QUALITY=100, SUBSAMPLING=0, tolerance=6),
    "JPEG RGB 4:2:0": saved(".jpg", True, QUALITY=95, SUBSAMPLING=2, tolerance=12, smooth=True),
    "JPEG CMYK": Format(".jpg", lambda path, a: put(path, as_cmyk(a), quality=100), colour=True, tolerance=6),
    "JPEG named PNG": Format(".png", lambda path, a: put(path, a, format="JPEG", quality=100), tolerance=6),
    "BMP": saved(".bmp"),
    "BMP RGB": saved(".bmp", True),
    "GIF": saved(".gif"),
    "GIF colour": Format(".gif", lambda path, a: put(path, as_palette(a)), colour=True, levels=20),
    "WebP": saved(".webp", LOSSLESS=True),
    "WebP RGB": saved(".webp", True, LOSSLESS=True),
    "WebP lossy": saved(".webp", QUALITY=95, tolerance=12, smooth=True),
    "WebP RGB lossy": saved(".webp", True, QUALITY=95, tolerance=16, smooth=True),
}
TIFF = {
    **{
        f"TIFF {np.dtype(dtype)}": tiff(dtype)
        for dtype in (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)
    },
    **{f"TIFF 16 {how}": tiff(np.uint16, compression=how) for how in ("lzw", "zlib", "packbits", "zstd")},
    "TIFF predictor": tiff(np.uint16, compression="lzw", predictor=True),
    "TIFF big-endian": tiff(np.uint16, byteorder=">"),
    "TIFF tiles": tiff(np.uint8, tile=(16, 16)),
    "TIFF big": tiff(np.float32, bigtiff=True),
    "TIFF RGB": tiff(colour=True),
    "TIFF RGB lzw": tiff(colour=True, compression="lzw"),
    "TIFF RGB planes": tiff(colour=True, planarconfig="separate"),
    "TIFF RGB 16": tiff(np.uint16, True),
    "TIFF RGB 16 lzw": tiff(np.uint16, True, compression="lzw", predictor=True),
    "TIFF RGB 16 planes": tiff(np.uint16, True, planarconfig="separate"),
    "TIFF palette": Format(".tif", lambda path, a: put(path, as_palette(a)), colour=True, levels=20),
    "TIFF 1": Format(".tif", lambda path, a: put(path, a > 0, compression="group4"), high=1),
    "TIFF white is 0": Format(
        ".tif", lambda path, a: tifffile.imwrite(path, 255 - a, photometric="miniswhite"), np.uint8
    ),
    "TIFF white is 0, 16": Format(
        ".tif", lambda path, a: tifffile.imwrite(path, 65535 - a, photometric="miniswhite"), np.uint16, high=65535
    ),
}
ARRAYS = {
    **{
        f"NPY {np.dtype(dtype).str}": npy(dtype)
        for dtype in (bool, "u1", "i1", "<u2", "<i2", "<u4", "<i8", "<f2", "<f4", "<f8", ">u2", ">f4")
    },
    "NPY Fortran": npy(np.float32, np.asfortranarray),
    "NPY [1, H, W]": npy(np.uint8, lambda array: array[None]),
    "NPY [H, W, 1]": npy(np.uint8, lambda array: array[..., None]),
    "NPY [H, W, 3]": npy(np.uint8, colour=True),
    "NPY [H, W, 3] float": npy(np.float32, colour=True),
    "NPY [H, W, 3] 16": npy(np.uint16, np.asfortranarray, colour=True),
    "NPY [3, H, W]": npy(np.uint8, lambda array: array.transpose(2, 0, 1), colour=True),
    "NPY [3, H, W] float": npy(np.float64, lambda array: array.transpose(2, 0, 1).copy(), colour=True),
    "NIfTI": Format(".nii.gz", lambda path, array: put(path, array), np.int16, -1000, 1000),
    "NIfTI [x, y, 1]": Format(".nii", lambda path, array: put(path, array[None]), np.float32, -1000, 1000),
    "NIfTI [x, y, 1, 1]": Format(".nii.gz", lambda path, array: put(path, array[None, None]), np.uint8),
}
FORMATS = {**PNG, **ALPHAS, **PICTURES, **TIFF, **ARRAYS}


def drawn(form, height, width, seed):
    """An image for a format, in which the lowest and the highest value occur."""
    rng = np.random.default_rng(seed)
    shape = (height, width, 3) if form.colour else (height, width)
    if form.smooth:
        rows, columns = np.mgrid[:height, :width]
        planes = [40 + 170 * (a * rows / height + (1 - a) * columns / width) for a in rng.random(3)]
        return np.round(np.stack(planes, axis=-1)[..., : 3 if form.colour else 1].reshape(shape))
    values = form.low + (form.high - form.low) * rng.random(shape)
    values.flat[[0, -1]] = form.low, form.high
    values = values if np.dtype(form.dtype).kind == "f" else np.round(values)
    if form.levels:
        pixels = values.reshape(height * width, -1)
        pixels[form.levels :] = pixels[rng.integers(form.levels, size=len(pixels[form.levels :]))]
        values = pixels.reshape(shape)
    return values
