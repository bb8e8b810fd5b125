"""The inspector's page, and sheets, at the size of the case's image; sheets of large images stay small."""

import types

import numpy as np
import pytest
from drawings import put, white
from own_size import blobs, draws_raters, sample, write_model

from guided_diffusion.masks import pictures
from guided_diffusion.visualize.inspector import InspectConfig, Inspector

MASKS = np.stack([blobs(40, 30, k) for k in range(2)])
IMAGE = np.where(MASKS[0], 180, 40).astype(np.uint8)


@pytest.fixture(params=[False, True], ids=["stretched", "padded"])
def drawn(request, tmp_path, monkeypatch):
    """(cases, samples, whether padded)."""
    draws_raters(monkeypatch)
    put(tmp_path / "data" / "a" / "image.png", IMAGE)
    for k, mask in enumerate(MASKS):
        put(tmp_path / "data" / "a" / f"label{k}_.png", white(mask))
    model = write_model(tmp_path / "model.pt", image_size=16, pad=request.param)
    sample(tmp_path / "data", model, tmp_path / "out")
    return tmp_path / "data", tmp_path / "out", request.param


def page_of(data, out):
    return Inspector(types.SimpleNamespace(), InspectConfig(str(out), str(data))).page()


def test_the_page_is_the_sheet_of_the_case_at_its_size(drawn):
    data, out, _ = drawn
    with pictures.Image.open(out / "a_sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(page_of(data, out)), np.asarray(sheet.convert("RGB")))


def test_the_page_of_samples_at_the_networks_size(drawn):
    data, out, pad = drawn
    sample(data, out.parent / "model.pt", out, "--output_size=network")
    with pictures.Image.open(out / "a_sheet.png") as sheet:
        np.testing.assert_array_equal(np.asarray(page_of(data, out)), np.asarray(sheet.convert("RGB")))


def test_a_case_that_is_not_there_is_shown_by_its_samples_at_its_size(drawn):
    _, out, _ = drawn
    shown = page_of("", out)
    image = np.zeros((40, 30))
    none = np.zeros((0, 40, 30), dtype=bool)
    assert shown.size == pictures.sheet(image, none, MASKS).size


@pytest.mark.parametrize("size", [(3000, 2000), (1025, 1024), (300, 4000)])
def test_tiles_of_large_images_are_reduced(size):
    masks = np.zeros((2, *size), dtype=bool)
    masks[:, size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    image = np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)
    sheet = pictures.sheet(image, masks[:1], masks)
    side = pictures.LARGEST_TILE
    most = [side * length / max(size) for length in size]
    assert sheet.height < 3 * (most[0] + 400) and sheet.width < 4 * max(most[1], 600) + 200
    small = pictures.reduced(masks[0])
    assert max(small.shape) == side and small.dtype == bool
    assert small.mean() == pytest.approx(1 / 16, rel=0.05)
    grey = pictures.reduced(image)
    assert grey.mean() == pytest.approx(0.5, abs=1e-3) and grey.min() >= 0 and grey.max() <= 1
    movie = pictures.movie(image, [image, image])
    assert len(movie) < 4e6


def test_what_is_not_large_is_shown_as_it_is():
    image = np.random.default_rng(0).random((1024, 700), dtype=np.float32)
    assert pictures.reduced(image) is image
    colour = np.random.default_rng(0).random((3, 2048, 10), dtype=np.float32)
    assert pictures.reduced(colour).shape == (3, 1024, 5)
