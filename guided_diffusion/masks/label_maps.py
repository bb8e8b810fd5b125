"""Exclusive classes: the class of each pixel, and label maps, which hold all classes of a mask in one plane."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Real, Shaped, UInt

from ..flags.classes import Classes


def strongest(
    values: Shaped[np.ndarray, "*batch K H W"], background: Real[np.ndarray, "*batch H W"]
) -> Bool[np.ndarray, "*batch K H W"]:
    """The class of the largest value at each pixel, as masks; all empty where the background has the largest.

    Ties go to the background, then to the first class.
    """
    classes = np.arange(values.shape[-3])[:, None, None]
    is_foreground = values.max(-3) > background
    return (values.argmax(-3)[..., None, :, :] == classes) & is_foreground[..., None, :, :]


def label_map(masks: Bool[np.ndarray, "*batch K H W"], values: Sequence[int]) -> UInt[np.ndarray, "*batch H W"]:
    """Paint the masks of K classes into one plane, later classes over earlier ones. The background is 0.

    values  of the classes, see `Classes.values`; uint8 if they fit, otherwise uint16
    ValueError: there is not one value for each class.
    """
    masks = np.asarray(masks, dtype=bool)
    labels = np.zeros(masks.shape[:-3] + masks.shape[-2:], dtype=np.uint8 if max(values) < 256 else np.uint16)
    for mask, value in zip(np.moveaxis(masks, -3, 0), values, strict=True):
        labels[mask] = value
    return labels


def from_label_map(labels: Shaped[np.ndarray, "*batch H W"], classes: Classes) -> Bool[np.ndarray, "*batch K H W"]:
    """The masks of the classes in label maps with the values of `label_map`; the inverse of it.

    A pixel also belongs to the regions around that of its value. Classes from files of their own that overlap cannot be
    restored: the pixel has the class painted last.
    """
    return np.stack([np.isin(labels, values) for values in classes.written], axis=-3)
