"""Masks: what is read equals what was drawn, in every format; lossy ones nearly, and never anything else in silence."""

import numpy as np
import pytest
from drawings import areas_in, disc, masks_in, opened, paletted, png, put, white
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.errors import DataError

tifffile = pytest.importorskip("tifffile")
nibabel = pytest.importorskip("nibabel")

few = settings(max_examples=4, deadline=None, derandomize=True)
BLACK, WHITE, RED, BLUE, YELLOW = (0, 0, 0), (255, 255, 255), (200, 0, 0), (0, 0, 255), (255, 255, 0)


def ones(mask):
    """A mask as levels 0 and 1."""
    return mask.astype(np.uint8)


def coloured(background, foreground):
    """A change of a mask into an RGB picture of two colours."""
    return lambda mask: np.where(mask[..., None], foreground, background).astype(np.uint8)


def saved(suffix, change, **how):
    return suffix, lambda path, mask: put(path, change(mask), **how)


def tiff(change, **how):
    return ".tif", lambda path, mask: tifffile.imwrite(path, change(mask), **how)


def in_alpha(planes):
    """A change of a mask into the last channel, after constant planes."""
    return lambda mask: np.dstack([np.full(mask.shape, plane, np.uint8) for plane in planes] + [white(mask)])


def with_slope(path, mask):
    """NIfTI of stored integers 0 and 100 that mean 0 and 1."""
    image = nibabel.Nifti1Image(np.int16(100) * mask.T.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.01, 0)
    nibabel.save(image, path)


# name -> (extension, how a mask is written)
MASKS = {
    "PNG 0, 1": saved(".png", ones),
    "PNG 0, 255": saved(".png", white),
    "PNG 7, 9": saved(".png", lambda mask: 7 + 2 * ones(mask)),
    "PNG of 1 bit": saved(".png", lambda mask: mask),
    "PNG of 2 bits": saved(".png", lambda mask: png(ones(mask), 2)),
    "PNG of 4 bits": saved(".png", lambda mask: png(15 * ones(mask), 4)),
    "PNG 0, 1 of 16 bits": saved(".png", lambda mask: mask.astype(np.uint16)),
    "PNG 0, 65535": saved(".png", lambda mask: mask.astype(np.uint16) * 65535),
    "PNG 256, 257": saved(".png", lambda mask: mask.astype(np.uint16) + 256),
    "palette, rising": saved(".png", lambda mask: paletted(mask, [BLACK, WHITE])),
    "palette, falling": saved(".png", lambda mask: paletted(mask, [WHITE, BLACK])),
    "palette of 1 bit": saved(".png", lambda mask: paletted(mask, [WHITE, BLACK]), bits=1),
    "palette, colours": saved(".png", lambda mask: paletted(mask, [YELLOW, BLUE])),
    "palette, one colour": saved(".png", lambda mask: paletted(mask, [RED, RED])),
    "RGB": saved(".png", coloured(BLACK, WHITE)),
    "RGB 0, 1": saved(".png", coloured(BLACK, (1, 1, 1))),
    "RGB of 16 bits": saved(".png", lambda mask: png(np.dstack([ones(mask)] * 3).astype(np.uint16) * 65535, 16)),
    "red on black": saved(".png", coloured(BLACK, RED)),
    "blue on black": saved(".png", coloured(BLACK, BLUE)),
    "yellow on blue": saved(".png", coloured(BLUE, YELLOW)),
    "RGB, opaque": saved(
        ".png", lambda mask: np.dstack([coloured(BLACK, WHITE)(mask), np.full(mask.shape, 255, "u1")])
    ),
    "alpha over white": saved(".png", in_alpha([255, 255, 255])),
    "alpha over black": saved(".png", in_alpha([0, 0, 0])),
    "alpha over red": saved(".png", in_alpha([200, 0, 0])),
    "alpha over grey": saved(".png", in_alpha([128])),
    "NPY bool": saved(".npy", lambda mask: mask),
    "NPY float": saved(".npy", lambda mask: mask.astype(np.float32)),
    "NPY double": saved(".npy", lambda mask: mask * 255.0),
    "NPY integer": saved(".npy", lambda mask: mask.astype(np.int64)),
    "NPY negative": saved(".npy", lambda mask: mask.astype(np.int8) - 1),
    "NPY [1, H, W]": saved(".npy", lambda mask: ones(mask)[None]),
    "NPY [H, W, 1]": saved(".npy", lambda mask: mask[..., None]),
    "TIFF": tiff(white, compression="lzw"),
    "TIFF 0, 1": tiff(ones, compression="zlib"),
    "TIFF float": tiff(lambda mask: mask.astype(np.float32)),
    "TIFF of 16 bits": tiff(lambda mask: mask.astype(np.uint16) * 65535),
    "TIFF of 32 bits": tiff(lambda mask: mask.astype(np.int32)),
    "TIFF fax": saved(".tif", lambda mask: mask, compression="group4"),
    "TIFF, white is 0": tiff(lambda mask: white(~mask), photometric="miniswhite"),
    "BMP": saved(".bmp", white),
    "BMP of 1 bit": saved(".bmp", lambda mask: mask),
    "BMP palette": saved(".bmp", lambda mask: paletted(mask, [BLACK, WHITE])),
    "BMP RGB": saved(".bmp", coloured(BLACK, WHITE)),
    "GIF": saved(".gif", white),
    "GIF, colours": saved(".gif", coloured(BLACK, RED)),
    "WebP": saved(".webp", white, lossless=True),
    "WebP, alpha": saved(".webp", in_alpha([255, 255, 255]), lossless=True, exact=True),
    "NIfTI": saved(".nii.gz", ones),
    "NIfTI float": saved(".nii", lambda mask: mask.astype(np.float32)),
    "NIfTI [x, y, 1]": saved(".nii.gz", lambda mask: ones(mask)[None]),
    "NIfTI with a slope": (".nii.gz", with_slope),
    "PNG named JPEG": (".jpg", lambda path, mask: put(path, png(white(mask)))),
    "PNG 0, 1 named JPEG": (".jpg", lambda path, mask: put(path, png(ones(mask)))),
}


@pytest.mark.parametrize("name", MASKS)
@few
@given(st.integers(4, 21), st.integers(4, 21), st.integers(0, 2**32 - 1))
def test_what_is_read_equals_what_was_drawn(tmp_path_factory, name, height, width, seed):
    suffix, write = MASKS[name]
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    mask.flat[[0, -1]] = False, True
    folder = tmp_path_factory.mktemp("masks")
    put(folder / "case" / "image.png", np.arange(height * width).reshape(height, width).astype(np.uint8))
    write(folder / "case" / f"label0_{suffix}", mask)
    np.testing.assert_array_equal(masks_in(opened(folder))[0], mask)


def test_only_a_palette_whose_brightness_orders_its_levels_otherwise_is_reported(tmp_path):
    for name in ("palette, rising", "palette, falling", "palette of 1 bit", "PNG of 1 bit", "palette, colours"):
        suffix, write = MASKS[name]
        put(tmp_path / name / "case" / "image.png", disc(30))
        write(tmp_path / name / "case" / f"label0_{suffix}", disc(9))
        notes = [note for note in opened(tmp_path / name).notes if "palette" in note]
        assert bool(notes) == (name not in ("palette, rising", "PNG of 1 bit")), (name, notes)


# -- lossy ------------------------------------------------------------------------------------------------------------

LOSSY = {"JPEG": (".jpg", white), "JPEG RGB": (".jpg", coloured(BLACK, WHITE)), "JPEG, large": (".JPEG", white)}


def put_lossy(folder, suffix, picture, **how):
    put(folder / "image.png", disc(40, 32, 32))
    put(folder / f"label0_{suffix}", picture, **how)


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(50, 95), st.integers(3, 24), st.integers(0, 2**32 - 1))
def test_discs_in_a_jpeg_keep_their_area(tmp_path_factory, name, quality, radius, seed):
    mask = disc(radius, *np.random.default_rng(seed).uniform(24, 40, 2))
    folder = tmp_path_factory.mktemp("lossy")
    suffix, change = LOSSY[name]
    put_lossy(folder / "case", suffix, change(mask), quality=quality)
    (area,) = areas_in(opened(folder))
    assert abs(area - mask.sum()) <= 2 + 0.04 * mask.sum()


@pytest.mark.parametrize("quality", [50, 80, 95])
def test_lossy_webp_and_a_jpeg_of_another_name_are_read_or_refused(tmp_path, quality):
    mask = disc(13)
    put_lossy(tmp_path / "webp" / "case", ".webp", white(mask), quality=quality)
    put_lossy(tmp_path / "named" / "case", ".png", white(mask), quality=quality, format="JPEG")
    for folder in ("webp", "named"):
        try:
            (area,) = areas_in(opened(tmp_path / folder))
            assert abs(area - mask.sum()) <= 0.04 * mask.sum()
        except DataError as error:
            assert "label0_" in str(error)
