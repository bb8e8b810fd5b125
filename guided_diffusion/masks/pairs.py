"""Overlap, IoU and Dice of all pairs within and between sets of masks.

Masks of several classes are [..., N, K, H, W]. The IoU, the Dice coefficient and the variance of the difference of two
such masks are the means over the K classes; a class that is empty in both masks has IoU 1 and Dice 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt64

from ..flags.classes import Classes

# Sets of masks: arrays or tensors, bool or another type with values 0 and 1 only, or (nested) sequences of them;
# [..., M, H, W] and [..., R, H, W], or with several classes [..., M, K, H, W] and [..., R, K, H, W]
Samples = Shaped[Any, "*samples H W"] | Sequence[Any]
Raters = Shaped[Any, "*raters H W"] | Sequence[Any]
# A value per set of a batch; for a single set, a NumPy scalar or a 0-dimensional array
Figure = Float64[np.ndarray, "*batch"] | np.float64


def has_class_axis(classes: Classes | None) -> bool:
    """Whether masks of these classes are [..., N, K, H, W]; None is one class."""
    return classes is not None and classes.several


def as_masks(masks: Any, classes: Classes | None = None) -> Bool[np.ndarray, "*batch N H W"]:
    """Convert `masks` to a bool array [..., N, H, W]; masks of several classes to [..., K, N, H, W].

    ValueError: soft values, NaN, no masks, too few dimensions, or another number of classes.
    """
    masks = masks.detach().cpu().numpy() if hasattr(masks, "detach") else np.asarray(masks)
    several = has_class_axis(classes)
    if masks.ndim < 3 + several or 0 in masks.shape[-3 - several :]:
        shape = "[..., N, K, H, W]" if several else "[..., N, H, W]"
        raise ValueError(f"shape {masks.shape}: expected at least one mask, {shape}")
    if classes is not None and several:
        if masks.shape[-3] != classes.count:
            raise ValueError(f"shape {masks.shape}: expected {classes.kind}, [..., N, {classes.count}, H, W]")
        masks = masks.swapaxes(-4, -3)
    if masks.dtype == bool:
        return masks
    binary = masks.astype(bool)
    if not np.array_equal(masks, binary):
        raise ValueError("masks have values other than 0 and 1: threshold them with postprocess.binarise")
    return binary


def over_classes(values: Figure, classes: Classes | None, axis: int = -1) -> Any:
    """The mean over the axis of classes; of one class, which has no such axis, the values themselves."""
    return values.mean(axis) if has_class_axis(classes) else values


def valid_pixels(
    masks: Bool[np.ndarray, "*sets H W"], ignored: Bool[np.ndarray, "H W"] | None
) -> Bool[np.ndarray, "*sets H0 W0"]:
    """The masks without the ignored pixels, as one row [..., 1, pixels]; None: the masks themselves."""
    return masks if ignored is None else masks[..., None, ~ignored]


def overlaps(
    a: Samples, b: Raters, classes: Classes | None = None
) -> tuple[Float64[np.ndarray, "*batch M R"], Float64[np.ndarray, "*#batch M 1"], Float64[np.ndarray, "*#batch 1 R"]]:
    """(intersections, areas of a, areas of b), in pixels, of masks a [..., M, H, W] and b [..., R, H, W].

    With several classes each has an axis of classes before the last two.
    """
    a, b = as_masks(a, classes), as_masks(b, classes)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"masks of {a.shape[-2:]} and of {b.shape[-2:]} pixels cannot be compared")
    a, b = _as_words(a), _as_words(b)
    common = np.stack([_count(a[..., m, None, :] & b) for m in range(a.shape[-2])], axis=-2)
    return common, _count(a)[..., :, None], _count(b)[..., None, :]


def _as_words(masks: Bool[np.ndarray, "*batch N H W"]) -> UInt64[np.ndarray, "*batch N words"]:
    """Masks as bits, 64 pixels per word."""
    bits = np.packbits(masks.reshape(*masks.shape[:-2], -1), axis=-1)
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 8)])
    return np.ascontiguousarray(padded).view(np.uint64)  # `pad` keeps the order of the axes in memory


def _count(words: UInt64[np.ndarray, "*rows words"]) -> Float64[np.ndarray, "*rows"]:
    """The number of set bits in each row."""
    return np.bitwise_count(words).sum(-1, dtype=np.float64)


def iou_matrix(a: Samples, b: Raters, classes: Classes | None = None) -> Float64[np.ndarray, "*batch M R"]:
    """Intersection over union of every pair, [..., M, R] in [0, 1]."""
    return over_classes(_iou(*overlaps(a, b, classes)), classes, axis=-3)


def dice_matrix(a: Samples, b: Raters, classes: Classes | None = None) -> Float64[np.ndarray, "*batch M R"]:
    """Dice coefficient of every pair, [..., M, R] in [0, 1]."""
    return over_classes(_dice(*overlaps(a, b, classes)), classes, axis=-3)


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

    The tables are [..., M + R, M + R], samples first; see `split`. Those of several classes are means over the classes.

    common  pixels in common; on the diagonal each mask's area. Of several classes [..., K, M + R, M + R]
    several      whether `common` has that axis of classes
    skip_absent  the IoU is the mean over those classes that either mask has, and 1 if there are none
    """

    common: Float64[np.ndarray, "*batch N N"]
    num_samples: int
    num_pixels: int
    several: bool = False
    skip_absent: bool = False

    @classmethod
    def of(cls, samples: Samples, raters: Raters, classes: Classes | None = None) -> "Pairs":
        """The pairs of samples [..., M, H, W] and raters [..., R, H, W]; [..., K, H, W] each with several classes."""
        samples, raters = as_masks(samples, classes), as_masks(raters, classes)
        if samples.shape[-2:] != raters.shape[-2:]:
            raise ValueError(f"masks of {samples.shape[-2:]} and of {raters.shape[-2:]} pixels cannot be compared")
        batch = np.broadcast_shapes(samples.shape[:-3], raters.shape[:-3])
        both = np.concatenate([np.broadcast_to(x, batch + x.shape[-3:]) for x in (samples, raters)], axis=-3)
        num_pixels = int(np.prod(samples.shape[-2:]))
        return cls(overlaps(both, both)[0], samples.shape[-3], num_pixels, has_class_axis(classes))

    def first(self, count: int) -> "Pairs":
        """The pairs of the first `count` samples and all raters."""
        kept = np.r_[0:count, self.num_samples : self.common.shape[-1]]
        return replace(self, common=self.common[..., kept[:, None], kept], num_samples=count)

    def of_class(self, index: int) -> "Pairs":
        """The pairs of one of several classes."""
        return Pairs(self.common[..., index, :, :], self.num_samples, self.num_pixels)

    @property
    def areas(self) -> Float64[np.ndarray, "*batch N"]:
        """Pixels of every mask, [..., M + R]; of several classes [..., K, M + R]."""
        return np.diagonal(self.common, axis1=-2, axis2=-1)

    @property
    def iou(self) -> Float64[np.ndarray, "*batch N N"]:
        """Intersection over union of every pair."""
        a, b = self.areas[..., :, None], self.areas[..., None, :]
        table = _iou(self.common, a, b)
        if not (self.several and self.skip_absent):
            return self._over_classes(table)
        present = a + b > 0
        count = present.sum(-3)
        return np.where(count > 0, (table * present).sum(-3) / np.maximum(count, 1), 1.0)

    @property
    def dice(self) -> Float64[np.ndarray, "*batch N N"]:
        """Dice coefficient of every pair."""
        return self._over_classes(_dice(self.common, self.areas[..., :, None], self.areas[..., None, :]))

    @property
    def difference_variance(self) -> Float64[np.ndarray, "*batch N N"]:
        """Variance over the pixels of the difference of two masks, in [0, 1]."""
        a, b = self.areas[..., :, None], self.areas[..., None, :]
        return self._over_classes((a + b - 2 * self.common) / self.num_pixels - ((a - b) / self.num_pixels) ** 2)

    def _over_classes(self, table: Float64[np.ndarray, "*batch N N"]) -> Float64[np.ndarray, "*means N N"]:
        return table.mean(-3) if self.several else table

    def split(
        self, table: Float64[np.ndarray, "*batch N N"]
    ) -> tuple[Float64[np.ndarray, "*batch M M"], Float64[np.ndarray, "*batch M R"], Float64[np.ndarray, "*batch R R"]]:
        """Split a table into samples x samples, samples x raters, raters x raters."""
        M = self.num_samples
        return table[..., :M, :M], table[..., :M, M:], table[..., M:, M:]
