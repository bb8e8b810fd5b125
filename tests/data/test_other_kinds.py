"""Odd files of the same kinds: levels of a set, files with other names, masks that say nothing."""

import numpy as np
import pytest
from drawings import (
    DISCS,
    GREY,
    SIDE,
    areas_in,
    assert_says,
    classes,
    disc,
    masks_in,
    opened,
    paletted,
    png,
    put,
    put_case,
    refusal,
    soft,
    white,
)
from helpers import TINY, as_arguments, call_script

from guided_diffusion.errors import DataError

ONES = [mask.astype(np.uint8) for mask in DISCS]
FULL = np.ones((SIDE, SIDE), np.uint8)


# -- levels belong to the set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0, 1), (1, 2), (0, 255), (0, 7), (3, 200)])
def test_a_file_of_one_level_is_empty_or_full_as_the_set_has_it(tmp_path, low, high):
    levels = np.array([low, high], np.uint8)
    put_case(tmp_path / "a", [levels[0 * FULL], levels[FULL], levels[ONES[0]]])
    put_case(tmp_path / "b", [levels[0 * FULL]])
    put_case(tmp_path / "c", [levels[FULL]])
    dataset = opened(tmp_path)
    assert [areas_in(dataset, k) for k in range(3)] == [[0, SIDE**2, 517], [0], [SIDE**2]]


def test_masks_of_0_and_1_among_masks_of_0_and_255_are_refused(tmp_path):
    put_case(tmp_path / "a", [white(mask) for mask in DISCS])
    put_case(tmp_path / "b", [white(DISCS[1]), ONES[0]])
    assert_says(refusal(tmp_path), 0, 1, 255, 517, "--merge_labels")
    dataset = opened(tmp_path, merge_labels=True)
    assert areas_in(dataset) == [517, 373, 249] and areas_in(dataset, 1) == [373, 517]


def test_a_class_of_one_case_makes_classes_of_the_set(tmp_path):
    for k in range(5):
        put_case(tmp_path / f"c{k}", ONES)
    put_case(tmp_path / "odd", [classes()])
    text = refusal(tmp_path)
    assert_says(text, "odd", 2, 255, "--merge_labels", "--structure")
    dataset = opened(tmp_path, structure="2")
    assert areas_in(dataset) == [0, 0, 0] and areas_in(dataset, 5) == [255]
    dataset = opened(tmp_path, structure="1")
    assert areas_in(dataset) == [517, 373, 249] and areas_in(dataset, 5) == [517]


@pytest.mark.parametrize("change", [np.float32, np.int64, np.uint16])
def test_classes_of_other_types_are_refused(tmp_path, change):
    put_case(tmp_path / "a", [classes().astype(change)], suffix=".npy")
    assert_says(refusal(tmp_path), "label0_.npy", 517, 255, "--merge_labels", "--structure")
    assert areas_in(opened(tmp_path, structure="2")) == [255]


def test_classes_in_colours_are_refused(tmp_path):
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    put_case(tmp_path / "a", [colours[classes()]])
    assert_says(refusal(tmp_path), "label0_.png")


def test_two_hundred_levels_are_classes_and_three_hundred_are_refused(tmp_path):
    many = np.repeat(np.repeat(np.arange(256).reshape(16, 16), 4, 0), 4, 1)
    put_case(tmp_path / "few" / "a", [(many % 200).astype(np.uint8)])
    put_case(tmp_path / "many" / "a", [np.where(many > 0, many + 300, 0).astype(np.uint16)])
    assert_says(refusal(tmp_path / "few"), "label0_.png", "--merge_labels")
    assert areas_in(opened(tmp_path / "few", merge_labels=True)) == [SIDE**2 - 32]
    assert_says(refusal(tmp_path / "many"), "label0_.png")


def test_masks_in_jpeg_and_png_of_one_set(tmp_path):
    put_case(tmp_path / "a", [white(DISCS[0])])
    put(tmp_path / "b" / "image.png", GREY)
    for k, mask in enumerate([*DISCS, disc(0), disc(99)]):
        put(tmp_path / "b" / f"label{k}_.jpg", white(mask), quality=90)
    areas = areas_in(opened(tmp_path), 1)
    assert areas[3:] == [0, SIDE**2]
    np.testing.assert_allclose(areas[:3], [517, 373, 249], rtol=0.03)


# -- soft masks -------------------------------------------------------------------------------------------------------

SOFT = {
    "2x": ("label0_.png", lambda mask: soft(mask)),
    "8x": ("label0_.png", lambda mask: soft(mask, 8)),
    "probabilities": ("label0_.npy", lambda mask: soft(mask).astype(np.float32) / 255),
    "16 bits": ("label0_.png", lambda mask: soft(mask, 4).astype(np.uint16) * 257),
    "NIfTI": ("label0_.nii.gz", lambda mask: soft(mask).astype(np.float32) / 255),
    "TIFF": ("label0_.tif", lambda mask: soft(mask)),
    "RGB": ("label0_.png", lambda mask: np.dstack([soft(mask)] * 3)),
    "alpha": ("label0_.png", lambda mask: np.dstack([white(mask | True)] * 3 + [soft(mask)])),
    "one grey": ("label0_.png", lambda mask: np.array([0, 128, 255], np.uint8)[np.digitize(soft(mask), [60, 200])]),
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_masks_are_refused_and_cut_by_a_given_threshold(tmp_path, name):
    file, change = SOFT[name]
    put_case(tmp_path / "a")
    put(tmp_path / "a" / file, change(DISCS[0]))
    text = refusal(tmp_path)
    assert_says(text, file)
    if name != "one grey":  # which may be a class as well
        assert_says(text, "--label_threshold", "swapped")
    (area,) = areas_in(opened(tmp_path, label_threshold=0.5))
    values = change(DISCS[0])
    values = values if values.ndim == 2 else values[..., -1]
    assert area == (values > {"u1": 255, "u2": 65535, "f4": 1}[values.dtype.str[1:]] / 2).sum()


def test_one_soft_mask_among_many_is_named(tmp_path):
    for k in range(8):
        put_case(tmp_path / f"c{k}", [white(DISCS[0]), soft(DISCS[1]) if k == 5 else white(DISCS[1])])
    assert_says(refusal(tmp_path), "c5/label1_.png", "--label_threshold")


def test_image_and_label_swapped_are_refused_with_the_hint(tmp_path):
    noise = np.random.default_rng(0).integers(-20, 20, GREY.shape)
    put(tmp_path / "a" / "label0_.png", (GREY + noise).astype(np.uint8))
    put(tmp_path / "a" / "image.png", white(DISCS[0]))
    assert_says(refusal(tmp_path), "label0_.png", "swapped")


@pytest.mark.parametrize("dtype, top", [(np.uint8, 255), (np.uint16, 65535)])
def test_a_gradient_is_not_a_mask(tmp_path, dtype, top):
    ramp = np.broadcast_to(np.linspace(0, top, SIDE), (SIDE, SIDE)).astype(dtype)
    put_case(tmp_path / "a", [ramp])
    assert_says(refusal(tmp_path), "label0_.png")


# -- palettes ---------------------------------------------------------------------------------------------------------


def test_full_and_empty_masks_in_gif_are_full_and_empty(tmp_path):
    """An encoder gives the colours of a GIF indices of its own: the only colour of a full mask has index 0."""
    for name, masks in {"a": DISCS, "b": [DISCS[0] | True, 0 * DISCS[0], DISCS[0]]}.items():
        put_case(tmp_path / name, [white(mask) for mask in masks], suffix=".gif")
    try:
        assert areas_in(opened(tmp_path), 1) == [SIDE**2, 0, 517]
    except DataError as error:
        assert "label" in str(error) and ".gif" in str(error)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_an_index_has_one_colour_in_all_files_of_a_set(tmp_path, suffix):
    black, white_, red = (0, 0, 0), (255, 255, 255), (200, 0, 0)
    for name, colours in {"a": [black, white_], "b": [white_, black], "c": [red, black]}.items():
        put(tmp_path / name / "image.png", GREY)
        put(tmp_path / name / f"label0_{suffix}", paletted(DISCS[0] == (colours[1] != black), colours))
    try:
        dataset = opened(tmp_path)
        assert [areas_in(dataset, k) for k in range(3)] == [[517]] * 3
    except DataError as error:
        assert f"label0_{suffix}" in str(error)


# -- masks that say nothing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level, word", [(0, "empty"), (255, "full")])
def test_a_set_of_empty_or_full_masks_is_a_warning_and_no_training_set(tmp_path, level, word):
    for k in range(3):
        put_case(tmp_path / "set" / f"c{k}", [np.full((SIDE, SIDE), level, np.uint8)] * 2)
    dataset = opened(tmp_path / "set")
    assert areas_in(dataset) == [level // 255 * SIDE**2] * 2
    (note,) = [note for note in dataset.notes if word in note]
    assert_says(note, 6)
    flags = {**TINY, "data_dir": tmp_path / "set", "log_dir": tmp_path / "run", "iterations": 1}
    done = call_script("segmentation_train", *as_arguments(flags))
    assert done.returncode == 2 and word in done.stderr and str(tmp_path / "set") in done.stderr, done.stderr


def test_foreground_above_half_of_most_images_is_a_warning(tmp_path):
    for k in range(5):
        mask = disc(30 if k else 9, 32, 32)
        put_case(tmp_path / f"c{k}", [white(mask)])
    dataset = opened(tmp_path)
    (note,) = [note for note in dataset.notes if "half" in note or "%" in note]
    assert_says(note, 4, 5)
    assert areas_in(dataset, 1) == [disc(30, 32, 32).sum()]


def test_small_and_some_empty_masks_are_no_warning(tmp_path):
    for k in range(3):
        put_case(tmp_path / f"c{k}", [white(DISCS[0]), 0 * white(DISCS[0])])
    assert opened(tmp_path).notes == []


# -- names ------------------------------------------------------------------------------------------------------------

COUNTED = ("label1_.bmp", "label1.gif", "label1_.WEBP", "LABEL1_.PNG", "label1_.tiff", "label1_.nii")
OTHERS = ("label1_.mha", "label1_.nrrd", "label1_.dcm", "label1_.jp2", "label_1.png")
TWICE = (("image.png", "image.jpg"), ("image_flair.png", "image_flair.tif"), ("image.png", "image.npy"))


@pytest.mark.parametrize("name", COUNTED)
def test_a_label_of_any_format_counts(tmp_path, name):
    put_case(tmp_path / "a", [white(DISCS[0])])
    put(tmp_path / "a" / name, white(DISCS[1]), **({"lossless": True} if name.endswith("WEBP") else {}))
    assert areas_in(opened(tmp_path)) == [517, 373]


@pytest.mark.parametrize("name", OTHERS)
def test_a_label_that_is_not_read_is_named(tmp_path, name):
    put_case(tmp_path / "a", [white(DISCS[0])])
    put(tmp_path / "a" / name, png(white(DISCS[1])))
    try:
        dataset = opened(tmp_path)
        if len(masks_in(dataset)) == 1:
            assert any(name in note for note in dataset.notes), dataset.notes
    except DataError as error:
        assert name in str(error)


@pytest.mark.parametrize("names", TWICE)
def test_an_image_in_two_formats_is_not_two_modalities(tmp_path, names):
    for name in names:
        put(tmp_path / "a" / name, GREY)
    put(tmp_path / "a" / "label0_.png", white(DISCS[0]))
    for channels in (2, 4, "auto"):
        assert_says(refusal(tmp_path, channels), *names)
