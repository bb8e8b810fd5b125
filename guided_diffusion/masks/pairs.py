"""Every pair within and between sets of masks: overlaps, IoU, Dice."""

from dataclasses import dataclass

import numpy as np


def as_masks(masks):
    """`masks` as a bool array [..., N, H, W]. ValueError: soft values, NaN, no mask, or not so many dimensions."""
    masks = (
        masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
    )  # a tensor of torch, or an array
    if masks.ndim < 3 or 0 in masks.shape[-3:]:
        raise ValueError(f"shape {masks.shape}: masks [..., N, H, W] are wanted, at least one")
    if masks.dtype == bool:
        return masks
    binary = masks.astype(bool)
    if not np.array_equal(masks, binary):
        raise ValueError("values other than 0 and 1: masks are wanted; postprocess.binarise makes them")
    return binary


def overlaps(a, b):
    """Pixels in common [..., M, R], and the areas [..., M, 1] and [..., 1, R], of masks [..., M, H, W] and [..., R, H, W]."""
    a, b = as_masks(a), as_masks(b)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"masks of {a.shape[-2:]} and of {b.shape[-2:]} pixels cannot be compared")
    a, b = _as_words(a), _as_words(b)
    common = np.stack([_count(a[..., m, None, :] & b) for m in range(a.shape[-2])], axis=-2)
    return common, _count(a)[..., :, None], _count(b)[..., None, :]


def _as_words(masks):
    """Masks [..., N, H, W] bool as bits, 64 pixels a word: [..., N, words] uint64."""
    bits = np.packbits(masks.reshape(*masks.shape[:-2], -1), axis=-1)
    return np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 8)]).view(np.uint64)


def _count(words):
    """The set bits of each row, [..., words] -> [...] float64."""
    return np.bitwise_count(words).sum(-1, dtype=np.float64)


def iou_matrix(a, b):
    """Intersection over union of every pair, [..., M, R] in [0, 1]."""
    return _iou(*overlaps(a, b))


def dice_matrix(a, b):
    """Dice coefficient of every pair, [..., M, R] in [0, 1]."""
    return _dice(*overlaps(a, b))


def _iou(common, area_a, area_b):
    union = area_a + area_b - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def _dice(common, area_a, area_b):
    total = area_a + area_b
    return np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)


@dataclass(frozen=True)
class Pairs:
    """Every pair within and between samples and raters, from one matrix product, for figures that share them.

    The tables are [..., M + R, M + R], samples first; `split` cuts them up.
    """

    common: np.ndarray  # pixels in common; on the diagonal each mask's area
    num_samples: int
    num_pixels: int

    @classmethod
    def of(cls, samples, raters):
        samples, raters = as_masks(samples), as_masks(raters)
        if samples.shape[-2:] != raters.shape[-2:]:
            raise ValueError(f"masks of {samples.shape[-2:]} and of {raters.shape[-2:]} pixels cannot be compared")
        batch = np.broadcast_shapes(samples.shape[:-3], raters.shape[:-3])
        both = np.concatenate([np.broadcast_to(x, batch + x.shape[-3:]) for x in (samples, raters)], axis=-3)
        return cls(overlaps(both, both)[0], samples.shape[-3], int(np.prod(samples.shape[-2:])))

    def first(self, count):
        """The pairs of the first `count` samples and all raters."""
        kept = np.r_[0:count, self.num_samples : self.common.shape[-1]]
        return Pairs(self.common[..., kept[:, None], kept], count, self.num_pixels)

    @property
    def areas(self):
        """Pixels of every mask, [..., M + R]."""
        return np.diagonal(self.common, axis1=-2, axis2=-1)

    @property
    def iou(self):
        return _iou(self.common, self.areas[..., :, None], self.areas[..., None, :])

    @property
    def dice(self):
        return _dice(self.common, self.areas[..., :, None], self.areas[..., None, :])

    @property
    def difference_variance(self):
        """Variance over the pixels of the difference of two masks, in [0, 1]."""
        a, b = self.areas[..., :, None], self.areas[..., None, :]
        return (a + b - 2 * self.common) / self.num_pixels - ((a - b) / self.num_pixels) ** 2

    def split(self, table):
        """(samples with samples [..., M, M], samples with raters [..., M, R], raters with raters [..., R, R]) of a table."""
        M = self.num_samples
        return table[..., :M, :M], table[..., :M, M:], table[..., M:, M:]
