import json

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.errors import DataError
from guided_diffusion.evaluation.truth import case_truth, read_truth
from guided_diffusion.flags.classes import parse_classes
from guided_diffusion.masks import fidelity, metrics
from guided_diffusion.prepare.phantoms import phantom

TRUTH = fidelity.Truth(
    np.array([[[1, 1, 0, 0]], [[0, 0, 1, 1]], [[0, 0, 0, 0]]], dtype=bool), np.array([0.5, 0.3, 0.2])
)


def draw(truth, count, rng):
    return truth.modes[rng.choice(len(truth.modes), size=count, p=truth.probabilities)]


def test_samples_are_assigned_to_their_modes():
    samples = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 0]], [[0, 0, 0, 0]], [[0, 1, 1, 0]], [[0, 0, 1, 1]]], dtype=bool)
    assigned = fidelity.assign_modes(samples, TRUTH.modes, min_iou=0.6)  # their IoU: 1, 2/3, 1, 1/3, 1
    assert assigned.tolist() == [0, 0, 2, fidelity.IMPLAUSIBLE, 1]
    frequencies = fidelity.mode_frequencies(assigned, 3)
    np.testing.assert_allclose(frequencies, [0.4, 0.2, 0.2])
    assert fidelity.total_variation(frequencies, TRUTH.probabilities) == pytest.approx((0.1 + 0.1 + 0 + 0.2) / 2)
    assert fidelity.total_variation(np.zeros(3), TRUTH.probabilities) == 1


def test_total_variation_of_a_perfect_sampler():
    quarter = np.full(4, 0.25)
    for count, expected in ((4, 0.32), (16, 0.17), (200, 0.05)):
        assert fidelity.expected_total_variation(quarter, count) == pytest.approx(expected, abs=0.005)
    assert fidelity.expected_total_variation(np.array([1.0, 0.0]), 5) == pytest.approx(0)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(9, TRUTH.probabilities, size=20_000) / 9
    mean = np.mean([fidelity.total_variation(f, TRUTH.probabilities) for f in drawn])
    assert fidelity.expected_total_variation(TRUTH.probabilities, 9) == pytest.approx(mean, abs=0.005)


@pytest.mark.parametrize("unbiased", [False, True])
def test_energy_distance_of_a_perfect_sampler(unbiased):
    rng = np.random.default_rng(1)
    raters = draw(TRUTH, 5, rng)
    drawn = np.stack([draw(TRUTH, 4, rng) for _ in range(20_000)])
    all_raters = np.broadcast_to(raters, (len(drawn), *raters.shape))
    mean = metrics.squared_ged(drawn, all_raters, unbiased).total.mean()
    assert fidelity.expected_squared_ged(TRUTH, raters, 4, unbiased) == pytest.approx(mean, abs=0.01)


def test_calibration_curve():
    curve = fidelity.calibration_curve([0.05, 0.07, 0.55, 1.0], [0.1, 0.0, 0.5, 0.9])
    assert [point["count"] for point in curve] == [2, 1, 1]
    assert curve[0]["probability"] == pytest.approx(0.06) and curve[0]["frequency"] == pytest.approx(0.05)
    assert curve[2]["probability"] == 1.0


def test_truth_of_a_phantom(tmp_path):
    phantom.write_set(tmp_path, num_cases=2, seed=3, size=64, num_raters=3)
    truth = read_truth(str(tmp_path / "truth.json"))
    made = phantom.make_phantom(3, 1, 64, 3)
    case = case_truth(truth["phantom0001"], (64, 64))
    assert len(case.modes) == 4 and case.probabilities.sum() == pytest.approx(1)
    for name, mask in made.modes.items():
        (found,) = [k for k, mode in enumerate(case.modes) if np.array_equal(mode, mask)]
        assert case.probabilities[found] == pytest.approx(made.probabilities[name], abs=1e-5)
    assert case_truth(truth["phantom0001"], (16, 16)).modes.shape[1:] == (16, 16)
    padded = case_truth(truth["phantom0001"], (80, 80), pad=True)
    np.testing.assert_array_equal(padded.modes[:, 8:-8, 8:-8], case.modes)
    assert padded.modes.sum() == case.modes.sum() and padded.modes.shape[1:] == (80, 80)


def test_modes_with_one_mask_count_as_one(tmp_path):
    phantom.write_set(tmp_path, num_cases=1, seed=3, size=16, num_raters=3)
    folder = tmp_path / "phantom0000"
    (folder / "mode_loose.png").write_bytes((folder / "mode_tight.png").read_bytes())
    truth = read_truth(str(tmp_path / "truth.json"))["phantom0000"]
    case = case_truth(truth, (16, 16))
    assert len(case.modes) == 3
    assert max(case.probabilities) >= truth["tight"].probability + truth["loose"].probability - 1e-6


def test_invalid_truth_files_are_refused(tmp_path):
    path = tmp_path / "truth.json"
    for text in ("", "[]", "{}", json.dumps({"cases": {"a": {"modes": {"x": {"mask": "x.png"}}}}})):
        path.write_text(text)
        with pytest.raises(DataError, match="truth.json"):
            read_truth(str(path))


# -- several classes --------------------------------------------------------------------------------------------------

EXCLUSIVE, REGIONS = parse_classes(("disc", "cup")), parse_classes(("disc=1+2", "cup=2"))
PROBABILITIES = np.array([[0.5, 0.0, 0.0], [0.0, 0.2, 0.05], [0.05, 0.0, 0.2]])  # disc styles by cup styles


def pair_labels(side=48):
    """{name: label map} of three discs with three cups each, which overlap strongly, and their probabilities."""
    y, x = np.mgrid[:side, :side] - side / 2
    discs = [np.hypot(y, x - shift) < radius for shift, radius in ((0, 15), (1, 18), (-2, 21))]
    cups = [np.hypot(y, x) < radius for radius in (6, 8, 10)]
    names = [(f"disc{a}+cup{b}", a, b) for a in range(3) for b in range(3)]
    masks = {name: np.where(cups[b], 2, discs[a].astype(int)).astype(np.uint8) for name, a, b in names}
    return masks, {name: float(PROBABILITIES[a, b]) for name, a, b in names}


def write_pairs(folder, without=()):
    masks, probabilities = pair_labels()
    modes = {}
    for name, labels in masks.items():
        if name not in without:
            Image.fromarray(labels).save(folder / f"{name}.png")
            modes[name] = {"probability": probabilities[name], "mask": f"{name}.png"}
    (folder / "truth.json").write_text(json.dumps({"cases": {"case": {"modes": modes}}}))
    return read_truth(str(folder / "truth.json"))["case"]


def masks_of_classes(labels, classes):
    return np.stack([labels >= 1 if classes is REGIONS else labels == 1, labels == 2], axis=-3)


def draw_pairs(probabilities, count, seed, classes):
    masks, _ = pair_labels()
    drawn = np.random.default_rng(seed).choice(9, size=count, p=probabilities.ravel())
    labels = np.stack([masks[f"disc{a}+cup{b}"] for a, b in zip(*np.divmod(drawn, 3), strict=True)])
    return masks_of_classes(labels, classes), drawn


both = pytest.mark.parametrize("classes", [EXCLUSIVE, REGIONS], ids=["exclusive", "regions"])


@both
def test_modes_of_several_classes_are_read_from_label_maps(tmp_path, classes):
    truth = case_truth(write_pairs(tmp_path), (48, 48), classes=classes)
    labels, probabilities = pair_labels()
    assert truth.modes.shape == (9, 2, 48, 48)
    for name, label in labels.items():
        (found,) = [k for k, m in enumerate(truth.modes) if np.array_equal(m, masks_of_classes(label, classes))]
        assert truth.probabilities[found] == pytest.approx(probabilities[name])
    smaller = case_truth(write_pairs(tmp_path), (24, 20), classes=classes).modes
    assert smaller.shape[1:] == (2, 24, 20)
    if classes is EXCLUSIVE:
        assert smaller.sum(1).max() == 1
        whole = case_truth(write_pairs(tmp_path), (24, 20), classes=REGIONS).modes[:, 0]
        assert abs(smaller.any(1).sum((1, 2)) - np.sort(whole.sum((1, 2)))).max() <= 40
    ignored = np.zeros((48, 48), dtype=bool)
    ignored[:, :30] = True
    cropped = case_truth(write_pairs(tmp_path), (48, 48), classes=classes, ignored=ignored)
    assert cropped.modes.shape[1:] == (2, 1, 48 * 18) and cropped.probabilities.sum() == pytest.approx(1)


@both
@pytest.mark.parametrize("unbiased", [False, True])
def test_energy_distance_of_a_perfect_sampler_of_several_classes(tmp_path, classes, unbiased):
    truth = case_truth(write_pairs(tmp_path), (48, 48), classes=classes)
    rng = np.random.default_rng(1)
    raters = draw(truth, 5, rng)
    totals = [metrics.squared_ged(draw(truth, 4, rng), raters, unbiased, classes=classes).total for _ in range(800)]
    error = np.std(totals) / 800**0.5
    assert fidelity.expected_squared_ged(truth, raters, 4, unbiased) == pytest.approx(np.mean(totals), abs=4 * error)
    assert (fidelity.assign_modes(truth.modes, truth.modes, 0.75, classes) == np.arange(9)).all()


@both
@pytest.mark.parametrize("without", [(), ("disc0+cup1", "disc0+cup2", "disc1+cup0", "disc2+cup1")], ids=["all", "some"])
def test_samples_are_assigned_to_their_pairs(tmp_path, classes, without):
    """Even to a pair that the truth does not have, because each class is assigned by itself."""
    truth = case_truth(write_pairs(tmp_path, without), (48, 48), classes=classes).pairs
    np.testing.assert_allclose(truth.probabilities, PROBABILITIES)
    assert truth.joined == (classes is EXCLUSIVE, False)
    samples, drawn = draw_pairs(np.full((3, 3), 1 / 9), 60, 0, classes)
    frequencies = fidelity.pair_frequencies(samples, truth)
    np.testing.assert_allclose(frequencies.ravel(), np.bincount(drawn, minlength=9) / 60)


@both
def test_classes_drawn_together_are_told_from_classes_drawn_independently(tmp_path, classes):
    truth = case_truth(write_pairs(tmp_path), (48, 48), classes=classes).pairs
    independent = np.outer(PROBABILITIES.sum(1), PROBABILITIES.sum(0))
    of_truth = float(fidelity.mutual_information(PROBABILITIES))
    for seed in range(5):
        together, apart = (
            fidelity.pair_figures(draw_pairs(p, 200, seed, classes)[0], truth) for p in (PROBABILITIES, independent)
        )
        assert together["joint_information_of_truth"] == pytest.approx(of_truth) and of_truth > 0.9
        assert abs(together["joint_excess"]) < 0.12 and apart["joint_excess"] < -0.8
        assert abs(apart["joint_information"] - apart["joint_information_of_independent"]) < 0.06
        assert together["joint_tv"] < 3 * together["joint_tv_of_perfect"] < 0.2 < 0.4 < apart["joint_tv"]


def test_information_by_hand():
    assert fidelity.mutual_information(np.array([[0.5, 0], [0, 0.5]])) == pytest.approx(1)
    assert fidelity.mutual_information(np.outer([0.3, 0.7], [0.2, 0.8])) == pytest.approx(0)
    joint = np.array([[0.4, 0.1], [0.2, 0.3]])
    by_hand = sum(
        joint[a, b] * np.log2(joint[a, b] / joint[a].sum() / joint[:, b].sum()) for a in (0, 1) for b in (0, 1)
    )
    assert fidelity.mutual_information(joint) == pytest.approx(by_hand)
    assert fidelity.mutual_information(np.stack([joint, joint.T])) == pytest.approx(by_hand)


def test_expected_information_of_few_samples():
    """Two coin flips, two samples: 1 bit if they differ in both, which half of the samples that differ do."""
    fair = np.full((2, 2), 0.25)
    assert fidelity.expected_information(fair, 2) == pytest.approx(0.25, abs=0.03)
    assert fidelity.expected_information(fair, 1) == 0
    rng, p = np.random.default_rng(7), np.array([[0.4, 0.1], [0.2, 0.3]])
    values = [fidelity.mutual_information(rng.multinomial(16, p.ravel()).reshape(2, 2) / 16) for _ in range(4000)]
    assert fidelity.expected_information(p, 16) == pytest.approx(np.mean(values), abs=0.012)
    assert fidelity.expected_information(p, 5000) == pytest.approx(fidelity.mutual_information(p), abs=0.002)
    assert fidelity.expected_information(p, 16) == fidelity.expected_information(p, 16)


@pytest.mark.parametrize("names", [["a", "b"], ["a+b+c", "a+b+d"], ["a+b", "c"]])
def test_modes_that_are_not_pairs_have_no_figures_of_pairs(names):
    masks = np.random.default_rng(0).random((2, 2, 4, 4)) > 0.5
    assert fidelity.pair_truth(names, masks, [0.5, 0.5]) is None


def test_values_of_other_classes_are_refused(tmp_path):
    truth = write_pairs(tmp_path)
    labels = pair_labels()[0]["disc0+cup0"]
    Image.fromarray(labels * 3).save(tmp_path / "disc0+cup0.png")
    for classes in (EXCLUSIVE, REGIONS):
        with pytest.raises(DataError, match=r"disc0\+cup0.png: has the value 3; .* disc, cup have 0, 1, 2"):
            case_truth(truth, (48, 48), classes=classes)
