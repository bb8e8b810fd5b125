"""The known true distribution of phantoms: reading truth.json, and the modes of a case at the scored size."""

import json
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ..data.resize import canvas, pad_to, resize_masks
from ..data.surveys.levels import read_masks
from ..errors import DataError
from ..masks.fidelity import Truth


class Mode(NamedTuple):
    """One of the masks that raters can draw for a case."""

    probability: float
    mask: str  # its file


def read_truth(path: str) -> dict[str, dict[str, Mode]]:
    """{case: {name: mode}} of a truth.json, with full paths of the masks. DataError: the file is invalid."""
    try:
        with open(path, encoding="utf-8") as file:
            cases = json.load(file)["cases"]
        folder = os.path.dirname(path)
        return {
            name: {
                mode: Mode(float(entry["probability"]), os.path.join(folder, entry["mask"]))
                for mode, entry in case["modes"].items()
            }
            for name, case in cases.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a truth.json as make_phantom.py writes it (--truth): {error}") from error


def case_truth(modes: Mapping[str, Mode], size: tuple[int, int], pad: bool = False) -> Truth:
    """The truth of one case of read_truth at `size` (H, W).

    Masks of another size are resized, or padded and then resized with --pad, as labels are.
    DataError: no modes, masks that cannot be read or differ in size, or invalid probabilities.
    """
    masks_of = read_masks(mode.mask for mode in modes.values())
    read = [masks_of[mode.mask] for mode in modes.values()]
    if not read:
        raise DataError("no modes; at least one is needed")
    if len({mask.shape for mask in read}) != 1:
        raise DataError("the masks of the modes differ in size")
    masks = np.stack(read)
    probabilities = [mode.probability for mode in modes.values()]
    if min(probabilities) < 0:
        raise DataError("the probability of a mode is negative")
    if masks.shape[1:] != size:
        masks = _resized(masks, size, pad)
    different, inverse = np.unique(masks, axis=0, return_inverse=True)
    weights = np.bincount(inverse.ravel(), probabilities)
    if not np.isclose(weights.sum(), 1, atol=1e-3):
        raise DataError(f"the probabilities of the modes sum to {weights.sum():g} instead of 1")
    return Truth(different, weights / weights.sum())


def _resized(masks: Bool[np.ndarray, "K H0 W0"], size: tuple[int, int], pad: bool) -> Bool[np.ndarray, "K H W"]:
    if pad:
        masks = pad_to(masks, canvas((masks.shape[1], masks.shape[2]), size))
    return masks if masks.shape[1:] == size else resize_masks(masks, size)
