"""The metrics of one case whose masks are in memory."""

from typing import Any

import numpy as np

from ..data.files.memory import as_array
from ..errors import DataError
from .case_figures import figures_of_raters, figures_of_samples

MASKS = "masks as an array or a tensor, [N, H, W]"


def figures_of_case(samples: Any, raters: Any) -> dict[str, float]:
    """{metric: value} of samples [M, H, W] against raters [R, H, W], bool or 0 and 1.

    DataError: they are not such masks, or differ in size.
    """
    masks = _as_masks("samples", samples)
    truth = _as_masks("raters", raters)
    if masks.shape[1:] != truth.shape[1:]:
        sizes = [f"{width}x{height}" for _, height, width in (masks.shape, truth.shape)]
        raise DataError(
            f"samples of {sizes[0]} and raters of {sizes[1]} pixels cannot be compared; take both at the image's own "
            'size, or sample with output_size="network"'
        )
    figures = figures_of_samples(masks, truth) | figures_of_raters(truth)
    return {name: float(value) for name, value in figures.items()}


def _as_masks(what: str, masks: Any) -> np.ndarray:
    """Masks [N, H, W] as bool. DataError: another shape, or values other than 0 and 1."""
    if isinstance(masks, (list, tuple)):
        parts = [as_array(what, mask, MASKS) for mask in masks]
        if len({part.shape for part in parts}) > 1:
            raise DataError(f"{what}: masks of different shapes; all must have the same size")
        array = np.stack(parts) if parts else np.zeros(0)
    else:
        array = as_array(what, masks, MASKS)
    if array.ndim != 3 or 0 in array.shape:
        raise DataError(f"{what}: has shape {list(array.shape)}; at least one mask is needed, [N, H, W]")
    binary = array.astype(bool)
    if (wrong := array[array != binary]).size:
        raise DataError(f"{what}: has values other than 0 and 1, e.g. {wrong[0]:g}; pass bool, e.g. masks > 0.5")
    return binary
