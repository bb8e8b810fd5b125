"""Resizing and padding of image planes and masks."""

import functools
from collections.abc import Iterator

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float32, Shaped
from PIL import Image

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours of a pixel within a lesion


def resize(plane: Float32[np.ndarray, "H W"], side: int) -> Float32[np.ndarray, "side side"]:
    """Resize a plane to side x side pixels: bilinear interpolation, with antialiasing when it shrinks."""
    return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR))


def pad_to(planes: Shaped[np.ndarray, "N H W"], side: int) -> Shaped[np.ndarray, "N side side"]:
    """Centre the planes in side x side pixels, padded with 0."""
    before = [(side - length) // 2 for length in planes.shape[1:]]
    around = [(b, side - length - b) for b, length in zip(before, planes.shape[1:], strict=True)]
    return np.pad(planes, [(0, 0), *around])


def resize_masks(masks: Bool[np.ndarray, "R H W"], side: int) -> Bool[np.ndarray, "R side side"]:
    """Resize the masks of a case to side x side pixels; see `resize_and_count`."""
    return resize_and_count(masks, side)[0]


def resize_and_count(masks: Bool[np.ndarray, "R H W"], side: int) -> tuple[Bool[np.ndarray, "R side side"], int]:
    """Resize the masks of a case by area, and count the lesions that would vanish.

    A pixel is foreground if more than half of its area is. A lesion, which is a connected part of a mask, that covers
    no such pixel keeps the one it covers most. That pixel is foreground in every mask that contains the lesion, so that
    nested masks remain nested.
    """
    rows, columns = (overlaps(length, side) for length in masks.shape[1:])
    half = masks.shape[1] * masks.shape[2] / 2  # the size of a pixel, in the unit of `overlaps`
    resized = rows @ (masks.astype(np.float32) @ columns.T) > half
    lost = list(_lost_lesions(masks, resized))
    for lesion, box, pixel in lost:
        around = (masks[:, *box] | ~lesion).all(axis=(1, 2))
        resized[around, *pixel] = True
    return resized, len(lost)


@functools.lru_cache(maxsize=64)
def overlaps(length: int, side: int) -> Float32[np.ndarray, "{side} {length}"]:
    """The overlap of each of `side` parts of an axis with each of its `length` pixels, in pixels / side: integers.

    Integers, because sums of fractions are not exact, and half-covered pixels are frequent. Sums over a
    mask are exact in float32 up to 2^24, the pixels of an image of 4096 x 4096.
    """
    part, pixel = np.arange(side)[:, None], np.arange(length)
    low = np.maximum(part * length, pixel * side)
    high = np.minimum((part + 1) * length, (pixel + 1) * side)
    return np.clip(high - low, 0, None).astype(np.float32)


def _lost_lesions(
    masks: Bool[np.ndarray, "R H W"], resized: Bool[np.ndarray, "R side side"]
) -> Iterator[tuple[Bool[np.ndarray, "h w"], tuple[slice, slice], tuple[int, int]]]:
    """Yield each lesion that covers no foreground pixel of its resized mask: its pixels, box, most covered pixel."""
    side = resized.shape[1]
    if side >= max(masks.shape[1:]):
        return
    rows, columns = (overlaps(length, side) for length in masks.shape[1:])
    for mask in _unreached(masks, masks & _enlarged(resized, masks.shape[1:])):
        parts, _ = scipy.ndimage.label(mask, EIGHT) if mask.any() else (mask.astype(int), 0)
        for number, box in enumerate(scipy.ndimage.find_objects(parts), start=1):
            lesion = parts[box] == number
            shares = rows[:, box[0]] @ lesion @ columns[:, box[1]].T
            yield lesion, box, np.unravel_index(shares.argmax(), shares.shape)


def _unreached(masks: Bool[np.ndarray, "R H W"], reached: Bool[np.ndarray, "R H W"]) -> Bool[np.ndarray, "R H W"]:
    """The lesions of masks without a pixel in `reached`, by growing what is reached within the masks."""
    while (reached != masks).any():
        tall = reached.copy()
        tall[:, 1:] |= reached[:, :-1]
        tall[:, :-1] |= reached[:, 1:]
        grown = tall.copy()
        grown[:, :, 1:] |= tall[:, :, :-1]
        grown[:, :, :-1] |= tall[:, :, 1:]
        grown &= masks
        if (grown == reached).all():
            break
        reached = grown
    return masks & ~reached


def _enlarged(small: Bool[np.ndarray, "R side side"], shape: tuple[int, ...]) -> Bool[np.ndarray, "R H W"]:
    """The pixels of images of this shape, at least as large, that overlap a foreground pixel of `small`."""
    side = small.shape[1]
    if not any(n % side for n in shape):
        return small.repeat(shape[1] // side, axis=2).repeat(shape[0] // side, axis=1)
    first, last = ([(np.arange(n) * side + end * (side - 1)) // n for n in shape] for end in (0, 1))
    wide = small[:, :, first[1]] | small[:, :, last[1]]
    return wide[:, first[0]] | wide[:, last[0]]
