"""The levels of one rater's label, from whatever its file has: grey values, a palette, colours or an alpha channel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ...errors import DataError
from .decoded import COLOURS, Decoded

DECIMALS = 5  # of levels that are not integers; scale factors of NIfTI change further ones

Levels = Any  # an int, or an array of them


@dataclass(frozen=True)
class Label:
    """The levels of one rater's label.

    values      levels; the indices of a palette; the `colour_level` of a label in colour; opacity of a mask in the
                alpha channel
    full_scale  as in `Decoded`
    notes       what was noticed; keys of NOTES, or "rising palette"
    """

    values: Shaped[np.ndarray, "H W"]
    full_scale: int | None
    lossy: bool = False
    notes: tuple[str, ...] = ()

    @property
    def in_colour(self) -> bool:
        """Whether the levels are colours."""
        return "colour" in self.notes


NOTES = {
    "alpha mask": "with the mask in the alpha channel",
    "alpha": "with a constant alpha channel, which is dropped",
    "colour": "in colour, where each colour is a level",
    "falling palette": "with a palette whose brightness orders the levels the other way, read by index",
}


def label_of(file: str, decoded: Decoded) -> Label:
    """The Label in a file. DataError: it cannot be a mask."""
    planes, alpha = decoded.planes, decoded.alpha
    if decoded.indices is not None and (alpha is None or np.ptp(alpha) == 0):
        return Label(decoded.indices, 255, notes=_brightness_order(decoded))
    if alpha is not None and np.ptp(alpha) > 0:
        constant = (planes == planes[:, :1, :1]).all()
        if not (constant or _same_parts(planes, alpha)):
            raise DataError(f"{file}: both colours and alpha channel vary; save the mask without an alpha channel")
        return Label(alpha, decoded.full_scale, notes=("alpha mask",))
    notes = () if alpha is None else ("alpha",)
    if not decoded.in_colour:
        values = np.round(planes[0], DECIMALS) if planes.dtype.kind == "f" else planes[0]
        return Label(values, decoded.full_scale, decoded.lossy, notes)
    if decoded.lossy or decoded.full_scale != 255:
        raise DataError(f"{file}: a mask in colour must have 8 bits and no lossy compression; save it as a grey PNG")
    return Label(colour_level(*planes.astype(np.int64)), None, notes=(*notes, "colour"))


def colour_level(red: Levels, green: Levels, blue: Levels) -> Levels:
    """The level of a colour of 8 bits, 0xBBRRGGBB where BB is its brightness, by which levels are ordered."""
    brightness = (299 * red + 587 * green + 114 * blue) // 1000
    return brightness << 24 | red << 16 | green << 8 | blue


def _brightness_order(decoded: Decoded) -> tuple[str, ...]:
    """The note on how the brightness of a palette changes as the index rises, over the indices in use."""
    assert decoded.indices is not None
    used, first = np.unique(decoded.indices, return_index=True)
    changes = np.diff(decoded.planes.reshape(COLOURS, -1)[:, first].astype(int).sum(axis=0))
    if len(used) < 2:
        return ()
    return ("falling palette",) if (changes < 0).all() else ("rising palette",)


def _same_parts(planes: Shaped[np.ndarray, "C H W"], alpha: Shaped[np.ndarray, "H W"]) -> bool:
    """Whether colours and opacity both have two values, in the same pixels."""
    opaque = alpha == alpha.max()
    inside, outside = planes[:, opaque], planes[:, ~opaque]
    values = (alpha.max(), alpha.min())
    return bool(np.isin(alpha, values).all() and (inside == inside[:, :1]).all() and (outside == outside[:, :1]).all())
