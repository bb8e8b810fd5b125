"""Folders as users have them: each is read as it was meant or refused with what to do, and nothing in silence."""

import numpy as np
import pytest
import torch
from drawings import (
    AREAS,
    DISCS,
    GREY,
    RADII,
    SIDE,
    areas_in,
    assert_says,
    classes,
    exif,
    masks_in,
    opened,
    paletted,
    points_within,
    put,
    put_case,
    refusal,
    soft,
    white,
)
from helpers import call_script
from PIL import Image

from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset

RATERS = [white(mask) for mask in DISCS]


def check(folder, *flags):
    """Status and text of check_data."""
    done = call_script("check_data", folder, *flags)
    assert done.returncode in (0, 1) or len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_areas_follow_from_the_radii():
    assert [points_within(radius) for radius in RADII] == [int(mask.sum()) for mask in DISCS] == AREAS


# -- levels -----------------------------------------------------------------------------------------------------------


def test_a_soft_mask_is_refused_and_cut_by_a_given_threshold(tmp_path):
    mask = soft(DISCS[0])
    assert len(np.unique(mask)) == 114 and (mask > 0).sum() == 785
    put_case(tmp_path / "p0", [mask])
    assert_says(refusal(tmp_path), "label0_.png", 114, "--label_threshold", "swapped")
    assert areas_in(opened(tmp_path, label_threshold=0.5)) == [517]
    assert areas_in(opened(tmp_path, label_threshold=0.0)) == [785]
    status, text = check(tmp_path)
    assert status
    assert_says(text, "label0_.png", "--label_threshold")


def test_classes_are_refused_with_levels_counts_and_remedies(tmp_path):
    put_case(tmp_path / "c0", [classes()])
    text = refusal(tmp_path)
    assert_says(text, "label0_.png", 0, 1, 2, 517, 255, "--merge_labels", "--structure")
    status, text = check(tmp_path)
    assert status
    assert_says(text, "label0_.png", 517, 255, "--merge_labels", "--structure")
    assert areas_in(opened(tmp_path, merge_labels=True)) == [517 + 255]
    assert [areas_in(opened(tmp_path, structure=level)) for level in "12"] == [[517], [255]]
    assert_says(refusal(tmp_path, structure="3"), "--structure", 1, 2)


def test_classes_in_a_jpeg_are_refused_too(tmp_path):
    put_case(tmp_path / "c0")
    put(tmp_path / "c0" / "label0_.jpg", classes() * 85, quality=95)
    text = refusal(tmp_path)
    assert_says(text, "label0_.jpg", "--label_threshold")
    numbers = [int(word) for word in text.replace(",", " ").split() if word.isdigit()]
    assert any(abs(number - 85) < 4 for number in numbers) and any(abs(number - 170) < 4 for number in numbers), text
    assert areas_in(opened(tmp_path, label_threshold=0.5))[0] == pytest.approx(255, abs=6)
    try:
        assert areas_in(opened(tmp_path, merge_labels=True))[0] == pytest.approx(517 + 255, abs=12)
    except DataError as error:
        assert_says(str(error), "label0_.jpg")


def test_levels_1_and_2_are_background_and_foreground(tmp_path):
    put_case(tmp_path / "p0", [DISCS[0].astype(np.uint8) + 1])
    assert areas_in(opened(tmp_path)) == [517]


def test_a_jpeg_of_levels_0_and_1_is_refused(tmp_path):
    put_case(tmp_path / "c0")
    put(tmp_path / "c0" / "label0_.jpg", DISCS[0].astype(np.uint8), quality=95)
    assert_says(refusal(tmp_path), "label0_.jpg")
    status, text = check(tmp_path)
    assert status
    assert_says(text, "label0_.jpg")


def test_a_border_of_another_level_is_not_foreground(tmp_path):
    border = white(DISCS[0])
    border[:3] = 128
    put_case(tmp_path / "c0", [border])
    assert_says(refusal(tmp_path), "label0_.png", 0, 128, 255, 3 * SIDE, 517, "--structure")
    assert areas_in(opened(tmp_path, structure="255")) == [517]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_a_small_lesion_keeps_its_most_covered_pixel_and_is_counted(tmp_path):
    lesion = np.zeros((256, 256), bool)
    lesion[23:28, 102:107] = True  # of the pixels at 32x32, (3, 13) has 12 of the 25, of its own 64
    wide = lesion.copy()
    wide[22:28, 100:108] = True
    put_case(
        tmp_path / "c0", [white(lesion), white(wide), 0 * white(lesion)], np.where(lesion, 230, 80).astype(np.uint8)
    )
    dataset = opened(tmp_path, size=32)
    small, larger, empty = masks_in(dataset)
    assert small.sum() == 1 and small[3, 13] and larger[3, 13] and not empty.any()
    (note,) = [note for note in dataset.notes if "lesion" in note or "vanish" in note]
    assert_says(note, 1)
    assert areas_in(opened(tmp_path)) == [25, 48, 0]


# -- channels ---------------------------------------------------------------------------------------------------------


def test_colours_of_one_luminance_stay_apart(tmp_path):
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    rgb[~DISCS[0]], rgb[DISCS[0]] = (60, 107, 60), (200, 41, 37)  # of luminance 88
    put_case(tmp_path / "c0", RATERS[:2], rgb)
    for channels in ("auto", None, 3):
        dataset = opened(tmp_path, channels)
        assert dataset.num_planes == 3 and dataset.colour and dataset[0].colour
        np.testing.assert_allclose(dataset[0].image.numpy(), rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    for channels in (4, 1):
        assert_says(refusal(tmp_path, channels), 3, "--image_channels")
    dataset = opened(tmp_path, 4, grey=True)
    assert dataset.num_planes == 1 and not dataset.colour and not dataset[0].colour
    np.testing.assert_allclose(dataset[0].image.numpy(), np.full((4, SIDE, SIDE), 88 / 255), atol=0.6 / 255)
    assert check(tmp_path)[0] == 0


def test_grey_files_are_one_plane_repeated_as_published(tmp_path):
    put_case(tmp_path / "c0", RATERS[:2])
    dataset = LIDCDataset(tmp_path)
    assert dataset.num_planes == 1 and not dataset.colour and not dataset.departures
    torch.testing.assert_close(dataset[0].image, torch.from_numpy(GREY / 255).float().expand(4, -1, -1))
    assert opened(tmp_path, "auto")[0].image.shape == (1, SIDE, SIDE)


def test_twelve_bits_in_sixteen_are_reported_and_the_range_holds(tmp_path):
    put_case(tmp_path / "c0", RATERS[:2], GREY.astype(np.uint16) * 16)
    dataset = opened(tmp_path)
    assert dataset[0].image.max().item() == pytest.approx(3200 / 65535)
    (note,) = [note for note in dataset.notes if "--intensity_range" in note]
    assert_says(note, 800, 3200)
    assert_says(check(tmp_path)[1], "--intensity_range", 3200)
    dataset = opened(tmp_path, intensity_range=(0.0, 4095.0))
    values = torch.from_numpy(GREY * (16 / 4095)).float()[None]
    torch.testing.assert_close(dataset[0].image, values)
    assert not [note for note in dataset.notes if "--intensity_range" in note]


def test_modalities_are_matched_by_name_over_the_cases(tmp_path):
    for c in range(6):
        folder = tmp_path / f"c{c}"
        for i, name in enumerate(["flair", "t1", "t2"]):
            spelled = "T1" if (c, name) == (3, "t1") else name
            if c != 5 or name == "flair":
                put(folder / f"image_{spelled}.png", GREY // (i + 1))
        put(folder / "label0_.png", RATERS[0])
    for text in (refusal(tmp_path), refusal(tmp_path, 3), check(tmp_path)[1]):
        assert_says(text, "c3", "c5", "t1")
        assert "T1" in text and not any(f"c{c}" in text.replace(str(tmp_path), "") for c in (0, 1, 2, 4)), text
    (tmp_path / "c3" / "image_T1.png").rename(tmp_path / "c3" / "image_t1.png")
    for i, name in enumerate(["t1", "t2"], 1):
        put(tmp_path / "c5" / f"image_{name}.png", GREY // (i + 1))
    dataset = opened(tmp_path, 3)
    assert dataset.num_planes == 3 and not dataset.colour
    for index in range(6):
        assert (dataset[index].image[:, 20, 42] * 255).round().tolist() == [200, 100, 66]


# -- orientation ------------------------------------------------------------------------------------------------------


def test_a_photograph_is_turned_upright(tmp_path):
    put_case(tmp_path / "c0", RATERS[:2])
    (tmp_path / "c0" / "image.png").unlink()
    put(tmp_path / "c0" / "image.jpg", np.rot90(GREY, 1), exif=exif(6), quality=95)
    dataset = opened(tmp_path)
    np.testing.assert_allclose(dataset[0].image[0].numpy() * 255, GREY, atol=25)
    assert areas_in(dataset) == AREAS[:2]


def test_a_mask_on_a_grid_turned_by_180_degrees_lies_over_its_image(tmp_path):
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:2, 3] = SIDE - 1
    put(tmp_path / "c0" / "image.nii.gz", GREY.astype(np.float32), np.eye(4))
    put(tmp_path / "c0" / "label0_.nii.gz", RATERS[0][::-1, ::-1], turned)
    dataset = opened(tmp_path)
    assert areas_in(dataset) == [517]
    assert (dataset[0].image[0].numpy()[masks_in(dataset)[0]] == 1).all()


def test_volumes_are_refused_with_what_to_do(tmp_path):
    affine = np.diag([0.8, 0.8, 3.0, 1.0])
    affine[:3, 3] = -30, 12, 5
    ball = np.stack([DISCS[0] & (abs(z - 10) < 5) for z in range(20)])
    for name, values in (("image", np.where(ball, 200.0, 50.0)), ("label0_", white(ball)), ("label1_", white(ball))):
        put(tmp_path / "p0" / f"{name}.nii.gz", values, affine)
    text = refusal(tmp_path)
    assert_says(text, "image.nii.gz", "64x64x20")
    assert "slice" in text or "convert_data" in text, text
    assert check(tmp_path)[0]


# -- masks in other places of a file ----------------------------------------------------------------------------------


def test_a_mask_in_the_alpha_channel_is_that_mask(tmp_path):
    alpha = np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), RATERS[0]])
    put_case(tmp_path / "c0", [alpha])
    assert areas_in(opened(tmp_path)) == [517]


def test_a_palette_is_read_by_index_and_its_brightness_reported(tmp_path):
    put_case(tmp_path / "c0", [paletted(DISCS[0], [(255, 255, 255), (0, 0, 0)])])
    dataset = opened(tmp_path)
    assert areas_in(dataset) == [517]
    (note,) = [note for note in dataset.notes if "palette" in note]
    assert_says(note, 1)
    assert "palette" in check(tmp_path)[1]


# -- files that do not count, or do not open --------------------------------------------------------------------------


def test_a_label_of_another_format_is_not_passed_over(tmp_path):
    put_case(tmp_path / "c0", [RATERS[0], (RATERS[1], ".tif")])
    put_case(tmp_path / "c1", [RATERS[0]])
    dataset = opened(tmp_path)
    assert areas_in(dataset) == AREAS[:2] and areas_in(dataset, 1) == AREAS[:1]


def test_files_that_do_not_open_are_named_in_one_pass(tmp_path):
    put_case(tmp_path / "c0")
    (tmp_path / "c0" / "label0_.png").symlink_to("/nonexistent")
    put_case(tmp_path / "c1")
    (tmp_path / "c1" / "label0_.png").write_text("text")
    for text in (refusal(tmp_path), check(tmp_path)[1]):
        assert_says(text, "c0/label0_.png", "c1/label0_.png")


def test_a_tiff_of_several_pages_is_refused(tmp_path):
    pages = [Image.fromarray(GREY // (k + 1)) for k in range(5)]
    put_case(tmp_path / "p0", RATERS[:2])
    (tmp_path / "p0" / "image.png").unlink()
    put(tmp_path / "p0" / "image.tif", pages[0], save_all=True, append_images=pages[1:])
    text = refusal(tmp_path)
    assert_says(text, "image.tif", 5)
    assert "page" in text


def test_structures_of_one_rater_are_not_two_raters(tmp_path):
    """Label files name the structure; one of them can be chosen."""
    put_case(tmp_path / "eye0")
    for k, mask in enumerate(RATERS):
        put(tmp_path / "eye0" / f"label{k}_disc.png", RATERS[0])
        put(tmp_path / "eye0" / f"label{k}_cup.png", mask)
    assert_says(refusal(tmp_path), "label0_cup.png", "label0_disc.png", "--structure")
    assert areas_in(opened(tmp_path, structure="cup")) == AREAS
    assert areas_in(opened(tmp_path, structure="disc")) == [517] * 3
