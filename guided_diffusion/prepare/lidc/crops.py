"""Squares of a CT slice and of its masks, around a nodule, and the grey levels of Hounsfield units."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Square:
    """The place and the pixels of a crop."""

    centre: tuple[float, float]  # row, column
    spacing: tuple[float, float]  # mm between rows and between columns
    side: int  # pixels
    pixel_mm: float | None  # side of its pixels, mm, by linear interpolation; None: pixels stay as they are


def crop(plane: np.ndarray, square: Square, fill: float) -> np.ndarray:
    """What `square` shows of `plane` [H, W], [side, side] float32, with `fill` beyond the edges."""
    side, pixel_mm = square.side, square.pixel_mm
    steps = [1.0, 1.0] if pixel_mm is None else [pixel_mm / mm for mm in square.spacing]
    middle = [np.floor(c) if step == 1 else c for c, step in zip(square.centre, steps, strict=True)]
    rows, columns = (m + (np.arange(side) - side // 2) * step for m, step in zip(middle, steps, strict=True))
    if steps == [1.0, 1.0]:
        padded = np.pad(plane.astype(np.float32), side, constant_values=fill)
        top, left = int(rows[0]) + side, int(columns[0]) + side
        return padded[top : top + side, left : left + side]
    where = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(plane.astype(np.float32), where, order=1, mode="constant", cval=fill)


def crop_mask(mask: np.ndarray, square: Square) -> np.ndarray:
    """`crop` of a mask, bool: foreground where more than half of a pixel is."""
    row, column = square.centre
    nudged = (row + 1e-3, column + 1e-3)  # pixels that halve exactly are foreground at one side of the mask alone
    return crop(mask, replace(square, centre=nudged), 0) > 0.5


def to_window(hounsfield: np.ndarray, low: float, high: float) -> np.ndarray:
    """Hounsfield units as 8-bit grey: `low` and below is 0, `high` and above 255."""
    return np.round(np.clip((hounsfield - low) / (high - low), 0, 1) * 255).astype(np.uint8)
