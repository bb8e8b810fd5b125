"""
Set-against-set mask metrics: the samples of a model against the outlines of the raters.

Arguments are boolean arrays (or tensors on the CPU): samples [..., M, H, W], raters [..., R, H, W]; the leading
dimensions are a batch. Conventions, for every function here:

- Two empty masks agree completely: IoU 1, Dice 1. An empty mask and another have IoU 0, Dice 0.
- The distance is d = 1 - IoU. Sets are weighed evenly: repeated masks count as often as they stand there.
- The biased energy distance pairs every mask with itself as well (the usual form); the unbiased one leaves these out.
- A majority is more than half of the raters: a tie is background.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EnergyDistance:
    """Squared generalised energy distance and its three parts, each [...]."""

    total: np.ndarray  # 2 * cross - within_samples - within_raters
    cross: np.ndarray  # E d(S, Y)
    within_samples: np.ndarray  # E d(S, S')
    within_raters: np.ndarray  # E d(Y, Y')


def overlaps(a, b):
    """Pixels in common [..., M, R], and the areas [..., M, 1] and [..., 1, R], of masks [..., M, H, W] and [..., R, H, W]."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if a.shape[-2:] != b.shape[-2:]:
        raise ValueError(f"masks of {a.shape[-2:]} and of {b.shape[-2:]} pixels cannot be compared")
    a = a.reshape(*a.shape[:-2], -1).astype(np.float32)  # float32 counts whole pixels exactly up to 2^24
    b = b.reshape(*b.shape[:-2], -1).astype(np.float32)
    common = a @ np.swapaxes(b, -1, -2)
    return tuple(x.astype(np.float64) for x in (common, a.sum(-1)[..., :, None], b.sum(-1)[..., None, :]))


def iou_matrix(a, b):
    """Intersection over union of every pair, [..., M, R] in [0, 1]."""
    common, area_a, area_b = overlaps(a, b)
    union = area_a + area_b - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def dice_matrix(a, b):
    """Dice coefficient of every pair, [..., M, R] in [0, 1]."""
    common, area_a, area_b = overlaps(a, b)
    total = area_a + area_b
    return np.where(total > 0, 2 * common / np.maximum(total, 1), 1.0)


def squared_ged(samples, raters, unbiased=False):
    """
    Squared generalised energy distance, 2 E d(S, Y) - E d(S, S') - E d(Y, Y') (Kohl et al. 2018, eq. 6): EnergyDistance.

    unbiased  leave out a mask's distance to itself; this wants two samples and two raters at least, and may be
              below 0. The biased figure shrinks with the number of samples M, so say M wherever it is shown.
    """
    cross = 1 - iou_matrix(samples, raters).mean((-2, -1))
    within_samples = _mean_distance_within(samples, unbiased)
    within_raters = _mean_distance_within(raters, unbiased)
    return EnergyDistance(2 * cross - within_samples - within_raters, cross, within_samples, within_raters)


def _mean_distance_within(masks, unbiased):
    count = np.shape(masks)[-3]
    if unbiased and count < 2:
        raise ValueError("the unbiased energy distance wants at least two masks in each set")
    biased = 1 - iou_matrix(masks, masks).mean((-2, -1))
    return biased * count / (count - 1) if unbiased else biased  # the self-pairs add nothing to the sum


def majority_vote(raters):
    """The pixels that more than half of the raters mark: [..., R, H, W] -> [..., H, W] bool."""
    return np.asarray(raters, dtype=np.float32).mean(-3) > 0.5


def mean_mask_dice(samples, raters):
    """Dice of the samples' majority against the raters' majority, [...]."""
    a, b = majority_vote(samples)[..., None, :, :], majority_vote(raters)[..., None, :, :]
    return dice_matrix(a, b)[..., 0, 0]
