"""Converts soft samples to masks, and an ensemble of masks to a consensus and to uncertainty maps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float, Float32, Int, Shaped

from ..flags.classes import Classes
from ..flags.fields import Flag, config, odd
from .label_maps import strongest

BringBack = Callable[[Shaped[np.ndarray, "H W"]], Float32[np.ndarray, "H0 W0"]]  # a plane at the case's own size

STAPLE_TOLERANCE = 1e-7  # for the sum of the probabilities, in pixels, and for sensitivity and specificity
STAPLE_MAX_STEPS = 10_000
STAPLE_EDGE = 1e-12  # keeps sensitivity and specificity away from 0 and 1, for finite logarithms


@config()
class PostprocessConfig:
    """Postprocessing of soft samples to masks."""

    threshold: Annotated[float, Flag("pixels above this value belong to the mask", above=0, below=1)] = 0.5
    median_blur: Annotated[
        int, Flag("side of the median filter on the masks, pixels of the network; 1: none", at_least=1, check=odd)
    ] = 1
    largest_component: Annotated[bool, Flag("keep only the largest connected component of each mask")] = False
    fill_holes: Annotated[bool, Flag("fill the holes of each mask")] = False
    output_size: Annotated[
        Literal["own", "network"],
        Flag("size of masks, maps and figures: own, that of the case's image, or network, --image_size"),
    ] = "own"


# -- masks ------------------------------------------------------------------------------------------------------------


def binarise(
    samples: Shaped[Any, "*batch H W"],
    config: PostprocessConfig = PostprocessConfig(),
    bring_back: BringBack | None = None,
    classes: Classes | None = None,
) -> Bool[np.ndarray, "*batch H0 W0"]:
    """Convert soft samples, an array or a tensor, to masks.

    Steps, in this order: median filter (commutes with the threshold, so it equals the median of the mask), the way back
    to the case's own size, threshold, largest component, holes.

    bring_back  brings a soft sample to the case's own size; None: keep its size
    classes     with several, samples are [..., K, H, W]. Filter and way back are for each class by itself. A pixel gets
                one of exclusive classes or the background, see `read_off`; regions have a threshold each
    """
    samples = np.asarray(samples)
    if config.median_blur > 1:
        window = (1,) * (samples.ndim - 2) + (config.median_blur, config.median_blur)
        samples = scipy.ndimage.median_filter(samples.astype(np.float32), size=window, mode="nearest")
    if classes is not None and classes.several and classes.exclusive:
        flat = samples.reshape(-1, *samples.shape[-3:])
        made = np.array([_binarise_exclusive(sample, config, bring_back) for sample in flat])
        return made.reshape(*samples.shape[:-3], *made.shape[1:])
    if bring_back:  # one by one, because soft samples of large images need much memory
        masks = each(lambda sample: bring_back(sample) > config.threshold, samples)
    else:
        masks = samples > config.threshold
    if config.largest_component:
        masks = each(largest_component, masks)
    if config.fill_holes:
        masks = each(scipy.ndimage.binary_fill_holes, masks)
    return masks


def _binarise_exclusive(
    sample: Shaped[np.ndarray, "K H W"], config: PostprocessConfig, bring_back: BringBack | None
) -> Bool[np.ndarray, "K H0 W0"]:
    """The steps of `binarise` from the way back on, for one sample of exclusive classes."""
    planes = np.stack([bring_back(plane) for plane in sample]) if bring_back else sample
    masks = read_off(planes, config.threshold)
    if config.largest_component:
        masks = each(largest_component, masks)
    return _fill_background(masks) if config.fill_holes else masks


def read_off(planes: Shaped[np.ndarray, "*batch K H W"], threshold: float = 0.5) -> Bool[np.ndarray, "*batch K H W"]:
    """The masks of exclusive classes: at each pixel the largest of (2 threshold - sum of all planes, planes).

    The first is the background, which also has ties. Of a single class this is `plane > threshold`. At the default
    threshold, where the classes fill a pixel their planes sum to 1, and no background can appear between them, however
    they were resized.
    """
    planes = np.asarray(planes).clip(0, 1)  # so that small values below 0, of many classes, add nothing
    return strongest(planes, np.float32(2 * threshold) - planes.sum(-3, dtype=np.float32))


def _fill_background(masks: Bool[np.ndarray, "K H W"]) -> Bool[np.ndarray, "K H W"]:
    """Fill the holes of exclusive classes where they are background; one inside several goes to the innermost."""
    filled = each(scipy.ndimage.binary_fill_holes, masks)
    masks, background = masks.copy(), ~masks.any(0)
    for k in np.argsort(filled.sum((-2, -1)), kind="stable"):
        masks[k] |= filled[k] & background
        background &= ~filled[k]
    return masks


def each(
    function: Callable[[Shaped[np.ndarray, "H W"]], Bool[np.ndarray, "H0 W0"]], planes: Shaped[np.ndarray, "*batch H W"]
) -> Bool[np.ndarray, "*batch H0 W0"]:
    """Apply `function` to each plane."""
    flat = planes.reshape(-1, *planes.shape[-2:])
    made = np.array([function(plane) for plane in flat], dtype=bool)
    return made.reshape(*planes.shape[:-2], *made.shape[1:])


def largest_component(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The largest 4-connected component of a mask; of several of equal size, the first from the top left."""
    parts, count = scipy.ndimage.label(mask)
    return parts == 1 + np.bincount(parts.ravel())[1:].argmax() if count else mask


# -- consensus --------------------------------------------------------------------------------------------------------


def mean_mask(masks: Bool[np.ndarray, "M *K H W"]) -> Float32[np.ndarray, "*K H W"]:
    """Share of the masks that mark each pixel, in [0, 1]; with several classes, as each of them."""
    return np.asarray(masks).mean(0, dtype=np.float32)


@dataclass(frozen=True)
class Staple:
    """The estimate of `staple`: the hidden truth behind a set of masks, and the performance of each mask."""

    probability: Float[np.ndarray, "H W"]  # probability that the pixel belongs to the hidden truth
    sensitivity: Float[np.ndarray, "M"]  # share of the truth's foreground that each mask marks
    specificity: Float[np.ndarray, "M"]  # share of the truth's background that each mask does not mark


def staple(masks: Bool[np.ndarray, "M H W"]) -> Staple:
    """Simultaneous truth and performance level estimation (Warfield et al. 2004).

    The foreground prior is its mean share over all masks. Expectation maximisation finds a local maximum, so the
    initialisation matters: it is the mean mask, as in ITK. The paper's alternative, sensitivities and specificities
    close to 1, leads to maxima of far lower likelihood for large ensembles. The iteration stops when the sum of the
    probabilities has converged, as published, and the sensitivities and specificities have too, because the sum alone
    can converge too early.
    """
    D = np.asarray(masks, dtype=bool).reshape(len(masks), -1)
    shape, prior = np.shape(masks)[1:], D.mean()
    if prior in (0, 1):  # all masks are empty, or all are full: nothing to estimate
        return Staple(np.full(shape, prior), np.ones(len(D)), np.ones(len(D)))

    patterns, inverse, counts = _patterns(D)
    W, before = patterns.mean(0), np.full(1 + 2 * len(D), np.inf)
    for _ in range(STAPLE_MAX_STEPS):
        weight, rest = W * counts, (1 - W) * counts
        p = np.clip(patterns @ weight / max(weight.sum(), STAPLE_EDGE), STAPLE_EDGE, 1 - STAPLE_EDGE)
        q = np.clip(~patterns @ rest / max(rest.sum(), STAPLE_EDGE), STAPLE_EDGE, 1 - STAPLE_EDGE)
        W = _staple_expectation(patterns, prior, p, q)
        now = np.concatenate([[W @ counts], p, q])
        if abs(now - before).max() < STAPLE_TOLERANCE:
            break
        before = now
    return Staple(W[inverse].reshape(shape), p, q)


def _patterns(D: Bool[np.ndarray, "M N"]) -> tuple[Bool[np.ndarray, "M P"], Int[np.ndarray, "N"], Int[np.ndarray, "P"]]:
    """The different columns of D, which of them each column is, and how often each occurs."""
    if len(D) > 64:
        columns, inverse, counts = np.unique(D, axis=1, return_inverse=True, return_counts=True)
        return columns, inverse.ravel(), counts
    keys = np.zeros(D.shape[1], dtype=np.uint64)  # a column as the bits of a number, which are far faster to sort
    for row in D:
        keys = (keys << np.uint64(1)) | row
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return D[:, first], inverse, counts


def _staple_expectation(
    D: Bool[np.ndarray, "M N"], prior: float, p: Float[np.ndarray, "M"], q: Float[np.ndarray, "M"]
) -> Float[np.ndarray, "N"]:
    """Foreground probability of pixels with decisions D, computed in the log domain."""
    a = np.log(prior) + np.where(D, np.log(p)[:, None], np.log1p(-p)[:, None]).sum(0)
    b = np.log(1 - prior) + np.where(D, np.log1p(-q)[:, None], np.log(q)[:, None]).sum(0)
    return scipy.special.expit(a - b)


CONSENSUS: dict[str, Callable[[Bool[np.ndarray, "M H W"]], np.ndarray]] = {  # {name: masks -> consensus [H, W]}
    "mean": mean_mask,
    "majority": lambda masks: mean_mask(masks) > 0.5,
    "staple": lambda masks: staple(masks).probability > 0.5,
}


# -- uncertainty ------------------------------------------------------------------------------------------------------


def variance_map(masks: Bool[np.ndarray, "M *K H W"]) -> Float32[np.ndarray, "*K H W"]:
    """Variance of the masks at each pixel, in [0, 0.25]; with several classes, of each of them."""
    m = mean_mask(masks)
    return m * (1 - m)


def entropy_map(masks: Bool[np.ndarray, "M *K H W"], classes: Classes | None = None) -> Float32[np.ndarray, "H W"]:
    """Entropy of the mean mask at each pixel, in bits, in [0, 1].

    Several classes: of exclusive ones that of the distribution of the class, the background included, at most
    log2(K + 1); of regions the sum of their entropies, at most K.
    """
    if classes is not None and classes.several and classes.exclusive:
        votes = np.sum(masks, axis=0)
        shares = np.concatenate([len(masks) - votes.sum(0, keepdims=True), votes]) / len(masks)
        return (scipy.special.entr(shares).sum(0) / np.log(2)).astype(np.float32)
    m = mean_mask(masks)
    inside = (m > 0) & (m < 1)
    m = np.where(inside, m, 0.5)
    entropy = np.where(inside, -m * np.log2(m) - (1 - m) * np.log2(1 - m), 0).astype(np.float32)
    return entropy.sum(0) if entropy.ndim > 2 else entropy
