"""A known truth: its file, and the modes of a case at the size that is scored."""

import json
import os

import numpy as np

from ..data.image_files import read_label
from ..data.resize import pad_to, resize_masks
from ..errors import DataError
from ..masks.fidelity import Truth


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
    """`Truth` of one case of read_truth at `shape` (H, W): masks of another size are resized, or padded first (--pad), as labels are.

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
