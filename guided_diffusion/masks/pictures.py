"""Sheets that show a case's image, raters and samples, with their mean, variance and entropy; movies of a chain."""

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image

from ..flags.classes import Classes
from .class_pictures import PALETTE, coloured, colours_of
from .consensus import consensus
from .legends import GAP, MARGIN, PAPER, in_dash, label_picture, scale_picture, with_legend
from .postprocess import entropy_map, mean_mask, variance_map

TILE = 128  # pixels; smaller pictures are enlarged by whole factors
LARGEST_TILE = 1024  # pixels; larger pictures are reduced
COLUMNS = 8

NUMBERS_LISTED = 2  # of equal masks, in their label
MOVIE_FRAMES, MOVIE_SECONDS = 40, 4

Plane = Shaped[np.ndarray, "H W"]  # in [0, 1], or bool
Shown = Plane | Float[np.ndarray, "3 H W"]  # a plane, or a colour image in [0, 1]
Pixels = Shaped[np.ndarray, "_ _"] | Float[np.ndarray, "3 _ _"] | UInt8[np.ndarray, "_ _ 3"]


class Tile(NamedTuple):
    """A picture on a sheet, with what explains it.

    label    text above the picture
    picture  a plane, a colour image, or the result of `outlines` at the image's `enlargement`
    outline  number of the outline whose colour the chip before the label shows; None: no chip
    scale    what black and white mean, shown as a grey scale below the picture; None: no scale
    """

    label: str
    picture: Pixels
    outline: int | None = None
    scale: tuple[str, str] | None = None


Row = Sequence[Tile | tuple[str, Pixels] | None]  # a pair is a Tile with a label only; None leaves a place empty


def to_grey(values: Plane) -> Image.Image:
    """An 8-bit grey picture."""
    return Image.fromarray(np.round(np.clip(np.asarray(values, dtype=np.float32), 0, 1) * 255).astype(np.uint8))


def to_picture(image: Shown) -> Image.Image:
    """An 8-bit picture, grey for a plane and RGB for a colour image."""
    return to_grey(image) if image.ndim == 2 else Image.merge("RGB", [to_grey(plane) for plane in image])


def shown_image(image: Float[np.ndarray, "C H W"], colour: bool) -> Shown:
    """What pictures show of a case's image: red, green and blue of a colour image, otherwise the first plane."""
    return image[:3] if colour and len(image) >= 3 else image[0]


def outlines(
    image: Shown, masks: Iterable[Bool[np.ndarray, "*K H W"]], scale: int = 1
) -> UInt8[np.ndarray, "{scale}*H {scale}*W 3"]:
    """The image, enlarged by a whole factor, with a line around each mask, in the colours of PALETTE.

    The line is the outermost pixel of the enlarged mask. Masks beyond the PALETTE have dashed lines. Of several
    classes, lines have the colour of the class, whatever the mask.
    """
    page = np.asarray(to_picture(image).convert("RGB")).repeat(scale, 0).repeat(scale, 1)
    y, x = np.indices(page.shape[:2])
    place = np.asarray(x + 2 * y)
    for k, mask in enumerate(masks):
        if mask.ndim == 2:
            page[_line(mask, scale) & in_dash(k, place)] = PALETTE[k % len(PALETTE)]
            continue
        for one, colour in zip(mask, colours_of(len(mask)), strict=True):
            page[_line(one, scale)] = colour
    return page


def _line(mask: Bool[np.ndarray, "H W"], scale: int) -> Bool[np.ndarray, "{scale}*H {scale}*W"]:
    """The outermost pixels of a mask that is enlarged by a whole factor."""
    large = np.asarray(mask, dtype=bool).repeat(scale, 0).repeat(scale, 1)
    around = np.pad(large, 1)
    return large & ~(around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])


def reduced(picture: Shaped[np.ndarray, "*planes _ _"]) -> Shaped[np.ndarray, "*planes _ _"]:
    """The picture, or the planes, by area averaging at most LARGEST_TILE high and wide; masks stay masks."""
    height, width = picture.shape[-2:]
    factor = LARGEST_TILE / max(height, width)
    if factor >= 1:
        return picture
    size = max(1, round(width * factor)), max(1, round(height * factor))
    planes = np.asarray(picture, dtype=np.float32).reshape(-1, height, width)
    small = np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in planes])
    small = small.reshape(*picture.shape[:-2], *small.shape[1:])
    return small > 0.5 if picture.dtype == bool else small


def enlargement(shape: tuple[int, ...]) -> int:
    """The whole factor by which pictures of `shape` (..., height, width) are enlarged on a sheet."""
    return max(1, TILE // max(shape[-2:]))


# -- sheets -----------------------------------------------------------------------------------------------------------


def sheet(
    image: Shown,
    raters: Bool[np.ndarray, "R *K H W"],
    masks: Bool[np.ndarray, "M *K H W"],
    num_shown: int | None = None,
    classes: Classes = Classes(),
) -> Image.Image:
    """The sheet of a case, in colour: image and maps, then the raters' outlines and masks, then those of the samples.

    Equal masks share a tile, whose label counts them. The chip before the label has the colour of their outline.
    Several classes have a colour each, which a legend below explains, and maps of their own, if they are few.

    image      in [0, 1], grey or in colour, see `shown_image`
    raters     R may be 0
    masks      the samples
    num_shown  show the first `num_shown` samples only; mean, variance and entropy are those of all

    Images larger than LARGEST_TILE are `reduced`.
    """
    shown, image = masks[:num_shown], reduced(image)
    some = "" if len(shown) == len(masks) else "first "
    rows = [
        [Tile("image", image), *map_tiles(masks, classes)],
        mask_tiles(_count(len(raters), "rater"), "rater", image, raters),
        mask_tiles(some + _count(len(shown), "sample"), "sample", image, shown),
    ]
    page = grid([row[start : start + COLUMNS] for row in rows for start in range(0, len(row), COLUMNS)])
    return with_legend(page, classes)


def map_tiles(masks: Bool[np.ndarray, "M *K H W"], classes: Classes = Classes()) -> list[Tile]:
    """Mean, variance and entropy of the samples at each pixel, each with its scale; of several classes, see below.

    These have the majority in colours, and the entropy of the classes at each pixel.
    """
    if classes.several:
        most = math.log2(classes.count + 1) if classes.exclusive else classes.count
        majority = reduced(consensus("majority", masks, classes))
        tiles = [
            Tile(f"majority of {_count(len(masks), 'sample')}", in_colour(majority)),
            Tile("entropy", reduced(entropy_map(masks, classes)) / most, scale=("0", f"{most:.3g} bits")),
        ]
        return [*tiles, *class_tiles(masks, classes)]
    return [
        Tile(f"mean of {_count(len(masks), 'sample')}", reduced(mean_mask(masks)), scale=("0", "1")),
        Tile("variance", reduced(4 * variance_map(masks)), scale=("0", "0.25")),
        Tile("entropy", reduced(entropy_map(masks)), scale=("0", "1 bit")),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def class_tiles(masks: Bool[np.ndarray, "M K H W"], classes: Classes) -> list[Tile]:
    """The mean of each class, then the variance of each; none for more than COLUMNS classes."""
    if classes.count > COLUMNS:
        return []
    means, variances = reduced(mean_mask(masks)), reduced(4 * variance_map(masks))
    return [
        *(Tile(f"mean of {name}", plane, scale=("0", "1")) for name, plane in zip(classes.names, means, strict=True)),
        *(Tile(f"var. of {name}", x, scale=("0", "0.25")) for name, x in zip(classes.names, variances, strict=True)),
    ]


def in_colour(masks: Bool[np.ndarray, "K H W"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The classes in their colours, enlarged as tiles are."""
    scale = enlargement(masks.shape)
    return coloured(masks).repeat(scale, 0).repeat(scale, 1)


def mask_tiles(title: str, noun: str, image: Shown, masks: Bool[np.ndarray, "N *K _ _"]) -> list[Tile]:
    """A tile with the outlines of all masks on the image, then a tile for each distinct mask; none without masks.

    image  `reduced`; the masks need not be
    title  label of the first tile
    noun   what a mask is of, such as "rater"
    """
    if len(masks) == 0:
        return []
    groups = list(equal_masks(masks))
    distinct = [reduced(masks[group[0]]) for group in groups]
    tiles = [Tile(title, outlines(image, distinct, enlargement(image.shape)))]
    for k, (group, mask) in enumerate(zip(groups, distinct, strict=True)):
        empty = not masks[group[0]].any()
        several = mask.ndim == 3
        picture = in_colour(mask) if several else mask
        tiles.append(Tile(_mask_label(noun, group, empty), picture, outline=None if empty or several else k))
    return tiles


def equal_masks(masks: Bool[np.ndarray, "N *K H W"]) -> Iterable[list[int]]:
    """The numbers of equal masks, a list for each distinct mask, in the order of the first ones."""
    groups: dict[bytes, list[int]] = {}
    for k, mask in enumerate(masks):
        groups.setdefault(np.packbits(mask).tobytes(), []).append(k)
    return groups.values()


def _mask_label(noun: str, numbers: Sequence[int], empty: bool) -> str:
    """E.g. "rater 3", "2 raters: 0, 2", "7 samples: 1, 4, ...", "rater 5 (empty)"."""
    listed = ", ".join(str(number) for number in numbers[:NUMBERS_LISTED])
    more = ", ..." if len(numbers) > NUMBERS_LISTED else ""
    label = f"{noun} {listed}" if len(numbers) == 1 else f"{_count(len(numbers), noun)}: {listed}{more}"
    return f"{label} (empty)" if empty else label


def grid(rows: Sequence[Row]) -> Image.Image:
    """Tiles side by side, in colour; all images have the size of the first tile's, which is not from `outlines`."""
    first = rows[0][0]
    assert first is not None
    height, width = first[1].shape[:2] if _is_drawn(first[1]) else first[1].shape[-2:]
    scale = 1 if _is_drawn(first[1]) else enlargement((height, width))
    zoom = max(1, width * scale // TILE)  # of the labels, as large tiles are viewed at a reduced size
    drawn = [[tile and _draw(Tile(*tile), scale, zoom) for tile in row] for row in rows]

    heights = [MARGIN + max(tile.height for tile in row if tile) for row in drawn]
    columns = list(itertools.zip_longest(*drawn))
    widths = [MARGIN + max((tile.width for tile in column if tile), default=GAP) for column in columns]
    page = Image.new("RGB", (sum(widths) + MARGIN, sum(heights) + MARGIN), PAPER)
    for y, row in enumerate(drawn):
        for x, tile in enumerate(row):
            if tile:
                page.paste(tile, (MARGIN + sum(widths[:x]), MARGIN + sum(heights[:y])))
    return page


def _is_drawn(picture: Pixels) -> bool:
    """Whether a picture comes from `outlines` or `in_colour`, which enlarge it."""
    return picture.ndim == 3 and picture.dtype == np.uint8


def _draw(tile: Tile, scale: int, zoom: int) -> Image.Image:
    """Label, picture and scale, one below the other."""
    if _is_drawn(tile.picture):
        picture = Image.fromarray(tile.picture)
    else:
        height, width = tile.picture.shape[-2:]
        picture = to_picture(tile.picture).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    parts = [label_picture(tile.label, tile.outline, zoom), picture]
    if tile.scale:
        parts.append(scale_picture(*tile.scale, picture.width, zoom))
    page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return page


# -- movies -----------------------------------------------------------------------------------------------------------


def movie_steps(num_steps: int) -> set[int]:
    """Which of the steps 0 .. num_steps - 1 of a chain are frames of its movie: at most MOVIE_FRAMES, with the last."""
    return {int(k) for k in np.linspace(0, num_steps - 1, min(MOVIE_FRAMES, num_steps)).round()}


def movie(image: Shown, frames: Sequence[Plane]) -> bytes:
    """A chain as an animated GIF.

    image   in [0, 1], shown on the left
    frames  x_t from noise to the mask, on the scale on which masks are 0 and 1
    """
    image, count = reduced(image), len(frames)
    pages = [grid([[("image", image), (f"{k + 1} of {count}", reduced(frame))]]) for k, frame in enumerate(frames)]
    pages += [pages[-1]] * 5  # the result stays visible for a while
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
