"""What explains the tiles of a sheet: labels with the chip of an outline, grey scales, the legend of the classes."""

import functools
import math

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw, ImageFont

from ..flags.classes import Classes
from .class_pictures import PALETTE, colours_of

MARGIN, GAP = 6, 12  # pixels; GAP is the width of an empty column
LABEL_SIZE, LABEL_HEIGHT = 13, 18  # pixels, of letters and line, on tiles of the usual size; larger tiles scale them
CHIP = (14, 9)  # width and height, pixels, of the coloured chip before a label
DASH = 3  # pixels; outlines beyond the PALETTE repeat its colours in dashes
PAPER, INK, FRAME = (255, 255, 255), (0, 0, 0), (128, 128, 128)


def in_dash(outline: int, place: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Whether the pixels at `place` along a line belong to its dashes: all, every second dash, every third, ..."""
    return place // DASH % (outline // len(PALETTE) + 1) == 0


# Drawing letters takes as long as a tile, and sheets repeat them. Callers share the pictures: do not change them.
@functools.lru_cache(maxsize=1000)
def label_picture(label: str, outline: int | None, zoom: int, classes: int = 0) -> Image.Image:
    """A label, as wide as its letters, after the chip of its outline or, if `classes` is their number, of its class."""
    chip = CHIP[0] * zoom if outline is not None else 0
    left = chip + 4 * zoom if chip else 0
    page = Image.new("RGB", (left + _text_width(label, zoom), LABEL_HEIGHT * zoom), PAPER)
    if outline is not None:
        colours = np.full((CHIP[1] * zoom, chip, 3), PAPER, dtype=np.uint8)
        if classes:
            colours[:] = colours_of(classes)[outline]
        else:
            colours[:, in_dash(outline, np.arange(chip) // zoom)] = PALETTE[outline % len(PALETTE)]
        page.paste(Image.fromarray(colours), (0, 4 * zoom))
    ImageDraw.Draw(page).text((left, 0), label, fill=INK, font=_font(zoom))
    return page


@functools.lru_cache(maxsize=1000)
def scale_picture(black: str, white: str, width: int, zoom: int) -> Image.Image:
    """A grey scale between the texts for black and white, `width` pixels wide or as wide as its texts need."""
    left, right = (_text_width(text, zoom) + 4 * zoom for text in (black, white))
    width = max(width, left + right + 20 * zoom)
    page = Image.new("RGB", (width, LABEL_HEIGHT * zoom), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((0, zoom), black, fill=INK, font=_font(zoom))
    draw.text((width - right + 4 * zoom, zoom), white, fill=INK, font=_font(zoom))
    grey = np.linspace(0, 1, width - left - right)[None].repeat(CHIP[1] * zoom, axis=0)
    box = (left, 5 * zoom, width - right - 1, (5 + CHIP[1]) * zoom - 1)
    page.paste(Image.fromarray(np.round(grey.astype(np.float32) * 255).astype(np.uint8)), box[:2])
    draw.rectangle(box, outline=FRAME)
    return page


def _font(zoom: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=LABEL_SIZE * zoom)


def _text_width(text: str, zoom: int) -> int:
    """Pixels; the last letter may lean over its end."""
    return math.ceil(max(_font(zoom).getlength(text), _font(zoom).getbbox(text)[2]))


def with_legend(page: Image.Image, classes: Classes) -> Image.Image:
    """The page with a line of the classes and their colours below; as it is, for one class."""
    if not classes.several:
        return page
    labels = [label_picture(name, k, 1, classes.count) for k, name in enumerate(classes.names)]
    rows: list[list[Image.Image]] = [[]]
    for label in labels:
        if rows[-1] and sum(one.width + GAP for one in rows[-1]) + label.width > page.width - 2 * MARGIN:
            rows.append([])
        rows[-1].append(label)
    width = max(page.width, 2 * MARGIN + max(label.width for label in labels))
    whole = Image.new("RGB", (width, page.height + len(rows) * LABEL_HEIGHT + MARGIN), PAPER)
    whole.paste(page, (0, 0))
    for y, row in enumerate(rows):
        left = MARGIN
        for label in row:
            whole.paste(label, (left, page.height + y * LABEL_HEIGHT))
            left += label.width + GAP
    return whole
