"""Sheets of a case's image, raters and samples, with their mean and uncertainty; movies of a chain."""

import functools
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from .postprocess import entropy_map, mean_mask, variance_map

TILE = 128  # pixels; smaller pictures are enlarged by whole factors
MARGIN = 4
LABEL_SIZE, LABEL_HEIGHT = 11, 14  # pixels, of letters and line, on tiles of TILE; on larger ones in proportion
COLUMNS = 8
PAPER, INK = (255, 255, 255), (0, 0, 0)

# Colours that the colour-blind can distinguish (Okabe and Ito), bright ones first: they lie on dark images
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
MOVIE_FRAMES, MOVIE_SECONDS = 40, 4

Plane = Shaped[np.ndarray, "H W"]  # in [0, 1], or bool
Tile = Shaped[np.ndarray, "_ _"] | UInt8[np.ndarray, "_ _ 3"]


def to_grey(values: Plane) -> Image.Image:
    """An 8-bit grey picture."""
    return Image.fromarray(np.round(np.clip(np.asarray(values, dtype=np.float32), 0, 1) * 255).astype(np.uint8))


def outlines(
    image: Plane, masks: Iterable[Bool[np.ndarray, "H W"]], scale: int = 1
) -> UInt8[np.ndarray, "{scale}*H {scale}*W 3"]:
    """The image, enlarged by a whole factor, with a line around each mask, in the colours of PALETTE in turn.

    A line is the outermost pixel of the enlarged mask.
    """
    page = np.repeat(np.asarray(to_grey(image)).repeat(scale, 0).repeat(scale, 1)[..., None], 3, axis=2)
    for k, mask in enumerate(masks):
        large = np.asarray(mask, dtype=bool).repeat(scale, 0).repeat(scale, 1)
        around = np.pad(large, 1)
        inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        page[large & ~inside] = PALETTE[k % len(PALETTE)]
    return page


def enlargement(shape: tuple[int, ...]) -> int:
    """The whole factor by which pictures of `shape` (height, width) are enlarged on a sheet."""
    return max(1, TILE // max(shape))


def sheet(
    image: Plane, raters: Bool[np.ndarray, "R H W"], masks: Bool[np.ndarray, "M H W"], num_shown: int | None = None
) -> Image.Image:
    """A picture sheet, in colour.

    image      in [0, 1]
    raters     R may be 0
    masks      the samples; their variance is shown four times enhanced, so that white is the most possible
    num_shown  show only the first `num_shown` samples; mean, uncertainty and entropy are of all
    """
    shown, scale = masks[:num_shown], enlargement(image.shape)
    rows = [
        [
            ("image", image),
            ("mean of samples", mean_mask(masks)),
            ("uncertainty", 4 * variance_map(masks)),
            ("entropy", entropy_map(masks)),
            ("raters", outlines(image, raters, scale)),
            ("samples", outlines(image, shown, scale)),
        ],
        [(f"rater {k}", mask) for k, mask in enumerate(raters)],
        [(f"sample {k}", mask) for k, mask in enumerate(shown)],
    ]
    return grid([row[start : start + COLUMNS] for row in rows for start in range(0, len(row), COLUMNS)])


@functools.lru_cache(maxsize=1000)  # drawing one takes as long as a tile, and sheets have the same ones
def label_picture(label: str, zoom: int) -> Image.Image:
    """A label, as wide as its letters; not to be changed: the picture is shared."""
    font = ImageFont.load_default(size=LABEL_SIZE * zoom)
    end = math.ceil(font.getbbox(label)[2])
    width = max(math.ceil(font.getlength(label)), end)  # the last letter may lean over its end
    picture = Image.new("RGB", (width, LABEL_HEIGHT * zoom), PAPER)
    ImageDraw.Draw(picture).text((0, 0), label, fill=INK, font=font)
    return picture


def grid(rows: Sequence[Sequence[tuple[str, Tile]]]) -> Image.Image:
    """Labelled tiles side by side, in colour.

    rows  of (label, tile); tiles are planes, all of one size, or what `outlines` returned at their `enlargement`
    """
    height, width = rows[0][0][1].shape[:2]
    scale = enlargement((height, width))
    zoom = max(1, width * scale // TILE)  # of the labels: a sheet of large tiles is looked at from afar
    label_height = LABEL_HEIGHT * zoom
    widest = max(label_picture(label, zoom).width for row in rows for label, _ in row)
    step_x, step_y = max(width * scale, widest) + MARGIN, height * scale + label_height + MARGIN
    page = Image.new("RGB", (max(map(len, rows)) * step_x + MARGIN, len(rows) * step_y + MARGIN), PAPER)
    for y, row in enumerate(rows):
        for x, (label, tile) in enumerate(row):
            corner = (MARGIN + x * step_x, MARGIN + y * step_y)
            page.paste(label_picture(label, zoom), corner)
            if np.ndim(tile) == 3:
                picture = Image.fromarray(tile)
            else:
                picture = to_grey(tile).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            page.paste(picture, (corner[0], corner[1] + label_height))
    return page


# -- movies -----------------------------------------------------------------------------------------------------------


def movie_steps(num_steps: int) -> set[int]:
    """Which of the steps 0 .. num_steps - 1 of a chain are frames of its movie: at most MOVIE_FRAMES, with the last."""
    return {int(k) for k in np.linspace(0, num_steps - 1, min(MOVIE_FRAMES, num_steps)).round()}


def movie(image: Plane, frames: Sequence[Plane]) -> bytes:
    """A chain as an animated GIF.

    image   in [0, 1], shown beside
    frames  x_t on the scale on which masks are 0 and 1, from noise to the mask
    """
    pages = [grid([[("image", image), (f"{k + 1} of {len(frames)}", frame)]]) for k, frame in enumerate(frames)]
    pages += [pages[-1]] * 5  # the result stays for a while
    file = io.BytesIO()
    pages[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=pages[1:],
        duration=int(1000 * MOVIE_SECONDS / len(frames)),
        loop=0,
    )
    return file.getvalue()
