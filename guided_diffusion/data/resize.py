"""Resizing and padding of image planes and masks."""

import numpy as np
from jaxtyping import Bool, Float32, Shaped
from PIL import Image


def resize(plane: Float32[np.ndarray, "H W"], side: int) -> Float32[np.ndarray, "side side"]:
    """Resize a plane to side x side pixels: bilinear interpolation, with antialiasing when it shrinks."""
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))


def pad_to(planes: Shaped[np.ndarray, "N H W"], side: int) -> Shaped[np.ndarray, "N side side"]:
    """Centre the planes in side x side pixels, padded with 0."""
    before = [(side - length) // 2 for length in planes.shape[1:]]
    around = [(b, side - length - b) for b, length in zip(before, planes.shape[1:], strict=True)]
    return np.pad(planes, [(0, 0), *around])


def resize_masks(masks: Bool[np.ndarray, "R H W"], side: int) -> Bool[np.ndarray, "R side side"]:
    """Resize masks to side x side pixels; a pixel is foreground if more than half of it is."""
    resized = [resize(mask.astype(np.float32), side) > 0.5 for mask in masks]
    return np.array(resized, dtype=bool).reshape(-1, side, side)
