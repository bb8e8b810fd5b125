"""The known true distribution of phantoms: reading truth.json, and the modes of a case at the scored size."""

import itertools
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ..data.files.label import label_of
from ..data.files.read import read_file
from ..data.resize import canvas, pad_to, resize_classes, resize_masks
from ..data.surveys.levels import read_masks
from ..errors import DataError
from ..flags.classes import Classes
from ..masks.fidelity import Truth, pair_truth
from ..masks.label_maps import from_label_map
from ..masks.pairs import valid_pixels


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


def case_truth(
    modes: Mapping[str, Mode],
    size: tuple[int, int],
    pad: bool = False,
    classes: Classes | None = None,
    ignored: Bool[np.ndarray, "H W"] | None = None,
) -> Truth:
    """The truth of one case of read_truth at `size` (H, W).

    Masks of another size are resized, or padded and then resized with --pad, as labels are.

    classes  with several, the masks are label maps with the values of `Classes.values`
    ignored  pixels to leave out, see `valid_pixels`
    DataError: no modes, masks that cannot be read or differ in size, or invalid probabilities.
    """
    classes = classes or Classes()
    read = _read(modes, classes)
    if not read:
        raise DataError("no modes; at least one is needed")
    if len({mask.shape for mask in read}) != 1:
        raise DataError("the masks of the modes differ in size")
    masks = np.stack(read)
    probabilities = [mode.probability for mode in modes.values()]
    if min(probabilities) < 0:
        raise DataError("the probability of a mode is negative")
    if masks.shape[-2:] != size:
        masks = _resized(masks, size, pad, classes)
    masks = valid_pixels(masks, ignored)
    different, inverse = np.unique(masks, axis=0, return_inverse=True)
    weights = np.bincount(inverse.ravel(), probabilities)
    if not np.isclose(weights.sum(), 1, atol=1e-3):
        raise DataError(f"the probabilities of the modes sum to {weights.sum():g} instead of 1")
    pairs = pair_truth(list(modes), masks, probabilities) if masks.ndim == 4 and classes.count == 2 else None
    return Truth(different, weights / weights.sum(), classes, pairs)


def _read(modes: Mapping[str, Mode], classes: Classes) -> list[Bool[np.ndarray, "*K H W"]]:
    """The masks of the modes. DataError: they cannot be read, or have other values than the classes."""
    if not classes.several:
        masks = read_masks(mode.mask for mode in modes.values())
        return [masks[mode.mask] for mode in modes.values()]
    known, found = {0, *itertools.chain(*classes.written)}, []
    for mode in modes.values():
        labels = label_of(mode.mask, read_file(mode.mask)).values
        if unknown := sorted(set(np.unique(labels).tolist()) - known):
            expected = ", ".join(map(str, sorted(known)))
            raise DataError(f"{mode.mask}: has the value {unknown[0]:g}; {classes.kind} have {expected}")
        found.append(from_label_map(labels, classes))
    return found


def _resized(
    masks: Bool[np.ndarray, "N *K H0 W0"], size: tuple[int, int], pad: bool, classes: Classes
) -> Bool[np.ndarray, "N *K H W"]:
    if pad:
        masks = pad_to(masks, canvas((masks.shape[-2], masks.shape[-1]), size))
    if masks.shape[-2:] == size:
        return masks
    return resize_classes(masks, size, classes.exclusive)[0] if classes.several else resize_masks(masks, size)
