"""The phantom: deterministic, with raters that follow the distribution that it states, and a fair task."""

import json

import numpy as np
import pytest
from helpers import ROOT, assert_refused, call_script
from PIL import Image

from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.masks import metrics
from guided_diffusion.masks.pairs import iou_matrix
from guided_diffusion.prepare.phantoms import phantom


def test_deterministic_in_its_seed_and_different_in_every_case():
    a, again = phantom.make_phantom(1, 2, 64), phantom.make_phantom(1, 2, 64)
    np.testing.assert_array_equal(a.image, again.image)
    assert a.probabilities == again.probabilities and a.drawn == again.drawn
    for other in (phantom.make_phantom(1, 3, 64), phantom.make_phantom(2, 2, 64)):
        assert not np.allclose(a.image, other.image) and a.probabilities != other.probabilities


def test_a_case_is_the_same_at_another_size():
    small, large = phantom.make_phantom(1, 0, 64), phantom.make_phantom(1, 0, 128)
    assert small.probabilities == large.probabilities and small.drawn == large.drawn
    for name, mask in small.modes.items():
        assert abs(mask.mean() - large.modes[name].mean()) < 0.01


def test_raters_follow_the_stated_probabilities():
    """Over many raters, frequencies are within five standard errors of the probabilities."""
    count = 4000
    for index in range(5):
        p = phantom.make_phantom(9, index, 32, num_raters=count)
        assert sum(p.probabilities.values()) == pytest.approx(1)
        for name, probability in p.probabilities.items():
            error = 5 * np.sqrt(probability * (1 - probability) / count)
            assert abs(p.drawn.count(name) / count - probability) <= error


def test_probabilities_are_visible_in_the_image():
    """The brightness of halo and lobe rises with their answers' probabilities, that of the core falls with "absent"."""
    cases = [phantom.make_phantom(4, index) for index in range(60)]

    def correlation(name, region):
        brightness = [p.image[region(p.modes)].mean() for p in cases]
        return np.corrcoef(brightness, [p.probabilities[name] for p in cases])[0, 1]

    assert correlation("loose", lambda m: m["loose"] & ~m["tight"] & ~m["lobulated"]) > 0.8
    assert correlation("lobulated", lambda m: m["lobulated"] & ~m["tight"] & ~m["loose"]) > 0.6
    assert correlation("absent", lambda m: m["tight"]) < -0.9


def test_modes_are_distinct():
    for index in range(20):
        masks = np.stack(list(phantom.make_phantom(6, index).modes.values()))
        distance = 1 - iou_matrix(masks, masks)
        assert distance[~np.eye(len(masks), dtype=bool)].min() > 0.15


@pytest.mark.parametrize("split, seed", [("training", 1), ("testing", 2)])
def test_the_set_that_ships(split, seed):
    folder = ROOT / "data" / split
    truth = json.loads((folder / "truth.json").read_text())
    dataset = LIDCDataset(folder, image_channels=1)
    assert truth["seed"] == seed and len(dataset) == len(truth["cases"]) >= 32 and dataset.notes == []
    for index in (0, len(dataset) - 1):
        case, entry = dataset[index], truth["cases"][dataset[index].id]
        made = phantom.make_phantom(seed, index, truth["size"], truth["raters"])
        np.testing.assert_array_equal(case.raters.numpy() > 0, made.raters)
        assert np.abs(case.image[0].numpy() - made.image).max() <= 0.5 / 255 + 1e-6
        for rater, name in zip(case.raters.numpy(), entry["drawn"], strict=True):
            np.testing.assert_array_equal(rater > 0, np.asarray(Image.open(folder / entry["modes"][name]["mask"])))


def test_always_answering_the_majority_is_a_fair_rival():
    dataset = LIDCDataset(ROOT / "data" / "testing", image_channels=1)
    scores = []
    for index in range(len(dataset)):
        raters = dataset[index].raters.numpy() > 0
        scores.append(metrics.squared_ged(metrics.majority_vote(raters)[None], raters).total)
    assert 0.15 <= np.mean(scores) <= 0.30


def test_the_shipped_data_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "data").rglob("*") if path.is_file()) < 4e6


def test_script(tmp_path):
    done = call_script(
        "make_phantom", f"--out={tmp_path / 'set'}", "--num_cases=2", "--size=32", "--raters=5", "--seed=7"
    )
    assert done.returncode == 0, done.stderr
    assert LIDCDataset(tmp_path / "set")[1].raters.shape == (5, 32, 32)
    assert_refused(call_script("make_phantom", f"--out={tmp_path / 'set'}"), "not empty")
    assert_refused(call_script("make_phantom"), "--out is missing")
