"""Resizing and padding of image planes and masks."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float32, Shaped
from PIL import Image

EIGHT = np.ones((3, 3), dtype=bool)  # neighbours of a pixel within a lesion


def resize(plane: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Resize a plane to `size` (H, W): bilinear interpolation, with antialiasing when it shrinks."""
    height, width = size
    return np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))


def canvas(shape: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) that holds images of both `shape` and `size`, with the aspect ratio of `size`.

    An image padded to it and then resized to `size` keeps its aspect ratio, up to the rounding of one side to a pixel.
    """
    (h, w), (H, W) = shape, size
    if h <= H and w <= W:
        return size
    if h * W >= w * H:
        return h, _rounded(h * W, H)
    return _rounded(w * H, W), w


def _rounded(a: int, b: int) -> int:
    """The integer nearest to a / b."""
    return (2 * a + b) // (2 * b)


def pad_to(planes: Shaped[np.ndarray, "*N h w"], size: tuple[int, int]) -> Shaped[np.ndarray, "*N H W"]:
    """Centre the planes in `size` (H, W), padded with 0."""
    before = [(side - length) // 2 for side, length in zip(size, planes.shape[-2:], strict=True)]
    around = [(b, side - length - b) for b, side, length in zip(before, size, planes.shape[-2:], strict=True)]
    return np.pad(planes, [*[(0, 0)] * (planes.ndim - 2), *around])


def resize_masks(masks: Bool[np.ndarray, "R h w"], size: tuple[int, int]) -> Bool[np.ndarray, "R H W"]:
    """Resize the masks of a case to `size` (H, W); see `resize_and_count`."""
    return resize_and_count(masks, size)[0]


def resize_and_count(masks: Bool[np.ndarray, "R h w"], size: tuple[int, int]) -> tuple[Bool[np.ndarray, "R H W"], int]:
    """Resize the masks of a case by area, and count the lesions that would vanish.

    A pixel is foreground if more than half of its area is. A lesion, which is a connected part of a mask, that covers
    no such pixel keeps the one it covers most. That pixel is foreground in every mask that contains the lesion, so that
    nested masks remain nested.
    """
    rows, columns = _overlaps_of(masks, size)
    half = masks.shape[1] * masks.shape[2] / 2  # the size of a pixel, in the unit of `overlaps`
    resized = rows @ (masks.astype(np.float32) @ columns.T) > half
    lost = list(_lost_lesions(masks, resized))
    for lesion, box, shares in lost:
        pixel = np.unravel_index(shares.argmax(), shares.shape)
        around = (masks[:, *box] | ~lesion).all(axis=(1, 2))
        resized[around, *pixel] = True
    return resized, len(lost)


class Vanishing(NamedTuple):
    """The lesions that cover no foreground pixel after resizing: those that keep a pixel, and those that cannot."""

    kept: int = 0
    lost: int = 0


def resize_classes(
    masks: Bool[np.ndarray, "R K h w"], size: tuple[int, int], exclusive: bool
) -> tuple[Bool[np.ndarray, "R K H W"], Vanishing]:
    """As `resize_and_count`, for several classes. Nested regions remain nested.

    exclusive  a pixel has at most one class, so it gets the one with the largest part of its area, or none if the
               background has as much. So no hole appears between classes that touch. A lesion that would vanish keeps
               the pixel it covers most of those that no other class needs, and is lost if there is none
    """
    R, K = masks.shape[:2]
    if not exclusive:
        resized, kept = resize_and_count(masks.reshape(R * K, *masks.shape[2:]), size)
        return resized.reshape(R, K, *size), Vanishing(kept)
    rows, columns = _overlaps_of(masks[:, 0], size)
    areas = np.zeros((R, K + 1, *size), dtype=np.float32)  # of the background first
    areas[:, 1:] = rows @ (masks.astype(np.float32) @ columns.T)
    areas[:, 0] = masks.shape[2] * masks.shape[3] - areas[:, 1:].sum(axis=1)
    resized = areas.argmax(axis=1)[:, None] == np.arange(1, K + 1)[:, None, None]
    taken, lost = np.zeros((R, *size), dtype=bool), 0
    lesions = [(k, one) for k in range(K) for one in _lost_lesions(masks[:, k], resized[:, k])]
    for k, (lesion, box, shares) in lesions:
        around = (masks[:, k, *box] | ~lesion).all(axis=(1, 2))
        only = resized[around].sum(axis=(2, 3), keepdims=True) == 1  # the last pixel of a class
        needed = taken[around].any(axis=0) | (resized[around] & only).any(axis=(0, 1))
        free = np.where(needed, 0, shares)
        if not free.any():
            lost += 1
            continue
        pixel = np.unravel_index(free.argmax(), free.shape)
        resized[around, :, *pixel] = np.arange(K) == k
        taken[around, *pixel] = True
    return resized, Vanishing(len(lesions) - lost, lost)


def resize_ignored(ignored: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The pixels that overlap an ignored one."""
    rows, columns = _overlaps_of(ignored[None], size)
    return rows @ (ignored.astype(np.float32) @ columns.T) > 0


def _overlaps_of(
    masks: Bool[np.ndarray, "R h w"], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "H h"], Float32[np.ndarray, "W w"]]:
    """The overlaps of the rows and of the columns."""
    return overlaps(masks.shape[1], size[0]), overlaps(masks.shape[2], size[1])


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
    masks: Bool[np.ndarray, "R h w"], resized: Bool[np.ndarray, "R H W"]
) -> Iterator[tuple[Bool[np.ndarray, "box_h box_w"], tuple[slice, slice], Float32[np.ndarray, "H W"]]]:
    """Yield each lesion without a foreground pixel in its resized mask: its pixels, its box, its part of each pixel."""
    size = (resized.shape[1], resized.shape[2])
    if all(side >= length for side, length in zip(size, masks.shape[1:], strict=True)):
        return
    rows, columns = _overlaps_of(masks, size)
    for mask in _unreached(masks, masks & _enlarged(resized, masks.shape[1:])):
        parts, _ = scipy.ndimage.label(mask, EIGHT) if mask.any() else (mask.astype(int), 0)
        for number, box in enumerate(scipy.ndimage.find_objects(parts), start=1):
            lesion = parts[box] == number
            shares = rows[:, box[0]] @ lesion @ columns[:, box[1]].T
            yield lesion, box, shares


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


def _enlarged(small: Bool[np.ndarray, "R H W"], shape: tuple[int, ...]) -> Bool[np.ndarray, "R h w"]:
    """The pixels of images of this shape that overlap a foreground pixel of `small`."""
    height, width = small.shape[1:]
    if not shape[0] % height and not shape[1] % width:
        return small.repeat(shape[1] // width, axis=2).repeat(shape[0] // height, axis=1)
    return _spread(_spread(small, shape[1], axis=2), shape[0], axis=1)


def _spread(small: Bool[np.ndarray, "R H W"], length: int, axis: int) -> Bool[np.ndarray, "R H_out W_out"]:
    """Which of `length` parts of an axis overlap a foreground pixel."""
    side, part = small.shape[axis], np.arange(length)
    first, last = part * side // length, (part * side + side - 1) // length
    start = small.take(first, axis) if length >= side else np.logical_or.reduceat(small, first, axis)
    return start | small.take(last, axis)
