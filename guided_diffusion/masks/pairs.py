"""Overlap, IoU and Dice of all pairs within and between sets of masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt64

# Sets of masks: arrays or tensors, bool or another type with values 0 and 1 only, or (nested) sequences of them
Samples = Shaped[Any, "*#batch M H W"] | Sequence[Any]
Raters = Shaped[Any, "*#batch R H W"] | Sequence[Any]
# A value per set of a batch; for a single set, a NumPy scalar or a 0-dimensional array
Figure = Float64[np.ndarray, "*batch"] | np.float64


def as_masks(masks: Any) -> Bool[np.ndarray, "*batch N H W"]:
    """Convert `masks` to a bool array [..., N, H, W].

    ValueError: soft values, NaN, no masks, or fewer than three dimensions.
    """
    masks = masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
    if masks.ndim < 3 or 0 in masks.shape[-3:]:
        raise ValueError(f"shape {masks.shape}: expected at least one mask, [..., N, H, W]")
    if masks.dtype == bool:
        return masks
    binary = masks.astype(bool)
    if not np.array_equal(masks, binary):
        raise ValueError("masks have values other than 0 and 1: threshold them with postprocess.binarise")
    return binary


def overlaps(
    a: Samples, b: Raters
) -> tuple[Float64[np.ndarray, "*batch M R"], Float64[np.ndarray, "*#batch M 1"], Float64[np.ndarray, "*#batch 1 R"]]:
    """(intersections, areas of a, areas of b), in pixels, of masks a [..., M, H, W] and b [..., R, H, W]."""
    a, b = as_masks(a), as_masks(b)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"masks of {a.shape[-2:]} and of {b.shape[-2:]} pixels cannot be compared")
    a, b = _as_words(a), _as_words(b)
    common = np.stack([_count(a[..., m, None, :] & b) for m in range(a.shape[-2])], axis=-2)
    return common, _count(a)[..., :, None], _count(b)[..., None, :]


def _as_words(masks: Bool[np.ndarray, "*batch N H W"]) -> UInt64[np.ndarray, "*batch N words"]:
    """Masks as bits, 64 pixels per word."""
    bits = np.packbits(masks.reshape(*masks.shape[:-2], -1), axis=-1)
    return np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 8)]).view(np.uint64)


def _count(words: UInt64[np.ndarray, "*rows words"]) -> Float64[np.ndarray, "*rows"]:
    """The number of set bits in each row."""
    return np.bitwise_count(words).sum(-1, dtype=np.float64)


def iou_matrix(a: Samples, b: Raters) -> Float64[np.ndarray, "*batch M R"]:
    """Intersection over union of every pair, [..., M, R] in [0, 1]."""
    return _iou(*overlaps(a, b))


def dice_matrix(a: Samples, b: Raters) -> Float64[np.ndarray, "*batch M R"]:
    """Dice coefficient of every pair, [..., M, R] in [0, 1]."""
    return _dice(*overlaps(a, b))


def _iou(
    common: Float64[np.ndarray, "*batch M R"],
    area_a: Float64[np.ndarray, "*#batch M 1"],
    area_b: Float64[np.ndarray, "*#batch 1 R"],
) -> Float64[np.ndarray, "*batch M R"]:
    union = area_a + area_b - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def _dice(
    common: Float64[np.ndarray, "*batch M R"],
    area_a: Float64[np.ndarray, "*#batch M 1"],
    area_b: Float64[np.ndarray, "*#batch 1 R"],
) -> Float64[np.ndarray, "*batch M R"]:
    total = area_a + area_b
    return np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)


@dataclass(frozen=True)
class Pairs:
    """All pairs within and between samples and raters, computed in one pass over the pixels and shared by metrics.

    The tables are [..., M + R, M + R], samples first; see `split`.
    """

    common: Float64[np.ndarray, "*batch N N"]  # pixels in common; on the diagonal each mask's area
    num_samples: int
    num_pixels: int

    @classmethod
    def of(cls, samples: Samples, raters: Raters) -> "Pairs":
        """The pairs of samples [..., M, H, W] and raters [..., R, H, W]."""
        samples, raters = as_masks(samples), as_masks(raters)
        if samples.shape[-2:] != raters.shape[-2:]:
            raise ValueError(f"masks of {samples.shape[-2:]} and of {raters.shape[-2:]} pixels cannot be compared")
        batch = np.broadcast_shapes(samples.shape[:-3], raters.shape[:-3])
        both = np.concatenate([np.broadcast_to(x, batch + x.shape[-3:]) for x in (samples, raters)], axis=-3)
        return cls(overlaps(both, both)[0], samples.shape[-3], int(np.prod(samples.shape[-2:])))

    def first(self, count: int) -> "Pairs":
        """The pairs of the first `count` samples and all raters."""
        kept = np.r_[0:count, self.num_samples : self.common.shape[-1]]
        return Pairs(self.common[..., kept[:, None], kept], count, self.num_pixels)

    @property
    def areas(self) -> Float64[np.ndarray, "*batch N"]:
        """Pixels of every mask, [..., M + R]."""
        return np.diagonal(self.common, axis1=-2, axis2=-1)

    @property
    def iou(self) -> Float64[np.ndarray, "*batch N N"]:
        """Intersection over union of every pair."""
        return _iou(self.common, self.areas[..., :, None], self.areas[..., None, :])

    @property
    def dice(self) -> Float64[np.ndarray, "*batch N N"]:
        """Dice coefficient of every pair."""
        return _dice(self.common, self.areas[..., :, None], self.areas[..., None, :])

    @property
    def difference_variance(self) -> Float64[np.ndarray, "*batch N N"]:
        """Variance over the pixels of the difference of two masks, in [0, 1]."""
        a, b = self.areas[..., :, None], self.areas[..., None, :]
        return (a + b - 2 * self.common) / self.num_pixels - ((a - b) / self.num_pixels) ** 2

    def split(
        self, table: Float64[np.ndarray, "*batch N N"]
    ) -> tuple[Float64[np.ndarray, "*batch M M"], Float64[np.ndarray, "*batch M R"], Float64[np.ndarray, "*batch R R"]]:
        """Split a table into samples x samples, samples x raters, raters x raters."""
        M = self.num_samples
        return table[..., :M, :M], table[..., :M, M:], table[..., M:, M:]
