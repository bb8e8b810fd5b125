import json

import numpy as np
import pytest

from guided_diffusion.errors import DataError
from guided_diffusion.evaluation.truth import case_truth, read_truth
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
