"""Orientation tags of pictures, and grids of NIfTI files: image and masks lie over each other as they were drawn."""

import numpy as np
import pytest
from drawings import DISCS, GREY, STORED, assert_says, exif, masks_in, opened, put, put_nifti, refusal, white
from grids import GRIDS, on_another_grid, placed, rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from image_formats import in_png, in_tiff

nibabel = pytest.importorskip("nibabel")


# container -> (extension, how an array is written with an orientation, type, greatest value, planes, tolerance)
TAGGED = {
    "JPEG": (".jpg", lambda path, a, tag: put(path, a, exif=exif(tag), quality=100), np.uint8, 255, 1, 6),
    "JPEG RGB": (
        ".jpg",
        lambda path, a, tag: put(path, a, exif=exif(tag), quality=100, subsampling=0),
        np.uint8,
        255,
        3,
        6,
    ),
    "PNG": (".png", in_png(8), np.uint8, 255, 1, 0),
    "PNG 16": (".png", in_png(16), np.uint16, 65535, 1, 0),
    "PNG RGB 16": (".png", in_png(16), np.uint16, 65535, 3, 0),
    "WebP": (".webp", lambda path, a, tag: put(path, a, exif=exif(tag), lossless=True), np.uint8, 255, 3, 0),
    "TIFF": (".tif", in_tiff, np.uint8, 255, 1, 0),
    "TIFF 16": (".tif", in_tiff, np.uint16, 65535, 1, 0),
    "TIFF RGB": (".tif", in_tiff, np.uint8, 255, 3, 0),
    "TIFF RGB 16": (".tif", in_tiff, np.uint16, 65535, 3, 0),
    "TIFF float": (".tif", in_tiff, np.float32, 1, 1, 0),
}


@pytest.mark.parametrize("name", TAGGED)
@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.integers(5, 20), st.integers(5, 20), st.integers(0, 2**32 - 1))
def test_pictures_are_read_upright(tmp_path_factory, name, height, width, seed):
    """Each orientation of an image, with a mask whose file has another one."""
    suffix, write, dtype, top, planes, tolerance = TAGGED[name]
    folder, rng = tmp_path_factory.mktemp("tags"), np.random.default_rng(seed)
    image = (top * rng.random((height, width, planes))).astype(dtype)
    image[0, 0], image[-1, -1] = 0, top
    mask = rng.random((height, width)) < 0.4
    mask.flat[[0, -1]] = False, True
    for tag, stored in STORED.items():
        case = folder / f"case{tag}"
        case.mkdir()
        write(case / f"image{suffix}", stored(image if planes == 3 else image[..., 0]), tag)
        in_png(8)(case / "label0_.png", STORED[9 - tag](white(mask)), 9 - tag)
        in_tiff(case / "label1_.tif", stored(white(mask)), tag)
        put(case / "label2_.png", white(mask))
    dataset = opened(folder, "auto")
    for index in range(len(STORED)):
        got = dataset[index].image.numpy()
        np.testing.assert_allclose(got * top, image.transpose(2, 0, 1), atol=tolerance + 1e-6 * top)
        assert (masks_in(dataset, index) == mask).all(), dataset.ids[index]


def test_pictures_without_a_tag_and_with_that_of_an_upright_one_are_as_stored(tmp_path):
    put(tmp_path / "a" / "image.png", GREY)
    put(tmp_path / "a" / "label0_.jpg", white(DISCS[0]), quality=95)
    put(tmp_path / "b" / "image.jpg", GREY, quality=100, exif=exif(1))
    put(tmp_path / "b" / "label0_.jpg", white(DISCS[0]), quality=95, exif=exif(1))
    dataset = opened(tmp_path)
    for index in range(2):
        np.testing.assert_allclose(dataset[index].image[0].numpy() * 255, GREY, atol=6)
        assert (masks_in(dataset, index)[0] ^ DISCS[0]).sum() < 12
    assert not dataset.departures


# -- NIfTI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [np.eye(4), placed(), rotation(25, 0) @ rotation(40, 2) @ placed()])
def test_every_turn_and_mirror_image_of_a_mask_is_brought_to_the_grid_of_its_image(tmp_path, base):
    rng = np.random.default_rng(0)
    image, masks = rng.random((7, 10, 1)).astype(np.float32), rng.random((len(GRIDS), 7, 10, 1)) < 0.4
    for k, (grid, mask) in enumerate(zip(GRIDS, masks, strict=True)):
        put_nifti(tmp_path / f"case{k:02d}" / "image.nii.gz", image, base)
        put_nifti(tmp_path / f"case{k:02d}" / "label0_.nii.gz", *on_another_grid(mask.astype(np.uint8), base, *grid))
    dataset = opened(tmp_path)
    assert len(dataset) == len(GRIDS) == 48
    for k, mask in enumerate(masks):
        assert (masks_in(dataset, k)[0] == mask[..., 0].T).all(), GRIDS[k]
        assert (dataset[k].image[0].numpy().argmax() == image[..., 0].T.argmax()).all()


def test_modalities_on_other_grids_are_brought_to_the_first(tmp_path):
    image = np.random.default_rng(0).random((7, 10, 1)).astype(np.float32)
    put_nifti(tmp_path / "a" / "image_flair.nii.gz", image, placed())
    put_nifti(tmp_path / "a" / "image_t1.nii.gz", *on_another_grid(image, placed(), (1, 0, 2), (True, False, True)))
    put_nifti(tmp_path / "a" / "label0_.nii.gz", (image > 0.5).astype(np.uint8), placed())
    first, second = opened(tmp_path)[0].image
    assert (first == second).all()


OTHER_GRIDS = {
    "turned by 10 degrees": placed() @ rotation(10, 2),
    "tilted by 10 degrees": placed() @ rotation(10, 0),
    "shifted by a pixel": placed(origin=(-29.2, 12, 5)),
    "shifted by half a pixel": placed(origin=(-30, 12.35, 5)),
    "another slice": placed(origin=(-30, 12, 8)),
    "another spacing": placed((0.8, 0.8, 3.0)),
    "half the spacing": placed((0.4, 0.35, 3.0)),
    "sheared": placed() @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("name", OTHER_GRIDS)
def test_a_mask_on_another_grid_is_refused(tmp_path, name):
    image = np.random.default_rng(0).random((7, 10, 1)).astype(np.float32)
    put_nifti(tmp_path / "a" / "image.nii.gz", image, placed())
    put_nifti(tmp_path / "a" / "label0_.nii.gz", (image > 0.5).astype(np.uint8), OTHER_GRIDS[name])
    text = refusal(tmp_path)
    assert_says(text, "label0_.nii.gz")
    assert "grid" in text or "affine" in text, text


def test_affines_that_differ_by_rounding_are_the_same_grid(tmp_path):
    image = np.random.default_rng(0).random((7, 10, 1)).astype(np.float32)
    near = placed() + np.pad(np.random.default_rng(1).uniform(-1e-5, 1e-5, (3, 4)), [(0, 1), (0, 0)])
    put_nifti(tmp_path / "a" / "image.nii.gz", image, placed())
    put_nifti(tmp_path / "a" / "label0_.nii.gz", (image > 0.5).astype(np.uint8), near)
    assert (masks_in(opened(tmp_path))[0] == (image[..., 0].T > 0.5)).all()


def test_a_mask_without_a_grid_is_taken_as_stored(tmp_path):
    put_nifti(tmp_path / "a" / "image.nii.gz", GREY.T.astype(np.float32), rotation(25, 0) @ placed())
    put(tmp_path / "a" / "label0_.png", white(DISCS[0]))
    put(tmp_path / "a" / "label1_.npy", white(DISCS[1]))
    assert (masks_in(opened(tmp_path)) == np.array(DISCS[:2])).all()
