"""Images: what is read equals what was drawn, in every format, bit depth and size; other files are refused by name."""

import numpy as np
import pytest
from drawings import areas_in, assert_says, disc, opened, put, put_case, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from image_formats import ALPHAS, FORMATS, PNG, drawn
from PIL import Image

from guided_diffusion.lidcloader import LIDCDataset

few = settings(max_examples=4, deadline=None, derandomize=True)
TRUNCATED = ("PNG 8", "PNG RGB 16", "JPEG", "BMP", "GIF", "WebP RGB", "TIFF RGB lzw", "NPY <f4", "NIfTI")


def as_read(folder):
    """The image [C, H, W] of the only case, and whether it is in colour."""
    dataset = LIDCDataset(folder, image_channels="auto", require_raters=False)
    case = dataset[0]
    assert dataset.num_planes == len(case.image) and dataset.colour == case.colour
    return case.image.numpy(), case.colour


@pytest.mark.parametrize("name", FORMATS)
@few
@given(st.integers(4, 21), st.integers(4, 21), st.integers(0, 2**32 - 1))
def test_what_is_read_equals_what_was_drawn(tmp_path_factory, name, height, width, seed):
    form = FORMATS[name]
    height, width = (2 * height + 24, 2 * width + 24) if form.smooth else (height, width)
    values = drawn(form, height, width, seed)
    stored = values.astype(form.dtype)
    folder = tmp_path_factory.mktemp("formats")
    (folder / "case").mkdir()
    form.write(folder / "case" / f"image{form.suffix}", stored)
    image, colour = as_read(folder)
    expected = (stored.astype(np.float64) - form.low) / (form.high - form.low)
    expected = np.moveaxis(expected.reshape(height, width, -1), -1, 0)
    if form.colour:
        assert colour and len(image) == 3
    assert len(image) in (1, 3) and image.shape[1:] == (height, width)
    expected = np.broadcast_to(expected, image.shape)  # grey may be read as three equal planes
    np.testing.assert_allclose(image, expected, atol=form.tolerance / (form.high - form.low) + 1e-6)


# -- what cannot be read as one image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALPHAS)
def test_a_constant_alpha_is_dropped_and_reported(tmp_path, name):
    form = ALPHAS[name]
    (tmp_path / "case").mkdir()
    form.write(tmp_path / "case" / f"image{form.suffix}", drawn(form, 9, 12, 0).astype(form.dtype))
    put(tmp_path / "case" / "label0_.png", disc(3, 4, 4, 12)[:9])
    (note,) = [note for note in opened(tmp_path).notes if "alpha" in note]
    assert_says(note, 1)


def in_pages(suffix):
    def write(folder, pages):
        first, *more = [Image.fromarray(page) for page in pages]
        put(folder / f"image{suffix}", first, save_all=True, append_images=more)

    return write


def varying(mode):
    def write(folder, pages):
        put(folder / "image.png", np.dstack([pages[0]] * (len(mode) - 1) + [pages[1]]))

    return write


def array(change, suffix=".npy"):
    return lambda folder, pages: put(folder / f"image{suffix}", change(pages))


# what -> (how the file is written from pages [3, 16, 16] of noise, words of the refusal)
REFUSED = {
    "TIFF of pages": (in_pages(".tif"), ("image.tif", 3, "page")),
    "animated GIF": (in_pages(".gif"), ("image.gif", 3)),
    "animated WebP": (in_pages(".webp"), ("image.webp", 3)),
    "animated PNG": (in_pages(".png"), ("image.png", 3)),
    "varying alpha": (varying("RGBA"), ("image.png", "alpha")),
    "varying alpha of grey": (varying("LA"), ("image.png", "alpha")),
    "two planes first": (array(lambda pages: pages[:2]), ("image.npy", "(2, 16, 16)")),
    "two planes last": (array(lambda pages: pages[:2].transpose(1, 2, 0)), ("image.npy", "(16, 16, 2)")),
    "five planes": (array(lambda pages: np.concatenate([pages, pages[:2]])), ("image.npy", "(5, 16, 16)")),
    "colour in rows or columns": (array(lambda pages: pages[:, :, :3]), ("image.npy", "(3, 16, 3)")),
    "a row": (array(lambda pages: pages[0, 0]), ("image.npy", "(16")),
    "nothing": (array(lambda pages: pages[0, :0]), ("image.npy", "(0, 16)")),
    "text": (array(lambda pages: pages.astype(str)), ("image.npy",)),
    "complex": (array(lambda pages: pages[0] * 1j), ("image.npy",)),
    "not a number": (array(lambda pages: np.where(pages[0] == pages[0, 0, 0], np.nan, pages[0])), ("image.npy",)),
    "a volume": (array(lambda pages: pages.astype(np.float32), ".nii.gz"), ("image.nii.gz", "16x16x3")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_image_is_refused_by_name(tmp_path, name):
    write, words = REFUSED[name]
    write(tmp_path / "case", np.random.default_rng(0).integers(0, 255, (3, 16, 16), np.uint8))
    put(tmp_path / "case" / "label0_.png", disc(5, 8, 8, 16))
    for channels in (4, 3, "auto", None):
        assert_says(refusal(tmp_path, channels), *words)


@pytest.mark.parametrize(
    "name", ["PNG 8", "PNG RGB 16", "JPEG", "BMP", "GIF", "WebP RGB", "TIFF RGB lzw", "NPY <f4", "NIfTI"]
)
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.95])
def test_truncated_files_are_named(tmp_path, name, share):
    form = FORMATS[name]
    path = tmp_path / "case" / f"image{form.suffix}"
    path.parent.mkdir()
    form.write(path, drawn(form, 40, 40, 0).astype(form.dtype))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    put(tmp_path / "case" / "label0_.png", disc(5, 20, 20, 40))
    put(tmp_path / "other" / "image.png", drawn(PNG["PNG 8"], 40, 40, 0).astype(np.uint8))
    put(tmp_path / "other" / "label0_.tif", b"II*\0")
    assert_says(refusal(tmp_path, "auto"), f"case/{path.name}", "other/label0_.tif")


def test_planes_of_all_cases_must_agree(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    put_case(tmp_path / "a", [disc(9)], rgb)
    put_case(tmp_path / "b", [disc(9)])
    for channels in (4, 3, "auto", None):
        text = refusal(tmp_path, channels)
        assert "grey" in text or "colour" in text or "plane" in text, text
    dataset = opened(tmp_path, 4, grey=True)
    assert dataset.num_planes == 1 and areas_in(dataset) == areas_in(dataset, 1) == [disc(9).sum()]
