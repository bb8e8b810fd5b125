"""Masks of other programs are read by the rules of labels: one mapping for the whole folder, nothing in silence."""

import csv

import numpy as np
import pytest
from drawings import DISCS, put, put_case, soft, white
from helpers import call_script

EMPTY = 0 * DISCS[0]
CASES = {"a": DISCS[:2], "b": [EMPTY, DISCS[2]]}


@pytest.fixture
def data(tmp_path):
    for name, masks in CASES.items():
        put_case(tmp_path / "data" / name, [white(mask) for mask in masks])
    return tmp_path / "data"


def score(data, change, suffix=".png", *flags, **how):
    """Score masks that are those of the raters, changed; the process and {case: GED}."""
    samples = data.parent / "samples"
    for name, masks in CASES.items():
        for k, mask in enumerate(masks):
            put(samples / f"{name}_output{k}{suffix}", change(mask), **how)
    done = call_script("segmentation_evaluate", f"--data_dir={data}", f"--samples={samples}", "--report=False", *flags)
    assert "Traceback" not in done.stderr
    if not (samples / "metrics.csv").exists():
        return done, {}
    with open(samples / "metrics.csv") as file:
        return done, {row["case"]: float(row["ged_2"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("low, high", [(0, 255), (0, 1), (1, 2), (7, 9)])
def test_two_levels_of_the_folder_are_background_and_foreground(data, low, high):
    """An empty mask has the lower level alone."""
    done, ged = score(data, lambda mask: np.where(mask, high, low).astype(np.uint8))
    assert done.returncode == 0, done.stderr
    assert ged == pytest.approx({"a": 0, "b": 0}, abs=1e-9)


def refused(data, change, *flags):
    done, ged = score(data, change, ".png", *flags)
    text = done.stdout + done.stderr
    assert done.returncode and "a_output0.png" in text and "a" not in ged, text
    return text


def test_soft_masks_are_refused_and_cut_by_a_given_threshold(data):
    assert "--label_threshold" in refused(data, soft)
    done, ged = score(data, soft, ".png", "--label_threshold=0.5")
    assert done.returncode == 0, done.stderr
    assert all(value < 0.05 for value in ged.values()), ged


def test_classes_are_refused(data):
    def classes(mask):
        levels = mask.astype(np.uint8)
        levels[50:60, 5:15] = 2
        return levels

    text = refused(data, classes)
    assert "--merge_labels" in text or "--structure" in text, text


def test_masks_in_rgb_are_read(data):
    done, ged = score(data, lambda mask: np.dstack([white(mask)] * 3))
    assert done.returncode == 0 and ged == pytest.approx({"a": 0, "b": 0}, abs=1e-9)
