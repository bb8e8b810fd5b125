"""Drawn images and masks, and the kinds of files that users have them in; nothing of the package writes them."""

import math
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset

SIDE = 64
RADII = (13, 11, 9)  # of the outlines of three raters
TAG = 0x0112  # orientation, in EXIF and TIFF

# orientation -> the stored picture of an upright one [H, W] or [H, W, C]
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def disc(radius, row=20.0, column=42.0, side=SIDE):
    """A mask [side, side] of the pixels nearer than `radius` to a point."""
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - row, columns - column) < radius


def points_within(radius):
    """The number of points with integer coordinates nearer than an integer `radius` to the origin."""
    return sum(2 * math.isqrt(radius**2 - row**2 - 1) + 1 for row in range(1 - radius, radius))


DISCS = [disc(radius) for radius in RADII]
AREAS = [517, 373, 249]
GREY = np.where(DISCS[0], 200, 50).astype(np.uint8)


def white(mask):
    """A mask as levels 0 and 255."""
    return mask.astype(np.uint8) * 255


def soft(mask, factor=2):
    """A mask that was made smaller and large again with interpolation, uint8."""
    height, width = mask.shape
    small = Image.fromarray(white(mask)).resize((width // factor, height // factor), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def classes(second=slice(40, 55)):
    """Levels 0, 1 (517 pixels) and 2 (255 pixels)."""
    levels = DISCS[0].astype(np.uint8)
    levels[second, 8:25] = 2
    return levels


# -- files ------------------------------------------------------------------------------------------------------------


def put(path, content, affine=None, **how):
    """Write an array, a picture or bytes to `path`, in the format of its extension; `how` goes to Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif path.name.endswith((".nii", ".nii.gz")):
        put_nifti(path, content.T, np.eye(4) if affine is None else affine)
    else:
        picture = content if isinstance(content, Image.Image) else Image.fromarray(np.ascontiguousarray(content))
        picture.save(path, **how)


def put_nifti(path, voxels, affine):
    """Write an array [x, y, ...] as NIfTI."""
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(voxels), affine), path)


def put_case(folder, labels=(), image=GREY, suffix=".png", **how):
    """Write image.png, and label0_, label1_, ... with one suffix, or with their own as (array, suffix)."""
    put(folder / "image.png", image)
    for k, label in enumerate(labels):
        content, ending = label if isinstance(label, tuple) else (label, suffix)
        put(folder / f"label{k}_{ending}", content, **how)


def exif(orientation):
    """EXIF with an orientation, as Pillow takes it."""
    return b"Exif\0\0" + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, TAG, 3, 1, orientation, 0, 0)


def png(array, depth=8, chunks=()):
    """The bytes of a PNG of 1 to 16 bits of the array [H, W], or [H, W, C] of grey and alpha, RGB or RGBA.

    chunks  (name, content) of each, to stand before the pixels
    """
    height, width = array.shape[:2]
    samples = array.reshape(height, -1)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=2)[..., 8 - depth :]
        rows = [np.packbits(row).tobytes() for row in bits.reshape(height, -1)]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[1] // width]
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    framed = [
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def paletted(indices, colours):
    """A picture of mode P, from indices [H, W] and the colours (r, g, b) of each."""
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette([value for colour in colours for value in colour])
    return picture


# -- what is read -----------------------------------------------------------------------------------------------------


def opened(folder, channels=None, size=None, **flags):
    """The dataset of a folder: as many planes as the files have, and flags of DataConfig."""
    return LIDCDataset(folder, size, channels, DataConfig(**flags))


def masks_in(dataset, index=0):
    """The masks of a case, bool [R, H, W]."""
    return dataset[index].raters.numpy() > 0.5


def areas_in(dataset, index=0):
    """Foreground pixels of the masks of a case."""
    return masks_in(dataset, index).sum((1, 2)).tolist()


def refusal(folder, channels=None, size=None, **flags):
    """The text with which the folder is refused."""
    with pytest.raises(DataError) as error:
        opened(folder, channels, size, **flags)
    return str(error.value)


def assert_says(text, *words):
    """Every word is in the text; numbers and flags as words of their own."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    for word in words:
        assert re.search(rf"(?<![\w.]){re.escape(str(word))}(?!\w)", text), f"{word!r} is not in:\n{text}"
