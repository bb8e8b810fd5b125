"""What could be lost without a word: extra planes, levels near those of a mask, ranges that leave an image black."""

import numpy as np
import pytest
from drawings import DISCS, GREY, SIDE, areas_in, assert_says, classes, opened, png, put, put_case, refusal, white
from helpers import call_script

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.stores.case_cache import pack_folder
from guided_diffusion.errors import DataError
from guided_diffusion.lidcloader import LIDCDataset

tifffile = pytest.importorskip("tifffile")

RATERS = [white(mask) for mask in DISCS]
NOISE = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 4), np.uint8)


def reported_or_refused(folder, word, **flags):
    """The folder is refused with a text, or read with a note, in which the word occurs."""
    try:
        text = "\n".join(opened(folder, "auto", **flags).notes)
    except DataError as error:
        text = str(error)
    assert word in text, text


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples, photometric", [(2, "minisblack"), (4, "rgb"), (5, "rgb")])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_further_samples_of_a_tiff_are_not_dropped_in_silence(tmp_path, samples, photometric, depth):
    """Such as a fourth band, of near infrared."""
    values = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, samples)).astype(depth)
    put_case(tmp_path / "a", RATERS)
    (tmp_path / "a" / "image.png").unlink()
    extra = ["unspecified"] * (samples - (3 if photometric == "rgb" else 1))
    how = {"photometric": photometric, "planarconfig": "contig", "extrasamples": extra}
    tifffile.imwrite(tmp_path / "a" / "image.tif", values, **how)
    reported_or_refused(tmp_path, "image.tif")


def test_a_transparent_colour_of_a_grey_png_is_refused(tmp_path):
    for depth, name in ((8, "eight"), (16, "sixteen")):
        values = GREY.astype(np.uint16) * (257 if depth == 16 else 1)
        key = int(values[0, 0]).to_bytes(2, "big")
        put_case(tmp_path / name / "a", RATERS, png(values, depth, [(b"tRNS", key)]))
        assert_says(refusal(tmp_path / name), "image.png", "alpha")


# name -> (image, its file, lowest and highest value)
NARROW = {
    "CT with an offset": (GREY.astype(np.uint16) + 31768, "image.png", (31818, 31968)),
    "10 bits": (GREY.astype(np.uint16) * 4, "image.tif", (200, 800)),
    "8 bits": (GREY // 10, "image.png", (5, 20)),
    "8 bits with an offset": (GREY // 10 + 100, "image.bmp", (105, 120)),
    "16 bits in colour": (np.dstack([GREY, GREY // 2, GREY // 4]).astype(np.uint16) * 16, "image.png", (192, 3200)),
}


@pytest.mark.parametrize("name", NARROW)
def test_an_image_that_uses_little_of_its_scale_is_reported_with_its_range(tmp_path, name):
    image, file, (low, high) = NARROW[name]
    put_case(tmp_path / "a", RATERS)
    (tmp_path / "a" / "image.png").unlink()
    put(tmp_path / "a" / file, png(image, 16) if image.ndim == 3 else image)
    (note,) = [note for note in opened(tmp_path, "auto").notes if "--intensity_range" in note]
    assert_says(note, low, high, file)
    text = call_script("check_data", tmp_path).stdout
    assert_says(text, low, high, "--intensity_range")
    dataset = opened(tmp_path, "auto", intensity_range=(float(low), float(high)))
    assert dataset[0].image.min() == 0 and dataset[0].image.max() == 1


RANGED = {
    "PNG": (".png", lambda path: put(path, GREY)),
    "PNG 16": (".png", lambda path: put(path, GREY.astype(np.uint16))),
    "PNG RGB": (".png", lambda path: put(path, np.dstack([GREY] * 2 + [GREY // 2]))),
    "PNG RGB 16": (".png", lambda path: put(path, png(np.dstack([GREY] * 2 + [GREY // 2]).astype(np.uint16), 16))),
    "JPEG": (".jpg", lambda path: put(path, GREY, quality=100)),
    "GIF": (".gif", lambda path: put(path, GREY)),
    **{
        f"TIFF {kind}": (".tif", lambda path, kind=kind: tifffile.imwrite(path, GREY.astype(kind)))
        for kind in ("u1", "i2", "u2", "i4", "u4", "f4")
    },
    **{
        f"NPY {kind}": (".npy", lambda path, kind=kind: put(path, GREY.astype(kind)))
        for kind in ("u1", "i2", "u2", "i4", "i8", "f8")
    },
    "NIfTI": (".nii.gz", lambda path: put(path, GREY.astype(np.int16))),
}


@pytest.mark.parametrize("name", RANGED)
def test_a_given_range_holds_for_every_format(tmp_path, name):
    suffix, write = RANGED[name]
    put_case(tmp_path / "a", RATERS)
    (tmp_path / "a" / "image.png").unlink()
    write(tmp_path / "a" / f"image{suffix}")
    image = opened(tmp_path, "auto", intensity_range=(100.0, 300.0))[0].image[0].numpy()
    np.testing.assert_allclose(image[DISCS[1]], 0.5, atol=0.02 if name == "JPEG" else 1e-6)
    assert (image[60:] == 0).all()


# -- labels -----------------------------------------------------------------------------------------------------------

LEVELS = [(0, 60, 255), (0, 200, 255), (0, 30, 200), (0, 128, 255), (0, 90, 180), (40, 150, 240)]


@pytest.mark.parametrize("quality", [75, 95])
@pytest.mark.parametrize("levels", LEVELS)
def test_three_levels_in_a_jpeg_are_refused_wherever_they_are(tmp_path, levels, quality):
    put_case(tmp_path / "a")
    put(tmp_path / "a" / "label0_.jpg", np.array(levels, np.uint8)[classes()], quality=quality)
    assert_says(refusal(tmp_path), "label0_.jpg")


@pytest.mark.parametrize("levels", [(200, 255), (150, 255), (0, 60), (20, 100)])
def test_two_levels_of_a_jpeg_on_one_side_of_half_are_not_empty_or_full(tmp_path, levels):
    put_case(tmp_path / "a")
    put_case(tmp_path / "b")
    put(tmp_path / "a" / "label0_.jpg", RATERS[0], quality=95)
    put(tmp_path / "b" / "label0_.jpg", np.array(levels, np.uint8)[DISCS[0].astype(int)], quality=95)
    try:
        (area,) = areas_in(opened(tmp_path), 1)
        assert abs(area - 517) <= 6
    except DataError as error:
        assert_says(str(error), "label0_.jpg")


@pytest.mark.parametrize("suffix, dtype", [(".png", np.uint8), (".npy", np.float32), (".tif", np.uint16)])
def test_a_given_threshold_does_not_empty_masks_of_another_scale(tmp_path, suffix, dtype):
    """Levels 0 and 1 beside 0 and 255: half of full scale is above both."""
    put_case(tmp_path / "a", [RATERS[0], (DISCS[1].astype(dtype), suffix)])
    try:
        dataset = opened(tmp_path, label_threshold=0.5)
        assert areas_in(dataset) == [517, 373] or any(f"label1_{suffix}" in note for note in dataset.notes)
    except DataError as error:
        assert_says(str(error), f"label1_{suffix}")


def test_the_splits_of_a_folder_are_checked_as_one_set(tmp_path):
    """With areas, ranges, sizes, raters and channels of each."""
    for k in range(2):
        put_case(tmp_path / "training" / f"a{k}", [mask.astype(np.uint8) + 1 for mask in DISCS])
    put_case(tmp_path / "testing" / "b", [np.ones((SIDE, SIDE), np.uint8)] * 2, GREY // 2)
    text = call_script("check_data", tmp_path).stdout
    testing, training = text.split("training:")
    assert_says(training, "64x64", 50, 200, 249, 517, 3)
    assert_says(testing.split("testing:")[1], "64x64", 25, 100, "2 of 2")
    assert "channel" in training and "mask area" in training and "empty masks: 0 of 6" in training


# -- reading again ----------------------------------------------------------------------------------------------------


def facts(dataset):
    """All that a dataset says of its cases, and the cases."""
    said = (dataset.num_planes, dataset.colour, dataset.reading, sorted(dataset.departures), sorted(dataset.notes))
    cases = [dataset[k] for k in range(len(dataset))]
    return said, [(case.id, case.colour, case.image.tolist(), case.raters.tolist()) for case in cases]


def put_odd(folder):
    """Two cases with most of what is reported."""
    speck = np.zeros((SIDE, SIDE), bool)
    speck[5, 5] = True
    rgba = np.dstack([GREY, GREY // 2, GREY // 4, np.full_like(GREY, 255)])
    alpha = np.dstack([np.full((SIDE, SIDE, 3), 255, np.uint8), RATERS[0]])
    put_case(folder / "a", [alpha, white(speck)], rgba)
    put_case(folder / "b", [RATERS[1], white(~DISCS[0])], rgba[..., :3] // 20)


@pytest.mark.parametrize("size", [None, 16])
def test_what_is_said_of_a_set_is_the_same_from_the_cache_and_from_one_file(tmp_path, size):
    put_odd(tmp_path / "set")
    expected, cases = facts(LIDCDataset(tmp_path / "set", size, "auto"))
    for _ in range(2):
        again = LIDCDataset(tmp_path / "set", size, "auto", cache_dir=tmp_path / "cache")
        assert facts(again) == (expected, cases)
    pack_folder(str(tmp_path / "set"), str(tmp_path / "set.pack"), size, DataConfig())
    packed, its_cases = facts(LIDCDataset(tmp_path / "set.pack", size, "auto"))
    assert its_cases == cases and packed[:3] == expected[:3] and packed[3:] == expected[3:]
