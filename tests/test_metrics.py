import numpy as np
import pytest

from guided_diffusion import metrics, postprocess

EMPTY, LEFT, RIGHT, FULL = (np.array(m, dtype=bool) for m in ([[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]))


def masks(count, seed, shape=(5, 5)):
    rng = np.random.default_rng(seed)
    return rng.random((count, *shape)) < rng.choice([0.0, 0.3, 0.7, 1.0], size=(count, 1, 1))


def iou(a, b):
    union = sum(bool(x or y) for x, y in zip(a.flat, b.flat))
    return sum(bool(x and y) for x, y in zip(a.flat, b.flat)) / union if union else 1.0


@pytest.mark.parametrize("seed", range(30))
def test_energy_distance_is_its_double_loop(seed):
    S, Y = masks(seed % 5 + 2, seed), masks(seed % 4 + 2, seed + 1000)
    for unbiased in (False, True):
        def mean(A, B, same):
            pairs = [(a, b) for i, a in enumerate(A) for j, b in enumerate(B) if not (same and unbiased and i == j)]
            return sum(1 - iou(a, b) for a, b in pairs) / len(pairs)

        ged = metrics.squared_ged(S, Y, unbiased)
        parts = mean(S, Y, False), mean(S, S, True), mean(Y, Y, True)
        np.testing.assert_allclose((ged.cross, ged.within_samples, ged.within_raters), parts, atol=1e-12)
        assert ged.total == pytest.approx(2 * parts[0] - parts[1] - parts[2], abs=1e-12)


def test_hand_computed_values():
    assert metrics.squared_ged([EMPTY], [EMPTY]).total == 0
    assert metrics.squared_ged([EMPTY], [FULL]).total == 2
    # E d(S,Y) = (0 + 1) / 2, E d(S,S') = 0, E d(Y,Y') = (0 + 1 + 1 + 0) / 4
    assert metrics.squared_ged([EMPTY], [EMPTY, LEFT]).total == pytest.approx(0.5)
    # d(LEFT, FULL) = 1/2, d(LEFT, RIGHT) = 1: 2 * (1/2 + 1/2) / 2 - 1/2
    assert metrics.squared_ged([FULL], [LEFT, RIGHT]).total == pytest.approx(0.5)
    np.testing.assert_allclose(metrics.dice_matrix([LEFT, EMPTY, FULL], [FULL, EMPTY]), [[2 / 3, 0], [0, 1], [1, 0]])


def test_invariances_and_batches():
    S, Y = masks(4, 0), masks(3, 1)
    whole = metrics.squared_ged(S, Y).total
    assert metrics.squared_ged(S[::-1], Y[[2, 0, 1]]).total == pytest.approx(whole, abs=1e-12)
    assert metrics.squared_ged(S, S).total == pytest.approx(0, abs=1e-12)
    batch = metrics.squared_ged(np.stack([S, S[::-1]]), np.stack([Y, Y])).total
    np.testing.assert_allclose(batch, [whole, whole])


def test_biased_less_unbiased_is_the_diversity_over_the_count():
    S, Y = masks(4, 2), masks(3, 3)
    biased, unbiased = metrics.squared_ged(S, Y), metrics.squared_ged(S, Y, unbiased=True)
    expected = unbiased.within_samples / 4 + unbiased.within_raters / 3
    assert biased.total - unbiased.total == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="two masks"):
        metrics.squared_ged(S[:1], Y, unbiased=True)


def test_majority_and_mean_mask_dice():
    assert metrics.majority_vote([LEFT, LEFT, RIGHT]).tolist() == [[True, False]]
    assert metrics.majority_vote([LEFT, RIGHT]).tolist() == [[False, False]]  # a tie is background
    assert metrics.mean_mask_dice([FULL], [LEFT, LEFT, RIGHT]) == pytest.approx(2 / 3)
    assert metrics.mean_mask_dice([EMPTY], [LEFT, RIGHT]) == 1


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="cannot be compared"):
        metrics.iou_matrix(np.zeros((1, 2, 2)), np.zeros((1, 1, 2)))


def test_binarise_and_median_blur():
    soft = np.zeros((1, 7, 7))
    soft[0, 1:6, 1:6] = 0.9
    soft = np.pad(soft, ((0, 0), (0, 4), (0, 4)))
    soft[0, 3, 3], soft[0, 8, 8] = 0.1, 0.8  # a hole and a speck
    plain, blurred = postprocess.binarise(soft), postprocess.binarise(soft, median_blur=3)
    assert not plain[0, 3, 3] and plain[0, 8, 8]
    assert blurred[0, 3, 3] and not blurred[0, 8, 8]
    np.testing.assert_array_equal(blurred, postprocess.binarise(plain.astype(float), median_blur=3))  # they commute
    assert postprocess.binarise(soft, threshold=0.85).sum() == 24
    with pytest.raises(ValueError, match="odd"):
        postprocess.binarise(soft, median_blur=2)


def test_mean_and_variance():
    stack = np.stack([EMPTY, LEFT, LEFT, FULL])
    np.testing.assert_allclose(postprocess.mean_mask(stack), [[0.75, 0.25]])
    np.testing.assert_allclose(postprocess.variance_map(stack), [[0.1875, 0.1875]])
