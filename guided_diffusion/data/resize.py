"""Planes and masks brought to the network's size."""

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from PIL import Image


def resize(plane: Float32[np.ndarray, "H W"], side: int) -> Float32[np.ndarray, "side side"]:
    """A plane of side x side pixels: linear interpolation, averages where it shrinks."""
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))


def pad_to(planes: Shaped[np.ndarray, "N H W"], side: int) -> Shaped[np.ndarray, "N side side"]:
    """The planes in the middle of side x side pixels, 0 around them."""
    before = [(side - length) // 2 for length in planes.shape[1:]]
    around = [(b, side - length - b) for b, length in zip(before, planes.shape[1:], strict=True)]
    return np.pad(planes, [(0, 0), *around])


def resize_masks(masks: Bool[np.ndarray, "R H W"], side: int) -> Bool[np.ndarray, "R side side"]:
    """The masks with side x side pixels: foreground where more than half of a pixel is."""
    resized = [resize(mask.astype(np.float32), side) > 0.5 for mask in masks]
    return np.array(resized, dtype=bool).reshape(-1, side, side)
