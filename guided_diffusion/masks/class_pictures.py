"""Masks of several classes on sheets: a colour and a legend for the classes, and label maps in these colours."""

import colorsys

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from ..flags.classes import Classes
from .label_maps import label_map

# Okabe and Ito's colours, which colour-blind readers can distinguish; bright ones first, for outlines on dark images
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
TURN = 0.381966  # of the circle of hues, the golden section: any number of hues are far apart

Colour = tuple[int, int, int]


def colours_of(count: int) -> list[Colour]:
    """Distinct colours for `count` classes; beyond PALETTE, hues of alternating lightness and saturation."""
    more = []
    for k in range(count - len(PALETTE)):
        lightness, saturation = (0.75, 0.9) if k % 2 else (0.35, 0.7)
        red, green, blue = colorsys.hls_to_rgb(k * TURN % 1, lightness, saturation)
        more.append((round(255 * red), round(255 * green), round(255 * blue)))
    return [*PALETTE[:count], *more]


def coloured(masks: Bool[np.ndarray, "K H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The classes in their colours on black; where regions overlap, the later one."""
    table = np.array([(0, 0, 0), *colours_of(len(masks))], dtype=np.uint8)
    return table[label_map(masks, range(1, len(masks) + 1))]


def to_palette(labels: UInt8[np.ndarray, "H W"], classes: Classes) -> Image.Image:
    """A label map with the values of the classes as a picture whose palette has their colours."""
    picture = Image.fromarray(labels)
    table = np.zeros((256, 3), dtype=np.uint8)
    for value, colour in zip(classes.values, colours_of(classes.count), strict=True):
        table[value] = colour
    picture.putpalette(table.ravel().tolist())
    return picture
