"""Metrics of the mean mask of the samples: how it shows where they err, its calibration, and their areas.

Arguments and conventions are those of `metrics`.
"""

import numpy as np
from jaxtyping import Float64, Num

from ..flags.classes import Classes
from .pairs import Figure, Raters, Samples, as_masks, over_classes

CALIBRATION_BINS = 10


def variability_correlation(samples: Samples, raters: Raters, classes: Classes | None = None) -> Figure:
    """S_NCC (PHiSeg, Baumgartner et al. 2019), in [-1, 1].

    The mean over raters of the normalised cross-correlation between two maps: the samples' cross-entropy to their own
    mean, and the samples' cross-entropy to the rater. For binary masks, up to a common constant, these maps are
    m (1 - m) and |y - m| with the mean mask m. If a map is constant, the correlation is 0, or 1 if all samples equal
    the rater's mask.
    """
    samples, raters = as_masks(samples, classes), as_masks(raters, classes)
    M = samples.shape[-3]
    votes = samples.sum(-3)[..., None, :, :]  # integers, so that constant maps are detected exactly
    own, error = votes * (M - votes), np.where(raters, M - votes, votes)
    correlation = _correlation(*(x.reshape(*x.shape[:-2], -1) for x in (own, error)))
    return over_classes(np.where(error.any((-2, -1)), correlation, 1.0).mean(-1), classes)


def _correlation(
    a: Num[np.ndarray, "*#rows pixels"], b: Num[np.ndarray, "*#rows pixels"]
) -> Float64[np.ndarray, "*rows"]:
    """Normalised cross-correlation over the last dimension; 0 if one of the rows is constant."""
    flat = (np.ptp(a, axis=-1) == 0) | (np.ptp(b, axis=-1) == 0)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return np.where(flat, 0.0, (a * b).sum(-1) / np.where(flat, 1, scale))


def calibration_error(
    samples: Samples, raters: Raters, bins: int = CALIBRATION_BINS, classes: Classes | None = None
) -> Figure:
    """Expected calibration error of the mean mask against the raters' frequency, in [0, 1].

    Pixels are binned by the value of the mean mask into equal bins (the last one includes 1). The result is the mean of
    the absolute differences of mean value and mean frequency, weighted by the bins' numbers of pixels. Most pixels are
    background, so results for different crops are not comparable.
    """
    samples = as_masks(samples, classes)
    votes, count = samples.sum(-3), samples.shape[-3]
    bin_of = np.minimum(bins * votes // count, bins - 1)  # integers, to avoid rounding at bin edges
    excess = votes / count - as_masks(raters, classes).mean(-3)
    errors = (abs(np.where(bin_of == b, excess, 0).mean((-2, -1))) for b in range(bins))
    return over_classes(sum(errors, start=np.float64(0)), classes)


def brier_score(samples: Samples, raters: Raters, classes: Classes | None = None) -> Figure:
    """Mean over the pixels of (mean mask - raters' frequency)^2, in [0, 1].

    The mean squared difference to single raters is larger by the raters' variance, which is the same for all models.
    """
    difference = as_masks(samples, classes).mean(-3) - as_masks(raters, classes).mean(-3)
    return over_classes((difference**2).mean((-2, -1)), classes)


def area_agreement(samples: Samples, raters: Raters, classes: Classes | None = None) -> Figure:
    """Agreement of the areas, in [0, 1].

    1 - W_1(areas of the samples, areas of the raters) / (sum of the two mean areas); W_1 is the Wasserstein distance.
    For two single masks, this is volumetric similarity (Taha and Hanbury 2015). 1 if all masks are empty.
    """
    a, b = (as_masks(masks, classes).sum((-2, -1)).astype(np.float64) for masks in (samples, raters))
    length = np.lcm(a.shape[-1], b.shape[-1])
    spread = [np.sort(x.repeat(length // x.shape[-1], axis=-1), axis=-1) for x in (a, b)]
    distance, total = abs(spread[0] - spread[1]).mean(-1), a.mean(-1) + b.mean(-1)
    return over_classes(1 - distance / np.where(total > 0, total, 1), classes)
