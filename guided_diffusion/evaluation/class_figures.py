"""The metrics of one case over all its classes and for each of them, under their names in metrics.csv."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from ..flags.classes import Classes
from ..masks import metrics
from ..masks.metrics import FigureName
from ..masks.pairs import Pairs

# of each class, with ged_of_majority and rater_diversity
OF_EACH_CLASS = ("ged", "ged_unbiased", "diversity", "hm_iou", "max_dice", "dice")


@dataclass(frozen=True)
class CaseMasks:
    """The masks of a case: samples [M, H, W] and raters [R, H, W], or [M, K, H, W] and [R, K, H, W]."""

    samples: Bool[np.ndarray, "M *K H W"]
    raters: Bool[np.ndarray, "R *K H W"]
    classes: Classes

    def __iter__(self) -> Iterator[Any]:
        return iter((self.samples, self.raters, self.classes))


def named(figures: Mapping[str, Any], count: int | None = None, of_class: str = "") -> dict[str, float]:
    """The figures with the number of samples and the class in their names."""
    return {str(FigureName(metric, count, of_class)): float(value) for metric, value in figures.items()}


def figures_of_samples(case: CaseMasks, pairs: Pairs | None = None) -> dict[str, Any]:
    """{metric: value} of samples against raters, over all classes, without those that need the true distribution."""
    scored: dict[str, Any] = metrics.all_figures(case.samples, case.raters, pairs, case.classes)
    return scored | {"ged_less_majority": scored["ged"] - ged_of_majority(case.raters, case.classes)}


def figures_by_class(case: CaseMasks, pairs: Pairs, count: int | None = None) -> dict[str, float]:
    """{name: value} of the metrics OF_EACH_CLASS; with a single class none, because they are those over all classes.

    pairs  Pairs.of(*case)
    count  of samples, for the names; None: not in the names
    """
    if not case.classes.several:
        return {}
    found: dict[str, float] = {}
    dice = metrics.majority_dice(*case)
    for k, name in enumerate(case.classes.names):
        samples, raters, of_class = case.samples[:, k], case.raters[:, k], pairs.of_class(k)
        biased, M = metrics.squared_ged(samples, raters, pairs=of_class), len(samples)
        figures = {
            "ged": biased.total,
            "diversity": biased.within_samples * M / max(M - 1, 1),
            "hm_iou": metrics.hungarian_iou(samples, raters, of_class),
            "max_dice": metrics.max_dice(samples, raters, of_class),
            "dice": np.asarray(dice)[k],
        }
        if min(M, len(raters)) > 1:
            figures["ged_unbiased"] = metrics.squared_ged(samples, raters, unbiased=True, pairs=of_class).total
        found |= named({metric: figures[metric] for metric in OF_EACH_CLASS if metric in figures}, count, name)
    return found


def present_figures(case: CaseMasks, pairs: Pairs) -> dict[str, Any]:
    """{metric: value} of GED and HM-IoU with the mean IoU over the classes that either mask has (Kohl et al. 2018)."""
    skipping = replace(pairs, skip_absent=True)
    return {
        "ged_present": metrics.squared_ged(case.samples, case.raters, pairs=skipping).total,
        "hm_iou_present": metrics.hungarian_iou(case.samples, case.raters, skipping),
    }


def figures_of_raters(raters: Bool[np.ndarray, "R *K H W"], classes: Classes) -> dict[str, float]:
    """{name: value} of the raters alone, over all classes and of each."""
    figures = {"ged_of_majority": ged_of_majority(raters, classes)}
    if len(raters) > 1:
        figures["rater_diversity"] = float(metrics.diversity(raters, classes))
    if not classes.several:
        return figures
    majority = metrics.majority_vote(raters, classes)
    for k, name in enumerate(classes.names):
        own = {"ged_of_majority": metrics.squared_ged(majority[None, k], raters[:, k]).total}
        if len(raters) > 1:
            own["rater_diversity"] = metrics.diversity(raters[:, k])
        figures |= named(own, of_class=name)
    return figures


def ged_of_majority(raters: Bool[np.ndarray, "R *K H W"], classes: Classes | None = None) -> float:
    """The squared generalized energy distance (GED) of the raters' majority vote, as a single sample."""
    return float(metrics.squared_ged(metrics.majority_vote(raters, classes)[None], raters, classes=classes).total)
