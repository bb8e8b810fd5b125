"""Reads pictures: PNG, JPEG, TIFF, BMP, GIF and WebP."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import DataError
from .decoded import COLOURS, SHAPES, Decoded

ORIENTATION = 274  # the tag of EXIF and TIFF
REDUCED_OR_MASK = 0b101  # bits of the TIFF tag NewSubfileType
NEW_SUBFILE_TYPE = 254
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FEW_BITS = {"L;2": 3, "L;4": 15}  # raw modes that Pillow scales to 255: their full scale
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES_PER_PIXEL, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 277, 338, 339  # of TIFF
MIN_IS_WHITE, UNSIGNED, UNSPECIFIED = 0, 1, 0  # values of three of these tags
BMP_BITS = 28  # offset of the bits per pixel in a BMP


def read_picture(file: str, page: int | None = None) -> Decoded:
    """Decode a picture; see `read_file`. Pillow's own errors: it cannot be read."""
    try:
        picture = Image.open(file)
    except UnidentifiedImageError:
        if not _is_tiff(file):
            raise
        return _read_deep(file, _choose_page(file, tiff_pages(file), page), 1)
    with picture:
        chosen = _choose_page(file, full_pages(picture), page)
        if chosen:
            picture.seek(chosen)
        raw = _raw_mode(picture)
        if _is_reduced(picture, file, raw):
            return _read_deep(file, chosen, picture.getexif().get(ORIENTATION, 1))
        lossy = _is_lossy(picture, file)
        orientation = picture.getexif().get(ORIENTATION, 1)
        ImageOps.exif_transpose(picture, in_place=True)
        return replace(_from_pillow(picture, raw, lossy), orientation=orientation)


def decode_picture(name: str, picture: Image.Image) -> Decoded:
    """Decode a picture in memory, which stays as it is; `name` is for messages. As of a file, by its orientation.

    DataError: it has several pages. Pillow's own errors: it cannot be read.
    """
    page = picture.tell()
    pages = full_pages(picture)
    picture.seek(page)
    if len(pages) > 1:
        raise DataError(f"{name}: has {len(pages)} pages; choose one with picture.seek(k) and pass picture.copy()")
    raw, orientation = _raw_mode(picture), picture.getexif().get(ORIENTATION, 1)
    upright_copy = ImageOps.exif_transpose(picture)
    upright_copy.format = picture.format  # which decides what some modes mean
    return replace(_from_pillow(upright_copy, raw, lossy=False), orientation=orientation)


def num_pages(file: str) -> int:
    """The number of pages of a picture. DataError: it cannot be opened."""
    try:
        with Image.open(file) as picture:
            return len(full_pages(picture))
    except UnidentifiedImageError:
        return len(tiff_pages(file)) if _is_tiff(file) else 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read ({error}); replace or remove it") from error


def full_pages(picture: Image.Image) -> list[int]:
    """The numbers of the pages of a picture, without reduced copies of a TIFF and the previews of cameras."""
    count = getattr(picture, "n_frames", 1)
    if count == 1 or picture.format == "MPO":
        return [0]
    if picture.format != "TIFF":
        return list(range(count))
    pages = []
    for k in range(count):
        picture.seek(k)
        if not picture.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_OR_MASK:  # type: ignore[attr-defined]  # of TIFF
            pages.append(k)
    picture.seek(0)
    return pages or [0]


def tiff_pages(file: str) -> list[int]:
    """As `full_pages`, of a TIFF that Pillow does not open. DataError: tifffile is missing."""
    _, tifffile = _deep_readers(file)
    with tifffile.TiffFile(file) as tiff:
        kinds = [page.tags.valueof(NEW_SUBFILE_TYPE, 0) for page in tiff.pages]
    return [k for k, kind in enumerate(kinds) if not kind & REDUCED_OR_MASK] or [0]


def _choose_page(file: str, pages: list[int], page: int | None) -> int:
    if page is None and len(pages) > 1:
        raise DataError(
            f"{file}: has {len(pages)} pages; a case is a single slice: convert_data.py folders makes a case "
            "of each page"
        )
    return pages[page or 0]


def _is_reduced(picture: Image.Image, file: str, raw: str) -> bool:
    """Whether Pillow would read the picture without some of its bits, channels or meaning."""
    if picture.format == "BMP":  # with two grey levels in 8 bits it is taken for a picture of 1 bit
        with open(file, "rb") as opened:
            return picture.mode == "1" and opened.read(BMP_BITS + 2)[BMP_BITS:] != b"\1\0"
    if picture.format != "TIFF":
        return ";16" in raw and len(picture.getbands()) > 1
    tags = picture.tag_v2  # type: ignore[attr-defined]  # of TIFF
    bits, samples = max(tags.get(BITS_PER_SAMPLE, (1,))), tags.get(SAMPLES_PER_PIXEL, 1)
    unsigned = set(tags.get(SAMPLE_FORMAT, (UNSIGNED,))) == {UNSIGNED}
    return (
        (bits > 8 and (samples > 1 or tags.get(PHOTOMETRIC) == MIN_IS_WHITE))
        or (bits == 32 and unsigned)
        or UNSPECIFIED in tags.get(EXTRA_SAMPLES, ())
    )


def _raw_mode(picture: Image.Image) -> str:
    """How Pillow's decoder names the layout of the file, e.g. "RGB;16B"; empty if unknown."""
    tile = getattr(picture, "tile", ())
    if not tile:
        return ""
    args = tile[0].args
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _is_lossy(picture: Image.Image, file: str) -> bool:
    if picture.format == "WEBP":
        with open(file, "rb") as opened:
            return b"VP8L" not in opened.read()
    compression = str(picture.info.get("compression", ""))
    return picture.format in ("JPEG", "MPO", "JPEG2000") or compression in ("jpeg", "tiff_jpeg", "webp")


def _from_pillow(picture: Image.Image, raw: str, lossy: bool) -> Decoded:
    mode = picture.mode
    if mode == "1" and "transparency" not in picture.info:
        return Decoded(np.asarray(picture)[None].astype(np.uint8) * 255, 255)
    if mode == "F" or mode == "I":
        # Some versions of Pillow open 16-bit PNG files in mode I
        return Decoded(np.asarray(picture)[None].copy(), 65535 if mode == "I" and picture.format == "PNG" else None)
    if mode.startswith("I;16"):
        values = np.asarray(picture)[None].astype(np.uint16)
        clear = picture.info.get("transparency")
        return Decoded(values, 65535, alpha=None if clear is None else (values[0] != clear).astype(np.uint8))
    if mode == "L" and "transparency" not in picture.info:
        values, scale = np.array(picture)[None], FEW_BITS.get(raw)
        return Decoded(values // (255 // scale), scale) if scale else Decoded(values, 255, lossy)
    # Those who write GIF choose the order of the indices, so they mean nothing there
    indices = np.array(picture) if mode == "P" and picture.format != "GIF" else None
    alpha = None
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = np.asarray(picture.getchannel("A"))
    colours = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    return Decoded(colours, 255, lossy, alpha, indices)


# -- what Pillow does not read ----------------------------------------------------------------------------------------


def _is_tiff(file: str) -> bool:
    with open(file, "rb") as opened:
        return opened.read(4) in TIFF_STARTS


def _deep_readers(file: str) -> tuple[Any, Any]:
    """The modules imagecodecs and tifffile. DataError: they are not installed."""
    try:
        import imagecodecs
        import tifffile
    except ImportError:
        raise DataError(
            f"{file}: pictures of this type, such as 16-bit colour, need imagecodecs and tifffile; "
            'pip install "ambiguous-segmentation-diffusion[medical]"'
        ) from None
    return imagecodecs, tifffile


def _read_deep(file: str, page: int, orientation: int) -> Decoded:
    """Decode a picture of a type that Pillow reduces or refuses, such as 16-bit colour."""
    imagecodecs, tifffile = _deep_readers(file)
    if not _is_tiff(file):
        with open(file, "rb") as opened:
            content = opened.read()
        array = imagecodecs.bmp_decode(content) if content.startswith(b"BM") else imagecodecs.png_decode(content)
    else:
        with tifffile.TiffFile(file) as tiff:
            leaf: Any = tiff.pages[page]
            array = leaf.asarray()
            if leaf.axes.startswith("S"):  # planes one after the other
                array = np.moveaxis(array, 0, -1)
            orientation = leaf.tags[ORIENTATION].value if ORIENTATION in leaf.tags else 1
            if leaf.photometric == MIN_IS_WHITE and array.dtype.kind == "u":
                array = np.iinfo(array.dtype).max - array
    decoded = _with_channels(file, upright(array if array.ndim > 2 else array[..., None], orientation))
    return replace(decoded, orientation=orientation)


def upright(array: Shaped[np.ndarray, "H W S"], orientation: int) -> np.ndarray:
    """Turn the first two axes by an orientation of EXIF, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _with_channels(file: str, array: Shaped[np.ndarray, "H W S"]) -> Decoded:
    count = array.shape[2]
    if count > COLOURS + 1 or array.ndim != 3 or array.dtype.kind not in "uif":
        raise DataError(f"{file}: has shape {array.shape} and type {array.dtype}; {SHAPES}")
    planes = np.ascontiguousarray(array.transpose(2, 0, 1))
    scale = int(np.iinfo(array.dtype).max) if array.dtype in (np.uint8, np.uint16) else None
    alpha = planes[-1] if count in (2, COLOURS + 1) else None
    return Decoded(planes if alpha is None else planes[:-1], scale, alpha=alpha)
