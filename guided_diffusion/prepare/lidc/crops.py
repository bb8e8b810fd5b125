"""Square crops of CT slices and masks around a nodule, and intensity windowing."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Square:
    """The position and resolution of a crop."""

    centre: tuple[float, float]  # row, column
    spacing: tuple[float, float]  # mm between rows and between columns
    side: int  # pixels
    pixel_mm: float | None  # pixel size after linear interpolation, mm; None: keep the scanner's pixels


def crop(plane: np.ndarray, square: Square, fill: float) -> np.ndarray:
    """Crop `plane` [H, W] to `square`, [side, side] float32, with `fill` beyond the edges."""
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
    """`crop` for masks, bool; a pixel is foreground if more than half of it is."""
    row, column = square.centre
    nudged = (row + 1e-3, column + 1e-3)  # breaks ties of exactly half a pixel, so that opposite edges do not both grow
    return crop(mask, replace(square, centre=nudged), 0) > 0.5


def to_window(hounsfield: np.ndarray, low: float, high: float) -> np.ndarray:
    """Hounsfield units as 8-bit grey levels: `low` and below map to 0, `high` and above to 255."""
    return np.round(np.clip((hounsfield - low) / (high - low), 0, 1) * 255).astype(np.uint8)
