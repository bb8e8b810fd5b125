"""Metrics between two sets of masks: the samples of a model and the outlines of the raters.

Arguments are masks, boolean arrays or tensors (other types must contain only 0 and 1): samples [..., M, H, W], raters
[..., R, H, W]. Leading dimensions are a batch; results are float64 of that shape. With several `classes`, masks have an
axis of classes, [..., M, K, H, W], and the results are over all classes. Conventions of all functions here:

- Two empty masks agree completely: IoU 1, Dice 1. An empty and a non-empty mask have IoU 0, Dice 0.
- The distance between masks is d = 1 - IoU. With several classes, IoU, Dice and V of a pair of masks are the means over
  the classes, and metrics that do not compare pairs are the means of those of each class.
- All members of a set have equal weight; repeated masks count repeatedly, for samples and raters.
- Self-pairs: the biased GED (the usual form) includes the distance of each mask to itself, the unbiased GED does not.
  Diversity is a mean over pairs of distinct members; a single sample has diversity 0.
- Of a single rater, the diversity is unknown, not 0: D_a is NaN. `all_figures` leaves out D_a, CI and the unbiased GED.
- A majority is more than half of the masks: a tie is background. For exclusive classes see `majority_vote`.
- All metrics depend on the number of samples M. Always report M, and compare at equal M only.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float64

from ..flags.classes import Classes
from .label_maps import strongest
from .mean_maps import area_agreement, brier_score, calibration_error, variability_correlation
from .pairs import Figure, Pairs, Raters, Samples, as_masks, dice_matrix, iou_matrix, over_classes

# -- distance and diversity -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnergyDistance:
    """The squared generalized energy distance, GED in this project and in the literature, and its terms, each [...]."""

    total: Figure  # 2 * cross - within_samples - within_raters
    cross: Figure  # E d(S, Y)
    within_samples: Figure  # E d(S, S')
    within_raters: Figure  # E d(Y, Y')


def squared_ged(
    samples: Samples, raters: Raters, unbiased: bool = False, pairs: Pairs | None = None, classes: Classes | None = None
) -> EnergyDistance:
    """The squared generalized energy distance, GED in this project and in the literature (Kohl et al. 2018).

    GED = 2 E d(S, Y) - E d(S, S') - E d(Y, Y') for samples S, S' and raters Y, Y'.

    unbiased  exclude the distance of a mask to itself; needs at least two samples and two raters, and can be negative.
              The biased GED decreases with the number of samples: E[GED_M] = GED_inf + E d(S, S') / M.
    pairs     Pairs.of(samples, raters, classes), if already computed
    """
    pairs = pairs or Pairs.of(samples, raters, classes)
    samples_iou, cross_iou, raters_iou = pairs.split(pairs.iou)
    cross = 1 - cross_iou.mean((-2, -1))
    within_samples = _mean_distance_within(samples_iou, unbiased)
    within_raters = _mean_distance_within(raters_iou, unbiased)
    return EnergyDistance(2 * cross - within_samples - within_raters, cross, within_samples, within_raters)


def _mean_distance_within(iou: Float64[np.ndarray, "*batch N N"], unbiased: bool) -> Figure:
    count = iou.shape[-1]
    if unbiased and count < 2:
        raise ValueError("the unbiased GED needs at least two masks in each set")
    biased = 1 - iou.mean((-2, -1))
    return biased * count / (count - 1) if unbiased else biased  # self-pairs have distance 0


def diversity(masks: Samples, classes: Classes | None = None) -> Figure:
    """Mean distance over pairs of distinct masks of a set [..., N, H, W], in [0, 1]; 0 for a single mask."""
    iou = iou_matrix(masks, masks, classes)
    return _mean_distance_within(iou, unbiased=iou.shape[-1] > 1)


# -- matching ---------------------------------------------------------------------------------------------------------


def hungarian_iou(
    samples: Samples, raters: Raters, pairs: Pairs | None = None, classes: Classes | None = None
) -> Figure:
    """Hungarian-matched IoU (HM-IoU; Kohl et al. 2019), in [0, 1].

    Both sets are repeated to the least common multiple of their sizes and matched one to one with maximal total IoU;
    the result is the mean IoU of the matched pairs. That multiple determines time and memory: it is 700 for 100 samples
    and 7 raters.
    """
    pairs = pairs or Pairs.of(samples, raters, classes)
    iou = pairs.split(pairs.iou)[1]
    M, R = iou.shape[-2:]
    length = np.lcm(M, R)
    repeated = iou.repeat(length // M, axis=-2).repeat(length // R, axis=-1).reshape(-1, length, length)
    match = scipy.optimize.linear_sum_assignment
    matched = [table[match(table, maximize=True)].mean() for table in repeated]
    return np.reshape(matched, iou.shape[:-2])


def max_dice(samples: Samples, raters: Raters, pairs: Pairs | None = None, classes: Classes | None = None) -> Figure:
    """Maximum Dice matching D_max (CIMD): the mean over raters of the best Dice among the samples, in [0, 1]."""
    pairs = pairs or Pairs.of(samples, raters, classes)
    return pairs.split(pairs.dice)[1].max(-2).mean(-1)


# -- collective insight -----------------------------------------------------------------------------------------------


def combined_sensitivity(samples: Samples, raters: Raters, classes: Classes | None = None) -> Figure:
    """S_c (CIMD): the share of the raters' union that the samples' union covers, in [0, 1].

    If all raters' masks are empty: 1 if all samples are empty too, otherwise 0.
    """
    found, marked = as_masks(samples, classes).any(-3), as_masks(raters, classes).any(-3)
    area = marked.sum((-2, -1))
    covered = (found & marked).sum((-2, -1))
    return over_classes(np.where(area > 0, covered / np.maximum(area, 1), ~np.any(found, axis=(-2, -1))), classes)


def diversity_agreement(
    samples: Samples, raters: Raters, variance: str = "dice", pairs: Pairs | None = None, classes: Classes | None = None
) -> Figure:
    """D_a (CIMD) = 1 - (|Vmax_Y - Vmax_S| + |Vmin_Y - Vmin_S|) / 2, in [0, 1]; NaN for a single rater.

    Vmax and Vmin are the maximum and minimum of V over pairs of distinct members of a set, 0 for a single sample. The
    paper's term "variance" has two possible readings:

    variance  "dice": V = 1 - Dice; D_a ranges from 0.5 to 1 in practice. "pixels": V = variance over the pixels of the
              difference of two masks; V is tiny for masks much smaller than the image, so D_a exceeds 0.99 for any
              model
    """
    pairs = pairs or Pairs.of(samples, raters, classes)
    tables = {"dice": lambda: 1 - pairs.dice, "pixels": lambda: pairs.difference_variance}
    if variance not in tables:
        raise ValueError(f"variance {variance}: choose one of {', '.join(tables)}")
    within_samples, _, within_raters = pairs.split(tables[variance]())
    (high_S, low_S), (high_Y, low_Y) = _extremes(within_samples, 0.0), _extremes(within_raters, np.nan)
    return 1 - (np.abs(high_Y - high_S) + np.abs(low_Y - low_S)) / 2


def _extremes(table: Float64[np.ndarray, "*batch N N"], alone: float) -> tuple[Figure, Figure]:
    """The maximum and minimum off the diagonal, each [...]; `alone` for a set of a single mask."""
    count = table.shape[-1]
    if count == 1:
        return np.full(table.shape[:-2], alone), np.full(table.shape[:-2], alone)
    values = table[..., ~np.eye(count, dtype=bool)]
    return values.max(-1), values.min(-1)


def collective_insight(
    sensitivity: Figure | float, max_dice: Figure | float, agreement: Figure | float, harmonic: bool = False
) -> Figure:
    """CI score (CIMD) of S_c, D_max and D_a, in [0, 1].

    harmonic  False: the paper's formula, 3 S_c D_max D_a / (S_c + D_max + D_a). True: the harmonic mean, as the paper
              describes the score in words, 3 / (1 / S_c + 1 / D_max + 1 / D_a); 0 if any of the three is 0
    """
    a, b, c = (np.asarray(x, dtype=np.float64) for x in (sensitivity, max_dice, agreement))
    below = a * b + b * c + c * a if harmonic else a + b + c
    return np.where(below > 0, 3 * a * b * c / np.where(below > 0, below, 1), 0.0)


# -- the ensemble as one map ------------------------------------------------------------------------------------------


def majority_vote(masks: Samples, classes: Classes | None = None) -> Bool[np.ndarray, "*batch H W"]:
    """The pixels that more than half of the masks mark: [..., N, H, W] -> [..., H, W] bool.

    Several classes: [..., K, H, W]. Exclusive ones: the class with most votes, the background included; ties go to the
    background, then to the first class. Regions: each by itself.
    """
    masks = as_masks(masks, classes)
    votes, count = masks.sum(-3), masks.shape[-3]
    if classes is not None and classes.several and classes.exclusive:
        return strongest(votes, count - votes.sum(-3))
    return 2 * votes > count


def majority_dice(samples: Samples, raters: Raters, classes: Classes | None = None) -> Figure:
    """Dice of the two majority masks, in [0, 1]; with several classes that of each, [..., K]."""
    a, b = (majority_vote(masks, classes)[..., None, :, :] for masks in (samples, raters))
    return dice_matrix(a, b)[..., 0, 0]


def mean_mask_dice(samples: Samples, raters: Raters, classes: Classes | None = None) -> Figure:
    """Dice of the samples' majority mask (mean mask above 0.5) against the raters' majority mask, in [0, 1]."""
    return over_classes(majority_dice(samples, raters, classes), classes)


# -- all of them ------------------------------------------------------------------------------------------------------

# {metric: description}; an arrow at the end points to better values
FIGURES = {
    "ged": "GED, squared generalized energy distance, with self-pairs (the usual form) ↓",
    "ged_unbiased": "GED without self-pairs; its expectation does not depend on the number of samples ↓",
    "ged_cross": "mean distance between samples and raters, E d(S, Y)",
    "diversity": "mean distance between distinct samples; best if equal to that of the raters (rater_diversity)",
    "hm_iou": "Hungarian-matched IoU ↑",
    "ci": "collective insight, the paper's formula, variance read as 1 - Dice ↑",
    "ci_harmonic": "collective insight as a true harmonic mean, variance read as 1 - Dice ↑",
    "ci_pixels": "collective insight, the paper's formula, variance read as that of the pixels' difference ↑",
    "sensitivity": "combined sensitivity S_c ↑",
    "max_dice": "maximum Dice matching D_max ↑",
    "agreement": "diversity agreement D_a, variance read as 1 - Dice ↑",
    "agreement_pixels": "diversity agreement D_a, variance read as that of the pixels' difference ↑",
    "dice": "Dice of the samples' majority mask against the raters' majority mask ↑",
    "ncc": "correlation of the samples' variability with their error to each rater, S_NCC ↑",
    "calibration": "expected calibration error of the mean mask against the raters' frequency ↓",
    "brier": "mean squared difference between mean mask and raters' frequency ↓",
    "area": "agreement of the distributions of areas ↑",
}
OF_RATERS = ("ged_of_majority", "rater_diversity")  # of the raters alone, so that they have no number of samples
# need the raters' diversity, which a single rater does not have
OF_SEVERAL_RATERS = ("ci", "ci_harmonic", "ci_pixels", "agreement", "agreement_pixels")


def all_figures(
    samples: Samples, raters: Raters, pairs: Pairs | None = None, classes: Classes | None = None
) -> dict[str, Figure]:
    """{name: metric [...]} for all FIGURES, without those that a single rater or a single sample leaves undefined.

    For a single rater, these are ged_unbiased and OF_SEVERAL_RATERS; for a single sample, ged_unbiased.
    """
    pairs = pairs or Pairs.of(samples, raters, classes)
    biased = squared_ged(samples, raters, pairs=pairs)
    M, R = pairs.num_samples, pairs.common.shape[-1] - pairs.num_samples
    parts = {
        "sensitivity": combined_sensitivity(samples, raters, classes),
        "max_dice": max_dice(samples, raters, pairs),
        "agreement": diversity_agreement(samples, raters, "dice", pairs),
        "agreement_pixels": diversity_agreement(samples, raters, "pixels", pairs),
    }
    found, best, alike, alike_pixels = parts.values()
    figures = {
        "ged": biased.total,
        "ged_cross": biased.cross,
        "diversity": biased.within_samples * M / max(M - 1, 1),
        "hm_iou": hungarian_iou(samples, raters, pairs),
        "ci": collective_insight(found, best, alike),
        "ci_harmonic": collective_insight(found, best, alike, harmonic=True),
        "ci_pixels": collective_insight(found, best, alike_pixels),
        **parts,
        "dice": mean_mask_dice(samples, raters, classes),
        "ncc": variability_correlation(samples, raters, classes),
        "calibration": calibration_error(samples, raters, classes=classes),
        "brier": brier_score(samples, raters, classes),
        "area": area_agreement(samples, raters, classes),
    }
    if M > 1 and R > 1:
        figures["ged_unbiased"] = squared_ged(samples, raters, unbiased=True, pairs=pairs).total
    left_out = () if R > 1 else OF_SEVERAL_RATERS
    return {name: figures[name] for name in FIGURES if name in figures and name not in left_out}


# -- names ------------------------------------------------------------------------------------------------------------


class FigureName(NamedTuple):
    """The name of a metric in tables and files: "ged_16", or "ged_16_cup" for one of several classes.

    num_samples  None: the metric does not depend on samples
    of_class     empty: the metric is over all classes
    """

    metric: str
    num_samples: int | None = None
    of_class: str = ""

    def __str__(self) -> str:
        return "_".join(str(part) for part in self if part not in (None, ""))

    @classmethod
    def parse(cls, name: str) -> "FigureName":
        """The parts of a name; a name of another form is a metric."""
        for metric in OF_RATERS:
            if name.startswith(f"{metric}_"):
                return cls(metric, None, name.removeprefix(f"{metric}_"))
        if match := re.fullmatch(r"(\D+?)_(\d+)(?:_(.+))?", name):
            return cls(match[1], int(match[2]), match[3] or "")
        return cls(name)


def split_count(name: str) -> tuple[str, int | None]:
    """Metric and number of samples of a name: "ged_16" -> ("ged", 16), "diversity" -> ("diversity", None)."""
    found = FigureName.parse(name)
    return found.metric, found.num_samples
