"""Every metric against its loops, against values computed by hand, and against theory."""

import brute_force
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.masks import metrics
from guided_diffusion.masks.pairs import Pairs, as_masks, dice_matrix, iou_matrix

EMPTY, LEFT, RIGHT, FULL = (np.array(m, dtype=bool) for m in ([[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]))
NEED_TWO_RATERS = {"agreement", "agreement_pixels", "ci", "ci_harmonic", "ci_pixels"}
many = settings(max_examples=300, deadline=None, derandomize=True)


@st.composite
def mask_sets(draw, fewest=1, most=4):
    """(samples [M, H, W], raters [R, H, W]), with empty, full and equal masks among them more often than by chance."""
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    full = 2 ** (height * width) - 1  # a mask is a number, its pixels the bits
    bits = st.one_of(st.just(0), st.just(full), st.integers(0, full), st.integers(0, full))
    drawn = [draw(st.lists(bits, min_size=fewest, max_size=most)) for _ in range(2)]
    if draw(st.booleans()):
        drawn[0][0] = drawn[1][0]
    places = np.arange(height * width).reshape(height, width)
    return tuple((np.array(masks)[:, None, None] >> places & 1).astype(bool) for masks in drawn)


# -- loops ------------------------------------------------------------------------------------------------------------

LOOPS = {
    "ged": (lambda S, Y: metrics.squared_ged(S, Y).total, brute_force.ged),
    "ged_cross": (lambda S, Y: metrics.squared_ged(S, Y).cross, brute_force.ged_cross),
    "diversity": (lambda S, Y: metrics.diversity(S), lambda S, Y: brute_force.diversity(S)),
    "sensitivity": (metrics.combined_sensitivity, brute_force.sensitivity),
    "max_dice": (metrics.max_dice, brute_force.max_dice),
    "agreement": (metrics.diversity_agreement, brute_force.agreement),
    "agreement_pixels": (lambda S, Y: metrics.diversity_agreement(S, Y, "pixels"), brute_force.agreement_pixels),
    "dice": (metrics.mean_mask_dice, brute_force.mean_mask_dice),
    "ncc": (metrics.variability_correlation, brute_force.ncc),
    "calibration": (metrics.calibration_error, brute_force.calibration),
    "brier": (metrics.brier_score, brute_force.brier),
    "area": (metrics.area_agreement, brute_force.area),
}


@many
@given(sets=mask_sets())
def test_every_metric_equals_its_loops(sets):
    for name, (ours, loops) in LOOPS.items():
        assert float(ours(*sets)) == pytest.approx(loops(*sets), abs=1e-6 if name == "ncc" else 1e-12, nan_ok=True), (
            name
        )


@many
@given(sets=mask_sets())
def test_tables_of_pairs_and_parts_equal_their_loops(sets):
    samples, raters = sets
    for ours, loops in ((iou_matrix, brute_force.iou), (dice_matrix, brute_force.dice)):
        np.testing.assert_allclose(ours(samples, raters), [[loops(s, y) for y in raters] for s in samples], atol=1e-12)
    parts = metrics.squared_ged(samples, raters)
    for ours, masks in ((parts.within_samples, samples), (parts.within_raters, raters)):
        assert float(ours) == pytest.approx(
            np.mean([1 - brute_force.iou(a, b) for a in masks for b in masks]), abs=1e-12
        )


@pytest.mark.parametrize("name", LOOPS)
def test_metric_equals_its_loops_on_larger_sets(name):
    rng = np.random.default_rng(0)
    ours, loops = LOOPS[name]
    for samples, raters in ((16, 4), (9, 7), (5, 1)):
        masks = rng.random((samples + raters, 12, 10)) < rng.random((samples + raters, 1, 1))
        assert float(ours(masks[:samples], masks[samples:])) == pytest.approx(
            loops(masks[:samples], masks[samples:]), abs=1e-6 if name == "ncc" else 1e-12, nan_ok=True
        )


def test_one_set_of_raters_serves_a_batch_of_samples():
    rng = np.random.default_rng(1)
    samples, raters = rng.random((5, 4, 6, 6)) > 0.5, rng.random((3, 6, 6)) > 0.5
    together, apart = metrics.all_figures(samples, raters), [metrics.all_figures(s, raters) for s in samples]
    for name, values in together.items():
        np.testing.assert_allclose(values, [float(one[name]) for one in apart], atol=1e-12)


def test_a_total_miss_correlates_with_nothing():
    assert float(metrics.variability_correlation(np.stack([FULL] * 3), EMPTY[None])) == 0
    assert float(metrics.variability_correlation(np.stack([LEFT] * 3), LEFT[None])) == 1


@many
@given(sets=mask_sets(fewest=2))
def test_unbiased_energy_distance_equals_its_loops(sets):
    assert float(metrics.squared_ged(*sets, unbiased=True).total) == pytest.approx(
        brute_force.ged_unbiased(*sets), abs=1e-12
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sets=mask_sets(most=3))
def test_hungarian_iou_equals_the_best_of_all_matchings(sets):
    assert float(metrics.hungarian_iou(*sets)) == pytest.approx(brute_force.hungarian_iou(*sets), abs=1e-12)


@many
@given(sets=mask_sets())
def test_all_figures_are_the_single_ones_and_keep_to_their_ranges(sets):
    S, Y = sets
    figures = metrics.all_figures(S, Y)
    unbiased = {"ged_unbiased"} if min(len(S), len(Y)) == 1 else set()
    assert set(metrics.FIGURES) - set(figures) == unbiased | (NEED_TWO_RATERS if len(Y) == 1 else set())
    for name in LOOPS.keys() & figures.keys():
        assert float(figures[name]) == pytest.approx(float(LOOPS[name][0](S, Y)), abs=1e-12), name
    assert float(figures["hm_iou"]) == pytest.approx(float(metrics.hungarian_iou(S, Y)))
    for name, value in figures.items():
        low, high = {"ged": (0, 2), "ged_unbiased": (-2, 2), "ncc": (-1, 1)}.get(name, (0, 1))
        assert low - 1e-9 <= value <= high + 1e-9, name
    if len(Y) == 1:
        return
    sensitivity, dice, agreement, by_pixels = (
        float(figures[name]) for name in ("sensitivity", "max_dice", "agreement", "agreement_pixels")
    )
    assert float(figures["ci"]) == pytest.approx(brute_force.ci(sensitivity, dice, agreement), abs=1e-12)
    assert float(figures["ci_harmonic"]) == pytest.approx(
        brute_force.ci_harmonic(sensitivity, dice, agreement), abs=1e-12
    )
    assert float(figures["ci_pixels"]) == pytest.approx(brute_force.ci(sensitivity, dice, by_pixels), abs=1e-12)


# -- what holds for every set -----------------------------------------------------------------------------------------


@many
@given(sets=mask_sets(), seed=st.integers(0, 1000))
def test_order_of_samples_and_raters_is_nothing(sets, seed):
    rng = np.random.default_rng(seed)
    shuffled = metrics.all_figures(*(rng.permutation(masks) for masks in sets))
    for name, value in metrics.all_figures(*sets).items():
        assert float(shuffled[name]) == pytest.approx(float(value), abs=1e-12), name


@many
@given(sets=mask_sets(fewest=2))
def test_a_set_against_itself_is_perfect(sets):
    figures = metrics.all_figures(sets[0], sets[0])
    for name in ("ged", "calibration", "brier"):
        assert float(figures[name]) == pytest.approx(0, abs=1e-12), name
    for name in (
        "hm_iou",
        "sensitivity",
        "max_dice",
        "agreement",
        "agreement_pixels",
        "ci",
        "ci_harmonic",
        "dice",
        "area",
    ):
        assert float(figures[name]) == pytest.approx(1, abs=1e-12), name


@many
@given(sets=mask_sets(fewest=2))
def test_biased_less_unbiased_is_the_diversity_over_the_count(sets):
    S, Y = sets
    difference = metrics.squared_ged(S, Y).total - metrics.squared_ged(S, Y, unbiased=True).total
    assert float(difference) == pytest.approx(metrics.diversity(S) / len(S) + metrics.diversity(Y) / len(Y), abs=1e-12)


def test_biased_distance_falls_with_the_count_and_the_unbiased_does_not():
    """E[GED_M] = GED_inf + E d(S, S') / M, over many sets of samples from one distribution."""
    rng = np.random.default_rng(0)
    modes = np.array([[[1, 1, 0]], [[0, 1, 1]], [[0, 0, 0]]], dtype=bool)
    p = np.array([0.5, 0.3, 0.2])
    raters = modes[[0, 0, 1, 2]]
    d = 1 - iou_matrix(modes, modes)
    own = p @ d @ p
    at_infinity = 2 * (p @ (1 - iou_matrix(modes, raters))).mean() - own - (1 - iou_matrix(raters, raters)).mean()
    for M in (2, 5, 20):
        sets = modes[rng.choice(3, size=(8000, M), p=p)]
        batch = np.broadcast_to(raters, (len(sets), *raters.shape))
        biased, unbiased = (metrics.squared_ged(sets, batch, u).total for u in (False, True))
        assert biased.mean() == pytest.approx(at_infinity + own / M, abs=4 * biased.std() / np.sqrt(8000))
        rater_part = metrics.diversity(raters) / 4
        assert unbiased.mean() == pytest.approx(at_infinity - rater_part, abs=4 * unbiased.std() / np.sqrt(8000))


@many
@given(sets=mask_sets())
def test_batches_tensors_and_other_types(sets):
    S, Y = sets
    S2, Y2 = np.stack([S, S[::-1], ~S]), np.stack([Y, Y, ~Y])
    batch = metrics.all_figures(S2[:, None], Y2[:, None])  # [3, 1, M, H, W]
    for row in range(3):
        for name, value in metrics.all_figures(S2[row], Y2[row]).items():
            assert batch[name].shape == (3, 1)
            assert batch[name][row, 0] == pytest.approx(float(value), abs=1e-12), name
    whole = metrics.all_figures(torch.from_numpy(S), torch.from_numpy(Y).float())
    for name, value in metrics.all_figures(S.astype(np.uint8), Y.tolist()).items():
        assert float(whole[name]) == float(value)


@many
@given(sets=mask_sets(most=5), count=st.integers(1, 5))
def test_pairs_of_the_first_samples(sets, count):
    S, Y = sets
    count = min(count, len(S))
    pairs = Pairs.of(S, Y).first(count)
    assert metrics.squared_ged(S[:count], Y, pairs=pairs) == metrics.squared_ged(S[:count], Y)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_energy_distance_by_hand():
    assert metrics.squared_ged([EMPTY], [EMPTY]).total == 0
    assert metrics.squared_ged([EMPTY], [FULL]).total == 2
    # E d(S,Y) = (0 + 1) / 2, E d(S,S') = 0, E d(Y,Y') = (0 + 1 + 1 + 0) / 4
    assert metrics.squared_ged([EMPTY], [EMPTY, LEFT]).total == pytest.approx(0.5)
    # d(LEFT, FULL) = 1/2, d(LEFT, RIGHT) = 1: 2 * (1/2 + 1/2) / 2 - 1/2
    assert metrics.squared_ged([FULL], [LEFT, RIGHT]).total == pytest.approx(0.5)
    assert metrics.squared_ged([LEFT, RIGHT], [LEFT, RIGHT], unbiased=True).total == pytest.approx(2 * 0.5 - 1 - 1)


def test_overlap_by_hand():
    np.testing.assert_allclose(dice_matrix([LEFT, EMPTY, FULL], [FULL, EMPTY]), [[2 / 3, 0], [0, 1], [1, 0]])
    np.testing.assert_allclose(iou_matrix([LEFT, EMPTY, FULL], [FULL, EMPTY]), [[1 / 2, 0], [0, 1], [1, 0]])
    assert metrics.diversity([LEFT, RIGHT, LEFT]) == pytest.approx(2 / 3)
    assert metrics.diversity([FULL]) == 0


def test_matching_by_hand():
    # lcm(2, 3) = 6: LEFT three times, FULL three times, against LEFT, LEFT, EMPTY twice each
    assert metrics.hungarian_iou([LEFT, FULL], [LEFT, LEFT, EMPTY]) == pytest.approx((3 * 1 + 1 * 0.5 + 2 * 0) / 6)
    assert metrics.max_dice([LEFT, FULL], [LEFT, RIGHT, EMPTY]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metrics.max_dice([EMPTY], [EMPTY, FULL]) == pytest.approx(0.5)


def test_collective_insight_by_hand():
    assert metrics.combined_sensitivity([LEFT, EMPTY], [FULL]) == 0.5
    assert metrics.combined_sensitivity([EMPTY], [EMPTY]) == 1 and metrics.combined_sensitivity([LEFT], [EMPTY]) == 0
    # V of the raters: 1 - Dice = 1/3, 1/3, 1; of the samples: 0
    assert metrics.diversity_agreement([LEFT, LEFT], [LEFT, FULL, RIGHT]) == pytest.approx(1 - (1 + 1 / 3) / 2)
    # LEFT - RIGHT is (1, -1): variance 1; LEFT - FULL is (0, -1): variance 1/4
    assert metrics.diversity_agreement([LEFT, RIGHT], [LEFT, FULL], "pixels") == pytest.approx(1 - (0.75 + 0.75) / 2)
    assert metrics.diversity_agreement([LEFT], [RIGHT, RIGHT]) == 1  # no pair of samples
    assert metrics.diversity_agreement([LEFT], [RIGHT, LEFT]) == 0
    for variance in ("dice", "pixels"):
        assert np.isnan(metrics.diversity_agreement([LEFT, RIGHT], [RIGHT], variance))  # no pair of raters
    assert not NEED_TWO_RATERS & metrics.all_figures([LEFT, RIGHT], [RIGHT]).keys()
    assert metrics.collective_insight(1.0, 1.0, 1.0) == metrics.collective_insight(1.0, 1.0, 1.0, harmonic=True) == 1
    assert metrics.collective_insight(0.5, 0.5, 0.5) == pytest.approx(0.25)  # no mean at all
    assert metrics.collective_insight(0.5, 0.5, 0.5, harmonic=True) == pytest.approx(0.5)
    assert metrics.collective_insight(0.0, 0.0, 0.0) == metrics.collective_insight(0.0, 1.0, 1.0, harmonic=True) == 0
    with pytest.raises(ValueError, match="dice, pixels"):
        metrics.diversity_agreement([LEFT], [LEFT], "areas")


def test_mean_mask_figures_by_hand():
    assert metrics.majority_vote([LEFT, LEFT, RIGHT]).tolist() == [[True, False]]
    assert metrics.majority_vote([LEFT, RIGHT]).tolist() == [[False, False]]  # a tie is background
    assert metrics.mean_mask_dice([FULL], [LEFT, LEFT, RIGHT]) == pytest.approx(2 / 3)
    assert metrics.mean_mask_dice([EMPTY], [LEFT, RIGHT]) == 1
    assert metrics.brier_score([LEFT, FULL], [LEFT, EMPTY]) == pytest.approx((0.25 + 0.25) / 2)  # (1, 1/2) to (1/2, 0)
    assert metrics.calibration_error([LEFT, FULL], [LEFT, EMPTY]) == pytest.approx((0.5 + 0.5) / 2)
    assert metrics.calibration_error([LEFT, RIGHT], [FULL, EMPTY]) == 0
    assert metrics.area_agreement([LEFT], [FULL]) == pytest.approx(1 - 1 / 3)  # volumetric similarity
    assert metrics.area_agreement([LEFT, EMPTY], [RIGHT, EMPTY]) == 1 and metrics.area_agreement([EMPTY], [EMPTY]) == 1
    assert metrics.variability_correlation([LEFT, LEFT], [LEFT]) == 1  # all agree
    assert metrics.variability_correlation([LEFT, LEFT], [FULL]) == 0  # none of the samples shows where it errs
    assert metrics.variability_correlation([LEFT, FULL], [LEFT]) == pytest.approx(1)


def test_calibration_bins_have_exact_edges():
    """A mean of exactly 3/10 is the first value of the fourth of ten bins."""
    samples = np.zeros((10, 1, 2), dtype=bool)
    samples[:3, 0, 0], samples[:2, 0, 1] = True, True  # means 0.3 and 0.2: two bins
    raters = np.zeros((10, 1, 2), dtype=bool)
    raters[:2, 0, 0], raters[:3, 0, 1] = True, True  # their errors, +0.1 and -0.1, would cancel in one bin
    assert metrics.calibration_error(samples, raters) == pytest.approx(0.1)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_invalid_masks_are_refused():
    for masks, words in [
        (np.full((1, 2, 2), 0.5), "0 and 1"),
        (np.full((1, 2, 2), np.nan), "0 and 1"),
        (np.full((1, 2, 2), 255), "0 and 1"),
        (np.zeros((2, 2)), "at least one"),
        (np.zeros((0, 2, 2)), "at least one"),
    ]:
        with pytest.raises(ValueError, match=words):
            as_masks(masks)
    with pytest.raises(ValueError, match="cannot be compared"):
        iou_matrix([np.zeros((2, 2))], [LEFT])
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.squared_ged([np.zeros((2, 2))], [LEFT])
    with pytest.raises(ValueError, match="two masks"):
        metrics.squared_ged([LEFT], [LEFT, FULL], unbiased=True)
