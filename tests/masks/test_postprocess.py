import numpy as np
import pytest
from scipy import ndimage

from guided_diffusion.errors import ConfigError
from guided_diffusion.masks import postprocess
from guided_diffusion.masks.postprocess import PostprocessConfig, binarise
from guided_diffusion.prepare.phantoms import phantom

EMPTY, LEFT, FULL = (np.array(m, dtype=bool) for m in ([[0, 0]], [[1, 0]], [[1, 1]]))


def soft_square():
    """A square of 0.9 with a hole and a speck beside it."""
    soft = np.zeros((1, 11, 11))
    soft[0, 1:6, 1:6] = 0.9
    soft[0, 3, 3], soft[0, 8, 8] = 0.1, 0.8
    return soft


def test_threshold_and_median_blur():
    soft = soft_square()
    plain, blurred = binarise(soft), binarise(soft, PostprocessConfig(median_blur=3))
    assert not plain[0, 3, 3] and plain[0, 8, 8]
    assert blurred[0, 3, 3] and not blurred[0, 8, 8]
    np.testing.assert_array_equal(blurred, binarise(plain, PostprocessConfig(median_blur=3)))  # they commute
    assert binarise(soft, PostprocessConfig(threshold=0.85)).sum() == 24
    with pytest.raises(ConfigError, match="--median_blur 2"):
        PostprocessConfig(median_blur=2)
    with pytest.raises(ConfigError, match="--threshold 1"):
        PostprocessConfig(threshold=1.0)


def test_largest_component_and_holes():
    mask = binarise(soft_square(), PostprocessConfig(largest_component=True))[0]
    assert mask.sum() == 24 and not mask[8, 8] and not mask[3, 3]
    mask = binarise(soft_square(), PostprocessConfig(fill_holes=True))[0]
    assert mask.sum() == 26 and mask[8, 8] and mask[3, 3]
    both = binarise(soft_square(), PostprocessConfig(largest_component=True, fill_holes=True))[0]
    assert both.sum() == 25
    diagonal = np.eye(3)[None]  # corners do not connect: the first of the three
    assert binarise(diagonal, PostprocessConfig(largest_component=True)).sum() == 1
    assert not binarise(np.zeros((2, 3, 3)), PostprocessConfig(largest_component=True, fill_holes=True)).any()


def test_mean_variance_and_entropy():
    stack = np.stack([EMPTY, LEFT, LEFT, FULL])  # means 3/4 and 1/4
    np.testing.assert_allclose(postprocess.mean_mask(stack), [[0.75, 0.25]])
    np.testing.assert_allclose(postprocess.variance_map(stack), [[0.1875, 0.1875]])
    np.testing.assert_allclose(postprocess.entropy_map(stack), [[0.811278, 0.811278]], atol=1e-6)
    for function in (postprocess.variance_map, postprocess.entropy_map):
        assert not function(np.stack([LEFT])).any() and not function(np.stack([LEFT, LEFT])).any()


def test_majority_consensus():
    assert postprocess.CONSENSUS["majority"](np.stack([LEFT, FULL])).tolist() == [[True, False]]  # a tie is background
    np.testing.assert_allclose(postprocess.CONSENSUS["mean"](np.stack([LEFT, FULL])), [[1, 0.5]])


# -- STAPLE -----------------------------------------------------------------------------------------------------------


def raters_of_a_blob(count, seed):
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.normal(size=(48, 40)), 5)
    errors = [ndimage.gaussian_filter(rng.normal(size=truth.shape), 2) for _ in range(count)]
    return np.stack([truth / truth.std() + 0.4 * e / e.std() > 0.7 for e in errors])


ENSEMBLES = {
    **{f"blobs of {count}": raters_of_a_blob(count, seed) for seed, count in enumerate((3, 4, 7, 16))},
    **{
        f"phantom {case}, {count}": phantom.make_phantom(3, case, 64, count).raters
        for case in range(5)
        for count in (3, 8, 16)
    },
    "noise": np.random.default_rng(0).random((10, 10, 10)) > 0.5,
    "symmetric": np.array(
        [[[1, 1, 0, 0]], [[1, 0, 1, 0]], [[1, 0, 0, 1]], [[0, 0, 1, 1]], [[0, 1, 0, 1]], [[0, 1, 1, 0]]], dtype=bool
    ),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_staple_equals_simpleitk(name):
    sitk = pytest.importorskip("SimpleITK")
    masks = ENSEMBLES[name]
    reference = sitk.STAPLEImageFilter()
    reference.SetForegroundValue(1)
    expected = sitk.GetArrayFromImage(reference.Execute([sitk.GetImageFromArray(m.astype(np.uint8)) for m in masks]))
    result = postprocess.staple(masks)
    np.testing.assert_allclose(result.probability, expected, atol=1e-5)
    np.testing.assert_allclose(result.sensitivity, reference.GetSensitivity(), atol=1e-5)
    np.testing.assert_allclose(result.specificity, reference.GetSpecificity(), atol=1e-5)


def test_staple_is_its_em_written_out():
    """Warfield et al. 2004, in plain loops: the fixed point of a three-rater example."""
    masks = np.array([[[1, 1, 1, 0, 0, 0, 0, 0]], [[1, 1, 0, 0, 0, 0, 0, 0]], [[1, 1, 1, 1, 0, 0, 1, 0]]], dtype=bool)
    D = masks.reshape(3, 8)
    prior, W = D.sum() / 24, D.mean(0)
    for _ in range(200):
        p = [sum(w for w, d in zip(W, D[j], strict=True) if d) / sum(W) for j in range(3)]
        q = [sum(1 - w for w, d in zip(W, D[j], strict=True) if not d) / sum(1 - w for w in W) for j in range(3)]
        W = []
        for i in range(8):
            a, b = prior, 1 - prior
            for j in range(3):
                a *= p[j] if D[j, i] else 1 - p[j]
                b *= 1 - q[j] if D[j, i] else q[j]
            W.append(a / (a + b))
    result = postprocess.staple(masks)
    np.testing.assert_allclose(result.probability[0], W, atol=1e-5)
    np.testing.assert_allclose(result.sensitivity, p, atol=1e-5)
    np.testing.assert_allclose(result.specificity, q, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 8, 63, 64, 65])
def test_different_columns_are_found_whatever_their_number_of_masks(count):
    rng = np.random.default_rng(count)
    masks = (rng.random((count, 1, 300)) > 0.5)[:, :, rng.integers(0, 40, 200)]  # columns repeat
    columns, inverse, counts = postprocess._patterns(masks[:, 0])
    expected = np.unique(masks[:, 0], axis=1, return_counts=True)
    np.testing.assert_array_equal(columns, expected[0])
    np.testing.assert_array_equal(counts, expected[1])
    np.testing.assert_array_equal(columns[:, inverse], masks[:, 0])


def test_staple_without_anything_to_estimate():
    for mask in (EMPTY, FULL):
        result = postprocess.staple(np.stack([mask] * 3))
        np.testing.assert_array_equal(result.probability, mask)
    same = postprocess.staple(np.stack([LEFT] * 3))
    np.testing.assert_allclose(same.probability, LEFT, atol=1e-6)
    lone = np.zeros((9, 4, 4), dtype=bool)
    lone[0, 0, 0] = True  # one mark of one of nine
    assert np.isfinite(postprocess.staple(lone).probability).all()
    assert np.isfinite(postprocess.staple(~lone).probability).all()
