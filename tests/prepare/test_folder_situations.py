"""Folders of pictures as users have them, converted: the same situations, and the same answers, as in the loader."""

import csv

import numpy as np
import pytest
from drawings import (
    AREAS,
    DISCS,
    GREY,
    SIDE,
    areas_in,
    assert_says,
    classes,
    exif,
    masks_in,
    opened,
    paletted,
    png,
    put,
    soft,
    white,
)
from helpers import assert_refused, call_script
from PIL import Image

RATERS = [white(mask) for mask in DISCS]


def convert(tmp_path, *flags, name="folders"):
    return call_script("convert_data", name, f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'out'}", *flags)


def converted(tmp_path, *flags, **how):
    """{case: (image [C, H, W], masks [R, H, W])} of a conversion without faults, and its text."""
    done = convert(tmp_path, *flags, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = {}
    for split in ("training", "validation", "testing"):
        if (tmp_path / "out" / split).is_dir():
            dataset = opened(tmp_path / "out" / split)
            cases |= {dataset.ids[k]: (dataset[k].image.numpy(), masks_in(dataset, k)) for k in range(len(dataset))}
    with open(tmp_path / "out" / "manifest.csv") as file:
        for row in csv.DictReader(file):
            assert row["areas"] == " ".join(str(mask.sum()) for mask in cases[row["case"]][1])
    return cases, done.stdout


def areas_of(case):
    return case[1].sum((1, 2)).tolist()


def put_pictures(folder, masks, image=GREY, suffix=".png"):
    """scan.png, and mask0, mask1, ..."""
    put(folder / "scan.png", image)
    for k, mask in enumerate(masks):
        put(folder / f"mask{k}{suffix}", mask)


def test_a_soft_mask_is_refused_and_cut_by_a_given_threshold(tmp_path):
    put_pictures(tmp_path / "src" / "p0", [soft(DISCS[0])])
    done = convert(tmp_path)
    assert_refused(done, "mask0.png", "--label_threshold")
    assert_says(done.stderr, 114)
    cases, _ = converted(tmp_path, "--label_threshold=0.5")
    assert areas_of(cases["p0"]) == [517]


def test_classes_are_refused_with_levels_counts_and_remedies(tmp_path):
    put_pictures(tmp_path / "src" / "p0", [classes()])
    done = convert(tmp_path)
    assert_refused(done, "mask0.png", "--merge_labels", "--structure")
    assert_says(done.stderr, 0, 1, 2, 517, 255)
    cases, _ = converted(tmp_path, "--structure=2")
    assert areas_of(cases["p0"]) == [255]


def test_classes_can_be_merged(tmp_path):
    put_pictures(tmp_path / "src" / "p0", [classes()])
    cases, _ = converted(tmp_path, "--merge_labels")
    assert areas_of(cases["p0"]) == [772]


def test_levels_1_and_2_are_background_and_foreground(tmp_path):
    put_pictures(tmp_path / "src" / "p0", [DISCS[0].astype(np.uint8) + 1])
    cases, _ = converted(tmp_path)
    assert areas_of(cases["p0"]) == [517]


def test_a_file_of_one_level_is_empty_or_full_as_the_set_has_it(tmp_path):
    level = np.ones((SIDE, SIDE), np.uint8)
    put_pictures(tmp_path / "src" / "p0", [DISCS[0].astype(np.uint8) + 1, level, 2 * level])
    put_pictures(tmp_path / "src" / "p1", [level])
    cases, _ = converted(tmp_path)
    assert areas_of(cases["p0"]) == [517, 0, SIDE**2] and areas_of(cases["p1"]) == [0]


@pytest.mark.parametrize("levels", [1, 85])
def test_other_levels_in_a_jpeg_are_refused(tmp_path, levels):
    put(tmp_path / "src" / "p0" / "scan.png", GREY)
    content = DISCS[0].astype(np.uint8) if levels == 1 else classes() * 85
    put(tmp_path / "src" / "p0" / "mask0.jpg", content, quality=95)
    assert_refused(convert(tmp_path), "mask0.jpg")


def test_a_border_of_another_level_is_not_foreground(tmp_path):
    border = white(DISCS[0])
    border[:3] = 128
    put_pictures(tmp_path / "src" / "p0", [border])
    assert_refused(convert(tmp_path), "mask0.png", "--structure")


def test_colour_stays_colour(tmp_path):
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    rgb[~DISCS[0]], rgb[DISCS[0]] = (60, 107, 60), (200, 41, 37)
    put_pictures(tmp_path / "src" / "p0", RATERS, rgb)
    deep = rgb.astype(np.uint16) * 257 + np.arange(SIDE, dtype=np.uint16)[:, None, None]
    put_pictures(tmp_path / "src" / "p1", RATERS)
    put(tmp_path / "src" / "p1" / "scan.png", png(deep, 16))
    cases, _ = converted(tmp_path)
    np.testing.assert_allclose(cases["p0"][0], rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    np.testing.assert_allclose(cases["p1"][0], deep.transpose(2, 0, 1) / 65535, atol=1e-6)
    assert areas_of(cases["p0"]) == areas_of(cases["p1"]) == AREAS
    assert all(opened(folder).colour for folder in (tmp_path / "out").iterdir() if folder.is_dir())


def test_twelve_bits_stay_twelve_bits(tmp_path):
    put_pictures(tmp_path / "src" / "p0", RATERS, GREY.astype(np.uint16) * 16)
    cases, _ = converted(tmp_path)
    np.testing.assert_allclose(cases["p0"][0][0] * 65535, GREY * 16.0, atol=0.01)


def test_a_photograph_and_a_mask_are_turned_upright(tmp_path):
    put_pictures(tmp_path / "src" / "p0", RATERS[:1])
    (tmp_path / "src" / "p0" / "scan.png").unlink()
    put(tmp_path / "src" / "p0" / "scan.jpg", np.rot90(GREY, 1), exif=exif(6), quality=95)
    put(tmp_path / "src" / "p0" / "mask1.png", Image.fromarray(np.rot90(RATERS[0], -1)), exif=exif(8))
    cases, _ = converted(tmp_path)
    image, masks = cases["p0"]
    np.testing.assert_allclose(image[0] * 255, GREY, atol=25)
    assert (masks == DISCS[0]).all()


def test_a_mask_in_the_alpha_channel_is_that_mask(tmp_path):
    alpha = np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), RATERS[0]])
    put_pictures(tmp_path / "src" / "p0", [alpha])
    cases, _ = converted(tmp_path)
    assert areas_of(cases["p0"]) == [517]


def test_a_palette_is_read_by_index_and_its_brightness_reported(tmp_path):
    put_pictures(tmp_path / "src" / "p0", [paletted(DISCS[0], [(255, 255, 255), (0, 0, 0)])])
    cases, text = converted(tmp_path)
    assert areas_of(cases["p0"]) == [517] and "palette" in text


def test_pages_of_image_and_masks_are_cases(tmp_path):
    images = [GREY // (k + 1) for k in range(5)]
    for name, pages in (("scan", images), ("mask0", [np.roll(RATERS[1], k, 0) for k in range(5)])):
        first, *more = map(Image.fromarray, pages)
        put(tmp_path / "src" / "p0" / f"{name}.tif", first, save_all=True, append_images=more)
    cases, _ = converted(tmp_path)
    assert len(cases) == 5
    for k, (_, (image, masks)) in enumerate(sorted(cases.items())):
        np.testing.assert_allclose(image[0] * 255, images[k], atol=0.01)
        assert (masks == np.roll(DISCS[1], k, 0)).all()


def test_pages_of_an_image_alone_are_cases_or_refused(tmp_path):
    """The masks have one page: which of the five they belong to is unknown."""
    put_pictures(tmp_path / "src" / "p0", RATERS[:2])
    (tmp_path / "src" / "p0" / "scan.png").unlink()
    first, *more = [Image.fromarray(GREY // (k + 1)) for k in range(5)]
    put(tmp_path / "src" / "p0" / "scan.tif", first, save_all=True, append_images=more)
    done = convert(tmp_path)
    if done.returncode:
        assert_refused(done, "scan.tif", "page")
    else:
        assert len(list((tmp_path / "out").glob("*/*/label0_*"))) == 5


@pytest.mark.parametrize("flat", [False, True])
def test_structures_are_not_raters(tmp_path, flat):
    for c in range(3):
        folder = tmp_path / "src" if flat else tmp_path / "src" / f"eye{c}"
        put(folder / f"eye{c}.jpg", GREY, quality=95)
        for k in range(3):
            put(folder / f"eye{c}_seg_disc_{k + 1}.png", RATERS[0])
            put(folder / f"eye{c}_seg_cup_{k + 1}.png", RATERS[k])
    done = convert(tmp_path)
    assert_refused(done, *([] if flat else ["--structure", "disc", "cup"]))


def test_one_structure_can_be_chosen(tmp_path):
    for c in range(3):
        put(tmp_path / "src" / f"eye{c}" / f"eye{c}.jpg", GREY, quality=95)
        for k in range(3):
            put(tmp_path / "src" / f"eye{c}" / f"eye{c}_seg_disc_{k + 1}.png", RATERS[0])
            put(tmp_path / "src" / f"eye{c}" / f"eye{c}_seg_cup_{k + 1}.png", RATERS[k])
    cases, _ = converted(tmp_path, "--structure=cup")
    assert len(cases) == 3 and all(areas_of(case) == AREAS for case in cases.values())


def test_files_that_do_not_open_are_named_in_one_pass(tmp_path):
    put_pictures(tmp_path / "src" / "p0", [])
    (tmp_path / "src" / "p0" / "mask0.png").symlink_to("/nonexistent")
    put_pictures(tmp_path / "src" / "p1", [])
    (tmp_path / "src" / "p1" / "mask0.png").write_text("text")
    put_pictures(tmp_path / "src" / "p2", RATERS)
    done = convert(tmp_path)
    assert done.returncode == 1
    assert_says(done.stdout + done.stderr, "p0/mask0.png", "p1/mask0.png")
    assert areas_in(opened(next(path.parent.parent for path in (tmp_path / "out").glob("*/p2/label0_*")))) == AREAS


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".npy", ".tiff"])
def test_a_mask_of_another_format_is_not_passed_over(tmp_path, suffix):
    put_pictures(tmp_path / "src" / "p0", RATERS[:1])
    how = {"lossless": True} if suffix == ".webp" else {}
    put(tmp_path / "src" / "p0" / f"mask1{suffix}", RATERS[1], **how)
    done = convert(tmp_path)
    if done.returncode or f"mask1{suffix}" in done.stdout:
        assert_says(done.stdout + done.stderr, f"p0/mask1{suffix}")
    else:
        (label,) = (tmp_path / "out").glob("*/p0/label0_*")
        assert areas_in(opened(label.parent)) == AREAS[:2]


def test_nifti_of_qubiq_on_turned_grids_lies_over_its_image(tmp_path):
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:2, 3] = SIDE - 1
    put(tmp_path / "src" / "a" / "image.nii.gz", GREY.astype(np.float32), np.eye(4))
    put(tmp_path / "src" / "a" / "task01_seg01.nii.gz", RATERS[0], np.eye(4))
    put(tmp_path / "src" / "a" / "task01_seg02.nii.gz", RATERS[0][::-1, ::-1], turned)
    cases, _ = converted(tmp_path, name="qubiq")
    assert (cases["a"][1] == DISCS[0]).all()
    shifted = np.eye(4)
    shifted[0, 3] = 1
    put(tmp_path / "src" / "a" / "task01_seg02.nii.gz", RATERS[0], shifted)
    (tmp_path / "out" / "manifest.csv").unlink()
    assert_refused(convert(tmp_path, name="qubiq"), "task01_seg02.nii.gz")
