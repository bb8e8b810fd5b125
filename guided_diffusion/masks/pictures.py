"""Sheets that show a case's image, raters and samples, with their mean, variance and entropy; movies of a chain."""

import functools
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from .postprocess import entropy_map, mean_mask, variance_map

TILE = 128  # pixels; smaller pictures are enlarged by whole factors
LARGEST_TILE = 1024  # pixels; larger pictures are reduced
MARGIN, GAP = 6, 12  # pixels; GAP is the width of an empty column
LABEL_SIZE, LABEL_HEIGHT = 13, 18  # pixels, of letters and line, on tiles of TILE; larger tiles scale them
CHIP = (14, 9)  # width and height, pixels, of the coloured chip before a label
COLUMNS = 8
PAPER, INK, FRAME = (255, 255, 255), (0, 0, 0), (128, 128, 128)

# Okabe and Ito's colours, which colour-blind readers can distinguish; bright ones first, for outlines on dark images
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
DASH = 3  # pixels; outlines beyond the PALETTE repeat its colours in dashes
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
    image: Shown, masks: Iterable[Bool[np.ndarray, "H W"]], scale: int = 1
) -> UInt8[np.ndarray, "{scale}*H {scale}*W 3"]:
    """The image, enlarged by a whole factor, with a line around each mask, in the colours of PALETTE.

    The line is the outermost pixel of the enlarged mask. Masks beyond the PALETTE have dashed lines.
    """
    page = np.asarray(to_picture(image).convert("RGB")).repeat(scale, 0).repeat(scale, 1)
    y, x = np.indices(page.shape[:2])
    place = np.asarray(x + 2 * y)
    for k, mask in enumerate(masks):
        large = np.asarray(mask, dtype=bool).repeat(scale, 0).repeat(scale, 1)
        around = np.pad(large, 1)
        inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
        page[large & ~inside & _in_dash(k, place)] = PALETTE[k % len(PALETTE)]
    return page


def _in_dash(outline: int, place: Int[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """Whether the pixels at `place` along a line belong to its dashes: all, every second dash, every third, ..."""
    return place // DASH % (outline // len(PALETTE) + 1) == 0


def reduced(picture: Shown) -> Shaped[np.ndarray, "_ _"] | Float[np.ndarray, "3 _ _"]:
    """The picture, by area averaging at most LARGEST_TILE high and wide; masks stay masks."""
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
    image: Shown, raters: Bool[np.ndarray, "R H W"], masks: Bool[np.ndarray, "M H W"], num_shown: int | None = None
) -> Image.Image:
    """The sheet of a case, in colour: image and maps, then the raters' outlines and masks, then those of the samples.

    Equal masks share a tile, whose label counts them. The chip before the label has the colour of their outline.

    image      in [0, 1], grey or in colour, see `shown_image`
    raters     R may be 0
    masks      the samples
    num_shown  show the first `num_shown` samples only; mean, variance and entropy are those of all

    Images larger than LARGEST_TILE are `reduced`.
    """
    shown, image = masks[:num_shown], reduced(image)
    some = "" if len(shown) == len(masks) else "first "
    rows = [
        [Tile("image", image), *map_tiles(masks)],
        mask_tiles(_count(len(raters), "rater"), "rater", image, raters),
        mask_tiles(some + _count(len(shown), "sample"), "sample", image, shown),
    ]
    return grid([row[start : start + COLUMNS] for row in rows for start in range(0, len(row), COLUMNS)])


def map_tiles(masks: Bool[np.ndarray, "M H W"]) -> list[Tile]:
    """Mean, variance and entropy of the samples at each pixel, each with its scale."""
    return [
        Tile(f"mean of {_count(len(masks), 'sample')}", reduced(mean_mask(masks)), scale=("0", "1")),
        Tile("variance", reduced(4 * variance_map(masks)), scale=("0", "0.25")),
        Tile("entropy", reduced(entropy_map(masks)), scale=("0", "1 bit")),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def mask_tiles(title: str, noun: str, image: Shown, masks: Bool[np.ndarray, "N _ _"]) -> list[Tile]:
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
        tiles.append(Tile(_mask_label(noun, group, empty), mask, outline=None if empty else k))
    return tiles


def equal_masks(masks: Bool[np.ndarray, "N H W"]) -> Iterable[list[int]]:
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
    height, width = first[1].shape[-2:]
    scale = enlargement((height, width))
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


def _draw(tile: Tile, scale: int, zoom: int) -> Image.Image:
    """Label, picture and scale, one below the other."""
    if tile.picture.ndim == 3 and tile.picture.dtype == np.uint8:  # from `outlines`, which enlarges
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


# Drawing letters takes as long as a tile, and sheets repeat them. Callers share the pictures: do not change them.
@functools.lru_cache(maxsize=1000)
def label_picture(label: str, outline: int | None, zoom: int) -> Image.Image:
    """A label, as wide as its letters, after the chip of its outline."""
    chip = CHIP[0] * zoom if outline is not None else 0
    left = chip + 4 * zoom if chip else 0
    page = Image.new("RGB", (left + _text_width(label, zoom), LABEL_HEIGHT * zoom), PAPER)
    if outline is not None:
        colours = np.full((CHIP[1] * zoom, chip, 3), PAPER, dtype=np.uint8)
        colours[:, _in_dash(outline, np.arange(chip) // zoom)] = PALETTE[outline % len(PALETTE)]
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
    page.paste(to_grey(grey), box[:2])
    draw.rectangle(box, outline=FRAME)
    return page


def _font(zoom: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=LABEL_SIZE * zoom)


def _text_width(text: str, zoom: int) -> int:
    """Pixels; the last letter may lean over its end."""
    return math.ceil(max(_font(zoom).getlength(text), _font(zoom).getbbox(text)[2]))


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
