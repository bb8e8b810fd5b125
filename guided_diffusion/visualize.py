"""Picture sheets: a case's image, its raters, the samples, their mean and their uncertainty, side by side."""

import numpy as np
from PIL import Image, ImageDraw

from .postprocess import mean_mask, variance_map

TILE = 128  # pixels; smaller pictures are enlarged by whole factors
MARGIN, LABEL_HEIGHT = 4, 14
COLUMNS = 8
PAPER, INK = 255, 0


def to_grey(values):
    """[H, W] in [0, 1], or bool -> 8-bit grey picture."""
    return Image.fromarray(np.round(np.clip(np.asarray(values, dtype=np.float32), 0, 1) * 255).astype(np.uint8))


def sheet(image, raters, masks, num_shown=None):
    """
    A picture sheet, PIL image in grey.

    image      [H, W] in [0, 1]
    raters     [R, H, W] bool; R may be 0
    masks      [M, H, W] bool, the samples; their variance is shown four times enhanced, so that white is the most possible
    num_shown  show only so many of the samples; mean and uncertainty are of all
    """
    rows = [
        [("image", image), ("mean of samples", mean_mask(masks)), ("uncertainty", 4 * variance_map(masks))],
        [(f"rater {k}", mask) for k, mask in enumerate(raters)],
        [(f"sample {k}", mask) for k, mask in enumerate(masks[:num_shown])],
    ]
    return grid([row[start : start + COLUMNS] for row in rows for start in range(0, len(row), COLUMNS)])


def grid(rows):
    """
    Labelled tiles side by side, PIL image in grey.

    rows  [[(label, [H, W] in [0, 1] or bool)]], all tiles of one size
    """
    height, width = rows[0][0][1].shape
    scale = max(1, TILE // max(height, width))
    step_x, step_y = width * scale + MARGIN, height * scale + LABEL_HEIGHT + MARGIN
    page = Image.new("L", (max(map(len, rows)) * step_x + MARGIN, len(rows) * step_y + MARGIN), PAPER)
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(rows):
        for x, (label, tile) in enumerate(row):
            corner = (MARGIN + x * step_x, MARGIN + y * step_y)
            draw.text(corner, label, fill=INK)
            picture = to_grey(tile).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            page.paste(picture, (corner[0], corner[1] + LABEL_HEIGHT))
    return page
