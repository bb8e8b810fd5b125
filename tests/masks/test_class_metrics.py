"""Metrics of masks of several classes against loops, and by hand."""

from dataclasses import replace

import brute_force
import numpy as np
import pytest

from guided_diffusion.flags.classes import Classes, parse_classes
from guided_diffusion.masks import metrics
from guided_diffusion.masks.metrics import FigureName
from guided_diffusion.masks.pairs import Pairs, as_masks, dice_matrix, iou_matrix, valid_pixels

NAMES = ("a", "b", "c", "d", "e")
SETS_OF_CLASSES = {
    "one": Classes(),
    "two": parse_classes(NAMES[:2]),
    "five": parse_classes(NAMES),
    "two regions": parse_classes(["a=1+2", "b=2"]),
    "five regions": parse_classes(["a=1+2+3", "b=2+3", "c=3", "d=4+5", "e=5"]),
}
several = pytest.mark.parametrize("classes", list(SETS_OF_CLASSES.values())[1:], ids=list(SETS_OF_CLASSES)[1:])


def masks_of(rng, count, classes, size=(4, 5)):
    """Masks [count, K, H, W], some classes of which are empty."""
    if classes.exclusive:
        labels = rng.integers(0, classes.count + 1, (count, *size))
        labels *= labels != rng.integers(0, classes.count + 1, (count, 1, 1))
        return labels[:, None] == np.arange(1, classes.count + 1)[:, None, None]
    return rng.random((count, classes.count, *size)) < rng.choice([0, 0.3, 0.8], (count, classes.count, 1, 1))


PAIRWISE = {
    "ged": brute_force.ged,
    "ged_unbiased": brute_force.ged_unbiased,
    "ged_cross": brute_force.ged_cross,
    "diversity": lambda S, Y: brute_force.diversity(S),
    "max_dice": brute_force.max_dice,
    "agreement": brute_force.agreement,
    "agreement_pixels": brute_force.agreement_pixels,
}
OF_SETS = {
    "sensitivity": brute_force.sensitivity,
    "ncc": brute_force.ncc,
    "calibration": brute_force.calibration,
    "brier": brute_force.brier,
    "area": brute_force.area,
}


@pytest.mark.parametrize("classes", SETS_OF_CLASSES.values(), ids=SETS_OF_CLASSES)
@pytest.mark.parametrize("seed", range(6))
def test_all_figures_equal_their_loops(classes, seed):
    rng = np.random.default_rng(seed)
    S, Y = masks_of(rng, 5, classes), masks_of(rng, 3, classes)
    if seed % 2:
        S[0] = Y[0]
    if not classes.several:
        S, Y = S[:, 0], Y[:, 0]
    found = metrics.all_figures(S, Y, classes=classes)
    assert found.keys() == metrics.FIGURES.keys()
    for name, loops in PAIRWISE.items():
        assert float(found[name]) == pytest.approx(loops(S, Y), abs=1e-12), name
    for name, loops in OF_SETS.items():
        loops = brute_force.over_classes(loops) if classes.several else loops
        assert float(found[name]) == pytest.approx(loops(S, Y), abs=1e-6 if name == "ncc" else 1e-12), name
    dice = brute_force.over_classes(brute_force.mean_mask_dice) if classes.several else brute_force.mean_mask_dice
    if classes.several and classes.exclusive:
        dice = brute_force.majority_dice_exclusive
    assert float(found["dice"]) == pytest.approx(dice(S, Y), abs=1e-12)
    parts = [float(found[name]) for name in ("sensitivity", "max_dice", "agreement")]
    assert float(found["ci"]) == pytest.approx(brute_force.ci(*parts), abs=1e-12)
    assert float(found["ci_harmonic"]) == pytest.approx(brute_force.ci_harmonic(*parts), abs=1e-12)
    S, Y = S[:3], Y[:2]  # the loops over all matchings are slow
    assert float(metrics.hungarian_iou(S, Y, classes=classes)) == pytest.approx(brute_force.hungarian_iou(S, Y))


@several
def test_tables_of_pairs_equal_their_loops(classes):
    rng = np.random.default_rng(0)
    S, Y = masks_of(rng, 4, classes), masks_of(rng, 3, classes)
    for ours, loops in ((iou_matrix, brute_force.iou), (dice_matrix, brute_force.dice)):
        np.testing.assert_allclose(ours(S, Y, classes), [[loops(s, y) for y in Y] for s in S], atol=1e-12)
    skipping = replace(Pairs.of(S, Y, classes), skip_absent=True)
    np.testing.assert_allclose(
        skipping.split(skipping.iou)[1], [[brute_force.iou_present(s, y) for y in Y] for s in S], atol=1e-12
    )
    assert float(metrics.squared_ged(S, Y, pairs=skipping).total) == pytest.approx(brute_force.ged_present(S, Y))


@several
def test_a_class_of_the_pairs_is_that_class_alone(classes):
    rng = np.random.default_rng(1)
    S, Y = masks_of(rng, 5, classes), masks_of(rng, 3, classes)
    pairs = Pairs.of(S, Y, classes)
    for k in range(classes.count):
        np.testing.assert_array_equal(pairs.of_class(k).common, Pairs.of(S[:, k], Y[:, k]).common)
        assert metrics.majority_dice(S, Y, classes).shape == (classes.count,)
    np.testing.assert_array_equal(pairs.first(2).common, Pairs.of(S[:2], Y, classes).common)
    assert metrics.squared_ged(S[:2], Y, pairs=pairs.first(2)) == metrics.squared_ged(S[:2], Y, classes=classes)


@several
def test_batches_of_several_classes(classes):
    rng = np.random.default_rng(2)
    S = np.stack([masks_of(rng, 4, classes) for _ in range(6)]).reshape(2, 3, 4, classes.count, 4, 5)
    Y = masks_of(rng, 3, classes)
    together = metrics.all_figures(S, Y, classes=classes)
    for row, column in np.ndindex(2, 3):
        for name, value in metrics.all_figures(S[row, column], Y, classes=classes).items():
            assert together[name].shape == (2, 3)
            assert together[name][row, column] == pytest.approx(float(value), abs=1e-12), name


@several
def test_a_set_against_itself_is_perfect_and_order_does_not_matter(classes):
    rng = np.random.default_rng(3)
    S, Y = masks_of(rng, 5, classes), masks_of(rng, 3, classes)
    figures = metrics.all_figures(S, S, classes=classes)
    for name, best in {"ged": 0, "hm_iou": 1, "max_dice": 1, "ci": 1, "dice": 1, "area": 1, "brier": 0}.items():
        assert float(figures[name]) == pytest.approx(best, abs=1e-12), name
    shuffled = metrics.all_figures(S[::-1], Y[[1, 2, 0]], classes=classes)
    for name, value in metrics.all_figures(S, Y, classes=classes).items():
        assert float(shuffled[name]) == pytest.approx(float(value), abs=1e-12), name


def test_equal_classes_have_the_figures_of_one():
    """Two regions with one mask: every metric is that of the mask alone."""
    rng = np.random.default_rng(4)
    S, Y = rng.random((5, 6, 6)) > 0.5, rng.random((3, 6, 6)) > 0.5
    alone = metrics.all_figures(S, Y)
    twice = metrics.all_figures(np.stack([S, S], 1), np.stack([Y, Y], 1), classes=SETS_OF_CLASSES["two regions"])
    for name, value in alone.items():
        assert float(twice[name]) == pytest.approx(float(value), abs=1e-12), name


def test_absent_classes_by_hand():
    """IoU 1/2 in one class, the other absent on both sides: 3/4 if it counts as agreement, 1/2 without it."""
    classes = SETS_OF_CLASSES["two"]
    S = np.array([[[[1, 0]], [[0, 0]]]], dtype=bool)
    Y = np.array([[[[1, 1]], [[0, 0]]]], dtype=bool)
    pairs = Pairs.of(S, Y, classes)
    assert metrics.squared_ged(S, Y, pairs=pairs).total == pytest.approx(2 * (1 - 0.75))
    assert metrics.squared_ged(S, Y, pairs=replace(pairs, skip_absent=True)).total == pytest.approx(2 * (1 - 0.5))
    assert metrics.hungarian_iou(S, Y, replace(pairs, skip_absent=True)) == pytest.approx(0.5)
    nothing = Pairs.of(np.zeros_like(S), np.zeros_like(Y), classes)
    assert (nothing.iou == 1).all() and (replace(nothing, skip_absent=True).iou == 1).all()
    one_sided = replace(Pairs.of(np.zeros_like(S), Y, classes), skip_absent=True)
    assert one_sided.split(one_sided.iou)[1].tolist() == [[0]]


@several
@pytest.mark.parametrize("skip", [False, True])
def test_distances_are_metrics_of_negative_type(classes, skip):
    """The condition for the energy distance to be a distance: sum of w_i w_j d_ij is at most 0 for all w of sum 0."""
    masks = masks_of(np.random.default_rng(0), 60, classes, (1, 4))
    pairs = replace(Pairs.of(masks, masks[:1], classes), skip_absent=skip)
    d = 1 - pairs.split(pairs.iou)[0]
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-12).all()  # d(i, k) <= d(i, j) + d(j, k)
    centred = np.eye(len(d)) - 1 / len(d)
    assert np.linalg.eigvalsh(centred @ d @ centred).max() < 1e-9


def test_majority_of_exclusive_classes_by_hand():
    def of(*labels):
        return np.array(labels)[:, None, None, :] == np.arange(1, 3)[:, None, None]

    votes = of([0, 1, 2, 2, 0], [1, 2, 2, 1, 0], [2, 2, 0, 1, 1], [0, 1, 1, 2, 1])  # columns are pixels
    # 0: 2 background, 1, 1; 1: two each of 1 and 2; 2: 1 background, 1 of 1, 2 of 2; 3: tie of 1 and 2; 4: tie with 0
    found = metrics.majority_vote(votes, SETS_OF_CLASSES["two"])
    assert (found * np.array([1, 2])[:, None, None]).sum(0).tolist() == [[0, 1, 2, 1, 0]]
    assert brute_force.majority(votes) == [0, 1, 2, 1, 0]
    regions = metrics.majority_vote(votes, SETS_OF_CLASSES["two regions"])  # more than two of four, each by itself
    assert not regions.any()
    assert (
        metrics.majority_vote(votes[:3], SETS_OF_CLASSES["two regions"])[1, 0] == [False, True, True, False, False]
    ).all()


def test_plurality_is_not_the_majority_of_each():
    """Two of five votes win against two single ones and a single one for the background."""
    labels = np.array([1, 1, 2, 3, 0])[:, None, None, None]
    classes = parse_classes(("a", "b", "c"))
    masks = labels == np.arange(1, 4)[:, None, None]
    assert metrics.majority_vote(masks, classes)[:, 0, 0].tolist() == [True, False, False]


def test_ignored_pixels_change_nothing():
    rng = np.random.default_rng(5)
    classes, ignored = SETS_OF_CLASSES["two"], np.random.default_rng(6).random((4, 5)) > 0.6
    S, Y = masks_of(rng, 4, classes), masks_of(rng, 3, classes)
    other = masks_of(rng, 4, classes)
    changed = np.where(ignored, other, S)
    assert (changed != S).any()
    figures = [metrics.all_figures(*(valid_pixels(x, ignored) for x in (s, Y)), classes=classes) for s in (S, changed)]
    assert figures[0] == figures[1]
    cropped = np.zeros((4, 5), dtype=bool)
    cropped[:, 3:] = True
    left = metrics.all_figures(valid_pixels(S, cropped), valid_pixels(Y, cropped), classes=classes)
    for name, value in metrics.all_figures(S[..., :3], Y[..., :3], classes=classes).items():
        assert float(left[name]) == pytest.approx(float(value), abs=1e-12), name
    assert valid_pixels(S, None) is S


def test_names_of_figures():
    for name, parts in {
        "ged_16": ("ged", 16, ""),
        "ged_16_cup": ("ged", 16, "cup"),
        "ged_unbiased_4_optic disc": ("ged_unbiased", 4, "optic disc"),
        "max_dice_50_4": ("max_dice", 50, "4"),
        "hm_iou_2_a_1": ("hm_iou", 2, "a_1"),
        "ged_of_majority": ("ged_of_majority", None, ""),
        "ged_of_majority_16": ("ged_of_majority", None, "16"),
        "rater_diversity_cup": ("rater_diversity", None, "cup"),
        "diversity": ("diversity", None, ""),
    }.items():
        assert FigureName.parse(name) == parts
        assert str(FigureName.parse(name)) == name
    assert metrics.split_count("ged_16_cup") == ("ged", 16) and metrics.split_count("diversity") == ("diversity", None)


def test_masks_of_other_classes_are_refused():
    with pytest.raises(ValueError, match="the classes a, b"):
        as_masks(np.zeros((2, 3, 4, 4), dtype=bool), SETS_OF_CLASSES["two"])
    with pytest.raises(ValueError, match="N, K, H, W"):
        as_masks(np.zeros((3, 4, 4), dtype=bool), SETS_OF_CLASSES["two"])
    assert as_masks(np.zeros((2, 3, 4, 4), dtype=bool), SETS_OF_CLASSES["one"]).shape == (2, 3, 4, 4)  # a batch
