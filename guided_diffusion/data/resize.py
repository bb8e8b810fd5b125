"""Planes and masks brought to the network's size."""

import numpy as np
from PIL import Image


def resize(plane, side):
    """[H, W] float32 -> [side, side], linear, averaging where it shrinks."""
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))


def pad_to(planes, side):
    """[N, H, W] in the middle of [N, side, side], 0 around it."""
    before = [(side - length) // 2 for length in planes.shape[1:]]
    return np.pad(
        planes, ((0, 0), *((b, side - length - b) for b, length in zip(before, planes.shape[1:], strict=True)))
    )


def resize_masks(masks, side):
    """[R, H, W] bool -> [R, side, side] bool: foreground where more than half of a pixel is."""
    resized = [resize(mask.astype(np.float32), side) > 0.5 for mask in masks]
    return np.array(resized, dtype=bool).reshape(-1, side, side)
