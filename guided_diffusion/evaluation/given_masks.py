"""The metrics of one case whose masks are in memory."""

from typing import Any

import numpy as np
from jaxtyping import Bool

from ..data.files.memory import as_array
from ..errors import DataError
from ..flags.classes import Classes
from ..masks.metrics import FigureName
from ..masks.pairs import Pairs, valid_pixels
from .class_figures import CaseMasks, figures_by_class, figures_of_raters, figures_of_samples, named

MASKS = "masks as an array or a tensor, [N, H, W] or [N, K, H, W]"


def figures_of_case(
    samples: Any, raters: Any, classes: Classes | None = None, ignored: Bool[np.ndarray, "H W"] | None = None
) -> dict[str, float]:
    """{metric: value} of samples [M, H, W] against raters [R, H, W], bool or 0 and 1.

    With several classes, samples are [M, K, H, W] and raters [R, K, H, W]; "ged" is over all classes, "ged[cup]" of
    one.

    classes  None: of masks with K > 1, they are called class1, class2, ..., and are regions if any two overlap
    DataError: they are not such masks, or differ in size or in their classes.
    """
    masks = _as_masks("samples", samples)
    truth = _as_masks("raters", raters)
    if masks.shape[-2:] != truth.shape[-2:]:
        sizes = [f"{x.shape[-1]}x{x.shape[-2]}" for x in (masks, truth)]
        raise DataError(
            f"samples of {sizes[0]} and raters of {sizes[1]} pixels cannot be compared; take both at the image's own "
            'size, or sample with output_size="network"'
        )
    counts = [x.shape[1] if x.ndim == 4 else 1 for x in (masks, truth)]
    if counts[0] != counts[1] or (classes is not None and classes.count != counts[0]):
        shape = f"[N, {classes.count}, H, W] for {classes.kind}" if classes and classes.several else "[N, K, H, W]"
        raise DataError(
            f"samples of {counts[0]} and raters of {counts[1]} classes cannot be compared; pass both as {shape}, or as "
            "[N, H, W] for a single class"
        )
    classes = classes or _classes_of(masks, truth)
    case = CaseMasks(valid_pixels(masks, ignored), valid_pixels(truth, ignored), classes)
    pairs = Pairs.of(*case)
    figures = named(figures_of_samples(case, pairs)) | figures_of_raters(case.raters, classes)
    of_classes = (figures_by_class(case, pairs, 0), figures_of_raters(case.raters, classes))
    parts = {FigureName.parse(name): value for found in of_classes for name, value in found.items()}
    by_class = {f"{part.metric}[{part.of_class}]": value for part, value in parts.items() if part.of_class}
    return {name: value for name, value in figures.items() if not FigureName.parse(name).of_class} | by_class


def _classes_of(*sets: np.ndarray) -> Classes:
    """Classes for masks without names."""
    if sets[0].ndim == 3:
        return Classes()
    numbers = range(1, sets[0].shape[1] + 1)
    overlap = any((masks.sum(1) > 1).any() for masks in sets)
    levels = tuple(() if overlap else (k,) for k in numbers)
    return Classes(tuple(f"class{k}" for k in numbers), levels, plain=not overlap)


def _as_masks(what: str, masks: Any) -> np.ndarray:
    """Masks [N, H, W], or [N, K, H, W] with K > 1, as bool. DataError: another shape, or values other than 0 and 1."""
    if isinstance(masks, (list, tuple)):
        parts = [as_array(what, mask, MASKS) for mask in masks]
        if len({part.shape for part in parts}) > 1:
            raise DataError(f"{what}: masks of different shapes; all must have the same size")
        array = np.stack(parts) if parts else np.zeros(0)
    else:
        array = as_array(what, masks, MASKS)
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise DataError(f"{what}: has shape {list(array.shape)}; at least one mask is needed, [N, H, W]")
    binary = array.astype(bool)
    if (wrong := array[array != binary]).size:
        raise DataError(f"{what}: has values other than 0 and 1, e.g. {wrong[0]:g}; pass bool, e.g. masks > 0.5")
    return binary.squeeze(axis=1) if binary.shape[1:-2] == (1,) else binary
