"""Samples against a known truth: the modes of a phantom, each with a mask and a probability (truth.json).

A sample is assigned to the mode of largest IoU if that IoU is at least `min_iou`; otherwise it is implausible. Modes
with equal masks count as one. With several classes the IoU is the mean over the classes.

Where the modes are pairs, such as one of the disc and one of the cup, the figures of the pairs say whether a method
draws both together: it may have the right frequencies of each and still combine them as if they were independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float, Float64, Int
from numpy.typing import ArrayLike

from ..flags.classes import Classes
from .pairs import Pairs, iou_matrix

IMPLAUSIBLE = -1
CALIBRATION_BINS = 10
PAIR_SEPARATOR = "+"  # between the names of the two parts of a mode
SIMULATED_SETS = 2000  # of samples, for the expected information


@dataclass(frozen=True)
class PairTruth:
    """Modes that are pairs: the A modes of class 1, the B modes of class 2, and how often each two occur together."""

    planes: Bool[np.ndarray, "2 N H W"]  # of each class in each of the N pairs
    parts: Int[np.ndarray, "2 N"]  # the mode of each class in each of the N pairs
    joined: tuple[bool, bool]  # whether the planes of a class are the union of both classes
    probabilities: Float[np.ndarray, "A B"]


@dataclass(frozen=True)
class Truth:
    """The distribution that a case's raters were drawn from."""

    modes: Bool[np.ndarray, "N *K H W"]  # all different
    probabilities: Float[np.ndarray, "N"]  # summing to 1
    classes: Classes = field(default_factory=Classes)
    pairs: PairTruth | None = None  # None: the modes are not pairs


class CalibrationPoint(TypedDict):
    """Modes of similar true probability, and how often they are sampled."""

    probability: float  # mean true probability
    frequency: float  # mean share of the samples
    count: int  # number of modes


def assign_modes(
    samples: Bool[np.ndarray, "M *K H W"],
    modes: Bool[np.ndarray, "N *K H W"],
    min_iou: float,
    classes: Classes | None = None,
) -> Int[np.ndarray, "M"]:
    """The mode of each sample, in 0 .. N - 1, or IMPLAUSIBLE.

    The IoU is the mean over the classes that either has: of many classes, most are absent on both sides.
    """
    pairs = replace(Pairs.of(samples, modes, classes), skip_absent=True)
    iou = pairs.split(pairs.iou)[1]
    return np.where(iou.max(-1) >= min_iou, iou.argmax(-1), IMPLAUSIBLE)


def mode_frequencies(assigned: Int[np.ndarray, "M"], num_modes: int) -> Float64[np.ndarray, "N"]:
    """Share of the samples assigned to each mode, [N]; the sum is 1 minus the share of implausible samples."""
    return np.bincount(assigned[assigned != IMPLAUSIBLE], minlength=num_modes) / len(assigned)


def total_variation(frequencies: Float[np.ndarray, "N"], probabilities: Float[np.ndarray, "N"]) -> float:
    """Total variation distance between mode frequencies and probabilities, in [0, 1].

    Implausible samples count as an additional mode of probability 0.
    """
    return float(abs(frequencies - probabilities).sum() + 1 - frequencies.sum()) / 2


def expected_total_variation(probabilities: Float[np.ndarray, "N"], num_samples: int) -> float:
    """Expected total variation distance of a perfect sampler, whose counts are multinomial."""
    counts = np.arange(num_samples + 1)[:, None]
    drawn = scipy.stats.binom.pmf(counts, num_samples, probabilities)
    return float((drawn * abs(counts / num_samples - probabilities)).sum() / 2)


def expected_squared_ged(
    truth: Truth, raters: Bool[np.ndarray, "R *K H W"], num_samples: int, unbiased: bool = False
) -> float:
    """Expected GED of a perfect sampler with `num_samples` samples to these raters.

    unbiased  GED without self-pairs, which does not depend on num_samples
    """
    p, modes, classes, R = truth.probabilities, truth.modes, truth.classes, len(raters)
    cross = p @ (1 - iou_matrix(modes, raters, classes)).mean(-1)
    own = p @ (1 - iou_matrix(modes, modes, classes)) @ p  # two independent draws
    within_raters = (1 - iou_matrix(raters, raters, classes)).mean()
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


# -- modes that are pairs ---------------------------------------------------------------------------------------------


def pair_truth(
    names: Sequence[str], masks: Bool[np.ndarray, "N 2 H W"], probabilities: Sequence[float]
) -> PairTruth | None:
    """The pairs of modes with these names and masks of two classes; None: the names are not pairs "one+other".

    The first part of a name is the mode of class 1, the second that of class 2. A mode is recognised by the plane of
    its class or, if that depends less on the other part, by the union of both classes: exclusive classes cut a cup out
    of the disc, so only their union shows the disc as it was drawn.
    """
    split = [name.split(PAIR_SEPARATOR) for name in names]
    if any(len(parts) != 2 for parts in split):
        return None
    parts = np.array([np.unique(of_class, return_inverse=True)[1] for of_class in zip(*split, strict=True)])
    probability = np.zeros(parts.max(1) + 1)
    np.add.at(probability, tuple(parts), probabilities)
    union, planes, joined = masks[:, 0] | masks[:, 1], [], []
    for own, of_class in zip(np.moveaxis(masks, 1, 0), parts, strict=True):
        joined.append(_likeness(union, of_class) > _likeness(own, of_class))
        planes.append(union if joined[-1] else own)
    return PairTruth(np.stack(planes), parts, (joined[0], joined[1]), probability / probability.sum())


def _likeness(planes: Bool[np.ndarray, "N H W"], parts: Int[np.ndarray, "N"]) -> float:
    """Mean IoU of the planes of pairs with the same mode of a class."""
    return float(iou_matrix(planes, planes)[parts[:, None] == parts].mean())


def pair_frequencies(samples: Bool[np.ndarray, "M 2 H W"], truth: PairTruth) -> Float64[np.ndarray, "A B"]:
    """Share of the samples in each pair; the mode of a class is that of largest IoU, however small."""
    found = []
    for k in range(2):
        planes = samples.any(1) if truth.joined[k] else samples[:, k]
        found.append(truth.parts[k][iou_matrix(planes, truth.planes[k]).argmax(-1)])
    counts = np.zeros(truth.probabilities.shape)
    np.add.at(counts, tuple(found), 1)
    return counts / len(samples)


def mutual_information(joint: Float[np.ndarray, "*sets A B"]) -> Float64[np.ndarray, "*sets"] | np.float64:
    """Mutual information of two variables with these joint frequencies, in bits."""
    entropies = (scipy.special.entr(joint.sum(axis)).sum(-1) for axis in (-1, -2))
    return (sum(entropies) - scipy.special.entr(joint).sum((-2, -1))) / np.log(2)


def expected_information(probabilities: Float[np.ndarray, "A B"], num_samples: int) -> float:
    """Expected mutual information of the frequencies in `num_samples` draws of pairs, in bits; simulated, seed 0.

    It exceeds that of the probabilities, the more the fewer samples there are.
    """
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(num_samples, probabilities.ravel(), size=SIMULATED_SETS) / num_samples
    return float(np.mean(mutual_information(drawn.reshape(-1, *probabilities.shape))))


def pair_figures(samples: Bool[np.ndarray, "M 2 H W"], truth: PairTruth) -> dict[str, float]:
    """{metric: value} of the pairs of modes in the samples.

    The information rises by chance, so it is to be compared with that expected of as many samples that are drawn
    together, as the truth has them, or independently, each class with its probabilities in the truth.
    """
    p, frequencies, M = truth.probabilities, pair_frequencies(samples, truth), len(samples)
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    information, perfect = float(mutual_information(frequencies)), expected_information(p, M)
    return {
        "joint_tv": float(abs(frequencies - p).sum() / 2),
        "joint_tv_of_perfect": expected_total_variation(p.ravel(), M),
        "joint_information": information,
        "joint_information_of_truth": float(mutual_information(p)),
        "joint_information_of_perfect": perfect,
        "joint_information_of_independent": expected_information(independent, M),
        "joint_excess": information - perfect,
    }
