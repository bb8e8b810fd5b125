"""Samples against a known truth: the modes of a phantom, each with its mask and its probability (truth.json).

A sample is taken for the mode with which its IoU is largest, if that is at least `min_iou`; otherwise it is no
plausible mode. Modes with the same mask count as one.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules load on first use

from .pairs import iou_matrix

IMPLAUSIBLE = -1
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Truth:
    """The distribution that a case's raters were drawn from."""

    modes: np.ndarray  # [K, H, W] bool, all different
    probabilities: np.ndarray  # [K], summing to 1


def assign_modes(samples, modes, min_iou):
    """The mode of each sample: [M, H, W] and [K, H, W] bool -> [M] in 0 .. K - 1, or IMPLAUSIBLE."""
    iou = iou_matrix(samples, modes)
    return np.where(iou.max(-1) >= min_iou, iou.argmax(-1), IMPLAUSIBLE)


def mode_frequencies(assigned, num_modes):
    """Share of the samples that show each mode, [K]; they sum to 1 less the share of implausible ones."""
    return np.bincount(assigned[assigned != IMPLAUSIBLE], minlength=num_modes) / len(assigned)


def total_variation(frequencies, probabilities):
    """Total variation distance of mode frequencies [K] to the probabilities [K], in [0, 1]; implausible samples are a mode of their own."""
    return (abs(frequencies - probabilities).sum() + 1 - frequencies.sum()) / 2


def expected_total_variation(probabilities, num_samples):
    """What a perfect sampler's total variation distance is on average: its counts are multinomial."""
    counts = np.arange(num_samples + 1)[:, None]
    drawn = scipy.stats.binom.pmf(counts, num_samples, probabilities)
    return float((drawn * abs(counts / num_samples - probabilities)).sum() / 2)


def expected_squared_ged(truth, raters, num_samples, unbiased=False):
    """The squared energy distance that a perfect sampler has on average with `num_samples` samples to these raters [R, H, W].

    unbiased  of the form without self-pairs, which does not depend on num_samples
    """
    p, modes, R = truth.probabilities, truth.modes, len(raters)
    cross = p @ (1 - iou_matrix(modes, raters)).mean(-1)
    own = p @ (1 - iou_matrix(modes, modes)) @ p  # of two independent draws
    within_raters = (1 - iou_matrix(raters, raters)).mean()
    if unbiased:
        return float(2 * cross - own - within_raters * R / (R - 1))
    return float(2 * cross - own * (num_samples - 1) / num_samples - within_raters)


def calibration_curve(probabilities, frequencies, bins=CALIBRATION_BINS):
    """[{"probability", "frequency", "count"}]: means over the modes of all cases, by bins of the true probability.

    A calibrated sampler has the two equal in every bin.
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
