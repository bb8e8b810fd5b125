"""
Samples against a known truth: the modes of a phantom, each with its mask and its probability (truth.json).

A sample is taken for the mode with which its IoU is largest, if that is at least `min_iou`; otherwise it is no
plausible mode. Modes with the same mask count as one.
"""

import json
import os
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .data.image_files import read_label
from .data.resize import pad_to, resize_masks
from .errors import DataError
from .metrics import iou_matrix

IMPLAUSIBLE = -1
CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Truth:
    """The distribution that a case's raters were drawn from."""

    modes: np.ndarray  # [K, H, W] bool, all different
    probabilities: np.ndarray  # [K], summing to 1


def read_truth(path):
    """{case: {mode: {"probability", "mask"}}} of a truth.json, with the paths of the masks whole. DataError: it is none."""
    try:
        with open(path, encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        folder = os.path.dirname(path)
        return {
            name: {
                mode: {"probability": float(told["probability"]), "mask": os.path.join(folder, told["mask"])}
                for mode, told in case["modes"].items()
            }
            for name, case in cases.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a truth.json as make_phantom.py writes it (--truth): {error}") from error


def case_truth(modes, shape, pad=False):
    """
    `Truth` of one case of read_truth at `shape` (H, W): masks of another size are resized, or padded first (--pad), as labels are.

    DataError: no modes, masks that cannot be read or differ in size, or probabilities that are none.
    """
    masks = [read_label(told["mask"])[0] for told in modes.values()]
    if len({mask.shape for mask in masks}) != 1:
        raise DataError(f"the masks of {len(masks)} modes; some are wanted, all of one size")
    masks = np.stack(masks)
    if min(told["probability"] for told in modes.values()) < 0:
        raise DataError("the probability of a mode is below 0")
    if masks.shape[1:] != shape:
        if shape[0] != shape[1]:
            raise DataError(f"samples of {shape} pixels, but modes of {masks.shape[1:]}")
        masks = pad_to(masks, max(*masks.shape[1:], shape[0])) if pad else masks
        masks = resize_masks(masks, shape[0]) if masks.shape[1:] != shape else masks
    unlike, inverse = np.unique(masks, axis=0, return_inverse=True)
    weights = np.bincount(inverse.ravel(), [told["probability"] for told in modes.values()])
    if not np.isclose(weights.sum(), 1, atol=1e-3):
        raise DataError(f"the probabilities of the modes sum to {weights.sum():g}, not to 1")
    return Truth(unlike, weights / weights.sum())


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
    drawn = stats.binom.pmf(counts, num_samples, probabilities)
    return float((drawn * abs(counts / num_samples - probabilities)).sum() / 2)


def expected_squared_ged(truth, raters, num_samples, unbiased=False):
    """
    The squared energy distance that a perfect sampler has on average with `num_samples` samples to these raters [R, H, W].

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
    """
    [{"probability", "frequency", "count"}]: means over the modes of all cases, by bins of the true probability.

    A calibrated sampler has the two equal in every bin.
    """
    probabilities, frequencies = np.asarray(probabilities), np.asarray(frequencies)
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        {"probability": float(probabilities[here].mean()), "frequency": float(frequencies[here].mean()), "count": int(here.sum())}
        for here in (bin_of == b for b in range(bins)) if here.any()
    ]  # fmt: skip
