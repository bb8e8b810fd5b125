"""The consensus of an ensemble of masks of one or several classes, and STAPLE for exclusive classes."""

from dataclasses import dataclass

import numpy as np
import scipy  # its submodules load on first use
from jaxtyping import Bool, Float, Int

from ..flags.classes import Classes
from .label_maps import strongest
from .metrics import majority_vote
from .postprocess import CONSENSUS, STAPLE_EDGE, STAPLE_MAX_STEPS, STAPLE_TOLERANCE, mean_mask


def consensus(name: str, masks: Bool[np.ndarray, "M *K H W"], classes: Classes | None = None) -> np.ndarray:
    """The consensus [H, W], or [K, H, W] of several classes, of masks [M, H, W] or [M, K, H, W].

    name  "mean": the share of the masks, float32 in [0, 1]. "majority", "staple": bool; one of exclusive classes, or
          the background, wins each pixel, and ties go to the background, then to the first class; regions are
          independent
    """
    if classes is None or not classes.several:
        return CONSENSUS[name](masks)
    if name == "mean":
        return mean_mask(masks)
    if not classes.exclusive:
        return np.stack([CONSENSUS[name](masks[:, k]) for k in range(classes.count)])
    if name == "majority":
        return majority_vote(masks, classes)
    background, *others = staple_of_classes(masks).probability
    return strongest(np.stack(others), background)


@dataclass(frozen=True)
class ClassStaple:
    """The estimate of `staple_of_classes`; class 0 is the background."""

    probability: Float[np.ndarray, "L H W"]  # of each class in the hidden truth, L = K + 1; they sum to 1
    confusion: Float[np.ndarray, "M L L"]  # [m, s, t]: how often mask m has class s where the truth has class t


def staple_of_classes(masks: Bool[np.ndarray, "M K H W"]) -> ClassStaple:
    """STAPLE for exclusive classes (Warfield et al. 2004, multi-category): a confusion matrix for each mask.

    As in `postprocess.staple`, whose result it has for a single class, the prior of a class is its mean share over all
    masks, the initialisation is the mean mask, and the iteration stops when the sum of the probabilities of each class
    and all confusion matrices have converged.
    """
    M, K, *shape = np.shape(masks)
    L = K + 1
    D = (masks * np.arange(1, L)[:, None, None]).sum(1).reshape(M, -1)  # the class that each mask gives each pixel
    prior = np.bincount(D.ravel(), minlength=L) / D.size
    columns, inverse, counts = _columns(D, L)
    given = columns[:, None] == np.arange(L)[:, None]  # [M, L, P]
    W, before = given.mean(0), np.full(L + M * L * L, np.inf)
    for _ in range(STAPLE_MAX_STEPS):
        confusion = _maximisation(given, W * counts)
        W = _expectation(given, prior, confusion)
        now = np.concatenate([W @ counts, confusion.ravel()])
        if abs(now - before).max() < STAPLE_TOLERANCE:
            break
        before = now
    return ClassStaple(W[:, inverse].reshape(L, *shape), confusion)


def _columns(
    D: Int[np.ndarray, "M N"], num_classes: int
) -> tuple[Int[np.ndarray, "M P"], Int[np.ndarray, "N"], Int[np.ndarray, "P"]]:
    """The different columns of D, which of them each column is, and how often each occurs."""
    keys = np.zeros(D.shape[1], dtype=np.int64)
    for row in D:  # numbered anew for each mask, so that keys stay below pixels x classes
        _, keys = np.unique(keys * num_classes + row, return_inverse=True)
    _, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return D[:, first], inverse, counts


def _maximisation(given: Bool[np.ndarray, "M L P"], weight: Float[np.ndarray, "L P"]) -> Float[np.ndarray, "M L L"]:
    """The confusion matrices under the weights of the classes, away from 0 and 1 for finite logarithms."""
    shares = given @ weight.T / np.maximum(weight.sum(-1), STAPLE_EDGE)
    return np.clip(shares, STAPLE_EDGE, 1 - STAPLE_EDGE)


def _expectation(
    given: Bool[np.ndarray, "M L P"], prior: Float[np.ndarray, "L"], confusion: Float[np.ndarray, "M L L"]
) -> Float[np.ndarray, "L P"]:
    """Probability of each class at pixels with these decisions, computed in the log domain."""
    with np.errstate(divide="ignore"):  # a class that no mask has keeps the probability 0
        logits = np.log(prior)[:, None] + np.einsum("msp,mst->tp", given, np.log(confusion))
    return scipy.special.softmax(logits, axis=0)
