"""Consensus and maps of several classes."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.stats import entropy

from guided_diffusion.flags.classes import Classes, parse_classes
from guided_diffusion.masks import postprocess
from guided_diffusion.masks.consensus import consensus, staple_of_classes
from guided_diffusion.masks.label_maps import label_map

TWO, THREE = parse_classes(("disc", "cup")), parse_classes(("a", "b", "c"))
REGIONS = parse_classes(("disc=1+2", "cup=2"))


def raters_of_rings(count, classes, seed=0, side=32):
    """Labels [count, side, side] of nested shapes, each rater's with a noisy edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side / 2
    labels = []
    for _ in range(count):
        edge = ndimage.gaussian_filter(rng.normal(size=(side, side)), 3) * 8
        radius = np.hypot(y, x) / side * 2.2 + edge / edge.std() * 0.08
        labels.append(np.clip(classes - np.floor(radius * classes), 0, classes).astype(int))
    return np.stack(labels)


def one_hot(labels, count):
    return labels[:, None] == np.arange(1, count + 1)[:, None, None]


def test_mean_and_majority():
    labels = np.array([[[0, 1, 1]], [[1, 1, 2]], [[2, 2, 2]], [[2, 0, 1]]])
    masks = one_hot(labels, 2)
    np.testing.assert_allclose(consensus("mean", masks, TWO), [[[0.25, 0.5, 0.5]], [[0.5, 0.25, 0.5]]])
    majority = consensus("majority", masks, TWO)
    assert label_map(majority, TWO.values).tolist() == [[2, 1, 1]]
    np.testing.assert_array_equal(consensus("majority", masks, REGIONS), np.zeros((2, 1, 3), dtype=bool))  # ties
    for name in ("mean", "majority", "staple"):
        np.testing.assert_array_equal(consensus(name, masks[:, 0]), postprocess.CONSENSUS[name](masks[:, 0]))
        regions = consensus(name, masks, REGIONS)
        for k in range(2):
            np.testing.assert_array_equal(regions[k], postprocess.CONSENSUS[name](masks[:, k]))


# -- STAPLE -----------------------------------------------------------------------------------------------------------


def em_in_loops(labels, L, steps=300):
    """Warfield et al. 2004, multi-category, in plain loops: (W [pixel][class], theta [mask][given][true])."""
    D = labels.reshape(len(labels), -1).tolist()
    M, N = len(D), len(D[0])
    prior = [sum(row.count(s) for row in D) / (M * N) for s in range(L)]
    W = [[sum(D[j][i] == s for j in range(M)) / M for s in range(L)] for i in range(N)]
    for _ in range(steps):
        theta = [
            [
                [sum(W[i][t] for i in range(N) if D[j][i] == s) / sum(W[i][t] for i in range(N)) for t in range(L)]
                for s in range(L)
            ]
            for j in range(M)
        ]
        for i in range(N):
            likelihood = [prior[t] * np.prod([theta[j][D[j][i]][t] for j in range(M)]) for t in range(L)]
            W[i] = [x / sum(likelihood) for x in likelihood]
    return np.array(W), np.array(theta)


@pytest.mark.parametrize("seed", range(3))
def test_staple_is_its_em_written_out(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, 24)
    labels = np.where(rng.random((4, 24)) < 0.75, truth, rng.integers(0, 3, (4, 24))).reshape(4, 4, 6)
    W, theta = em_in_loops(labels, 3)
    found = staple_of_classes(one_hot(labels, 2))
    np.testing.assert_allclose(found.probability.reshape(3, -1).T, W, atol=1e-5)
    np.testing.assert_allclose(found.confusion, theta, atol=1e-5)
    np.testing.assert_allclose(found.probability.sum(0), 1)
    np.testing.assert_allclose(found.confusion.sum(1), 1, atol=1e-9)


@pytest.mark.parametrize("count", [3, 7, 16])
def test_staple_of_one_class_is_the_binary_one(count):
    masks = raters_of_rings(count, 1, seed=count) > 0
    binary, found = postprocess.staple(masks), staple_of_classes(masks[:, None])
    np.testing.assert_allclose(found.probability[1], binary.probability, atol=1e-6)
    np.testing.assert_allclose(found.confusion[:, 1, 1], binary.sensitivity, atol=1e-6)
    np.testing.assert_allclose(found.confusion[:, 0, 0], binary.specificity, atol=1e-6)


def test_staple_finds_the_one_rater_who_confuses_two_classes():
    rng = np.random.default_rng(0)
    truth = raters_of_rings(1, 3, side=40)[0]
    labels = np.where(rng.random((5, 40, 40)) < 0.9, truth, rng.integers(0, 4, (5, 40, 40)))
    swapped = labels[4].copy()
    labels[4][swapped == 1], labels[4][swapped == 2] = 2, 1
    found = staple_of_classes(one_hot(labels, 3))
    np.testing.assert_array_equal(
        label_map(consensus("staple", one_hot(labels, 3), THREE), THREE.values), found.probability.argmax(0)
    )
    assert (found.probability.argmax(0) == truth).mean() > 0.99
    expected = np.full((4, 4), 0.025) + 0.9 * np.eye(4)
    np.testing.assert_allclose(found.confusion[0], expected, atol=0.06)
    np.testing.assert_allclose(found.confusion[4], expected[[0, 2, 1, 3]], atol=0.06)


def test_staple_equals_simpleitk():
    sitk = pytest.importorskip("SimpleITK")
    labels = raters_of_rings(5, 3, seed=4)
    reference = sitk.MultiLabelSTAPLEImageFilter()
    priors = np.bincount(labels.ravel(), minlength=4) / labels.size
    reference.SetPriorProbabilities(priors.tolist())
    expected = reference.Execute([sitk.GetImageFromArray(each.astype(np.uint8)) for each in labels])
    found = staple_of_classes(one_hot(labels, 3)).probability.argmax(0)
    assert (found == sitk.GetArrayFromImage(expected)).mean() > 0.995


def test_staple_without_anything_to_estimate():
    labels = np.ones((3, 2, 2), dtype=int)
    found = staple_of_classes(one_hot(labels, 2))
    np.testing.assert_allclose(found.probability, one_hot(labels, 2)[0][[0, 0, 1]] * [[[0]], [[1]], [[0]]])
    empty = staple_of_classes(np.zeros((3, 2, 2, 2), dtype=bool))
    np.testing.assert_array_equal(empty.probability[0], 1)
    alone = raters_of_rings(1, 2)
    np.testing.assert_array_equal(staple_of_classes(one_hot(alone, 2)).probability.argmax(0), alone[0])
    for name in ("majority", "staple"):
        np.testing.assert_array_equal(consensus(name, one_hot(alone, 2), TWO), one_hot(alone, 2)[0])


# -- maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [TWO, THREE])
def test_entropy_of_the_distribution_of_the_class(classes):
    labels = np.random.default_rng(0).integers(0, classes.count + 1, (7, 5, 6))
    found = postprocess.entropy_map(one_hot(labels, classes.count), classes)
    for i, j in np.ndindex(5, 6):
        counts = np.bincount(labels[:, i, j], minlength=classes.count + 1)
        assert found[i, j] == pytest.approx(entropy(counts / 7, base=2), abs=1e-6)
    every = np.arange(classes.count + 1)[:, None, None]
    assert postprocess.entropy_map(one_hot(every, classes.count), classes).item() == pytest.approx(
        np.log2(classes.count + 1)
    )
    assert not postprocess.entropy_map(one_hot(labels[:1], classes.count), classes).any()


def test_entropy_of_regions_is_the_sum_and_the_variance_is_of_each():
    masks = np.random.default_rng(1).random((6, 2, 4, 5)) > 0.5
    of_each = [postprocess.entropy_map(masks[:, k]) for k in range(2)]
    np.testing.assert_allclose(postprocess.entropy_map(masks, REGIONS), sum(of_each), atol=1e-6)
    variance = postprocess.variance_map(masks)
    for k in range(2):
        np.testing.assert_array_equal(variance[k], postprocess.variance_map(masks[:, k]))
    np.testing.assert_array_equal(postprocess.entropy_map(masks[:, 0], Classes()), of_each[0])
