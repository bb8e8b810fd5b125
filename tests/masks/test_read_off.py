"""Several classes: from soft samples to masks, to label maps and back."""

import numpy as np
import pytest

from guided_diffusion.data.resize import resize
from guided_diffusion.flags.classes import Classes, parse_classes
from guided_diffusion.masks.label_maps import from_label_map, label_map, strongest
from guided_diffusion.masks.postprocess import PostprocessConfig, binarise, read_off

TWO, THREE = parse_classes(("disc", "cup")), parse_classes(("a", "b", "c"))
REGIONS = parse_classes(("whole=1+2+3", "core=2+3", "edge=3"))
THRESHOLDS = (0.2, 0.5, 0.7)


def soft(classes, count=4, size=(9, 7), seed=0):
    return np.random.default_rng(seed).uniform(-0.1, 1.1, (count, classes.count, *size)).astype(np.float32)


# -- the class of a pixel ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_exclusive_classes_are_read_off_as_in_a_loop(threshold):
    samples = soft(THREE)
    masks = binarise(samples, PostprocessConfig(threshold=threshold), classes=THREE)
    for m, i, j in np.ndindex(4, 9, 7):
        x = samples[m, :, i, j].clip(0, 1).tolist()
        values = [2 * threshold - sum(x), *x]
        winner = values.index(max(values))
        assert masks[m, :, i, j].tolist() == [winner == k for k in (1, 2, 3)]


def test_small_values_of_many_classes_do_not_make_a_background():
    planes = np.full((19, 1, 1), -0.06, dtype=np.float32)
    planes[3] = 0.9
    assert read_off(planes)[3].all()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_one_class_is_its_threshold(threshold):
    samples = soft(Classes())
    np.testing.assert_array_equal(read_off(samples, threshold), samples > np.float32(threshold))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_regions_have_a_threshold_each(threshold):
    samples = soft(REGIONS)
    config = PostprocessConfig(threshold=threshold, median_blur=3, largest_component=True, fill_holes=True)
    together = binarise(samples, config, lambda plane: resize(plane, (20, 20)), REGIONS)
    for k in range(3):
        alone = binarise(samples[:, k], config, lambda plane: resize(plane, (20, 20)))
        np.testing.assert_array_equal(together[:, k], alone)


def test_ties_go_to_the_background_and_then_to_the_first_class():
    planes = np.array([0.25, 0.5, 0.5, 0.4, 0.0], np.float32), np.array([0.5, 0.5, 0.0, 0.4, 0.5], np.float32)
    masks = read_off(np.stack(planes)[:, None])  # backgrounds 0.25, 0, 0.5, 0.2, 0.5
    assert masks[:, 0].tolist() == [[False, True, False, True, False], [True, False, False, False, False]]
    votes = np.array([3, 2, 1])[:, None, None]
    assert strongest(votes, np.array([[3]])).sum() == 0 and strongest(votes, np.array([[2]]))[:, 0, 0].tolist() == [
        1,
        0,
        0,
    ]


@pytest.mark.parametrize("classes", [Classes(), TWO, THREE, REGIONS], ids=["one", "two", "three", "regions"])
@pytest.mark.parametrize("finish", [{}, {"median_blur": 3, "largest_component": True, "fill_holes": True}])
def test_batches_are_binarised_one_by_one_or_together(classes, finish):
    samples, config = soft(classes, 6), PostprocessConfig(**finish)
    samples = samples if classes.several else samples[:, 0]
    together = binarise(samples.reshape(2, 3, *samples.shape[1:]), config, classes=classes)
    apart = [binarise(sample[None], config, classes=classes)[0] for sample in samples]
    np.testing.assert_array_equal(together.reshape(-1, *together.shape[2:]), apart)
    if classes.exclusive and classes.several:
        assert together.sum(-3).max() == 1


# -- borders ----------------------------------------------------------------------------------------------------------


def borders(side):
    """{name: labels [side, side] of 1 to 3, without background}."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle = np.arctan2(y, x)
    return {
        "straight": np.where(x < 0.3, 1, 2),
        "diagonal": np.where(x + 0.6 * y < 1, 1, 2),
        "curved": np.where(np.hypot(x + 2, y) < 0.3 * side, 2, 1),
        "wave": np.where(y < 3 * np.sin(x), 1, 3),
        "three in a point": 1 + np.digitize(angle, (-np.pi / 3, np.pi / 3)),
        "stripes": 1 + np.arange(side)[:, None] % 3 * np.ones(side, dtype=int),
        "confetti": np.random.default_rng(0).integers(1, 4, (side, side)),
    }


@pytest.mark.parametrize("name", borders(20))
@pytest.mark.parametrize(
    "sizes", [((37, 53),), ((13, 11),), ((37, 53), (20, 20)), ((41, 20), (9, 30), (20, 20))], ids=str
)
def test_no_background_appears_between_touching_classes(name, sizes):
    labels = borders(20)[name]
    masks = (labels == np.arange(1, 4)[:, None, None])[None]

    def there_and_back(plane):
        for size in sizes:
            plane = resize(np.asarray(plane, np.float32), size)
        return plane

    found = binarise(masks, bring_back=there_and_back, classes=THREE)
    assert found.shape == (1, 3, *sizes[-1])
    assert (found.sum(1) == 1).all()
    if name == "confetti" or (name == "three in a point" and sizes == ((37, 53),)):
        by_itself = np.stack([there_and_back(plane) > 0.5 for plane in masks[0]])
        assert not by_itself.any(0).all()  # a threshold for each class would leave holes


def test_background_stays_where_it_was():
    labels = np.zeros((20, 20), dtype=int)
    labels[4:16, 4:10], labels[4:16, 10:16] = 1, 2
    masks = labels == np.arange(1, 3)[:, None, None]
    found = binarise(
        masks[None], bring_back=lambda plane: resize(np.asarray(plane, np.float32), (60, 60)), classes=TWO
    )[0]
    truth = np.kron(masks, np.ones((3, 3), dtype=bool))
    assert (found != truth).any(0).mean() < 0.01  # corners are rounded
    assert found[:, 12:48, 12:48].any(0)[3:-3, 3:-3].all() and not found[:, :10].any()


# -- filters ----------------------------------------------------------------------------------------------------------


def test_largest_component_of_each_class():
    labels = np.array([[1, 1, 0, 2, 0, 2], [1, 0, 0, 0, 0, 2], [0, 0, 1, 2, 2, 2]])
    masks = (labels == np.arange(1, 3)[:, None, None])[None]
    found = binarise(masks, PostprocessConfig(largest_component=True), classes=TWO)[0]
    expected = np.array([[1, 1, 0, 0, 0, 2], [1, 0, 0, 0, 0, 2], [0, 0, 0, 2, 2, 2]])
    np.testing.assert_array_equal(label_map(found, TWO.values), expected)


def test_holes_are_filled_only_where_they_are_background():
    labels = np.zeros((12, 14), dtype=int)
    labels[1:11, 1:11] = 1
    labels[2:4, 2:4] = 0  # a hole of the disc
    labels[5:10, 5:10] = 2
    labels[7, 7] = 0  # a hole of the cup
    labels[5, 12] = 1
    masks = (labels == np.arange(1, 3)[:, None, None])[None]
    found = label_map(binarise(masks, PostprocessConfig(fill_holes=True), classes=TWO)[0], TWO.values)
    expected = labels.copy()
    expected[2:4, 2:4], expected[7, 7] = 1, 2
    np.testing.assert_array_equal(found, expected)


def test_the_median_filter_is_for_each_class_by_itself():
    samples = soft(THREE)
    config = PostprocessConfig(median_blur=3)
    filtered = np.stack([[np.median(np.lib.stride_tricks.sliding_window_view(np.pad(p, 1, mode="edge"), (3, 3)), (2, 3))
                          for p in sample] for sample in samples])  # fmt: skip
    np.testing.assert_array_equal(binarise(samples, config, classes=THREE), binarise(filtered, classes=THREE))


# -- label maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes",
    [TWO, THREE, parse_classes(("disc=100", "cup=255")), parse_classes(("disc=file", "cup=file"))],
    ids=lambda classes: str(classes.levels),
)
def test_label_maps_of_separate_classes_are_read_back(classes):
    labels = np.random.default_rng(0).integers(0, classes.count + 1, (3, 8, 9))
    masks = np.moveaxis(labels == np.arange(1, classes.count + 1)[:, None, None, None], 0, 1)
    painted = label_map(masks, classes.values)
    np.testing.assert_array_equal(painted, labels)
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(from_label_map(painted, classes), masks)


def test_label_maps_of_regions():
    labels = np.random.default_rng(0).integers(0, 4, (8, 9))
    masks = np.stack([labels >= 1, labels >= 2, labels >= 3])
    painted = label_map(masks, REGIONS.values)
    np.testing.assert_array_equal(painted, labels)
    np.testing.assert_array_equal(from_label_map(painted, REGIONS), masks)
    disc = parse_classes(("disc=1+2", "cup=2"))
    assert label_map(np.ones((2, 1, 1), dtype=bool), disc.values).tolist() == [[2]]  # the later class is on top


def test_large_values_and_wrong_numbers_of_values():
    masks = np.ones((2, 1, 1), dtype=bool)
    assert label_map(masks, (7, 300)).dtype == np.uint16 and label_map(masks, (7, 300)).item() == 300
    with pytest.raises(ValueError):
        label_map(masks, (1, 2, 3))
