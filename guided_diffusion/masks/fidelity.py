"""Samples against a known truth: the modes of a phantom, each with a mask and a probability (truth.json).

A sample is assigned to the mode of largest IoU if that IoU is at least `min_iou`; otherwise it is implausible. Modes
with equal masks count as one.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import ArrayLike

from .pairs import iou_matrix

IMPLAUSIBLE = -1
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Truth:
    """The distribution that a case's raters were drawn from."""

    modes: Bool[np.ndarray, "K H W"]  # all different
    probabilities: Float[np.ndarray, "K"]  # summing to 1


class CalibrationPoint(TypedDict):
    """Modes of similar true probability, and how often they are sampled."""

    probability: float  # mean true probability
    frequency: float  # mean share of the samples
    count: int  # number of modes


def assign_modes(
    samples: Bool[np.ndarray, "M H W"], modes: Bool[np.ndarray, "K H W"], min_iou: float
) -> Int[np.ndarray, "M"]:
    """The mode of each sample, in 0 .. K - 1, or IMPLAUSIBLE."""
    iou = iou_matrix(samples, modes)
    return np.where(iou.max(-1) >= min_iou, iou.argmax(-1), IMPLAUSIBLE)


def mode_frequencies(assigned: Int[np.ndarray, "M"], num_modes: int) -> Float64[np.ndarray, "K"]:
    """Share of the samples assigned to each mode, [K]; the sum is 1 minus the share of implausible samples."""
    return np.bincount(assigned[assigned != IMPLAUSIBLE], minlength=num_modes) / len(assigned)


def total_variation(frequencies: Float[np.ndarray, "K"], probabilities: Float[np.ndarray, "K"]) -> float:
    """Total variation distance between mode frequencies and probabilities, in [0, 1].

    Implausible samples count as an additional mode of probability 0.
    """
    return float(abs(frequencies - probabilities).sum() + 1 - frequencies.sum()) / 2


def expected_total_variation(probabilities: Float[np.ndarray, "K"], num_samples: int) -> float:
    """Expected total variation distance of a perfect sampler, whose counts are multinomial."""
    counts = np.arange(num_samples + 1)[:, None]
    drawn = scipy.stats.binom.pmf(counts, num_samples, probabilities)
    return float((drawn * abs(counts / num_samples - probabilities)).sum() / 2)


def expected_squared_ged(
    truth: Truth, raters: Bool[np.ndarray, "R H W"], num_samples: int, unbiased: bool = False
) -> float:
    """Expected GED of a perfect sampler with `num_samples` samples to these raters.

    unbiased  GED without self-pairs, which does not depend on num_samples
    """
    p, modes, R = truth.probabilities, truth.modes, len(raters)
    cross = p @ (1 - iou_matrix(modes, raters)).mean(-1)
    own = p @ (1 - iou_matrix(modes, modes)) @ p  # two independent draws
    within_raters = (1 - iou_matrix(raters, raters)).mean()
    if unbiased:
        return float(2 * cross - own - within_raters * R / (R - 1))
    return float(2 * cross - own * (num_samples - 1) / num_samples - within_raters)


def calibration_curve(
    probabilities: ArrayLike, frequencies: ArrayLike, bins: int = CALIBRATION_BINS
) -> list[CalibrationPoint]:
    """Means over the modes of all cases, binned by true probability; empty bins are omitted.

    For a calibrated sampler, probability and frequency are equal in every bin.
    """
    probabilities, frequencies = np.asarray(probabilities), np.asarray(frequencies)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        {
            "probability": float(probabilities[here].mean()),
            "frequency": float(frequencies[here].mean()),
            "count": int(here.sum()),
        }
        for here in (bin_of == b for b in range(bins))
        if here.any()
    ]
